"""Where a large value is cut: where its content says so, so that an edit moves few pieces. Pure.

**How.** A rolling hash says where to ask, a keyed function decides. The rolling hash is one multiplication: the bytes,
read as one little-endian integer, times a secret 256-bit number. Byte *i* of the product depends on bytes *i - 31 … i*
(and on carries, which die out within a few bytes), so it is a hash of that window at every place at once, at the speed
of the C loop behind Python's integers. Where two bytes of it show a secret pattern of 12 bits (every 4,096 bytes on
average), keyed BLAKE2b of the 64 bytes before decides with a chance of 1 in 12. Between two cuts there are at least
`MIN_BYTES` and at most `MAX_BYTES`; the last piece may be shorter. 40 MB take about a quarter of a second.

**Why not a library.** fastcdc has wheels up to CPython 3.12 only, and its gear table is a public constant: whoever sees
the lengths of the pieces can compare them with those of a file that he knows. pyfastcdc has the wheels; its seed is one
64-bit number added to every entry of the same public table. Such keys can be worked out from the lengths of known
content, because the hash itself decides. Here a pseudo-random function does.

**What lengths still tell** whoever can read the file without the key: that a value is large, about how large, and that
two of its versions share pieces of the same lengths. Not what it holds, nor whether it is a text that he knows.

The cuts depend on the data and the key alone. They decide nothing but where values are shared: reading never cuts.
"""

from collections.abc import Iterator
from functools import cache
from hashlib import blake2b

LARGE_BYTES = 64 * 1024
"""A value up to this size is one piece."""

MIN_BYTES = 16 * 1024
MAX_BYTES = 256 * 1024
"""Pieces of 64 KiB on average, as in borg's and restic's smaller settings scaled to tool results and images: one byte
changed in a value costs about one of them again."""

_SEGMENT_BYTES = 1024 * 1024
"""So much is multiplied at once: it bounds the memory, and stays in the processor's cache."""

_MULTIPLIER_BYTES = 32
_OVERLAP_BYTES = 2 * _MULTIPLIER_BYTES
"""A segment begins so much earlier: the window, and as much again for carries."""

_SIX_BITS = 0x3F
_WINDOW_BYTES = 64
_ACCEPTED = 65_536 // 12
"""Of 65,536: 4,096 × 12 is 48 KiB, and `MIN_BYTES` before it make an average of 64 KiB."""

_MOST_ASKED = 1000
"""Places asked for one piece, of which there are 60 on average. More means that the same few bytes repeat, and that
every answer would be the same: it is cut there."""


def cut(data: bytes, key: bytes) -> list[memoryview]:
    """The pieces of `data`, in order and without a gap; one when it has at most `LARGE_BYTES`.

    `key` is secret and 16 to 64 bytes long, the store's id key for example; another key cuts elsewhere. Raises
    ValueError for a shorter or longer one.
    """
    if not 16 <= len(key) <= 64:
        raise ValueError(f"a key for cutting has 16 to 64 bytes, not {len(key)}")
    view = memoryview(data)
    if len(data) <= LARGE_BYTES:
        return [view]
    ends = list(_ends(view, key))
    return [view[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def _ends(view: memoryview, key: bytes) -> Iterator[int]:
    """Where every piece but the last ends."""
    judge = _derived(key, b"vllm-cut-judge")
    start = asked = 0
    for place in _places(view, key):
        while place - start > MAX_BYTES:
            start, asked = start + MAX_BYTES, 0
            yield start
        if place - start < MIN_BYTES:
            continue
        asked += 1
        if place < len(view) and (asked >= _MOST_ASKED or _accepts(judge, view[place - _WINDOW_BYTES : place])):
            start, asked = place, 0
            yield start
    yield from range(start + MAX_BYTES, len(view), MAX_BYTES)


def _accepts(judge: bytes, window: memoryview) -> bool:
    return int.from_bytes(blake2b(window, digest_size=2, key=judge).digest(), "big") < _ACCEPTED


def _places(view: memoryview, key: bytes) -> Iterator[int]:
    """Places right behind the pattern, ascending."""
    multiplier = int.from_bytes(_derived(key, b"vllm-cut-factor"), "little") | 1
    pattern = _pattern(_derived(key, b"vllm-cut-pattern"))
    for offset in range(0, len(view), _SEGMENT_BYTES):
        begin = max(0, offset - _OVERLAP_BYTES)
        hashed = _hashed(view[begin : offset + _SEGMENT_BYTES], multiplier)
        at = hashed.find(pattern, max(0, offset - begin - 1))
        while at >= 0:
            yield begin + at + len(pattern)
            at = hashed.find(pattern, at + 1)


def _hashed(segment: memoryview, multiplier: int) -> bytes:
    """Six bits of the rolling hash for every byte."""
    product = int.from_bytes(segment, "little") * multiplier
    return (product & _mask(len(segment))).to_bytes(len(segment), "little")


@cache
def _full_mask() -> int:
    return int.from_bytes(bytes((_SIX_BITS,)) * (_SEGMENT_BYTES + _OVERLAP_BYTES), "little")


def _mask(length: int) -> int:
    return _full_mask() >> 8 * (_SEGMENT_BYTES + _OVERLAP_BYTES - length)


def _pattern(digest: bytes) -> bytes:
    """An odd byte and an even one: never found in a run of one byte, whose hash is a run too."""
    return bytes(((digest[0] | 1) & _SIX_BITS, digest[1] & _SIX_BITS & ~1))


def _derived(key: bytes, purpose: bytes) -> bytes:
    return blake2b(digest_size=_MULTIPLIER_BYTES, key=key, person=purpose).digest()
