"""clear-state: snapshots that go, planned, shown, then dropped and their space given back."""

from typing import Annotated

from pydantic import Field

from vllm_mcp_protocol.errors import ForceRequired
from vllm_mcp_protocol.serving.context import notify_resource_updated
from vllm_mcp_protocol.serving.server import DESTROY, SuiteServer, ToolContext
from vllm_state_persistence import parameters as p
from vllm_state_persistence.results import ClearResult
from vllm_state_persistence.retaining import every_state, freed_bytes
from vllm_state_persistence.store.maintenance import prune
from vllm_state_persistence.store.results import StateInfo
from vllm_state_persistence.tools.look import HOUR_S, newest
from vllm_state_persistence.tools.save import SESSIONS_URI, iso_time
from vllm_state_persistence.workplace import Workplace, now

_SHOWN = 100


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("clear-state", title="Remove snapshots", annotations=DESTROY)
    async def clear_state(
        ctx: ToolContext,
        session_id: p.SavedSession,
        state_id: Annotated[str | None, Field(pattern=r"^s-[0-9a-f]{16}$", description="Only this snapshot")] = None,
        older_than_hours: Annotated[float | None, Field(ge=0, le=1e6, description="Only older ones")] = None,
        keep_last: Annotated[int | None, Field(ge=0, le=100_000, description="Keep so many of the newest")] = None,
        include_models: Annotated[bool, Field(description="False keeps snapshots that hold engines")] = True,
        include_conversations: Annotated[bool, Field(description="False keeps snapshots that hold messages")] = True,
        dry_run: p.DryRun = False,
        force: Annotated[bool, Field(description="Remove them; only if the user agreed")] = False,
    ) -> ClearResult:
        """Remove snapshots of a session and give their space back. Without force it only says which would go. The
        client's own session stays.
        """
        await newest(work, session_id)
        states = await every_state(await work.store(), session_id)
        begin = None if older_than_hours is None else now() - older_than_hours * HOUR_S
        kinds = (include_models, include_conversations)
        going = [info for info in chosen(states, state_id, begin, keep_last or 0) if _of_kinds(info, *kinds)]
        if dry_run or not going:
            return _planned(states, going)
        if not force:
            raise _force_required(session_id, going)
        store = await work.store()
        await store.drop([info.state_id for info in going])
        freed = await prune(store)
        await notify_resource_updated(ctx, SESSIONS_URI)
        return ClearResult(
            status="cleared",
            cleared_items=len(going),
            states=[info.state_id for info in going][:_SHOWN],
            space_freed_bytes=freed.freed_bytes,
        )


def chosen(states: list[StateInfo], state_id: str | None, before: float | None, keep_last: int) -> list[StateInfo]:
    """Of a session's snapshots, the newest first, those that are meant."""
    named = [info for info in states if state_id in (None, info.state_id)]
    kept = {info.state_id for info in states[:keep_last]}
    return [info for info in named if info.state_id not in kept and (before is None or info.at < before)]


def _of_kinds(info: StateInfo, models: bool, conversations: bool) -> bool:
    return (models or not info.has_engines) and (conversations or not info.messages)


def _planned(states: list[StateInfo], going: list[StateInfo]) -> ClearResult:
    return ClearResult(
        status="planned",
        cleared_items=len(going),
        states=[info.state_id for info in going][:_SHOWN],
        space_freed_bytes=freed_bytes(states, {info.state_id for info in going}),
        reasons=[f"{len(states) - len(going)} of {len(states)} snapshots stay"],
    )


def _force_required(session_id: str, going: list[StateInfo]) -> ForceRequired:
    oldest, youngest = iso_time(going[-1].at), iso_time(going[0].at)
    return ForceRequired(
        f"Nothing was removed: {len(going)} snapshots of session {session_id[:200]} would go, "
        f"from {oldest} to {youngest}.",
        states=[info.state_id for info in going][:_SHOWN],
        suggestion="show this to the user; when they agree, call again with force=true",
    )
