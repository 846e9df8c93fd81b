"""What people and programs see: tables and sentences, or JSON; errors with their next step.

Colours and live displays only on a terminal (rich decides, and respects NO_COLOR, TERM=dumb and COLUMNS).
"""

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.serving.calling import exit_code

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

DONE = 0
FAILED = 1
BAD_USAGE = 2

_FIRST_COLUMNS: Mapping[str, Sequence[str]] = {
    # Of list-models, discover-models and get-multimodal-capabilities: a column that no row has is no column.
    "models": (
        *("id", "status", "engine_id", "memory_usage_mb", "weights_mb", "size_mb", "context_window"),
        *("fits_on", "capabilities", "why_not", "error", "last_used"),
    ),
    "engines": ("provider", "kind", "address", "status", "version", "models", "note"),
    "capabilities": ("name", "value", "evidence", "detail"),
}
"""Columns that come first in a table of these; the rest follows as far as the terminal is wide."""

_LONGEST_CELL = 40
_NARROWEST_FOLD = 22
"""A column of sentences is shown in what is left of the line when that is at least so wide."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 (but tab and line feed), DEL and C1."""

_STATUS_STYLES = {
    "ready": "green",
    "loaded": "green",
    "starting": "yellow",
    "loading": "yellow",
    "queued": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "sleeping": "blue",
    "error": "red",
    "stopped": "dim",
    "unloaded": "dim",
    "unreachable": "red",
}


def console(*, stderr: bool = False) -> "Console":
    """A console for stdout (answers) or stderr (progress, errors)."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False, markup=False)


def print_json(value: object) -> None:
    """One JSON document on stdout: readable on a terminal, one line for programs."""
    pretty = 2 if sys.stdout.isatty() else None
    narrow = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    print(json.dumps(value, indent=pretty, ensure_ascii=narrow, default=str), flush=True)


def print_error(info: ErrorInfo, *, as_json: bool = False) -> int:
    """Say what failed and what to do next on stderr; with `as_json` also as an object on stdout.

    Returns the exit code.
    """
    if as_json:
        print_json({"success": False, "error": info.model_dump(mode="json")})
    err = console(stderr=True)
    err.print(printable(info.message), style="bold red", soft_wrap=True)
    if info.suggestion:
        err.print(f"Next: {printable(info.suggestion)}", soft_wrap=True)
    return exit_code(info)


def printable(text: str) -> str:
    """`text` without control characters: what a model wrote must not drive the user's terminal."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def status_style(status: str) -> str:
    """Colour of an engine's or model's status; plain for an unknown one."""
    return _STATUS_STYLES.get(status, "")


def plain_table(*columns: str, right: Iterable[str] = ()) -> "Table":
    """A table without a frame; the columns named in `right` hold numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    numbers = set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


# -- results of tools ---------------------------------------------------------------------------------------


def print_result(result: Mapping[str, Any]) -> None:
    """A tool's structured result for people: facts first, then tables, then long text."""
    out = console()
    for block in result_blocks({k: v for k, v in result.items() if k != "success"}, out.width):
        out.print(block, soft_wrap=isinstance(block, str))


def result_blocks(result: Mapping[str, Any], width: int) -> list["RenderableType"]:
    """The renderable parts of a result, at most `width` columns wide where they are tables."""
    facts = {k: v for k, v in result.items() if _is_fact(k, v)}
    blocks: list[RenderableType] = [_facts_table(facts)] if facts else []
    for name, value in result.items():
        if _is_empty(value) or name in facts:
            continue
        if blocks:
            blocks.append("")
        blocks.extend(_long_blocks(name, value, width))
    return blocks or ["done"]


def _is_empty(value: object) -> bool:
    return value is None or value == "" or value == [] or value == {}


def _is_fact(name: str, value: object) -> bool:
    if isinstance(value, str):
        return "\n" not in value and 0 < len(value) <= 200
    if name == "argv":
        return bool(value)
    if isinstance(value, list):
        return 0 < len(value) <= 12 and all(isinstance(v, str | int | float) for v in value) and _short(value)
    return value is not None and not isinstance(value, list | dict)


