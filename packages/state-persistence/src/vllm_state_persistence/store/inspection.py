"""Looks through a store and says what cannot be read back: which packs, and of which snapshot which record.

Which values are sound is noted in a temporary database of its own, which SQLite keeps on disk where it grows large: the
memory is bounded, and the damaged file is not needed for it. So is what segments refer to, when their pack is read, so
that no pack is opened twice for them. Spans that several snapshots share are looked at once.
"""

import sqlite3
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.ids import ID_BYTES
from vllm_state_persistence.core.manifest import Entry, Manifest, Ref, Span, decode_chunks, decode_refs, ids_in
from vllm_state_persistence.store.database import is_corrupt
from vllm_state_persistence.store.desk import Desk
from vllm_state_persistence.store.reading import LOOKUP_IDS, OpenedPack, Reader, batches, of_pack, one_of, sized_batches
from vllm_state_persistence.store.results import Damage
from vllm_state_persistence.store.schema import packs, vals
from vllm_state_persistence.store.states import StateRow, last_number

_IDS_AT_ONCE = 5000
_RECORDS_AT_ONCE = 50_000
_LISTINGS_AT_ONCE = 500
_IDS_IN_MEMORY = 200_000
"""Of sound values: about 20 MB."""

Refs = tuple[bytes, bytes]
"""As `decode_refs` gives them."""


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


