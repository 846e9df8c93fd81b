"""Charts: what is on the figure, and that any picture within the bounds is drawn without a warning."""

import subprocess
import sys
from datetime import UTC, datetime
from io import BytesIO
from itertools import pairwise
from math import isnan, nan, sin
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from vllm_mcp_protocol.errors import BadInput
from vllm_performance_monitor.core.chart import (
    Before,
    Chart,
    Series,
    Threshold,
    line_of,
    say_number,
    spread_apart,
    value_range,
)
from vllm_performance_monitor.core.time_ticks import say_duration, time_axis
from vllm_performance_monitor.plotting import ALERT_COLOUR, COLOURS, MOST_BYTES, figure_of, png_of

T0 = datetime(2026, 9, 21, 14, 0, tzinfo=UTC).timestamp()


def series(name: str = "a", unit: str = "ms", n: int = 60, step_s: float = 60, start: float = T0) -> Series:
    return Series(name, unit, [(start + number * step_s, 500 + 100 * sin(number / 9)) for number in range(n)])


def chart(*given: Series, **more: Any) -> Chart:
    return Chart(given or (series(),), T0, T0 + 3600, **more)


def lines_of(figure: Figure, panel: int = 0) -> list[tuple[str, str, list[float]]]:
    """Colour, style and values of each line."""
    found: list[Any] = list(figure.axes[panel].lines)
    return [(to_hex(line.get_color()).upper(), line.get_linestyle(), list(line.get_ydata())) for line in found]


def legend_of(figure: Figure, panel: int = 0) -> list[str]:
    legend = figure.axes[panel].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


# the picture


@pytest.mark.parametrize(("given_size", "pixels"), [({}, (600, 1000)), ({"width": 600, "height": 400}, (400, 600))])
def test_a_picture_has_its_size_and_something_on_it(given_size: dict[str, int], pixels: tuple[int, int]) -> None:
    picture = png_of(chart(title="Latency", **given_size))
    assert len(picture) <= MOST_BYTES
    image = imread(BytesIO(picture))
    assert image.shape[:2] == pixels
    blue = [int(COLOURS[0][at : at + 2], 16) / 255 for at in (1, 3, 5)]
    assert (abs(image[:, :, :3] - blue).max(axis=2) < 0.02).sum() > 300


