"""A point: what one stretch of time brought for one subject, in columns that add up. Pure.

A point of five seconds and one of fifteen minutes are the same thing: what was counted is added, of what is measured
the mean, the extremes and the last value are kept. So a rollup loses nothing but where inside of it something was.
"""

import struct
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from operator import add, attrgetter
from typing import Any, NamedTuple

from vllm_mcp_protocol.metrics.histogram import BadHistogram, Histogram
from vllm_mcp_protocol.metrics.histogram import add as add_histograms
from vllm_mcp_protocol.monitoring import GaugeStat

_HEAD = struct.Struct("<ddId")
_LOOK_S = 0.001
"""A point that covers no time has some all the same, so that it lies in one place between two others."""
_DECODED_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Layout:
    """Which column is what. Points of one layout are added column by column."""

    gauges: tuple[str, ...]
    counters: tuple[str, ...]
    histograms: tuple[tuple[str, tuple[float, ...]], ...]
    """Names, and the bounds without +Inf."""

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Where each histogram begins among the counted columns; the last one is their number."""
        places = [len(self.counters)]
        for _, bounds in self.histograms:
            places.append(places[-1] + len(bounds) + 2)
        return tuple(places)

    def to_json(self) -> dict[str, Any]:
        """For `of_json`."""
        return {"gauges": self.gauges, "counters": self.counters, "histograms": self.histograms}

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> "Layout":
        """Raises ValueError for what is none."""
        try:
            histograms = tuple((str(name), tuple(map(float, bounds))) for name, bounds in data["histograms"])
            return cls(tuple(map(str, data["gauges"])), tuple(map(str, data["counters"])), histograms)
        except (KeyError, TypeError) as error:
            raise ValueError("no layout of points") from error


class Gauge(NamedTuple):
    """A gauge in columns that add up."""

    sum: float
    times: float
    """How often it was seen."""
    low: float
    high: float
    last: float

    def then(self, later: "Gauge") -> "Gauge":
        """Both together."""
        low, high = min(self.low, later.low), max(self.high, later.high)
        return Gauge(self.sum + later.sum, self.times + later.times, low, high, later.last)


@dataclass(frozen=True, slots=True)
class Point:
    """From `begin_s` to `end_s` (Unix time). Its columns are never changed."""

    layout: Layout
    begin_s: float
    end_s: float
    looks: int
    """How often the subject was looked at."""
    covered_s: float
    """Seconds in which counters were followed; the rest are gaps."""
    sums: "array[float]"
    """Of gauges, over the looks."""
    lows: "array[float]"
    highs: "array[float]"
    lasts: "array[float]"
    counted: "array[float]"
    """Increases of counters, then of each histogram its counts and its sum."""
    seen: "array[float] | None" = None
    """In how many looks each gauge was seen, where that is not all of them."""

    @property
    def times(self) -> "array[float]":
        """In how many looks each gauge was seen."""
        return array("d", [self.looks]) * len(self.layout.gauges) if self.seen is None else self.seen

    def gauge(self, name: str) -> GaugeStat | None:
        """None when it was not seen."""
        try:
            at = self.layout.gauges.index(name)
        except ValueError:
            return None
        looks = self.looks if self.seen is None else self.seen[at]
        return GaugeStat(self.sums[at] / looks, self.lows[at], self.highs[at], self.lasts[at])

    def counter(self, name: str) -> float | None:
        """How much it grew; None when it was not followed."""
        if name not in self.layout.counters or not self.covered_s:
            return None
        return self.counted[self.layout.counters.index(name)]

    @property
    def gauge_stats(self) -> dict[str, GaugeStat]:
        stats = zip(self.layout.gauges, self.sums, self.times, self.lows, self.highs, self.lasts, strict=True)
        return {name: GaugeStat(total / times, low, high, last) for name, total, times, low, high, last in stats}

    @property
    def gauges(self) -> "dict[str, Gauge]":
        columns = zip(self.sums, self.times, self.lows, self.highs, self.lasts, strict=True)
        return dict(zip(self.layout.gauges, map(Gauge._make, columns), strict=True))

    @property
    def increases(self) -> dict[str, float]:
        return dict(zip(self.layout.counters, self.counted, strict=False))

    @property
    def histograms(self) -> dict[str, Histogram]:
        found = {}
        for (name, bounds), (start, end) in zip(self.layout.histograms, pairwise(self.layout.ends), strict=True):
            found[name] = Histogram(bounds, tuple(self.counted[start : end - 1]), self.counted[end - 1])
        return found


def make_point(
    begin_s: float,
    end_s: float,
    gauges: Mapping[str, float],
    counters: Mapping[str, float] | None = None,
    histograms: Mapping[str, Histogram] | None = None,
) -> Point:
    """Of one look. Without `counters` (None) they were not followed up to it: a gap, or the first look of all."""
    measured = array("d", gauges.values())
    layout = Layout(
        tuple(gauges),
        tuple(counters or {}),
        tuple((name, one.bounds) for name, one in (histograms or {}).items()),
    )
    counted = array("d", (counters or {}).values())
    for one in (histograms or {}).values():
        counted.extend((*one.counts, one.sum))
    covered_s = 0.0 if counters is None else end_s - begin_s
    begin_s = min(begin_s, end_s - _LOOK_S)
    return Point(layout, begin_s, end_s, 1, covered_s, measured, measured, measured, measured, counted)


def together(points: Iterable[Point]) -> Point | None:
    """All of them as one, in their order; None for none."""
    result: Point | None = None
    for _, alike in groupby(points, key=attrgetter("layout")):
        joined = _of_one_layout(list(alike))
        if result is not None and result.layout == joined.layout:
            joined = _of_one_layout([result, joined])
        elif result is not None:
            joined = _of_two_layouts(result, joined)
        result = joined
    return result


def _of_one_layout(points: Sequence[Point]) -> Point:
    """Column by column, all points at once: a day of an engine has a hundred of them."""
    first, last = points[0], points[-1]
    if first is last:
        return first
    return Point(
        last.layout,
        first.begin_s,
        last.end_s,
        sum(point.looks for point in points),
        sum(point.covered_s for point in points),
        _sums([point.sums for point in points]),
        array("d", map(min, *(point.lows for point in points))),
        array("d", map(max, *(point.highs for point in points))),
        last.lasts,
        _sums([point.counted for point in points]),
        None if all(point.seen is None for point in points) else _sums([point.times for point in points]),
    )


def _sums(columns: Sequence["array[float]"]) -> "array[float]":
    # Two are what each look brings, and `add` takes half the time.
    return array("d", map(add, *columns) if len(columns) == 2 else map(sum, zip(*columns, strict=True)))


def _of_two_layouts(one: Point, other: Point) -> Point:
    """An engine shows a metric from some time on, or not any more."""
    looks = one.looks + other.looks
    gauges = one.gauges
    for name, later in other.gauges.items():
        gauges[name] = gauges[name].then(later) if name in gauges else later
    counters = one.increases
    for name, grown in other.increases.items():
        counters[name] = counters.get(name, 0.0) + grown
    histograms = dict(one.histograms)
    for name, histogram in other.histograms.items():
        histograms[name] = _added(histograms.get(name), histogram)
    made = make_point(one.begin_s, other.end_s, dict.fromkeys(gauges, 0.0), counters, histograms)
    sums, times, lows, highs, lasts = (array("d", [gauge[at] for gauge in gauges.values()]) for at in range(5))
    return Point(
        made.layout,
        one.begin_s,
        other.end_s,
        looks,
        one.covered_s + other.covered_s,
        sums,
        lows,
        highs,
        lasts,
        made.counted,
        None if all(number == looks for number in times) else times,
    )


def _added(one: Histogram | None, other: Histogram) -> Histogram:
    if one is None:
        return other
    try:
        return add_histograms(one, other)
    except BadHistogram:
        return other  # another version of the engine, with other bounds: the newer one tells


def encode_point(point: Point) -> bytes:
    """Its columns, compressed; the layout is kept elsewhere, once."""
    columns = [point.sums, point.lows, point.highs, point.lasts, point.counted]
    if point.seen is not None:
        columns.append(point.seen)
    head = _HEAD.pack(point.begin_s, point.end_s, point.looks, point.covered_s)
    return zlib.compress(head + b"".join(column.tobytes() for column in columns), level=1)


def decode_point(layout: Layout, data: bytes) -> Point:
    """Raises ValueError for what is no point of this layout."""
    try:
        plain = zlib.decompressobj().decompress(data, _DECODED_LIMIT_BYTES)
        begin_s, end_s, looks, covered_s = _HEAD.unpack_from(plain)
    except (zlib.error, struct.error) as error:
        raise ValueError("a damaged point") from error
    values = array("d")
    values.frombytes(plain[_HEAD.size :][: (len(plain) - _HEAD.size) // 8 * 8])
    count = len(layout.gauges)
    counted_end = 4 * count + layout.ends[-1]
    if len(values) not in (counted_end, counted_end + count) or not looks:
        raise ValueError("a point of another layout")
    sums, lows, highs, lasts = (values[at * count : (at + 1) * count] for at in range(4))
    counted, seen = values[4 * count : counted_end], values[counted_end:] or None
    if seen is not None and min(seen) < 1:
        raise ValueError("a gauge that was never seen")
    return Point(layout, begin_s, end_s, looks, covered_s, sums, lows, highs, lasts, counted, seen)
