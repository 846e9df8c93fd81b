"""list-states, get-state and diff-states: what there is. Nothing here changes anything."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, ValidationError

from vllm_mcp_protocol.errors import SessionNotFound, StoreDamaged
from vllm_mcp_protocol.monitoring import MonitoringWindow, SubjectWindow
from vllm_mcp_protocol.serving.paging import PAGE_LIMIT_BYTES
from vllm_mcp_protocol.serving.server import READ, SuiteServer
from vllm_state_persistence import parameters as p
from vllm_state_persistence.core.difference import difference, in_words, quoted
from vllm_state_persistence.core.engine_capture import EngineCapture, read_capture
from vllm_state_persistence.core.manifest import Entry, Ref
from vllm_state_persistence.core.session import Record
from vllm_state_persistence.results import DiffResult, MessageRow, MetricsRow, StateDetails, StateList, StateRow
from vllm_state_persistence.saving import model_names
from vllm_state_persistence.sources.showing import preview
from vllm_state_persistence.store.loading import LoadedState
from vllm_state_persistence.store.results import StateInfo
from vllm_state_persistence.tools.save import iso_time
from vllm_state_persistence.workplace import Workplace

_SHOWN_NAMES = 20
HOUR_S = 3600.0


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tools."""

    @server.tool("list-states", title="List snapshots", annotations=READ)
    async def list_states(
        session_id: Annotated[str | None, Field(min_length=1, max_length=400, description="Only of this one")] = None,
        tag: Annotated[str | None, Field(min_length=1, max_length=50, description="Only with this tag")] = None,
        since: Annotated[float | None, Field(ge=0, le=1e6, description="Only of the last so many hours")] = None,
        limit: p.Limit = 50,
        cursor: Annotated[str | None, Field(max_length=30, description="next_cursor of the answer before")] = None,
    ) -> StateList:
        """List snapshots, the newest first: session, client, time, messages, sizes, models, tags."""
        from vllm_state_persistence.workplace import now

        store = await work.store()
        begin = None if since is None else now() - since * HOUR_S
        page = await store.states(session_id=session_id, tag=tag, since=begin, limit=min(limit, 40), cursor=cursor)
        damaged = [f"{state_id} cannot be read; verify-states says why" for state_id in page.damaged[:5]]
        rows = [row_of(info) for info in page.items]
        return StateList(states=rows, total_count=len(rows), next_cursor=page.cursor, warnings=damaged)

    @server.tool("get-state", title="Look into a snapshot", annotations=READ)
    async def get_state(
        state_id: p.StateId,
        include_messages: Annotated[bool, Field(description="Also the beginnings of its last messages")] = False,
        limit: p.Limit = 20,
    ) -> StateDetails:
        """Tell what a snapshot holds: engines with their options, request defaults, metrics, and the last messages."""
        loaded = await (await work.store()).load(state_id)
        capture = await capture_of(loaded)
        info = loaded.info
        last = await entries_of(loaded, max(0, info.records - limit)) if include_messages else []
        texts = await texts_of(loaded, last)
        return StateDetails(
            state=row_of(info, capture),
            engines=[engine.model_dump(mode="json", exclude_defaults=True) for engine in capture.engines][:_SHOWN_NAMES]
            if capture is not None
            else [],
            defaults=dict(list(capture.defaults.items())[:_SHOWN_NAMES]) if capture is not None else {},
            metrics=await _metrics_of(loaded),
            messages=fitting([MessageRow(role=one.role or one.kind, preview=texts[one.content]) for one in last]),
            message_count=info.messages,
        )

    @server.tool("diff-states", title="What changed between snapshots", annotations=READ)
    async def diff_states(from_state_id: p.StateId, to_state_id: p.StateId) -> DiffResult:
        """Tell in words what changed from one snapshot to another: messages added, changed and removed, models and
        their options."""
        store = await work.store()
        before, after = await store.load(from_state_id), await store.load(to_state_id)
        found = difference(
            await entries_of(before), await entries_of(after), await capture_of(before), await capture_of(after)
        )
        first, second = quoted(found.records)
        texts = await texts_of(before, first) | await texts_of(after, second)
        return DiffResult(
            from_state_id=from_state_id,
            to_state_id=to_state_id,
            messages_added=len(found.records.added),
            messages_changed=len(found.records.changed),
            messages_removed=len(found.records.removed),
            models_added=[engine.served_name for engine in found.engines.added][:_SHOWN_NAMES],
            models_removed=[engine.served_name for engine in found.engines.removed][:_SHOWN_NAMES],
            models_changed=list(dict.fromkeys(change.model for change in found.engines.changes))[:_SHOWN_NAMES],
            in_words=list(in_words(found, texts)),
        )


