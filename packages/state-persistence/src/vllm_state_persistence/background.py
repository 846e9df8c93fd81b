"""Background snapshots: every session that was saved before and changed since, and what the rules let go."""

from dataclasses import dataclass, field

from anyio import to_thread

from vllm_mcp_protocol.errors import SessionNotFound
from vllm_state_persistence.core.session import SessionRef
from vllm_state_persistence.retaining import due, rules_of
from vllm_state_persistence.saving import Extras, Outcome, Wanted, save_sessions
from vllm_state_persistence.sources.base import Source
from vllm_state_persistence.store.maintenance import prune
from vllm_state_persistence.workplace import Workplace, now


@dataclass
class Done:
    """What came of it."""

    saved: int = 0
    unchanged: int = 0
    dropped: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        if outcome.saved is not None:
            self.unchanged += outcome.saved.unchanged
            self.saved += not outcome.saved.unchanged
        elif not isinstance(outcome.problem, SessionNotFound):  # deleted in its client since it was listed
            self.problems.append(f"{outcome.ref.source} {outcome.ref.session_id}: {outcome.problem}")


async def save_what_changed(work: Workplace) -> Done:
    """Save again what somebody saved once and what changed since: a session that nobody asked to keep is not kept
    behind their back, and a change of the engines alone makes no snapshot of every conversation.
    """
    done = Done()
    store = await work.store()
    capture, _ = await work.capture()
    changed: list[Wanted] = []
    for source, ref, marker in await _known_sessions(work):
        if marker == ref.marker:
            done.unchanged += 1
        else:
            changed.append((source, ref))
    async for outcome in save_sessions(work, changed, Extras(capture)):
        done.add(outcome)
    drops = await due(store, rules_of(work.settings), now())
    if drops:
        await store.drop([drop.state_id for drop in drops])
        await prune(store)
    done.dropped = len(drops)
    return done


async def _known_sessions(work: Workplace) -> list[tuple[Source, SessionRef, str]]:
    """Sessions of clients here of which there is a snapshot, with the marker of the newest one."""
    store = await work.store()
    saved = [info.ref for info in (await store.sessions()).items]
    found: list[tuple[Source, SessionRef, str]] = []
    for source in work.sources():
        seen = {ref.session_id: ref for ref in saved if ref.source == source.name}
        look = await to_thread.run_sync(source.look, None, seen)
        found += ((source, ref, seen[ref.session_id].marker) for ref in look.sessions if ref.session_id in seen)
    return found
