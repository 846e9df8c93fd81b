"""Rows of a client's database as values: exact bytes, their order, and what proves that their beginning is unchanged.

A snapshot that is taken while the client writes must not be trusted to the last instant: clients stamp their rows with
seconds or milliseconds, so a row may change again without its stamp changing. Rows are therefore *settled* only before
the first one that carries the newest stamp. The rest is read again, and goes into the marker with its content.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vllm_state_persistence.core import values
from vllm_state_persistence.core.previews import SCANNED_BYTES, string_at

Cell = None | int | float | str | bytes
Row = dict[str, Cell]

_FORM = "rows1"
_DIGEST_BYTES = 16


def encode_row(row: Mapping[str, Cell]) -> bytes:
    """A row's columns, in their order and with their types, as canonical bytes."""
    return values.encode(dict(row))


def decode_row(data: bytes) -> Row:
    """The row that `encode_row` was given. Raises ValueError for anything else."""
    found = values.decode(data)
    if not isinstance(found, dict) or not all(isinstance(cell, Cell) for cell in found.values()):
        raise ValueError("not a row of a table")
    return found


class RowMark(NamedTuple):
    """What is known of a row without its content. (A tuple: a session may have 100,000, read at every look.)"""

    table: int
    """Place of its table in the client's list of tables."""
    rowid: int
    key: Cell
    created: Cell
    updated: Cell


def as_time(cell: Cell) -> float:
    """A stamp as a number, in the client's own unit; 0 for what is none."""
    return float(cell) if isinstance(cell, int | float) else 0.0


def in_order(marks: Iterable[RowMark]) -> list[RowMark]:
    """Oldest first; of one instant, the first table first, then as they were inserted."""
    return sorted(marks, key=lambda mark: (as_time(mark.created), mark.table, mark.rowid))


def settled_count(ordered: Sequence[RowMark]) -> int:
    """How many rows at the beginning cannot change any more without their stamp changing."""
    stamps = [as_time(mark.updated) for mark in ordered]
    newest = max(stamps, default=0.0)
    return next((place for place, stamp in enumerate(stamps) if stamp >= newest), 0)


def proof(ordered: Iterable[RowMark]) -> str:
    """Digest of which rows these are and when each was changed last. Row ids are not in it: VACUUM renumbers them."""
    told = "".join([repr((table, key, created, updated)) for table, _, key, created, updated in ordered])
    return digest([told.encode("utf-8", "surrogatepass")])


def digest(parts: Iterable[bytes]) -> str:
    """Hex digest of a list of byte strings; where one ends and the next begins counts."""
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.hexdigest()


def marker_of(ordered: Sequence[RowMark], settled: int, rest: str) -> str:
    """The marker of a session: its settled rows by their stamps, and `rest`, the digest of everything else."""
    return f"{_FORM}:{settled}:{proof(ordered[:settled])}:{rest}"


def proven(ordered: Sequence[RowMark], marker: str) -> int:
    """How many rows at the beginning are, unchanged, those that were settled when `marker` was made."""
    form, _, told = marker.partition(":")
    count, _, rest = told.partition(":")
    if form != _FORM or not count.isdecimal() or int(count) > len(ordered):
        return 0
    return int(count) if proof(ordered[: int(count)]) == rest.partition(":")[0] else 0


def cell_text(content: bytes, column: str) -> str:
    """A text of a row, from its canonical bytes; of a long row its beginning is enough, and gives that of the text."""
    try:
        return str(decode_row(content).get(column) or "")
    except ValueError:
        name = f'"{column}":"'.encode()
        at = content.find(name)
        return string_at(content, at + len(name), SCANNED_BYTES) if at >= 0 else ""
