"""What the header of a GGUF file says: its keys and values, and its tensors. Pure, over the first bytes of the file.

    "GGUF" · version u32 · tensors u64 · keys u64 · {key, type u32, value}… · {name, dims, type u32, offset u64}… · data

All little-endian, versions 2 and 3 (ggml's docs/gguf.md). The header does not say how long it is, so the parser is
given the beginning of the file and raises `NeedMore` until that holds the whole header. Nothing is allocated from a
number that the file claims: arrays are stepped over.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

from vllm_mcp_protocol.units import MIB, format_bytes
from vllm_mcp_protocol.weights.headers import BadHeader, Tensor, shown

MAGIC = b"GGUF"
HEADER_LIMIT_BYTES = 64 * MIB
"""The header holds the tokenizer: 200,000 tokens and 440,000 merges (Llama 4) are 13 MB."""
_MOST_KEYS = 10_000
_MOST_TENSORS = 200_000
_MOST_STRINGS = 2_000_000
"""In one array: stepping over them takes 0.1 µs each."""
_NAME_LIMIT_BYTES = 500
_KEPT_STRING_BYTES = 1 * MIB
"""Longer texts are not kept; the longest chat templates have 30 KB."""
_KEPT_ARRAY = 1024
"""Numbers of an array that are kept: head counts per layer."""
_MOST_DIMENSIONS = 4
"""GGML_MAX_DIMS."""
_DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    **{0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h")},
    **{4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?")},
    **{10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")},
}
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]

_TYPES: dict[int, tuple[str, int, int]] = {
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 28: ("F64", 1, 8), 30: ("BF16", 1, 2)},
    **{24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24)},
    **{8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40)},
    **{10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176)},
    **{14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292)},
    **{16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50)},
    **{20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136)},
    **{29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66)},
    **{39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18)},
}
"""ggml's types by number: name, elements of a block, bytes of a block (ggml.h, ggml-common.h)."""

_FILE_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K"},
    **{11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16"},
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0"},
}
"""`general.file_type` (llama.h: llama_ftype): what most tensors are stored as."""

GgufValue = int | float | bool | str | tuple[int | float | bool, ...]


class NeedMore(Exception):
    """The header goes on beyond the bytes that were given; `size_bytes` of them are needed at least."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Keys, values and tensors of one file."""

    version: int
    values: Mapping[str, GgufValue]
    """Numbers, texts (empty when longer than 1 MiB), and short arrays of numbers."""
    lengths: Mapping[str, int]
    """Elements of each array: `tokenizer.ggml.tokens` is the vocabulary."""
    tensors: tuple[Tensor, ...]
    header_bytes: int
    """Where the tensors' data begins."""


class _Placed(NamedTuple):
    tensor: Tensor
    offset: int