def test_matplotlib_is_not_imported_with_the_module_and_pyplot_never() -> None:
    code = (
        "import sys, vllm_performance_monitor.plotting as p; assert 'matplotlib' not in sys.modules;"
        "from vllm_performance_monitor.core.chart import Chart, Series;"
        "p.png_of(Chart([Series('a', '', [(1e9, 1.0)])], 1e9, 1e9 + 60)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# the figure


def test_axes_are_named_and_marked() -> None:
    figure = figure_of(chart(series("p99"), title="Latency"))
    (panel,) = figure.axes
    assert panel.get_ylabel() == "ms"
    assert panel.get_xlabel() == "time (UTC), 21 Sep 2026"
    assert [label.get_text() for label in panel.get_xticklabels()] == [f"14:{m:02d}" for m in range(0, 60, 10)] + [
        "15:00"
    ]
    assert panel.get_xlim() == (T0, T0 + 3600)
    assert legend_of(figure) == ["p99"]
    assert figure.get_suptitle() == "Latency"


def test_a_gap_is_a_gap_and_a_lonely_point_a_dot() -> None:
    points = [
        (T0 + 60 * number, None if number == 9 else 1.0) for number in range(60) if not 20 < number < 30 or number == 25
    ]
    figure = figure_of(chart(Series("a", "ms", points)))
    (_, _, values), (_, dots_style, dots) = lines_of(figure)
    assert sum(map(isnan, values)) == 3
    assert isnan(values[9])
    assert (dots_style, dots) == ("None", [1.0])


def test_thresholds_are_dashed_and_named_beside_the_panel() -> None:
    figure = figure_of(chart(thresholds=[Threshold(650, "ms", "slow"), Threshold(60_000, "ms"), Threshold(1, "%")]))
    dashed = [line for line in lines_of(figure) if line[1] == "--"]
    assert dashed == [(ALERT_COLOUR, "--", [650, 650])]
    assert [text.get_text() for text in figure.axes[0].texts] == ["slow\n650 ms", "alert\n60,000 ms ↑"]


def test_units_have_panels_of_their_own_on_one_time_axis() -> None:
    figure = figure_of(chart(series("p99"), series("kv", "%"), series("p50")))
    assert [panel.get_ylabel() for panel in figure.axes] == ["ms", "%"]
    assert [legend_of(figure, panel) for panel in (0, 1)] == [["p99", "p50"], ["kv"]]
    assert len({panel.get_xlim() for panel in figure.axes}) == 1


def test_an_earlier_period_lies_over_the_later_in_the_same_colour() -> None:
    earlier = series(start=T0 - 86_400)
    figure = figure_of(chart(before=Before([earlier], 86_400, "the day before")))
    now, before = lines_of(figure)
    assert (before[0], before[2]) == (now[0], now[2])
    assert before[1] != now[1]
    assert legend_of(figure) == ["a", "a, the day before"]


def test_eight_lines_can_be_told_apart() -> None:
    figure = figure_of(chart(*(series(f"engine {number}") for number in range(8))))
    assert len({line[:2] for line in lines_of(figure)}) == 8
    assert ALERT_COLOUR not in COLOURS


def test_nothing_measured_is_said() -> None:
    figure = figure_of(chart(Series("a", "ms", []), Series("b", "ms", [(T0 - 99, 5.0), (T0 + 5, nan)])))
    assert legend_of(figure) == ["a (no data)", "b (no data)"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["no data in this time"]


def test_many_points_become_medians_with_a_shade_that_keeps_the_peaks() -> None:
    points = [(T0 + number / 10, 9000.0 if number == 20_000 else 1.0 + number % 3) for number in range(36_000)]
    figure = figure_of(chart(Series("a", "ms", points)))
    assert "lines: medians of 22 s, shade: all that was measured" in figure.axes[0].get_xlabel()
    line = line_of(Series("a", "ms", points), T0, T0 + 3600)
    assert len(line.times) == 160
    assert max(line.values) == 2
    assert (min(line.low), max(line.high)) == (1, 9000)
    assert figure.axes[0].get_ylim()[1] > 9000


def test_many_points_keep_their_gaps() -> None:
    points = [(T0 + number, 1.0) for number in range(3600) if not 1000 <= number < 1500]
    line = line_of(Series("a", "ms", points), T0, T0 + 3600)
    assert sum(map(isnan, line.values)) == 1


def test_names_that_no_font_or_formula_could_show_are_drawn() -> None:
    figure = figure_of(chart(series("_模型 $x^2$\n" + "x" * 99), series(""), title="$\\frac{1}{"))
    assert legend_of(figure) == [" _□□ $x^2$ x…" + "x" * 32, "(no name)"]
    png_of(chart(series("_模型 $x^2$\n"), title="$\\frac{1}{"))


@settings(max_examples=8)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(T0 - 100, T0 + 4000), st.none() | st.floats(-1e12, 1e12)), max_size=20),
        min_size=1,
        max_size=9,
    ),
    st.lists(st.floats(-1e6, 1e6), max_size=4),
    st.sampled_from((500, 1000)),
)
def test_whatever_was_measured_is_drawn(
    measured: list[list[tuple[float, float | None]]], limits: list[float], width: int
) -> None:
    given_series = [Series(f"s{n}" * 20, "abcd"[n % 4], sorted(p, key=lambda q: q[0])) for n, p in enumerate(measured)]
    thresholds = [Threshold(value, "a", "x" * 50) for value in limits]
    before = Before(given_series, 60, "m" * 30) if limits else None
    drawn = chart(*given_series, thresholds=thresholds, before=before, width=width)
    assert imread(BytesIO(png_of(drawn))).shape[:2] == (drawn.pixels[1], width)


