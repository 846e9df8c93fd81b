"""Whether an engine gets on with what it has to do."""

import pytest

from vllm_mcp_hub.core.monitoring.observing import Moving
from vllm_mcp_protocol.metrics.arrangement import EngineReading
from vllm_mcp_protocol.metrics.reading import read_engine_metrics

_TEXT = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0"}} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0"}} {waiting}
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{{engine="0"}} {tokens}
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{{engine="0",le="+Inf"}} {steps}
vllm:iteration_tokens_total_sum{{engine="0"}} {steps}
vllm:iteration_tokens_total_count{{engine="0"}} {steps}
"""


def reading(running: int, tokens: int = 5, steps: int = 5, waiting: int = 0) -> EngineReading:
    return read_engine_metrics(_TEXT.format(running=running, waiting=waiting, tokens=tokens, steps=steps).encode())


@pytest.mark.parametrize(
    ("looks", "stuck_s"),
    [
        ([reading(1), reading(1), reading(1)], 20),
        ([reading(1, 5, 5), reading(1, 5, 6), reading(1, 5, 7)], 0),  # a long prefill makes steps
        ([reading(1, 5, 5), reading(1, 6, 5)], 0),
        ([reading(1), reading(0), reading(1), reading(1)], 10),
        ([reading(0), reading(0)], 0),
        ([reading(0, waiting=3), reading(0, waiting=3)], 10),  # none of them is begun
        ([reading(1), reading(0, waiting=1), reading(1)], 20),
        ([], None),
    ],
)
def test_an_engine_is_stuck_only_while_it_has_requests_and_neither_counter_moves(
    looks: list[EngineReading], stuck_s: float | None
) -> None:
    moving = Moving()
    for number, look in enumerate(looks):
        moving.look(1000.0 + number * 10, look)
    assert moving.stuck_s == stuck_s


def test_an_engine_that_is_looked_at_ten_times_a_second_is_stuck_as_long_as_any_other() -> None:
    moving = Moving()
    for number in range(5001):
        moving.look(number / 10, reading(1))
    assert moving.stuck_s == pytest.approx(500)


def test_a_host_that_slept_and_a_clock_that_was_set_prove_nothing() -> None:
    moving = Moving()
    for at_s in (1000, 1005, 1900, 1905, 500, 505):
        moving.look(at_s, reading(1), longest_step_s=60)
    assert moving.stuck_s == 5 + 60 + 5 + 0 + 5
