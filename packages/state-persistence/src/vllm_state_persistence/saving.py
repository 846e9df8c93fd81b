"""Saves: what clients' sessions hold now, and the engines, into the store. Used by the tool and by the chore."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from anyio import to_thread

from vllm_mcp_protocol.collector import collector_paused
from vllm_mcp_protocol.errors import SourceUnreadable, StateNotFound, StoreDamaged, SuiteError
from vllm_state_persistence.core.engine_capture import EngineCapture
from vllm_state_persistence.core.session import SessionContent, SessionRef
from vllm_state_persistence.sources.base import Previous, Source
from vllm_state_persistence.store.results import Head, Saved
from vllm_state_persistence.store.saving import Extras as StoredExtras
from vllm_state_persistence.store.store import SaveRequest, StateStore
from vllm_state_persistence.workplace import Workplace, now

log = logging.getLogger(__name__)

TRANSACTION_BYTES = 256 * 1024 * 1024
"""So much content of several sessions is saved in one transaction: some seconds, in which others wait."""
_CHUNK_BYTES = 2 * 1024 * 1024
"""Content that is read ahead, while as much is being saved."""
_CHUNK_SESSIONS = 500


@dataclass(frozen=True)
class Extras:
    """What is saved beside the conversation."""

    engines: EngineCapture | None = None
    metrics: bytes | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    compress: bool = True
    """What is new, where the store compresses."""

    @property
    def stored(self) -> StoredExtras:
        engines = None if self.engines is None else self.engines.to_bytes()
        return StoredExtras(engines, self.metrics, self.description, self.tags)


async def save_session(work: Workplace, source: Source, ref: SessionRef, extras: Extras) -> Saved:
    """Save a client's session; only what is new since its last snapshot is read and stored."""
    store = await work.store()
    head = await store.head(ref.source, ref.session_id)
    content = await to_thread.run_sync(read_session, source, ref, head)
    try:
        return await _save(store, content, extras, head)
    except StateNotFound:  # it was dropped meanwhile: all of the session is new again
        return await _save(store, await to_thread.run_sync(read_session, source, ref, None), extras, None)


async def save_content(work: Workplace, content: SessionContent, extras: Extras) -> Saved:
    """Save a session that is here in full."""
    return await _save(await work.store(), content, extras, None)


async def _save(store: StateStore, content: SessionContent, extras: Extras, head: Head | None) -> Saved:
    return await store.save_one(_request(content, extras.stored, head), compress=extras.compress)


def _request(
    content: SessionContent, extras: StoredExtras, head: Head | None, ids: Sequence[bytes | None] | None = None
) -> SaveRequest:
    return SaveRequest(content, now(), None if head is None else head.state_id, extras, ids=ids)


def read_session(source: Source, ref: SessionRef, head: Head | None) -> SessionContent:
    """The session, without what the last snapshot has already. One that has not changed is not read."""
    if head is not None and head.marker == ref.marker:
        return SessionContent(ref, b"", (), kept=head.records, same_header=True)
    return source.read(ref, None if head is None else Previous(head.records, head.tail, head.marker))


def model_names(capture: EngineCapture | None) -> list[str]:
    """Models whose set-up a capture holds."""
    if capture is None:
        return []
    names: Sequence[str] = [*(engine.served_name for engine in capture.engines), *capture.defaults]
    return list(dict.fromkeys(names))


# many at once

Wanted = tuple[Source, SessionRef]
Heads = Mapping[tuple[str, str], Head]


@dataclass(slots=True)
class Outcome:
    """What came of one session of many."""

    wanted: Wanted
    saved: Saved | None = None
    problem: SuiteError | None = None


async def save_sessions(work: Workplace, wanted: Sequence[Wanted], extras: Extras) -> AsyncIterator[Outcome]:
    """`save_session` of many, many in each transaction, while the next ones are read; in an order of its own. What
    hinders one hinders no other; raises what hinders all: StoreBusy, DiskFull."""
    store = await work.store()
    heads = await store.heads([(ref.source, ref.session_id) for _, ref in wanted])
    # Sessions of a project quote the same files: in one pack they take an eighth less.
    by_project = sorted(wanted, key=lambda one: (one[1].project, one[1].updated_at))
    reading = _Reading(store, by_project, heads, extras.stored)
    while await reading.more():
        outcomes: list[Outcome] = []
        try:
            with collector_paused():
                async with aclosing(reading.chunks(outcomes)) as chunks:
                    saved = await store.save_many(chunks, compress=extras.compress)
        except (StateNotFound, StoreDamaged):  # of one of them, and no word of which
            outcomes = [one if one.problem else await _outcome(work, one.wanted, extras) for one in outcomes]
        else:
            for outcome, state in zip((one for one in outcomes if not one.problem), saved, strict=True):
                outcome.saved = state
        for outcome in outcomes:
            yield outcome


async def _outcome(work: Workplace, wanted: Wanted, extras: Extras) -> Outcome:
    try:
        return Outcome(wanted, await save_session(work, *wanted, extras))
    except SuiteError as error:
        return Outcome(wanted, problem=error)


@dataclass(slots=True)
class _Chunk:
    """Sessions that were read, and one at least where there were any left."""

    outcomes: list[Outcome] = field(default_factory=list)
    """Of all of them; open where a request is here."""
    requests: list[SaveRequest] = field(default_factory=list)
    size: int = 0


class _Reading:
    """Reads sessions, and computes their ids, in a thread beside the one that saves."""

    def __init__(self, store: StateStore, wanted: Iterable[Wanted], heads: Heads, extras: StoredExtras) -> None:
        self._store = store
        self._rest = iter(wanted)
        self._heads = heads
        self._extras = extras
        self._ahead = self._read_on()

    async def more(self) -> bool:
        """Whether there is another chunk."""
        return bool((await self._ahead).outcomes)

    async def chunks(self, outcomes: list[Outcome]) -> AsyncGenerator[list[SaveRequest], None]:
        """As many as one transaction takes; of whatever is in them the outcomes are added to `outcomes`."""
        size = 0
        while size < TRANSACTION_BYTES and await self.more():
            chunk, self._ahead = await self._ahead, self._read_on()
            outcomes += chunk.outcomes
            size += chunk.size
            requests = chunk.requests
            del chunk
            yield requests

    def _read_on(self) -> asyncio.Future[_Chunk]:
        return asyncio.get_running_loop().run_in_executor(None, self._chunk)

    def _chunk(self) -> _Chunk:
        chunk = _Chunk()
        for source, ref in self._rest:
            outcome = Outcome((source, ref))
            chunk.outcomes.append(outcome)
            head = self._heads.get((ref.source, ref.session_id))
            try:
                content = read_session(source, ref, head)
            except SuiteError as error:
                outcome.problem = error
                continue
            except Exception as error:  # a bug in one source must not keep all other sessions from being saved
                log.exception("reading %s of %s failed", ref.session_id, ref.source)
                outcome.problem = SourceUnreadable(
                    f"The session could not be read: {error}", suggestion="see the log for the traceback"
                )
                continue
            chunk.requests.append(_request(content, self._extras, head, self._store.ids_of(content.records)))
            chunk.size += sum(len(record.content) for record in content.records)
            if chunk.size >= _CHUNK_BYTES or len(chunk.requests) == _CHUNK_SESSIONS:
                break
        return chunk
