"""Values out of the packs that hold them. Reads in bulk and keeps little: some packs, the last used ones."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from anyio import create_task_group, to_thread
from sqlalchemy import RowMapping, Select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.ids import ID_BYTES
from vllm_state_persistence.core.manifest import Columns, Entry, Ref, Span, decode_chunks, decode_columns
from vllm_state_persistence.core.packs import Decompressor, Dictionary, unpack
from vllm_state_persistence.store.cipher import Cipher
from vllm_state_persistence.store.database import in_one_step, is_corrupt

IDS_AT_ONCE = 500
"""Rows that one statement of SQLAlchemy's asks for."""

LOOKUP_IDS = 8192
"""Values that one look into the index asks for."""

EACH_ID = (
    f"(WITH RECURSIVE places(n) AS (SELECT 1 UNION ALL SELECT n + {ID_BYTES} FROM places "  # noqa: S608
    f"WHERE n + {ID_BYTES} < length(?1)) SELECT substr(?1, n, {ID_BYTES}) AS id FROM places)"
)
"""The ids that stand one after the other in the first parameter, one at least. Thousands of parameters, or of rows to
write, need the interpreter for each of them, which other threads hold meanwhile."""

_COUNTED_VALUES = 200
"""Of a pack with so many values the index is asked how many it has there, and not for each."""

CACHE_BYTES = 12 * 1024 * 1024
"""Content of packs that a reader keeps. A session's values lie in few packs, in order."""

BATCH_BYTES = 4 * 1024 * 1024
"""Content that is read ahead of a stream of records."""

THREAD_BYTES = 128 * 1024
"""From here on (about a millisecond of work) a block is opened or sealed beside the event loop."""

OPENED_BYTES = 8 * 1024 * 1024
"""Content of packs that is opened at once: two large ones, or hundreds of single messages."""

_GONE = "it is not there, or lies on a damaged page of the file"

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


def one_of(ids: Sequence[Item]) -> tuple[str, tuple[Item, ...]]:
    """What stands behind IN, and its parameters. Of few lengths, since each statement is prepared once and then kept:
    the last id may stand there several times."""
    count = 1 << (len(ids) - 1).bit_length()
    return f"({','.join('?' * count)})", (*ids, *[ids[-1]] * (count - len(ids)))


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


class OpenedPack(NamedTuple):
    """A pack that was read."""

    number: int
    values: Mapping[bytes, memoryview]
    """By their ids, as the pack has them; parts of the pack, not copies."""
    why: str = ""
    """Why it cannot be read."""


