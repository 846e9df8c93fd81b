"""From observations to alerts: every rule, every subject, one look after the other. Pure.

                  beyond                for_seconds                  well
        well ───────────────▶ pending ───────────────▶ firing ◀───────────────▶ firing, well for a while
          ▲   not beyond         │        "raised"        not well                │ clear_for_seconds
          └──────────────────────┘                                                │ "cleared"
          └───────────────────────────────────────────────────────────────────────┘

One episode has exactly one "raised" and one "cleared". Time is what passed between two looks, and at most
`longest_step_s` for each: a host that slept, a hub that was away and a clock that was set prove nothing about the time
nobody looked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from vllm_mcp_hub.core.alerting.rules import Rule
from vllm_mcp_hub.core.alerting.states import AlertState, Change, Key, Observation, States
from vllm_mcp_hub.core.alerting.wording import ended_message, raised_message, recovered_message

LONGEST_STEP_S = 60.0
"""Twelve looks at the default MONITOR_INTERVAL_MS. A hub that looks more rarely passes three of its intervals."""

Verdict = Literal["beyond", "between", "well"]


def evaluate(
    rules: Iterable[Rule],
    states: States,
    observations: Iterable[Observation],
    now: float,
    *,
    gone: Mapping[str, str] | None = None,
    longest_step_s: float = LONGEST_STEP_S,
) -> tuple[dict[Key, AlertState], tuple[Change, ...]]:
    """The states after this look, and what changed.

    `observations` are taken in their order and need not be complete: a metric that was not looked at for more than
    `longest_step_s` counts as missing. `gone` are subjects that no longer exist, on purpose, with the reason in words
    ("the engine was unloaded"); a subject that merely fell silent is not gone.
    """
    gone = gone or {}
    watching = {rule.name: rule for rule in rules if rule.enabled}
    kept, changes = _without_ended(watching, states, gone, now)
    by_metric: dict[str, list[Observation]] = {}
    for observation in observations:
        if observation.subject not in gone:
            by_metric.setdefault(observation.metric, []).append(observation)
    for rule in watching.values():
        seen = set()
        for observation in by_metric.get(rule.metric, ()):
            if rule.covers(observation.subject):
                seen.add((rule.name, observation.subject))
                changes += _look(rule, kept, observation, longest_step_s)
        for key in [key for key in kept if key[0] == rule.name and key not in seen]:
            changes += _overlooked(rule, kept, key, now, longest_step_s)
    return kept, tuple(changes)


def _without_ended(
    watching: Mapping[str, Rule], states: States, gone: Mapping[str, str], now: float
) -> tuple[dict[Key, AlertState], list[Change]]:
    """The states that go on; the alerts among the others are over."""
    kept: dict[Key, AlertState] = {}
    changes = []
    for key, state in states.items():
        reason = _end(watching.get(state.rule), state, gone)
        if reason is None:
            kept[key] = state
        elif state.phase == "firing":
            changes.append(_change("cleared", None, state, max(now, state.since), ended_message(state, reason)))
    return kept, changes


def _end(rule: Rule | None, state: AlertState, gone: Mapping[str, str]) -> str | None:
    if state.subject in gone:
        return gone[state.subject]
    if rule is None:
        return "its rule was switched off or removed"
    if rule.metric != state.metric:
        return f"its rule now watches {rule.metric}"
    return None if rule.covers(state.subject) else "its rule no longer covers it"


def _look(rule: Rule, states: dict[Key, AlertState], seen: Observation, longest_step_s: float) -> list[Change]:
    value = seen.told
    if value is not None:
        verdict: Verdict = "beyond" if rule.is_beyond(value) else "well" if rule.is_well(value) else "between"
        return _step(rule, states, seen.subject, verdict, value, seen.at, longest_step_s)
    return _missing(rule, states, seen.subject, seen.at, longest_step_s)


def _overlooked(rule: Rule, states: dict[Key, AlertState], key: Key, now: float, longest_step_s: float) -> list[Change]:
    """Nobody looked. That means nothing until it has lasted."""
    state = states[key]
    if now < state.at:  # the clock went back: what follows is counted from here
        states[key] = replace(state, at=now, since=min(state.since, now))
        return []
    if now - state.at <= longest_step_s:
        return []
    return _missing(rule, states, state.subject, now, longest_step_s)


def _missing(rule: Rule, states: dict[Key, AlertState], subject: str, at: float, longest_step_s: float) -> list[Change]:
    if rule.missing == "keep":
        return []
    verdict: Verdict = "beyond" if rule.missing == "alert" else "well"
    return _step(rule, states, subject, verdict, None, at, longest_step_s)


def _step(
    rule: Rule,
    states: dict[Key, AlertState],
    subject: str,
    verdict: Verdict,
    value: float | None,
    at: float,
    longest_step_s: float,
) -> list[Change]:
    """One look that counts."""
    key = (rule.name, subject)
    state = states.get(key)
    if state is None:
        if verdict != "beyond" and rule.missing != "alert":
            return []  # nothing is wrong, and there is nothing to remember: nearly always
        state = AlertState(rule=rule.name, subject=subject, metric=rule.metric, phase="well", at=at)
    passed_s = min(max(at - state.at, 0.0), longest_step_s)
    state = replace(
        state,
        at=at,
        since=min(state.since, at),
        value=value,
        threshold=rule.threshold,
        severity=rule.severity,
    )
    if state.phase == "firing":
        return _step_firing(rule, states, state, verdict, passed_s)
    if verdict != "beyond":
        states[key] = replace(state, phase="well", held_s=0, worst=None)
        if rule.missing != "alert":  # only there silence can begin an episode, so only there it must be remembered
            del states[key]
        return []
    if state.phase == "well":
        state = replace(state, phase="pending", since=at, held_s=0, worst=value)
    else:
        state = replace(state, held_s=state.held_s + passed_s, worst=_worse(rule, state.worst, value))
    if state.held_s < rule.for_seconds:
        states[key] = state
        return []
    states[key] = replace(state, phase="firing", well_s=None)
    return [_change("raised", rule, state, at, raised_message(rule, state))]


def _step_firing(
    rule: Rule, states: dict[Key, AlertState], state: AlertState, verdict: Verdict, passed_s: float
) -> list[Change]:
    if verdict != "well":
        states[state.key] = replace(
            state,
            well_s=None,
            held_s=state.held_s + (state.well_s or 0) + passed_s,
            worst=_worse(rule, state.worst, state.value),
        )
        return []
    well_s = 0.0 if state.well_s is None else state.well_s + passed_s
    if state.well_s is None:
        state = replace(state, held_s=state.held_s + passed_s)
    if well_s < rule.clear_for_seconds:
        states[state.key] = replace(state, well_s=well_s)
        return []
    del states[state.key]
    if rule.missing == "alert":
        states[state.key] = replace(state, phase="well", held_s=0, well_s=None, worst=None)
    return [_change("cleared", rule, state, state.at, recovered_message(rule, state))]


def _worse(rule: Rule, one: float | None, other: float | None) -> float | None:
    told: Sequence[float] = [value for value in (one, other) if value is not None]
    if not told:
        return None
    return max(told) if rule.direction == "above" else min(told)


def _change(
    kind: Literal["raised", "cleared"], rule: Rule | None, state: AlertState, at: float, message: str
) -> Change:
    return Change(
        kind=kind,
        rule=state.rule,
        severity=state.severity,
        subject=state.subject,
        metric=state.metric,
        value=state.value,
        threshold=state.threshold,
        since=state.since,
        at=at,
        held_s=state.held_s,
        message=message,
        suggestion=rule.suggestion if rule is not None and kind == "raised" else "",
    )
