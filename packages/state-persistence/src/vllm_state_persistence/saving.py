"""Saves: what clients' sessions hold now, and the engines, into the store. Used by the tool and by the chore."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from anyio import to_thread

from vllm_mcp_protocol.errors import StateNotFound, StoreDamaged, SuiteError
from vllm_state_persistence.core.engine_capture import EngineCapture
from vllm_state_persistence.core.session import SessionContent, SessionRef
from vllm_state_persistence.sources.base import Previous, Source
from vllm_state_persistence.store.results import Head, Saved
from vllm_state_persistence.store.saving import Extras as StoredExtras
from vllm_state_persistence.store.store import SaveRequest, StateStore
from vllm_state_persistence.workplace import Workplace, now

BATCH_BYTES = 16 * 1024 * 1024
"""Content that one transaction saves of several sessions: four packs."""
_BATCH_SESSIONS = 500


@dataclass(frozen=True)
class Extras:
    """What is saved beside the conversation."""

    engines: EngineCapture | None = None
    description: str = ""
    tags: tuple[str, ...] = ()

    @property
    def stored(self) -> StoredExtras:
        engines = None if self.engines is None else self.engines.to_bytes()
        return StoredExtras(engines, description=self.description, tags=self.tags)


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
    (saved,) = await store.save_many([_request(content, extras.stored, head)])
    return saved


def _request(content: SessionContent, extras: StoredExtras, head: Head | None) -> SaveRequest:
    return SaveRequest(content, now(), None if head is None else head.state_id, extras)


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one session of many."""

    ref: SessionRef
    saved: Saved | None
    problem: SuiteError | None = None


async def save_sessions(work: Workplace, wanted: Sequence[Wanted], extras: Extras) -> AsyncIterator[Outcome]:
    """`save_session` of many, several in each transaction, while the next ones are read. What hinders one hinders no
    other; raises what hinders all: StoreBusy, DiskFull."""
    store, loop = await work.store(), asyncio.get_running_loop()
    heads = await store.heads([(ref.source, ref.session_id) for _, ref in wanted])
    rest = iter(wanted)
    while batch := await loop.run_in_executor(None, _read_some, rest, heads):
        for outcome in await _save_batch(work, batch, extras, heads):
            yield outcome


@dataclass(frozen=True, slots=True)
class _Read:
    wanted: Wanted
    content: SessionContent | SuiteError


def _read_some(wanted: Iterator[Wanted], heads: Heads) -> list[_Read]:
    """The next ones, until there is enough for a transaction."""
    found, size = list[_Read](), 0
    for source, ref in wanted:
        try:
            content = read_session(source, ref, heads.get((ref.source, ref.session_id)))
        except SuiteError as error:
            found.append(_Read((source, ref), error))
            continue
        found.append(_Read((source, ref), content))
        size += sum(len(record.content) for record in content.records)
        if size >= BATCH_BYTES or len(found) == _BATCH_SESSIONS:
            break
    return found


async def _save_batch(work: Workplace, batch: Sequence[_Read], extras: Extras, heads: Heads) -> list[Outcome]:
    outcomes = [Outcome(one.wanted[1], None, one.content) for one in batch if isinstance(one.content, SuiteError)]
    contents = [one.content for one in batch if not isinstance(one.content, SuiteError)]
    stored = extras.stored
    requests = [_request(one, stored, heads.get((one.ref.source, one.ref.session_id))) for one in contents]
    try:
        saved = await (await work.store()).save_many(requests)
    except (StateNotFound, StoreDamaged):  # of one of them, and no word of which
        return outcomes + [await _outcome(work, one.wanted, extras) for one in batch if one.content in contents]
    return outcomes + [Outcome(one.ref, state) for one, state in zip(contents, saved, strict=True)]


async def _outcome(work: Workplace, wanted: Wanted, extras: Extras) -> Outcome:
    try:
        return Outcome(wanted[1], await save_session(work, *wanted, extras))
    except SuiteError as error:
        return Outcome(wanted[1], None, error)
