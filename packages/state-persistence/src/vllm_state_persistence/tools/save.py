"""save-state."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.serving.context import notify_resource_updated
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer, ToolContext
from vllm_state_persistence.core.engine_capture import EngineCapture
from vllm_state_persistence.results import SaveResult
from vllm_state_persistence.saving import Extras, model_names, save_content, save_session
from vllm_state_persistence.sources.base import CURRENT
from vllm_state_persistence.sources.inline import inline_content
from vllm_state_persistence.store.results import Saved, StateInfo
from vllm_state_persistence.workplace import Workplace, now

SESSIONS_URI = "state://sessions"


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("save-state", title="Save a session", annotations=WRITE)
    async def save_state(
        ctx: ToolContext,
        session_id: Annotated[
            str,
            Field(min_length=1, max_length=400, description="Session of a client; current: the newest of this project"),
        ] = CURRENT,
        source: Annotated[
            Literal["auto", "crush", "claude-code", "opencode", "inline"],
            Field(description="Whose session; inline: the messages given here, saved under session_id"),
        ] = "auto",
        messages: Annotated[
            list[dict[str, Any]] | None,
            Field(max_length=100_000, description="With source=inline: objects with role and content"),
        ] = None,
        include_models: Annotated[bool, Field(description="Also the engines' set-up and request defaults")] = True,
        include_conversations: Annotated[bool, Field(description="Also the messages; false: the engines alone")] = True,
        include_metrics: Annotated[bool, Field(description="Also what was measured in the last 15 minutes")] = False,
        compression: Annotated[bool, Field(description="Of new content (ENABLE_COMPRESSION is the default)")] = True,
        description: Annotated[str, Field(max_length=500, description="For people")] = "",
        tags: Annotated[
            list[Annotated[str, Field(min_length=1, max_length=50)]] | None,
            Field(max_length=20, description="A tagged snapshot is not thinned out with age"),
        ] = None,
    ) -> SaveResult:
        """Save a conversation and the engines' set-up as a snapshot. Saving again costs only what is new; when nothing
        is, the last snapshot stands.
        """
        capture, warnings = await work.capture() if include_models else (None, [])
        metrics, troubles = await work.capture_metrics() if include_metrics else (None, [])
        extras = Extras(capture, metrics, description, tuple(tags or ()), compress=compression)
        saved = await _saved(work, session_id, source, messages, extras, include_conversations)
        await notify_resource_updated(ctx, SESSIONS_URI)
        await work.ask_for_snapshots()
        return await _result(work, saved, capture, [*warnings, *troubles])


async def _saved(
    work: Workplace,
    session_id: str,
    source: str,
    messages: list[dict[str, Any]] | None,
    extras: Extras,
    conversations: bool,
) -> Saved:
    if source == "inline" or messages is not None or not conversations:
        return await _inline(work, session_id, source, messages, extras, conversations)
    found, ref = await work.find(session_id, source)
    return await save_session(work, found, ref, extras)


async def _inline(
    work: Workplace,
    session_id: str,
    source: str,
    messages: list[dict[str, Any]] | None,
    extras: Extras,
    conversations: bool,
) -> Saved:
    if conversations and (messages is None or source not in ("auto", "inline")):
        raise BadInput(
            "source=inline takes the messages that are given as messages."
            if messages is None
            else f"messages were given, so source cannot be {source}.",
            parameter="messages" if messages is None else "source",
            suggestion='give messages=[{"role": "user", "content": "…"}] with source=inline',
        )
    name = "default" if session_id == CURRENT else session_id
    title = "" if conversations else "engines"
    content = inline_content(messages or [] if conversations else [], name, str(work.project), now(), title)
    return await save_content(work, content, extras)


async def _result(work: Workplace, saved: Saved, capture: EngineCapture | None, warnings: list[str]) -> SaveResult:
    store = await work.store()
    info: StateInfo = await store.info(saved.state_id)
    return SaveResult(
        state_id=saved.state_id,
        parent_state_id=saved.parent_state_id,
        session_id=info.session_id,
        source=info.source,
        size_bytes=saved.size_bytes,
        new_bytes=saved.new_bytes,
        logical_bytes=saved.logical_bytes,
        messages=saved.messages,
        models=model_names(capture)[:50],
        timestamp=iso_time(info.at),
        unchanged=saved.unchanged,
        encrypted=store.encrypts,
        warnings=[*store.key_notes, *warnings],
    )


def iso_time(unix_s: float) -> str:
    """A wall-clock time for people, to the second."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
