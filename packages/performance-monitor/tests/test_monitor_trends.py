"""Slopes, changes of level, unusual hours and forecasts: series with known answers, and false alarms on noise.

The rates are those of fixed random series; the bounds leave room for chance at the nominal rate.
"""

from collections.abc import Callable
from itertools import pairwise
from math import pi, sin, sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_performance_monitor.core.anomalies import HOUR_S, anomalies_of
from vllm_performance_monitor.core.change_points import change_points_of
from vllm_performance_monitor.core.forecasts import forecast
from vllm_performance_monitor.core.series import (
    MOST_POINTS,
    Point,
    TooLittle,
    clean,
    inflation,
    ranks,
    spread,
    student_quantile,
    thinned,
)
from vllm_performance_monitor.core.slopes import Slope, slope_of
from vllm_performance_monitor.core.trends import trend_of

T0 = 1_790_000_000.0 // 86_400 * 86_400
DAY_S = 24 * HOUR_S


def noise(random: Random, n: int, correlation: float = 0.0) -> list[float]:
    """First-order autoregressive, standard deviation 1."""
    fresh = sqrt(1 - correlation**2)
    values = [random.gauss(0, 1)]
    while len(values) < n:
        values.append(correlation * values[-1] + fresh * random.gauss(0, 1))
    return values


def series(values: list[float], step_s: float = 60.0) -> list[Point]:
    return [(T0 + number * step_s, value) for number, value in enumerate(values)]


def rate(trials: int, happens: Callable[[Random], bool]) -> float:
    return sum(happens(Random(seed)) for seed in range(trials)) / trials


def sure(found: Slope | TooLittle) -> Slope:
    assert isinstance(found, Slope)
    return found


# series


def test_only_what_can_be_computed_with_is_kept_in_order() -> None:
    nan, inf = float("nan"), float("inf")
    assert clean([(3, 1), (1, None), (2, nan), (0, 5), (5, 1e200), (4, inf), (3, 3)]) == [(0, 5), (3, 2)]


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6)), max_size=600))
def test_thinning_keeps_order_range_and_the_bound(points: list[Point]) -> None:
    given_points = clean(points)
    thin = thinned(given_points)
    assert len(thin) <= MOST_POINTS
    assert thin == given_points or len(given_points) > MOST_POINTS
    assert [at for at, _ in thin] == sorted(at for at, _ in thin)
    if thin:
        low, high = min(v for _, v in given_points), max(v for _, v in given_points)
        assert all(low <= value <= high for _, value in thin)


def test_thinning_leaves_gaps_as_gaps() -> None:
    thin = thinned(
        series([1.0] * 5000, step_s=1) + [(at + 50_000, value) for at, value in series([2.0] * 5000, step_s=1)]
    )
    steps = [after[0] - before[0] for before, after in pairwise(thin)]
    assert max(steps) > 40_000


def test_statistics_against_tables() -> None:
    assert spread([1, 2, 3, 4, 100]) == pytest.approx(1.4826)
    assert ranks([10, 30, 10, 20]) == [0.5, 3, 0.5, 2]
    for freedom, expected in ((4, 2.776), (10, 2.228), (30, 2.042), (1000, 1.962)):
        assert student_quantile(0.95, freedom) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_inflation_of_correlated_noise_is_the_known_one(correlation: float) -> None:
    """(1 + φ)/(1 − φ) for a first-order process."""
    expected = (1 + correlation) / (1 - correlation)
    found = sorted(inflation(noise(Random(seed), 1000, correlation), 1) for seed in range(15))[7]
    assert expected * 0.8 <= found <= expected * 1.4


# slopes


def test_a_line_is_found_exactly_and_outliers_do_not_move_it() -> None:
    values = [10 + 0.5 * number for number in range(100)]
    slope = sure(slope_of(series(values)))
    assert slope.per_second == pytest.approx(0.5 / 60)
    assert slope.change == pytest.approx(49.5)
    spoilt = [value + (1000 if number % 7 == 0 else 0) for number, value in enumerate(values)]
    assert sure(slope_of(series(spoilt))).per_second == pytest.approx(0.5 / 60, rel=0.05)


def test_gaps_do_not_matter() -> None:
    random = Random(3)
    points = [
        point
        for point in series([0.2 * n + random.gauss(0, 1) for n in range(600)])
        if not 100 < (point[0] - T0) / 60 < 450
    ]
    slope = sure(slope_of(points))
    assert slope.low < 0.2 / 60 < slope.high
    assert slope.is_sure


@pytest.mark.parametrize(("n", "correlation"), [(30, 0.0), (100, 0.0), (100, 0.5), (240, 0.8)])
def test_noise_has_no_slope(n: int, correlation: float) -> None:
    """Nominally 5 %."""

    def is_alarm(random: Random) -> bool:
        slope = slope_of(series(noise(random, n, correlation)))
        return isinstance(slope, Slope) and slope.is_sure

    assert rate(80, is_alarm) <= 0.1


