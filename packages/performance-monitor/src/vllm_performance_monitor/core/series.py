"""Series of measurements with gaps, and the robust statistics that all of `trends` uses. Pure.

Sources: the median absolute deviation as a scale, Hampel, JASA 69 (1974) 383; the effective size of a correlated
sample, Bayley & Hammersley, J. R. Stat. Soc. Suppl. 8 (1946) 184, with the sum cut at the first lag that is not
positive (after Geyer, Stat. Sci. 7 (1992) 473); the bias of a correlation of residuals, Marriott & Pope, Biometrika 41
(1954) 390; Student's quantile, Abramowitz & Stegun 26.7.5.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import NormalDist, fmean, median

Point = tuple[float, float]
Points = Sequence[Point]
"""(unix seconds, value), in order of time, no time twice."""

MAD_TO_SIGMA = 1.4826
"""1 / Φ⁻¹(3/4): makes the MAD of normal noise its standard deviation."""
_LARGEST = 1e100
"""Nothing measures more, and its square is still a number."""
MOST_POINTS = 240
"""What slopes and change points look at: both need the square of it, tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class TooLittle:
    """The data does not carry an answer, and why."""

    reason: str


def clean(points: Iterable[tuple[float, float | None]]) -> list[Point]:
    """What can be computed with: told, finite, in order of time; of points at one time their mean."""
    at_time: dict[float, list[float]] = {}
    for at, value in points:
        if value is not None and abs(value) < _LARGEST and isfinite(at):  # false for NaN, too
            at_time.setdefault(at, []).append(value)
    return [(at, fmean(at_time[at])) for at in sorted(at_time)]


def thinned(points: Points, most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: medians over equal stretches of time. A stretch without points stays a gap."""
    if len(points) <= most:
        return list(points)
    begin, end = points[0][0], points[-1][0]
    bins: dict[int, list[Point]] = {}
    for at, value in points:
        bins.setdefault(min(int((at - begin) / (end - begin) * most), most - 1), []).append((at, value))
    return [(fmean(at for at, _ in bins[n]), median(value for _, value in bins[n])) for n in sorted(bins)]


def spread(values: Sequence[float]) -> float:
    """The standard deviation, as the median absolute deviation says it; 0 when more than half are equal."""
    middle = median(values)
    return MAD_TO_SIGMA * median(abs(value - middle) for value in values)


def ranks(values: Sequence[float]) -> list[float]:
    """Mean ranks: outliers are as far as their place, not as their size."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) - 1) / 2 for value in values]


def inflation(residuals: Sequence[float], fitted: int = 2) -> float:
    """By which factor correlated neighbours make the variance of a mean or slope larger; about 1 for white noise.

    The larger of what the correlations at all lags add up to and of what the first one implies. `fitted` are the
    parameters that were fitted: each makes the residuals look less correlated than the noise is.
    """
    factor = 1.0
    for lag, correlation in enumerate(_correlations(residuals), start=1):
        factor += 2 * (1 - lag / len(residuals)) * correlation
    first = min(first_correlation(residuals, fitted), 0.99)
    return max(factor, (1 + first) / (1 - first))


def first_correlation(residuals: Sequence[float], fitted: int) -> float:
    """Between neighbours, without the bias that fitting gives it (to first order in 1/n)."""
    n = len(residuals)
    found = correlation_at(residuals, 1)
    return max(0.0, found + (fitted + 4 * max(found, 0.0)) / n)


def correlation_at(values: Sequence[float], lag: int) -> float:
    mean = fmean(values)
    deviations = [value - mean for value in values]
    variance = sum(value * value for value in deviations)
    if variance <= 0:
        return 0.0
    return sum(a * b for a, b in zip(deviations, deviations[lag:], strict=False)) / variance


def _correlations(values: Sequence[float]) -> Iterator[float]:
    """At lags 1, 2, …, until the first that is not positive."""
    for lag in range(1, len(values) - 1):
        found = correlation_at(values, lag)
        if found <= 0:
            return
        yield found


def student_quantile(confidence: float, freedom: float) -> float:
    """The two-sided quantile of Student's t: 1.96 for 0.95 and many degrees of freedom."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def standard_error_of_median(values: Sequence[float], effective: float) -> float:
    """√(π/2n) standard deviations: what the median of normal noise varies by."""
    return 1.2533 * spread(values) / sqrt(effective)
