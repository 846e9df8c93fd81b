"""Points, timelines and what follows an engine's counters: nothing is lost in a rollup, and gaps are no zeros."""

from collections.abc import Mapping
from math import fsum, isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mcp_hub.core.monitoring.following import MOST_STRETCH_S, Following
from vllm_mcp_hub.core.monitoring.points import Layout, Point, decode_point, encode_point, make_point, together
from vllm_mcp_hub.core.monitoring.timeline import MINUTE, QUARTER, RAW, Finished, Tier, Timeline
from vllm_mcp_protocol.metrics.arrangement import EngineReading
from vllm_mcp_protocol.metrics.histogram import Histogram
from vllm_mcp_protocol.metrics.reading import read_engine_metrics

_BOUNDS = (0.1, 1.0, 10.0)
_NUMBERS = st.floats(0, 1e6).map(lambda value: round(value, 3))


@st.composite
def points(draw: st.DrawFn, most: int = 30) -> list[Point]:
    """A chain of points; some know other metrics."""
    found, at_s = [], 1_000_000.0
    for step_s in draw(st.lists(st.sampled_from([1.0, 5.0, 5.0, 61.0, 1000.0]), min_size=1, max_size=most)):
        gauges = {"g": draw(_NUMBERS)} | ({"h": draw(_NUMBERS)} if draw(st.booleans()) else {})
        counts = tuple(float(draw(st.integers(0, 9))) for _ in range(4))
        if draw(st.integers(0, 5)) == 0:  # the first look of all, or one after a gap
            found.append(make_point(at_s + step_s, at_s + step_s, gauges))
        else:
            latency = Histogram(_BOUNDS, counts, 1.5)
            found.append(make_point(at_s, at_s + step_s, gauges, {"c": draw(_NUMBERS)}, {"l": latency}))
        at_s += step_s
    return found


@given(points())
def test_a_rollup_says_what_its_points_say_together(chain: list[Point]) -> None:
    whole = together(chain)
    assert whole is not None
    assert (whole.begin_s, whole.end_s, whole.looks) == (chain[0].begin_s, chain[-1].end_s, len(chain))
    assert isclose(whole.counter("c") or 0.0, fsum(one.counter("c") or 0.0 for one in chain), rel_tol=1e-9)
    stat = whole.gauge("g")
    values = [one.lasts[one.layout.gauges.index("g")] for one in chain]
    assert stat is not None
    assert isclose(stat.mean, fsum(values) / len(values), rel_tol=1e-9, abs_tol=1e-9)
    assert (stat.low, stat.high, stat.last) == (min(values), max(values), values[-1])
    observed = [one.histograms["l"].count for one in chain if one.histograms]
    assert ("l" in whole.histograms) == bool(observed)
    assert not observed or whole.histograms["l"].count == fsum(observed)
    other = whole.gauge("h")
    there = [stat.last for one in chain if (stat := one.gauge("h")) is not None]
    assert (other is None) == (not there)
    if other is not None:
        assert isclose(other.mean, fsum(there) / len(there), rel_tol=1e-9, abs_tol=1e-9)
        assert (other.low, other.high, other.last) == (min(there), max(there), there[-1])
    assert whole.gauge_stats == {name: whole.gauge(name) for name in whole.layout.gauges}


@given(points(most=5))
def test_a_point_is_the_same_after_it_was_written_down(chain: list[Point]) -> None:
    whole = together(chain)
    assert whole is not None
    back = decode_point(Layout.of_json(_plain(whole.layout)), encode_point(whole))
    assert (back.gauge_stats, back.increases, back.histograms) == (whole.gauge_stats, whole.increases, whole.histograms)
    with pytest.raises(ValueError, match="point"):
        decode_point(Layout(("an", "other", "layout"), (), ()), encode_point(whole))


def _plain(layout: Layout) -> Mapping[str, object]:
    return {name: list(value) for name, value in layout.to_json().items()}