def parse_gguf(start: bytes, file_bytes: int) -> GgufHeader:
    """The header of a file of `file_bytes` that begins with `start`.

    Raises NeedMore, or BadHeader: not GGUF, an unknown version or type, counts that cannot be, a name twice, a text
    or tensor that lies beyond the file, tensors that overlap.
    """
    reader = _Reader(start, file_bytes)
    version, tensor_count, key_count = _preamble(reader)
    values: dict[str, GgufValue] = {}
    lengths: dict[str, int] = {}
    for _ in range(key_count):
        key = reader.name("key")
        if key in values or key in lengths:
            raise BadHeader(f"key {shown(key)} is there twice")
        _read_value(reader, key, values, lengths)
    placed = [_tensor_info(reader) for _ in range(tensor_count)]
    alignment = _alignment(values)
    data_start = -(-reader.position // alignment) * alignment
    _check_places(placed, alignment, file_bytes - data_start)
    return GgufHeader(version, values, lengths, tuple(entry.tensor for entry in placed), data_start)


class _Reader:
    """A position in the beginning of a file."""

    def __init__(self, start: bytes, file_bytes: int) -> None:
        self._start = start
        self._file_bytes = file_bytes
        self.position = 0

    def number(self, kind: struct.Struct) -> int | float | bool:
        at = self.skip(kind.size, "a number")
        value: int | float | bool = kind.unpack_from(self._start, at)[0]
        return value

    def whole(self, kind: struct.Struct) -> int:
        return int(self.number(kind))

    def text(self, what: str, limit_bytes: int) -> str | None:
        """A text; None when it is longer than `limit_bytes`."""
        length = self.whole(_U64)
        at = self.skip(length, what)
        return self._start[at : at + length].decode(errors="replace") if length <= limit_bytes else None

    def name(self, what: str) -> str:
        found = self.text(f"a {what}", _NAME_LIMIT_BYTES)
        if not found:
            raise BadHeader(f"a {what} at byte {self.position} is empty or longer than {_NAME_LIMIT_BYTES} bytes")
        return found

    def skip(self, size_bytes: int, what: str) -> int:
        """Step over bytes that must be there; the position before them."""
        at, end = self.position, self.position + size_bytes
        if end > self._file_bytes:
            raise BadHeader(f"{what} at byte {at} ends beyond the file of {format_bytes(self._file_bytes)}")
        if end > len(self._start):
            raise NeedMore(end)
        self.position = end
        return at

    def skip_texts(self, count: int, key: str) -> None:
        """Step over `count` texts: the tokenizer's hundred thousands, so without a call and a check for each."""
        unpack, start, at = _U64.unpack_from, self._start, self.position
        try:
            for _ in repeat(None, count):
                at += _U64.size + unpack(start, at)[0]
        except (struct.error, OverflowError):  # the next length is not there, or cannot be anywhere
            at += _U64.size
        self.skip(at - self.position, f"a text of {shown(key)}")


def _preamble(reader: _Reader) -> tuple[int, int, int]:
    at = reader.skip(len(MAGIC), "the magic")
    if reader._start[at : at + len(MAGIC)] != MAGIC:
        raise BadHeader("the file does not begin with GGUF")
    version = reader.whole(_U32)
    if version not in (2, 3):
        swapped = version & 0xFFFF == 0
        raise BadHeader("the file is big-endian" if swapped else f"GGUF version {version} is not 2 or 3")
    tensors, keys = reader.whole(_U64), reader.whole(_U64)
    if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
        raise BadHeader(
            f"the header claims {tensors} tensors and {keys} keys; at most {_MOST_TENSORS} and {_MOST_KEYS} are read"
        )
    return version, tensors, keys


def _read_value(reader: _Reader, key: str, values: dict[str, GgufValue], lengths: dict[str, int]) -> None:
    kind = reader.whole(_U32)
    if kind == _ARRAY:
        lengths[key], kept = _array(reader, key)
        if kept is not None:
            values[key] = kept
    elif kind == _STRING:
        values[key] = reader.text(f"the text of {shown(key)}", _KEPT_STRING_BYTES) or ""
    else:
        values[key] = reader.number(_number_kind(kind, key))


def _array(reader: _Reader, key: str) -> tuple[int, tuple[int | float | bool, ...] | None]:
    """Length of an array, and its numbers where they are few."""
    kind, count = reader.whole(_U32), reader.whole(_U64)
    if kind == _STRING:
        if count > _MOST_STRINGS:
            raise BadHeader(f"{shown(key)} claims {count} texts; at most {_MOST_STRINGS} are read")
        reader.skip_texts(count, key)
        return count, None
    number = _number_kind(kind, key)
    if count > _KEPT_ARRAY:
        reader.skip(count * number.size, f"the array {shown(key)}")
        return count, None
    return count, tuple(reader.number(number) for _ in range(count))


def _number_kind(kind: int, key: str) -> struct.Struct:
    if kind not in _NUMBERS:
        raise BadHeader(f"{shown(key)} has the type {kind}, which GGUF does not know here")
    return _NUMBERS[kind]


def _tensor_info(reader: _Reader) -> _Placed:
    name = reader.name("tensor name")
    dimensions = reader.whole(_U32)
    if dimensions > _MOST_DIMENSIONS:
        raise BadHeader(f"tensor {shown(name)} claims {dimensions} dimensions; ggml has {_MOST_DIMENSIONS}")
    shape = tuple(reader.whole(_U64) for _ in range(dimensions))
    kind, offset = reader.whole(_U32), reader.whole(_U64)
    if kind not in _TYPES:
        raise BadHeader(f"tensor {shown(name)} has the unknown type {kind}")
    dtype, block, block_bytes = _TYPES[kind]
    row = shape[0] if shape else 1
    if row % block:
        raise BadHeader(f"tensor {shown(name)}: rows of {row} are not whole blocks of {block} ({dtype})")
    return _Placed(Tensor(name, dtype, shape, math.prod(shape) // block * block_bytes), offset)


def _alignment(values: Mapping[str, GgufValue]) -> int:
    stated = values.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(stated) is not int or not 0 < stated <= MIB or stated & (stated - 1):
        raise BadHeader(f"general.alignment is {shown(stated)}, not a power of two")
    return stated


def _check_places(placed: list[_Placed], alignment: int, data_bytes: int) -> None:
    end, names = 0, set()
    for tensor, offset in sorted(placed, key=lambda entry: (entry.offset, entry.tensor.size_bytes)):
        if tensor.name in names:
            raise BadHeader(f"tensor {shown(tensor.name)} is there twice")
        if offset % alignment or offset < end:
            problem = f"not a multiple of {alignment}" if offset % alignment else "inside the tensor before it"
            raise BadHeader(f"tensor {shown(tensor.name)} starts at {offset}: {problem}")
        end = offset + tensor.size_bytes
        names.add(tensor.name)
    if end > data_bytes:
        raise BadHeader(f"the header describes {end} bytes of tensors, but the file has {max(data_bytes, 0)}")


def file_type(values: Mapping[str, GgufValue]) -> str | None:
    """How most of the tensors are stored, by `general.file_type`: `Q4_K_M`; None when it is absent or unknown."""
    stated = values.get("general.file_type")
    return _FILE_TYPES.get(stated & ~1024) if type(stated) is int and stated >= 0 else None
