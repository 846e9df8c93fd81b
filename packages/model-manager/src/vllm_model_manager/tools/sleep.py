"""sleep-model and wake-model."""

import logging
from typing import Annotated, Literal

import anyio
from pydantic import Field

from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import DeviceSettling, NotSupported, SuiteError
from vllm_mcp_protocol.model import EngineStatus, EngineView
from vllm_mcp_protocol.serving.context import Progress, notify_resource_updated
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer, ToolContext
from vllm_mcp_protocol.units import to_mib
from vllm_model_manager import parameters as p
from vllm_model_manager.core.finding import require_base
from vllm_model_manager.core.probe import Verdict, compare, probe_request
from vllm_model_manager.core.rows import generates
from vllm_model_manager.results import SleepResult, WakeResult
from vllm_model_manager.workplace import Workplace

logger = logging.getLogger(__name__)

_PROBE_LIMIT_S = 60.0
"""The first request after waking may compile kernels."""

_SETTLE_S = 2.0


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tools."""

    @server.tool("sleep-model", title="Put a model to sleep", annotations=WRITE)
    async def sleep_model(
        ctx: ToolContext,
        model_id: p.LoadedName,
        level: Annotated[
            Literal[1, 2], Field(description="1: weights wait in host memory; 2: they are dropped and read again")
        ] = 1,
        verify: Annotated[bool, Field(description="Remember an answer, so that wake-model can compare")] = True,
    ) -> SleepResult:
        """Free most of a model's GPU memory and keep its engine, so that wake-model brings it back in seconds.
        Needs a GPU. A model that answers requests is not put to sleep.
        """
        view = require_base(await work.state(), model_id, "sleep-model")
        result = await put_to_sleep(work, ctx, view, level=level, verify=verify)
        await notify_resource_updated(ctx, "fleet://status")
        return result

    @server.tool("wake-model", title="Wake a model", annotations=WRITE)
    async def wake_model(
        ctx: ToolContext,
        model_id: p.LoadedName,
        verify: Annotated[bool, Field(description="Compare a fixed probe with its answer before the sleep")] = True,
    ) -> WakeResult:
        """Bring a sleeping model back. verified=true means that a fixed probe gives the same tokens as before."""
        view = require_base(await work.state(), model_id, "wake-model")
        result = await wake(work, ctx, view, verify=verify)
        await notify_resource_updated(ctx, "fleet://status")
        return result


async def put_to_sleep(work: Workplace, ctx: ToolContext, view: EngineView, *, level: int, verify: bool) -> SleepResult:
    """Put the engine to sleep. Raises NotSupported, DeviceSettling (busy), or what the engine says."""
    _require_sleep(view)
    started_s = anyio.current_time()
    asleep = view.status in (EngineStatus.SLEEPING, EngineStatus.SUSPENDING)
    if verify and not asleep:
        await _remember_probe(work, view)
    await Progress(ctx)(0, 1, f"{view.model_id}: going to sleep")
    after = await _sleep_when_idle(work, view, level)
    freed_mb, basis = _freed(view, after)
    remembered = view.id in work.probes
    return SleepResult(
        model_id=view.model_id,
        engine_id=view.id,
        status="sleeping" if after.status is EngineStatus.SLEEPING else "going_to_sleep",
        level=level,
        freed_mb=freed_mb,
        memory_basis=basis,
        seconds=round(anyio.current_time() - started_s, 3),
        probe="remembered: wake-model will compare" if remembered else "none: wake-model cannot verify",
    )


async def wake(work: Workplace, ctx: ToolContext, view: EngineView, *, verify: bool) -> WakeResult:
    """Wake the engine, and compare. Raises NotSupported, GpuMemoryInsufficient, or what the engine says."""
    _require_sleep(view)
    started_s = anyio.current_time()
    was_awake = view.status is EngineStatus.READY
    await Progress(ctx)(0, 1, f"{view.model_id}: waking")
    after = await work.hub.wake(view.id)
    seconds = round(anyio.current_time() - started_s, 3)
    ready = after.status is EngineStatus.READY
    verdict = (
        Verdict(None, "it was awake already")
        if was_awake
        else await _verify(work, after)
        if verify and ready
        else Verdict(None, "verify=false" if ready else f"it is {after.status}")
    )
    return WakeResult(
        model_id=view.model_id,
        engine_id=view.id,
        status="loaded" if ready else "waking",
        seconds=seconds,
        verified=verdict.verified,
        reason=verdict.reason,
    )


async def _sleep_when_idle(work: Workplace, view: EngineView, level: int) -> EngineView:
    """The hub counts our own probe for a moment after it ended; longer business than that is somebody's."""
    give_up_s = anyio.current_time() + _SETTLE_S
    while True:
        try:
            return await work.hub.sleep(view.id, level=level)
        except DeviceSettling:
            if anyio.current_time() >= give_up_s:
                raise
        await anyio.sleep(0.1)


def _require_sleep(view: EngineView) -> None:
    if view.sleep_supported or view.remote:
        return
    on_cpu = view.devices == ("cpu",)
    why = (
        "vLLM's CPU engine has no sleep mode"
        if on_cpu
        else "it was started without sleep mode (it has a port of its own)"
    )
    raise NotSupported(
        f"{view.model_id} ({view.id}) cannot sleep: {why}.",
        engine_id=view.id,
        devices=list(view.devices),
        suggestion=f"unload-model {view.model_id}"
        + ("" if on_cpu else ", or load it again without port, so that it can sleep next time"),
    )


def _freed(before: EngineView, after: EngineView) -> tuple[int | None, str]:
    if before.measured_bytes is not None and after.measured_bytes is not None:
        return max(0, to_mib(before.measured_bytes - after.measured_bytes)), "measured before and after"
    if before.promised_bytes > after.promised_bytes:
        return to_mib(before.promised_bytes - after.promised_bytes), "promised memory given back; not measured"
    return None, "not measured"


async def _remember_probe(work: Workplace, view: EngineView) -> None:
    work.probes.pop(view.id, None)
    if view.status is EngineStatus.READY and generates(view.facts) is not False:
        answer = await _probe(work, view)
        if answer is not None:
            work.probes[view.id] = answer


async def _verify(work: Workplace, view: EngineView) -> Verdict:
    before = work.probes.pop(view.id, None)
    if before is None:
        return compare(None, None)
    return compare(before, await _probe(work, view))


async def _probe(work: Workplace, view: EngineView) -> str | None:
    """The model's greedy answer to a fixed question; None when it gives none."""
    try:
        async with (
            work.hub.lease(view.id) as endpoint,
            EngineHttp(endpoint, timeout_s=min(_PROBE_LIMIT_S, work.timeout_s)) as http,
        ):
            answer = await http.completion(probe_request(endpoint.served_name))
    except SuiteError as error:
        logger.warning("%s did not answer the probe: %s", view.id, error)
        return None
    choices = answer.get("choices") or ()
    text = choices[0].get("text") if choices else None
    return text if isinstance(text, str) else None