@given(points(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=200)
def test_a_window_is_the_points_that_end_in_it(chain: list[Point], one: float, other: float) -> None:
    timeline = Timeline()
    for point in chain:
        timeline.add(point)
    newest_s = chain[-1].end_s
    oldest_s = max(chain[0].begin_s, newest_s - RAW.remembered_s)
    ends = sorted((oldest_s + one * (newest_s - oldest_s), oldest_s + other * (newest_s - oldest_s)))
    # On the borders of points, where tiers cannot disagree about what belongs to whom.
    borders = [chain[0].begin_s, *(point.end_s for point in chain)]
    begin_s, end_s = (_nearest(borders, at_s) for at_s in ends)
    inside = [point for point in chain if begin_s < point.end_s <= end_s]
    if inside and inside[0].end_s < newest_s - RAW.remembered_s:
        return
    expected, found = together(inside), timeline.window(begin_s, end_s)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert isclose(found.counter("c") or 0, expected.counter("c") or 0, rel_tol=1e-9)
        assert found.looks == expected.looks


def _nearest(borders: list[float], at_s: float) -> float:
    return min(borders, key=lambda border: abs(border - at_s))


@given(st.integers(0, 95), st.integers(1, 96))
def test_a_day_is_added_up_between_any_two_quarters(first: int, count: int) -> None:
    timeline, begin_s = _DAY, 1_000_000 * QUARTER.length_s - MINUTE.length_s
    at_s = begin_s + first * QUARTER.length_s
    window = timeline.window(at_s, at_s + count * QUARTER.length_s)
    assert window is not None
    minutes = min(count, 96 - first) * 15
    assert (window.looks, window.counter("c"), window.covered_s) == (minutes, 2.0 * minutes, 60.0 * minutes)
    assert (window.begin_s, window.end_s) == (at_s, at_s + 60.0 * minutes)


def _of_minutes(begin_s: float, count: int) -> Timeline:
    timeline = Timeline()
    for number in range(count):
        at_s = begin_s + MINUTE.length_s * number
        timeline.add(make_point(at_s, at_s + MINUTE.length_s, {"g": 1.0}, {"c": 2.0}))
    return timeline


_DAY = _of_minutes(1_000_000 * QUARTER.length_s - MINUTE.length_s, 24 * 60)


@given(points(most=60), st.floats(0, 1), st.booleans())
def test_what_the_next_hub_recalls_is_neither_lost_nor_twice(chain: list[Point], share: float, crashed: bool) -> None:
    """A hub that crashes has not written what was not complete."""
    written: dict[tuple[Tier, float], Point] = {}

    def write(done: list[Finished]) -> None:
        written.update({(one.tier, one.slot_s): one.point for one in done})

    timeline, cut = Timeline(), round(share * len(chain))
    for point in chain[:cut]:
        write(timeline.add(point))
    if not crashed:
        write(timeline.close())
    timeline = Timeline()
    for tier in (QUARTER, MINUTE, RAW):
        since_s = chain[cut - 1].end_s - tier.remembered_s
        timeline.recall(tier, [one for (of, at_s), one in written.items() if of is tier and at_s >= since_s])
    for point in chain[cut:]:
        write(timeline.add(point))
    window = timeline.window(chain[0].begin_s, chain[-1].end_s)
    write(timeline.close())
    for looks in (
        window.looks if window else 0,
        sum(one.looks for (tier, _), one in written.items() if tier is MINUTE),
        sum(one.looks for (tier, _), one in written.items() if tier is QUARTER),
    ):
        assert looks == len(chain)


@given(st.floats(0, 0.8), st.floats(0, 1))
def test_looks_that_come_fast_are_remembered_together_and_none_is_lost_or_twice(first: float, share: float) -> None:
    """Edges lie where tiers cannot disagree: on the borders of what is remembered."""
    ends = [point.end_s for point in _FAST.series(0, 1e12, RAW)]
    assert len(ends) < 1000, "they came ten times a second for twenty minutes"
    begin_s = ends[round(first * (len(ends) - 1))]
    end_s = ends[-1] - share * (ends[-1] - begin_s) // 1
    end_s = _nearest(ends, end_s)
    window = _FAST.window(begin_s, end_s)
    assert (0 if window is None else window.looks) == round((end_s - begin_s) * 10)


def _of_tenths(begin_s: float, count: int) -> Timeline:
    timeline = Timeline()
    for number in range(count):
        timeline.add(make_point(begin_s + number / 10, begin_s + (number + 1) / 10, {"g": 1.0}, {"c": 2.0}))
    return timeline


_FAST = _of_tenths(1_000_000.05, 20 * 600)


def test_many_at_once_are_what_they_are_one_after_another() -> None:
    """Also where a metric comes and goes."""
    points = [
        make_point(n, n + 1.0, {"g": n * 0.1} | ({"h": float(n)} if n % 10 > 6 else {}), {"c": n * 0.3})
        for n in range(50)
    ]
    at_once, in_steps = together(points), points[0]
    for point in points[1:]:
        in_steps = together([in_steps, point]) or in_steps
    assert at_once is not None
    assert (at_once.begin_s, at_once.end_s, at_once.looks, at_once.covered_s) == (0, 50, 50, 50)
    assert set(at_once.gauge_stats) == {"g", "h"}
    for name, stat in in_steps.gauge_stats.items():
        found = at_once.gauge_stats[name]
        assert (found.low, found.high, found.last) == (stat.low, stat.high, stat.last)
        assert isclose(found.mean, stat.mean)
    assert isclose(at_once.increases["c"], in_steps.increases["c"])


def test_slots_are_written_down_when_they_are_complete() -> None:
    timeline, kept = Timeline(), []
    for number in range(200):
        at_s = 900_000.0 + 10 * number
        kept += timeline.add(make_point(at_s, at_s + 10, {"g": 1.0}, {"c": 1.0}))
    kept += timeline.close()
    by_tier = {tier: [one for one in kept if one.tier is tier] for tier in (RAW, MINUTE, QUARTER)}
    assert [len(by_tier[tier]) for tier in (RAW, MINUTE, QUARTER)] == [200, 34, 3]
    for tier in (MINUTE, QUARTER):
        assert fsum(one.point.counter("c") or 0 for one in by_tier[tier]) == 200
        assert len({one.slot_s for one in by_tier[tier]}) == len(by_tier[tier])
        assert all(one.slot_s % tier.length_s == 0 for one in by_tier[tier])


def test_a_clock_that_goes_back_begins_anew() -> None:
    timeline = Timeline()
    for at_s in (1000.0, 1005.0, 500.0, 505.0):
        timeline.add(make_point(at_s - 5, at_s, {"g": at_s}, {"c": 1.0}))
    window = timeline.window(490.0, 600.0)
    assert window is not None
    assert window.looks == 2


def _reading(tokens: float, started: float = 100.0) -> EngineReading:
    text = f"""# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{{model_name="m",engine="0"}} {tokens}
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started}
"""
    return read_engine_metrics(text.encode())


def test_counters_are_followed_through_restarts_and_gaps() -> None:
    following = Following()
    looks = [(0.0, 10.0, 100.0), (5.0, 25.0, 100.0), (10.0, 4.0, 109.0), (15.0, 9.0, 109.0), (200.0, 500.0, 109.0)]
    found = [following.look(at_s, _reading(tokens, started)) for at_s, tokens, started in looks]
    assert [one.counter("generation_tokens") for one in found] == [None, 15.0, 4.0, 5.0, None]
    assert [one.covered_s for one in found] == [0, 5, 5, 5, 0]
    assert looks[-1][0] - looks[-2][0] > MOST_STRETCH_S
    assert following.look(205.0, _reading(501.0, 109.0)).counter("generation_tokens") == 1.0
