"""JSON and JSONC texts with the place of everything in them. Pure.

Comments and trailing commas are blanked by as many spaces, so that the standard library can read the text and every
offset still holds in the original.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from vllm_mcp_protocol.errors import ClientConfigInvalid
from vllm_mcp_protocol.units import MIB, format_bytes

LIMIT_BYTES = 4 * MIB
"""Configurations have kilobytes; one with every permission ever given has some hundred."""
DEPTH_LIMIT = 100
"""Far more than a configuration nests, far less than where the standard library gives up."""

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)'
_STRING_OR_COMMENT = re.compile(_STRING + r"|//[^\r\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TOKEN = re.compile(_STRING + r'|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)
_GAP = re.compile(r"[ \t\r\n]*")
_NOT_BREAK = re.compile(r"[^\r\n]")
_DECODER = json.JSONDecoder()


class JsonText(NamedTuple):
    """A text three times, offset for offset: as it is, without comments, and as plain JSON."""

    original: str
    bare: str
    plain: str


class Member(NamedTuple):
    """A key and where it and its value are."""

    key: str
    key_start: int
    start: int
    """Of the value."""
    end: int


class JsonObject(NamedTuple):
    """An object and where it is."""

    start: int
    """Of its opening brace."""
    end: int
    """Of its closing brace."""
    members: tuple[Member, ...]


def read(text: str, *, plain: bool = False) -> JsonText:
    """`text`, known to be valid and to hold an object.

    `plain`: for readers that know neither comments nor trailing commas. Raises ClientConfigInvalid with the line and
    column, also for a text longer than `LIMIT_BYTES` or deeper than `DEPTH_LIMIT`.
    """
    if len(text.encode(errors="replace")) > LIMIT_BYTES:
        raise invalid(f"it is longer than {format_bytes(LIMIT_BYTES)}")
    without_mark = " " + text[1:] if text.startswith("\ufeff") else text
    bare = _STRING_OR_COMMENT.sub(_blank_comment, without_mark)
    found = JsonText(text, bare, _without_trailing_commas(bare))
    if plain:
        _check_plain(found)
    try:
        value = json.loads(found.plain, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise invalid(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, NaN
        raise invalid(str(error)) from error
    if not isinstance(value, dict):
        raise invalid("it holds no object; it must begin with {")
    return found


def _blank_comment(match: re.Match[str]) -> str:
    found = match[0]
    unfinished = found.startswith("/*") and (len(found) < 4 or not found.endswith("*/"))
    return found if found.startswith('"') or unfinished else _NOT_BREAK.sub(" ", found)


def in_line_comment(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to a comment that ends with its line."""
    found = (match for match in _STRING_OR_COMMENT.finditer(text) if match.end() > at)
    comment = next(found, None)
    return comment is not None and comment.start() <= at and comment[0].startswith("//")


def _without_trailing_commas(bare: str) -> str:
    """Also looks how deep it nests, before anything that recurses sees the text."""
    commas, depth, comma, before, last = [], 0, 0, "", ""
    for match in _TOKEN.finditer(bare):
        mark = match[0][0]
        depth += (mark in "{[") - (mark in "}]")
        if depth > DEPTH_LIMIT:
            raise invalid(f"{place(bare, match.start())}: it nests deeper than {DEPTH_LIMIT} levels")
        if mark in "}]" and last == "," and before not in ("", ",", ":", "{", "["):
            commas.append(comma)
        if mark == ",":
            comma = match.start()
        before, last = last, mark
    return _with_blanks_at(bare, commas)


def _with_blanks_at(text: str, places: Sequence[int]) -> str:
    ends = [0, *(place + 1 for place in places)]
    pieces = [text[start:place] for start, place in zip(ends, places, strict=False)]
    return " ".join([*pieces, text[ends[-1] :]])


def _check_plain(found: JsonText) -> None:
    for at, (written, understood) in enumerate(zip(found.original, found.plain, strict=True)):
        if written != understood:
            what = {"\ufeff": "a byte order mark", ",": "a comma after the last item"}.get(written, "a comment")
            raise invalid(f"{place(found.plain, at)}: {what}, and this client reads plain JSON only")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def place(text: str, at: int) -> str:
    """`at` as an editor counts it."""
    line_start = text.rfind("\n", 0, at) + 1
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - line_start + 1}"


def invalid(why: str) -> ClientConfigInvalid:
    """The error; whoever read the file adds its name."""
    return ClientConfigInvalid(why)


def skip(text: str, at: int) -> int:
    """The first place from `at` on that is not blank."""
    match = _GAP.match(text, at)
    return match.end() if match else at


def object_at(plain: str, start: int) -> JsonObject:
    """The members of the object whose brace is at `start`, of a text that is known to be valid."""
    members = []
    at = skip(plain, start + 1)
    while plain[at] != "}":
        key, after_key = _DECODER.raw_decode(plain, at)
        value_start = skip(plain, skip(plain, after_key) + 1)
        end = _DECODER.raw_decode(plain, value_start)[1]
        members.append(Member(key, at, value_start, end))
        at = skip(plain, end)
        if plain[at] == ",":
            at = skip(plain, at + 1)
    return JsonObject(start, at, tuple(members))


def member_of(where: JsonObject, path: tuple[str, ...]) -> Member | None:
    """The member that `path` ends with. Raises ClientConfigInvalid when there are several."""
    found = [member for member in where.members if member.key == path[-1]]
    if len(found) > 1:
        raise invalid(f"the key {shown(path)} is there {len(found)} times; keep one of them")
    return found[0] if found else None


def child_of(read: JsonText, member: Member, path: tuple[str, ...]) -> JsonObject:
    """The object that is `member`'s value. Raises ClientConfigInvalid when the value is anything else."""
    if read.plain[member.start] != "{":
        raise invalid(f"{place(read.plain, member.start)}: {shown(path)} is not an object")
    return object_at(read.plain, member.start)


def root_of(read: JsonText) -> JsonObject:
    """The object that the whole text is."""
    return object_at(read.plain, skip(read.plain, 0))


def shown(path: tuple[str, ...]) -> str:
    """`path` for a message."""
    return json.dumps(".".join(path), ensure_ascii=False)
