"""What is made of windows of samples."""

import pytest

from vllm_mcp_hub.core.alerting.derived import error_rate, queue_growth


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


def test_a_rate_needs_requests() -> None:
    assert error_rate(95, 5) == 5
    assert error_rate(5, 1) is None, "one failure among few requests is no rate"
