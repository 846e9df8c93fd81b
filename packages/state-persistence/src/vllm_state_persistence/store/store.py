"""The store of snapshots: open, save, find, load, drop. This is what the rest of the program knows of it.

A save is one writing transaction. It looks up the newest snapshot of the session inside of it, so saves of several
processes form one line: each snapshot's parent is the one before it, whoever wrote that.
"""

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import BadInput, StoreDamaged
from vllm_state_persistence.core.chunks import LARGE_BYTES
from vllm_state_persistence.core.manifest import Entry, common_ends
from vllm_state_persistence.core.session import Record, SessionContent
from vllm_state_persistence.core.snapshot import Facts, Snapshot
from vllm_state_persistence.keys import KeyRing
from vllm_state_persistence.store.database import BUSY_S, Database
from vllm_state_persistence.store.desk import Desk, Work, open_desk
from vllm_state_persistence.store.loading import LoadedState, Unread, load_all
from vllm_state_persistence.store.results import Head, Page, Saved, StateInfo
from vllm_state_persistence.store.saving import Draft, Extras, Saving, adds_nothing
from vllm_state_persistence.store.schema import states
from vllm_state_persistence.store.states import (
    STATE_ID_BYTES,
    Marks,
    StateRow,
    by_id,
    change_row,
    new_row,
    newest_first,
    newest_of,
    not_found,
    read_marks,
    read_row,
    session_key,
    session_keys,
    shown_id,
    stored_id,
    write_census,
)

_ROWS_AT_ONCE = 1000
"""Rows of snapshots, of a kilobyte each, that one statement reads."""


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """A session to save, and what belongs to it."""

    content: SessionContent
    at: float
    """Wall clock, unix seconds."""
    base: str | None = None
    """The snapshot (`Head.state_id`) that the content was read against; needed where `content.kept` is not 0."""
    extras: Extras = field(default_factory=Extras)
    state_id: str | None = None
    """None: a new one."""
    records: Iterable[Record] | None = None
    """Instead of the content's: read once, as they come."""
    ids: Sequence[bytes | None] | None = None
    """Of the records' contents, where they were computed before (`StateStore.ids_of`)."""


