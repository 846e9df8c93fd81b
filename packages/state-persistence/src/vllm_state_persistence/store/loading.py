"""A snapshot that is read: its parts, and its records as a stream."""

from collections.abc import AsyncIterator, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.manifest import Entry, Manifest, Ref, Span
from vllm_state_persistence.core.session import Record, SessionContent, SessionRef
from vllm_state_persistence.store.desk import Desk
from vllm_state_persistence.store.reading import BATCH_BYTES, sized_batches
from vllm_state_persistence.store.results import Damage, StateInfo
from vllm_state_persistence.store.states import StateRow, by_id

_RECORDS_AT_ONCE = 500


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
            (content,) = await self._desk.reader(connection).contents([ref])
            if isinstance(content, StoreDamaged):
                raise await self._explained(connection, self._damage(what, what, content))
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
        """All of it at once. Raises StoreDamaged."""
        return SessionContent(self.ref, await self.header(), [record async for record in self.records()])

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
            for entry, content in zip(entries, contents, strict=True):
                if isinstance(content, StoreDamaged):
                    damage = self._damage("record", f"{entry.kind} {entry.key}", content)
                    await self._note(connection, damage, damaged)
                else:
                    found.append(Record(entry.kind, entry.key, content, entry.role))
        return found

    async def _contents(self, connection: AsyncConnection, refs: Sequence[Ref]) -> list[bytes | StoreDamaged]:
        found = await self._desk.reader(connection).contents(refs)
        if any(isinstance(one, StoreDamaged) for one in found) and await self._desk.refresh(connection):
            return await self._desk.reader(connection).contents(refs)
        return found

    async def _entries(self, span: Span, at: int, damaged: list[Damage] | None) -> list[Entry]:
        async with self._desk.reading(refresh=False) as connection:
            try:
                entries = await self._segment(connection, span.segment)
            except StoreDamaged as error:
                name = f"{at + 1} to {at + span.records}"
                await self._note(connection, self._damage("records", name, error), damaged)
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
            raise await self._explained(connection, damage)
        damaged.append(damage)

    async def _explained(self, connection: AsyncConnection, damage: Damage) -> StoreDamaged:
        """Raises StateNotFound when the snapshot was dropped and pruned while it was read."""
        await by_id(connection, self._desk.cipher, damage.state_id, dropped=True)
        return StoreDamaged(
            f"Damage in the store of snapshots: {damage}.",
            suggestion="Run `vllm-state-persistence verify` to see what else is damaged; the rest stays readable.",
            state_id=damage.state_id,
            session_id=damage.session_id,
            what=damage.what,
            name=damage.name,
            why=damage.reason,
        )

    def _damage(self, what: str, name: str, error: StoreDamaged) -> Damage:
        facts = self._row.snapshot.facts
        reason = str(error.info.details.get("why", error.info.message))
        return Damage(facts.state_id, facts.session_id, what, name, reason)
