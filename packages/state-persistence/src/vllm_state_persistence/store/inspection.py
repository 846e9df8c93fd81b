"""Looks through a store and says what cannot be read back: which packs, and of which snapshot which record.

Which values are sound is noted in a temporary database of its own, which SQLite keeps on disk where it grows large: the
memory is bounded, and the damaged file is not needed for it. Segments that several snapshots share are looked at once.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import ColumnElement, bindparam, func, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.manifest import Entry, Manifest, Ref, Span, decode_chunks, decode_segment
from vllm_state_persistence.store.database import is_corrupt
from vllm_state_persistence.store.desk import Desk
from vllm_state_persistence.store.reading import IDS_AT_ONCE, Reader, batches, survivors
from vllm_state_persistence.store.results import Damage
from vllm_state_persistence.store.schema import packs, vals
from vllm_state_persistence.store.states import StateRow, standing

_PACK = select(packs.c.number, packs.c.sealed).where(packs.c.number.in_(bindparam("numbers", expanding=True)))

_PACKS_AT_ONCE = 8
_IDS_AT_ONCE = 5000


class OpenedPack(NamedTuple):
    """A pack that was read; its ids are what its values give."""

    number: int
    sound: Mapping[bytes, bytes]


@dataclass(slots=True)
class LostEntries:
    """What cannot be read of a span: all of it, or some of its entries."""

    whole: str = ""
    entries: list[tuple[int, Entry, str]] = field(default_factory=list)
    """Places in the span, and why."""

    def __bool__(self) -> bool:
        return bool(self.whole or self.entries)


@dataclass(slots=True)
class Losses:
    """What cannot be read of a snapshot."""

    parts: dict[str, str] = field(default_factory=dict)
    """`header`, `engines`, `metrics`: why."""
    spans: list[LostEntries] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.parts or any(self.spans))

    @property
    def records(self) -> int:
        return sum(len(lost.entries) for lost in self.spans)


class ValueSet:
    """Ids of values, many of them."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE sound (id BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, identities: Iterable[bytes]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany("INSERT OR IGNORE INTO sound VALUES (?)", ((one,) for one in identities))
        self._database.execute("COMMIT")

    def missing(self, identities: Iterable[bytes]) -> list[bytes]:
        """Those that are not in it, each once."""
        found = list[bytes]()
        for some in batches(dict.fromkeys(identities), IDS_AT_ONCE):
            marks = ",".join("?" * len(some))
            rows = self._database.execute(f"SELECT id FROM sound WHERE id IN ({marks})", some)  # noqa: S608
            there = {one for (one,) in rows}
            found += (one for one in some if one not in there)
        return found

    def __len__(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM sound").fetchone()[0]
        return count

    def close(self) -> None:
        self._database.close()


@dataclass
class Inspection:
    """One look, in one transaction."""

    connection: AsyncConnection
    desk: Desk
    reader: Reader
    damaged_packs: dict[int, str] = field(default_factory=dict)
    packs: int = 0
    read_bytes: int = 0
    sound: "ValueSet" = field(default_factory=lambda: ValueSet())
    lost: dict[bytes, str] = field(default_factory=dict)
    """Why of values that have left the index."""
    _spans: dict[Span, LostEntries] = field(default_factory=dict)

    # Packs and values

    async def look_at_index(self) -> None:
        """Take every value as sound whose pack is there."""
        there = select(packs.c.number)
        async for ids in self.index_ids(vals.c.pack.in_(there)):
            self.sound.add(ids)
        self.packs = (await self.connection.execute(select(func.count()).select_from(packs))).scalar_one()

    async def index_ids(self, *conditions: ColumnElement[bool]) -> AsyncIterator[list[bytes]]:
        """The values that the index names, some at a time."""
        last = b""
        while True:
            query = select(vals.c.id).where(vals.c.id > last, *conditions).order_by(vals.c.id).limit(_IDS_AT_ONCE)
            ids = list((await self.connection.execute(query)).scalars())
            if not ids:
                return
            yield ids
            last = ids[-1]

    async def read_packs(self) -> AsyncIterator[OpenedPack]:
        """Read every pack, and compute the id of each value."""
        for numbers in batches(await self._pack_numbers(), _PACKS_AT_ONCE):
            rows = await survivors(self.connection, _PACK, "numbers", numbers)
            for number in set(numbers) - {row["number"] for row in rows}:
                self.damaged_packs[number] = "the page of the file that it lies on is damaged"
            for row in rows:
                self.packs += 1
                try:
                    yield await self._opened(row["number"], row["sealed"])
                except StoreDamaged as error:
                    self.damaged_packs[row["number"]] = str(error.info.details.get("why", error.info.message))

    async def _pack_numbers(self) -> list[int]:
        """Those that are there, and those that values are said to lie in."""
        found: set[int] = set()
        for query in (select(packs.c.number), select(vals.c.pack).distinct()):
            try:
                found.update((await self.connection.execute(query)).scalars())
            except DatabaseError as error:
                if not is_corrupt(error):
                    raise
                found.update(range(1, (await standing(self.connection)).last_pack + 1))
        return sorted(number for number in found if isinstance(number, int))

    async def _opened(self, number: int, sealed: bytes) -> OpenedPack:
        content = await self.reader.opened(number, sealed)
        self.read_bytes += sum(map(len, content.values()))
        return OpenedPack(number, content)

    async def unsound(self, identities: Sequence[bytes]) -> dict[bytes, str]:
        """Those of these values that cannot be read, and why."""
        lost = self.sound.missing(identities)
        if not lost:
            return {}
        places = await self.reader.packs_of(lost)
        return {one: self.lost.get(one) or self._why(places.get(one)) for one in lost}

    async def forget_values_of(self, pack: int) -> None:
        """Before they leave the index: remember why."""
        rows = await self.connection.execute(select(vals.c.id).where(vals.c.pack == pack))
        self.lost.update(dict.fromkeys(rows.scalars(), self._why(pack)))

    def _why(self, pack: int | None) -> str:
        if pack is None:
            return "the store has no such value"
        return f"pack {pack}: {self.damaged_packs.get(pack, 'it does not hold it')}"

    # Snapshots

    async def losses(self, row: StateRow) -> Losses:
        """What of a snapshot cannot be read."""
        manifest = row.snapshot.manifest
        parts = {
            name: why
            for name, ref in _parts(manifest)
            if ref and (why := (await self._lost_refs([ref])).get(ref.value))
        }
        return Losses(parts, [await self._of_span(span) for span in manifest.spans])

    async def _of_span(self, span: Span) -> LostEntries:
        if span not in self._spans:
            self._spans[span] = await self._looked_at(span)
        return self._spans[span]

    async def _looked_at(self, span: Span) -> LostEntries:
        if lost := await self.unsound([span.segment]):
            return LostEntries(lost[span.segment])
        try:
            entries = decode_segment(await self.reader.value(span.segment))
        except (StoreDamaged, ValueError) as error:
            return LostEntries(str(error))
        part = entries[span.start : span.start + span.records]
        if len(part) != span.records:
            return LostEntries("its segment has fewer entries")
        lost_refs = await self._lost_refs([entry.content for entry in part])
        found = [(at, entry, lost_refs[entry.content.value]) for at, entry in enumerate(part)
                 if entry.content.value in lost_refs]  # fmt: skip
        return LostEntries("", found)

    async def _lost_refs(self, refs: Sequence[Ref]) -> dict[bytes, str]:
        """Of contents that cannot be read: the value, and why."""
        lost = await self.unsound([ref.value for ref in refs])
        for ref in dict.fromkeys(ref for ref in refs if ref.chunked and ref.value not in lost):
            why = await self._lost_piece(ref)
            if why:
                lost[ref.value] = why
        return lost

    async def _lost_piece(self, ref: Ref) -> str:
        try:
            chunks = decode_chunks(await self.reader.value(ref.value))
        except (StoreDamaged, ValueError) as error:
            return str(error)
        lost = await self.unsound([identity for identity, _ in chunks])
        return next(iter(lost.values()), "")


def _parts(manifest: Manifest) -> tuple[tuple[str, Ref | None], ...]:
    return (("header", manifest.header), ("engines", manifest.engines), ("metrics", manifest.metrics))


def damages(row: StateRow, losses: Losses) -> list[Damage]:
    """Losses, each by its name."""
    facts = row.snapshot.facts
    found = [Damage(facts.state_id, facts.session_id, name, "", why) for name, why in losses.parts.items()]
    at = 0
    for span, lost in zip(row.snapshot.manifest.spans, losses.spans, strict=True):
        if lost.whole:
            name = f"{at + 1} to {at + span.records}"
            found.append(Damage(facts.state_id, facts.session_id, "records", name, lost.whole))
        found += (
            Damage(facts.state_id, facts.session_id, "record", f"{entry.kind} {entry.key}", why)
            for _, entry, why in lost.entries
        )
        at += span.records
    return found


async def file_damage(connection: AsyncConnection) -> list[Damage]:
    """What SQLite finds wrong with the file itself."""
    try:
        rows = (await connection.execute(text("PRAGMA quick_check(10)"))).scalars().all()
    except DatabaseError as error:
        if not is_corrupt(error):
            raise
        rows = [str(error.orig)]
    return [Damage("", "", "file", "", str(row)) for row in rows if row != "ok"]
