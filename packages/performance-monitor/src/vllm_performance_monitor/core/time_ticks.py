"""Marks on a time axis, at round times of the clock on the wall. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil

DAY_S = 86_400
_STEPS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 3 * 3600, 6 * 3600, 12 * 3600),
    *(DAY_S * days for days in (1, 2, 7, 14, 28, 56)),
)
_MONDAY_S = 4 * DAY_S
"""Weeks begin on the first Monday after 1970 began."""


@dataclass(frozen=True, slots=True)
class TimeAxis:
    at: tuple[float, ...]
    """Unix seconds."""
    labels: tuple[str, ...]
    title: str
    """Which clock, and which days."""


def time_axis(begin: float, end: float, *, offset_s: float = 0.0, most: int = 8) -> TimeAxis:
    """At most `most` marks between `begin` and `end`."""
    step_s = next((step for step in _STEPS_S if (end - begin) / step <= most - 1), _STEPS_S[-1])
    origin_s = (_MONDAY_S if step_s % (7 * DAY_S) == 0 else 0) - offset_s
    first = ceil((begin - origin_s) / step_s)
    near = (origin_s + number * step_s for number in range(first, first + most))
    marks = [at for at in near if begin <= at <= end]
    labels = tuple(_label(_wall(at, offset_s), step_s) for at in marks)
    return TimeAxis(tuple(marks), labels, f"time ({say_clock(offset_s)}), {_days(begin, end, offset_s)}")


def say_clock(offset_s: float) -> str:
    """`UTC`, `UTC+05:30`."""
    minutes = round(offset_s / 60)
    if not minutes:
        return "UTC"
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def say_duration(seconds: float) -> str:
    """`6 s`, `9 min`, `1.5 h`: about so long, for a note."""
    for size_s, unit in ((3600, "h"), (60, "min")):
        if seconds >= size_s * 0.995:
            return f"{seconds / size_s:.2g} {unit}"
    return f"{seconds:.2g} s"


def _wall(at: float, offset_s: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at + offset_s)


def _label(wall: datetime, step_s: int) -> str:
    """Midnight carries the date, so that a day is recognised among hours."""
    if step_s < 60:
        return f"{wall:%H:%M:%S}"
    if step_s >= DAY_S or (wall.hour, wall.minute) == (0, 0):
        return f"{wall:%a} {_date(wall)}" if step_s <= 2 * DAY_S else _date(wall)
    return f"{wall:%H:%M}"


def _days(begin: float, end: float, offset_s: float) -> str:
    first, last = _wall(begin, offset_s), _wall(end, offset_s)
    if first.date() == last.date():
        return f"{_date(first)} {first.year}"
    if first.year == last.year:
        return f"{_date(first)} to {_date(last)} {last.year}"
    return f"{_date(first)} {first.year} to {_date(last)} {last.year}"


def _date(wall: datetime) -> str:
    return f"{wall.day} {wall:%b}"
