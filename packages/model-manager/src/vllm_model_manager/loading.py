"""One load from wish to answer: shared by load-model and switch-model. Nothing is half-done after a failure."""

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from vllm_mcp_protocol.errors import EngineNotFound, ModelNotLoaded, SuiteError, error_from_info
from vllm_mcp_protocol.model import EngineStatus, EngineView, LoadGrant, LoadOptions, LoadRequest
from vllm_mcp_protocol.serving.context import Progress, client_is_gone
from vllm_mcp_protocol.serving.server import ToolContext
from vllm_model_manager.core.finding import live_engine
from vllm_model_manager.core.options import differences, fill
from vllm_model_manager.core.reporting import log_excerpt, start_message, start_total_s
from vllm_model_manager.repository import locate
from vllm_model_manager.workplace import Report, Workplace

logger = logging.getLogger(__name__)

_CLEANUP_LIMIT_S = 30.0
"""For stopping an engine whose load was cancelled: the answer comes at once, the stop itself goes on in the hub."""

_LOG_LINES = 20


@dataclass(frozen=True)
class Wanted:
    """A load as the caller asked for it."""

    model_id: str
    options: LoadOptions = LoadOptions()
    gpu_ids: tuple[int, ...] = ()
    make_room: bool = False
    allow_smaller: bool = False
    ttl_minutes: float | None = None
    pin: bool = False


@dataclass(frozen=True)
class Prepared:
    """A load that can be asked of the hub, and the reasons found on the way."""

    request: LoadRequest
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """What came of a load: ready, or still on its way."""

    grant: LoadGrant
    view: EngineView
    reasons: tuple[str, ...]

    @property
    def ready(self) -> bool:
        return self.view.status is EngineStatus.READY


async def prepare(work: Workplace, wanted: Wanted, running: EngineView | None = None) -> Prepared:
    """Check the wish against caches, Hugging Face and settings. Starts nothing.

    A model that is `running` is not looked up again: its files may be gone, and it would be joined all the same.
    Raises BadInput, PathNotAllowed, ConflictingFlags, ModelNotFound, GatedRepository, BadCheckpoint or DiskFull.
    """
    model_id, facts, origin = (
        await locate(work, wanted.model_id, wanted.options.revision)
        if running is None
        else (running.model_id, running.facts, ())
    )
    filled = fill(
        wanted.options,
        work.settings,
        facts,
        gpu_count=len(wanted.gpu_ids),
        ttl_minutes=wanted.ttl_minutes,
        pin=wanted.pin,
    )
    request = LoadRequest(
        model_id=model_id,
        options=filled.options,
        facts=facts,
        environment=work.environment(facts),
        gpu_ids=wanted.gpu_ids,
        make_room=wanted.make_room,
        allow_smaller=wanted.allow_smaller,
        ttl_s=filled.ttl_s,
        pin=wanted.pin,
    )
    return Prepared(request, (*origin, *filled.reasons))


async def present(work: Workplace, wanted: Wanted) -> EngineView | None:
    """The engine that already serves this model under the asked name, so that nothing needs to be looked up."""
    view = live_engine(await work.state(), wanted.options.served_model_name or wanted.model_id)
    return view if view is not None and wanted.model_id in (view.model_id, view.served_name) else None


async def load_and_wait(work: Workplace, ctx: ToolContext, wanted: Wanted, prepared: Prepared, wait_s: float) -> Loaded:
    """Have the model served, and wait for it, up to `wait_s`.

    Raises what the hub refuses with, and the engine's failure with the end of its log. When the caller cancels, an
    engine that this call created is stopped; one that it joined, or whose client went away, is left alone.
    """
    # Not interruptible: between the hub's promise and its answer nobody would know which engine to stop.
    with anyio.CancelScope(shield=True):
        grant = await work.hub.load(prepared.request)
    engine = grant.engine
    assert engine is not None, "only a dry run is granted without an engine"  # noqa: S101
    reasons = (*prepared.reasons, *grant.plan.reasons)
    if grant.joined:
        reasons = (f"joined {engine.id}, which already serves {engine.model_id}", *differences(wanted.options, engine))
    async with _stopped_when_cancelled(work, ctx, None if grant.joined else engine.id):
        await anyio.lowlevel.checkpoint()
        view = await work.wait_until(engine, settled, wait_s, start_report(ctx))
    await raise_if_ended(work, view, "loading")
    return Loaded(grant, view, reasons)


