"""One number of a point, by its name."""

import pytest

from vllm_mcp_hub.core.monitoring.points import make_point
from vllm_mcp_hub.core.monitoring.series import measure_of
from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.metrics.histogram import Histogram

POINT = make_point(
    100.0,
    110.0,
    {"kv_cache_usage_perc": 0.5},
    {"generation_tokens": 50.0, "request_success:stop": 20.0},
    {"request_queue_time_seconds": Histogram((0.3, 0.5, 0.8), (60.0, 0.0, 0.0, 0.0), 60 * 0.000024)},
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv_cache_usage_perc", 0.5),
        ("rate:generation_tokens", 5),
        ("increase:request_success:stop", 20),
        ("rate:request_queue_time_seconds", 6),
        ("mean:request_queue_time_seconds", 0.000024),
        # As get-metrics tells it: no more than the mean allows, in a first bucket that ends at 300 ms.
        ("p50:request_queue_time_seconds", 0.000048),
        ("p99:request_queue_time_seconds", 0.0024),
        ("p99:e2e_request_latency_seconds", None),
        ("rate:prompt_tokens", None),
        ("num_requests_running", None),
    ],
)
def test_a_number_of_a_point(name: str, value: float | None) -> None:
    found = measure_of(name)(POINT)
    assert found == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize("name", ["", "rate:", "Rate:x", "x\n", "p99:x; drop"])
def test_what_names_no_number(name: str) -> None:
    with pytest.raises(BadInput, match="names no number"):
        measure_of(name)