class PackCache:
    """The packs that were opened last. Their numbers are never used again, so what it has of one stays true."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._packs: OrderedDict[int, Mapping[bytes, memoryview]] = OrderedDict()
        self._bytes = 0

    def get(self, number: int) -> Mapping[bytes, memoryview] | None:
        found = self._packs.get(number)
        if found is not None:
            self._packs.move_to_end(number)
        return found

    def add(self, number: int, content: Mapping[bytes, memoryview]) -> None:
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
        self._decompressors = Decompressor(dictionaries), Decompressor(dictionaries)
        self._cache = cache
        self.reasons: dict[bytes, str] = {}
        """Why a value could not be read."""
        self._unread: dict[int, str] = {}
        """Why a pack could not."""

    async def packs_of(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Which packs hold these values; without those that are not stored."""
        found: dict[bytes, int] = {}
        for some in batches(ids, LOOKUP_IDS):
            found.update(await _spared(self._index_rows, some))
        if self._index:
            found.update((one, self._index[one]) for one in ids if one in self._index)
        return found

    async def _index_rows(self, ids: Sequence[bytes]) -> list[tuple[bytes, int]]:
        return await self._ask_index("id, pack", ids)

    async def _numbers(self, ids: Sequence[bytes]) -> list[tuple[int]]:
        rows = await self._ask_index("DISTINCT pack", ids)
        return [(pack,) for (pack,) in rows if isinstance(pack, int)]

    async def _ask_index(self, columns: str, ids: Sequence[bytes], more: str = "") -> list[Any]:
        query = f"SELECT {columns} FROM vals WHERE id IN {EACH_ID} {more}"  # noqa: S608
        return await in_one_step(self._connection, query, (b"".join(ids),))

    async def in_their_place(self, opened: Sequence[OpenedPack]) -> list[bytes]:
        """The values of these packs that the index says to lie there."""
        asked = [pack for pack in opened if not await self._all_in_their_place(pack)]
        places = await self.packs_of([one for pack in asked for one in pack.values])
        places.update((one, pack.number) for pack in opened if pack not in asked for one in pack.values)
        return [one for pack in opened for one in pack.values if places.get(one) == pack.number]

    async def _all_in_their_place(self, pack: OpenedPack) -> bool:
        """Nearly always so, and of a large pack found out much faster than by asking for each value."""
        if not _COUNTED_VALUES <= len(pack.values) <= LOOKUP_IDS or self._index:
            return False
        try:
            ((count,),) = await self._ask_index("count(*)", list(pack.values), f"AND pack = {pack.number:d}")
        except DatabaseError as error:
            if not is_corrupt(error):
                raise
            return False
        return bool(count == len(pack.values))

    async def values(self, ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """These values; without those that cannot be read, for which `reasons` says why."""
        wanted = set(ids)
        found: dict[bytes, bytes] = {}
        missing: list[int] = []
        for number in await self._packs_with(list(wanted)):
            cached = self._cache.get(number)
            if cached is None:
                missing.append(number)
            else:
                found.update({one: bytes(cached[one]) for one in cached.keys() & wanted})
        async for opened in self.packs(missing):
            self._take(opened, wanted, found)
            del opened  # before the next ones are
        if len(found) < len(wanted):
            await self._explain([one for one in wanted if one not in found])
        return found

    def _take(self, opened: Sequence[OpenedPack], wanted: set[bytes], found: dict[bytes, bytes]) -> None:
        for pack in opened:
            if pack.why:
                self._unread[pack.number] = pack.why
            else:
                self._cache.add(pack.number, pack.values)
                found.update({one: bytes(pack.values[one]) for one in pack.values.keys() & wanted})

    async def _packs_with(self, ids: Sequence[bytes]) -> list[int]:
        """The packs that hold these values. Which holds which is not asked: to look into the packs is faster."""
        found = {number for some in batches(ids, LOOKUP_IDS) for (number,) in await _spared(self._numbers, some)}
        if self._index:
            found.update(self._index[one] for one in ids if one in self._index)
        return sorted(found)

    async def _explain(self, ids: Sequence[bytes]) -> None:
        places = await self.packs_of(ids)
        for one in ids:
            if one not in places:
                self.reasons[one] = "the store has no such value"
            else:
                self.reasons[one] = of_pack(places[one], self._unread)

    async def packs(self, numbers: Iterable[int]) -> AsyncIterator[list[OpenedPack]]:
        """These packs, in their order, past the cache; so many at a time as are opened at once."""
        for some in batches(numbers, IDS_AT_ONCE):
            sizes = dict(await self._column("raw_bytes", some)) if some[1:] else {}
            sized = ((number, _bytes(sizes.get(number))) for number in some)
            for together in sized_batches(sized, IDS_AT_ONCE, OPENED_BYTES):
                yield await self._opened_together(together)

    async def _opened_together(self, numbers: Sequence[int]) -> list[OpenedPack]:
        sealed = await self._column("sealed", numbers)
        if sum(len(data) for _, data in sealed if isinstance(data, bytes)) < THREAD_BYTES:
            found = self._opened(sealed, 0)
        else:
            found = await self._opened_in_threads(sealed)
        return [found.get(number, OpenedPack(number, {}, _GONE)) for number in numbers]

    async def _column(self, column: str, numbers: Sequence[int]) -> list[tuple[int, Any]]:
        """Of these packs; where pages of the file are damaged, of those that are not on them."""

        async def rows(some: Sequence[int]) -> list[tuple[int, Any]]:
            marks, parameters = one_of(some)
            query = f"SELECT number, {column} FROM packs WHERE number IN {marks}"  # noqa: S608
            return await in_one_step(self._connection, query, parameters)

        return await _spared(rows, numbers)

    async def _opened_in_threads(self, sealed: Sequence[tuple[int, bytes]]) -> dict[int, OpenedPack]:
        """Half of them beside the other half: most of the work needs no interpreter."""
        found: dict[int, OpenedPack] = {}

        async def open_some(thread: int) -> None:
            found.update(await to_thread.run_sync(self._opened, sealed[thread::2], thread))

        async with create_task_group() as threads:
            for thread in range(min(2, len(sealed))):
                threads.start_soon(open_some, thread)
        return found

    def _opened(self, sealed: Sequence[tuple[int, bytes]], thread: int) -> dict[int, OpenedPack]:
        return {number: self._opened_one(number, data, self._decompressors[thread]) for number, data in sealed}

    def _opened_one(self, number: int, sealed: bytes, decompressor: Decompressor) -> OpenedPack:
        try:
            return OpenedPack(number, unpack(self._cipher.unseal("pack", number, sealed), decompressor))
        except StoreDamaged as error:
            return OpenedPack(number, {}, str(error.info.details.get("why") or error.info.message))

    async def pack(self, number: int) -> Mapping[bytes, memoryview]:
        """All values of a pack; none when it cannot be read."""
        (found,) = await self._opened_together([number])
        return found.values

    async def value(self, value: bytes) -> bytes:
        """Raises StoreDamaged."""
        found = await self.values([value])
        if value not in found:
            raise unreadable("a value", self.reasons[value])
        return found[value]

    async def segments(self, ids: Iterable[bytes]) -> dict[bytes, Columns | StoreDamaged]:
        """These segments, or why they cannot be read."""
        wanted = list(dict.fromkeys(ids))
        values = await self.values(wanted)
        if sum(map(len, values.values())) < THREAD_BYTES:
            return self._decoded(wanted, values)
        return await to_thread.run_sync(self._decoded, wanted, values)

    def _decoded(self, wanted: Sequence[bytes], values: Mapping[bytes, bytes]) -> dict[bytes, Columns | StoreDamaged]:
        found: dict[bytes, Columns | StoreDamaged] = {}
        for one in wanted:
            try:
                found[one] = decode_columns(values[one])
            except KeyError:
                found[one] = unreadable("a value", self.reasons[one])
            except ValueError as error:
                found[one] = unreadable("a segment", str(error))
        return found

    async def segment(self, value: bytes) -> list[Entry]:
        """The entries of a segment. Raises StoreDamaged."""
        found = (await self.segments([value]))[value]
        if isinstance(found, StoreDamaged):
            raise found
        return found.entries()

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

    async def contents(self, refs: Iterable[Ref]) -> dict[Ref, bytes | StoreDamaged]:
        """What each of `refs` refers to, or why it cannot be read."""
        wanted = set(refs)
        small = await self.values(ref.value for ref in wanted)
        found: dict[Ref, bytes | StoreDamaged] = {}
        for ref in wanted:
            data = small.get(ref.value)
            if data is None:
                found[ref] = unreadable("a value", self.reasons[ref.value])
            else:
                found[ref] = await self._joined(data) if ref.chunked else data
        return found

    async def beginnings(self, refs: Sequence[Ref]) -> list[bytes]:
        """The contents, of those in pieces the first piece; empty where it cannot be read."""
        values = await self.values(ref.value for ref in refs)
        firsts = {ref: _first_piece(values.get(ref.value, b"")) for ref in refs if ref.chunked}
        pieces = await self.values(firsts.values())
        return [pieces.get(firsts[ref], b"") if ref.chunked else values.get(ref.value, b"") for ref in refs]

    async def content(self, ref: Ref) -> bytes:
        """Raises StoreDamaged."""
        found = (await self.contents([ref]))[ref]
        if isinstance(found, StoreDamaged):
            raise found
        return found

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


def _bytes(size: object) -> int:
    """Damage may have made something else of it."""
    return size if isinstance(size, int) else OPENED_BYTES


def _size(content: Mapping[bytes, memoryview]) -> int:
    return sum(map(len, content.values()))


def of_pack(number: object, unread: Mapping[int, str]) -> str:
    """Why a value that is said to lie in this pack cannot be read; `unread` are packs that cannot be."""
    why = unread.get(number) if isinstance(number, int) else None
    return f"pack {number}: {why or 'it does not hold it'}"


def unreadable(what: str, why: str) -> StoreDamaged:
    return StoreDamaged(
        f"Damage in the store of snapshots: {what} cannot be read ({why}).",
        suggestion="Run `vllm-state-persistence verify` to see what else is damaged; the rest stays readable.",
        why=why,
    )
