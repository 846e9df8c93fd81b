"""A glimpse of a message for lists: cheap, bounded, and never needed to restore anything."""

import json
import re

SHOWN_CHARACTERS = 200
SCANNED_BYTES = 16 * 1024
"""Of one message; what a person wrote stands at its beginning, what a tool gave may be megabytes."""

_FIELD = re.compile(rb'"(?:text|content|thinking|summary)"\s*:\s*"(?!")')
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_ESCAPE_CUT = re.compile(r"(?<!\\)((?:\\\\)*)\\u[0-9a-fA-F]{0,3}$")
_BEFORE = r"\1"
_TAKEN_BYTES = 12 * SHOWN_CHARACTERS
"""A character beyond the basic plane takes 12 bytes when it is escaped."""


def preview_of(cell: object) -> str:
    """The first text in a message's JSON; empty where there is none."""
    data = cell[:SCANNED_BYTES].encode("utf-8", "replace") if isinstance(cell, str) else cell
    if not isinstance(data, bytes):
        return ""
    found = _FIELD.search(data, 0, SCANNED_BYTES)
    return shown_text(string_at(data, found.end())) if found else ""


def string_at(data: bytes, start: int) -> str:
    """The text of the JSON string whose inside begins at `start`; of a long one its beginning."""
    found = _INSIDE.match(data, start, start + _TAKEN_BYTES)
    return unescaped(found[0]) if found else ""


def unescaped(data: bytes) -> str:
    """Text of a piece of a JSON string that may have been cut anywhere."""
    text = data.decode("utf-8", "ignore")
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{_ESCAPE_CUT.sub(_BEFORE, text)}"', strict=False))
    except ValueError:
        return text


def shown_text(text: str) -> str:
    """One line of at most `SHOWN_CHARACTERS` that any answer can hold: no lone surrogates, no control characters."""
    line = " ".join(text[:_TAKEN_BYTES].split())[:SHOWN_CHARACTERS]
    if line.isprintable():  # no surrogate is
        return line
    return "".join(char for char in line.encode("utf-8", "replace").decode() if char.isprintable())
