"""Claude Code's transcripts: JSON lines. What is looked at in a line is found by search: a line of 40 MB costs nothing
extra, and one that is no JSON is a line like any other. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vllm_state_persistence.core.previews import SCANNED_BYTES, shown_text, string_at
from vllm_state_persistence.core.session import Record

LINE = "line"
FOLDER_NAME_CHARACTERS = 200
"""Claude Code 2.1 cuts a project's folder name there, and adds a hash of the path."""

_NO_LETTER = re.compile(r"[^a-zA-Z0-9]")
_TYPE = re.compile(rb'"type"\s*:\s*"(user|assistant|system)"')
_TOOL_RESULT = re.compile(rb'"type"\s*:\s*"tool_result"')
_UUID_FIELD = b'"uuid"'
_UUID = re.compile(rb'"uuid"\s*:\s*"([^"\\]{1,80})"')
_CWD = re.compile(rb'"cwd"\s*:\s*"')
_PROMPT = re.compile(rb'"role"\s*:\s*"user"\s*,\s*"content"\s*:\s*(?:\[[^"]*"type"\s*:\s*"text"\s*,\s*"text"\s*:\s*)?"')
_TITLE = re.compile(rb'"(?:(customTitle)|type"\s*:\s*"summary"\s*,\s*"(summary)|(aiTitle))"\s*:\s*"')
"""What may name a session, the strongest first: the user's own title, a summary, one that the model made up."""
_UUID_WINDOW = 4096
"""A line's own uuid stands behind its message, among short fields."""


def records_of(lines: Iterable[bytes], first_number: int) -> Iterator[Record]:
    """Each line, without its newline, as a record. Its key is the line's uuid, where it has one that is new, else its
    number: the first line of a transcript is 0."""
    seen: set[str] = set()
    for number, line in enumerate(lines, first_number):
        key = _uuid(line)
        if not key or key in seen:
            key = f"{key}#{number}" if key else f"line {number}"
        seen.add(key)
        yield Record(LINE, key, line, role_of(line))


def _uuid(line: bytes) -> str:
    """The last one near the end of the line, else the first one near its beginning."""
    window = max(0, len(line) - _UUID_WINDOW)
    at = line.rfind(_UUID_FIELD, window)
    while at >= 0:
        if found := _UUID.match(line, at):
            return found[1].decode("utf-8", "replace")
        at = line.rfind(_UUID_FIELD, window, at)
    first = _UUID.search(line, 0, _UUID_WINDOW)
    return first[1].decode("utf-8", "replace") if first else ""


def role_of(line: bytes) -> str:
    """`user`, `assistant`, `tool` or `system`; empty for a line that is no message."""
    if line.find(b'"message"', 0, SCANNED_BYTES) < 0 and line.find(b'"content"', 0, SCANNED_BYTES) < 0:
        return ""
    found = _TYPE.search(line, 0, SCANNED_BYTES) or _TYPE.search(line, max(0, len(line) - SCANNED_BYTES))
    if found is None:
        return ""
    is_result = found[1] == b"user" and line.find(b'"tool_result"', 0, SCANNED_BYTES) >= 0
    return "tool" if is_result and _TOOL_RESULT.search(line, 0, SCANNED_BYTES) else found[1].decode()


def title_of(head: bytes, tail: bytes) -> str:
    """What the client calls the session: the user's own title, else its summary, else the first thing that was said."""
    named: dict[int, str] = {}
    for part in (head, tail):  # the last one of its kind counts
        if b'Title"' not in part and b'"summary"' not in part:
            continue
        for found in _TITLE.finditer(part):
            named[found.lastindex or 0] = string_at(part, found.end())
    if named:
        return shown_text(named[min(named)])
    for found in _PROMPT.finditer(head):
        text = shown_text(string_at(head, found.end()))
        if text and not text.startswith("<"):  # the client's own notes to the model
            return text
    return ""


def folder_of(head: bytes) -> str:
    """The project's folder as the first line that names it has it; empty where none does."""
    found = _CWD.search(head)
    return string_at(head, found.end()) if found else ""


def munged(project: str) -> str:
    """The name that Claude Code gives to the folder of a project's transcripts."""
    units = project.encode("utf-16-le", "surrogatepass")
    code_units = [int.from_bytes(units[at : at + 2], "little") for at in range(0, len(units), 2)]
    name = "".join(_NO_LETTER.sub("-", chr(unit)) for unit in code_units)
    if len(name) <= FOLDER_NAME_CHARACTERS:
        return name
    return f"{name[:FOLDER_NAME_CHARACTERS]}-{_base36(abs(_java_hash(code_units)))}"


def _java_hash(code_units: Iterable[int]) -> int:
    """Java's hash of a string: 32 bits, signed."""
    total = 0
    for unit in code_units:
        total = (31 * total + unit) & 0xFFFFFFFF
    return total - (1 << 32) if total >= 1 << 31 else total


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits or "0"


@dataclass(frozen=True, slots=True)
class Rename:
    """What a restored transcript is to say instead: pairs of JSON strings' insides."""

    session_id: tuple[bytes, bytes]
    project: tuple[bytes, bytes]

    def line(self, content: bytes) -> bytes:
        """The line with its own fields changed. A text that quotes such a field is not one: its quotes are escaped."""
        content = _replaced(content, b"sessionId", *self.session_id)
        return _replaced(content, b"cwd", *self.project)


def _replaced(content: bytes, field: bytes, old: bytes, new: bytes) -> bytes:
    if old == new or old not in content:
        return content
    pattern = rb'("%b"\s*:\s*")%b"' % (field, re.escape(old))
    return re.sub(pattern, lambda found: found[1] + new + b'"', content)
