"""Many small values in one pack, and the compression beneath. Pure.

A **block** is bytes that say themselves how they are compressed: method (0 none, 1 zstd), the number of the store's
dictionary (u32, 0 for none), the length before compression (u64), then the content. What does not shrink is stored as
it is. A **pack** is a block whose content is a table (how many values; their ids; their lengths) and then the values,
one after the other. Contents are any bytes.

Packs are sealed from outside, so what arrives here is what was written; all the same nothing here trusts a length:
a block claims its size before anything is taken for it, and `BLOCK_LIMIT_BYTES` bounds the claim.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise

import zstandard

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.ids import ID_BYTES

BLOCK_LIMIT_BYTES = 64 * 1024 * 1024
"""Of one block before compression. Packs hold about 4 MiB; the manifest of 100,000 records has some 8 MB."""

LEVEL = 3
WINDOW_LOG = 22
"""Of zstd. In packs of 4 MiB, and with a window as large, 200 MB of conversations shrink to 18.5 % in 0.6 s of a
processor; at level 4 to 18.1 % in 0.9 s; with level 3's own window of 2 MiB to 19.0 % in 0.6 s."""

DICTIONARY_UP_TO_BYTES = 256 * 1024
"""Larger blocks teach themselves, and do so worse with a dictionary: 4 MiB come out 8 % larger."""

DICTIONARY_BYTES = 64 * 1024
"""zstd's manual advises 1/100 of the samples or less, and about 100 KB at most."""

_TRAINED_LENGTH = 1024
"""Of the pieces that a dictionary consists of. That zstd finds the best length itself takes twice as long."""

_NONE, _ZSTD = 0, 1
_BLOCK = struct.Struct(">BIQ")
_COUNT = struct.Struct(">I")


@dataclass(frozen=True)
class Dictionary:
    """What zstd knows beforehand, and its number in the store (1 or more)."""

    number: int
    content: bytes = field(repr=False)

    @cached_property
    def _prepared(self) -> zstandard.ZstdCompressionDict:
        return zstandard.ZstdCompressionDict(self.content)


class Compressor:
    """Compresses blocks. One object serves one thread at a time."""

    def __init__(self, dictionary: Dictionary | None = None) -> None:
        self._dictionary = dictionary
        self._plain = _zstd(None)
        self._taught = None if dictionary is None else _zstd(dictionary)

    def compress(self, data: bytes) -> tuple[bytes, int]:
        """`data` compressed, and the number of the dictionary that this needs; 0 for none."""
        if self._dictionary is None or self._taught is None or len(data) > DICTIONARY_UP_TO_BYTES:
            return self._plain.compress(data), 0
        return self._taught.compress(data), self._dictionary.number


def _zstd(dictionary: Dictionary | None) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(
        dict_data=None if dictionary is None else dictionary._prepared,
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            LEVEL, window_log=WINDOW_LOG, write_dict_id=False, write_checksum=False, write_content_size=True
        ),
    )


