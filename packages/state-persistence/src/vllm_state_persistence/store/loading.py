"""Snapshots that are read: the parts of one, its records as a stream; many, whole."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from anyio import to_thread
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import StateNotFound, StoreDamaged
from vllm_state_persistence.core.manifest import Columns, Entry, Manifest, Ref, Span
from vllm_state_persistence.core.session import Record, SessionContent, SessionRef
from vllm_state_persistence.store.desk import Desk
from vllm_state_persistence.store.reading import BATCH_BYTES, IDS_AT_ONCE, batches, sized_batches, unreadable
from vllm_state_persistence.store.results import Damage, StateInfo
from vllm_state_persistence.store.states import StateRow, by_id, by_ids

GROUP_BYTES = 3 * 1024 * 1024
"""Content of snapshots that are read together."""

_RECORDS_AT_ONCE = 500

Unread = StateNotFound | StoreDamaged


class LoadedState:
    """A snapshot. Nothing of its content is read before it is asked for."""

    def __init__(self, desk: Desk, row: StateRow) -> None:
        self._desk = desk
        self._row = row

    @property
    def info(self) -> StateInfo:
        return self._row.info

    @property
    def ref(self) -> SessionRef:
        return self.info.ref

    @property
    def manifest(self) -> Manifest:
        return self._row.snapshot.manifest

    async def header(self) -> bytes:
        """Raises StoreDamaged, here and below, naming what cannot be read."""
        return await self._part("header", self.manifest.header)

    async def engines(self) -> bytes | None:
        """As they were saved; None when the snapshot has none."""
        return await self._part("engines", self.manifest.engines) if self.manifest.engines else None

    async def metrics(self) -> bytes | None:
        """As they were saved; None when the snapshot has none."""
        return await self._part("metrics", self.manifest.metrics) if self.manifest.metrics else None

    async def _part(self, what: str, ref: Ref) -> bytes:
        async with self._desk.reading() as connection:
            content = (await self._desk.reader(connection).contents([ref]))[ref]
            if isinstance(content, StoreDamaged):
                raise await _explained(self._desk, connection, _damage(self._row, what, what, content))
            return content

    async def records(self, *, start: int = 0, damaged: list[Damage] | None = None) -> AsyncIterator[Record]:
        """The records from number `start` on, in order.

        One that cannot be read raises StoreDamaged naming it; with a list for `damaged` it is put there, and the
        others go on.
        """
        at = 0
        for span in self.manifest.spans:
            if at + span.records > start:
                skipped = max(0, start - at)
                async for record in self._of_span(span, skipped, at, damaged):
                    yield record
            at += span.records

    async def entries(self, *, start: int = 0, damaged: list[Damage] | None = None) -> AsyncIterator[Entry]:
        """The records without their content: for lists and comparisons."""
        at = 0
        for span in self.manifest.spans:
            if at + span.records > start:
                for entry in await self._entries(span, at, damaged):
                    if at >= start:
                        yield entry
                    at += 1
            else:
                at += span.records

    async def beginnings(self, entries: Sequence[Entry]) -> list[bytes]:
        """Of each record's content at least the first 16 KiB, or all; empty where it cannot be read."""
        async with self._desk.reading() as connection:
            return await self._desk.reader(connection).beginnings([entry.content for entry in entries])

    async def content(self) -> SessionContent:
        """All of it at once. Raises StateNotFound, StoreDamaged."""
        (found,) = await _whole(self._desk, [self._row])
        if not isinstance(found, SessionContent):
            raise found
        return found

    async def _of_span(self, span: Span, skipped: int, at: int, damaged: list[Damage] | None) -> AsyncIterator[Record]:
        entries = (await self._entries(span, at, damaged))[skipped:]
        sized = ((entry, entry.content.size) for entry in entries)
        for batch in sized_batches(sized, _RECORDS_AT_ONCE, BATCH_BYTES):
            for record in await self._records(batch, damaged):
                yield record

    async def _records(self, entries: Sequence[Entry], damaged: list[Damage] | None) -> list[Record]:
        found: list[Record] = []
        async with self._desk.reading(refresh=False) as connection:
            contents = await self._contents(connection, [entry.content for entry in entries])
            for entry in entries:
                record = _record(self._row, *entry[:3], contents[entry.content])
                if isinstance(record, Damage):
                    await self._note(connection, record, damaged)
                else:
                    found.append(record)
        return found

    async def _contents(self, connection: AsyncConnection, refs: Sequence[Ref]) -> Mapping[Ref, bytes | StoreDamaged]:
        found = await self._desk.reader(connection).contents(refs)
        if any(isinstance(one, StoreDamaged) for one in found.values()) and await self._desk.refresh(connection):
            return await self._desk.reader(connection).contents(refs)
        return found

    async def _entries(self, span: Span, at: int, damaged: list[Damage] | None) -> list[Entry]:
        async with self._desk.reading(refresh=False) as connection:
            try:
                entries = await self._segment(connection, span.segment)
            except StoreDamaged as error:
                await self._note(connection, _span_damage(self._row, span, at, error), damaged)
                return []
        return entries[span.start : span.start + span.records]

    async def _segment(self, connection: AsyncConnection, segment: bytes) -> list[Entry]:
        try:
            return await self._desk.reader(connection).segment(segment)
        except StoreDamaged:
            if not await self._desk.refresh(connection):
                raise
            return await self._desk.reader(connection).segment(segment)

    async def _note(self, connection: AsyncConnection, damage: Damage, damaged: list[Damage] | None) -> None:
        if damaged is None:
            raise await _explained(self._desk, connection, damage)
        damaged.append(damage)