class StateStore:
    """One SQLite file; safe for several tasks and processes at once."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @classmethod
    async def open(
        cls, path: Path, keys: KeyRing, *, compression: bool = True, busy_s: float = BUSY_S, salvage: bool = False
    ) -> Self:
        """Open the store at `path`, which is made where nothing is.

        With `salvage` it is only read, also where the file is cut short. Raises KeyMissing, KeyWrong, StoreTooNew,
        StoreDamaged, StoreBusy, StateDirRefused, PathNotAllowed; none of them changed anything.
        """
        database = await Database.open(path, busy_s=busy_s, salvage=salvage)
        try:
            desk = await open_desk(database, keys, compression=compression)
        except BaseException:
            await database.close()
            raise
        desk.follows_others = not salvage
        return cls(desk)

    async def close(self) -> None:
        await self.desk.database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        await self.close()

    @property
    def path(self) -> Path:
        return self.desk.database.path

    @property
    def key_notes(self) -> tuple[str, ...]:
        """What the user must be told about the keys, in sentences: that nothing is encrypted, a file not readable."""
        return self.desk.ring.notes

    @property
    def encrypts(self) -> bool:
        return self.desk.cipher.encrypts

    async def save(
        self,
        content: SessionContent,
        *,
        base: str | None = None,
        engines: bytes | None = None,
        metrics: bytes | None = None,
        description: str = "",
        tags: Sequence[str] = (),
        at: float,
    ) -> Saved:
        """Save a session; when this returns, the snapshot outlives power loss.

        `base` is the `Head.state_id` that the content was read against; `content.kept` counts from it. Raises
        StateNotFound when it is gone (read the session again, in full), StoreBusy, DiskFull, StoreDamaged.
        """
        extras = Extras(engines, metrics, description, tuple(tags))
        return await self.save_one(SaveRequest(content, at, base, extras))

    async def save_one(self, request: SaveRequest, *, compress: bool = True) -> Saved:
        """`save` of what is in a request."""
        (saved,) = await self.save_many(once([request]), compress=compress)
        return saved

    def ids_of(self, records: Iterable[Record]) -> list[bytes | None]:
        """Ids of contents; None for those that are cut into pieces. May be called in any thread."""
        contents = [one.content if len(one.content) <= LARGE_BYTES else None for one in records]
        ids = iter(self.desk.cipher.ids_of(content for content in contents if content is not None))
        return [None if content is None else next(ids) for content in contents]

    async def save_many(self, chunks: AsyncIterable[Sequence[SaveRequest]], *, compress: bool = True) -> list[Saved]:
        """Save several sessions, each once, in one transaction: all or none. Small ones share packs, and of each chunk
        the contents are let go before the next one is asked for. Without `compress` what is new is stored as it is."""
        async with self.desk.writing() as work:
            if not compress:
                work.writer.compressor = None
            saved = await save_all(work, chunks)
            added = work.writer.new_bytes.total()
        if self.desk.untrained_bytes is not None:
            self.desk.untrained_bytes += added
        await self.desk.train_if_worth_it()
        return saved

    async def head(self, source: str, session_id: str) -> Head | None:
        """The newest snapshot of a session, so that its source reads only what is new."""
        return (await self.heads([(source, session_id)])).get((source, session_id))

    async def heads(self, sessions: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Head]:
        """`head` of each (source, session id) that has one."""
        keys = {session_key(self.desk.cipher, *session): session for session in sessions}
        async with self.desk.reading() as connection:
            found = await newest_of(connection, self.desk.cipher, list(keys))
        return {keys[key]: _head(row) for key, row in found.items()}

    async def states(
        self,
        *,
        session_id: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[StateInfo]:
        """Snapshots, the newest first. `since` is unix seconds. Raises BadInput for a cursor that is none."""
        conditions = [states.c.dropped == 0]
        if session_id is not None:
            conditions.append(states.c.session.in_(session_keys(self.desk.cipher, session_id)))
        if since is not None:
            conditions.append(states.c.at >= since)
        if cursor is not None:
            conditions.append(states.c.number < _cursor(cursor))
        found: list[StateInfo] = []
        damaged: list[str] = []
        last = 0
        async with self.desk.reading() as connection:
            async for row in newest_first(connection, *conditions, at_once=min(limit + 1, _ROWS_AT_ONCE)):
                if len(found) == limit:
                    return Page(found, str(last), tuple(damaged))
                last = row["number"]
                try:
                    info = read_row(self.desk.cipher, row).info
                except StoreDamaged:
                    damaged.append(shown_id(row["state_id"]))
                    continue
                if tag is None or tag in info.tags:
                    found.append(info)
        return Page(found, None, tuple(damaged))

    async def sessions(self) -> Page[StateInfo]:
        """The newest snapshot of each session, the newest first."""
        newest = select(func.max(states.c.number)).where(states.c.dropped == 0).group_by(states.c.session)
        return await self._all(states.c.number.in_(newest))

    async def marks(self) -> Marks:
        """How each session was when its newest snapshot was taken."""
        async with self.desk.reading() as connection:
            return await read_marks(connection, self.desk.cipher)

    async def repeated(self) -> Page[StateInfo]:
        """All snapshots of the sessions that have several, the newest first."""
        living = states.c.dropped == 0
        several = select(states.c.session).where(living).group_by(states.c.session).having(func.count() > 1)
        return await self._all(living, states.c.session.in_(several))

    async def _all(self, *conditions: ColumnElement[bool]) -> Page[StateInfo]:
        found: list[StateInfo] = []
        damaged: list[str] = []
        async with self.desk.reading() as connection:
            async for row in newest_first(connection, *conditions, at_once=_ROWS_AT_ONCE):
                try:
                    found.append(read_row(self.desk.cipher, row).info)
                except StoreDamaged:
                    damaged.append(shown_id(row["state_id"]))
        return Page(found, None, tuple(damaged))

    async def info(self, state_id: str) -> StateInfo:
        """Raises StateNotFound, StoreDamaged."""
        async with self.desk.reading() as connection:
            return (await by_id(connection, self.desk.cipher, state_id)).info

    async def load(self, state_id: str) -> LoadedState:
        """A snapshot; its records are read as they are asked for. Raises StateNotFound, StoreDamaged."""
        async with self.desk.reading() as connection:
            row = await by_id(connection, self.desk.cipher, state_id)
        return LoadedState(self.desk, row)

    def contents(self, state_ids: Sequence[str]) -> AsyncIterator[list[SessionContent | Unread]]:
        """Many snapshots, whole, in this order; of one that cannot be read, why.

        They come in lists of about `loading.GROUP_BYTES`, which are read together. Raises StoreBusy, and StoreDamaged
        where the file itself cannot be read.
        """
        return load_all(self.desk, state_ids)

    async def drop(self, state_ids: Sequence[str]) -> None:
        """Forget snapshots, all or none. `prune` gives their space back. Raises StateNotFound."""
        async with self.desk.writing() as work:
            census = work.census()
            for state_id in dict.fromkeys(state_ids):
                stored = stored_id(state_id)
                living = (states.c.state_id == stored) & (states.c.dropped == 0)
                if (await work.connection.execute(update(states).where(living).values(dropped=1))).rowcount == 0:
                    raise not_found(state_id)
                census = census.without(work.cipher, stored, False).with_row(work.cipher, stored, True)
            await write_census(work.connection, work.cipher, census)

    async def recall(self, state_id: str) -> StateInfo:
        """A snapshot; when it was dropped and not pruned yet, it is there again. Raises StateNotFound, StoreDamaged."""
        async with self.desk.writing() as work:
            row = await by_id(work.connection, work.cipher, state_id, dropped=True)
            if row.dropped:
                await work.connection.execute(update(states).where(states.c.number == row.number).values(dropped=0))
                stored = stored_id(state_id)
                census = work.census().without(work.cipher, stored, True).with_row(work.cipher, stored, False)
                await write_census(work.connection, work.cipher, census)
        return row.info

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One consistent view of the store."""
        async with self.desk.reading() as connection:
            yield connection


