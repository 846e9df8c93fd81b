"""The rules in force, from four places. Pure.

From the weakest to the strongest: the built-in rules, the rules file, ALERT_THRESHOLD_<METRIC>, what set-alert-rule
stored. A variable is set for one host and beats what a file says in general, as everywhere in the suite; what somebody
asked for by name beats both. Each layer changes single fields and leaves the others as they were.
"""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from vllm_mcp_hub.core.alerting.builtin import BUILT_IN
from vllm_mcp_hub.core.alerting.metrics import METRICS, metric_named, read_threshold
from vllm_mcp_hub.core.alerting.rules import Rule, refusal, rule_with
from vllm_mcp_protocol.errors import BadInput, SettingError

RuleFields = Mapping[str, Mapping[str, Any]]
"""Rules by name, each with the fields that were given."""

FROM_FILE = "rules file"
FROM_TOOL = "set-alert-rule"
_OF_METRIC = {rule.metric: {"direction": rule.direction, "missing": rule.missing} for rule in BUILT_IN}
MOST_RULES = 200
"""Every rule is evaluated for every subject, every few seconds."""


def compose(
    *,
    file: RuleFields | None = None,
    thresholds: Mapping[str, float] | None = None,
    stored: RuleFields | None = None,
    observed: Collection[str] = (),
    built_in: Sequence[Rule] = BUILT_IN,
) -> tuple[Rule, ...]:
    """The rules in force, in order of their names.

    `thresholds` are `Settings.alert_thresholds`; `observed` are the metrics that this host observes beside those of
    `METRICS`. A threshold for a metric without a built-in rule makes a rule of its own. A rule that is off unless
    somebody gives a threshold is on once that happened, and stays off where somebody said `enabled = false`. A new rule
    has the direction, and the word on what is missing, of the built-in one for its metric. A clear threshold that was
    stored alone ends where the threshold is that holds now.

    Raises SettingError for the file and the variables, BadInput for what was stored and for too many rules.
    """
    known = frozenset(METRICS) | frozenset(observed) | {rule.metric for rule in built_in}
    rules = {rule.name: rule for rule in built_in}
    said: set[str] = set()
    for name, given in (file or {}).items():
        _layer(rules, said, name, given, FROM_FILE, SettingError, known)
    for metric, value in sorted((thresholds or {}).items()):
        variable = f"ALERT_THRESHOLD_{metric.upper()}"
        _check_metric(metric, known, variable, SettingError)
        name = next((rule.name for rule in built_in if rule.metric == metric), metric)
        given = {"threshold": value} if name in rules else {"metric": metric, "threshold": value}
        _layer(rules, said, name, given, variable, SettingError, known)
    for name, given in (stored or {}).items():
        given = _fitting(rules.get(name), given)
        _layer(rules, said, name, given, FROM_TOOL, BadInput, known)
    if len(rules) > MOST_RULES:
        raise refusal(BadInput, "alert rules", "number of rules", len(rules), f"at most {MOST_RULES}")
    return tuple(rules[name] for name in sorted(rules))


def with_stored(
    stored: RuleFields,
    name: str,
    given: Mapping[str, Any],
    *,
    file: RuleFields | None = None,
    thresholds: Mapping[str, float] | None = None,
    observed: Collection[str] = (),
) -> tuple[dict[str, dict[str, Any]], Rule]:
    """What set-alert-rule stores from now on, and the rule as it is in force then. Raises BadInput.

    Fields that are None were not given: what was stored of them stays.
    """
    fields = {field: value for field, value in given.items() if value is not None}
    merged = {**{key: dict(value) for key, value in stored.items()}, name: {**stored.get(name, {}), **fields}}
    rules = compose(file=file, thresholds=thresholds, stored=merged, observed=observed)
    rule = next(rule for rule in rules if rule.name == name)
    clear = fields.get("clear_threshold")
    if clear is not None and rule.clear_threshold != read_threshold(rule.metric, clear):
        most = f"{'at least' if rule.direction == 'below' else 'at most'} the threshold, {rule.threshold:g}"
        raise refusal(BadInput, f"alert rule {name!r}", "clear_threshold", clear, most)
    return merged, rule


def without_stored(stored: RuleFields, name: str) -> dict[str, dict[str, Any]]:
    """What is stored when nothing is of that rule. Raises BadInput where nothing was."""
    if name not in stored:
        raise BadInput(
            f"set-alert-rule has changed nothing of a rule {name!r}; it has of {', '.join(sorted(stored)) or 'none'}.",
            rule=name,
            known=sorted(stored),
            suggestion="give enabled=false to have a rule not watched any more",
        )
    return {key: dict(value) for key, value in stored.items() if key != name}


def rules_of_file(content: Mapping[str, Any]) -> RuleFields:
    """The rules of a parsed rules file: a table `[<name>]` for each, with its fields. Raises SettingError.

    Fields are judged by `compose`, which knows what they change.
    """
    for name, given in content.items():
        if not isinstance(given, Mapping):
            raise refusal(SettingError, "alert rules file", name, given, f"a table [{name}] with the fields of a rule")
    return content


def _layer(
    rules: dict[str, Rule],
    said: set[str],
    name: str,
    given: Mapping[str, Any],
    origin: str,
    kind: type[BadInput],
    known: Collection[str],
) -> None:
    """Put one layer's fields over one rule. `said` are the rules of which somebody said whether they are on."""
    base = rules.get(name)
    metric = given.get("metric")
    if isinstance(metric, str):
        _check_metric(metric, known, f"alert rule {name!r}: metric", kind)
    if isinstance(metric, str) and (base is None or metric != base.metric):
        given = {**_OF_METRIC.get(metric, {"direction": "above"}), **given}
    if "enabled" in given:
        said.add(name)
    elif base is not None and "threshold" in given and name not in said:
        given = {**given, "enabled": True}
    rules[name] = rule_with(name, base, given, origin=origin, kind=kind)


def _fitting(base: Rule | None, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was stored of a rule whose threshold is another one now, as it can be used."""
    clear = given.get("clear_threshold")
    if base is None or "threshold" in given or not isinstance(clear, (int, float)):
        return given
    closest = max if given.get("direction", base.direction) == "below" else min
    return {**given, "clear_threshold": closest(read_threshold(base.metric, clear), base.threshold)}


def _check_metric(metric: str, known: Collection[str], where: str, kind: type[BadInput]) -> None:
    """A rule on a metric that nobody observes would be silent for ever."""
    if metric in known:
        return
    close = get_close_matches(metric, known, n=1)
    hint = f"; did you mean {close[0]} ({metric_named(close[0]).label})?" if close else "."
    raise kind(
        f"{where}: nobody observes a metric {metric!r}{hint} Known: {', '.join(sorted(known))}.",
        metric=metric,
        known=sorted(known),
        suggestion=f"use {close[0]}" if close else "use one of the known metrics",
    )