async def load_all(desk: Desk, state_ids: Sequence[str]) -> AsyncIterator[list[SessionContent | Unread]]:
    """Whole snapshots in this order, some at a time; of one that cannot be read, why. Nothing is held in between."""
    for some in batches(state_ids, IDS_AT_ONCE):
        async with desk.reading() as connection:
            rows = await by_ids(connection, desk.cipher, some)
        sized = ((row, row.snapshot.manifest.logical_bytes if isinstance(row, StateRow) else 0) for row in rows)
        for group in sized_batches(sized, IDS_AT_ONCE, GROUP_BYTES):
            contents = iter(await _whole(desk, [row for row in group if isinstance(row, StateRow)]))
            yield [next(contents) if isinstance(row, StateRow) else row for row in group]


@dataclass(frozen=True, slots=True)
class _Read:
    """What some snapshots consist of."""

    segments: Mapping[bytes, Columns | StoreDamaged]
    values: Mapping[bytes, bytes]
    large: Mapping[Ref, bytes | StoreDamaged]
    reasons: Mapping[bytes, str]
    """Of the values that are not there."""

    def content(self, value: bytes, size: int, chunked: int) -> bytes | StoreDamaged:
        if chunked:
            return self.large[Ref(value, size, True)]
        found = self.values.get(value)
        return unreadable("a value", self.reasons[value]) if found is None else found


async def _whole(desk: Desk, rows: Sequence[StateRow]) -> list[SessionContent | Unread]:
    """What they share, and the packs that they lie in, are read once."""
    manifests = [row.snapshot.manifest for row in rows]
    async with desk.reading() as connection:
        reader = desk.reader(connection)
        segments = await reader.segments(span.segment for manifest in manifests for span in manifest.spans)
        values: list[bytes] = [manifest.header.value for manifest in manifests]
        large: list[Ref] = [manifest.header for manifest in manifests if manifest.header.chunked]
        for span in (span for manifest in manifests for span in manifest.spans):
            found = segments[span.segment]
            if not isinstance(found, StoreDamaged):
                part = slice(span.start, span.start + span.records)
                values += found.values[part]
                if any(found.chunked[part]):
                    refs = zip(found.values[part], found.sizes[part], found.chunked[part], strict=True)
                    large += (Ref(value, size, True) for value, size, chunked in refs if chunked)
        read = _Read(segments, await reader.values(values), await reader.contents(large), reader.reasons)
        contents = await to_thread.run_sync(lambda: [_assembled(row, read) for row in rows])
        return [await _unread(desk, connection, one) if isinstance(one, Damage) else one for one in contents]


def _assembled(row: StateRow, read: _Read) -> SessionContent | Damage:
    manifest = row.snapshot.manifest
    header = read.content(*manifest.header)
    if isinstance(header, StoreDamaged):
        return _damage(row, "header", "header", header)
    records: list[Record] = []
    at = 0
    for span in manifest.spans:
        columns = read.segments[span.segment]
        if isinstance(columns, StoreDamaged):
            return _span_damage(row, span, at, columns)
        part = slice(span.start, span.start + span.records)
        kinds, keys, roles = columns.kinds[part], columns.keys[part], columns.roles[part]
        contents: list[bytes] = []
        for content in map(read.content, columns.values[part], columns.sizes[part], columns.chunked[part]):
            if isinstance(content, StoreDamaged):
                return _damage(row, "record", f"{kinds[len(contents)]} {keys[len(contents)]}", content)
            contents.append(content)
        records += map(Record, kinds, keys, contents, roles)
        at += span.records
    return SessionContent(row.info.ref, header, records)


def _record(row: StateRow, kind: str, key: str, role: str, content: bytes | StoreDamaged) -> Record | Damage:
    if isinstance(content, StoreDamaged):
        return _damage(row, "record", f"{kind} {key}", content)
    return Record(kind, key, content, role)


def _span_damage(row: StateRow, span: Span, at: int, error: StoreDamaged) -> Damage:
    return _damage(row, "records", f"{at + 1} to {at + span.records}", error)


def _damage(row: StateRow, what: str, name: str, error: StoreDamaged) -> Damage:
    facts = row.snapshot.facts
    reason = str(error.info.details.get("why", error.info.message))
    return Damage(facts.state_id, facts.session_id, what, name, reason)


async def _unread(desk: Desk, connection: AsyncConnection, damage: Damage) -> Unread:
    try:
        return await _explained(desk, connection, damage)
    except (StateNotFound, StoreDamaged) as error:
        return error


async def _explained(desk: Desk, connection: AsyncConnection, damage: Damage) -> StoreDamaged:
    """Raises StateNotFound when the snapshot was dropped and pruned while it was read."""
    await by_id(connection, desk.cipher, damage.state_id, dropped=True)
    return StoreDamaged(
        f"Damage in the store of snapshots: {damage}.",
        suggestion="Run `vllm-state-persistence verify` to see what else is damaged; the rest stays readable.",
        state_id=damage.state_id,
        session_id=damage.session_id,
        what=damage.what,
        name=damage.name,
        why=damage.reason,
    )
