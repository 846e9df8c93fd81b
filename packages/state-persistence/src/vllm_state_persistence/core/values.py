"""A JSON-like value to canonical bytes, and back to exactly that value. Pure.

Two forms, told apart by the first byte:

- **text**, for nearly every value: the compact JSON that Python's C encoder writes, as UTF-8 in which lone surrogates
  are kept (`surrogatepass`: three bytes each, so a surrogate pair that stands as two characters stays two). Keys keep
  their order, floats are written so that they read back to the same bits, `-0.0` included.
- **tagged**, for what JSON cannot say or Python's JSON refuses: NaN and the infinities, byte strings, integers of more
  than `TEXT_INTEGER_BITS`, nesting deeper than `TEXT_DEPTH`. It starts with the byte 1, which starts no JSON. Each item
  is a letter and what belongs to it (docs/state-format.md); it is read and written without recursion.

The value alone decides on its form, so equal values give equal bytes on every machine. What is no JSON-like value
(tuples, sets, keys that are no text, subclasses such as enums) is refused instead of coming back as something else.
"""

import json
import struct
from collections.abc import Iterator
from itertools import chain
from math import isfinite
from typing import Any

from vllm_state_persistence.core.numbers import read_number, write_number

DEPTH_LIMIT = 10_000
"""Levels of lists and objects. A bound, so that a value that contains itself is refused; real ones have ten."""

TEXT_DEPTH = 64
"""Levels in the text form. The C encoder and decoder recurse, and share Python's limit of 1,000 with their callers."""

TEXT_INTEGER_BITS = 2048
"""617 digits. Python refuses to convert more than 4,300 digits, or down to 640 where somebody lowered that limit."""

_TAGGED = 1
_LARGEST = 1 << TEXT_INTEGER_BITS
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode(value: object) -> bytes:
    """The canonical bytes of a value of None, bool, int, float, str, bytes, list, and dict with text as keys.

    Raises ValueError naming the type of what is not one of these, and for more than `DEPTH_LIMIT` levels.
    """
    if _fits_text(value):
        return _encode_json(value).encode("utf-8", "surrogatepass")
    return _encode_tagged(value)


def decode(data: bytes) -> Any:
    """The value of canonical bytes. Raises ValueError for bytes that `encode` cannot have written."""
    if data[:1] == bytes((_TAGGED,)):
        return _Reader(data).value()
    try:
        return json.loads(data.decode("utf-8", "surrogatepass"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _fits_text(value: object) -> bool:
    """Whether the text form gives exactly this value back; also False for what has no form at all.

    Looks at every item, so the loop is flat: a message with ten fields takes 3 µs, its JSON 7.
    """
    pending: list[tuple[Any, int]] = [([value], 0)]
    while pending:
        container, depth = pending.pop()
        if type(container) is dict:
            if any(type(key) is not str for key in container):
                return False
            container = container.values()
        for item in container:
            kind = type(item)
            if kind is str or item is None or kind is bool:
                continue
            if kind is list or kind is dict:
                if depth >= TEXT_DEPTH:
                    return False
                pending.append((item, depth + 1))
            elif not _is_plain_number(item, kind):
                return False
    return True


def _is_plain_number(item: Any, kind: type[object]) -> bool:
    return (kind is int and -_LARGEST < item < _LARGEST) or (kind is float and isfinite(item))


# The tagged form


def _encode_tagged(value: object) -> bytes:
    parts = [bytes((_TAGGED,))]
    pending: list[Iterator[Any]] = [iter([value])]
    while pending:
        for item in pending[-1]:
            if type(item) is list or type(item) is dict:
                parts.append((b"l" if type(item) is list else b"o") + write_number(len(item)))
                pending.append(_inside(item))
                break
            parts.append(_leaf(item))
        else:
            pending.pop()
        if len(pending) > DEPTH_LIMIT + 1:
            raise ValueError(f"more than {DEPTH_LIMIT:,} levels of lists and objects")
    return b"".join(parts)


def _inside(container: Any) -> Iterator[Any]:
    """The items of a list; of an object key, value, key, value …"""
    if type(container) is list:
        return iter(container)
    for key in container:
        if type(key) is not str:
            raise ValueError(f"the keys of an object are text, not {type(key).__name__}")
    return chain.from_iterable(container.items())


def _leaf(item: Any) -> bytes:
    kind = type(item)
    if kind is str:
        return _sized(b"s", item.encode("utf-8", "surrogatepass"))
    if kind is bytes:
        return _sized(b"b", item)
    if kind is int:
        return _sized(b"i", item.to_bytes(item.bit_length() // 8 + 1, "big", signed=True))
    if kind is float:
        return b"d" + struct.pack(">d", item)
    if item is None:
        return b"n"
    if kind is bool:
        return b"t" if item else b"f"
    raise ValueError(f"{kind.__name__} is no JSON-like type: None, bool, int, float, str, bytes, list and dict are")


def _sized(tag: bytes, content: bytes) -> bytes:
    return tag + write_number(len(content)) + content


_FIXED = {ord("n"): None, ord("t"): True, ord("f"): False}


class _Reader:
    """Reads the tagged form; every length is held against what is left before anything is taken."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 1

    def value(self) -> Any:
        root: list[Any] = []
        open_containers: list[tuple[Any, int]] = [(root, 1)]  # the container, and how many items it will have
        while open_containers:
            container, count = open_containers[-1]
            if len(container) == count:
                open_containers.pop()
                continue
            key = self._key(container) if type(container) is dict else None
            item, inner_count = self._item()
            _put(container, key, item)
            if inner_count:
                open_containers.append((item, inner_count))
            if len(open_containers) > DEPTH_LIMIT + 1:
                raise ValueError("nested too deeply")
        if self._at != len(self._data):
            raise ValueError("bytes follow the value")
        return root[0]

    def _key(self, container: dict[str, Any]) -> str:
        key, _ = self._item()
        if type(key) is not str or key in container:
            raise ValueError("a key that is no text, or stands twice")
        return key

    def _item(self) -> tuple[Any, int]:
        """One item, and how many items must follow to fill it."""
        tag = self._take(1)[0]
        if tag in _FIXED:
            return _FIXED[tag], 0
        if tag == ord("d"):
            return struct.unpack(">d", self._take(8))[0], 0
        count = self._count()
        if tag in b"lo":
            return ([] if tag == ord("l") else {}), count
        return _from_bytes(tag, self._take(count)), 0

    def _count(self) -> int:
        value, self._at = read_number(self._data, self._at)
        return value

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise ValueError("the value ends early")
        self._at += count
        return taken


def _put(container: Any, key: str | None, item: Any) -> None:
    if key is None:
        container.append(item)
    else:
        container[key] = item


def _from_bytes(tag: int, content: bytes) -> Any:
    if tag == ord("s"):
        return content.decode("utf-8", "surrogatepass")
    if tag == ord("b"):
        return content
    if tag == ord("i"):
        return int.from_bytes(content, "big", signed=True)
    raise ValueError(f"an unknown tag: {tag}")
