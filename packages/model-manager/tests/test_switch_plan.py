"""Who gives way to whom, and how: decided before anything is touched."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import BadInput, ModelNotLoaded, RemoteEngine, SuiteError
from vllm_mcp_protocol.model import EngineStatus, EngineView, HubState
from vllm_model_manager.core.switch_plan import plan_switch

S = EngineStatus


def view(number: int, status: EngineStatus = S.READY, **more: Any) -> EngineView:
    values: dict[str, Any] = {
        "id": f"e{number}",
        "model_id": f"org/{number}",
        "served_name": f"org/{number}",
        "status": status,
        "epoch": number,
        "created_at": 0.0,
        "sleep_supported": True,
    }
    return EngineView(**(values | more))


def state(*views: EngineView) -> HubState:
    return HubState(protocol=1, version="0", pid=1, epoch=1, state_dir="/s", uptime_s=0, devices=(), engines=views)


def test_the_only_loaded_model_leaves_asleep() -> None:
    plan = plan_switch(state(view(1)), "org/2", None, keep_asleep=True)
    assert plan.leaving is not None
    assert (plan.leaving.id, plan.put_aside, plan.make_room) == ("e1", "sleep", False)


@pytest.mark.parametrize(
    ("keep_asleep", "more", "why"),
    [
        (False, {}, "keep_asleep=false"),
        (True, {"sleep_supported": False}, "cannot sleep"),
        (True, {"status": S.STARTING}, "starting"),
    ],
)
def test_what_cannot_or_shall_not_sleep_is_unloaded_and_the_reason_said(
    keep_asleep: bool, more: dict[str, Any], why: str
) -> None:
    plan = plan_switch(state(view(1, **more)), "org/2", "org/1", keep_asleep=keep_asleep)
    assert plan.put_aside == "unload"
    assert any(why in reason for reason in plan.reasons)


def test_among_several_the_hub_chooses() -> None:
    plan = plan_switch(state(view(1), view(2)), "org/3", None, keep_asleep=True)
    assert plan.leaving is None
    assert plan.make_room


def test_the_target_itself_never_leaves() -> None:
    plan = plan_switch(state(view(1), view(2, S.SLEEPING)), "org/2", None, keep_asleep=True)
    assert plan.target is not None
    assert plan.leaving is not None
    assert (plan.target.id, plan.leaving.id) == ("e2", "e1")


def test_a_pinned_model_leaves_only_when_it_is_named() -> None:
    pinned = view(1, pinned=True)
    assert plan_switch(state(pinned), "org/2", None, keep_asleep=True).leaving is None
    assert plan_switch(state(pinned), "org/2", "org/1", keep_asleep=True).leaving == pinned


def test_nothing_loaded_means_nothing_leaves() -> None:
    plan = plan_switch(state(view(1, S.STOPPED), view(2, S.SLEEPING)), "org/3", None, keep_asleep=True)
    assert plan.leaving is None


@pytest.mark.parametrize(
    ("from_model", "error"),
    [("org/9", ModelNotLoaded), ("org/1", BadInput), ("remote", RemoteEngine), ("adapter", BadInput)],
)
def test_a_from_model_that_cannot_leave_is_refused(from_model: str, error: type[SuiteError]) -> None:
    fleet = state(view(1), view(2, remote=True, served_name="remote"), view(3, loras=("adapter",)))
    with pytest.raises(error):
        plan_switch(fleet, "org/1", from_model, keep_asleep=True)


STATUSES = st.lists(st.sampled_from(list(EngineStatus)), min_size=1, max_size=5)


@given(statuses=STATUSES, keep=st.booleans(), sleeps=st.booleans())
def test_only_what_can_sleep_is_put_to_sleep_and_never_the_target(
    statuses: list[EngineStatus], keep: bool, sleeps: bool
) -> None:
    views = [view(n, status, sleep_supported=sleeps) for n, status in enumerate(statuses)]
    plan = plan_switch(state(*views), "org/0", None, keep_asleep=keep)
    assert plan.reasons
    if plan.leaving is None:
        assert plan.make_room
    else:
        assert not plan.make_room
        assert plan.leaving.model_id != "org/0"
        assert plan.put_aside == "unload" or (keep and sleeps and plan.leaving.status in (S.READY, S.SLEEPING))
