"""Histograms against raw observations, and numpy's quantiles."""

import math
from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vllm_mcp_protocol.metrics.histogram import (
    BadHistogram,
    Histogram,
    Quantile,
    add,
    bounded_quantile,
    increase,
    quantile,
)

BOUNDS = st.lists(st.integers(-20, 60), min_size=1, max_size=8, unique=True).map(
    lambda some: tuple(map(float, sorted(some)))
)
OBSERVED = st.lists(st.integers(-30, 80).map(lambda tenths: tenths / 2), max_size=60)
SHARES = st.one_of(st.sampled_from([0.0, 0.5, 0.99, 1.0]), st.floats(0, 1))


def of(bounds: tuple[float, ...], observed: list[float]) -> Histogram:
    """What a client library counts: an observation belongs to the first bucket whose bound it does not exceed."""
    counts = [0.0] * (len(bounds) + 1)
    for value in observed:
        counts[bisect_left(bounds, value)] += 1
    return Histogram(bounds, tuple(counts), math.fsum(observed))


@given(BOUNDS, OBSERVED, SHARES)
def test_the_true_quantile_lies_in_the_stated_bucket(
    bounds: tuple[float, ...], observed: list[float], q: float
) -> None:
    found = quantile(of(bounds, observed), q)
    if not observed:
        assert found is None
        return
    assert found is not None
    true = float(np.quantile(np.array(observed), q, method="inverted_cdf"))
    if bounds[0] > 0 and true < 0:
        assert found.low == 0  # as in PromQL, the first bucket begins at 0: seconds and tokens are not negative
        return
    assert found.low <= true <= found.high
    assert found.low <= found.value <= found.high
    assert found.error == found.high - found.low
    assert found.at_least == (true > bounds[-1])


@given(BOUNDS, OBSERVED, SHARES)
def test_quantiles_are_promqls(bounds: tuple[float, ...], observed: list[float], q: float) -> None:
    """Written down from the documentation of histogram_quantile, over cumulative buckets and by interpolation."""
    assume(observed and q > 0)
    found = quantile(of(bounds, observed), q)
    assert found is not None
    heights = [sum(value <= bound for value in observed) for bound in (*bounds, math.inf)]
    rank = q * len(observed)
    at = next(i for i, height in enumerate(heights) if height >= rank)
    if at == len(bounds):
        expected = bounds[-1]
    elif at == 0 and bounds[0] <= 0:
        expected = bounds[0]
    else:
        start, base = (bounds[at - 1], heights[at - 1]) if at else (0.0, 0)
        expected = float(np.interp(rank, [base, heights[at]], [start, bounds[at]]))
    assert found.value == pytest.approx(expected, abs=1e-9)


def test_quantiles_at_the_edges() -> None:
    h = Histogram((1.0, 2.0, 4.0), (0.0, 4.0, 0.0, 4.0), 30.0)
    assert quantile(h, 0.25) == Quantile(1.5, 1.0, 2.0)
    assert quantile(h, 0.5) == Quantile(2.0, 1.0, 2.0)
    assert quantile(h, 0) == Quantile(1.0, 1.0, 2.0)
    last = quantile(h, 0.9)
    assert last == Quantile(4.0, 4.0, math.inf)
    assert last.at_least
    assert last.error == math.inf
    assert quantile(Histogram((0.0, 1.0), (3.0, 0.0, 0.0), 0.0), 0.5) == Quantile(0.0, -math.inf, 0.0)
    assert quantile(Histogram((1.0,), (0.0, 0.0), 0.0), 0.5) is None
    assert quantile(Histogram((), (5.0,), 9.0), 0.5) is None  # only +Inf
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            quantile(h, q)
    assert h.mean == 30 / 8
    assert Histogram((), (0.0,), 0.0).mean is None
    assert Histogram((), (1.0,), math.nan).mean is None


@given(st.lists(st.floats(0, 9), min_size=1, max_size=60), SHARES)
def test_a_quantile_is_no_larger_than_the_mean_allows(observed: list[float], q: float) -> None:
    bounds = (3.0, 4.0, 8.0)
    plain, found = quantile(of(bounds, observed), q), bounded_quantile(of(bounds, observed), q)
    assert plain is not None
    assert found is not None
    true = float(np.quantile(np.array(observed), q, method="inverted_cdf"))
    assert found.low - 1e-9 <= true <= found.high + 1e-9
    assert found.low <= found.value <= found.high
    assert found.at_least == plain.at_least
    assert found.at_least or q == 1 or found.value * (1 - q) <= math.fsum(observed) / len(observed) + 1e-9
    assert found.value <= plain.value
    assert found.error <= plain.error


