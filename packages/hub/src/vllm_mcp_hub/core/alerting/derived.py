"""Metrics of the built-in rules that no sample holds: made of a window of samples. Pure.

All return None where the window cannot tell.
"""

from collections.abc import Sequence

Points = Sequence[tuple[float, float]]
"""(unix seconds, value), in order of time, without gaps."""

_LEAST_REQUESTS = 20
"""Below this a single failure is 5 % and more."""
_LEAST_POINTS = 6
"""Two in each third."""


def queue_growth(waiting: Points) -> float | None:
    """`queue_growth`: how many more requests wait now than before, at the least.

    The fewest that waited in the last third of the window, less the most that waited in its first third: a burst that
    drains, or a queue that breathes, gives no growth. Two minutes are a good window.
    """
    if len(waiting) < _LEAST_POINTS:
        return None
    begin, end = waiting[0][0], waiting[-1][0]
    third_s = (end - begin) / 3
    first = [value for at, value in waiting if at <= begin + third_s]
    last = [value for at, value in waiting if at >= end - third_s]
    if third_s <= 0 or len(first) < 2 or len(last) < 2:
        return None
    return max(0.0, min(last) - max(first))


def error_rate(successful: float, failed: float, *, least: int = _LEAST_REQUESTS) -> float | None:
    """`error_rate` of the requests that ended in the window, in percent."""
    total = successful + failed
    return 100 * failed / total if total >= least else None
