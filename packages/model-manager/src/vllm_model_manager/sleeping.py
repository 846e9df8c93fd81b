"""Falling asleep and waking, and whether the model is the same afterwards: shared by sleep-, wake- and switch-model."""

import logging

import anyio

from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import DeviceSettling, ModelBusy, NotSupported, SuiteError
from vllm_mcp_protocol.model import EngineStatus, EngineView
from vllm_mcp_protocol.serving.context import Progress
from vllm_mcp_protocol.serving.server import ToolContext
from vllm_mcp_protocol.units import to_mib
from vllm_model_manager.core.probe import Verdict, compare, probe_request
from vllm_model_manager.core.rows import generates
from vllm_model_manager.loading import clock_report, failure_of, moved
from vllm_model_manager.results import SleepResult, WakeResult
from vllm_model_manager.workplace import Workplace

logger = logging.getLogger(__name__)

_PROBE_LIMIT_S = 60.0
"""The first request after waking may compile kernels."""

_SETTLE_S = 2.0
_WAKING = (EngineStatus.WAKE_QUEUED, EngineStatus.WAKING)


async def put_to_sleep(
    work: Workplace, ctx: ToolContext, view: EngineView, *, level: int, verify: bool, wait_s: float
) -> SleepResult:
    """Put the engine to sleep, and wait for it up to `wait_s`.

    Raises NotSupported, ModelBusy, DeviceSettling, ModelNotLoaded, or the engine's failure.
    """
    _require_sleep(view)
    started_s = anyio.current_time()
    if verify and view.status not in (EngineStatus.SLEEPING, EngineStatus.SUSPENDING):
        await _remember_probe(work, view)
    await Progress(ctx)(0, 1, f"{view.model_id}: going to sleep")
    try:
        after = await fall_asleep(work, ctx, view, level, _left_s(started_s, wait_s))
    except SuiteError:
        work.probes.pop(view.id, None)  # it never slept
        raise
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


async def fall_asleep(work: Workplace, ctx: ToolContext, view: EngineView, level: int, wait_s: float) -> EngineView:
    """Have the engine put to sleep: SLEEPING, or still SUSPENDING after `wait_s`. Raises why it is neither."""
    started_s = anyio.current_time()
    going = await _sleep_when_idle(work, view, level)
    report = clock_report(ctx, wait_s, lambda v: f"{v.model_id}: {v.status}")
    left_s = _left_s(started_s, wait_s)
    after = await moved(work, going, (EngineStatus.SUSPENDING,), left_s, report, "going to sleep")
    if after.status in (EngineStatus.SLEEPING, EngineStatus.SUSPENDING):
        return after
    if after.failure is not None:
        raise await failure_of(work, after)
    raise ModelBusy(
        f"{after.model_id} ({after.id}) fell asleep and was woken again at once by a request: it is {after.status}.",
        engine_id=after.id,
        suggestion=f"sleep-model {after.model_id} again when nobody asks it",
    )


async def wake(work: Workplace, ctx: ToolContext, view: EngineView, *, verify: bool, wait_s: float) -> WakeResult:
    """Wake the engine, wait for it up to `wait_s`, and compare.

    Raises NotSupported, GpuMemoryInsufficient, DeviceSettling, ModelNotLoaded, or the engine's failure.
    """
    _require_sleep(view)
    started_s = anyio.current_time()
    was_awake = view.status is EngineStatus.READY
    await Progress(ctx)(0, 1, f"{view.model_id}: waking")
    after = await wake_up(work, ctx, view, wait_s)
    seconds = round(anyio.current_time() - started_s, 3)
    verdict = await _verdict(work, after, was_awake=was_awake, verify=verify)
    return WakeResult(
        model_id=view.model_id,
        engine_id=view.id,
        status="loaded" if after.status is EngineStatus.READY else "waking",
        seconds=seconds,
        verified=verdict.verified,
        reason=verdict.reason,
    )


async def wake_up(work: Workplace, ctx: ToolContext, view: EngineView, wait_s: float) -> EngineView:
    """Have the engine woken: READY, or still on its way after `wait_s`. Raises why it is neither."""
    waking = await work.hub.wake(view.id)
    report = clock_report(ctx, wait_s, lambda v: f"{v.model_id}: {v.status}")
    after = await moved(work, waking, _WAKING, wait_s, report, "waking")
    if after.status in (EngineStatus.READY, *_WAKING):
        return after
    raise DeviceSettling(
        f"{after.model_id} ({after.id}) was woken, and is {after.status} again by somebody else's wish.",
        engine_id=after.id,
        suggestion=f"wake-model {after.model_id} again if it is still wanted",
    )


async def _verdict(work: Workplace, view: EngineView, *, was_awake: bool, verify: bool) -> Verdict:
    """What the probe says. One that a question or an earlier call woke is compared too: its probe is still there."""
    if view.status is not EngineStatus.READY:
        return Verdict(None, "it is still waking: call again when it is loaded, to compare")
    if was_awake and view.id not in work.probes:
        return Verdict(None, "it was awake already")
    return await _verify(work, view) if verify else Verdict(None, "verify=false")


def _left_s(started_s: float, wait_s: float) -> float:
    return max(0.0, started_s + wait_s - anyio.current_time())


async def _sleep_when_idle(work: Workplace, view: EngineView, level: int) -> EngineView:
    """The hub counts our own probe for a moment after it ended; longer business than that is somebody's."""
    give_up_s = anyio.current_time() + _SETTLE_S
    while True:
        try:
            return await work.hub.sleep(view.id, level=level)
        except (DeviceSettling, ModelBusy):
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
