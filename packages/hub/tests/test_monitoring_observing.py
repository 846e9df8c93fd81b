"""What the rules are told of an engine, a GPU and the host, in the units of their thresholds."""

import pytest

from vllm_mcp_hub.core.monitoring.observing import Moving, engine_observations, gauge_observations
from vllm_mcp_hub.core.monitoring.points import make_point
from vllm_mcp_hub.core.monitoring.timeline import Timeline
from vllm_mcp_protocol.metrics.histogram import Histogram

NOW_S = 10_000.0


def observed(counters: dict[str, float], *, requests: int = 100, answers: bool = True) -> dict[str, float | None]:
    """Of an engine that was looked at each ten seconds for a minute, and followed for the last half of it."""
    timeline, gauges = Timeline(), {"kv_cache_usage_perc": 0.5, "num_requests_waiting": 3.0}
    for at_s in (NOW_S - 50, NOW_S - 40, NOW_S - 30):
        timeline.add(make_point(at_s, at_s, gauges))
    for at_s in (NOW_S - 20, NOW_S - 10):
        timeline.add(make_point(at_s - 10, at_s, gauges, dict.fromkeys(counters, 0.0)))
    latency = Histogram((1.0, 2.0), (0.0, float(requests), 0.0), 1.9 * requests)
    histograms = {"e2e_request_latency_seconds": latency, "time_to_first_token_seconds": latency}
    timeline.add(make_point(NOW_S - 10, NOW_S, gauges | {"kv_cache_usage_perc": 0.75}, counters, histograms))
    found = list(engine_observations("engine:a", timeline, Moving(), 1, NOW_S, answers=answers))
    assert {(one.subject, one.at) for one in found} == {("engine:a", NOW_S)}
    return {one.metric: one.value for one in found}


def test_an_engine_in_the_units_of_thresholds() -> None:
    ended = {"request_success": 100.0, "request_success:abort": 10.0, "request_success:error": 5.0}
    found = observed({**ended, "num_preemptions": 8.0})
    assert found == {
        "answering": 1,
        "restarts": 1,
        "latency_p99": pytest.approx(1990),
        "ttft_p99": pytest.approx(1990),
        "kv_usage": 75,
        "requests_waiting": 3,
        "preemptions": 16,
        "error_rate": 5,
        "queue_growth": 0,
        "stuck_seconds": None,
    }


def test_answers_of_5xx_are_failures_and_clients_that_go_away_are_none() -> None:
    assert observed({"request_success": 0.0, "http_requests:5xx": 499.0})["error_rate"] == 100
    assert observed({"request_success": 100.0, "request_success:abort": 90.0})["error_rate"] == 0
    assert observed({"request_success": 19.0})["error_rate"] is None, "too few to tell"


def test_a_p99_of_few_requests_is_not_told_and_nothing_of_an_engine_that_does_not_answer() -> None:
    assert observed({}, requests=19)["latency_p99"] is None
    assert observed({}, answers=False) == {"answering": 0, "restarts": 1}


def test_hardware_in_the_units_of_thresholds() -> None:
    def told(subject: str, **gauges: float) -> dict[str, float | None]:
        found = gauge_observations(subject, make_point(NOW_S, NOW_S, gauges), NOW_S)
        return {one.metric: one.value for one in found}

    gpu = told("gpu:0", gpu_utilization_percent=98.0, gpu_temperature_celsius=70.0, gpu_temperature_margin_celsius=17.0)
    assert gpu == {
        "gpu_util": 98,
        "memory_util": None,
        "temperature": 70,
        "temperature_margin": 17,
        "gpu_present": 1,
    }
    assert told("gpu:0", gpu_lost=1.0)["gpu_present"] == 0
    host = told("host", host_disk_utilization_percent=91.0, host_disk_free_bytes=3.5 * 1024**3)
    assert host == {"disk_used": 91, "disk_free_gib": 3.5}
