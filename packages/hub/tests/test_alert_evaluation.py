"""Alerts over random timelines, against an oracle that looks back from every moment; pinned cases."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_hub.core.alerting.evaluation import evaluate
from vllm_mcp_hub.core.alerting.rules import Missing, Rule
from vllm_mcp_hub.core.alerting.states import (
    AlertState,
    Change,
    Key,
    Observation,
    firing,
    states_from_json,
    states_to_json,
    subjects,
)
from vllm_mcp_protocol.errors import BadInput

T0 = 1_790_000_000.0
LONGEST_S = 30.0
HOT = Rule(
    name="kv",
    metric="kv_usage",
    threshold=90,
    clear_threshold=70,
    for_seconds=20,
    clear_for_seconds=10,
    suggestion="send fewer requests",
)
Look = tuple[float, float | None]
"""(seconds after T0, value)."""


def run(
    rule: Rule, looks: Sequence[Look], states: Mapping[Key, AlertState] | None = None, *, store: bool = False
) -> tuple[dict[Key, AlertState], list[Change]]:
    """Evaluate look after look; with `store`, through JSON each time, as if the hub were restarted each time."""
    current: dict[Key, AlertState] = dict(states or {})
    changes: list[Change] = []
    for at, value in looks:
        seen = Observation("engine:llama", rule.metric, value, T0 + at)
        current, new = evaluate([rule], current, [seen], T0 + at, longest_step_s=LONGEST_S)
        changes += new
        if store:
            current = states_from_json(json.loads(json.dumps(states_to_json(current), allow_nan=False)))
    return current, changes


def kinds(changes: Sequence[Change]) -> list[tuple[str, float]]:
    return [(change.kind, change.at - T0) for change in changes]


def oracle(rule: Rule, looks: Sequence[Look]) -> list[tuple[str, float]]:
    """From the definition: at each moment, did what counts hold for long enough, since the last change?"""
    told = [(at, _judge(rule, value)) for at, value in looks if value is not None or rule.missing != "keep"]
    found: list[tuple[str, float]] = []
    begin = 0
    for end in range(len(told)):
        wanted, needed_s = ("well", rule.clear_for_seconds) if len(found) % 2 else ("beyond", rule.for_seconds)
        for start in range(begin, end + 1):
            stretch = told[start : end + 1]
            steps = [min(max(b[0] - a[0], 0), LONGEST_S) for a, b in pairwise(stretch)]
            if all(verdict == wanted for _, verdict in stretch) and sum(steps) >= needed_s:
                found.append(("cleared" if len(found) % 2 else "raised", told[end][0]))
                begin = end + 1
                break
    return found


def _judge(rule: Rule, value: float | None) -> str:
    sign = 1 if rule.direction == "above" else -1
    if value is None:
        return "beyond" if rule.missing == "alert" else "well"
    if sign * value >= sign * rule.threshold:
        return "beyond"
    return "well" if sign * value <= sign * rule.clear_threshold else "between"


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    below = draw(st.booleans())
    return Rule(
        name="any",
        metric="kv_usage",
        direction="below" if below else "above",
        threshold=10 if below else 90,
        clear_threshold=draw(st.sampled_from((10, 30) if below else (90, 70))),
        for_seconds=draw(st.sampled_from((0, 5, 20, 60))),
        clear_for_seconds=draw(st.sampled_from((0, 5, 20))),
        missing=draw(st.sampled_from(("keep", "clear", "alert"))),
    )


@st.composite
def timelines(draw: st.DrawFn) -> list[Look]:
    """Looks with steps, long gaps, clocks that jump either way, and stretches of the same value."""
    at, looks = 1000.0, []
    for _ in range(draw(st.integers(0, 25))):
        value = draw(st.sampled_from((5.0, 20.0, 50.0, 80.0, 95.0, None, float("nan"))))
        for _ in range(draw(st.integers(1, 6))):
            at += draw(st.sampled_from((5, 5, 5, 1, 0, 29, 500, 100_000, -7, -90_000)))
            looks.append((at, value))
    return looks


@given(rules(), timelines())
def test_changes_are_those_of_the_definition(rule: Rule, looks: list[Look]) -> None:
    expected = oracle(rule, [(at, None if value != value else value) for at, value in looks])
    assert kinds(run(rule, looks)[1]) == expected


@given(rules(), timelines())
def test_a_hub_that_restarts_at_every_look_says_the_same(rule: Rule, looks: list[Look]) -> None:
    assert run(rule, looks, store=True) == run(rule, looks)


@given(rules(), timelines(), st.data())
def test_many_subjects_and_rules_do_not_disturb_each_other(rule: Rule, looks: list[Look], data: st.DataObject) -> None:
    """What one subject gets is what it gets alone, whatever else is looked at in the same call."""
    others = data.draw(st.lists(timelines(), min_size=2, max_size=2))
    all_rules = [rule, replace(rule, name="other", for_seconds=0)]
    current: dict[Key, AlertState] = {}
    changes: list[Change] = []
    for number, (at, value) in enumerate(looks):
        seen = [Observation("engine:llama", rule.metric, value, T0 + at)]
        seen += [
            Observation(f"gpu:{k}", rule.metric, o[number][1], T0 + at) for k, o in enumerate(others) if number < len(o)
        ]
        current, new = evaluate(all_rules, current, seen, T0 + at, longest_step_s=LONGEST_S)
        changes += [one for one in new if (one.rule, one.subject) == ("any", "engine:llama")]
    assert changes == run(rule, looks)[1]


@given(rules(), timelines())
def test_raised_and_cleared_take_turns_and_memory_is_bounded(rule: Rule, looks: list[Look]) -> None:
    states, changes = run(rule, looks)
    expected = ["raised", "cleared"] * len(changes)
    assert [change.kind for change in changes] == expected[: len(changes)]
    assert len(firing(states)) == len(changes) % 2
    assert len(states) <= 1
    if rule.missing != "alert":
        assert all(state.phase != "well" for state in states.values())


@given(timelines(), st.sampled_from((-1e9, -3600.0, 3600.0, 1e9)), st.integers(0, 100))
def test_a_clock_that_is_set_changes_nothing_but_the_readings(looks: list[Look], jump_s: float, where: int) -> None:
    """Between two looks the clock is set: the same changes at the same looks, one step aside."""
    rule = replace(HOT, for_seconds=0, clear_for_seconds=0)
    moved = [(at + (jump_s if number >= where else 0), value) for number, (at, value) in enumerate(looks)]
    index = {number: change.kind for number, change in _by_look(rule, looks)}
    assert {number: change.kind for number, change in _by_look(rule, moved)} == index


def _by_look(rule: Rule, looks: Sequence[Look]) -> list[tuple[int, Change]]:
    current: dict[Key, AlertState] = {}
    found = []
    for number, (at, value) in enumerate(looks):
        seen = [Observation("engine:llama", rule.metric, value, T0 + at)]
        current, new = evaluate([rule], current, seen, T0 + at)
        found += [(number, change) for change in new]
    return found


def every(step_s: float, *values: float | None, start: float = 0) -> list[Look]:
    return [(start + number * step_s, value) for number, value in enumerate(values)]


def test_raised_after_the_duration_and_cleared_after_the_other() -> None:
    looks = every(5, 50, 95, 95, 96, 97, 95, 95, 80, 60, 60, 60, 60)
    assert kinds(run(HOT, looks)[1]) == [("raised", 25), ("cleared", 50)]


def test_a_value_that_hovers_around_a_threshold_does_not_flap() -> None:
    looks = every(5, *[95] * 6, *[89, 91] * 50, *[69, 71] * 50)
    assert kinds(run(HOT, looks)[1]) == [("raised", 20)]


def test_a_short_peak_is_no_alert() -> None:
    assert run(HOT, every(5, 50, 95, 99, 95, 95, 50, 95, 95, 95, 95, 50)) == ({}, [])


def test_what_the_messages_say() -> None:
    raised, cleared = run(HOT, every(5, 95, 95, 97, 99.2, 97, 60, 60, 60))[1]
    assert raised.message == (
        "Engine llama: KV cache in use 97 % (alert from 90 % on) for 20 s, since 2026-09-21 14:13:20 UTC."
    )
    assert raised.suggestion == "send fewer requests"
    assert cleared.message == "Engine llama: KV cache in use is well again, 60 % (worst 99.2 %). It lasted 25 s."
    assert (cleared.suggestion, cleared.since, raised.id.removesuffix("raised")) == (
        "",
        raised.since,
        cleared.id.removesuffix("cleared"),
    )
    assert json.loads(json.dumps(raised.to_json()))["value"] == 97


def test_states_of_zero_and_one_are_said_in_words() -> None:
    down = Rule(
        name="down",
        metric="answering",
        threshold=0,
        clear_threshold=1,
        for_seconds=10,
        clear_for_seconds=0,
        direction="below",
    )
    raised, cleared = run(down, every(5, 1, 0, 0, 0, 1))[1]
    assert raised.message.startswith("Engine llama does not answer for 10 s, since ")
    assert cleared.message == "Engine llama answers again. It lasted 15 s."


def test_silence_means_what_the_rule_says() -> None:
    """Looked and could not tell, three times; then for minutes nobody looked."""
    looks = every(5, *[95] * 5, None, None, None)
    meanings: dict[Missing, list[str]] = {"keep": ["raised"], "alert": ["raised"], "clear": ["raised", "cleared"]}
    for missing, expected in meanings.items():
        rule = replace(HOT, missing=missing)
        states, changes = run(rule, looks)
        assert [change.kind for change in changes] == expected
        later: list[Change] = []
        for at in range(40, 400, 5):
            states, new = evaluate([rule], states, [], T0 + at, longest_step_s=LONGEST_S)
            later += new
        assert later == []
    states, changes = run(replace(HOT, missing="clear"), every(5, *[95] * 5))
    for at in range(25, 100, 5):
        states, new = evaluate([replace(HOT, missing="clear")], states, [], T0 + at, longest_step_s=LONGEST_S)
        changes += new
    assert kinds(changes) == [("raised", 20), ("cleared", 90)], "silence counts once it is longer than the longest step"


def test_a_subject_that_falls_silent_raises_where_the_rule_says_so() -> None:
    rule = replace(HOT, missing="alert")
    states, changes = run(rule, every(5, 50, 50))
    for at in range(10, 200, 5):
        states, new = evaluate([rule], states, [], T0 + at, longest_step_s=LONGEST_S)
        changes += new
    assert [change.kind for change in changes] == ["raised"]
    assert "could not be told" in changes[0].message


def test_a_night_asleep_is_not_an_hour_of_alert() -> None:
    rule = replace(HOT, for_seconds=120)
    looks = [*every(5, 95, 95), *every(5, 95, 95, start=30_000)]
    assert run(rule, looks)[1] == []


def test_two_looks_an_hour_apart_count_when_that_is_the_interval() -> None:
    states: dict[Key, AlertState] = {}
    changes: list[Change] = []
    for hour in range(3):
        seen = [Observation("gpu:0", "kv_usage", 99, T0 + 3600 * hour)]
        states, new = evaluate([replace(HOT, for_seconds=7200)], states, seen, seen[0].at, longest_step_s=3 * 3600)
        changes += new
    assert [change.kind for change in changes] == ["raised"]


def test_after_a_clock_that_went_back_a_day_silence_is_noticed_as_soon_as_before() -> None:
    rule = replace(HOT, missing="clear")
    states, changes = run(rule, every(5, *[95] * 5))
    for second in range(0, 100, 5):
        now = T0 - 86_400 + second
        states, new = evaluate([rule], states, [], now, longest_step_s=LONGEST_S)
        changes += new
    assert [change.kind for change in changes] == ["raised", "cleared"]


@pytest.mark.parametrize(
    ("rules_then", "gone", "words"),
    [
        ([HOT], {"engine:llama": "the engine was unloaded"}, "the engine was unloaded"),
        ([], {}, "switched off or removed"),
        ([replace(HOT, enabled=False)], {}, "switched off or removed"),
        ([replace(HOT, metric="memory_util")], {}, "now watches memory_util"),
        ([replace(HOT, subjects="gpu:*")], {}, "no longer covers"),
    ],
)
def test_an_alert_ends_with_what_it_was_about(rules_then: list[Rule], gone: dict[str, str], words: str) -> None:
    states, _ = run(HOT, every(5, *[95] * 5))
    late = [Observation("engine:llama", "kv_usage", 99, T0 + 25)] if gone else []
    states, (change,) = evaluate(rules_then, states, late, T0 + 25, gone=gone)
    assert (change.kind, states) == ("cleared", {})
    assert change.message == f"Engine llama: the alert kv is over: {change.message.rpartition(': ')[2]}"
    assert words in change.message
    assert evaluate(rules_then, states, [], T0 + 30, gone=gone) == ({}, ())


def test_what_was_only_pending_ends_without_a_word() -> None:
    states, _ = run(HOT, every(5, 95, 95))
    assert subjects(states) == {"engine:llama"}
    assert evaluate([HOT], states, [], T0 + 10, gone={"engine:llama": "unloaded"}) == ({}, ())


def test_a_new_threshold_holds_for_an_alert_that_is_active() -> None:
    states, _ = run(HOT, every(5, *[95] * 5))
    calmer = replace(HOT, threshold=99, clear_threshold=98)
    _, changes = run(calmer, every(5, 95, 95, 95, start=25), states)
    assert kinds(changes) == [("cleared", 35)]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"rule": "kv", "subject": "gpu:0", "metric": "m", "phase": "asleep", "at": 1},
        {"rule": "kv", "subject": "gpu:0", "metric": "m", "phase": "firing", "at": "now"},
        {"rule": "kv", "subject": "gpu:0", "metric": "m", "phase": "firing", "at": float("nan")},
        {"rule": "", "subject": "gpu:0", "metric": "m", "phase": "firing", "at": 1},
        {"rule": "kv", "subject": "gpu:0", "metric": "m", "phase": "firing"},
    ],
)
def test_stored_states_that_are_none_are_refused_by_number(entry: Any) -> None:
    good = {"rule": "kv", "subject": "gpu:0", "metric": "m", "phase": "firing", "at": 1, "of a later version": 1}
    assert states_from_json([good])["kv", "gpu:0"].phase == "firing"
    with pytest.raises(BadInput, match="entry 1"):
        states_from_json([good, entry])
