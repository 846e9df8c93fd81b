"""How the demo is told: numbered steps with their times, on one console; and the same as data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vllm_mcp.render import printable
from vllm_mcp_protocol.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_INDENT = "   "


class Story:
    """Prints as things happen, and remembers each step for the summary and for `--json`."""

    def __init__(self, out: "Console") -> None:
        self._out = out
        self._began = time.monotonic()
        self.steps: list[dict[str, Any]] = []

    @property
    def elapsed_s(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._began

    @property
    def out(self) -> "Console":
        """Where it is told."""
        return self._out

    @contextmanager
    def step(self, title: str) -> Iterator[dict[str, Any]]:
        """One numbered step; what the block puts into the yielded dict is kept with its time."""
        facts: dict[str, Any] = {"step": title}
        self._out.print(f"{len(self.steps) + 1}. {title}", style="bold", soft_wrap=True)
        began = time.monotonic()
        yield facts
        facts["seconds"] = round(time.monotonic() - began, 3)
        self.steps.append(facts)

    def say(self, text: str, style: str = "") -> None:
        """A sentence of the current step."""
        from textwrap import wrap

        room = max(20, self._out.width - len(_INDENT) - 1)
        for paragraph in printable(text).splitlines():
            for line in wrap(paragraph, room, break_on_hyphens=False, break_long_words=False) or [""]:
                self._out.print(f"{_INDENT}{line}", style=style, soft_wrap=True)

    def show(self, block: "RenderableType") -> None:
        """A table of the current step."""
        from rich.padding import Padding

        self._out.print(Padding(block, (0, 0, 0, len(_INDENT)), expand=False))

    @contextmanager
    def words(self) -> Iterator["Words"]:
        """Text that arrives in pieces, printed as it comes."""
        writer = Words(self._out, _INDENT)
        yield writer
        writer.end()

    def summary(self) -> None:
        """Every step with its seconds."""
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column()
        table.add_column(justify="right")
        for facts in self.steps:
            table.add_row(str(facts["step"]), format_seconds(facts["seconds"]))
        table.add_row("total", format_seconds(self.elapsed_s), style="bold")
        self.show(table)


class Words:
    """Writes pieces of text in indented lines, broken at the terminal's width."""

    def __init__(self, out: "Console", indent: str) -> None:
        self._out, self._indent = out, indent
        self._room = max(20, out.width - len(indent) - 1)
        self._column = 0
        self._begun = False

    def write(self, piece: str) -> None:
        """Print `piece` at once."""
        for character in printable(piece) if self._begun else printable(piece).lstrip():
            self._begun = True
            if character == "\n" or self._column >= self._room:
                self._put("\n")
                self._column = 0
            if character != "\n":
                self._put((self._indent if self._column == 0 else "") + character)
                self._column += 1
        self._out.file.flush()

    def end(self) -> None:
        """Finish the last line."""
        if self._column:
            self._put("\n")
            self._column = 0

    def _put(self, text: str) -> None:
        # Not Console.print: it collects a line before it writes, and the pieces should be seen as they come.
        self._out.file.write(text)
