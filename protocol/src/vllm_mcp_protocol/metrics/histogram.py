"""Histograms: differences, sums, quantiles with their error. Pure.

A histogram knows how many observations fell between two bounds and nothing about where between them; everything read
out of one carries that error, and here it says how large it is.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import lt, sub
from typing import NamedTuple, Self


class BadHistogram(ValueError):
    """Buckets that are no histogram, or two that have nothing in common; the message says which."""


@lru_cache(maxsize=256)
def _rise(bounds: tuple[float, ...]) -> bool:
    """Do they, each finite? An engine has the same twenty sets of them all its life."""
    return all(map(math.isfinite, bounds)) and all(map(lt, bounds, bounds[1:]))


class Quantile(NamedTuple):
    """An estimate: the true quantile is above `low` and at most `high`, in the unit of the bounds."""

    value: float
    low: float
    """-inf in the first bucket of a histogram whose first bound is not above zero."""
    high: float
    """+inf in the last bucket: then `value` is the last finite bound, and the quantile is at least that."""

    @property
    def error(self) -> float:
        """Width of the bucket: how far `value` can be off. +inf where the bucket has no end."""
        return self.high - self.low

    @property
    def at_least(self) -> bool:
        """Is `value` only what the quantile is above of?"""
        return math.isinf(self.high)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many observations fell into each bucket.

    Raises BadHistogram unless the bounds rise, the counts are finite and not negative, and there is one more of them.
    """

    bounds: tuple[float, ...]
    """Upper bounds, inclusive, rising, without +Inf. Below the first one, a bucket begins at 0 or at -inf."""
    counts: tuple[float, ...]
    """Observations by bucket, not cumulative; the last one is for what is above all bounds."""
    sum: float
    """Of all observations, in the unit of the bounds."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.bounds) + 1:
            raise BadHistogram(f"{len(self.bounds)} bounds need {len(self.bounds) + 1} counts, not {len(self.counts)}")
        if not _rise(self.bounds):
            raise BadHistogram("the bounds do not rise")
        if not math.isfinite(sum(self.counts)) or min(self.counts) < 0:
            raise BadHistogram("a bucket has a negative count, or none")

    @classmethod
    def of_heights(cls, bounds: tuple[float, ...], heights: Sequence[float], total: float) -> Self:
        """From cumulative counts, that of +Inf last. Raises BadHistogram."""
        return cls(bounds, tuple(map(sub, heights, (0.0, *heights))), total)

    @property
    def count(self) -> float:
        """Number of observations."""
        return math.fsum(self.counts)

    @property
    def mean(self) -> float | None:
        """Exact, in the unit of the bounds; None without observations, or where the sum is not finite."""
        count = self.count
        return self.sum / count if count and math.isfinite(self.sum) else None


def quantile(histogram: Histogram, q: float) -> Quantile | None:
    """The value that the share `q` of all observations does not exceed; None without observations or bounds.

    Linear inside a bucket, as PromQL's `histogram_quantile`: the first bucket begins at 0, or is taken as its bound
    when that is not above 0; of the last bucket only the beginning is known. Two things differ: `q` outside 0–1 raises
    ValueError (PromQL: ±Inf), and `q` = 0 is where the first bucket that holds anything begins (PromQL: NaN, when the
    very first is empty).
    """
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile is between 0 and 1, not {q:g}")
    bounds, counts = histogram.bounds, histogram.counts
    heights = list(accumulate(counts))
    if not bounds or not heights[-1]:
        return None
    rank = q * heights[-1]
    at = bisect_left(heights, rank) if rank else next(i for i, count in enumerate(counts) if count)
    if at >= len(bounds):
        return Quantile(bounds[-1], bounds[-1], math.inf)
    high = bounds[at]
    if at == 0 and high <= 0:
        return Quantile(high, -math.inf, high)
    low = bounds[at - 1] if at else 0.0
    share = (rank - (heights[at] - counts[at])) / counts[at]
    return Quantile(low + (high - low) * min(1.0, max(0.0, share)), low, high)


def bounded_quantile(histogram: Histogram, q: float) -> Quantile | None:
    """The same of what is never negative, and no larger than the mean allows.

    vLLM's first bucket of queue times ends at 300 ms, and most requests wait for microseconds. The share `1 - q` of all
    lies at or above a quantile and none below 0, so that it is `mean / (1 - q)` at the most (Markov).
    """
    told, mean = quantile(histogram, q), histogram.mean
    if told is None or mean is None or told.at_least or q == 1:
        return told
    most = mean / (1 - q)
    return Quantile(min(told.value, most), min(told.low, most), min(told.high, most))


def increase(before: Histogram, after: Histogram) -> Histogram | None:
    """What was observed between two scrapes of one cumulative histogram.

    None where `after` is not what `before` became: observations never leave a bucket, seconds and tokens are not
    negative, so that their sum only grows, and bounds stay. Not all restarts can be seen here.
    """
    counts, total = tuple(map(sub, after.counts, before.counts)), after.sum - before.sum
    if before.bounds != after.bounds or min(counts) < 0 or (total < 0 and after.bounds and after.bounds[0] >= 0):
        return None
    return Histogram(after.bounds, counts, total)


def add(*histograms: Histogram) -> Histogram:
    """All together, one at least. With different bounds, on those that they share: coarser, and still exact.

    Raises BadHistogram where they share none (of such that have any): that would be a count without a distribution.
    """
    bounds = histograms[0].bounds
    if any(one.bounds != bounds for one in histograms):
        shared = set(bounds).intersection(*(one.bounds for one in histograms))
        if not shared:
            raise BadHistogram("the histograms have no bound in common")
        return add(*(_on(one, shared) for one in histograms))
    counts = tuple(map(sum, zip(*(one.counts for one in histograms), strict=True)))
    return Histogram(bounds, counts, sum(one.sum for one in histograms))


def _on(histogram: Histogram, shared: set[float]) -> Histogram:
    """The same histogram on some of its bounds."""
    counts, pending = list[float](), 0.0
    for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        pending += count
        if bound in shared or bound == math.inf:
            counts.append(pending)
            pending = 0.0
    return Histogram(tuple(bound for bound in histogram.bounds if bound in shared), tuple(counts), histogram.sum)
