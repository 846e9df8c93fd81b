"""unload-model."""

from typing import Annotated

from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, Resolve
from pydantic import BaseModel, Field

from vllm_mcp_protocol.errors import EngineNotFound
from vllm_mcp_protocol.model import EngineStatus, EngineView
from vllm_mcp_protocol.serving.context import can_elicit, notify_resource_updated
from vllm_mcp_protocol.serving.server import DESTROY, SuiteServer, ToolContext
from vllm_model_manager import parameters as p
from vllm_model_manager.core.finding import refuse_remote, require_base
from vllm_model_manager.core.reporting import held_memory
from vllm_model_manager.loading import clock_report
from vllm_model_manager.results import UnloadResult
from vllm_model_manager.workplace import Workplace

_ENDING = (EngineStatus.STOPPED,)


class DropRequests(BaseModel):
    """The user's answer about requests that run."""

    drop: bool = Field(description="Drop them and unload now? No: finish them first, then unload")


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    async def ask_user(
        ctx: ToolContext, model_id: str, force: bool, dry_run: bool
    ) -> DropRequests | Elicit[DropRequests]:
        """Ask only when it matters, and only a client that can ask."""
        if force or dry_run or not can_elicit(ctx):
            return DropRequests(drop=force)
        view = require_base(await work.state(), model_id, "unload-model")
        refuse_remote(view, "unloaded")
        if not view.in_flight:
            return DropRequests(drop=False)
        return Elicit(f"{view.model_id} is answering {view.in_flight} request(s). Drop them?", DropRequests)

    @server.tool("unload-model", title="Unload a model", annotations=DESTROY)
    async def unload_model(
        ctx: ToolContext,
        model_id: p.LoadedName,
        answer: Annotated[ElicitationResult[DropRequests], Resolve(ask_user)],
        force: p.Force = False,
        dry_run: p.DryRun = False,
        wait_seconds: p.WaitSeconds = 45,
    ) -> UnloadResult:
        """End a model's engine and free its memory. Requests that run are finished first unless force=true; after
        wait_seconds the answer is status "draining", and the unloading goes on.
        """
        view = require_base(await work.state(), model_id, "unload-model")
        refuse_remote(view, "unloaded")
        if dry_run:
            return _result(view, "planned", _outlook(view, force))
        if not isinstance(answer, AcceptedElicitation):
            return _result(view, "kept", "The user was asked and did not agree: nothing was changed.")
        return await unload(work, ctx, view, force=force or answer.data.drop, wait_s=wait_seconds)


async def unload(work: Workplace, ctx: ToolContext, view: EngineView, *, force: bool, wait_s: float) -> UnloadResult:
    """Stop the engine of `view` and wait for its end, up to `wait_s`."""
    before = view
    stopping = await work.hub.stop(view.id, force=force)
    last = await wait_for_end(work, ctx, stopping, wait_s)
    work.probes.pop(view.id, None)
    await notify_resource_updated(ctx, "fleet://status")
    if last is None or last.status is EngineStatus.STOPPED:
        return _result(before, "unloaded", "")
    if last.status is EngineStatus.DRAINING:
        note = f"It finishes {last.in_flight} request(s) first; unload-model with force=true drops them."
        return _result(before, "draining", note)
    return _result(before, "unloading", "It is ending; its memory is free as soon as list-models shows it unloaded.")


async def wait_for_end(work: Workplace, ctx: ToolContext, view: EngineView, wait_s: float) -> EngineView | None:
    """The engine when it ended, or as it is after `wait_s`; None when the hub has already forgotten it."""
    report = clock_report(ctx, wait_s, lambda current: f"{current.model_id}: {current.status}")
    try:
        return await work.wait_until(view, lambda v: v.status in _ENDING, wait_s, report)
    except EngineNotFound:
        return None


def _result(view: EngineView, status: str, note: str) -> UnloadResult:
    freed_mb, basis = held_memory(view)
    return UnloadResult.model_validate(
        {
            "model_id": view.model_id,
            "engine_id": view.id,
            "status": status,
            "memory_freed_mb": 0 if status == "kept" else freed_mb,
            "memory_basis": basis,
            "requests_in_flight": view.in_flight,
            "note": note,
        }
    )


def _outlook(view: EngineView, force: bool) -> str:
    if not view.in_flight:
        return "Nothing runs on it; it would end at once."
    if force:
        return f"{view.in_flight} request(s) would be dropped."
    return f"{view.in_flight} request(s) would be finished first; force=true drops them."
