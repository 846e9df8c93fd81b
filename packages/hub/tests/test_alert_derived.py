"""What is made of windows of samples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_hub.core.alerting.derived import (
    error_rate,
    increase,
    per_minute,
    queue_growth,
    restarts,
    temperature_margin,
)


def points(*values: float, step_s: float = 10) -> list[tuple[float, float]]:
    return [(1000 + number * step_s, value) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("waiting", "grown"),
    [
        ((0, 0, 5, 10, 15, 20, 25, 30, 35), 20),
        ((0, 0, 0, 90, 90, 40, 10, 5, 0), 0),
        ((50, 50, 50, 50, 50, 50, 50, 50, 50), 0),
        ((10, 0, 10, 0, 10, 0, 10, 0, 10), 0),
        ((90, 70, 50, 40, 30, 20, 10, 5, 0), 0),
        ((0, 10, 20, 30, 40), None),
        ((), None),
    ],
)
def test_a_queue_grows_only_when_it_stays_longer(waiting: tuple[float, ...], grown: float | None) -> None:
    assert queue_growth(points(*waiting)) == grown


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), min_size=1, max_size=5))
def test_a_counter_keeps_its_increase_over_restarts(runs: list[list[int]]) -> None:
    """An oracle that knows what happened: the first look of each run but the first sees what its engine did so far."""
    seen: list[float] = []
    grown = 0
    for number, steps in enumerate(runs):
        total = 0
        for step in steps:
            total += step
            grown += step if seen else 0
            if number and total >= seen[-1] and total == steps[0]:
                return  # a restart that no counter shows
            seen.append(total)
    found = increase(points(*seen))
    assert found == (grown if len(seen) > 1 else None)


def test_rates() -> None:
    assert per_minute(points(0, 5, 10)) == 30
    assert per_minute(points(10)) is None
    assert per_minute([(5, 1), (5, 2)]) is None
    assert error_rate(95, 5) == 5
    assert error_rate(5, 1) is None, "one failure among few requests is no rate"
    assert restarts([0, 1000, 4000, 4100, 9000], now=4500) == 3
    assert temperature_margin(80, 95) == 15
    assert temperature_margin(80, None) is None
