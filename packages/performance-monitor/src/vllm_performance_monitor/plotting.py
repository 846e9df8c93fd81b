"""Charts as PNG pictures, with matplotlib.

Figures are made by hand and drawn by Agg: no pyplot, no window, no settings that another figure could see. matplotlib
is imported inside the functions, because it takes longer to import than the whole server. Fonts are cached inside
matplotlib without a lock: draw one picture at a time.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from vllm_performance_monitor.core.chart import (
    Chart,
    Line,
    Threshold,
    line_of,
    say_number,
    spread_apart,
    value_range,
)
from vllm_performance_monitor.core.time_ticks import TimeAxis, say_duration, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MOST_BYTES = 2 * 1024 * 1024
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#333333")
"""Okabe & Ito, Color Universal Design (2008), without yellow, which is too light on white, and without vermilion."""
STYLES = ("-", (0, (4, 1.2, 1, 1.2)))
"""The second is for lines after the sixth."""
ALERT_COLOUR = "#D55E00"
"""Vermilion, for thresholds only."""
_DPI = 100
_FONT = "DejaVu Sans"
"""It comes with matplotlib, so pictures look the same everywhere."""
_TEXT, _SMALL, _TITLE = 12.5, 11.0, 15.0
"""Points. At half its size a picture is still read."""
_INK, _GRID = "#222222", "#DDDDDD"
_LONGEST_LABEL = 18
"""Of a threshold: it stands beside the panel."""
_ONE_LINE = 800
"""Pixels that the words below the time axis need."""
_NAME_INCHES = 0.4
"""The height of a threshold's name, two lines."""


