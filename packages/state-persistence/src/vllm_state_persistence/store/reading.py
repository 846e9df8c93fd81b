"""Values out of the packs that hold them. Reads in bulk and keeps little: some packs, the last used ones."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from anyio import to_thread
from sqlalchemy import RowMapping, Select, bindparam, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.manifest import Entry, Ref, Span, decode_chunks, decode_segment
from vllm_state_persistence.core.packs import Decompressor, Dictionary, unpack
from vllm_state_persistence.store.cipher import Cipher
from vllm_state_persistence.store.database import is_corrupt
from vllm_state_persistence.store.schema import packs

IDS_AT_ONCE = 500
"""Values that one statement asks for."""

CACHE_BYTES = 12 * 1024 * 1024
"""Content of packs that a reader keeps. A session's values lie in few packs, in order."""

BATCH_BYTES = 4 * 1024 * 1024
"""Content that is read ahead of a stream of records."""

THREAD_BYTES = 128 * 1024
"""From here on (about a millisecond of work) a block is opened or sealed beside the event loop."""

_PACKS_AT_ONCE = 8

_SEALED = select(packs.c.number, packs.c.sealed).where(packs.c.number.in_(bindparam("numbers", expanding=True)))

Item = TypeVar("Item")
Found = TypeVar("Found")


def batches(items: Iterable[Item], size: int) -> Iterable[list[Item]]:
    """`items` in lists of at most `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def sized_batches(refs: Iterable[tuple[Item, int]], count: int, size_bytes: int) -> Iterable[list[Item]]:
    """`items` in lists that end with `count` items, or where their sizes add up to `size_bytes`."""
    batch: list[Item] = []
    total = 0
    for item, size in refs:
        batch.append(item)
        total += size
        if len(batch) == count or total >= size_bytes:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


async def survivors(
    connection: AsyncConnection, query: Select[Any], parameter: str, wanted: Sequence[Item]
) -> list[RowMapping]:
    """Rows of `query` for these values of its parameter; where pages of the file are damaged, those that are not on
    them."""

    async def rows(some: Sequence[Item]) -> list[RowMapping]:
        return list((await connection.execute(query, {parameter: some})).mappings())

    return await _spared(rows, wanted)


async def _spared(rows: Callable[[Sequence[Item]], Awaitable[list[Found]]], wanted: Sequence[Item]) -> list[Found]:
    if not wanted:
        return []
    try:
        return await rows(wanted)
    except DatabaseError as error:
        if not is_corrupt(error):
            raise
    if len(wanted) == 1:
        return []
    middle = len(wanted) // 2
    return [*await _spared(rows, wanted[:middle]), *await _spared(rows, wanted[middle:])]


class PackCache:
    """The packs that were opened last. Their numbers are never used again, so what it has of one stays true."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._packs: OrderedDict[int, dict[bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, number: int) -> dict[bytes, bytes] | None:
        found = self._packs.get(number)
        if found is not None:
            self._packs.move_to_end(number)
        return found

    def add(self, number: int, content: dict[bytes, bytes]) -> None:
        if number not in self._packs:
            self._packs[number] = content
            self._bytes += _size(content)
        while self._bytes > self._most_bytes and len(self._packs) > 1:
            self._bytes -= _size(self._packs.popitem(last=False)[1])

    def clear(self) -> None:
        self._packs.clear()
        self._bytes = 0


