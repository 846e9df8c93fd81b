"""Values into packs: what the store has is not stored again, the rest goes together, compressed, then sealed."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anyio import CancelScope, to_thread
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_state_persistence.core.chunks import LARGE_BYTES, cut
from vllm_state_persistence.core.manifest import Ref, encode_chunks
from vllm_state_persistence.core.packs import Compressor, pack
from vllm_state_persistence.store.cipher import Cipher
from vllm_state_persistence.store.database import in_one_step
from vllm_state_persistence.store.reading import EACH_ID, THREAD_BYTES, Reader

PACK_BYTES = 4 * 1024 * 1024
"""A pack is closed at this size: at 1 MiB the same conversations take 8 % more; one is read in 12 ms."""

_LOOKUP_BYTES = 2 * 1024 * 1024
_LOOKUP_VALUES = 4000
"""So much waits at most until it is asked which of it the store has."""

_IDENTIFY_BYTES = 1024 * 1024
"""From here on (about a millisecond of hashing) ids are computed beside the event loop."""

_INSERT_PACK = "INSERT INTO packs (number, entries, raw_bytes, sealed) VALUES (?, ?, ?, ?)"
_INSERT_VALUES = f"INSERT OR REPLACE INTO vals (id, pack) SELECT id, ?2 FROM {EACH_ID}"  # noqa: S608

Content = bytes | memoryview


class Writer:
    """Stores values within one writing transaction.

    What is put waits until there is enough of it to ask, in one statement, which of it the store has.
    """

    def __init__(
        self, connection: AsyncConnection, reader: Reader, cipher: Cipher, compressor: Compressor | None, last_pack: int
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._cipher = cipher
        self.compressor = compressor
        """None: packs are stored as they are."""
        self._last_pack = last_pack
        self._waiting: dict[bytes, tuple[Content, int]] = {}
        self._waiting_bytes = 0
        self._open: dict[bytes, Content] = {}
        self._open_bytes = 0
        self._sealing: _Sealing | None = None
        self.owner = 0
        """Whose the values are that are put now."""
        self.new_bytes: Counter[int] = Counter()
        """Of what was new, before compression, by owner."""
        self.stored_bytes = 0
        """Of the packs that were written."""

    @property
    def pending_bytes(self) -> int:
        """What may still come into the open pack."""
        return self._waiting_bytes + self._open_bytes

    async def put(self, contents: Sequence[bytes], ids: Sequence[bytes | None] | None = None) -> list[Ref]:
        """Store these contents, and say where each of them is; large ones in pieces. `ids`: where they are known."""
        ids = ids or [None] * len(contents)
        unknown_bytes = sum(len(content) for content, known in zip(contents, ids, strict=True) if known is None)
        if unknown_bytes < _IDENTIFY_BYTES:
            refs, values = self._identified(contents, ids)
        else:
            refs, values = await to_thread.run_sync(self._identified, contents, ids)
        await self._put(values)
        return refs

    async def put_whole(self, content: bytes) -> bytes:
        """Store a value in one piece whatever its size; its id."""
        value = self._cipher.id_of(content)
        await self._put({value: content})
        return value

    def _identified(
        self, contents: Sequence[bytes], ids: Sequence[bytes | None]
    ) -> tuple[list[Ref], dict[bytes, Content]]:
        refs, values = [], dict[bytes, Content]()
        for content, known in zip(contents, ids, strict=True):
            chunked = len(content) > LARGE_BYTES
            value: bytes = self._pieces(content, values) if chunked else content
            identity = known or self._cipher.id_of(value)
            values[identity] = value
            refs.append(Ref(identity, len(content), chunked))
        return refs, values

    def _pieces(self, content: bytes, values: dict[bytes, Content]) -> bytes:
        """Add the pieces to `values`; what is stored for the whole."""
        pieces = [(self._cipher.id_of(piece), piece) for piece in cut(content, self._cipher.id_key)]
        values.update(pieces)
        return encode_chunks([(identity, len(piece)) for identity, piece in pieces])

    async def _put(self, values: Mapping[bytes, Content]) -> None:
        for identity, content in values.items():
            if identity not in self._waiting and identity not in self._open:
                self._waiting[identity] = content, self.owner
                self._waiting_bytes += len(content)
        if self._waiting_bytes >= _LOOKUP_BYTES or len(self._waiting) >= _LOOKUP_VALUES:
            await self._take_new()

    async def _take_new(self) -> None:
        """What the store does not have of what waits, into the open pack."""
        known = await self._reader.packs_of(list(self._waiting))
        if self._sealing is not None:
            known.update(dict.fromkeys(self._sealing.ids, self._sealing.number))
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        new = {identity: found for identity, found in waiting.items() if identity not in known}
        for content, owner in new.values():
            self.new_bytes[owner] += len(content)
        await self.add((identity, content) for identity, (content, _) in new.items())

    async def add(self, values: Iterable[tuple[bytes, Content]]) -> None:
        """Into the open pack, whether or not the store has them."""
        for identity, content in values:
            self._open[identity] = content
            self._open_bytes += len(content)
            if self._open_bytes >= PACK_BYTES:
                await self._close_pack()

    async def flush(self) -> None:
        """Write all that was put."""
        await self._take_new()
        await self._close_pack()
        await self._write_sealed()

    async def _close_pack(self) -> None:
        """Begin to seal the open pack, while the next one is filled; one at a time."""
        if not self._open:
            return
        await self._write_sealed()
        self._last_pack += 1
        values, raw_bytes, number = list(self._open.items()), self._open_bytes, self._last_pack
        sealed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if raw_bytes < THREAD_BYTES:
            sealed.set_result(self._sealed(number, values))
        else:
            sealed = asyncio.get_running_loop().run_in_executor(None, self._sealed, number, values)
        self._sealing = _Sealing(number, sorted(self._open), raw_bytes, sealed)
        self._open, self._open_bytes = {}, 0

    async def _write_sealed(self) -> None:
        if self._sealing is None:
            return
        closed = self._sealing
        sealed = await asyncio.shield(closed.sealed)  # where this is cancelled, the thread goes on: see `let_go`
        self._sealing = None
        row = (closed.number, len(closed.ids), closed.raw_bytes, sealed)
        await in_one_step(self._connection, _INSERT_PACK, row)
        await in_one_step(self._connection, _INSERT_VALUES, (b"".join(closed.ids), closed.number))
        self.stored_bytes += len(sealed)

    async def let_go(self) -> None:
        """Of a pack that is still being sealed where the transaction was given up: the compressor serves the next."""
        if self._sealing is not None:
            with CancelScope(shield=True):
                await asyncio.wait([self._sealing.sealed])

    def _sealed(self, number: int, values: Sequence[tuple[bytes, Content]]) -> bytes:
        return self._cipher.seal("pack", number, pack(values, self.compressor))


@dataclass(frozen=True, slots=True)
class _Sealing:
    """A pack that is complete, and not written yet."""

    number: int
    ids: Sequence[bytes]
    raw_bytes: int
    sealed: asyncio.Future[bytes]
