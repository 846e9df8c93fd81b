"""Which engines are missed: the same for a hub that saw it all and for one that is told of it afterwards."""

import pytest

from vllm_mcp_hub.core.monitoring.fleet import MISSED_S, RESTARTS_S, Fleet, Member
from vllm_mcp_protocol.model import EngineStatus

NOW_S = 1e9


def dead(number: int, ended_at: float) -> Member:
    return Member(f"e{number}", "m", EngineStatus.STOPPED, True, True, ended_at)


def unloaded(number: int, ended_at: float, *, was_ready: bool = True) -> Member:
    return Member(f"e{number}", "m", EngineStatus.STOPPED, was_ready, False, ended_at)


def living(number: int, status: EngineStatus) -> Member:
    return Member(f"e{number}", "m", status, status is not EngineStatus.STARTING, False)


@pytest.mark.parametrize(
    ("members", "missed"),
    [
        ([dead(1, NOW_S - 60)], True),
        ([dead(1, NOW_S - MISSED_S - 1)], False),
        ([dead(1, NOW_S - 60), unloaded(2, NOW_S - 30)], False),
        ([dead(1, NOW_S - 60), unloaded(2, NOW_S - 30, was_ready=False)], True),
        ([unloaded(1, NOW_S - 90), dead(2, NOW_S - 60)], True),
        ([dead(1, NOW_S - 60), living(2, EngineStatus.STARTING)], True),
        ([dead(1, NOW_S - 60), living(2, EngineStatus.SLEEPING)], False),
        ([dead(1, NOW_S - 60), living(2, EngineStatus.READY)], False),
    ],
)
def test_a_hub_that_comes_later_misses_what_its_predecessor_missed(members: list[Member], missed: bool) -> None:
    fleet = Fleet()
    for _ in range(2):
        fleet.look(members, NOW_S)
        assert ("m" in fleet.fallen) is missed


def test_deaths_count_as_restarts_from_when_they_happened() -> None:
    fleet = Fleet()
    fleet.look([dead(1, NOW_S - RESTARTS_S - 1), dead(2, NOW_S - 60), dead(3, NOW_S - 30)], NOW_S)
    assert (fleet.restarts("m"), fleet.fallen["m"]) == (2, NOW_S - 30)
    fleet.look([], NOW_S + RESTARTS_S - 50)
    assert fleet.restarts("m") == 1
