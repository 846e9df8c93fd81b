"""A snapshot as one stream of bytes, for an export: its head, then record by record. Pure.

Lengths are numbers of few bytes (`core.numbers`). The head is its length, JSON, and then header, engines and metrics,
whose lengths the JSON says (null: there are none). A record is the lengths of kind, key, role and content, and then
these four; texts are UTF-8 in which lone surrogates are kept.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vllm_state_persistence.core.numbers import read_number, write_number
from vllm_state_persistence.core.session import Record, SessionRef

HEAD_LIMIT_BYTES = 16 * 1024 * 1024
"""Of the JSON in the head."""

_NUMBER_BYTES = 9
"""The longest number."""


@dataclass(frozen=True, slots=True)
class Head:
    """A snapshot without its records."""

    ref: SessionRef
    state_id: str
    at: float
    records: int
    description: str
    tags: tuple[str, ...]
    header: bytes
    engines: bytes | None
    metrics: bytes | None


def encode_head(head: Head) -> bytes:
    parts = {"header": head.header, "engines": head.engines, "metrics": head.metrics}
    facts = {
        "ref": asdict(head.ref),
        "state_id": head.state_id,
        "at": head.at,
        "records": head.records,
        "description": head.description,
        "tags": head.tags,
        **{name: None if part is None else len(part) for name, part in parts.items()},
    }
    text = json.dumps(facts, separators=(",", ":")).encode()
    return b"".join((write_number(len(text)), text, *(part for part in parts.values() if part is not None)))


def encode_record(record: Record) -> bytes:
    texts = (record.kind, record.key, record.role)
    parts = (*(text.encode("utf-8", "surrogatepass") for text in texts), record.content)
    return b"".join((*(write_number(len(part)) for part in parts), *parts))


class StreamReader:
    """Reads a stream from the pieces that it comes in. Raises ValueError for what is none, and what `pieces` raises."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._data = b""
        self._at = 0

    def head(self) -> Head:
        length = self._number()
        if length > HEAD_LIMIT_BYTES:
            raise ValueError("a head that is too long")
        facts: dict[str, Any] = json.loads(self._take(length))
        try:
            return Head(
                ref=SessionRef(**facts["ref"]),
                state_id=str(facts["state_id"]),
                at=float(facts["at"]),
                records=int(facts["records"]),
                description=str(facts["description"]),
                tags=tuple(facts["tags"]),
                header=self._take(facts["header"]),
                engines=self._part(facts["engines"]),
                metrics=self._part(facts["metrics"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("a head with other facts than are known here") from error

    def _part(self, length: int | None) -> bytes | None:
        return None if length is None else self._take(length)

    def records(self, count: int) -> Iterator[Record]:
        """So many records, and then the end of the stream."""
        for _ in range(count):
            lengths = [self._number() for _ in range(4)]
            kind, key, role = (str(self._take(length), "utf-8", "surrogatepass") for length in lengths[:3])
            yield Record(kind, key, self._take(lengths[3]), role)
        self._fill(1)
        if self._at != len(self._data):
            raise ValueError("something follows its last record")

    def _number(self) -> int:
        self._fill(_NUMBER_BYTES)
        value, self._at = read_number(self._data, self._at)
        return value

    def _take(self, length: int) -> bytes:
        self._fill(length)
        part = self._data[self._at : self._at + length]
        if len(part) != length:
            raise ValueError("it ends too early")
        self._at += length
        return part

    def _fill(self, wanted: int) -> None:
        """At least `wanted` bytes from where it stands, where so many are left. A length that is claimed takes no
        memory: only what comes is kept."""
        left = [self._data[self._at :]] if len(self._data) - self._at < wanted else None
        if left is None:
            return
        total = len(left[0])
        while total < wanted and (piece := next(self._pieces, None)) is not None:
            left.append(piece)
            total += len(piece)
        self._data, self._at = b"".join(left), 0
