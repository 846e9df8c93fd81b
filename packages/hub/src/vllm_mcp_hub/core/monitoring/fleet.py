"""Which engines should answer, which fell over, and which are gone because somebody wanted that. Pure.

An engine that died stays missed under the name that it served until one of that name serves again, so that its alert
clears on recovery; after a day nobody is waiting for it any more. A new hub is told of those that died before it, and
of those that took their place and are gone too, and comes to the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vllm_mcp_protocol.model import EngineStatus

MISSED_S = 24 * 3600.0
RESTARTS_S = 3600.0
_SERVING = (EngineStatus.READY, EngineStatus.DRAINING)
ASLEEP = (EngineStatus.SUSPENDING, EngineStatus.SLEEPING, EngineStatus.WAKE_QUEUED, EngineStatus.WAKING)
_RESTING = (*ASLEEP, EngineStatus.QUEUED, EngineStatus.STARTING)


@dataclass(frozen=True, slots=True)
class Member:
    """One engine as the hub knows it."""

    id: str
    name: str
    status: EngineStatus
    was_ready: bool
    failed: bool
    """It ended, and nobody had asked for that."""
    ended_at: float | None = None
    """Unix time."""


@dataclass(slots=True)
class Fleet:
    """What is remembered of engines from look to look."""

    fallen: dict[str, float] = field(default_factory=dict)
    """When an engine of that name died that nobody has replaced (Unix time)."""
    ends: dict[str, list[float]] = field(default_factory=dict)
    """When engines of that name died within the last hour."""
    _mourned: set[str] = field(default_factory=set)
    """Ids of the dead that were counted."""

    def look(self, members: Iterable[Member], now_s: float) -> dict[str, str | None]:
        """Every name that is known now: None when it should answer, else in words why it need not."""
        known: dict[str, str | None] = {}
        for member in members:
            if member.status in _SERVING:
                known[member.name] = None
                self.fallen.pop(member.name, None)
            elif member.status is EngineStatus.UNREACHABLE and member.was_ready:
                known.setdefault(member.name, None)
            elif member.status in _RESTING:
                known.setdefault(member.name, f"the engine is {member.status}")
            elif member.failed and member.was_ready and member.id not in self._mourned:
                self._mourned.add(member.id)
                ended_at = member.ended_at or now_s
                self.fallen[member.name] = max(ended_at, self.fallen.get(member.name, 0.0))
                self.ends.setdefault(member.name, []).append(ended_at)
            if _has_served_since(member, self.fallen.get(member.name)):
                del self.fallen[member.name]
        for name, at_s in list(self.fallen.items()):
            if known.get(name, "") is None or now_s - at_s > MISSED_S:
                del self.fallen[name]
            else:
                known[name] = None  # also while its successor starts: until that serves, it is missed
        for name, times in list(self.ends.items()):
            self.ends[name] = [at_s for at_s in times if now_s - at_s < RESTARTS_S]
        return known

    def restarts(self, name: str) -> int:
        """How often an engine of that name died within the last hour."""
        return len(self.ends.get(name, ()))


def _has_served_since(member: Member, fallen_at: float | None) -> bool:
    """It took the place of the one that fell then, whatever became of it."""
    if fallen_at is None or member.failed or not member.was_ready or member.status is EngineStatus.UNREACHABLE:
        return False
    return member.ended_at is None or member.ended_at > fallen_at
