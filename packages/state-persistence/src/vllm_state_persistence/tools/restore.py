"""load-state: a conversation back into its client, and the engines back as they were."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from pydantic import Field

from vllm_mcp_protocol.errors import BadInput, SuiteError
from vllm_mcp_protocol.serving.context import Progress, client_is_gone
from vllm_mcp_protocol.serving.server import DESTROY, SuiteServer, ToolContext
from vllm_state_persistence import parameters as p
from vllm_state_persistence.core.engine_plan import Step
from vllm_state_persistence.core.session import SessionContent
from vllm_state_persistence.core.values import decode
from vllm_state_persistence.engines import make_plan
from vllm_state_persistence.restoring import Outcome, restore
from vllm_state_persistence.results import LoadResult, Restored, RestoredModel
from vllm_state_persistence.sources.base import Target, Written
from vllm_state_persistence.store.loading import LoadedState
from vllm_state_persistence.tools.look import capture_of, newest
from vllm_state_persistence.warming import warm
from vllm_state_persistence.workplace import Workplace

_INLINE_BYTES = 12_000
_WARM_LIMIT_S = 120.0
_GOOD = ("done", "unchanged", "kept")
Where = Literal["same", "new", "inline"]
HOW_TO_CONTINUE = {
    "crush": "crush run -s {id}, or choose it in crush's list of sessions",
    "claude-code": "claude --resume {id}",
    "opencode": "opencode --session {id}",
}


@dataclass(frozen=True)
class Wish:
    """What a caller wants back."""

    models: bool
    conversations: bool
    where: Where
    warm: bool
    dry_run: bool
    force: bool
    wait_s: float


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("load-state", title="Restore a session", annotations=DESTROY)
    async def load_state(
        ctx: ToolContext,
        session_id: p.SavedSession,
        state_id: p.NewestState = None,
        restore_models: Annotated[bool, Field(description="Start the engines as they were saved")] = True,
        restore_conversations: Annotated[bool, Field(description="Bring the messages back")] = True,
        target: Annotated[
            Where,
            Field(description="new: a new session of the client; same: into the saved one; inline: into this answer"),
        ] = "new",
        warm_prefix_cache: Annotated[
            bool, Field(description="Have the restored engine read the conversation once, so the next turn starts warm")
        ] = True,
        dry_run: p.DryRun = False,
        force: Annotated[
            bool, Field(description="Replace what is there: the same session, engines with other options")
        ] = False,
        wait_seconds: Annotated[
            float, Field(ge=0, le=3600, description="Wait so long for engines at the most; their starts go on")
        ] = 45,
    ) -> LoadResult:
        """Bring a snapshot back: the conversation as a new session of its client, the engines with the same flags.
        Call it with dry_run=true first: it tells what would be written and started, and what no longer fits or exists.
        """
        wish = Wish(restore_models, restore_conversations, target, warm_prefix_cache, dry_run, force, wait_seconds)
        chosen = state_id or (await newest(work, session_id)).state_id
        loaded = await (await work.store()).load(chosen)
        if loaded.info.session_id != session_id:
            raise BadInput(
                f"{chosen} is a snapshot of session {loaded.info.session_id}, not of {session_id[:200]}.",
                parameter="state_id",
                value=chosen,
                suggestion=f"give session_id={loaded.info.session_id}, or leave state_id out",
            )
        return await _load(work, ctx, loaded, wish)


async def _load(work: Workplace, ctx: ToolContext, loaded: LoadedState, wish: Wish) -> LoadResult:
    content = await loaded.content() if wish.conversations else None
    steps, missing = await _steps(work, loaded, wish)  # first: where this fails, nothing is written
    written = await _write(work, loaded, content, wish) if content is not None else None
    outcomes = await _engines(work, ctx, steps, wish)
    warmed = await _warm(work, content, outcomes, wish)
    models = [_restored(one) for one in outcomes]
    partly = any(not one.done for one in models)
    return LoadResult(
        state_id=loaded.info.state_id,
        session_id=loaded.info.session_id,
        status="planned" if wish.dry_run else "partly_restored" if partly else "restored",
        restored=Restored(
            models=models,
            conversations=int(content is not None),
            messages=loaded.info.messages if content is not None else 0,
            configurations=sum(one.action == "set-config" and one.done for one in models),
        ),
        where=_where(loaded, written, wish),
        new_session_id=written.session_id if written is not None else None,
        how_to_continue=_how(written),
        messages=_inline(content.records) if content is not None and wish.where == "inline" else None,
        warm=warmed,
        warnings=[*missing, *(written.notes if written is not None else ())],
    )


async def _write(work: Workplace, loaded: LoadedState, content: SessionContent, wish: Wish) -> Written | None:
    """Into the client's own files; nothing for a dry run, for messages that were given, and for an answer."""
    source = work.source_named(content.ref.source)
    if wish.dry_run or wish.where == "inline" or source is None:
        return None
    project = work.project if not Path(content.ref.project or "/nowhere").is_dir() else None
    target = Target(project=project, same=wish.where == "same", force=wish.force)
    return await to_thread.run_sync(source.write, content, target)