class Notes:
    """Which values are sound, and what segments refer to: many of them."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE sound (id BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("CREATE TABLE segments (id BLOB PRIMARY KEY, chunked BLOB, ids BLOB) WITHOUT ROWID")
        self._last: set[bytes] = set()
        """Sound ones that are not in the database yet."""

    def add_sound(self, identities: Iterable[bytes]) -> None:
        self._last.update(identities)
        if len(self._last) >= _IDS_IN_MEMORY:
            self._add("INSERT OR IGNORE INTO sound VALUES (?)", zip(self._last, strict=True))
            self._last.clear()

    def unsound(self, identities: Iterable[bytes]) -> list[bytes]:
        """Those of these values that are not sound, each once."""
        others = [one for one in dict.fromkeys(identities) if one not in self._last]
        there = {one for (one,) in self._asked("id", "sound", others)}
        return [one for one in others if one not in there]

    def add_segments(self, segments: Iterable[tuple[bytes, bytes | memoryview]]) -> None:
        """What they refer to; of what is none, nothing."""
        self._add("INSERT OR IGNORE INTO segments VALUES (?, ?, ?)", _decoded(segments))

    def segments(self, identities: Iterable[bytes]) -> dict[bytes, Refs]:
        """Those that were noted."""
        return {identity: (chunked, ids) for identity, chunked, ids in self._asked("*", "segments", identities)}

    def _add(self, statement: str, rows: Iterable[tuple[bytes, ...]]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(statement, rows)
        self._database.execute("COMMIT")

    def _asked(self, columns: str, table: str, identities: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
        for some in batches(identities, LOOKUP_IDS):
            marks, parameters = one_of(some)
            yield from self._database.execute(f"SELECT {columns} FROM {table} WHERE id IN {marks}", parameters)  # noqa: S608

    @property
    def sound(self) -> int:
        """How many are."""
        count: int = self._database.execute("SELECT count(*) FROM sound").fetchone()[0]
        there = sum(1 for _ in self._asked("id", "sound", self._last)) if count else 0
        return count + len(self._last) - there

    def close(self) -> None:
        self._database.close()


def _decoded(segments: Iterable[tuple[bytes, bytes | memoryview]]) -> Iterator[tuple[bytes, ...]]:
    for identity, data in segments:
        with suppress(ValueError):
            yield identity, *decode_refs(data)


@dataclass
class Inspection:
    """One look, in one transaction."""

    connection: AsyncConnection
    desk: Desk
    reader: Reader
    damaged_packs: dict[int, str] = field(default_factory=dict)
    packs: int = 0
    read_bytes: int = 0
    notes: Notes = field(default_factory=Notes)
    lost: dict[bytes, str] = field(default_factory=dict)
    """Why of values that have left the index."""
    _spans: dict[Span, LostEntries] = field(default_factory=dict)

    # Packs and values

    async def look_at_index(self) -> None:
        """Take every value as sound whose pack is there."""
        there = select(packs.c.number)
        async for ids in self.index_ids(vals.c.pack.in_(there)):
            self.notes.add_sound(ids)
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

    async def read_packs(self, segments: Collection[bytes] = ()) -> AsyncIterator[list[OpenedPack]]:
        """Read every pack, some at a time; without those that cannot be read.

        What these segments refer to is noted.
        """
        async for opened in self.reader.packs(await self._pack_numbers()):
            self.damaged_packs.update((pack.number, pack.why) for pack in opened if pack.why)
            sound = [pack for pack in opened if not pack.why]
            self.packs += len(sound)
            self.read_bytes += sum(len(data) for pack in sound for data in pack.values.values())
            self.notes.add_segments((one, pack.values[one]) for pack in sound for one in pack.values.keys() & segments)
            yield sound
            del opened, sound  # before the next ones are read

    async def _pack_numbers(self) -> list[int]:
        """Those that are there, and those that values are said to lie in."""
        found: set[int] = set()
        for query in (select(packs.c.number), select(vals.c.pack).distinct()):
            try:
                found.update((await self.connection.execute(query)).scalars())
            except DatabaseError as error:
                if not is_corrupt(error):
                    raise
                found.update(range(1, await last_number(self.connection, "packs") + 1))
        return sorted(number for number in found if isinstance(number, int))

    async def unsound(self, identities: Iterable[bytes]) -> dict[bytes, str]:
        """Those of these values that cannot be read, and why."""
        lost = self.notes.unsound(identities)
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
        return of_pack(pack, self.damaged_packs)

    # Snapshots

    async def losses(self, rows: Sequence[StateRow]) -> list[Losses]:
        """What of these snapshots cannot be read."""
        spans = {span for row in rows for span in row.snapshot.manifest.spans if span not in self._spans}
        for some in sized_batches(((span, span.records) for span in spans), _IDS_AT_ONCE, _RECORDS_AT_ONCE):
            self._spans.update(await self._of_spans(some))
        refs = [ref for row in rows for _, ref in _parts(row.snapshot.manifest) if ref]
        lost = await self._lost([ref.value for ref in refs], [ref.value for ref in refs if ref.chunked])
        return [
            Losses(
                {name: lost[ref.value] for name, ref in _parts(row.snapshot.manifest) if ref and ref.value in lost},
                [self._spans[span] for span in row.snapshot.manifest.spans],
            )
            for row in rows
        ]

    async def _of_spans(self, spans: Sequence[Span]) -> dict[Span, LostEntries]:
        """Asks for what all of them refer to at once."""
        refs = await self._refs_of({span.segment for span in spans})
        found: dict[Span, LostEntries] = {}
        values: dict[Span, list[bytes]] = {}
        listings: list[bytes] = []
        for span in spans:
            of_segment = refs[span.segment]
            if isinstance(of_segment, str):
                found[span] = LostEntries(of_segment)
                continue
            ids, listed = _of_span(of_segment, span)
            if len(ids) != span.records:
                found[span] = LostEntries("its segment has fewer entries")
                continue
            values[span] = ids
            listings += listed
        lost = await self._lost((one for ids in values.values() for one in ids), listings)
        for span, ids in values.items():
            whole = not lost or lost.keys().isdisjoint(ids)
            found[span] = LostEntries() if whole else await self._named(span, lost)
        return found

    async def _refs_of(self, segments: Collection[bytes]) -> dict[bytes, Refs | str]:
        """What these segments refer to, or why they cannot be read."""
        found: dict[bytes, Refs | str] = {**await self.unsound(segments)}
        found.update(self.notes.segments([one for one in segments if one not in found]))
        others = [one for one in segments if one not in found]
        values = await self.reader.values(others)
        for one in others:
            try:
                found[one] = decode_refs(values[one]) if one in values else self.reader.reasons[one]
            except ValueError as error:
                found[one] = str(error)
        return found

    async def _named(self, span: Span, lost: dict[bytes, str]) -> LostEntries:
        try:
            segment = await self.reader.segment(span.segment)
        except StoreDamaged as error:
            return LostEntries(str(error))
        part = segment[span.start : span.start + span.records]
        return LostEntries("", [(at, entry, lost[entry.content.value]) for at, entry in enumerate(part)
                                if entry.content.value in lost])  # fmt: skip

    async def _lost(self, values: Iterable[bytes], listings: Iterable[bytes]) -> dict[bytes, str]:
        """Those that cannot be read, and why; of `listings`, values that list pieces, also where a piece cannot."""
        lost = await self.unsound(values)
        for some in batches((one for one in dict.fromkeys(listings) if one not in lost), _LISTINGS_AT_ONCE):
            lost |= await self._lost_pieces(some)
        return lost

    async def _lost_pieces(self, listings: Sequence[bytes]) -> dict[bytes, str]:
        values = await self.reader.values(listings)
        lost: dict[bytes, str] = {}
        pieces: dict[bytes, list[bytes]] = {}
        for one in listings:
            try:
                pieces[one] = [piece for piece, _ in decode_chunks(values[one])]
            except KeyError:
                lost[one] = self.reader.reasons[one]
            except ValueError as error:
                lost[one] = str(error)
        reasons = await self.unsound(piece for some in pieces.values() for piece in some)
        for one, some in pieces.items():
            lost.update((one, reasons[piece]) for piece in some if piece in reasons)
        return lost


def _of_span(refs: Refs, span: Span) -> tuple[list[bytes], list[bytes]]:
    """The values that its entries refer to; and those of them that list pieces."""
    first, last = span.start, span.start + span.records
    chunked, ids = refs[0][first:last], refs[1][first * ID_BYTES : last * ID_BYTES]
    values = ids_in(ids)
    return values, [one for one, is_listing in zip(values, chunked, strict=True) if is_listing] if any(chunked) else []


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
