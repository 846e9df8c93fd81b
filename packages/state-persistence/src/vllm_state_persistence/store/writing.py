"""Values into packs: what the store has is not stored again, the rest goes together, compressed, then sealed."""

from collections.abc import Iterable, Sequence

from anyio import to_thread
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_state_persistence.core.chunks import LARGE_BYTES, cut
from vllm_state_persistence.core.manifest import Ref, encode_chunks
from vllm_state_persistence.core.packs import Compressor, pack
from vllm_state_persistence.store.cipher import Cipher
from vllm_state_persistence.store.reading import THREAD_BYTES, Reader
from vllm_state_persistence.store.schema import packs, vals

PACK_BYTES = 1024 * 1024
"""A pack is closed at this size: large enough that a zstd window finds what repeats, and read in 3 ms."""

Content = bytes | memoryview


class Writer:
    """Stores values within one writing transaction."""

    def __init__(
        self, connection: AsyncConnection, reader: Reader, cipher: Cipher, compressor: Compressor | None, last_pack: int
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._cipher = cipher
        self._compressor = compressor
        self._last_pack = last_pack
        self._pending: dict[bytes, Content] = {}
        self.pending_bytes = 0
        self.new_bytes = 0
        """Of what was new, before compression."""
        self.stored_bytes = 0
        """Of the packs that were written."""

    async def put(self, contents: Sequence[bytes]) -> list[Ref]:
        """Store these contents, and say where each of them is; large ones in pieces."""
        if sum(map(len, contents)) < THREAD_BYTES:
            refs, values = self._identified(contents)
        else:
            refs, values = await to_thread.run_sync(self._identified, contents)
        await self.put_values(values)
        return refs

    async def put_whole(self, content: bytes) -> bytes:
        """Store a value in one piece whatever its size; its id."""
        value = self._cipher.id_of(content)
        await self.put_values({value: content})
        return value

    def _identified(self, contents: Sequence[bytes]) -> tuple[list[Ref], dict[bytes, Content]]:
        refs, values = [], dict[bytes, Content]()
        for content in contents:
            chunked = len(content) > LARGE_BYTES
            value: bytes = self._pieces(content, values) if chunked else content
            identity = self._cipher.id_of(value)
            values[identity] = value
            refs.append(Ref(identity, len(content), chunked))
        return refs, values

    def _pieces(self, content: bytes, values: dict[bytes, Content]) -> bytes:
        """Add the pieces to `values`; what is stored for the whole."""
        pieces = [(self._cipher.id_of(piece), piece) for piece in cut(content, self._cipher.id_key)]
        values.update(pieces)
        return encode_chunks([(identity, len(piece)) for identity, piece in pieces])

    async def put_values(self, values: dict[bytes, Content]) -> None:
        """Store values by their ids."""
        unknown = [value for value in values if value not in self._pending]
        known = await self._reader.packs_of(unknown)
        await self.add((value, values[value]) for value in unknown if value not in known)

    async def add(self, values: Iterable[tuple[bytes, Content]]) -> None:
        """Into the open pack, without asking whether the store has them."""
        for identity, content in values:
            self._pending[identity] = content
            self.pending_bytes += len(content)
            self.new_bytes += len(content)
            if self.pending_bytes >= PACK_BYTES:
                await self.flush()

    async def flush(self) -> None:
        """Write the open pack."""
        if not self._pending:
            return
        self._last_pack += 1
        entries, raw_bytes, number = list(self._pending.items()), self.pending_bytes, self._last_pack
        if raw_bytes < THREAD_BYTES:
            sealed = self._sealed(number, entries)
        else:
            sealed = await to_thread.run_sync(self._sealed, number, entries)
        row = {"number": number, "entries": len(entries), "raw_bytes": raw_bytes, "sealed": sealed}
        await self._connection.execute(insert(packs), row)
        await self._point(number)
        self.stored_bytes += len(sealed)
        self._pending, self.pending_bytes = {}, 0

    async def _point(self, number: int) -> None:
        rows = [{"id": identity, "pack": number} for identity in sorted(self._pending)]
        await self._connection.execute(insert(vals).prefix_with("OR REPLACE"), rows)

    def _sealed(self, number: int, entries: Sequence[tuple[bytes, Content]]) -> bytes:
        return self._cipher.seal("pack", number, pack(entries, self._compressor))
