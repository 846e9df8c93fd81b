"""Carries out a plan of `core/engine_plan.py`: the engines of a snapshot are loaded, woken and put to sleep again.

A step that fails stops no other, and every step's outcome is explained.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.lowlevel

from vllm_mcp_protocol.errors import DeviceSettling, EngineNotFound, ErrorInfo, ModelBusy, NoRoom, SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineStatus, EngineView, LoadGrant, LoadOptions, LoadRequest
from vllm_state_persistence.core.engine_plan import Step, goes_first
from vllm_state_persistence.engines import Site

logger = logging.getLogger(__name__)

S = EngineStatus

_POLL_S = 1.0
"""Longest silence between two reports, and longest delay of a cancellation. Changes arrive at once."""

_CLEANUP_LIMIT_S = 30.0
"""For stopping what a cancelled restore began; the stops themselves go on in the hub."""

Report = Callable[[int, int, str], Awaitable[None]]
"""Steps that are over, steps in all, and what is being done."""


async def _no_report(_done: int, _total: int, _words: str) -> None:
    """For callers that do not want to know."""


Status = Literal["done", "unchanged", "pending", "partly", "kept", "blocked", "failed"]
"""`pending`: it goes on, or its turn did not come in time; the same restore again finishes it. `kept`: what is here
stayed. `partly`: the engine is there, and something about it is not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one step."""

    step: Step
    status: Status
    reason: str
    engine_id: str = ""
    error: ErrorInfo | None = None


async def restore(
    hub: Hub,
    steps: Sequence[Step],
    *,
    site: Site,
    wait_s: float,
    report: Report = _no_report,
    keep_on_cancel: Callable[[], bool] = lambda: False,
) -> tuple[Outcome, ...]:
    """Carry the steps out, waiting up to `wait_s` in all; one outcome for each, in their order. Never raises for one.

    When it is cancelled, engines that it began to start are stopped, unless `keep_on_cancel` says that nobody wished
    so (the client only went away).
    """
    work = _Restore(hub, site, anyio.current_time() + wait_s, report, len(steps))
    try:
        return await work.all(steps)
    except anyio.get_cancelled_exc_class():
        if not keep_on_cancel():
            await _stop_all(hub, work.starting)
        raise


async def _stop_all(hub: Hub, engine_ids: set[str]) -> None:
    """Even while this task is being cancelled."""
    with anyio.move_on_after(_CLEANUP_LIMIT_S, shield=True):
        for engine_id in sorted(engine_ids):
            try:
                await hub.stop(engine_id, force=True)
            except SuiteError:
                logger.exception("%s could not be stopped after its restore was cancelled", engine_id)


class _Restore:
    """One restore under way."""

    def __init__(self, hub: Hub, site: Site, deadline_s: float, report: Report, total: int) -> None:
        self._hub = hub
        self._site = site
        self._deadline_s = deadline_s
        self._report = report
        self._total = total
        self._over = 0
        self._keys = {remote.url: remote.revealed_key for remote in site.settings.remote_engines()}
        self.starting: set[str] = set()
        """Engines that this restore created and that are not ready yet."""

    async def all(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        """What needs a device for itself first; the rest is asked for at once, and waited for one after the other."""
        outcomes: dict[int, Outcome] = {}
        order = sorted(range(len(steps)), key=lambda number: not self._first(steps[number], steps))
        begun: list[tuple[int, Step, EngineView]] = []
        for number in order:
            step = steps[number]
            started = await self._begin(step)
            if isinstance(started, Outcome):
                outcomes[number] = await self._ended(started)
            elif self._first(step, steps):
                outcomes[number] = await self._ended(await self._finish(step, started))
            else:
                begun.append((number, step, started))
        for number, step, view in begun:
            outcomes[number] = await self._ended(await self._finish(step, view))
        return tuple(outcomes[number] for number in range(len(steps)))

    @staticmethod
    def _first(step: Step, steps: Sequence[Step]) -> bool:
        return step.engine is None or goes_first(step, steps)

    async def _ended(self, outcome: Outcome) -> Outcome:
        self._over += 1
        await self._report(self._over, self._total, f"{outcome.step.subject}: {outcome.status}")
        return outcome

    async def _begin(self, step: Step) -> "EngineView | Outcome":
        """What can be done at once: the outcome, or the engine that is waited for."""
        await self._report(self._over, self._total, f"{step.subject}: {step.action}")
        try:
            return await self._act(step)
        except SuiteError as error:
            return _failed(step, error)

    async def _act(self, step: Step) -> "EngineView | Outcome":
        match step.action:
            case "none":
                return Outcome(step, "partly" if step.lacking else "unchanged", _reason(step), step.running)
            case "differs":
                return Outcome(step, "kept", _reason(step), step.running)
            case "blocked":
                return Outcome(step, "blocked", _reason(step), step.running)
            case "set-config":
                await self._hub.set_model_config(step.subject, step.config)
                return Outcome(step, "done", "its request defaults are set")
            case "attach":
                await self._hub.attach(step.subject, self._keys.get(step.subject))
                return Outcome(step, "done", "it is attached")
            case "load":
                return await self._load(step)
            case "reload":
                return await self._reload(step)
            case "wake":
                return await self._hub.wake(step.running)
            case "sleep" | "load-lora":
                return await self._hub.wait(step.running, seen_epoch=-1, timeout_s=0)

    # loading

    async def _reload(self, step: Step) -> "EngineView | Outcome":
        """Unload what is there, finishing what it does, then load."""
        view = await self._hub.stop(step.running)
        view = await self._until(step, view, lambda v: v.status is S.STOPPED)
        if view.status is not S.STOPPED:
            reason = f"{view.id} still finishes {view.in_flight} requests before it is unloaded"
            return Outcome(step, "pending", reason, view.id)
        return await self._load(step)

    async def _load(self, step: Step) -> "EngineView | Outcome":
        # Not interruptible: between the hub's promise and its answer nobody would know which engine to stop.
        with anyio.CancelScope(shield=True):
            grant = await self._granted(step)
            view = grant.engine
            if view is not None and not grant.joined:
                self.starting.add(view.id)
        await anyio.lowlevel.checkpoint()
        assert view is not None, "only a dry run is granted without an engine"  # noqa: S101
        if grant.joined and view.served_name != step.subject:
            reason = f"{view.id} serves {view.model_id} as {view.served_name}, and the hub gives it to this name too"
            return Outcome(step, "kept", reason, view.id)
        return view

    async def _granted(self, step: Step) -> LoadGrant:
        """On the GPUs of before, where there is room; else wherever there is."""
        request = self._request(step)
        try:
            return await self._hub.load(request)
        except NoRoom:
            if not request.gpu_ids:
                raise
        return await self._hub.load(request.model_copy(update={"gpu_ids": ()}))

    def _request(self, step: Step) -> LoadRequest:
        engine = step.engine
        assert engine is not None, "only an engine is loaded"  # noqa: S101
        return LoadRequest(
            model_id=engine.model_id,
            options=step.options or LoadOptions(),
            facts=step.facts,
            environment=self._site.environment(step.facts),
            gpu_ids=step.gpu_ids,
            ttl_s=engine.ttl_s,
            pin=engine.pinned,
        )

    # what follows when it is ready

    async def _finish(self, step: Step, view: EngineView) -> Outcome:
        """What came of it. Only then it is no longer one that a cancellation would stop."""
        try:
            outcome = await self._finished(step, await self._until(step, view, _settled))
        except EngineNotFound as error:
            outcome = _failed(step, error, "it was unloaded by somebody else")
        except SuiteError as error:
            outcome = _failed(step, error)
        self.starting.discard(view.id)
        return outcome

    async def _finished(self, step: Step, view: EngineView) -> Outcome:
        if view.failure is not None and view.status in (S.STOPPED, S.STOPPING):
            return Outcome(step, "failed", view.failure.message, view.id, view.failure)
        if view.status in (S.STOPPED, S.STOPPING, S.DRAINING):
            return Outcome(step, "failed", "it was unloaded by somebody else", view.id)
        if view.status is not S.READY:
            rest = _what_is_left(step)
            return Outcome(step, "pending", f"it is {view.status}{rest}", view.id)
        view, problems = await self._with_adapters(step, view)
        if step.then_sleep:
            view = await self._asleep(step, view)
        if step.then_sleep and view.status is not S.SLEEPING:
            problems = (*problems, _why_awake(view))
        return _good(step, view, problems)

    async def _with_adapters(self, step: Step, view: EngineView) -> tuple[EngineView, tuple[str, ...]]:
        problems: list[str] = []
        for name, folder in step.adapters:
            if name in view.loras:
                continue
            try:
                view = await self._hub.load_lora(view.id, name, folder)
            except SuiteError as error:
                problems.append(f"adapter {name} was not loaded: {error.info.message}")
        return view, tuple(problems)

    async def _asleep(self, step: Step, view: EngineView) -> EngineView:
        """Put it to sleep as soon as nothing else moves on its device. Raises what the engine fails with."""
        if not view.sleep_supported:
            return view
        while True:
            try:
                view = await self._hub.sleep(view.id)
                break
            except (DeviceSettling, ModelBusy):
                if anyio.current_time() >= self._deadline_s:
                    return view
            await anyio.sleep(0.1)
        return await self._until(step, view, lambda v: v.status is not S.SUSPENDING)

    async def _until(self, step: Step, view: EngineView, done: Callable[[EngineView], bool]) -> EngineView:
        """The engine as soon as it is `done`, or as it is when the time is over."""
        while not done(view) and (left_s := self._deadline_s - anyio.current_time()) > 0:
            await self._report(self._over, self._total, f"{step.subject}: {view.phase or view.status}")
            # A cancellation waits for the answer, see the same in the model manager: anyio 4.16 loses the connection.
            with anyio.CancelScope(shield=True):
                view = await self._hub.wait(view.id, seen_epoch=view.epoch, timeout_s=min(left_s, _POLL_S))
            await anyio.lowlevel.checkpoint()
        return view


def _settled(view: EngineView) -> bool:
    """It serves, or it ended; one that failed has ended only when it is swept."""
    if view.status is S.STOPPING:
        return view.failure is None
    return view.status in (S.READY, S.STOPPED, S.DRAINING)


def _good(step: Step, view: EngineView, problems: tuple[str, ...]) -> Outcome:
    """The engine is there; what it lacks is said."""
    lacking = (*problems, *step.lacking)
    told = "it sleeps again" if view.status is S.SLEEPING else "it serves again"
    reason = "; ".join((told, *lacking, *step.notes, *_elsewhere(step, view)))
    return Outcome(step, "partly" if lacking else "done", reason, view.id)


def _elsewhere(step: Step, view: EngineView) -> tuple[str, ...]:
    before = tuple(str(number) for number in step.gpu_ids)
    if step.action not in ("load", "reload") or not before or set(before) == set(view.devices):
        return ()
    return (f"there was no room on GPU {', '.join(before)}: it is on GPU {', '.join(view.devices)}",)


def _why_awake(view: EngineView) -> str:
    if view.failure is not None:
        return f"it did not fall asleep: {view.failure.message}"
    if not view.sleep_supported:
        return "it slept before, and cannot sleep here: it stays awake"
    return "it did not fall asleep in time: load-state again, or sleep-model"


def _what_is_left(step: Step) -> str:
    later = [f"its adapters ({', '.join(name for name, _ in step.adapters)})"] if step.adapters else []
    later += ["sleep"] if step.then_sleep else []
    return f"; for {' and '.join(later)} load-state again when it is ready" if later else ""


def _reason(step: Step) -> str:
    return "; ".join((step.reason, *step.differences, *step.lacking, *step.notes))


def _failed(step: Step, error: SuiteError, why: str = "") -> Outcome:
    return Outcome(step, "failed", why or error.info.message, step.running, error.info)