def png_of(chart: Chart) -> bytes:
    """The picture, at most `MOST_BYTES`."""
    figure = figure_of(chart)
    for dpi in (_DPI, _DPI // 2):
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
        if picture.tell() <= MOST_BYTES:
            break
    return picture.getvalue()


def figure_of(chart: Chart) -> "Figure":
    """The figure: one panel for each unit, the time axis below the last."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    width, height = chart.pixels
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.1)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(chart.units), 1, sharex=True, squeeze=False)[:, 0]
    time = time_axis(chart.begin, chart.end, offset_s=chart.offset_s, most=max(4, width // 110))
    columns_s = [_draw(panel, chart, unit, time) for panel, unit in zip(panels, chart.units, strict=True)]
    column_s = max(columns_s)
    note = f"lines: medians of {say_duration(column_s)}, shade: all that was measured" if column_s else ""
    between = ("   ·   " if width >= _ONE_LINE else "\n") if note else ""
    panels[-1].set_xlabel(time.title + between + note, **_text(_TEXT))
    if chart.title:
        figure.suptitle(_drawable(chart.title), x=0.01, ha="left", **_text(_TITLE, weight="bold"))
    return figure


def _draw(panel: "Axes", chart: Chart, unit: str, time: TimeAxis) -> float:
    """One panel: lines of before below those of now, thresholds above. The seconds that lines are medians of, or 0."""
    ours = [one for one in chart.series if one.unit == unit]
    colours = {one.name: number for number, one in enumerate(ours)}
    before = [one for one in chart.before.series if one.unit == unit] if chart.before else []
    shift_s = chart.before.shift_s if chart.before else 0.0
    lines = [line_of(one, chart.begin, chart.end) for one in ours]
    lines_before = [line_of(one, chart.begin, chart.end, shift_s=shift_s) for one in before]
    thresholds = [one for one in chart.thresholds if one.unit == unit]
    low, high = value_range([*lines, *lines_before], [one.value for one in thresholds], unit)
    _frame(panel, chart, time, low, high)
    handles = [_plot(panel, line, colours[one.name], is_before=False) for one, line in zip(ours, lines, strict=True)]
    handles += [
        _plot(panel, line, colours[one.name], is_before=True) for one, line in zip(before, lines_before, strict=True)
    ]
    empty = ["" if line.told else " (no data)" for line in (*lines, *lines_before)]
    names = [name + note for name, note in zip(chart.legend(unit), empty, strict=True)]
    panel_inches = 0.75 * chart.pixels[1] / _DPI / len(chart.units)
    _draw_thresholds(panel, thresholds, low, high, least=_NAME_INCHES / panel_inches)
    panel.set_ylabel(_drawable(unit or (ours[0].name if len(ours) == 1 else "value")), **_text(_TEXT))
    _name(panel, handles, names, chart.legend_columns(names))
    if not any(line.told for line in (*lines, *lines_before)):
        panel.text(
            0.5, 0.5, "no data in this time", ha="center", va="center", transform=panel.transAxes, **_text(_TEXT)
        )
    return max(line.column_s or 0.0 for line in (*lines, *lines_before))


def _plot(panel: "Axes", line: Line, number: int, *, is_before: bool) -> "Line2D":
    colour = COLOURS[number % len(COLOURS)]
    style = STYLES[number // len(COLOURS)]
    look: dict[str, Any] = {"color": colour, "alpha": 0.75 if is_before else 1.0, "zorder": 2.8 if is_before else 3}
    if line.column_s is not None and not is_before:
        panel.fill_between(line.times, line.low, line.high, color=colour, alpha=0.22, linewidth=0, zorder=2.2)
    (drawn,) = panel.plot(
        line.times,
        line.values,
        linewidth=1.6 if is_before else 2.2,
        linestyle=(0, (1.2, 1.2)) if is_before else style,
        solid_capstyle="round",
        solid_joinstyle="round",
        **look,
    )
    times, values = line.lonely()
    if times:
        panel.plot(times, values, linestyle="none", marker="o", markersize=4, **look)
    return drawn


def _draw_thresholds(panel: "Axes", thresholds: Sequence[Threshold], low: float, high: float, *, least: float) -> None:
    """Dashed lines with their names beside the panel, `least` apart; one that is far away is told at the edge."""
    ordered = sorted(thresholds, key=lambda one: one.value)
    heights = [min(max((one.value - low) / (high - low), 0.0), 1.0) for one in ordered]
    apart = min(least, 1 / max(len(ordered), 1))
    for one, height in zip(ordered, spread_apart(heights, apart), strict=True):
        is_outside = not low <= one.value <= high
        if not is_outside:
            panel.axhline(one.value, color=ALERT_COLOUR, linestyle="--", linewidth=1.6, zorder=4)
        arrow = (" ↑" if one.value > high else " ↓") if is_outside else ""
        panel.annotate(
            f"{_drawable(one.label[:_LONGEST_LABEL])}\n{say_number(one.value)}{_suffix(_drawable(one.unit))}{arrow}",
            xy=(1.0, height),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            linespacing=1.05,
            annotation_clip=False,
            **_text(_SMALL, color=ALERT_COLOUR),
        )


def _frame(panel: "Axes", chart: Chart, time: TimeAxis, low: float, high: float) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator

    panel.set_xlim(chart.begin, chart.end)
    panel.set_ylim(low, high)
    panel.xaxis.set_major_locator(FixedLocator(time.at))
    panel.xaxis.set_major_formatter(FixedFormatter(time.labels))
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_number(value)))
    panel.grid(True, color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=_SMALL, labelfontfamily=_FONT, colors=_INK, color=_GRID, length=4)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#999999")


def _name(panel: "Axes", handles: list["Line2D"], names: list[str], columns: int) -> None:
    """The names above the panel, where they cover no line."""
    legend = panel.legend(
        handles,
        [_drawable(name) for name in names],
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        handlelength=2.2,
        columnspacing=1.6,
        prop={"family": _FONT, "size": _SMALL},
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_color(_INK)


def _suffix(unit: str) -> str:
    return f" {unit}" if unit else ""


def _drawable(text: str) -> str:
    """One line of what the font has; anything else would be a warning and an empty box."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=_FONT)))
    flat = " ".join(text.split())
    flat = f" {flat}" if flat.startswith("_") else flat  # matplotlib leaves such a name out of the legend
    return "".join(char if font.get_char_index(ord(char)) else "□" for char in flat)


def _text(size: float, *, color: str = _INK, weight: str = "normal") -> dict[str, Any]:
    return {"fontfamily": _FONT, "fontsize": size, "color": color, "fontweight": weight, "parse_math": False}
