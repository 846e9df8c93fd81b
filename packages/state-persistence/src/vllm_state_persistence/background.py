"""Background snapshots: every session that was saved before and changed since, and what the rules let go."""

from dataclasses import dataclass, field
from functools import partial

from anyio import to_thread

from vllm_mcp_protocol.errors import SessionNotFound
from vllm_state_persistence.retaining import due, rules_of
from vllm_state_persistence.saving import Extras, Outcome, Wanted, save_sessions
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
        _, ref = outcome.wanted
        if outcome.saved is not None:
            self.unchanged += outcome.saved.unchanged
            self.saved += not outcome.saved.unchanged
        elif not isinstance(outcome.problem, SessionNotFound):  # deleted in its client since it was listed
            self.problems.append(f"{ref.source} {ref.session_id}: {outcome.problem}")


async def save_what_changed(work: Workplace, *, new_ones: bool = False) -> Done:
    """Save again what somebody saved once and what changed since: a session that nobody asked to keep is not kept
    behind their back, unless `new_ones` are wanted, too. A change of the engines alone makes no snapshot of every
    conversation.
    """
    done = Done()
    store = await work.store()
    capture, _ = await work.capture()
    changed, done.unchanged = await _changed_sessions(work, new_ones)
    async for outcome in save_sessions(work, changed, Extras(capture)):
        done.add(outcome)
    drops = await due(store, rules_of(work.settings), now())
    if drops:
        await store.drop([drop.state_id for drop in drops])
        await prune(store)
    done.dropped = len(drops)
    return done


async def _changed_sessions(work: Workplace, new_ones: bool) -> tuple[list[Wanted], int]:
    """Sessions of clients here that are not as their newest snapshots have them; how many others have a snapshot."""
    marks = await (await work.store()).marks()
    changed: list[Wanted] = []
    unchanged = 0
    for source in work.sources():
        known = partial(marks.has, source.name)
        look = await to_thread.run_sync(source.look, None, known)
        # One that lies in several places (a folder was copied, projects share a database) is what it is in the newest.
        once = {ref.session_id: ref for ref in reversed(look.sessions)}.values()
        saved = [ref for ref in once if new_ones or marks.knows(ref.source, ref.session_id)]
        others = [(source, ref) for ref in saved if not known(ref.session_id, ref.marker)]
        changed += others
        unchanged += look.unchanged + len(saved) - len(others)
    return changed, unchanged
