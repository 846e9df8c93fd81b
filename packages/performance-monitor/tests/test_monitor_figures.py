"""Figures for people from histograms, held against the values themselves."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.metrics.histogram import Histogram
from vllm_performance_monitor.core.figures import latency

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
