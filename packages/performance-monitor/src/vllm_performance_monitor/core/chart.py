"""A chart as a value: what is to be drawn, within bounds, and how its points become lines. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite, nan
from statistics import median
from typing import Any

from vllm_mcp_protocol.errors import BadInput

MOST_PANELS = 4
MOST_LINES = 8
"""In one panel: more cannot be told apart."""
MOST_THRESHOLDS = 4
"""In one panel."""
MOST_POINTS = 500_000
"""Of a chart: a week of eight series at every ten seconds."""
WIDTHS = range(500, 2001)
"""Pixels."""
MOST_HEIGHT = 2000
_LONGEST_NAME = 44
"""Of a longer one the legend shows beginning and end; a narrow picture has room for less."""
_LONGEST_TITLE = 120
_LONGEST_LABEL = 30
_LEGEND_ROW, _FRAME, _LEAST_PANEL, _PANEL = 23, 150, 90, 190
"""Pixels: a row of a legend, title and time axis, a panel at the least, a panel that is pleasant."""
_GAP_STEPS = 3.0
"""So many usual steps without a point are a gap: one failed look is none."""
_COLUMNS = 160
"""A line of more points than twice this is drawn as medians of so many columns, with all that was measured as a shade:
about six pixels each, so that lines which cross and peaks which stand out are both seen."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line."""

    name: str
    unit: str
    """"%", "ms", "tokens/s"; series of one unit share a panel."""
    points: Sequence[tuple[float, float | None]]
    """(unix seconds, value) in order of time; None is a gap."""
    gap_s: float | None = None
    """Points farther apart are not connected. None: three usual steps."""


@dataclass(frozen=True, slots=True)
class Threshold:
    value: float
    unit: str
    label: str = "alert"


