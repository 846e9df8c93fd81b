"""When a series will reach a threshold if it goes on as it does. Pure.

The line of `slopes` is continued; the interval comes from the two ends of the slope's interval, each with the line's
height lower and higher by its own uncertainty. No forecast is given where the slope may be zero, and none farther ahead
than `MOST_SPANS` times the time that was looked at: a line fitted to an hour says nothing about next week.
"""

from dataclasses import dataclass
from typing import Literal

from vllm_performance_monitor.core.series import TooLittle, student_quantile
from vllm_performance_monitor.core.slopes import Slope

MOST_SPANS = 5.0

Answer = Literal["reached", "will", "no"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """`will`: at `at`, between `earliest` and `latest` (None: perhaps not within the horizon)."""

    answer: Answer
    reason: str
    at: float | None = None
    earliest: float | None = None
    latest: float | None = None


def forecast(
    slope: Slope | TooLittle, threshold: float, now: float, *, direction: Literal["above", "below"] = "above"
) -> Forecast:
    """Whether and when the series reaches `threshold` from below (or, `below`, from above)."""
    if isinstance(slope, TooLittle):
        return Forecast("no", f"too little data: {slope.reason}")
    sign = 1 if direction == "above" else -1
    level = slope.at(now)
    if sign * (level - threshold) >= 0:
        return Forecast("reached", f"the trend is at {level:.4g} already")
    if not slope.is_sure:
        return Forecast("no", f"the slope may be zero (interval {slope.low:.3g} to {slope.high:.3g} per second)")
    if sign * slope.per_second <= 0:
        return Forecast("no", "it moves away from the threshold")
    horizon = now + MOST_SPANS * slope.span_s
    reach = student_quantile(slope.confidence, slope.effective_points - 2) * slope.pivot_error
    crossings = sorted(
        slope.pivot_at + (threshold - slope.pivot_value - shift) / rate
        for rate in (slope.low, slope.high)
        for shift in (-reach, reach)
        if sign * rate > 0
    )
    at = slope.pivot_at + (threshold - slope.pivot_value) / slope.per_second
    if crossings[0] > horizon:
        return Forecast("no", f"not within {MOST_SPANS:g} times the time that was looked at")
    latest = None if crossings[-1] > horizon else crossings[-1]
    return Forecast(
        "will",
        "if it goes on as it does",
        at=at if at <= horizon else None,
        earliest=max(now, crossings[0]),
        latest=latest,
    )