# bounds


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Chart([], T0, T0 + 60), "series"),
        (lambda: Chart([series()], T0, T0), "end"),
        (lambda: Chart([series()], T0, nan), "end"),
        (lambda: Chart([series()], -5, 60), "begin"),
        (lambda: chart(offset_s=90_000), "offset_s"),
        (lambda: chart(width=200), "width"),
        (lambda: chart(height=200), "height"),
        (lambda: chart(height=2001), "height"),
        (lambda: chart(title="x" * 121), "title"),
        (lambda: chart(*(series(unit=unit) for unit in "abcde")), "series"),
        (lambda: chart(*(series(str(number)) for number in range(9))), "series"),
        (lambda: chart(series(), series()), "series"),
        (lambda: chart(thresholds=[Threshold(number, "ms") for number in range(5)]), "thresholds"),
        (lambda: chart(series(n=500_001)), "points"),
        (lambda: chart(before=Before([series("b")], 60)), "before.series"),
        (lambda: chart(before=Before([series(), series()], 60)), "before.series"),
        (lambda: chart(before=Before([series()], 60, "x" * 31)), "before.label"),
    ],
)
def test_what_could_not_be_read_is_refused_by_name(make: Any, field: str) -> None:
    with pytest.raises(BadInput) as caught:
        make()
    assert caught.value.info.details["field"] == field


# axes


@pytest.mark.parametrize(
    ("seconds", "offset_s", "labels"),
    [
        (50, 0, ["14:00:00", "14:00:10", "14:00:20", "14:00:30", "14:00:40", "14:00:50"]),
        (86_400, 0, ["18:00", "Tue 22 Sep", "06:00", "12:00"]),
        (7 * 86_400, 0, ["Tue 22 Sep", "Wed 23 Sep"]),
        (60 * 86_400, 0, ["28 Sep", "12 Oct"]),
        (5 * 3600, 19_800, ["20:00", "21:00", "22:00", "23:00", "Tue 22 Sep"]),
    ],
)
def test_time_is_marked_at_round_times_of_the_wall_clock(seconds: float, offset_s: float, labels: list[str]) -> None:
    axis = time_axis(T0, T0 + seconds, offset_s=offset_s)
    assert list(axis.labels[: len(labels)]) == labels


@given(st.floats(0, 4e9), st.floats(1, 4e7), st.integers(-64_800, 64_800), st.integers(3, 16))
def test_marks_are_few_inside_and_even(begin: float, span_s: float, offset_s: int, most: int) -> None:
    axis = time_axis(begin, begin + span_s, offset_s=offset_s, most=most)
    assert len(axis.at) == len(axis.labels) <= most
    assert all(begin <= at <= begin + span_s for at in axis.at)
    assert len({round(after - before) for before, after in pairwise(axis.at)}) <= 1


def test_the_title_of_the_time_axis_says_which_clock_and_which_days() -> None:
    assert time_axis(T0, T0 + 60, offset_s=-12_600).title == "time (UTC-03:30), 21 Sep 2026"
    assert time_axis(T0, T0 + 86_400).title == "time (UTC), 21 Sep to 22 Sep 2026"
    assert time_axis(T0, T0 + 200 * 86_400).title == "time (UTC), 21 Sep 2026 to 9 Apr 2027"
    assert [say_duration(value) for value in (0.375, 22.5, 540, 4032)] == ["0.38 s", "22 s", "9 min", "1.1 h"]


def test_the_value_axis_shows_movements_and_near_thresholds() -> None:
    def axis(values: list[float], *limits: float, unit: str = "ms") -> tuple[float, float]:
        return value_range([line_of(Series("a", unit, list(enumerate(values))), 0, 1e9)], limits, unit)

    assert axis([20, 90], unit="%") == (0, 104)
    assert axis([0, 200])[0] == 0
    low, high = axis([1000, 1010])
    assert 900 < low < 1000 < 1010 < high < 1100
    assert axis([100, 200], 300)[1] > 300
    assert axis([100, 200], 5000)[1] < 300
    assert axis([])[0] < axis([])[1]
    assert [say_number(value) for value in (0.25, 80, 12_000, 1_500_000, 2e9)] == ["0.25", "80", "12,000", "1.5M", "2G"]


@given(st.lists(st.floats(0, 1), max_size=4).map(sorted))
def test_names_beside_lines_are_apart_and_in_order(places: list[float]) -> None:
    moved = spread_apart(places, 0.2)
    assert all(after - before >= 0.2 - 1e-9 for before, after in pairwise(moved))
    assert all(0 <= place <= 1 for place in moved)
    if all(after - before >= 0.2 for before, after in pairwise(places)):
        assert moved == pytest.approx(places)