def _short(values: Sequence[object]) -> bool:
    return sum(len(str(value)) for value in values) <= 60


def _facts_table(facts: Mapping[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(label(name), Text(cell(value, name), style=_cell_style(name, value)))
    return table


def _long_blocks(name: str, value: Any, width: int) -> list["RenderableType"]:
    if isinstance(value, Mapping):
        return [_heading(name), *_nested(value, width)]
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, Mapping)]
        if rows and len(rows) == len(value):
            return _rows_table(name, rows, width)
        return [_heading(name), *(_item(cell(item), raw=name == "lines") for item in value)]
    return [printable(str(value))]


def _item(text: str, *, raw: bool) -> "RenderableType":
    """One of a list of sentences; lines of a log stay lines."""
    from rich.padding import Padding
    from rich.text import Text

    return text if raw else Padding(Text(text), (0, 0, 0, 2), expand=False)


def _nested(value: Mapping[str, Any], width: int) -> list["RenderableType"]:
    from rich.padding import Padding

    return [Padding(block, (0, 0, 0, 2)) for block in result_blocks(value, width - 2)]


def _heading(name: str) -> "RenderableType":
    from rich.text import Text

    return Text(label(name), style="bold")


def _rows_table(name: str, rows: Sequence[Mapping[str, Any]], width: int) -> list["RenderableType"]:
    from rich.text import Text

    columns, left_out = _columns_that_fit(name, rows, width)
    table = plain_table(*(label(c) for c in columns), right=[label(c) for c in columns if _is_numeric(rows, c)])
    for row in rows:
        table.add_row(*(Text(cell(row.get(c), c), style=_cell_style(c, row.get(c))) for c in columns))
    note = [Text(f"(also {', '.join(left_out)}: --json)", style="dim")] if left_out else []
    return [table, *note]


def _columns_that_fit(name: str, rows: Sequence[Mapping[str, Any]], width: int) -> tuple[list[str], list[str]]:
    preferred = [c for c in _FIRST_COLUMNS.get(name, ()) if any(c in row for row in rows)]
    every = list(dict.fromkeys([*preferred, *(column for row in rows for column in row)]))
    filled = [c for c in every if any(not _is_empty(row.get(c)) for row in rows) and not _repeats(c, every, rows)]
    columns: list[str] = []
    used = 0
    for column in filled:
        need = max(len(label(column)), *(min(len(cell(row.get(column), column)), _LONGEST_CELL) for row in rows)) + 2
        left = width + 2 - used
        if need <= left or not columns:
            columns.append(column)
            used += need
        elif left >= _NARROWEST_FOLD + 2 and need > left and not _is_numeric(rows, column):
            columns.append(column)
            used = width + 2
    return columns, [c for c in filled if c not in columns]


def _repeats(column: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Says it what an earlier column says in every row, as a name that is the id does?"""
    values = [row.get(column) for row in rows]
    earlier = columns[: columns.index(column)]
    return isinstance(values[0], str) and any(values == [row.get(other) for row in rows] for other in earlier)


def _is_numeric(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    values = [row.get(column) for row in rows if row.get(column) is not None]
    return bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def label(name: str) -> str:
    """`memory_usage_mb` → `memory usage MB`: a field's name for people."""
    return " ".join({"mb": "MB", "id": "id", "ms": "ms"}.get(word, word) for word in name.split("_"))


def cell(value: object, name: str = "") -> str:
    """One value of a result as text; times of day for `*_at` and `last_used`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and (name.endswith("_at") or name == "last_used"):
        return clock(value)
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 10 else f"{value:,.1f}"
    if isinstance(value, int):
        return str(value)
    if name == "argv" and isinstance(value, list):
        return printable(shlex.join(map(str, value)))
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={cell(v)}" for k, v in value.items() if not _is_empty(v))
    return printable(str(value))


def _cell_style(name: str, value: object) -> str:
    return status_style(str(value)) if name == "status" else ""


def clock(unix_s: float) -> str:
    """A moment, as local wall-clock time."""
    return datetime.fromtimestamp(unix_s).strftime("%Y-%m-%d %H:%M:%S")
