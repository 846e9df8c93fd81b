"""What client configurations were before we changed them: `<state>/client-configs/<hash of the path>/<n>.json`."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_mcp_protocol.files import write_atomic

MOST_PER_FILE = 10


@dataclass(frozen=True)
class Backup:
    """One change: the whole text before (None: there was no file) and after it."""

    before: str | None
    after: str
    mode: int
    """Of the file, as chmod takes it."""


class Backups:
    """The changes of one file, oldest first. Readable by their owner only, since the files hold keys."""

    def __init__(self, state_dir: Path, path: Path) -> None:
        name = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:16]
        self._path = path
        self._parents = (state_dir, state_dir / "client-configs")
        self._folder = self._parents[-1] / name

    def remember(self, backup: Backup) -> None:
        """Keep `backup` as the newest; of more than `MOST_PER_FILE` the oldest go. Raises DiskFull, OSError."""
        for folder in (*self._parents, self._folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        numbers = self._numbers()
        content = {"path": str(self._path)} | asdict(backup)
        write_atomic(self._file(numbers[-1] + 1 if numbers else 1), json.dumps(content).encode())
        for number in numbers[: -(MOST_PER_FILE - 1)]:
            self._file(number).unlink(missing_ok=True)

    def last(self) -> Backup | None:
        """The newest that can be read; None when there is none."""
        for number in reversed(self._numbers()):
            try:
                return _backup(json.loads(self._file(number).read_bytes()))
            except (OSError, ValueError, KeyError, TypeError):
                self._file(number).unlink(missing_ok=True)  # cut short by a full disk: it cannot bring anything back
        return None

    def forget_last(self) -> None:
        """It was brought back, or never came to be."""
        for number in self._numbers()[-1:]:
            self._file(number).unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        try:
            names = [entry.stem for entry in self._folder.iterdir() if entry.suffix == ".json"]
        except OSError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.json"


def _backup(value: Any) -> Backup:
    before, after, mode = value["before"], value["after"], value["mode"]
    if not isinstance(after, str) or not isinstance(before, str | None) or not isinstance(mode, int):
        raise ValueError("not a backup")
    return Backup(before, after, mode)
