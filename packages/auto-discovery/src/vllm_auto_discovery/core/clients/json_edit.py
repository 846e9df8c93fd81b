"""Edits of JSON and JSONC texts that leave every other byte as it is. Pure.

An edit changes the span of one member, in the style of its file. Then the old and the new text are both read and
compared, and an edit that would have changed anything else is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_auto_discovery.core.clients.json_text import (
    JsonObject,
    JsonText,
    Member,
    child_of,
    in_line_comment,
    invalid,
    member_of,
    read,
    root_of,
    shown,
    skip,
)
from vllm_mcp_protocol.errors import ClientConfigInvalid

_BLANKS = " \t\r\n"


@dataclass(frozen=True)
class Put:
    """Set the value at `path`; objects that are missing on the way are made."""

    path: tuple[str, ...]
    value: Any


@dataclass(frozen=True)
class Drop:
    """Remove the member at `path`; it need not be there."""

    path: tuple[str, ...]


Edit = Put | Drop


def read_object(text: str, *, plain: bool = False) -> Mapping[str, Any]:
    """The object that `text` holds; of duplicate keys the last one counts, as in every client.

    Raises ClientConfigInvalid as `json_text.read` does.
    """
    value: Mapping[str, Any] = json.loads(read(text, plain=plain).plain)
    return value


def edited(text: str, edits: Sequence[Edit], *, plain: bool = False) -> str:
    """`text` after `edits`, one after the other. A value that is already there stays as it is written.

    Raises ClientConfigInvalid as `json_text.read` does, and for a path that leads through something that is no object
    or through a key that is there twice.
    """
    read(text, plain=plain)
    for edit in edits:
        before = read(text)
        changed = _put(before, edit.path, edit.value) if isinstance(edit, Put) else _drop(before, edit.path)
        if changed != text:
            _check(before, changed, edit)
        text = changed
    return text


def _put(source: JsonText, path: tuple[str, ...], value: Any) -> str:
    where = root_of(source)
    for depth in range(1, len(path) + 1):
        member = member_of(where, path[:depth])
        if member is None:
            for key in reversed(path[depth:]):
                value = {key: value}
            return _inserted(source, where, path[depth - 1], value)
        if depth == len(path):
            return _replaced(source, member, value)
        where = child_of(source, member, path[:depth])
    raise ValueError("an edit needs a path")


def _drop(source: JsonText, path: tuple[str, ...]) -> str:
    where = root_of(source)
    for depth in range(1, len(path) + 1):
        member = member_of(where, path[:depth])
        if member is None:
            return source.original
        if depth == len(path):
            return _removed(source, where, member)
        where = child_of(source, member, path[:depth])
    raise ValueError("an edit needs a path")


def _replaced(source: JsonText, member: Member, value: Any) -> str:
    if _tree(source.plain[member.start : member.end]) == _tree(json.dumps(value)):
        return source.original
    before, old, after = _cut(source.original, member.start, member.end)
    inline = _own_line(source, member.key_start) is None and not _breaks(old)
    indent = None if inline else _line_indent(source.original, member.key_start)
    return before + _rendered(source, value, indent) + after


def _inserted(source: JsonText, where: JsonObject, key: str, value: Any) -> str:
    if not where.members:
        return _inserted_into_empty(source, where, key, value)
    text, last = source.original, where.members[-1]
    indent = _own_line(source, last.key_start)
    if indent is None and _breaks(text[last.end : where.end]):  # there may be a // comment
        indent = _line_indent(text, last.key_start)
    at = _content_end(text, where.end)
    gap = " " if indent is None else _break_of(text) + indent
    member = f"{gap}{json.dumps(key, ensure_ascii=False)}: {_rendered(source, value, indent)}"
    if "," in source.bare[last.end : where.end]:
        return f"{text[:at]}{member},{text[at:]}"
    return f"{text[: last.end]},{text[last.end : at]}{member}{text[at:]}"


def _inserted_into_empty(source: JsonText, where: JsonObject, key: str, value: Any) -> str:
    text = source.original
    at = _content_end(text, where.end)
    name = json.dumps(key, ensure_ascii=False)
    if not _breaks(text):
        return f"{text[:at]}{name}: {_rendered(source, value, None)}{text[where.end :]}"
    outer, newline = _line_indent(text, where.start), _break_of(text)
    indent = outer + _unit(source)
    rest = text[at:] if _breaks(text[at : where.end]) else newline + outer + text[where.end :]
    return f"{text[:at]}{newline}{indent}{name}: {_rendered(source, value, indent)}{rest}"


def _removed(source: JsonText, where: JsonObject, member: Member) -> str:
    text, index = source.original, where.members.index(member)
    following = where.members[index + 1].key_start if member != where.members[-1] else where.end
    start = _content_end(text, member.key_start)
    comma = source.bare.find(",", member.end, following)
    rest = text[member.end :] if comma < 0 else text[member.end : comma] + text[comma + 1 :]
    if in_line_comment(text, start - 1) and not _breaks(rest[: skip(rest, 0)]):
        start = member.key_start  # the comment would swallow what follows
    kept = text[:start]
    if comma < 0 and index:
        previous = source.bare.index(",", where.members[index - 1].end, start)
        kept = text[:previous] + text[previous + 1 : start]
    if len(where.members) == 1 and kept.endswith("{") and rest[skip(rest, 0)] == "}":
        rest = rest[skip(rest, 0) :]
    return kept + rest


def _content_end(text: str, at: int) -> int:
    """Where the blanks before `at` begin."""
    return len(text[:at].rstrip(_BLANKS))


def _cut(text: str, start: int, end: int) -> tuple[str, str, str]:
    return text[:start], text[start:end], text[end:]


# The file's own style.


def _own_line(source: JsonText, at: int) -> str | None:
    """The indentation of a key that is the first on its line; None for others."""
    line_start = _line_start(source.original, at)
    first = line_start > 0 and not source.bare[line_start:at].strip(_BLANKS)
    return _line_indent(source.original, at) if first else None


def _line_start(text: str, at: int) -> int:
    return max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1


def _line_indent(text: str, at: int) -> str:
    line = text[_line_start(text, at) : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(source: JsonText) -> str:
    """One step of indentation: that of the first key at the root, else two spaces."""
    members = root_of(source).members
    return (_own_line(source, members[0].key_start) if members else None) or "  "


def _breaks(text: str) -> bool:
    return "\n" in text or "\r" in text


def _break_of(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _rendered(source: JsonText, value: Any, indent: str | None) -> str:
    """`value` on one line, or indented so that its closing brace is at `indent`."""
    if indent is None:
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, indent=_unit(source)).replace(
        "\n", _break_of(source.original) + indent
    )


# The check after every edit.


def _check(before: JsonText, changed: str, edit: Edit) -> None:
    """Raises ClientConfigInvalid when `changed` is anything but `before` with `edit` done."""
    try:
        same = _tree_after(_tree(before.plain), edit) == _tree(read(changed).plain)
    except ClientConfigInvalid:
        same = False
    if not same:
        raise invalid(f"{shown(edit.path)} cannot be changed without changing more than that")


def _tree(plain: str) -> Any:
    """The value with all that a dict would lose: order, duplicate keys, how a number is written."""
    return json.loads(plain, object_pairs_hook=tuple, parse_int=_number, parse_float=_number)


def _number(written: str) -> tuple[str, str]:
    return ("number", written)


def _tree_after(tree: Any, edit: Edit) -> Any:
    key, rest = edit.path[0], edit.path[1:]
    known = [name for name, _ in tree]
    if rest:
        inner = Put(rest, edit.value) if isinstance(edit, Put) else Drop(rest)
        children = tree if key in known else (*tree, (key, ()))
        return tuple((name, _tree_after(child, inner) if name == key else child) for name, child in children)
    if isinstance(edit, Drop):
        return tuple(pair for pair in tree if pair[0] != key)
    value = _tree(json.dumps(edit.value))
    children = tree if key in known else (*tree, (key, value))
    return tuple((name, value if name == key else child) for name, child in children)
