"""What the evaluation remembers between two looks, and what it says: values that go to JSON and back. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, TypeGuard, get_args

from vllm_mcp_hub.core.alerting.rules import Severity
from vllm_mcp_protocol.errors import BadInput

Phase = Literal["well", "pending", "firing"]
ChangeKind = Literal["raised", "cleared"]
Key = tuple[str, str]
"""Rule and subject."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Somebody looked. None, or a value that is no finite number: they looked and could not tell."""

    subject: str
    """`engine:llama`, `gpu:0`, `host`."""
    metric: str
    value: float | None
    at: float
    """Wall clock, unix seconds."""

    @property
    def told(self) -> float | None:
        return self.value if self.value is not None and isfinite(self.value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertState:
    """Where one rule stands with one subject.

    Durations are counted from look to look, never as differences of far apart clock readings: so a clock that jumps
    neither raises nor clears anything.
    """

    rule: str
    subject: str
    metric: str
    phase: Phase
    at: float
    """The last look that counted."""
    since: float = 0
    """When the value went beyond the threshold."""
    held_s: float = 0
    """For how long that has been seen; of an alert, until it was last not well."""
    well_s: float | None = None
    """Firing: for how long the value has been well; None while it is not."""
    value: float | None = None
    """The last one that was told."""
    worst: float | None = None
    """The one farthest beyond the threshold since then."""
    threshold: float = 0
    severity: Severity = "warning"

    @property
    def key(self) -> Key:
        return self.rule, self.subject


States = Mapping[Key, AlertState]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An alert was raised, or is over."""

    kind: ChangeKind
    rule: str
    severity: Severity
    subject: str
    metric: str
    value: float | None
    threshold: float
    since: float
    at: float
    held_s: float
    """How long the value was beyond the threshold, as far as it was seen."""
    message: str
    suggestion: str = ""
    """A next step; empty when it is over."""

    @property
    def id(self) -> str:
        """The same however often it is delivered, so that a receiver can tell a repetition."""
        return f"{self.rule}/{self.subject}/{self.since:.3f}/{self.kind}"

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, **asdict(self)}


def firing(states: States) -> tuple[AlertState, ...]:
    """The alerts that are active, the oldest first."""
    return tuple(sorted((s for s in states.values() if s.phase == "firing"), key=lambda s: (s.since, s.key)))


def subjects(states: States) -> frozenset[str]:
    """Everything that is remembered: what of it no longer exists is to be given to `evaluate` as gone."""
    return frozenset(state.subject for state in states.values())


def states_to_json(states: States) -> list[dict[str, Any]]:
    return [asdict(states[key]) for key in sorted(states)]


def states_from_json(stored: Iterable[Any]) -> dict[Key, AlertState]:
    """Raises BadInput for an entry that is not a state; unknown fields, of a later version, are ignored."""
    states = {}
    for number, entry in enumerate(stored):
        state = _state(entry)
        if state is None:
            raise BadInput(
                f"alert states: entry {number} is not one: {str(entry)[:200]}",
                entry=number,
                suggestion="forget the stored states; alerts that still hold are raised once more",
            )
        states[state.key] = state
    return states


def _state(entry: Any) -> AlertState | None:
    if not isinstance(entry, Mapping):
        return None
    given = {field.name: entry[field.name] for field in fields(AlertState) if field.name in entry}
    texts = all(isinstance(given.get(name), str) and given[name] for name in ("rule", "subject", "metric"))
    numbers = all(_is_number(given.get(name, 0)) for name in ("at", "since", "held_s", "threshold"))
    maybes = all(given.get(name) is None or _is_number(given[name]) for name in ("well_s", "value", "worst"))
    chosen = given.get("phase") in get_args(Phase) and given.get("severity", "warning") in get_args(Severity)
    return AlertState(**given) if texts and numbers and maybes and chosen and "at" in given else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
