"""Prune (space comes back) and key rotation. Both may be interrupted anywhere: each step is one transaction."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from anyio import to_thread
from sqlalchemy import BLOB, Column, Integer, MetaData, Table, cast, delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_state_persistence.core.manifest import Ref, Span, decode_chunks, decode_segment
from vllm_state_persistence.core.seal import is_encrypted
from vllm_state_persistence.keys import KeyRing
from vllm_state_persistence.store.cipher import encode_plain_until, make_cipher, new_secret, unwrap, wrap
from vllm_state_persistence.store.desk import Desk, Work, read_cipher
from vllm_state_persistence.store.reading import Reader, batches, sized_batches, unreadable
from vllm_state_persistence.store.results import Pruned
from vllm_state_persistence.store.schema import data_keys, dictionaries, meta, packs, states, vals
from vllm_state_persistence.store.states import StateRow, newest_first, read_row, write_census
from vllm_state_persistence.store.store import StateStore

REWRITE_BELOW = 0.5
"""A pack of which less is in use is written anew."""

SMALL_PACK_BYTES = 64 * 1024
"""Packs of single messages; many of them together compress far better."""

_SMALL_PACKS = 16
"""So many small packs are worth a rewrite."""

_REWRITE_BYTES = 8 * 1024 * 1024
"""Content of packs that one transaction writes anew."""

_VACUUM_PAGES = 2000

_living = Table(
    "living_values",
    MetaData(),
    Column("id", BLOB, primary_key=True),
    Column("size", Integer, nullable=False),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)


@dataclass
class _Marking:
    """Notes which values the snapshots need."""

    connection: AsyncConnection
    reader: Reader
    _spans: set[Span] = field(default_factory=set)
    last_state: int = 0

    async def mark(self, row: StateRow) -> None:
        """Raises StoreDamaged: what cannot be read cannot say what it needs."""
        manifest = row.snapshot.manifest
        self.last_state = max(self.last_state, row.number)
        await self._refs(ref for ref in (manifest.header, manifest.engines, manifest.metrics) if ref)
        for span in manifest.spans:
            if span not in self._spans:
                self._spans.add(span)
                await self._span(span)

    async def _span(self, span: Span) -> None:
        data = await self.reader.value(span.segment)
        await self._add([(span.segment, len(data))])
        try:
            entries = decode_segment(data)
        except ValueError as error:
            raise unreadable("a segment", str(error)) from error
        await self._refs(entry.content for entry in entries[span.start : span.start + span.records])

    async def _refs(self, refs: Iterable[Ref]) -> None:
        refs = list(dict.fromkeys(refs))
        await self._add((ref.value, ref.size) for ref in refs if not ref.chunked)
        for some in batches((ref.value for ref in refs if ref.chunked), 100):
            for identity in some:
                listing = await self.reader.value(identity)
                await self._add([(identity, len(listing)), *decode_chunks(listing)])

    async def _add(self, sizes: Iterable[tuple[bytes, int]]) -> None:
        rows = [{"id": identity, "size": size} for identity, size in sizes]
        if rows:
            await self.connection.execute(insert(_living).prefix_with("OR IGNORE"), rows)


@dataclass(frozen=True, slots=True)
class _Swept:
    states: int
    values: int
    packs: int
    to_rewrite: list[tuple[int, int]]
    """Packs, with their sizes."""


async def prune(store: StateStore) -> Pruned:
    """Give back the space of dropped snapshots.

    Raises StoreDamaged, before anything is deleted, when a living snapshot cannot be read: repair comes first.
    """
    desk, before = store.desk, _file_bytes(store.path)
    async with desk.database.one_connection() as connection:
        await connection.run_sync(_living.create)
        await connection.commit()
        try:
            swept = await _mark_and_sweep(desk, connection)
        finally:
            await connection.rollback()
            await connection.run_sync(_living.drop)
            await connection.commit()
    rewritten = 0
    for numbers in sized_batches(swept.to_rewrite, 500, _REWRITE_BYTES):
        rewritten += await _rewrite(desk, numbers)
    await _vacuum(desk)
    freed_bytes = max(0, before - _file_bytes(store.path))
    return Pruned(swept.states, swept.values, swept.packs, rewritten, freed_bytes)


async def _mark_and_sweep(desk: Desk, connection: AsyncConnection) -> _Swept:
    """Most is marked in a view that holds up nobody; the store is locked only for what came since, and the sweep."""
    async with desk.reading_on(connection):
        marking = _Marking(connection, desk.reader(connection))
        await _mark_since(desk, marking, 0)
    async with desk.writing_on(connection) as work:
        marking.reader = work.reader
        await _mark_since(desk, marking, marking.last_state)
        return await _sweep(work)


async def _mark_since(desk: Desk, marking: _Marking, number: int) -> None:
    async for row in newest_first(marking.connection, states.c.number > number, states.c.dropped == 0):
        await marking.mark(read_row(desk.cipher, row))


async def _sweep(work: Work) -> _Swept:
    dropped = await _delete_dropped(work)
    living = select(_living.c.id)
    gone = (await work.connection.execute(delete(vals).where(vals.c.id.not_in(living)))).rowcount
    used = select(vals.c.pack).distinct()
    empty = (await work.connection.execute(delete(packs).where(packs.c.number.not_in(used)))).rowcount
    return _Swept(dropped, gone, empty, await _worth_rewriting(work))


async def _delete_dropped(work: Work) -> int:
    census = work.census()
    rows = (await work.connection.execute(select(states.c.state_id).where(states.c.dropped == 1))).scalars().all()
    for state_id in rows:
        census = census.without(work.cipher, state_id, True)
    if rows:
        await work.connection.execute(delete(states).where(states.c.dropped == 1))
        await write_census(work.connection, work.cipher, census)
    return len(rows)


async def _worth_rewriting(work: Work) -> list[tuple[int, int]]:
    in_use = (
        select(vals.c.pack, func.sum(_living.c.size).label("bytes"))
        .join(_living, _living.c.id == vals.c.id)
        .group_by(vals.c.pack)
        .subquery()
    )
    head = func.substr(packs.c.sealed, 1, 9)
    # A flipped bit can turn a number into text, whose worth as a number is all that is asked for here.
    query = select(packs.c.number, cast(packs.c.raw_bytes, Integer), in_use.c.bytes, head).join(
        in_use, in_use.c.pack == packs.c.number
    )
    rows = [tuple(row) for row in await work.connection.execute(query.order_by(packs.c.number))]
    small = {number for number, raw_bytes, _, _ in rows if raw_bytes < SMALL_PACK_BYTES}
    if len(small) < _SMALL_PACKS:
        small = set()
    return [
        (number, raw_bytes)
        for number, raw_bytes, used_bytes, head in rows
        if number in small
        or used_bytes < REWRITE_BELOW * raw_bytes
        or (work.cipher.encrypts and not is_encrypted(head))
    ]


async def _rewrite(desk: Desk, numbers: list[int]) -> int:
    """What is in use of these packs into new ones."""
    async with desk.writing() as work:
        there = select(packs.c.number).where(packs.c.number.in_(numbers)).order_by(packs.c.number)
        found: list[int] = []
        for number in (await work.connection.execute(there)).scalars().all():
            content = await work.reader.pack(number)
            if not content:  # damaged: verify names it, repair removes it
                continue
            found.append(number)
            places = await work.reader.packs_of(list(content))
            await work.writer.add((one, data) for one, data in content.items() if places.get(one) == number)
        await work.writer.flush()
        await work.connection.execute(delete(packs).where(packs.c.number.in_(found)))
    return len(found)


async def _vacuum(desk: Desk) -> None:
    """Free pages back to the file system, some at a time."""
    async with desk.database.plain() as connection:
        while (await connection.execute(text("PRAGMA freelist_count"))).scalar_one():
            (await connection.exec_driver_sql(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")).close()
    await desk.database.checkpoint()


def _file_bytes(path: Path) -> int:
    log = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


# Keys


async def rotate_key(store: StateStore, ring: KeyRing) -> None:
    """Lock the store with another key (`ring`'s first), and seal with a new data key from now on. One transaction.

    Also turns encryption on or off. What is there is not written anew (`prune` does that with what was unencrypted).
    Raises KeyMissing, KeyWrong, StoreBusy.
    """
    desk = store.desk
    async with desk.writing() as work:
        census = work.census()
        rows = (await work.connection.execute(select(data_keys.c.number, data_keys.c.wrapped))).all()
        secrets = {number: await to_thread.run_sync(unwrap, blob, desk.ring) for number, blob in rows}
        secrets[max(secrets) + 1] = new_secret()
        wrapped = [
            (number, await to_thread.run_sync(wrap, secret, ring, ring.encrypts)) for number, secret in secrets.items()
        ]
        plain_until = await _plain_until(work, ring)
        await work.connection.execute(delete(data_keys))
        await work.connection.execute(insert(data_keys), [{"number": n, "wrapped": blob} for n, blob in wrapped])
        cipher = await to_thread.run_sync(make_cipher, desk.cipher.store_id, wrapped, ring, None)
        await work.connection.execute(delete(meta).where(meta.c.name == "plain"))
        if plain_until:
            sealed = cipher.seal("plain", "until", encode_plain_until(plain_until))
            await work.connection.execute(insert(meta), {"name": "plain", "value": sealed})
        await write_census(work.connection, cipher, census)
        cipher = await read_cipher(work.connection, ring)
    desk.ring, desk.cipher = ring, cipher
    await desk.database.checkpoint()  # the old wrapped keys leave the log, too


async def _plain_until(work: Work, ring: KeyRing) -> dict[str, int]:
    """Up to which numbers a store that becomes encrypted has unencrypted content."""
    if not ring.encrypts:
        return {}
    if work.cipher.encrypts:
        return dict(work.cipher.plain_until)
    dictionary = (await work.connection.execute(select(func.max(dictionaries.c.number)))).scalar() or 0
    return {"pack": work.stands.last_pack, "state": work.stands.last_state, "dictionary": dictionary}
