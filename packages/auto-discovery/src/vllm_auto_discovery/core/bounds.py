"""Parts of an answer that stay small, whatever strangers' names and texts are in them. Pure."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel

Row = TypeVar("Row", bound=BaseModel)

_MOST_WARNINGS = 8
_WARNING_BYTES = 300
_WARNINGS_BYTES = 1200
"""Of all together: beside a full page (17 KB) and the devices of a large host, an answer has room for no more."""


def row_bytes(row: BaseModel) -> int:
    """What the row takes in a list of JSON."""
    return len(row.model_dump_json().encode()) + 1


def fitting(rows: Sequence[Row], limit_bytes: int) -> list[Row]:
    """The first rows, as many as `limit_bytes` hold."""
    kept, left_bytes = [], limit_bytes
    for row in rows:
        left_bytes -= row_bytes(row)
        if left_bytes < 0:
            break
        kept.append(row)
    return kept


def bounded(warnings: Sequence[str]) -> list[str]:
    """The first few, each once and cut, and how many more there are."""
    every = list(dict.fromkeys(warnings))
    shown: list[str] = []
    left_bytes = _WARNINGS_BYTES
    for warning in every[:_MOST_WARNINGS]:
        text = warning.encode(errors="replace")[:_WARNING_BYTES].decode(errors="ignore")
        left_bytes -= len(text.encode())
        if left_bytes < 0:
            break
        shown.append(text)
    more = len(every) - len(shown)
    return [*shown, f"… and {more} more"] if more else shown
