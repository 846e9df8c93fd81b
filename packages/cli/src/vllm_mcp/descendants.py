"""Everything that this process started, however deep, and the way to end it.

`adopt_orphans` makes this process the kernel's "child subreaper": whatever loses its parent below us (the hub
when its MCP server ends, an engine when its hub ends) becomes our child instead of init's. So the tree below us
is complete at every moment, and "nothing is left" is a fact and not a guess.
"""

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_TERM_GRACE_S = 4.0
"""A ready vLLM ends 0.4 s after SIGTERM; one that starts ignores it, and waiting longer does not help."""

_KILL_LIMIT_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Process:
    """A running process below us."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


def adopt_orphans() -> None:
    """Become the parent of everything below that loses its own. Raises OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def descendants() -> list[Process]:
    """All running processes below this one; zombies are not running."""
    children: dict[int, list[Process]] = {}
    for pid in _pids():
        found = _look(pid)
        if found is not None:
            parent, process = found
            children.setdefault(parent, []).append(process)
    tree, queue = [], [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        tree += below
        queue += [process.pid for process in below]
    return tree


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _look(pid: int) -> tuple[int, Process] | None:
    """Parent and name of `pid`; None when it is gone or dead. A zombie has no children: the kernel moved them."""
    try:
        data = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name = data[data.index("(") + 1 : data.rindex(")")]
    state, parent = data[data.rindex(")") + 2 :].split()[:2]
    return None if state in "ZX" else (int(parent), Process(pid, name))


def end_descendants() -> list[Process]:
    """SIGTERM everything below us, then SIGKILL what stays. Returns what had to be ended."""
    ended: dict[int, Process] = {}
    began = time.monotonic()
    while (left := descendants()) and time.monotonic() - began < _KILL_LIMIT_S:
        patient = time.monotonic() - began < _TERM_GRACE_S
        for process in left:
            if not patient or process.pid not in ended:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGTERM if patient else signal.SIGKILL)
            ended.setdefault(process.pid, process)
        time.sleep(_POLL_S)
        reap()
    return list(ended.values())


def reap() -> None:
    """Take leave of orphans that ended. Not while an event loop waits for children of its own."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