class Reader:
    """Reads within one transaction, for one task."""

    def __init__(
        self,
        connection: AsyncConnection,
        cipher: Cipher,
        dictionaries: Mapping[int, Dictionary],
        index: Mapping[bytes, int],
        cache: PackCache,
    ) -> None:
        """`index`: where values are that the store's own index has lost."""
        self._connection = connection
        self._index = index
        self._cipher = cipher
        self._decompressor = Decompressor(dictionaries)
        self._cache = cache
        self.reasons: dict[bytes, str] = {}
        """Why a value could not be read."""

    async def packs_of(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Which packs hold these values; without those that are not stored."""
        found: dict[bytes, int] = {}
        for some in batches(ids, IDS_AT_ONCE):
            found.update(await _spared(self._index_rows, some))
        if self._index:
            found.update((one, self._index[one]) for one in ids if one in self._index)
        return found

    async def _index_rows(self, ids: Sequence[bytes]) -> list[tuple[bytes, int]]:
        # Without SQLAlchemy's own expansion, which takes longer than the rest: this is asked for every message saved.
        query = f"SELECT id, pack FROM vals WHERE id IN ({','.join('?' * len(ids))})"  # noqa: S608
        rows = await self._connection.exec_driver_sql(query, tuple(ids))
        return [(row.id, row.pack) for row in rows]

    async def values(self, ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """These values; without those that cannot be read, for which `reasons` says why."""
        wanted = list(dict.fromkeys(ids))
        places = await self.packs_of(wanted)
        self.reasons.update((one, "the store has no such value") for one in wanted if one not in places)
        by_pack: dict[int, list[bytes]] = {}
        for value, pack in places.items():
            by_pack.setdefault(pack, []).append(value)
        found: dict[bytes, bytes] = {}
        for numbers in batches(by_pack, _PACKS_AT_ONCE):
            for number, content in (await self._packs(numbers, by_pack)).items():
                found.update(self._picked(number, content, by_pack[number]))
        return found

    def _picked(self, number: int, content: Mapping[bytes, bytes], ids: Sequence[bytes]) -> dict[bytes, bytes]:
        found = {}
        for value in ids:
            data = content.get(value)
            if data is not None:
                found[value] = data
            else:
                self.reasons[value] = f"pack {number} does not hold it"
        return found

    async def _packs(
        self, numbers: Sequence[int], wanted: Mapping[int, Sequence[bytes]]
    ) -> dict[int, dict[bytes, bytes]]:
        found = {number: pack for number in numbers if (pack := self._cache.get(number)) is not None}
        missing = [number for number in numbers if number not in found]
        rows = await survivors(self._connection, _SEALED, "numbers", missing)
        for row in rows:
            number = row["number"]
            try:
                found[number] = await self.opened(number, row["sealed"])
            except StoreDamaged as error:
                self._give_reason(wanted[number], str(error.info.details.get("why") or error.info.message))
            else:
                self._cache.add(number, found[number])
        for number in set(missing) - {row["number"] for row in rows}:
            self._give_reason(wanted[number], f"pack {number} is not there")
        return found

    def _give_reason(self, ids: Sequence[bytes], why: str) -> None:
        self.reasons.update(dict.fromkeys(ids, why))

    async def pack(self, number: int) -> dict[bytes, bytes]:
        """All values of a pack; none when it cannot be read."""
        return (await self._packs([number], {number: []})).get(number, {})

    async def opened(self, number: int, sealed: bytes) -> dict[bytes, bytes]:
        """The values of a pack by their ids, which are computed from them. Raises StoreDamaged."""
        if not isinstance(sealed, bytes) or len(sealed) < THREAD_BYTES:
            return self._opened(number, sealed)
        return await to_thread.run_sync(self._opened, number, sealed)

    def _opened(self, number: int, sealed: bytes) -> dict[bytes, bytes]:
        contents = unpack(self._cipher.unseal("pack", number, sealed), self._decompressor)
        return {self._cipher.id_of(data): data for data in contents.values()}

    async def value(self, value: bytes) -> bytes:
        """Raises StoreDamaged."""
        found = await self.values([value])
        if value not in found:
            raise unreadable("a value", self.reasons[value])
        return found[value]

    async def segment(self, value: bytes) -> list[Entry]:
        """The entries of a segment. Raises StoreDamaged."""
        data = await self.value(value)
        try:
            return decode_segment(data)
        except ValueError as error:
            raise unreadable("a segment", str(error)) from error

    async def entries(self, spans: Iterable[Span]) -> AsyncIterator[list[Entry]]:
        """The entries of each span. Raises StoreDamaged."""
        segment, entries = b"", list[Entry]()
        for span in spans:
            if span.segment != segment:
                segment, entries = span.segment, await self.segment(span.segment)
            yield entries[span.start : span.start + span.records]

    async def all_entries(self, spans: Iterable[Span]) -> list[Entry]:
        """Raises StoreDamaged."""
        return [entry async for part in self.entries(spans) for entry in part]

    async def contents(self, refs: Sequence[Ref]) -> list[bytes | StoreDamaged]:
        """What each of `refs` refers to, or why it cannot be read."""
        small = await self.values(ref.value for ref in refs)
        return [await self._content(ref, small) for ref in refs]

    async def beginnings(self, refs: Sequence[Ref]) -> list[bytes]:
        """The contents, of those in pieces the first piece; empty where it cannot be read."""
        values = await self.values(ref.value for ref in refs)
        firsts = {ref: _first_piece(values.get(ref.value, b"")) for ref in refs if ref.chunked}
        pieces = await self.values(firsts.values())
        return [pieces.get(firsts[ref], b"") if ref.chunked else values.get(ref.value, b"") for ref in refs]

    async def content(self, ref: Ref) -> bytes:
        """Raises StoreDamaged."""
        (found,) = await self.contents([ref])
        if isinstance(found, StoreDamaged):
            raise found
        return found

    async def _content(self, ref: Ref, small: Mapping[bytes, bytes]) -> bytes | StoreDamaged:
        data = small.get(ref.value)
        if data is None:
            return unreadable("a value", self.reasons[ref.value])
        if ref.chunked:
            return await self._joined(data)
        return data

    async def _joined(self, listing: bytes) -> bytes | StoreDamaged:
        try:
            chunks = decode_chunks(listing)
        except ValueError as error:
            return unreadable("a value", str(error))
        pieces: list[bytes] = []
        for ids in sized_batches(chunks, IDS_AT_ONCE, BATCH_BYTES):
            found = await self.values(ids)
            missing = next((one for one in ids if one not in found), None)
            if missing is not None:
                return unreadable("a piece of a value", self.reasons[missing])
            pieces += (found[one] for one in ids)
        return b"".join(pieces)


def _first_piece(listing: bytes) -> bytes:
    try:
        return decode_chunks(listing)[0][0]
    except (ValueError, IndexError):
        return b""


def _size(content: Mapping[bytes, bytes]) -> int:
    return sum(map(len, content.values()))


def unreadable(what: str, why: str) -> StoreDamaged:
    return StoreDamaged(
        f"Damage in the store of snapshots: {what} cannot be read ({why}).",
        suggestion="Run `vllm-state-persistence verify` to see what else is damaged; the rest stays readable.",
        why=why,
    )
