"""Which snapshots of a session may go: too old, too many, or thinned out with age. Pure.

The rules are those of backup programs: of the last hours, days and weeks in which anything was saved, the newest
snapshot of each is kept. Hours and days are those of UTC, weeks begin on Monday, so that a snapshot's fate depends
on its age and on its neighbours, never on when the rules are applied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HOUR_S = 3600
DAY_S = 24 * HOUR_S
WEEK_S = 7 * DAY_S

_MONDAY_S = 4 * DAY_S
"""Unix time begins on a Thursday: its first Monday is the fifth day."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the rules look at."""

    state_id: str
    session: str
    """Whatever tells sessions apart; source and session id together."""
    created_at: float
    """Wall clock, unix seconds."""
    tags: tuple[str, ...] = ()
    """Somebody gave it a name: it is not thinned out, age and number still hold."""
    pinned: bool = False
    """Kept whatever the rules say."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is kept. None: that rule does not exist."""

    max_age_days: float | None = None
    """MAX_SESSION_AGE_DAYS."""
    max_count: int | None = None
    """MAX_HISTORY_SIZE: snapshots of one session."""
    hourly: int = 24
    daily: int = 7
    weekly: int = 4
    recent_hours: float = 1.0
    """Nothing is thinned out before this age: what somebody saved by hand is not gone while they still work on it."""

    @property
    def thins(self) -> bool:
        """With all three at 0 nothing is thinned out."""
        return bool(self.hourly or self.daily or self.weekly)


@dataclass(frozen=True, slots=True)
class Drop:
    """A snapshot that may go, and why."""

    state_id: str
    reason: str


def to_drop(snapshots: Iterable[Snapshot], rules: Rules, *, now: float) -> tuple[Drop, ...]:
    """What may go at `now` (unix seconds), each session by itself, the oldest first.

    The newest of a session always stays, and so does what is pinned. What stays is the same whatever the order of
    `snapshots`, and applying the rules again to what stays drops nothing more. The number is counted last: what is
    thinned out makes room for what is older.
    """
    sessions: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        sessions.setdefault(snapshot.session, []).append(snapshot)
    found = [pair for members in sessions.values() for pair in _dropped(members, rules, now)]
    found.sort(key=lambda pair: _age_order(pair[0]))
    return tuple(Drop(snapshot.state_id, reason) for snapshot, reason in found)


def _dropped(members: Sequence[Snapshot], rules: Rules, now: float) -> list[tuple[Snapshot, str]]:
    """Snapshots of one session that go, with the reason."""
    newest_first = sorted(members, key=_age_order, reverse=True)
    reasons = _too_old(newest_first, rules, now) | _thinned(newest_first, rules, now)
    protected = {newest_first[0].state_id, *(one.state_id for one in members if one.pinned)}
    reasons = {state_id: reason for state_id, reason in reasons.items() if state_id not in protected}
    staying = [one for one in newest_first if one.state_id not in reasons]
    reasons |= _too_many(staying, protected, rules)
    return [(one, reasons[one.state_id]) for one in members if one.state_id in reasons]


def _age_order(snapshot: Snapshot) -> tuple[float, str]:
    return snapshot.created_at, snapshot.state_id


def _too_old(newest_first: Sequence[Snapshot], rules: Rules, now: float) -> dict[str, str]:
    if rules.max_age_days is None:
        return {}
    oldest_at = now - rules.max_age_days * DAY_S
    reason = f"older than {rules.max_age_days:g} days (MAX_SESSION_AGE_DAYS)"
    return {one.state_id: reason for one in newest_first if one.created_at < oldest_at}


def _thinned(newest_first: Sequence[Snapshot], rules: Rules, now: float) -> dict[str, str]:
    if not rules.thins:
        return {}
    kept = {one.state_id for one in newest_first if one.tags or one.created_at >= now - rules.recent_hours * HOUR_S}
    kept |= _newest_of_each(newest_first, rules.hourly, HOUR_S, 0)
    kept |= _newest_of_each(newest_first, rules.daily, DAY_S, 0)
    kept |= _newest_of_each(newest_first, rules.weekly, WEEK_S, _MONDAY_S)
    reason = f"thinned out: of {rules.hourly} hours, {rules.daily} days and {rules.weekly} weeks the newest is kept"
    return {one.state_id: reason for one in newest_first if one.state_id not in kept}


def _newest_of_each(newest_first: Sequence[Snapshot], periods: int, length_s: int, begin_s: int) -> set[str]:
    """The newest snapshot of each of the last `periods` periods that have any."""
    newest: dict[int, str] = {}
    for one in newest_first:
        period = int((one.created_at - begin_s) // length_s)
        if period not in newest and len(newest) >= periods:
            break
        newest.setdefault(period, one.state_id)
    return set(newest.values())


def _too_many(staying: Sequence[Snapshot], protected: set[str], rules: Rules) -> dict[str, str]:
    """The oldest of what is left. What is protected takes its places first."""
    if rules.max_count is None:
        return {}
    places = max(0, rules.max_count - sum(one.state_id in protected for one in staying))
    free = [one for one in staying if one.state_id not in protected]
    reason = f"the session has more than {rules.max_count} snapshots (MAX_HISTORY_SIZE)"
    return {one.state_id: reason for one in free[places:]}