async def _steps(work: Workplace, loaded: LoadedState, wish: Wish) -> tuple[Sequence[Step], list[str]]:
    """What has to be done for the engines, and what the snapshot lacks. Raises what keeps the hub from answering."""
    captured = await capture_of(loaded) if wish.models else None
    if captured is None:
        return (), ["the snapshot holds no engines"] if wish.models else []
    try:
        return await make_plan(work.hub, work.site, captured, force=wish.force), []
    except SuiteError as error:
        if wish.conversations:
            suggestion = f"{error.info.suggestion}; restore_models=false brings the conversation alone"
            raise error.with_details(suggestion=suggestion.lstrip("; ")) from error
        raise


async def _engines(work: Workplace, ctx: ToolContext, steps: Sequence[Step], wish: Wish) -> Sequence[Outcome]:
    if wish.dry_run or not steps:
        return [Outcome(step, "pending", step.reason) for step in steps]
    progress = Progress(ctx)

    async def report(done: int, total: int, words: str) -> None:
        await progress(done, max(total, 1), words)

    return await restore(
        work.hub,
        steps,
        site=work.site,
        wait_s=wish.wait_s,
        report=report,
        keep_on_cancel=lambda: client_is_gone(ctx),
    )


def _restored(one: Outcome) -> RestoredModel:
    step: Step = one.step
    more = [*step.differences[:5], *step.lacking, *step.notes]
    words = " ".join([one.reason, *more, *([f"Next: {step.suggestion}"] if step.suggestion else [])])
    return RestoredModel(model_id=step.subject, action=step.action, outcome=words[:500], done=one.status in _GOOD)


async def _warm(work: Workplace, content: SessionContent | None, outcomes: Sequence[Outcome], wish: Wish) -> str | None:
    ready = [one for one in outcomes if one.status in ("done", "unchanged") and one.step.engine is not None]
    if not wish.warm or wish.dry_run or content is None or not ready:
        return None
    messages = chat_messages(content)
    if not messages:
        return "skipped: the session has no messages that a model could read"
    warmed = await warm(work.hub, ready[0].step.subject, messages, timeout_s=_WARM_LIMIT_S)
    return f"{warmed.status}: {warmed.reason}"


def chat_messages(content: SessionContent) -> list[dict[str, Any]]:
    """The conversation in chat form, as far as it is plain text with a role."""
    found: list[dict[str, Any]] = []
    for record in content.records:
        text = _text_of(record.content) if record.role in ("user", "assistant", "system") else ""
        if text:
            found.append({"role": record.role, "content": text})
    return found


def _text_of(content: bytes) -> str:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        try:
            value = decode(content)
        except ValueError:
            return ""
    return _plain(value)


def _plain(value: Any) -> str:
    """The text of a message: `content`, of a transcript's line `message.content`, of a row its `parts`."""
    match value:
        case str():
            return value
        case {"message": dict(inner)}:
            return _plain(inner)
        case {"parts": str(parts)}:
            return _text_of(parts.encode(errors="replace"))
        case {"content": content}:
            return _plain(content)
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "text", "data": {"text": str(text)}}:
            return text
        case list():
            return "\n".join(text for text in map(_plain, value) if text)
    return ""


def _inline(records: Sequence[Any]) -> list[dict[str, Any]]:
    """The last messages, as many as an answer holds."""
    kept: list[dict[str, Any]] = []
    left = _INLINE_BYTES
    for record in reversed(records):
        text = _text_of(record.content)
        left -= len(text.encode(errors="replace")) + 40
        if left < 0:
            break
        if text:
            kept.append({"role": record.role or record.kind, "content": text.encode(errors="replace").decode()})
    return kept[::-1]


def _where(loaded: LoadedState, written: Written | None, wish: Wish) -> str | None:
    if written is not None:
        return written.location
    if not wish.conversations or wish.where == "inline":
        return None
    ref = loaded.ref
    if ref.source == "inline":
        return "messages that were given have no client; target=inline gives them back"
    return f"a {'new ' if wish.where == 'new' else ''}session of {ref.source} in {ref.project or 'this project'}"


def _how(written: Written | None) -> str | None:
    if written is None or written.source not in HOW_TO_CONTINUE:
        return None
    return HOW_TO_CONTINUE[written.source].format(id=written.session_id)
