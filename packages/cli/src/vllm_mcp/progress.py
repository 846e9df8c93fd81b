"""Progress of long work on stderr: one moving line on a terminal, plain lines elsewhere."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vllm_mcp.render import console

if TYPE_CHECKING:
    from rich.console import Console

_REPEAT_S = 10.0
_NUMBER = re.compile(r"\d+")

ProgressSink = Callable[[float, float | None, str | None], None]
"""Takes done, total (same unit) and a message."""


@contextmanager
def progress_display(title: str) -> Iterator[ProgressSink]:
    """Shows reports while the block runs; nothing at all when there are none."""
    err = console(stderr=True)
    if err.is_terminal and not err.is_dumb_terminal:
        with _bar(err, title) as show:
            yield show
    else:
        yield _Lines(err)


@contextmanager
def working(out: "Console", title: str) -> Iterator[None]:
    """A spinner and a clock below what the block prints on `out`, for work that says nothing for minutes."""
    if not out.is_terminal or out.is_dumb_terminal:
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        progress.add_task(title)
        yield


@contextmanager
def _bar(err: "Console", title: str) -> Iterator[ProgressSink]:
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None, visible=False)

        def show(done: float, total: float | None, message: str | None) -> None:
            words = (message or title)[:48]
            progress.update(task, completed=done, total=total, description=words, visible=True)

        yield show


class _Lines:
    """A line when something other than a number changed, else every ten seconds: for logs, pipes, dumb terminals."""

    def __init__(self, err: "Console") -> None:
        self._err = err
        self._said, self._said_at_s = "", 0.0

    def __call__(self, done: float, total: float | None, message: str | None) -> None:
        gist, now_s = _NUMBER.sub("#", message or ""), time.monotonic()
        if not gist or (gist == self._said and now_s - self._said_at_s < _REPEAT_S):
            return
        self._said, self._said_at_s = gist, now_s
        share = f"{done / total:4.0%}  " if total else ""
        self._err.print(f"{share}{message}", soft_wrap=True)