def test_the_interval_contains_the_slope_about_as_often_as_it_says() -> None:
    def contains(random: Random) -> bool:
        slope = sure(slope_of(series([0.05 * n + v for n, v in enumerate(noise(random, 100, 0.5))])))
        return slope.low <= 0.05 / 60 <= slope.high

    assert rate(100, contains) >= 0.9


@pytest.mark.parametrize("n", [0, 1, 5, 11])
def test_few_points_are_too_little(n: int) -> None:
    found = slope_of(series([float(k) for k in range(n)]))
    assert found == TooLittle(f"{n} points; a slope needs 12")


def test_a_slow_wander_is_too_little_however_many_points_it_has() -> None:
    """One long wave: its two halves say the opposite."""
    found = slope_of(series([sin(number / 240 * 2 * pi) for number in range(240)]))
    assert isinstance(found, TooLittle)
    assert "independent" in found.reason


def test_a_constant_has_no_slope() -> None:
    slope = sure(slope_of(series([7.0] * 50)))
    assert (slope.per_second, slope.low, slope.high, slope.is_sure) == (0, 0, 0, False)


# changes of level


def test_steps_are_found_where_they_are() -> None:
    random = Random(5)
    levels = [10.0] * 80 + [16.0] * 60 + [13.0] * 100
    found = change_points_of(series([level + random.gauss(0, 1) for level in levels]))
    assert not isinstance(found, TooLittle)
    assert [round((one.at - T0) / 60) for one in found] == pytest.approx([80, 140], abs=2)
    assert [(one.before, one.after) for one in found] == [
        pytest.approx((10, 16), abs=0.7),
        pytest.approx((16, 13), abs=0.7),
    ]
    assert found[0].sigmas == pytest.approx(6, rel=0.3)


def test_a_step_without_noise_is_found() -> None:
    (one,) = change_points_of(series([0.0] * 40 + [3.0] * 40))  # type: ignore[misc]
    assert ((one.at - T0) / 60, one.before, one.after) == (40, 0, 3)


@pytest.mark.parametrize(("n", "correlation"), [(40, 0.0), (120, 0.0), (120, 0.5), (120, 0.8), (240, 0.5)])
def test_noise_has_no_changes(n: int, correlation: float) -> None:
    assert rate(60, lambda random: change_points_of(series(noise(random, n, correlation))) != ()) <= 0.07


def test_a_step_of_three_standard_deviations_is_mostly_found() -> None:
    def finds(random: Random) -> bool:
        values = [v + (3 if k >= 60 else 0) for k, v in enumerate(noise(random, 120, 0.3))]
        found = change_points_of(series(values))
        return not isinstance(found, TooLittle) and len(found) == 1 and abs((found[0].at - T0) / 60 - 60) <= 3

    assert rate(40, finds) >= 0.7


def test_spikes_and_slopes_are_no_changes() -> None:
    random = Random(8)
    spiky = [random.gauss(0, 1) + (40 if number % 25 == 7 else 0) for number in range(200)]
    rising = [number * 0.1 + random.gauss(0, 1) for number in range(200)]
    assert change_points_of(series(spiky)) == ()
    assert change_points_of(series(rising)) == ()
    assert change_points_of(series([5.0] * 100)) == ()


@given(st.lists(st.floats(-1e9, 1e9) | st.integers(0, 3), max_size=80))
def test_any_series_has_an_answer(values: list[float]) -> None:
    points = series(values)
    found = change_points_of(points)
    assert isinstance(found, TooLittle) == (len(points) < 30)
    if not isinstance(found, TooLittle):
        times = [one.at for one in found]
        assert times == sorted(times)
        assert set(times) <= {at for at, _ in points}
    trend_of(points, since=T0, now=T0 + 1e5, threshold=5)


# unusual hours


def days(random: Random, count: float, *, hour_noise: float = 3.0) -> list[Point]:
    """A daily rhythm, six points each hour."""
    points = []
    for hour in range(int(count * 24)):
        level = 50 + 30 * sin(2 * pi * hour / 24) + random.gauss(0, hour_noise)
        points += [(T0 + hour * HOUR_S + k * 600, level + random.gauss(0, 0.5)) for k in range(6)]
    return points


def test_an_unusual_hour_stands_out_although_its_value_is_usual_at_another() -> None:
    points = days(Random(1), 8)
    since = T0 + 7 * DAY_S
    night = since + 18 * HOUR_S
    spoilt = [(at, 60.0 if night <= at < night + HOUR_S else value) for at, value in points]
    (one,) = anomalies_of(spoilt, since=since)  # type: ignore[misc]
    assert (one.at, one.value, one.days) == (night, 60, 7)
    assert one.expected == pytest.approx(20, abs=5)
    assert one.z > 4.5


