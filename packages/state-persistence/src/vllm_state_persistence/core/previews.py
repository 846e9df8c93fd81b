"""A glimpse of a message for lists: cheap, bounded, and never needed to restore anything."""

import json
import re

SHOWN_CHARACTERS = 200
SCANNED_BYTES = 16 * 1024
"""Of one message; what a person wrote stands at its beginning, what a tool gave may be megabytes."""

_FIELD = re.compile(rb'"(?:text|content|thinking|summary)"\s*:\s*"(?!")')
_LONGEST_ESCAPE = 6
_TAKEN_BYTES = 12 * SHOWN_CHARACTERS
"""A character beyond the basic plane takes 12 bytes when it is escaped."""
_USUALLY_TAKEN_BYTES = 3 * SHOWN_CHARACTERS

_decode = json.JSONDecoder(strict=False).raw_decode


def preview_of(cell: object) -> str:
    """The first text in a message's JSON; empty where there is none."""
    data = cell[:SCANNED_BYTES].encode("utf-8", "replace") if isinstance(cell, str) else cell
    if not isinstance(data, bytes):
        return ""
    found = _FIELD.search(data, 0, SCANNED_BYTES)
    if found is None:
        return ""
    shown = shown_text(string_at(data, found.end(), _USUALLY_TAKEN_BYTES))
    return shown if len(shown) == SHOWN_CHARACTERS else shown_text(string_at(data, found.end()))


def string_at(data: bytes, start: int, most_bytes: int = _TAKEN_BYTES) -> str:
    """The text of the JSON string whose inside begins at `start`, of a long one its beginning: of `most_bytes`."""
    piece = data[start : start + most_bytes]
    end = piece.find(b'"')
    plain = piece if end < 0 else piece[:end]
    if b"\\" not in plain:
        return plain.decode("utf-8", "ignore")
    text = _whole_escapes(piece.decode("utf-8", "ignore"))
    try:
        return str(_decode(f'"{text}"')[0])  # its own end, where it is here, else the one that it is given
    except ValueError:  # it never was JSON
        return plain.decode("utf-8", "ignore")


def _whole_escapes(text: str) -> str:
    """Without an escape that was cut short."""
    last = text.rfind("\\", max(0, len(text) - _LONGEST_ESCAPE + 1))
    before = text[:last].rstrip("\\") if last >= 0 else text
    opens = last >= 0 and (last - len(before)) % 2 == 0
    whole = not opens or (len(text) > last + 1 and text[last + 1] != "u")
    return text if whole else text[:last]


def shown_text(text: str) -> str:
    """One line of at most `SHOWN_CHARACTERS` that any answer can hold: no lone surrogates, no control characters."""
    words = text[:_TAKEN_BYTES].split(None, SHOWN_CHARACTERS // 2 + 1)  # one letter and a space each, at the least
    line = " ".join(words)[:SHOWN_CHARACTERS]
    if line.isprintable():  # no surrogate is
        return line
    return "".join(char for char in line.encode("utf-8", "replace").decode() if char.isprintable())
