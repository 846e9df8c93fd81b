"""What a series has been doing: slope, changes of level, unusual hours, and when it reaches a threshold. Pure.

The formulas and their sources stand in `slopes`, `change_points`, `anomalies` and `forecasts`. Each part says by itself
that there is too little data for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from vllm_performance_monitor.core.anomalies import Anomaly, anomalies_of
from vllm_performance_monitor.core.change_points import ChangePoint, change_points_of
from vllm_performance_monitor.core.forecasts import Forecast, forecast
from vllm_performance_monitor.core.series import TooLittle, clean
from vllm_performance_monitor.core.slopes import Slope, slope_of


@dataclass(frozen=True, slots=True)
class Trend:
    points: int
    """Measurements in the time that was looked at."""
    median: float | None
    slope: Slope | TooLittle
    """Since the last change of level, when there was one: a step is not a slope."""
    slope_since: float | None
    """Where the slope's time begins."""
    change_points: tuple[ChangePoint, ...] | TooLittle
    anomalies: tuple[Anomaly, ...] | TooLittle
    forecast: Forecast | None
    """None: nobody named a threshold."""


def trend_of(
    points: Iterable[tuple[float, float | None]],
    *,
    since: float,
    now: float,
    threshold: float | None = None,
    direction: Literal["above", "below"] = "above",
    confidence: float = 0.95,
    offset_s: float = 0.0,
) -> Trend:
    """The trend from `since` to `now`. What of `points` is older serves to tell what is usual at an hour.

    None values are gaps. `offset_s` is what the clock on the wall is ahead of UTC.
    """
    everything = [point for point in clean(points) if point[0] <= now]
    window = [point for point in everything if point[0] >= since]
    changes = change_points_of(window)
    begin = since if isinstance(changes, TooLittle) or not changes else changes[-1].at
    level = [point for point in window if point[0] >= begin]
    slope = slope_of(level, confidence=confidence)
    return Trend(
        points=len(window),
        median=median(value for _, value in window) if window else None,
        slope=slope,
        slope_since=level[0][0] if level else None,
        change_points=changes,
        anomalies=anomalies_of(everything, since=since, offset_s=offset_s),
        forecast=None if threshold is None else forecast(slope, threshold, now, direction=direction),
    )