@dataclass(frozen=True, slots=True)
class Before:
    """An earlier period to compare with, drawn over the later one."""

    series: Sequence[Series]
    """With the names of the chart's series, at their own times."""
    shift_s: float
    """How much later they are drawn."""
    label: str = "before"
    """Behind the name: `the day before`."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What `plotting` draws. Raises BadInput where it cannot be drawn legibly."""

    series: Sequence[Series]
    begin: float
    end: float
    title: str = ""
    thresholds: Sequence[Threshold] = field(default=())
    before: Before | None = None
    offset_s: float = 0.0
    """What the clock on the time axis is ahead of UTC."""
    width: int = 1000
    height: int | None = None
    """None: 600, and more for more than two panels."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def units(self) -> tuple[str, ...]:
        """One panel each."""
        return tuple(dict.fromkeys(one.unit for one in self.series))

    @property
    def pixels(self) -> tuple[int, int]:
        return self.width, self.height or min(MOST_HEIGHT, max(600, self._height(_PANEL)))

    @property
    def least_height(self) -> int:
        return self._height(_LEAST_PANEL)

    def _height(self, panel: int) -> int:
        rows = sum(-(-len(names) // self.legend_columns(names)) for names in map(self.legend, self.units))
        return _FRAME + panel * len(self.units) + _LEGEND_ROW * rows

    def legend(self, unit: str) -> list[str]:
        """The names of one panel: first of now, then of before."""
        ours = [one.name for one in self.series if one.unit == unit]
        earlier = [one.name for one in self.before.series if one.unit == unit] if self.before else []
        room = (self.width - 150) // 10
        names = [_shortened(name, min(_LONGEST_NAME, room)) for name in ours]
        if not self.before:
            return names
        behind = f", {_shortened(self.before.label, room // 2)}"
        return names + [_shortened(name, min(_LONGEST_NAME, room - len(behind))) + behind for name in earlier]

    def legend_columns(self, names: Sequence[str]) -> int:
        """How many fit side by side: a line of 1000 pixels has room for about 100 letters."""
        fitting = int(self.width / 10 / (max(map(len, names)) + 8))
        return max(1, min(fitting, len(names), 4))


def _check(chart: Chart) -> None:
    if not chart.series:
        raise _refusal("series", 0, "at least one series")
    if not (isfinite(chart.begin) and isfinite(chart.end) and 1 <= chart.end - chart.begin <= 400 * 86_400):
        raise _refusal("end", chart.end, "1 second to 400 days after begin")
    if not 0 <= chart.begin <= 4e9:
        raise _refusal("begin", chart.begin, "unix seconds")
    if abs(chart.offset_s) > 18 * 3600:
        raise _refusal("offset_s", chart.offset_s, "at most 18 hours")
    if chart.width not in WIDTHS:
        raise _refusal("width", chart.width, f"{WIDTHS[0]} to {WIDTHS[-1]} pixels")
    if len(chart.title) > _LONGEST_TITLE:
        raise _refusal("title", f"{len(chart.title)} characters", f"at most {_LONGEST_TITLE}")
    if len(chart.units) > MOST_PANELS:
        raise _refusal("series", ", ".join(chart.units), f"series of at most {MOST_PANELS} units")
    for unit in chart.units:
        lines = sum(one.unit == unit for one in chart.series)
        if lines > MOST_LINES:
            raise _refusal("series", f"{lines} with the unit {unit!r}", f"at most {MOST_LINES} of one unit")
        if sum(one.unit == unit for one in chart.thresholds) > MOST_THRESHOLDS:
            raise _refusal("thresholds", len(chart.thresholds), f"at most {MOST_THRESHOLDS} of one unit")
    if chart.before is not None and len(chart.before.label) > _LONGEST_LABEL:
        raise _refusal("before.label", chart.before.label, f"at most {_LONGEST_LABEL} characters")
    everything = [*chart.series, *(chart.before.series if chart.before else ())]
    names = [(one.name, one.unit) for one in chart.series]
    if len(set(names)) < len(names):
        raise _refusal("series", [name for name, _ in names], "names that differ")
    for one in chart.before.series if chart.before else ():
        if names.count((one.name, one.unit)) != 1:
            raise _refusal("before.series", f"{one.name} ({one.unit})", "series that the chart has, too")
    if len(everything) > 2 * len(chart.series):
        raise _refusal("before.series", len(everything) - len(chart.series), "each series once")
    if chart.height is not None and not chart.least_height <= chart.height <= MOST_HEIGHT:
        raise _refusal("height", chart.height, f"{chart.least_height} to {MOST_HEIGHT} pixels for these series")
    points = sum(len(one.points) for one in everything)
    if points > MOST_POINTS:
        raise _refusal("points", points, f"at most {MOST_POINTS} in all; ask for a coarser resolution")


def _shortened(name: str, longest: int) -> str:
    """Of a long name the end stays, which tells models of one organisation apart."""
    flat = " ".join(name.split()) or "(no name)"
    head = longest // 4
    return flat if len(flat) <= longest else f"{flat[:head]}…{flat[-(longest - head - 1) :]}"


def _refusal(field_name: str, value: Any, allowed: str) -> BadInput:
    shown = str(value)[:200]
    return BadInput(
        f"chart: {field_name}={shown!r} cannot be drawn; allowed: {allowed}.",
        field=field_name,
        value=shown,
        allowed=allowed,
        suggestion=f"give {field_name} as {allowed}",
    )


@dataclass(frozen=True, slots=True)
class Line:
    """Coordinates to draw: NaN where the line is interrupted."""

    times: list[float]
    values: list[float]
    low: list[float]
    high: list[float]
    """The least and the most around each point; the value itself where each measurement is a point."""
    column_s: float | None = None
    """Points are medians of so many seconds."""

    @property
    def told(self) -> list[float]:
        """All that is to be seen."""
        return [value for value in (*self.low, *self.high) if isfinite(value)]

    def lonely(self) -> tuple[list[float], list[float]]:
        """Points between two gaps, which no line would show."""
        edged = [nan, *self.values, nan]
        alone = [
            number
            for number, value in enumerate(self.values)
            if isfinite(value) and not isfinite(edged[number]) and not isfinite(edged[number + 2])
        ]
        return [self.times[number] for number in alone], [self.values[number] for number in alone]


def line_of(series: Series, begin: float, end: float, *, shift_s: float = 0.0) -> Line:
    """The part of `series` between `begin` and `end` (after the shift), with its gaps, in not too many points."""
    inside = [(at + shift_s, nan if value is None else value) for at, value in series.points]
    inside = [(at, value if isfinite(value) else nan) for at, value in inside if begin <= at <= end]
    steps = [after - before for (before, _), (after, _) in pairwise(inside)]
    gap_s = series.gap_s if series.gap_s is not None else _GAP_STEPS * median(steps) if steps else 0.0
    if len(inside) <= 2 * _COLUMNS:
        return _with_gaps([(at, value, value, value) for at, value in inside], gap_s, None)
    column_s = (end - begin) / _COLUMNS
    columns: dict[int, list[float]] = {}
    for at, value in inside:
        if isfinite(value):
            columns.setdefault(min(int((at - begin) / column_s), _COLUMNS - 1), []).append(value)
    points = [(begin + (n + 0.5) * column_s, median(v), min(v), max(v)) for n, v in sorted(columns.items())]
    return _with_gaps(points, max(gap_s, 1.5 * column_s), column_s)


def _with_gaps(points: Sequence[tuple[float, float, float, float]], gap_s: float, column_s: float | None) -> Line:
    """NaN between points that are farther apart."""
    rows: list[tuple[float, float, float, float]] = []
    for point in points:
        if rows and point[0] - rows[-1][0] > gap_s:
            rows.append(((point[0] + rows[-1][0]) / 2, nan, nan, nan))
        rows.append(point)
    times, values, low, high = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    return Line(times, values, low, high, column_s)


def spread_apart(places: Sequence[float], least: float) -> list[float]:
    """Places between 0 and 1, each at least `least` above the one before, moved as little as it takes.

    `places` are in order. For names beside lines that may lie close together.
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + least) if moved else place)
    top = 1.0
    for number in range(len(moved) - 1, -1, -1):
        moved[number] = min(moved[number], top)
        top = moved[number] - least
    return moved


def value_range(lines: Sequence[Line], thresholds: Sequence[float], unit: str) -> tuple[float, float]:
    """The vertical axis.

    It begins at zero unless all there is to see is a small movement far above zero; a percentage that stays within 0
    to 100 is shown on all of it. A threshold is on the axis when that leaves the lines a third of the height.
    """
    told = [value for line in lines for value in line.told]
    low, high = (min(told), max(told)) if told else (0.0, 0.0)
    if unit == "%" and low >= 0 and high <= 100 and (not told or high - low > 2 or high > 80 or thresholds):
        return 0.0, 104.0
    if low >= 0 and high - low > high / 5:
        low = 0.0
    reach = max(high - low, abs(high) * 0.05) or 1.0
    for threshold in thresholds:
        if low - 2 * reach <= threshold <= high + 2 * reach:
            low, high = min(low, threshold), max(high, threshold)
    margin = max((high - low) * 0.08, abs(high) * 0.02) or 1.0
    return (0.0 if low == 0 else low - margin), high + margin


def say_number(value: float) -> str:
    """For an axis: 0.25, 80, 12,000, 1.5M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M" if abs(value) < 1e9 else f"{value / 1e9:.4g}G"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
