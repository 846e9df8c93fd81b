"""What falls or jumps in an engine's counters although nothing restarted: nobody generated a million tokens."""

import pytest

from vllm_mcp_hub.core.monitoring.following import Following
from vllm_mcp_hub.core.monitoring.points import Point, together
from vllm_mcp_protocol.metrics.reading import read_engine_metrics

STARTED = "process_start_time_seconds 1.7e9\n"
OTHER = "process_start_time_seconds 1.8e9\n"


RUNNING = "".join(f'vllm:num_requests_running{{engine="{rank}",model_name="m"}} 1\n' for rank in (0, 1))
"""Says that both ranks are there."""


def tokens(*ranks: object, model: str = "m") -> str:
    return "".join(
        f'vllm:generation_tokens_total{{engine="{rank}",model_name="{model}"}} {value}\n'
        for rank, value in enumerate(ranks)
    )


def latency(count: int, total: object) -> str:
    name = "vllm:e2e_request_latency_seconds"
    heights = f'{name}_bucket{{le="1.0"}} {count}\n{name}_bucket{{le="+Inf"}} {count}\n'
    return f"{heights}{name}_sum {total}\n{name}_count {count}\n"


def followed(texts: list[str], step_s: float = 5.0) -> list[Point]:
    following = Following()
    return [
        following.look(1000.0 + step_s * number, read_engine_metrics(text.encode()))
        for number, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param(
            [tokens(1_000_000, 500_000), tokens(1_000_100), tokens(1_000_200), tokens(1_000_300, 500_100)],
            [None, None, 100, None],
            id="a rank goes, and comes back",
        ),
        pytest.param(
            [tokens(1_000_000, model="a"), tokens(1_000_100, model="b"), tokens(1_000_200, model="b")],
            [None, None, 100],
            id="another model is told",
        ),
        pytest.param(
            [tokens(1_000_000, 500_000), tokens(1_000_100, "NaN"), tokens(1_000_200, 500_200)],
            [None, None, 400],
            id="not a number once",
        ),
        pytest.param(
            [RUNNING + tokens(1_000_000, n) for n in (500_000, "x", 500_200)],
            [None, None, 200],
            id="malformed once, so that the sum falls",
        ),
        pytest.param(
            [tokens(1_000_000, "NaN"), tokens(1_000_100, 500_100), tokens(1_000_200, 500_200)],
            [None, None, 200],
            id="not a number in the first look",
        ),
    ],
)
@pytest.mark.parametrize("started", [STARTED, ""])
def test_what_falls_or_jumps_but_does_not_restart_is_a_gap(
    texts: list[str], expected: list[float | None], started: str
) -> None:
    points = followed([text + started for text in texts])
    assert [point.counter("generation_tokens") for point in points] == expected


def test_a_fall_in_one_process_is_waited_out_and_after_two_minutes_believed() -> None:
    once = followed([tokens(n) + STARTED for n in (1_000_000, 900_000, 900_100, 1_000_100)])
    assert [point.counter("generation_tokens") for point in once] == [None, None, None, 100]
    for_good = followed([tokens(n) + STARTED for n in (1_000_000, *range(900_000, 900_270, 10))])
    assert [point.counter("generation_tokens") for point in for_good] == [*[None] * 26, 10, 10]


def test_a_restart_is_told_by_the_start_or_by_a_fall_where_no_start_is_known() -> None:
    known = followed([tokens(100, 100) + STARTED, tokens(130) + OTHER, tokens(140) + OTHER])
    assert [point.counter("generation_tokens") for point in known] == [None, 130, 10]
    unknown = followed([tokens(100) + latency(5, 5), tokens(30) + latency(7, 7), tokens(40) + latency(8, 8)])
    assert [point.counter("generation_tokens") for point in unknown] == [None, 30, 10]
    assert [point.histograms["e2e_request_latency_seconds"].count for point in unknown[1:]] == [7, 1]


def test_a_histogram_with_a_bad_sum_costs_only_itself_and_comes_back_whole() -> None:
    texts = [
        tokens(10 * number) + latency(2 * number, "NaN" if number in (2, 3) else 2 * number) + STARTED
        for number in range(6)
    ]
    points = followed(texts)
    assert [point.counter("generation_tokens") for point in points] == [None, 10, 10, 10, 10, 10]
    counts = [one.count if (one := point.histograms.get("e2e_request_latency_seconds")) else None for point in points]
    assert counts == [None, 2, None, None, 6, 2]
    whole = together(points)
    assert whole is not None
    assert (whole.histograms["e2e_request_latency_seconds"].mean, whole.covered_s) == (1.0, 25)


def test_what_appears_counts_from_zero() -> None:
    """A label is there from the first request on that has it."""
    ended = 'vllm:request_success_total{finished_reason="stop"} 1\n'
    first = 'vllm:request_success_total{finished_reason="error"} 3\n'
    points = followed([ended + STARTED, ended + first + STARTED])
    assert points[1].counter("request_success:error") == 3
    assert points[1].counter("request_success") == 3
