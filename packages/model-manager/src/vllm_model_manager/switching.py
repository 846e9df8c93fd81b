"""One switch: check the new model, put the old one aside, load, and bring the old one back when that fails."""

import logging
from dataclasses import replace

import anyio

from vllm_mcp_protocol.errors import (
    DeviceSettling,
    EngineFailed,
    GpuMemoryHeld,
    GpuMemoryInsufficient,
    ModelBusy,
    NotSupported,
    SuiteError,
)
from vllm_mcp_protocol.model import EngineStatus, EngineView, LoadGrant, LoadRequest
from vllm_mcp_protocol.serving.context import Progress, client_is_gone
from vllm_mcp_protocol.serving.server import ToolContext
from vllm_mcp_protocol.units import to_mib
from vllm_model_manager.core.switch_plan import SwitchPlan, plan_switch
from vllm_model_manager.loading import Loaded, Prepared, Wanted, load_and_wait, prepare
from vllm_model_manager.results import SwitchResult, SwitchStep
from vllm_model_manager.sleeping import fall_asleep, wake_up
from vllm_model_manager.workplace import Workplace

logger = logging.getLogger(__name__)

_RESTORE_LIMIT_S = 120.0
"""For bringing the old model back; waking takes seconds, and a reload is only asked for, not awaited."""

_SETTLE_S = 3.0
"""A request that has just ended may count for a moment longer."""