def test_a_quantile_whose_mean_is_unknown_is_bounded_by_nothing() -> None:
    waits = Histogram((0.3, 0.5), (60.0, 0.0, 0.0), math.nan)
    assert bounded_quantile(waits, 0.99) == quantile(waits, 0.99)
    assert bounded_quantile(Histogram((0.3,), (0.0, 0.0), 0.0), 0.99) is None


@pytest.mark.parametrize(
    ("bounds", "counts"),
    [
        ((1.0,), (1.0,)),
        ((2.0, 1.0), (0.0, 0.0, 0.0)),
        ((1.0, 1.0), (0.0, 0.0, 0.0)),
        ((math.nan,), (0.0, 0.0)),
        ((math.inf,), (0.0, 0.0)),
        ((1.0,), (-1.0, 0.0)),
        ((1.0,), (math.nan, 0.0)),
        ((1.0,), (0.0, math.inf)),
    ],
)
def test_what_is_no_histogram(bounds: tuple[float, ...], counts: tuple[float, ...]) -> None:
    with pytest.raises(BadHistogram):
        Histogram(bounds, counts, 0.0)


def test_from_cumulative_counts() -> None:
    assert Histogram.of_heights((1.0, 2.0), (2.0, 2.0, 5.0), 7.0) == Histogram((1.0, 2.0), (2.0, 0.0, 3.0), 7.0)
    bad: list[tuple[tuple[float, ...], tuple[float, ...]]] = [
        ((), ()),
        ((1.0,), (2.0,)),
        ((1.0,), (2.0, 1.0)),
        ((1.0,), (math.inf, math.inf)),
        ((math.nan,), (1.0, 1.0)),
    ]
    for bounds, heights in bad:
        with pytest.raises(BadHistogram):
            Histogram.of_heights(bounds, heights, 0.0)


@given(BOUNDS, OBSERVED, OBSERVED)
def test_what_came_between_two_scrapes(bounds: tuple[float, ...], first: list[float], second: list[float]) -> None:
    found = increase(of(bounds, first), of(bounds, first + second))
    expected = of(bounds, second)
    if found is None:
        # Only seconds and tokens: with negative observations, a sum that falls is no sign of a restart.
        assert bounds[0] >= 0
        assert sum(second) < 0
        return
    assert found.counts == expected.counts
    assert found.sum == pytest.approx(expected.sum)


@given(BOUNDS, OBSERVED, OBSERVED)
def test_nothing_leaves_a_bucket(bounds: tuple[float, ...], first: list[float], second: list[float]) -> None:
    before, after = of(bounds, first), of(bounds, second)
    found = increase(before, after)
    if any(new < old for new, old in zip(after.counts, before.counts, strict=True)):
        assert found is None
    assert found is None or min(found.counts) >= 0


def test_what_a_histogram_does_not_become() -> None:
    before = Histogram((1.0, 2.0), (3.0, 0.0, 0.0), 3.0)
    assert increase(before, Histogram((1.0, 2.0), (3.0, 1.0, 0.0), 5.0)) == Histogram((1.0, 2.0), (0, 1, 0), 2.0)
    slower = Histogram((1.0, 2.0), (2.0, 5.0, 0.0), 9.0)  # cumulative: 2, 7, 7, of which only the first falls
    lighter = Histogram((1.0, 2.0), (4.0, 0.0, 0.0), 2.0)
    other = Histogram((1.0, 3.0), (9.0, 9.0, 9.0), 99.0)
    assert [increase(before, after) for after in (slower, lighter, other)] == [None] * 3


@given(st.lists(st.tuples(BOUNDS, OBSERVED), min_size=1, max_size=4), st.booleans())
def test_histograms_together(parts: list[tuple[tuple[float, ...], list[float]]], alike: bool) -> None:
    if alike:
        parts = [(parts[0][0], observed) for _, observed in parts]
    histograms = [of(bounds, observed) for bounds, observed in parts]
    shared = tuple(sorted(set.intersection(*(set(bounds) for bounds, _ in parts))))
    if not shared:
        with pytest.raises(BadHistogram, match="in common"):
            add(*histograms)
        return
    found, expected = add(*histograms), of(shared, [value for _, observed in parts for value in observed])
    assert (found.bounds, found.counts) == (expected.bounds, expected.counts)
    assert found.sum == pytest.approx(expected.sum)
