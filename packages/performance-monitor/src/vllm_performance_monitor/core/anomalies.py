"""Hours that are not like the same hour on the days before. Pure.

For each hour the median of its points is compared with the medians of the same hour on up to fourteen earlier days:
robust z = (value − median) / scale (Iglewicz & Hoaglin, How to Detect and Handle Outliers, 1993). The MAD of a handful
of days is itself mostly noise, so the scale is the larger of theirs and of that of all hours around their own medians,
and it is widened by √(1 + π/2n) for the uncertainty of a median of n days. Hours are those of UTC, or of `offset_s`.
"""

from dataclasses import dataclass
from math import floor, pi, sqrt
from statistics import median

from vllm_performance_monitor.core.series import MAD_TO_SIGMA, Points, TooLittle, spread

HOUR_S = 3600.0
SLOTS = 24
LEAST_DAYS = 4
MOST_DAYS = 14
LEAST_POINTS = 3
"""Of one hour; fewer are no hour."""
SIGMAS = 4.5
"""Chosen on noise: a day's 24 hours give a false alarm on about one day in fifty, see the tests."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    at: float
    """Unix seconds at which the hour begins."""
    value: float
    expected: float
    """The median of the days before."""
    z: float
    days: int
    """How many there were."""


def anomalies_of(
    points: Points, *, since: float, offset_s: float = 0.0, sigmas: float = SIGMAS
) -> tuple[Anomaly, ...] | TooLittle:
    """The hours from `since` on that stand out, in order. `points` reach as many days farther back as there are."""
    hours = _hours(points, offset_s)
    checked = [hour for hour in hours if hour * HOUR_S - offset_s >= since]
    before = {hour: _days_before(hours, hour) for hour in hours}
    checked = [hour for hour in checked if len(before[hour]) >= LEAST_DAYS]
    if not checked:
        return TooLittle(f"no hour has {LEAST_DAYS} earlier days with measurements at the same time of day")
    common = _common_spread(hours, before, set(checked))
    found = []
    for hour in checked:
        expected, days = median(before[hour]), len(before[hour])
        scale = max(common, spread(before[hour])) * sqrt(1 + pi / (2 * days))
        distance = hours[hour] - expected
        if scale == 0 and distance != 0:
            scale = abs(distance) * 1e-9  # days that are all the same: anything else stands out
        if scale and abs(distance) > sigmas * scale:
            z = max(-999.0, min(999.0, distance / scale))
            found.append(Anomaly(hour * HOUR_S - offset_s, hours[hour], expected, z, days))
    return tuple(found)


def _hours(points: Points, offset_s: float) -> dict[int, float]:
    """The median of each hour that has enough points, by hours since 1970."""
    values: dict[int, list[float]] = {}
    for at, value in points:
        values.setdefault(floor((at + offset_s) / HOUR_S), []).append(value)
    return {hour: median(values[hour]) for hour in sorted(values) if len(values[hour]) >= LEAST_POINTS}


def _days_before(hours: dict[int, float], hour: int) -> list[float]:
    earlier = (hour - SLOTS * day for day in range(1, MOST_DAYS + 1))
    return [hours[one] for one in earlier if one in hours]


def _common_spread(hours: dict[int, float], before: dict[int, list[float]], checked: set[int]) -> float:
    """Of hours around the median of their time of day, over all that are not being judged."""
    by_slot: dict[int, list[float]] = {}
    for hour, value in hours.items():
        if hour not in checked:
            by_slot.setdefault(hour % SLOTS, []).append(value)
    slots = [values for values in by_slot.values() if len(values) >= LEAST_DAYS]
    distances = [
        abs(value - median(values)) * sqrt(len(values) / (len(values) - 1)) for values in slots for value in values
    ]
    return MAD_TO_SIGMA * median(distances) if distances else 0.0
