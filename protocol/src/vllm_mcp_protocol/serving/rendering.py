"""A tool's result for people: `key: value` lines, and tables for lists. Pure; plain text, no colours."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm_mcp_protocol.errors import ErrorInfo

_CELL_LIMIT_CHARS = 60
_INDENT = "  "


def render(payload: Mapping[str, Any]) -> str:
    """A successful result as text. Fields that are null or empty are left out."""
    shown = {key: value for key, value in payload.items() if key != "success"}
    return "\n".join(_lines(shown)) or "done"


def render_error(error: ErrorInfo) -> str:
    """A failure as text, with the next step."""
    lines = [f"error: {error.message} [{error.code}]"]
    if error.suggestion:
        lines.append(f"next: {error.suggestion}")
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """`rows` in columns; columns without any value are left out."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    filled = [key for key in keys if any(not _empty(row.get(key)) for row in rows)]
    cells = [[_heading(key) for key in filled]]
    cells += [[_cell(row.get(key)) for key in filled] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(filled))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _lines(fields: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    for key, value in fields.items():
        if _empty(value):
            continue
        match value:
            case dict():
                yield f"{indent}{_heading(key)}:"
                yield from _lines(value, indent + _INDENT)
            case list() if all(isinstance(item, dict) for item in value):
                yield f"{indent}{_heading(key)}:"
                yield from (f"{indent}{_INDENT}{line}" for line in table(value))
            case list() if any(len(str(item)) > _CELL_LIMIT_CHARS for item in value):
                yield f"{indent}{_heading(key)}:"
                yield from (f"{indent}{_INDENT}{line}" for item in value for line in str(item).splitlines())
            case str() if "\n" in value:
                yield f"{indent}{_heading(key)}:"
                yield from (f"{indent}{_INDENT}{line}" for line in value.splitlines())
            case _:
                yield f"{indent}{_heading(key)}: {_text(value)}"


def _empty(value: Any) -> bool:
    return value is None or value == "" or value == [] or value == {}


def _heading(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list():
            return ", ".join(_text(item) for item in value)
        case dict():
            return ", ".join(f"{key}={_text(item)}" for key, item in value.items() if not _empty(item))
        case _:
            return str(value)


def _cell(value: Any) -> str:
    text = "-" if _empty(value) else " ".join(_text(value).split())
    return text if len(text) <= _CELL_LIMIT_CHARS else text[: _CELL_LIMIT_CHARS - 1] + "…"