class Switch:
    """One call of switch-model. `plan` first, then `planned` or `run`."""

    def __init__(self, work: Workplace, ctx: ToolContext, wanted: Wanted, *, wait_s: float, force: bool) -> None:
        self._work = work
        self._ctx = ctx
        self._wanted = wanted
        self._force = force
        self._deadline_s = anyio.current_time() + wait_s
        self._started_s = anyio.current_time()
        self._steps: list[SwitchStep] = []
        self._extra_reasons: list[str] = []
        self._plan: SwitchPlan
        self._prepared: Prepared
        self._check: LoadGrant | None = None

    async def plan(self, from_model: str | None, *, keep_asleep: bool) -> None:
        """Decide who leaves and whether the new model can be loaded at all. Changes nothing.

        Raises whatever forbids the switch, except a lack of memory that the leaving model will give back.
        """
        state = await self._work.state()
        self._plan = plan_switch(state, self._wanted.model_id, from_model, keep_asleep=keep_asleep)
        self._wanted = replace(self._wanted, make_room=self._plan.make_room)
        if self._already_there:
            return
        self._prepared = await prepare(self._work, self._wanted, self._plan.target)
        try:
            self._check = await self._work.hub.load(self._prepared.request.model_copy(update={"dry_run": True}))
        except (GpuMemoryInsufficient, GpuMemoryHeld):
            if self._plan.leaving is None:
                raise

    @property
    def _already_there(self) -> bool:
        target = self._plan.target
        return target is not None and (target.status is EngineStatus.READY or target.remote)

    def planned(self) -> SwitchResult:
        """What `run` would do."""
        leaving = self._plan.leaving
        if leaving is not None:
            self._note(self._plan.put_aside, leaving, None, "planned")
        for engine_id in self._check.evicted if self._check else ():
            self._steps.append(
                SwitchStep(action="unload", model_id=engine_id, engine_id=engine_id, result="planned: makes room")
            )
        self._steps.append(self._load_step(None, "planned"))
        return self._result("planned", None, None)

    async def run(self) -> SwitchResult:
        """Do it. Raises SuiteError after bringing back what was put aside."""
        if self._already_there:
            target = self._plan.target
            await self._put_aside()
            self._steps.append(self._load_step(0.0, "already loaded"))
            return self._result("loaded", target, None)
        await self._put_aside()
        begun_s = anyio.current_time()
        try:
            loaded = await load_and_wait(self._work, self._ctx, self._wanted, self._prepared, self._left_s())
        except SuiteError as error:
            raise self._with_state(error, await self._bring_back()) from error
        except anyio.get_cancelled_exc_class():
            if not client_is_gone(self._ctx):
                with anyio.move_on_after(_RESTORE_LIMIT_S, shield=True):
                    await self._bring_back()
            raise
        return self._loaded(loaded, anyio.current_time() - begun_s)

    def _loaded(self, loaded: Loaded, seconds: float) -> SwitchResult:
        for engine_id in loaded.grant.evicted:
            self._steps.append(
                SwitchStep(action="unload", model_id=engine_id, engine_id=engine_id, result="unloaded to make room")
            )
        self._steps.append(self._load_step(seconds, "loaded" if loaded.ready else "loading", loaded.view))
        if not loaded.ready and self._plan.leaving is not None:
            name = self._plan.leaving.model_id
            how = "wake-model" if self._steps[0].action == "sleep" else "load-model"
            self._extra_reasons.append(f"if the load fails after this answer, {how} {name} brings the old model back")
        return self._result("loaded" if loaded.ready else "loading", loaded.view, loaded)

    # -- the old model ----------------------------------------------------------------------------------------------

    async def _put_aside(self) -> None:
        leaving = self._plan.leaving
        if leaving is None:
            return
        if not self._force:
            leaving = await self._idle(leaving)
        begun_s = anyio.current_time()
        if self._plan.put_aside == "sleep":
            if await self._slept(leaving):
                self._note("sleep", leaving, anyio.current_time() - begun_s, "sleeping")
                return
            begun_s = anyio.current_time()
        result = await self._unloaded(leaving)
        self._note("unload", leaving, anyio.current_time() - begun_s, result)

    async def _idle(self, view: EngineView) -> EngineView:
        """Wait until nothing runs on the engine. Raises ModelBusy when it stays busy: nothing was changed."""
        progress = Progress(self._ctx)

        async def report(current: EngineView) -> None:
            await progress(0, None, f"{current.model_id} finishes {current.in_flight} request(s)")

        view = await self._work.wait_until(view, lambda v: not v.in_flight, self._left_s(), report)
        if not view.in_flight:
            return view
        raise ModelBusy(
            f"{view.model_id} ({view.id}) still answers {view.in_flight} request(s); nothing was changed.",
            engine_id=view.id,
            in_flight=view.in_flight,
            suggestion="call again with a larger wait_seconds, or with force=true to drop them",
        )

    async def _slept(self, leaving: EngineView) -> bool:
        """Put it to sleep; False, with the reason noted, when it cannot.

        Raises DeviceSettling when it is not asleep in time: its memory is not free yet, so nothing can be loaded.
        """
        try:
            view = await fall_asleep(self._work, self._ctx, leaving, 1, max(_SETTLE_S, self._left_s()))
        except (NotSupported, EngineFailed) as error:
            self._extra_reasons.append(f"{leaving.model_id} is unloaded: it could not be put to sleep ({error})")
            return False
        if view.status is EngineStatus.SLEEPING:
            return True
        raise DeviceSettling(
            f"{leaving.model_id} ({leaving.id}) is still going to sleep; nothing else was changed.",
            engine_id=leaving.id,
            suggestion=f"call switch-model to {self._wanted.model_id} again: by then it sleeps",
        )

    async def _unloaded(self, leaving: EngineView) -> str:
        """Unload it, and wait for its end as long as there is time: the hub queues the new engine behind it."""
        view = await self._work.hub.stop(leaving.id, force=self._force)
        ended = (EngineStatus.STOPPED,)
        view = await self._work.wait_until(view, lambda v: v.status in ended, max(_SETTLE_S, self._left_s()))
        return "unloaded" if view.status in ended else str(view.status)

    async def _bring_back(self) -> str:
        """Undo what was put aside; a sentence about the state of things."""
        leaving = self._plan.leaving
        if leaving is None or not self._steps:
            return "No other model was touched."
        try:
            if self._steps[0].action == "sleep":
                view = await wake_up(self._work, self._ctx, leaving, max(_SETTLE_S, self._left_s()))
                return f"{leaving.model_id} was woken again and is {_state_word(view)}."
            grant = await self._work.hub.load(_same_again(self._work, leaving))
        except SuiteError as error:
            logger.warning("%s could not be brought back: %s", leaving.id, error)
            return f"{leaving.model_id} could NOT be brought back: {error}"
        again = grant.engine
        return f"{leaving.model_id} is being loaded again" + (f" as {again.id}." if again else ".")

    def _with_state(self, error: SuiteError, state: str) -> SuiteError:
        steps = [step.model_dump(mode="json") for step in self._steps]
        return error.with_details(f"{error.info.message.rstrip()} {state}", state=state, steps=steps)

    # -- the answer -------------------------------------------------------------------------------------------------

    def _note(self, action: str, view: EngineView, seconds: float | None, result: str) -> None:
        step = {"action": action, "model_id": view.model_id, "engine_id": view.id, "result": result}
        rounded = None if seconds is None else round(seconds, 3)
        self._steps.append(SwitchStep.model_validate({**step, "seconds": rounded}))

    def _load_step(self, seconds: float | None, result: str, view: EngineView | None = None) -> SwitchStep:
        target = self._plan.target
        asleep = target is not None and target.status in (EngineStatus.SLEEPING, EngineStatus.SUSPENDING)
        view = view or target
        return SwitchStep(
            action="none" if self._already_there else "wake" if asleep else "load",
            model_id=view.model_id if view else self._wanted.model_id,
            engine_id=view.id if view else None,
            seconds=None if seconds is None else round(seconds, 3),
            result=result,
        )

    def _result(self, status: str, view: EngineView | None, loaded: Loaded | None) -> SwitchResult:
        plan = loaded.grant.plan if loaded else self._check.plan if self._check else None
        reasons = loaded.reasons if loaded else self._prepared.reasons if not self._already_there else ()
        return SwitchResult.model_validate(
            {
                "to_model_id": view.model_id if view else self._wanted.model_id,
                "from_model_id": self._plan.leaving.model_id if self._plan.leaving else None,
                "status": status,
                "engine_id": view.id if view else None,
                "endpoint": (view.endpoint or None) if view else None,
                "steps": self._steps,
                "total_seconds": round(anyio.current_time() - self._started_s, 3),
                "memory_required_mb": to_mib(plan.need.device_bytes) * plan.device_count if plan else None,
                "memory_basis": plan.need.basis if plan else None,
                "argv": list(view.argv) if view else [],
                "reasons": [*self._plan.reasons, *self._extra_reasons, *reasons],
            }
        )

    def _left_s(self) -> float:
        return max(0.0, self._deadline_s - anyio.current_time())


def _state_word(view: EngineView) -> str:
    return "loaded" if view.status is EngineStatus.READY else str(view.status)


def _same_again(work: Workplace, view: EngineView) -> LoadRequest:
    """A load that makes the engine of `view` anew, where it was."""
    devices = tuple(int(device) for device in view.devices if device.isdigit())
    return LoadRequest(
        model_id=view.model_id,
        options=view.options,
        facts=view.facts,
        environment=work.environment(view.facts),
        gpu_ids=devices,
        ttl_s=view.ttl_s,
        pin=view.pinned,
    )