class Decompressor:
    """Expands blocks written with any of the store's dictionaries, by their number. One thread at a time."""

    def __init__(self, dictionaries: Mapping[int, Dictionary] | None = None) -> None:
        self._dictionaries = dictionaries or {}
        self._ready: dict[int, zstandard.ZstdDecompressor] = {}

    def expand(self, data: bytes | memoryview, size: int, dictionary_number: int) -> bytes:
        """Exactly `size` bytes. Raises StoreDamaged."""
        try:
            if zstandard.frame_content_size(data) != size:
                raise _damaged("its length is not the one that it claims")
            expanded = self._for(dictionary_number).decompress(data, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise _damaged(f"zstd cannot read it ({error})") from None
        if len(expanded) != size:
            raise _damaged("its length is not the one that it claims")
        return expanded

    def _for(self, number: int) -> zstandard.ZstdDecompressor:
        if number not in self._ready:
            if number and number not in self._dictionaries:
                raise _damaged(f"it needs dictionary {number}, which is not there")
            prepared = self._dictionaries[number]._prepared if number else None
            self._ready[number] = zstandard.ZstdDecompressor(dict_data=prepared)
        return self._ready[number]


def train(samples: Sequence[bytes], number: int, size_bytes: int = DICTIONARY_BYTES) -> Dictionary | None:
    """A dictionary for values like `samples`; None when they are too few or too uniform to learn from."""
    try:
        content = zstandard.train_dictionary(size_bytes, list(samples), k=_TRAINED_LENGTH, d=8).as_bytes()
    except (zstandard.ZstdError, ValueError, MemoryError):
        return None
    return Dictionary(number, content)


def squeeze(data: bytes, compress: Compressor | None) -> bytes:
    """`data` as a block, compressed when that makes it smaller. Raises ValueError above `BLOCK_LIMIT_BYTES`."""
    if len(data) > BLOCK_LIMIT_BYTES:
        raise ValueError(f"a block holds at most {BLOCK_LIMIT_BYTES:,} bytes, not {len(data):,}")
    if compress is not None:
        small, dictionary = compress.compress(data)
        if len(small) < len(data):
            return _BLOCK.pack(_ZSTD, dictionary, len(data)) + small
    return _BLOCK.pack(_NONE, 0, len(data)) + data


def expand(block: bytes | memoryview, decompress: Decompressor | None) -> bytes:
    """What `squeeze` was given. Raises StoreDamaged, and ValueError for a compressed block without a decompressor."""
    if len(block) < _BLOCK.size:
        raise _damaged("it ends early")
    method, number, size = _BLOCK.unpack_from(block)
    content = memoryview(block)[_BLOCK.size :]
    if method not in (_NONE, _ZSTD) or size > BLOCK_LIMIT_BYTES:
        raise _damaged(f"its header (method {method}, {size:,} bytes) is not one that is written")
    if method == _NONE:
        if len(content) != size or number:
            raise _damaged("its length is not the one that it claims")
        return bytes(content)
    if decompress is None:
        raise ValueError("the block is compressed, and nothing was given to expand it with")
    return decompress.expand(content, size, number)


def pack(entries: Sequence[tuple[bytes, bytes | memoryview]], compress: Compressor | None) -> bytes:
    """A pack of (id, content), in their order. Raises ValueError for an id twice, or of another length."""
    ids = [value_id for value_id, _ in entries]
    if any(len(one) != ID_BYTES for one in ids) or len(set(ids)) != len(ids):
        raise ValueError(f"an id that has not {ID_BYTES} bytes, or stands twice")
    lengths = struct.pack(f">{len(entries)}I", *(len(content) for _, content in entries))
    return squeeze(b"".join([_COUNT.pack(len(ids)), *ids, lengths, *(content for _, content in entries)]), compress)


def unpack(data: bytes | memoryview, decompress: Decompressor | None) -> dict[bytes, memoryview]:
    """The contents by their ids, in the order of `pack`, not copied. Raises StoreDamaged."""
    content = memoryview(expand(data, decompress))
    try:
        (count,) = _COUNT.unpack_from(content)
        at = _COUNT.size + count * ID_BYTES
        lengths = struct.unpack_from(f">{count}I", content, at)
    except (struct.error, OverflowError):
        raise _damaged("its table ends early") from None
    ends = list(accumulate(lengths, initial=at + 4 * count))
    ids = [bytes(content[start : start + ID_BYTES]) for start in range(_COUNT.size, at, ID_BYTES)]
    found = {one: content[start:end] for one, (start, end) in zip(ids, pairwise(ends), strict=True)}
    if ends[-1] != len(content) or len(found) != count:
        raise _damaged("its table does not fit its contents")
    return found


def _damaged(why: str) -> StoreDamaged:
    return StoreDamaged(
        f"Damage in a block of the saved sessions: {why}.",
        suggestion="Run `vllm-state-persistence verify` to see what else is damaged; the rest stays readable.",
        why=why,
    )