def settled(view: EngineView) -> bool:
    """Nothing more will come of this start: it serves, or it ended.

    One that failed and is being swept has not ended yet: its memory is free only when it has.
    """
    if view.status is EngineStatus.STOPPING:
        return view.failure is None
    return view.status in (EngineStatus.READY, EngineStatus.STOPPED, EngineStatus.DRAINING)


def clock_report(ctx: ToolContext, wait_s: float, words: Callable[[EngineView], str]) -> Report:
    """Progress of what has no estimate: seconds waited of those that are waited at most."""
    progress, began_s = Progress(ctx), anyio.current_time()

    async def report(view: EngineView) -> None:
        await progress(min(anyio.current_time() - began_s, wait_s), wait_s, words(view))

    return report


def start_report(ctx: ToolContext) -> Report:
    """Progress of a start: seconds elapsed of those estimated, and the phase."""
    progress = Progress(ctx)

    async def report(view: EngineView) -> None:
        await progress(view.elapsed_s or 0.0, start_total_s(view), start_message(view))

    return report


async def moved(
    work: Workplace, view: EngineView, through: Collection[EngineStatus], wait_s: float, report: Report, doing: str
) -> EngineView:
    """The engine once it left the states `through`, or as it is after `wait_s`.

    Raises its failure when it ended with one, and ModelNotLoaded when it ended without.
    """
    try:
        view = await work.wait_until(view, lambda v: v.status not in through, wait_s, report)
    except EngineNotFound as error:
        raise _unloaded_meanwhile(view, doing) from error
    await raise_if_ended(work, view, doing)
    return view


async def raise_if_ended(work: Workplace, view: EngineView, doing: str) -> None:
    """Raises the failure of an engine that ended, or ModelNotLoaded; nothing for one that lives."""
    if view.status in (EngineStatus.STOPPED, EngineStatus.STOPPING) and view.failure is not None:
        raise await failure_of(work, view)
    if view.status in (EngineStatus.STOPPED, EngineStatus.STOPPING, EngineStatus.DRAINING):
        raise _unloaded_meanwhile(view, doing)


def _unloaded_meanwhile(view: EngineView, doing: str) -> ModelNotLoaded:
    return ModelNotLoaded(
        f"{view.model_id} ({view.id}) was unloaded by somebody else while it was {doing}.",
        model_id=view.model_id,
        engine_id=view.id,
        suggestion=f"load-model {view.model_id} again if it is still wanted",
    )


async def failure_of(work: Workplace, view: EngineView) -> SuiteError:
    """The engine's failure as an error, with the end of its log."""
    info = view.failure
    assert info is not None, "asked only of engines that failed"  # noqa: S101
    more: dict[str, Any] = {"model_id": view.model_id, "engine_id": view.id}
    more["suggestion"] = f"get-model-logs {view.model_id} shows more of vLLM's log"
    if not info.details.get("log_tail"):
        try:
            tail = await work.hub.logs(view.id, tail=_LOG_LINES)
        except SuiteError as error:
            more["log_tail"] = f"the log cannot be read: {error}"
        else:
            more["log_tail"] = log_excerpt(tail.lines)
    known = {name: value for name, value in info.details.items() if value}
    return error_from_info(info).with_details(**more | known)


@asynccontextmanager
async def _stopped_when_cancelled(work: Workplace, ctx: ToolContext, engine_id: str | None) -> AsyncIterator[None]:
    try:
        yield
    except anyio.get_cancelled_exc_class():
        if engine_id is not None and not client_is_gone(ctx):
            await stop_quietly(work, engine_id)
        raise


async def stop_quietly(work: Workplace, engine_id: str) -> None:
    """Stop an engine that nobody wants any more, even while this task is being cancelled."""
    with anyio.move_on_after(_CLEANUP_LIMIT_S, shield=True):
        try:
            await work.hub.stop(engine_id, force=True)
        except SuiteError:
            logger.exception("%s could not be stopped after its load was cancelled", engine_id)
