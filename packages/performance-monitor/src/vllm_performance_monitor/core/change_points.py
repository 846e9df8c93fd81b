"""When the level of a series changed. Pure.

Optimal partitioning into stretches of one level each: the sum of squares plus a penalty for each change is minimal
(Jackson et al., IEEE Signal Process. Lett. 12 (2005) 105; PELT, Killick et al., JASA 107 (2012) 1590, finds the same
faster, and is not needed for 240 points). Three things make it fit for measurements:

- single spikes are taken out first (Hampel filter: Davies & Gather, JASA 88 (1993) 782);
- neighbours resemble each other: the series is whitened with a first-order correlation that level changes do not
  disturb, (med|y₊₂−y|)²/(med|y₊₁−y|)² − 1 (Chakar et al., Bernoulli 23 (2017) 1408), and again with the correlation of
  what the levels leave over, while that is larger;
- a steady slope is not a staircase: where a straight line explains the series as well, there are no change points.

The noise is the median of absolute differences, which level changes do not disturb either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt
from statistics import fmean, median

from vllm_performance_monitor.core.series import Points, TooLittle, first_correlation, spread, thinned

LEAST_POINTS = 30
_SHORTEST = 5
"""Points of a stretch: what is shorter is an event, not a level."""
_PENALTY = 5.0
"""× variance × ln n for each change. Schwarz's criterion has 2 (a level and a place); neighbours that resemble each
other in other ways than the first-order model need more. Chosen on noise: see the false alarm rates in the tests."""
_LEAST_N_OF_PENALTY = 120
"""The noise of a short series is known badly; the penalty does not fall below that of a longer one."""
_MOST_CORRELATION = 0.95
_MOST_ROUNDS = 4
_HAMPEL_REACH, _HAMPEL_SIGMAS = 3, 3.0


@dataclass(frozen=True, slots=True)
class ChangePoint:
    at: float
    """Unix seconds of the first point at the new level."""
    before: float
    after: float
    """Medians of the stretches."""
    sigmas: float
    """The size of the change, in standard deviations of the noise around both levels."""


def change_points_of(points: Points) -> tuple[ChangePoint, ...] | TooLittle:
    """`points` as `series.clean` gives them; the changes in order of time."""
    used = thinned(points)
    n = len(used)
    if n < LEAST_POINTS:
        return TooLittle(f"{n} points; change points need {LEAST_POINTS}")
    values = _without_spikes([value for _, value in used])
    times = [at for at, _ in used]
    correlation = _correlation(values)
    for _ in range(_MOST_ROUNDS):
        borders = _borders(times, values, correlation)
        if not borders:
            return ()
        left = first_correlation(_residuals(values, borders), fitted=len(borders) + 1)
        if left <= correlation or correlation >= _MOST_CORRELATION:
            break
        correlation = min(left, _MOST_CORRELATION)
    return tuple(_described(used, values, borders))


def _borders(times: Sequence[float], values: Sequence[float], correlation: float) -> list[int]:
    """Where stretches begin, but for the first, when neighbours are correlated like that."""
    white = [after - correlation * before for before, after in pairwise(values)]
    white = [white[0], *white]
    penalty = _PENALTY * _noise(white) ** 2 * log(max(len(white), _LEAST_N_OF_PENALTY))
    if penalty == 0:
        return []
    borders, cost = _partition(white, penalty)
    return borders if _line_cost(times, white) + penalty > cost else []


def _residuals(values: Sequence[float], borders: Sequence[int]) -> list[float]:
    """What is left of each stretch without its level."""
    stretches = [values[begin:end] for begin, end in pairwise([0, *borders, len(values)])]
    return [value - fmean(stretch) for stretch in stretches for value in stretch]


def _described(used: Points, values: Sequence[float], borders: Sequence[int]) -> list[ChangePoint]:
    edges = [0, *borders, len(values)]
    stretches = [values[begin:end] for begin, end in pairwise(edges)]
    found = []
    for border, (before, after) in zip(borders, pairwise(stretches), strict=True):
        sigma = sqrt((spread(before) ** 2 + spread(after) ** 2) / 2)
        size = median(after) - median(before)
        sigmas = abs(size) / sigma if sigma else float("inf")
        found.append(ChangePoint(used[border][0], median(before), median(after), sigmas))
    return found


def _without_spikes(values: Sequence[float]) -> list[float]:
    smooth = []
    for number, value in enumerate(values):
        near = values[max(0, number - _HAMPEL_REACH) : number + _HAMPEL_REACH + 1]
        middle = median(near)
        smooth.append(middle if abs(value - middle) > _HAMPEL_SIGMAS * spread(near) else value)
    return smooth


def _correlation(values: Sequence[float]) -> float:
    one = median(abs(b - a) for a, b in pairwise(values))
    two = median(abs(b - a) for a, b in zip(values, values[2:], strict=False))
    return min(max((two / one) ** 2 - 1, 0.0), _MOST_CORRELATION) if one else 0.0


def _noise(values: Sequence[float]) -> float:
    """The standard deviation. Where most neighbours are equal (counts, steps), the mean stands for the median."""
    differences = [abs(b - a) for a, b in pairwise(values)]
    return median(differences) / (0.6745 * sqrt(2)) or fmean(differences) * 1.2533 / sqrt(2)


def _partition(values: Sequence[float], penalty: float) -> tuple[list[int], float]:
    """Where the stretches begin (but for the first), and the sum of squares plus penalties."""
    n = len(values)
    sums, squares = [0.0], [0.0]
    shift = fmean(values)  # keeps the differences of sums exact
    for value in values:
        sums.append(sums[-1] + (value - shift))
        squares.append(squares[-1] + (value - shift) ** 2)
    best = [-penalty] + [float("inf")] * n
    came_from = [0] * (n + 1)
    for end in range(_SHORTEST, n + 1):
        for begin in range(0, end - _SHORTEST + 1):
            total = sums[end] - sums[begin]
            cost = best[begin] + squares[end] - squares[begin] - total * total / (end - begin) + penalty
            if cost < best[end]:
                best[end], came_from[end] = cost, begin
    borders = []
    end = n
    while (end := came_from[end]) > 0:
        borders.append(end)
    return borders[::-1], best[n]


def _line_cost(times: Sequence[float], values: Sequence[float]) -> float:
    """The sum of squares around the best straight line."""
    mean_time, mean = fmean(times), fmean(values)
    time_squares = sum((time - mean_time) ** 2 for time in times)
    slope = sum((t - mean_time) * (v - mean) for t, v in zip(times, values, strict=True)) / time_squares
    return sum((v - mean - slope * (t - mean_time)) ** 2 for t, v in zip(times, values, strict=True))
