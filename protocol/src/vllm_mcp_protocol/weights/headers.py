"""What the header of a weight file says: names, types, shapes and places of its tensors. Pure, over bytes.

A safetensors file is `<length: u64, little-endian><JSON of that length><tensors>`; the JSON maps a tensor's name to
`{"dtype", "shape", "data_offsets": [begin, end]}`. The checks are those of the safetensors library 0.8, which vLLM
loads with: what passes here is loaded there, and a file that was cut short does not pass.
"""

import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from vllm_mcp_protocol.units import MIB, format_bytes

LENGTH_BYTES = 8
JSON_LIMIT_BYTES = 32 * MIB
"""A file with the 90,000 tensors of a 256-expert checkpoint has 12 MB of JSON. (The library stops at 100 MB.)"""
_LARGEST = 2**60
_MOST_DIMENSIONS = 16

DTYPE_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
"""Bits of one element, by the names of safetensors 0.8."""

_REPR = reprlib.Repr()
_REPR.maxstring = 100


class BadHeader(ValueError):
    """The header of a weight file is damaged, or the file ends before its tensors do; the message says which."""


class Tensor(NamedTuple):
    """One tensor as stored."""

    name: str
    dtype: str
    """`BF16`, `F8_E4M3`, `I32`; in GGUF files `F32`, `Q4_K`, …"""
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def json_size(first: bytes, file_bytes: int) -> int:
    """Length of the JSON, bytes, from the first 8 bytes of a safetensors file. Raises BadHeader."""
    if len(first) < LENGTH_BYTES or file_bytes < LENGTH_BYTES:
        raise BadHeader(f"the file has {file_bytes} bytes; a header needs at least {LENGTH_BYTES}")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > file_bytes - LENGTH_BYTES:
        raise BadHeader(f"the header claims {length} bytes, but the file has {format_bytes(file_bytes)}")
    if length > JSON_LIMIT_BYTES:
        raise BadHeader(f"the header claims {format_bytes(length)}; at most {format_bytes(JSON_LIMIT_BYTES)} is read")
    if length < 2:
        raise BadHeader(f"the header claims {length} bytes: too short for JSON")
    return length


def parse_safetensors(text: bytes, file_bytes: int) -> tuple[Tensor, ...]:
    """The tensors of a file of `file_bytes` whose JSON header is `text`, as they lie in the file.

    Raises BadHeader: not JSON, a name twice, a dtype, shape or offset that cannot be, a gap, an overlap, a file that
    is shorter or longer than its tensors.
    """
    described = _object(text)
    metadata = described.get("__metadata__")
    if metadata is not None and not (isinstance(metadata, dict) and all(map(_is_text, metadata.values()))):
        raise BadHeader("__metadata__ is not an object of texts")
    placed = [_placed(name, value) for name, value in described.items() if name != "__metadata__"]
    placed.sort(key=lambda entry: (entry[0], entry[1]))
    end = 0
    for begin, stop, tensor in placed:
        if begin != end:
            problem = "overlaps the tensor before it" if begin < end else "leaves a gap before it"
            raise BadHeader(f"tensor {shown(tensor.name)} starts at {begin} and {problem}, which ends at {end}")
        end = stop
    there = file_bytes - LENGTH_BYTES - len(text)
    if end != there:
        raise BadHeader(f"the header describes {end} bytes of tensors, but the file has {max(there, 0)}")
    return tuple(tensor for _, _, tensor in placed)


def unique_tensors(files: Iterable[Iterable[Tensor]]) -> tuple[Tensor, ...]:
    """The tensors of all files; where two files hold the same name, the first one counts."""
    found: dict[str, Tensor] = {}
    for tensors in files:
        for tensor in tensors:
            found.setdefault(tensor.name, tensor)
    return tuple(found.values())


def _object(text: bytes) -> dict[str, Any]:
    if len(text) > JSON_LIMIT_BYTES:
        raise BadHeader(f"the header has {format_bytes(len(text))}; at most {format_bytes(JSON_LIMIT_BYTES)} is read")
    try:
        # Decoded here: `json.loads` would also take UTF-16, which the safetensors library does not.
        value = json.loads(text.decode(), object_pairs_hook=_without_twins)
    except BadHeader:
        raise
    except RecursionError:
        raise BadHeader("the header is nested too deeply") from None
    except ValueError as error:  # also bytes that are not UTF-8, and numbers of thousands of digits
        raise BadHeader(f"the header is not JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict) or not text.startswith(b"{"):
        raise BadHeader("the header is not a JSON object")
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise BadHeader(f"{shown(counts.most_common(1)[0][0])} is there twice")
    return found


def _placed(name: str, value: Any) -> tuple[int, int, Tensor]:
    """Begin, end and description of a tensor."""
    if not isinstance(value, dict):
        raise BadHeader(f"tensor {shown(name)} is not described by an object")
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype := value.get("dtype"), str) else None
    if bits is None:
        raise BadHeader(f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    shape = _shape(name, value.get("shape"))
    begin, end = _offsets(name, value.get("data_offsets"))
    if math.prod(shape) * bits != (end - begin) * 8:
        raise BadHeader(f"tensor {shown(name)}: {dtype} {list(shape)} does not take the {end - begin} bytes it claims")
    return begin, end, Tensor(name, str(dtype), shape, end - begin)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS or not all(map(_is_size, value)):
        raise BadHeader(f"tensor {shown(name)} has the impossible shape {shown(value)}")
    return tuple(value)


def _offsets(name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_size, value)) or value[0] > value[1]:
        raise BadHeader(f"tensor {shown(name)} has the impossible data_offsets {shown(value)}")
    return value[0], value[1]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def shown(value: Any) -> str:
    """A value of the file in a message: bounded in length and depth, and fit for UTF-8."""
    return _REPR.repr(value).encode(errors="backslashreplace").decode()
