"""What a snapshot consists of: its records as spans of shared, immutable segments. Pure.

A segment is a list of entries (one per record: names and the id of its content). It is a value like any other, so it is
stored once, sealed and compressed with the content that it names. A snapshot holds only spans, each "these entries of
that segment": appending a message writes a segment of one entry and one more span, changing a message in the middle
splits a span in two. No snapshot needs another one to be read, so any of them can be dropped at any time. `crowded`
says which spans to write anew as one segment, so that a long history of small changes does not make reading slow.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from vllm_state_persistence.core.ids import ID_BYTES

SEGMENT_RECORDS = 2048
"""Most entries of one segment: about 140 kB where keys are UUIDs."""

SPANS_CAP = 32
"""Spans that a snapshot may have beside those that its length needs. One append adds one span of about 27 bytes."""

FORMAT = 1
_HEAD = struct.Struct("<BII")
_SPAN = struct.Struct(f"<{ID_BYTES}sIIIQ")
_REF = struct.Struct(f"<{ID_BYTES}sQB")
_LABEL_BYTES, _SIZE_BYTES = 2, 8
_MOST_LABELS = 1 << 16


class Ref(NamedTuple):
    """Where bytes are: the id of the value that is them, or (`chunked`) that lists the values they were cut into."""

    value: bytes
    size: int
    """Bytes of the content."""
    chunked: bool


class Entry(NamedTuple):
    """A record without its content."""

    kind: str
    key: str
    role: str
    content: Ref


class Span(NamedTuple):
    """`records` entries of a segment from `start` on, and what they add up to."""

    segment: bytes
    start: int
    records: int
    messages: int
    """Those with a role."""
    size: int
    """Bytes of their content."""


class Manifest(NamedTuple):
    """A snapshot."""

    header: Ref
    engines: Ref | None
    metrics: Ref | None
    spans: tuple[Span, ...]

    @property
    def records(self) -> int:
        return sum(span.records for span in self.spans)

    @property
    def messages(self) -> int:
        return sum(span.messages for span in self.spans)

    @property
    def logical_bytes(self) -> int:
        """Bytes of all content."""
        rest = (ref.size for ref in (self.header, self.engines, self.metrics) if ref)
        return sum(span.size for span in self.spans) + sum(rest)


def span_of(segment: bytes, entries: Sequence[Entry], start: int = 0, stop: int | None = None) -> Span:
    """The span of `entries[start:stop]`, `entries` being all of `segment`'s."""
    part = entries[start:stop]
    messages = sum(1 for entry in part if entry.role)
    return Span(segment, start, len(part), messages, sum(entry.content.size for entry in part))


def slice_spans(spans: Sequence[Span], start: int, stop: int, entries: Sequence[Entry]) -> list[Span]:
    """The spans of records `start` to `stop`; `entries` are all records of `spans`, needed where a span is cut."""
    found: list[Span] = []
    at = 0
    for span in spans:
        first, last = max(start, at), min(stop, at + span.records)
        if first < last:
            whole = last - first == span.records
            found.append(span if whole else _part(span, first - at, entries[first:last]))
        at += span.records
    return found


def _part(span: Span, skipped: int, entries: Sequence[Entry]) -> Span:
    return span_of(span.segment, entries)._replace(start=span.start + skipped)


def joined(spans: Sequence[Span]) -> list[Span]:
    """The same records with adjacent spans of one segment written as one."""
    found: list[Span] = []
    for span in spans:
        last = found[-1] if found else None
        if last and last.segment == span.segment and last.start + last.records == span.start:
            sums = (one + other for one, other in zip(last[2:], span[2:], strict=True))
            found[-1] = Span(last.segment, last.start, *sums)
        else:
            found.append(span)
    return found


def common_ends(old: Sequence[Entry], new: Sequence[Entry]) -> tuple[int, int]:
    """How many entries are the same at the beginning of both, and at the end of what is left of both."""
    shorter = min(len(old), len(new))
    first = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    rest = shorter - first
    last = next((index for index in range(rest) if old[-1 - index] != new[-1 - index]), rest)
    return first, last


