"""The audit log: one JSON line per mutation and per refused call, appended by every process of the suite."""

import json
import os
import time
from pathlib import Path

LIMIT_BYTES = 10 * 1024**2
_LINE_LIMIT_BYTES = 4096
"""Appends up to this size are one write(2) with O_APPEND, so lines of several processes never mix."""


class AuditLog:
    """`audit.jsonl` in the state folder; turned over to `audit.jsonl.1` at 10 MiB."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **fields: object) -> None:
        """Append one line. Fields must be free of secrets. Raises OSError when the disk refuses."""
        entry = {"time": round(time.time(), 3), "pid": os.getpid(), "event": event, **fields}
        line = json.dumps(entry, separators=(",", ":"), default=str)
        if len(line) >= _LINE_LIMIT_BYTES:
            cut = {k: v for k, v in entry.items() if k in ("time", "pid", "event", "tool", "outcome", "code")}
            line = json.dumps({**cut, "cut": True}, separators=(",", ":"), default=str)
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._turn_over()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def _turn_over(self) -> None:
        try:
            if self._path.stat().st_size > LIMIT_BYTES:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
        except FileNotFoundError:
            return
