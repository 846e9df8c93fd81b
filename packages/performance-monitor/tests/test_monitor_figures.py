"""Figures for people from histograms, held against the values themselves."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.metrics.histogram import Histogram
from vllm_mcp_protocol.monitoring import GaugeStat, SubjectWindow
from vllm_performance_monitor.core.figures import Cache, Requests, cache, in_total, latency, requests

BOUNDS = (0.3, 0.5, 0.8, 1.0, 2.5)
"""As vLLM's of queue times begin, seconds."""


def counted(values: list[float]) -> Histogram:
    counts = [0.0] * (len(BOUNDS) + 1)
    for value in values:
        counts[bisect_left(BOUNDS, value)] += 1
    return Histogram(BOUNDS, tuple(counts), math.fsum(values))


def test_a_wide_first_bucket_does_not_make_short_waits_long() -> None:
    told = latency(counted([0.000024] * 60))
    assert told.avg_ms == pytest.approx(0.024)
    assert told.p50_ms == pytest.approx(0.048)
    assert told.p99_ms == pytest.approx(2.4)
    assert told.p99_error_ms == pytest.approx(2.4)


@given(st.lists(st.floats(0, 2.4), min_size=1, max_size=60))
def test_the_true_quantile_lies_within_the_error(values: list[float]) -> None:
    """Of the p99, whose error is told; the values at rank ceil(q n), as the buckets count them."""
    told = latency(counted(values))
    true_ms = 1000 * sorted(values)[math.ceil(0.99 * len(values)) - 1]
    assert told.p99_ms is not None
    assert told.p99_error_ms is not None
    assert abs(told.p99_ms - true_ms) <= told.p99_error_ms + 0.002


def window(name: str, seen: Histogram, running: float, usage: float) -> SubjectWindow:
    gauges = {"num_requests_running": running, "kv_cache_usage_perc": usage}
    return SubjectWindow(
        subject=f"engine:{name}",
        begin_s=0,
        end_s=60,
        looks=12,
        covered_s=60,
        gauges={key: GaugeStat(value, value / 2, value * 2, value) for key, value in gauges.items()},
        counters={"generation_tokens": 100 * running},
        histograms={"e2e": seen},
    )


def test_engines_in_total() -> None:
    other = Histogram((7.0, 9.0), (1.0, 2.0, 4.0), 60.0)  # of a version that counts in buckets of its own
    few, many = counted([0.4] * 3), counted([0.9] * 6)
    total = in_total([window("a", few, 1, 0.25), window("b", other, 2, 0.5), window("c", many, 3, 0.75)])
    assert (total.covered_s, total.looks, total.counters) == (60, 36, {"generation_tokens": 600})
    assert total.gauges["num_requests_running"] == GaugeStat(6, 3, 12, 6)
    assert total.gauges["kv_cache_usage_perc"] == GaugeStat(0.5, 0.25, 1, 0.5)
    assert total.histograms["e2e"].counts == counted([0.4] * 3 + [0.9] * 6).counts, "7 of another kind are fewer"
    assert in_total([window("b", other, 2, 0.5)]).histograms["e2e"] == other


def test_shares_of_several_engines_are_no_sum() -> None:
    """By their meaning, whatever they are called; what is no metric of vLLM is added."""
    shares = ("engine_sleep_state:awake", "spec_decode_draft_acceptance_rate", "cpu_cache_usage_perc")
    counts = ("num_requests_waiting_by_reason:capacity", "process_open_fds", "of_somebody_else")
    one = seen({}, **dict.fromkeys((*shares, *counts), GaugeStat(0.75, 0.5, 1, 0.75)))
    total = in_total([one, one]).gauges
    assert {total[name] for name in shares} == {GaugeStat(0.75, 0.5, 1, 0.75)}
    assert {total[name] for name in counts} == {GaugeStat(1.5, 1, 2, 1.5)}


def seen(counters: dict[str, float], **gauges: GaugeStat) -> SubjectWindow:
    return SubjectWindow(
        subject="engine:a",
        begin_s=0,
        end_s=60,
        looks=12,
        covered_s=60,
        gauges=gauges,
        counters=counters,
        histograms={},
    )


def test_requests_that_failed_and_those_whose_clients_went_away() -> None:
    ended = {"request_success": 100.0, "request_success:stop": 85.0, "request_success:abort": 10.0}
    counters = ended | {"request_success:error": 5.0, "http_requests:5xx": 25.0, "http_requests:4xx": 7.0}
    stat = GaugeStat(2.5, 1, 4, 3)
    assert requests(seen(counters | {"num_preemptions": 2.0}, num_requests_running=stat)) == Requests(
        total=120,
        successful=85,
        failed=25,
        failed_by_cause={"error": 5, "http_5xx": 25},
        aborted=10,
        refused=7,
        running=3,
        error_rate_percent=20.833,
        preemptions=2,
    )
    assert requests(seen(ended)).error_rate_percent == 0
    assert requests(seen({"request_success": 0.0})).error_rate_percent is None
    assert requests(seen({})) == Requests()


def test_the_cache_in_percent() -> None:
    counters = {"prefix_cache_queries": 400.0, "prefix_cache_hits": 100.0}
    told = cache(seen(counters, kv_cache_usage_perc=GaugeStat(0.5, 0.25, 0.75, 0.625)))
    assert told == Cache(kv_usage_percent=62.5, kv_usage_max_percent=75.0, prefix_hit_rate_percent=25.0)
    assert cache(seen({"prefix_cache_queries": 0.0})) == Cache()
