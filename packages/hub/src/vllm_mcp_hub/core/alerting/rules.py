"""A rule: which metric, from where on it is an alert, for how long, and when it is over. Pure.

A rule is raised when its metric was at or beyond `threshold` for `for_seconds`, and cleared when it was at or below
`clear_threshold` (at or above, for a rule that watches for low values) for `clear_for_seconds`. Between the two
thresholds nothing changes, so that a value that hovers around one of them does not flap.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from vllm_mcp_hub.core.alerting.metrics import read_threshold
from vllm_mcp_protocol.errors import BadInput

Severity = Literal["info", "warning", "critical"]
Direction = Literal["above", "below"]
Missing = Literal["keep", "clear", "alert"]

LONGEST_S = 7 * 24 * 3600.0
"""Nobody waits longer for an alert; a larger number is one in other units."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NAME_WORDS = "1 to 64 small letters, digits, - and _, beginning with a letter or digit"
_METRIC_WORDS = "a metric's name: small letters, digits and _, beginning with a letter"
_LONGEST_SUGGESTION = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. It holds for every subject that has the metric, unless `subjects` says for which."""

    name: str
    metric: str
    threshold: float
    clear_threshold: float
    for_seconds: float = 60
    clear_for_seconds: float = 60
    severity: Severity = "warning"
    direction: Direction = "above"
    enabled: bool = True
    missing: Missing = "keep"
    """What it means that nobody could tell the value: nothing, that all is well, or that it is beyond the threshold."""
    subjects: str = "*"
    """A glob over subjects: `engine:llama`, `gpu:*`."""
    suggestion: str = ""
    origin: str = "built in"
    """Who set it last."""

    def __post_init__(self) -> None:
        check(self)

    def covers(self, subject: str) -> bool:
        return fnmatchcase(subject, self.subjects)

    def is_beyond(self, value: float) -> bool:
        """The value is one to alert about."""
        return value >= self.threshold if self.direction == "above" else value <= self.threshold

    def is_well(self, value: float) -> bool:
        """The value is one that ends an alert."""
        if self.is_beyond(value):
            return False
        return value <= self.clear_threshold if self.direction == "above" else value >= self.clear_threshold


def refusal(kind: type[BadInput], where: str, field: str, value: object, allowed: str) -> BadInput:
    """The error of one field."""
    shown = str(value)[:200]
    return kind(
        f"{where}: {field}={shown!r} cannot be used; allowed: {allowed}.",
        field=field,
        value=shown,
        allowed=allowed,
        suggestion=f"give {field} as {allowed}",
    )


def check(rule: Rule, kind: type[BadInput] = BadInput) -> None:
    """Raises `kind` for the first field that cannot be used."""
    where = f"alert rule {str(rule.name)[:64]!r}"
    _check_text(rule, where, kind)
    for field in ("threshold", "clear_threshold", "for_seconds", "clear_for_seconds"):
        value = getattr(rule, field)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise refusal(kind, where, field, value, "a finite number")
    for field in ("for_seconds", "clear_for_seconds"):
        if not 0 <= getattr(rule, field) <= LONGEST_S:
            raise refusal(kind, where, field, getattr(rule, field), f"seconds from 0 to {LONGEST_S:.0f}")
    if not isinstance(rule.enabled, bool):
        raise refusal(kind, where, "enabled", rule.enabled, "true or false")
    below = rule.direction == "below"
    if rule.clear_threshold < rule.threshold if below else rule.clear_threshold > rule.threshold:
        most = f"{'at least' if below else 'at most'} the threshold, {rule.threshold:g}"
        raise refusal(kind, where, "clear_threshold", rule.clear_threshold, most)


def _check_text(rule: Rule, where: str, kind: type[BadInput]) -> None:
    for field, pattern, words in (("name", _NAME, _NAME_WORDS), ("metric", _METRIC, _METRIC_WORDS)):
        value = getattr(rule, field)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise refusal(kind, where, field, value, words)
    for field, choices in (("severity", Severity), ("direction", Direction), ("missing", Missing)):
        if getattr(rule, field) not in get_args(choices):
            raise refusal(kind, where, field, getattr(rule, field), ", ".join(get_args(choices)))
    if not isinstance(rule.subjects, str) or not 1 <= len(rule.subjects) <= 200:
        raise refusal(kind, where, "subjects", rule.subjects, "a glob like engine:llama, gpu:* or *")
    if not isinstance(rule.suggestion, str) or len(rule.suggestion) > _LONGEST_SUGGESTION:
        raise refusal(kind, where, "suggestion", rule.suggestion, f"at most {_LONGEST_SUGGESTION} characters of text")


GIVEN_FIELDS = tuple(field.name for field in fields(Rule) if field.name not in ("name", "origin"))
"""What somebody may give of a rule."""


def rule_with(
    name: str, base: Rule | None, given: Mapping[str, Any], *, origin: str, kind: type[BadInput] = BadInput
) -> Rule:
    """`base` with what was given, or a new rule. Raises `kind` for what cannot be used.

    A threshold without a clear threshold keeps the distance of the two in proportion.
    """
    where = f"alert rule {str(name)[:64]!r}"
    for field in given:
        if field not in GIVEN_FIELDS:
            raise refusal(kind, where, str(field), given[field], f"one of the fields {', '.join(GIVEN_FIELDS)}")
    values = dict(given)
    metric = values.get("metric", base.metric if base else None)
    if metric is None:
        raise refusal(kind, where, "metric", "", f"{_METRIC_WORDS}; a new rule needs metric and threshold")
    if "threshold" not in values and (base is None or metric != base.metric):
        raise refusal(
            kind, where, "threshold", "", "a finite number; a rule needs one when it is new or changes metric"
        )
    for field in ("threshold", "clear_threshold"):
        value = values.get(field)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            values[field] = read_threshold(str(metric), value)
    if "clear_threshold" not in values and "threshold" in values:
        values["clear_threshold"] = _clear_for(values, base if base and base.metric == metric else None)
    try:
        if base is not None:
            return replace(base, **values, name=name, origin=origin)
        return Rule(**values, name=name, origin=origin)
    except BadInput as error:
        raise kind(error.info.message, **error.info.details) from None


def _clear_for(values: Mapping[str, Any], base: Rule | None) -> Any:
    """The clear threshold for a new threshold: in the proportion of the old two, where that makes sense."""
    threshold = values["threshold"]
    if base is None or isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        return threshold
    if base.direction != values.get("direction", base.direction):
        return threshold
    if base.threshold == 0:
        return threshold + base.clear_threshold
    clear = float(f"{threshold * base.clear_threshold / base.threshold:.6g}")
    is_ordered = clear >= threshold if base.direction == "below" else clear <= threshold
    return clear if is_ordered else threshold
