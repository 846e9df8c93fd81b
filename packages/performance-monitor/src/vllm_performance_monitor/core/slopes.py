"""How fast a series rises or falls, and how sure that is. Pure.

The slope is the median of the slopes between all pairs of points: Theil, Proc. Kon. Ned. Akad. Wet. A 53 (1950) 386;
Sen, JASA 63 (1968) 1379. A quarter of the points may be nonsense without moving it far, gaps do not matter. Its
interval is Sen's, from Kendall's variance with ties. Measurements a few seconds apart resemble each other, so that
variance is multiplied by the effect of autocorrelation in the ranks of the residuals (Hamed & Rao, J. Hydrol. 204
(1998) 182), and Student's quantile stands for the normal one, with the effective number of points.
"""

from collections import Counter
from dataclasses import dataclass
from math import sqrt
from statistics import median

from vllm_performance_monitor.core.series import (
    Points,
    TooLittle,
    inflation,
    ranks,
    standard_error_of_median,
    student_quantile,
    thinned,
)

LEAST_POINTS = 12
LEAST_EFFECTIVE = 6.0
"""Below this, neighbours resemble each other so much that a drift by chance looks like a slope."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through the series: it goes through (`pivot_at`, `pivot_value`)."""

    per_second: float
    low: float
    high: float
    """The interval at `confidence`."""
    confidence: float
    pivot_at: float
    pivot_value: float
    pivot_error: float
    """Standard error of `pivot_value`."""
    span_s: float
    points: int
    """How many it was computed from, after thinning."""
    effective_points: float
    """How many independent ones they are worth."""

    @property
    def is_sure(self) -> bool:
        """The interval does not contain zero."""
        return self.low > 0 or self.high < 0

    @property
    def change(self) -> float:
        """Over the whole span."""
        return self.per_second * self.span_s

    def at(self, time: float) -> float:
        return self.pivot_value + self.per_second * (time - self.pivot_at)


def slope_of(points: Points, *, confidence: float = 0.95) -> Slope | TooLittle:
    """`points` as `series.clean` gives them."""
    used = thinned(points)
    n = len(used)
    if n < LEAST_POINTS:
        return TooLittle(f"{n} points; a slope needs {LEAST_POINTS}")
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for number, a in enumerate(used) for b in used[number + 1 :])
    slope = median(slopes)
    pivot_at = median(at for at, _ in used)
    residuals = [value - slope * (at - pivot_at) for at, value in used]
    factor = inflation(ranks(residuals))
    effective = n / factor
    if effective < LEAST_EFFECTIVE:
        return TooLittle(
            f"its {n} points are worth {effective:.1f} independent ones, because it moves slowly; look at a longer time"
        )
    reach = student_quantile(confidence, effective - 2) * sqrt(_kendall_variance([v for _, v in used]) * factor)
    low = round((len(slopes) - reach) / 2)
    return Slope(
        per_second=slope,
        low=slopes[max(low - 1, 0)],
        high=slopes[min(len(slopes) - low, len(slopes) - 1)],
        confidence=confidence,
        pivot_at=pivot_at,
        pivot_value=median(residuals),
        pivot_error=standard_error_of_median(residuals, effective),
        span_s=used[-1][0] - used[0][0],
        points=n,
        effective_points=effective,
    )


def _kendall_variance(values: list[float]) -> float:
    """Of Kendall's S without a trend, with ties (Sen 1968, eq. 2.9)."""
    n = len(values)
    ties = sum(size * (size - 1) * (2 * size + 5) for size in Counter(values).values())
    return (n * (n - 1) * (2 * n + 5) - ties) / 18
