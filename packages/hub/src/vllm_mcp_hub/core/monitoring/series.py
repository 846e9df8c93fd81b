"""One number of points: a gauge, a rate, a quantile. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from vllm_mcp_hub.core.monitoring.points import Point, together
from vllm_mcp_hub.core.monitoring.timeline import MINUTE, QUARTER, RAW, Tier
from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.metrics.histogram import bounded_quantile

MOST_POINTS = 2000
_NAME = re.compile(r"(?:(rate|increase|mean|p\d{1,2}(?:\.\d)?):)?([a-z][a-z0-9_]{0,99}(?::[\w .-]{1,60})?)")

Measure = Callable[[Point], float | None]


def measure_of(name: str) -> Measure:
    """What `name` is of a point: a gauge's mean, `rate:` (per second) or `increase:` of a counter, `mean:` or a
    quantile (`p50:` … `p99.9:`) of a histogram, in the metric's own unit. Raises BadInput."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise BadInput(
            f"{name[:100]!r} names no number.",
            parameter="metrics",
            suggestion="give kv_cache_usage_perc, rate:generation_tokens, p99:time_to_first_token_seconds, or the like",
        )
    how, metric = found[1], found[2]
    if how is None:
        return lambda point: None if (stat := point.gauge(metric)) is None else stat.mean
    if how in ("rate", "increase"):
        return lambda point: _grown(point, metric, per_second=how == "rate")
    if how == "mean":
        return lambda point: None if (one := point.histograms.get(metric)) is None else one.mean
    q = float(how[1:]) / 100
    return lambda point: _quantile(point, metric, q)


def _grown(point: Point, metric: str, *, per_second: bool) -> float | None:
    amount = point.counter(metric)
    if amount is None:
        histogram = point.histograms.get(metric)
        amount = None if histogram is None or not point.covered_s else histogram.count
    if amount is None:
        return None
    return amount / point.covered_s if per_second else amount


def _quantile(point: Point, metric: str, q: float) -> float | None:
    histogram = point.histograms.get(metric)
    told = None if histogram is None else bounded_quantile(histogram, q)
    return None if told is None else told.value


def tier_for(duration_s: float, resolution_s: float | None) -> Tier:
    """The finest tier that is asked for and gives a bounded number of points."""
    for tier, most_s in ((RAW, RAW.remembered_s * 2), (MINUTE, 24 * 3600.0)):
        fine_enough = resolution_s is None or resolution_s < (MINUTE if tier is RAW else QUARTER).length_s
        if fine_enough and duration_s <= most_s:
            return tier
    return QUARTER


def series_of(points: Iterable[Point], measure: Measure, longest_gap_s: float) -> Iterator[tuple[float, float | None]]:
    """The measure of each point; None stands where nothing was seen for longer than `longest_gap_s`."""
    last_s: float | None = None
    for point in points:
        if last_s is not None and point.end_s - last_s > longest_gap_s:
            yield (last_s + longest_gap_s / 2, None)
        yield (round(point.end_s, 3), measure(point))
        last_s = point.end_s


def in_steps(points: Sequence[Point], resolution_s: float) -> list[Point]:
    """The points added up in steps of `resolution_s`; 0: as they are."""
    if not resolution_s:
        return list(points)
    steps = (together(group) for _, group in groupby(points, lambda point: point.end_s // resolution_s))
    return [step for step in steps if step is not None]