async def once(requests: Sequence[SaveRequest]) -> AsyncIterator[Sequence[SaveRequest]]:
    """One chunk."""
    yield requests


def _cursor(cursor: str) -> int:
    if cursor.isdecimal() and len(cursor) < 19:
        return int(cursor)
    raise BadInput(
        f"cursor={cursor[:80]!r} is none that list-states gave.",
        parameter="cursor",
        suggestion="call again without cursor",
    )


def _head(row: StateRow) -> Head:
    facts = row.snapshot.facts
    return Head(
        row.state_id,
        facts.marker,
        row.snapshot.manifest.records,
        bytes.fromhex(facts.tail),
        facts.updated_at,
        facts.at,
    )


@dataclass(slots=True)
class _Prepared:
    """A session whose content is written."""

    request: SaveRequest
    """Without the content."""
    head: StateRow | None
    base: StateRow | None
    draft: Draft


async def save_all(work: Work, chunks: AsyncIterable[Sequence[SaveRequest]]) -> list[Saved]:
    prepared: list[_Prepared] = []
    async for requests in chunks:
        prepared += await _prepare_all(work, requests, len(prepared))
        del requests
    sessions = {(one.request.content.ref.source, one.request.content.ref.session_id) for one in prepared}
    if len(sessions) != len(prepared):
        raise ValueError("a session stands twice in one save")
    await work.writer.flush()
    ratio = work.writer.stored_bytes / max(1, work.writer.new_bytes.total())
    census, number = work.census(), work.stands.last_state
    saved: list[Saved] = []
    rows: list[dict[str, Any]] = []
    for owner, one in enumerate(prepared):
        if one.head is not None and await _nothing_new(work, one, one.head):
            saved.append(await _unchanged(work, one, one.head))
            continue
        number += 1
        new_bytes = work.writer.new_bytes[owner]
        snapshot = _snapshot(one, new_bytes, ratio)
        rows.append(new_row(work.cipher, snapshot, number, round(new_bytes * ratio)))
        census = census.with_row(work.cipher, stored_id(snapshot.facts.state_id), False)
        saved.append(_saved(snapshot, rows[-1]["new_bytes"]))
    if rows:
        await work.connection.execute(insert(states), rows)
        await write_census(work.connection, work.cipher, census)
    return saved


async def _prepare_all(work: Work, requests: Sequence[SaveRequest], first_owner: int) -> list[_Prepared]:
    """Every session's content into the packs, and what its snapshot will be."""
    refs = [request.content.ref for request in requests]
    sessions = [session_key(work.cipher, ref.source, ref.session_id) for ref in refs]
    heads = await newest_of(work.connection, work.cipher, sessions)
    prepared: list[_Prepared] = []
    for owner, (request, session) in enumerate(zip(requests, sessions, strict=True), first_owner):
        work.writer.owner = owner
        head = heads.get(session)
        base = await _base(work, request, head)
        records = request.content.records if request.records is None else request.records
        identified = zip(records, repeat(None) if request.ids is None else request.ids, strict=request.ids is not None)
        draft = await Saving(work.reader, work.writer, base).draft(request.content, request.extras, identified)
        prepared.append(_Prepared(_without_content(request), head, base, draft))
    return prepared