@pytest.mark.parametrize("before", [4, 7, 14])
def test_a_usual_day_has_no_unusual_hours(before: int) -> None:
    """A false alarm in 24 hours looked at."""

    def is_alarm(random: Random) -> bool:
        return anomalies_of(days(random, before + 1), since=T0 + before * DAY_S) != ()

    assert rate(60, is_alarm) <= 0.05


def test_hours_are_those_of_the_clock_on_the_wall() -> None:
    points = [(at + 1800, value) for at, value in days(Random(2), 6)]
    spoilt = [(at, value + (90 if at >= points[-6][0] else 0)) for at, value in points]
    (one,) = anomalies_of(spoilt, since=T0 + 5 * DAY_S, offset_s=1800 * 11)  # type: ignore[misc]
    assert (one.at + 1800 * 11) % HOUR_S == 0


def test_days_that_were_all_the_same_make_any_difference_stand_out() -> None:
    flat = [(T0 + k * 600, 1.0 if k < 6 * 24 * 5 + 60 else 2.0) for k in range(6 * 24 * 6)]
    found = anomalies_of(flat, since=T0 + 5 * DAY_S)
    assert not isinstance(found, TooLittle)
    assert len(found) == 14
    assert {one.z for one in found} == {999}


def test_few_days_are_too_little() -> None:
    assert isinstance(anomalies_of(days(Random(1), 3), since=T0 + 2 * DAY_S), TooLittle)
    assert isinstance(anomalies_of([], since=T0), TooLittle)


# forecasts


def test_a_line_reaches_its_threshold_when_it_does() -> None:
    random = Random(4)
    points = series([50 + 0.1 * number + random.gauss(0, 1) for number in range(200)])
    now = points[-1][0]
    found = forecast(slope_of(points), 90, now)
    assert found.answer == "will"
    assert found.at == pytest.approx(T0 + 400 * 60, rel=1e-5)
    assert found.earliest is not None
    assert found.latest is not None
    assert now < found.earliest < T0 + 400 * 60 < found.latest


@pytest.mark.parametrize(
    ("threshold", "direction", "answer", "reason"),
    [
        (60, "above", "reached", "already"),
        (40, "below", "no", "moves away"),
        (5000, "above", "no", "not within 5 times"),
    ],
)
def test_what_else_a_forecast_may_say(threshold: float, direction: str, answer: str, reason: str) -> None:
    points = series([50 + 0.1 * number + (number * 7 % 5) / 5 for number in range(200)])
    found = forecast(slope_of(points), threshold, points[-1][0], direction=direction)  # type: ignore[arg-type]
    assert found.answer == answer
    assert reason in found.reason


def test_no_forecast_where_the_slope_may_be_zero_or_nobody_can_tell() -> None:
    random = Random(6)
    points = series([50 + random.gauss(0, 1) for _ in range(200)])
    found = forecast(slope_of(points), 90, points[-1][0])
    assert (found.answer, found.at) == ("no", None)
    assert "may be zero" in found.reason
    assert "too little data" in forecast(slope_of(points[:5]), 90, points[-1][0]).reason


def test_the_interval_of_a_forecast_contains_the_crossing() -> None:
    def contains(random: Random) -> bool:
        points = series([0.08 * n + v for n, v in enumerate(noise(random, 100, 0.5))])
        found = forecast(slope_of(points), 16, points[-1][0])
        truth = T0 + 200 * 60
        return found.answer == "will" and (found.earliest or 0) <= truth <= (found.latest or float("inf"))

    assert rate(60, contains) >= 0.9


# all of it


def test_after_a_step_the_slope_is_that_of_the_new_level() -> None:
    random = Random(9)
    points = series([(10 if number < 100 else 30) + random.gauss(0, 1) for number in range(200)])
    trend = trend_of(points, since=T0, now=T0 + 200 * 60, threshold=50)
    assert trend.slope_since == pytest.approx(T0 + 100 * 60, abs=120)
    assert not sure(trend.slope).is_sure
    assert trend.forecast is not None
    assert trend.forecast.answer == "no"
    assert isinstance(trend.anomalies, TooLittle)
    assert trend.points == 200


def test_nothing_at_all_is_said_to_be_too_little_everywhere() -> None:
    trend = trend_of([(T0, None)], since=T0, now=T0 + 60, threshold=1)
    assert (trend.points, trend.median, trend.slope_since) == (0, None, None)
    assert all(isinstance(part, TooLittle) for part in (trend.slope, trend.change_points, trend.anomalies))
    assert trend.forecast is not None
    assert trend.forecast.answer == "no"