def row_of(info: StateInfo, capture: EngineCapture | None = None) -> StateRow:
    """A snapshot as people see it."""
    return StateRow(
        state_id=info.state_id,
        parent_state_id=info.parent_state_id,
        session_id=info.session_id,
        source=info.source,
        title=info.title[:80],
        project=info.project[-120:],
        timestamp=iso_time(info.at),
        messages=info.messages,
        logical_bytes=info.logical_bytes,
        new_bytes=info.new_bytes,
        models=model_names(capture)[:_SHOWN_NAMES],
        tags=list(info.tags),
        description=info.description[:200],
    )


async def newest(work: Workplace, session_id: str) -> StateInfo:
    """The newest snapshot of a session. Raises SessionNotFound with those that there are."""
    store = await work.store()
    page = await store.states(session_id=session_id, limit=1)
    if page.items:
        return page.items[0]
    known = [f"{info.session_id} ({info.source}: {info.title[:30]})" for info in (await store.sessions()).items[:5]]
    raise SessionNotFound(
        f"There is no snapshot of session {session_id[:200]!r}.",
        session_id=session_id[:200],
        known=known,
        suggestion=f"give one of: {'; '.join(known)}" if known else "save-state makes the first snapshot",
    )


async def capture_of(loaded: LoadedState) -> EngineCapture | None:
    """The engines of a snapshot; None when it has none."""
    data = await loaded.engines()
    return None if data is None else read_capture(data)


async def _metrics_of(loaded: LoadedState) -> list[MetricsRow]:
    """What was measured before the snapshot; nothing when it was saved without. Raises StoreDamaged."""
    data = await loaded.metrics()
    if data is None:
        return []
    try:
        window = MonitoringWindow.model_validate_json(data)
    except ValidationError as error:
        raise StoreDamaged(
            f"The metrics of this snapshot cannot be read: {error.error_count()} fields differ."
        ) from error
    return [_metrics_row(one) for one in window.subjects[:_SHOWN_NAMES]]


def _metrics_row(one: SubjectWindow) -> MetricsRow:
    grown = {name: value / one.covered_s for name, value in one.counters.items() if value and one.covered_s}
    means = {name: values.mean for name, values in one.gauges.items()}
    shown = [{name: float(f"{value:.4g}") for name, value in some.items()} for some in (means, grown)]
    return MetricsRow(subject=one.subject, covered_seconds=round(one.covered_s, 1), means=shown[0], per_second=shown[1])


async def entries_of(loaded: LoadedState, start: int = 0) -> list[Entry]:
    """The records of a snapshot without their contents."""
    return [entry async for entry in loaded.entries(start=start)]


async def texts_of(loaded: LoadedState, entries: Sequence[Entry]) -> dict[Ref, str]:
    """What some records of a snapshot say, in short."""
    source = loaded.info.source
    found = zip(entries, await loaded.beginnings(entries), strict=True)
    return {entry.content: preview(source, Record(entry.kind, entry.key, data, entry.role)) for entry, data in found}


def fitting(messages: list[MessageRow]) -> list[MessageRow]:
    """The last ones, as many as an answer holds."""
    kept: list[MessageRow] = []
    left = PAGE_LIMIT_BYTES // 2
    for message in reversed(messages):
        left -= len(message.model_dump_json().encode()) + 1
        if left < 0:
            break
        kept.append(message)
    return kept[::-1]