def _without_content(request: SaveRequest) -> SaveRequest:
    return replace(request, content=replace(request.content, records=()), records=None, ids=None)


async def _base(work: Work, request: SaveRequest, head: StateRow | None) -> StateRow | None:
    """What the content's `kept` counts from. Raises StateNotFound, and ValueError for more than that has."""
    kept = request.content.kept
    if not kept and not request.content.same_header:
        return head
    if request.base is None:
        raise ValueError("what is kept is that of a snapshot: say of which")
    same = head is not None and head.state_id == request.base
    base = head if same else await by_id(work.connection, work.cipher, request.base, dropped=True)
    if base is None or kept > base.snapshot.manifest.records or not _of_session(base, request):
        raise ValueError(f"{kept} records are kept, and {request.base} does not have them")
    return base


def _of_session(row: StateRow, request: SaveRequest) -> bool:
    facts, ref = row.snapshot.facts, request.content.ref
    return (facts.source, facts.session_id) == (ref.source, ref.session_id)


async def _nothing_new(work: Work, one: _Prepared, head: StateRow) -> bool:
    if one.base is head and adds_nothing(one.draft, one.request.extras, head):
        return True
    read_earlier = one.request.base not in (None, head.state_id)
    return read_earlier and await _is_beginning(work, one.draft, head)


async def _is_beginning(work: Work, draft: Draft, head: StateRow) -> bool:
    """Whether `head` has all that a session had when it was read earlier: another process was quicker."""
    old = head.snapshot.manifest
    if draft.manifest.records > old.records or draft.manifest.header != old.header:
        return False
    entries: list[Entry] = await work.reader.all_entries(draft.manifest.spans)
    first, _ = common_ends(entries, (await work.reader.all_entries(old.spans))[: len(entries)])
    return first == len(entries)


async def _unchanged(work: Work, one: _Prepared, head: StateRow) -> Saved:
    """Answer with the newest snapshot; its marker becomes today's, so that the session need not be read again."""
    ref, facts, snapshot = one.request.content.ref, head.snapshot.facts, head.snapshot
    if one.base is head and (ref.marker, ref.location) != (facts.marker, facts.location):
        facts = replace(facts, marker=ref.marker, location=ref.location, updated_at=ref.updated_at)
        snapshot = Snapshot(facts, snapshot.manifest)
        await change_row(work.connection, work.cipher, head.number, snapshot)
    return replace(_saved(snapshot, 0), unchanged=True)


def _snapshot(one: _Prepared, new_bytes: int, ratio: float) -> Snapshot:
    ref, extras = one.request.content.ref, one.request.extras
    facts = Facts(
        state_id=one.request.state_id or shown_id(os.urandom(STATE_ID_BYTES)),
        parent_state_id=one.head.state_id if one.head else None,
        source=ref.source,
        session_id=ref.session_id,
        project=ref.project,
        title=ref.title,
        location=ref.location,
        marker=ref.marker,
        updated_at=ref.updated_at,
        at=one.request.at,
        size_bytes=_size_bytes(one, new_bytes, ratio),
        tail=one.draft.tail,
        description=extras.description,
        tags=extras.tags,
    )
    return Snapshot(facts, one.draft.manifest)


def _size_bytes(one: _Prepared, new_bytes: int, ratio: float) -> int:
    """What is new at its own compression, what was there at that of the snapshot that it builds on."""
    logical_bytes, reused_bytes = one.draft.manifest.logical_bytes, one.draft.reused_bytes
    other_bytes = max(logical_bytes - reused_bytes, new_bytes)
    base = one.base.snapshot if one.base else None
    old_ratio = base.facts.size_bytes / max(1, base.manifest.logical_bytes) if base else ratio
    return round(reused_bytes * old_ratio + other_bytes * (ratio or old_ratio))


def _saved(snapshot: Snapshot, new_bytes: int) -> Saved:
    facts, manifest = snapshot.facts, snapshot.manifest
    return Saved(
        state_id=facts.state_id,
        parent_state_id=facts.parent_state_id,
        new_bytes=new_bytes,
        size_bytes=facts.size_bytes,
        logical_bytes=manifest.logical_bytes,
        messages=manifest.messages,
        unchanged=False,
    )
