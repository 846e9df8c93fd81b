"""Which snapshots go by the settings' rules, and the going. Used by the tool, the command and the chore."""

from collections.abc import Sequence

from vllm_mcp_protocol.settings import Settings
from vllm_state_persistence.core.retention import Drop, Rules, Snapshot, to_drop
from vllm_state_persistence.store.results import StateInfo
from vllm_state_persistence.store.store import StateStore

_PAGE = 1000


def rules_of(settings: Settings) -> Rules:
    """MAX_SESSION_AGE_DAYS and MAX_HISTORY_SIZE, and what is thinned out with age."""
    return Rules(max_age_days=settings.max_session_age_days, max_count=settings.max_history_size)


async def due(store: StateStore, rules: Rules, now_s: float) -> tuple[Drop, ...]:
    """What the rules let go now."""
    snapshots: list[Snapshot] = []
    sessions: set[str] = set()
    for info in (await store.repeated()).items:  # a session's only snapshot stays
        session = f"{info.source}\0{info.session_id}"
        newest = session not in sessions  # whatever the clock did meanwhile
        snapshots.append(Snapshot(info.state_id, session, info.at, info.tags, pinned=newest))
        sessions.add(session)
    return to_drop(snapshots, rules, now=now_s)


async def every_state(store: StateStore, session_id: str | None = None) -> list[StateInfo]:
    """All snapshots, the newest first."""
    found: list[StateInfo] = []
    cursor: str | None = None
    while True:
        page = await store.states(session_id=session_id, limit=_PAGE, cursor=cursor)
        found += page.items
        cursor = page.cursor
        if cursor is None:
            return found


def freed_bytes(states: Sequence[StateInfo], going: set[str]) -> int:
    """What a prune gives back at least: what each of them had added to the store."""
    return sum(info.new_bytes for info in states if info.state_id in going)