def spans_cap(records: int) -> int:
    """Most spans of a snapshot of so many records."""
    return SPANS_CAP + 2 * records // SEGMENT_RECORDS


def crowded(spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Runs of spans (`[first, last)`, in order) to write anew as segments of their own, so that the cap holds after it.

    The usual crowd are appended messages at the end. The run taken there reaches back for as long as the span before is
    at most twice as long as all that is taken: each record is then written anew about log(n) times at most.
    """
    cap = spans_cap(sum(span.records for span in spans))
    if len(spans) <= cap:
        return []
    first, taken = len(spans), 0
    while first and (len(spans) - first < 2 or spans[first - 1].records <= 2 * taken):
        first -= 1
        taken += spans[first].records
    if first + segments_needed(taken) <= 3 * cap // 4:
        return [(first, len(spans))]
    return _small_runs(spans, kept=cap // 4)


def segments_needed(records: int) -> int:
    return -(-records // SEGMENT_RECORDS)


def _small_runs(spans: Sequence[Span], kept: int) -> list[tuple[int, int]]:
    """All but the `kept` longest spans, in runs: changes all over a long session."""
    by_length = sorted(range(len(spans)), key=lambda index: spans[index].records)
    small = sorted(by_length[: len(spans) - kept])
    runs: list[tuple[int, int]] = []
    for index in small:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return [(first, last) for first, last in runs if last - first > 1]


def encode_segment(entries: Sequence[Entry]) -> bytes:
    """Entries by column: ids do not compress and stand together, keys repeat content that stands beside them."""
    kinds, keys, roles, refs = zip(*entries, strict=True) if entries else ((),) * 4
    values, sizes, chunked = zip(*refs, strict=True) if refs else ((),) * 3
    labels = {label: number for number, label in enumerate(dict.fromkeys(zip(kinds, roles, strict=True)))}
    if len(labels) > _MOST_LABELS:
        raise ValueError(f"{len(labels)} kinds of records in one segment")
    count = len(entries)
    names = _texts([text for label in labels for text in label])
    columns = (
        struct.pack(f"<{count}H", *map(labels.__getitem__, zip(kinds, roles, strict=True))),
        struct.pack(f"<{count}Q", *sizes),
        bytes(chunked),
        b"".join(values),
        _texts(keys),
    )
    return _HEAD.pack(FORMAT, count, len(labels)) + names + b"".join(columns)


def _texts(texts: Sequence[str]) -> bytes:
    """Lengths, then the texts; sources have lone surrogates, which UTF-8 has not."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return struct.pack(f"<{len(encoded)}I", *map(len, encoded)) + b"".join(encoded)


class _Reading:
    """Takes what was packed from the front of bytes; raises ValueError where they end too early."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, count: int) -> memoryview:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise ValueError("it ends too early")
        self._at += count
        return part

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def numbers(self, letter: str, count: int) -> tuple[int, ...]:
        return self.unpack(struct.Struct(f"<{count}{letter}"))

    def texts(self, count: int) -> list[str]:
        lengths = self.numbers("I", count)
        data = bytes(self.take(sum(lengths)))
        ends = list(accumulate(lengths, initial=0))
        if data.isascii():
            text = data.decode()
            return [text[start:end] for start, end in pairwise(ends)]
        return [data[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(ends)]

    def skip_texts(self, count: int) -> None:
        self.take(sum(self.numbers("I", count)))

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("it is longer than it says")


class Columns(NamedTuple):
    """The entries of a segment without an object for each of them."""

    kinds: list[str]
    keys: list[str]
    roles: list[str]
    values: list[bytes]
    sizes: tuple[int, ...]
    chunked: bytes

    def entries(self) -> list[Entry]:
        refs = map(Ref._make, zip(self.values, self.sizes, map(bool, self.chunked), strict=True))
        return list(map(Entry._make, zip(*self[:3], refs, strict=True)))


def decode_segment(data: bytes) -> list[Entry]:
    """The entries of a segment. Raises ValueError for what is none."""
    return decode_columns(data).entries()


def decode_columns(data: bytes) -> Columns:
    """Raises ValueError for what is no segment."""
    reading = _Reading(data)
    version, count, label_count = reading.unpack(_HEAD)
    if version != FORMAT:
        raise ValueError(f"segment of format {version}")
    names = reading.texts(2 * label_count)
    labels = list(zip(names[::2], names[1::2], strict=True))
    numbers, sizes = reading.numbers("H", count), reading.numbers("Q", count)
    chunked, ids = bytes(reading.take(count)), bytes(reading.take(count * ID_BYTES))
    keys = reading.texts(count)
    reading.end()
    if numbers and max(numbers) >= len(labels):
        raise ValueError("it names a label that it does not have")
    kinds, roles = [[labels[number][place] for number in numbers] for place in (0, 1)]
    return Columns(kinds, keys, roles, ids_in(ids), sizes, chunked)


def ids_in(data: bytes) -> list[bytes]:
    """Ids that stand one after the other."""
    return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]


def decode_refs(data: bytes | memoryview) -> tuple[bytes, bytes]:
    """What the entries of a segment refer to: of each whether it is `chunked`, one byte, and the id of its value; the
    ids stand one after the other. Much faster than `decode_segment`. Raises ValueError for what is none."""
    reading = _Reading(data)
    version, count, label_count = reading.unpack(_HEAD)
    if version != FORMAT:
        raise ValueError(f"segment of format {version}")
    reading.skip_texts(2 * label_count)
    reading.take(count * (_LABEL_BYTES + _SIZE_BYTES))
    chunked, ids = bytes(reading.take(count)), bytes(reading.take(count * ID_BYTES))
    reading.skip_texts(count)
    reading.end()
    return chunked, ids


def encode_manifest(manifest: Manifest) -> bytes:
    refs = [_REF.pack(*ref) for ref in manifest[:3] if ref]
    given = sum(bit for bit, ref in ((1, manifest.engines), (2, manifest.metrics)) if ref)
    spans = [_SPAN.pack(*span) for span in manifest.spans]
    return _HEAD.pack(FORMAT, given, len(spans)) + b"".join([*refs, *spans])


def decode_manifest(data: bytes) -> Manifest:
    """Raises ValueError for what is none."""
    try:
        version, given, count = _HEAD.unpack_from(data)
    except struct.error:
        raise ValueError("it ends too early") from None
    if version != FORMAT or given > 3:
        raise ValueError(f"manifest of format {version}")
    spans_at = _HEAD.size + (1 + given.bit_count()) * _REF.size
    if len(data) != spans_at + count * _SPAN.size:
        raise ValueError("its length is not the one that it claims")
    refs = (Ref(value, size, bool(chunked)) for value, size, chunked in _REF.iter_unpack(data[_HEAD.size : spans_at]))
    header = next(refs)
    engines = next(refs) if given & 1 else None
    metrics = next(refs) if given & 2 else None
    return Manifest(header, engines, metrics, tuple(map(Span._make, _SPAN.iter_unpack(data[spans_at:]))))


_CHUNK = struct.Struct(f"<{ID_BYTES}sI")


def encode_chunks(chunks: Sequence[tuple[bytes, int]]) -> bytes:
    """The list value of a large one: (id, bytes) of each piece."""
    return b"".join(_CHUNK.pack(*chunk) for chunk in chunks)


def decode_chunks(data: bytes) -> list[tuple[bytes, int]]:
    """Raises ValueError for what is none."""
    if len(data) % _CHUNK.size:
        raise ValueError("a list of chunks that ends too early")
    return list(_CHUNK.iter_unpack(data))
