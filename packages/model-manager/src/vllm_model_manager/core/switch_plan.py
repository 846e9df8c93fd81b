"""How one model gives way to another: decided before anything is touched. Pure."""

from dataclasses import dataclass
from typing import Literal

from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.model import EngineStatus, EngineView, HubState
from vllm_model_manager.core.finding import live_engine, refuse_remote, require_base
from vllm_model_manager.core.rows import ANSWERING

PutAside = Literal["sleep", "unload"]


@dataclass(frozen=True)
class SwitchPlan:
    """What will be done, and why."""

    target: EngineView | None
    """The engine that already holds the target model, awake or asleep."""
    leaving: EngineView | None
    """The engine that gives way; None: nothing, or whatever the hub finds idle."""
    put_aside: PutAside
    make_room: bool
    """May the hub unload idle models for the new one?"""
    reasons: tuple[str, ...]


def plan_switch(state: HubState, to_model: str, from_model: str | None, *, keep_asleep: bool) -> SwitchPlan:
    """Who leaves, and how.

    Without `from_model` the only loaded model leaves; among several the hub chooses the least recently used idle
    ones, if room is needed at all. Raises ModelNotLoaded, BadInput or RemoteEngine about `from_model`.
    """
    target = live_engine(state, to_model)
    if target is not None:
        require_base(state, to_model, "switch-model")
    leaving, why = _leaving(state, target, from_model)
    if leaving is None:
        return SwitchPlan(target, None, "unload", make_room=True, reasons=(why,))
    put_aside, how = _put_aside(leaving, keep_asleep)
    return SwitchPlan(target, leaving, put_aside, make_room=False, reasons=(why, how))


def _leaving(state: HubState, target: EngineView | None, from_model: str | None) -> tuple[EngineView | None, str]:
    if from_model is not None:
        view = require_base(state, from_model, "switch-model")
        if target is not None and view.id == target.id:
            raise BadInput(
                f"from_model_id={from_model!r} and to_model_id are the same engine, {view.id}.",
                parameter="from_model_id",
                value=from_model,
                suggestion="leave from_model_id out, or name another model",
            )
        refuse_remote(view, "switched away from")
        return view, f"{view.model_id} leaves: from_model_id names it"
    others = [v for v in state.engines if _could_leave(v) and (target is None or v.id != target.id)]
    if len(others) == 1 and others[0].pinned:
        return None, f"{others[0].model_id} stays: it is pinned; name it as from_model_id to switch away from it"
    if len(others) == 1:
        return others[0], f"{others[0].model_id} leaves: it is the only loaded model"
    if not others:
        return None, "nothing leaves: no other model is loaded"
    return None, f"{len(others)} models are loaded: idle ones leave, least recently used first, if room is needed"


def _could_leave(view: EngineView) -> bool:
    awake = view.status in ANSWERING and view.status not in (EngineStatus.SLEEPING, EngineStatus.SUSPENDING)
    return awake and not view.remote


def _put_aside(leaving: EngineView, keep_asleep: bool) -> tuple[PutAside, str]:
    name = leaving.model_id
    if not keep_asleep:
        return "unload", f"{name} is unloaded: keep_asleep=false"
    if not leaving.sleep_supported:
        return "unload", f"{name} is unloaded: this engine cannot sleep (sleep needs a GPU and no port of its own)"
    if leaving.status not in (EngineStatus.READY, EngineStatus.SUSPENDING, EngineStatus.SLEEPING):
        return "unload", f"{name} is unloaded: it is {leaving.status}, and only a ready engine can be put to sleep"
    return "sleep", f"{name} is put to sleep: waking it takes seconds, loading it again longer"
