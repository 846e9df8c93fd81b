"""One engine's folder: `ls` and `cat` are the debugger.

    spec.json   what was promised        lock       held while anything of the engine runs
    proc.json   who the engine is        ready, stopping   markers
    exit.json   how it ended             engine.log (engine.log.1)   what vLLM said
    api.key     0600                     api.sock   where it listens

Nothing here looks at processes; `processes.py` does.
"""

import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from vllm_mcp_hub.core.diagnosis import plain_text
from vllm_mcp_protocol.files import NO_ROOM, disk_error, read_end, write_atomic
from vllm_mcp_protocol.units import MIB

MAX_TMP_PATH_CHARS = 68
"""vLLM binds unix sockets named by a 36-character uuid in TMPDIR, and the kernel allows 107 bytes."""

TMP_PREFIX = "vllm-hub-"
TAIL_LIMIT_BYTES = 20_000
_TAIL_READ_BYTES = MIB
_LEVELS = {"DEBUG": 0, "INFO": 1, "WARNING": 2, "ERROR": 3, "CRITICAL": 4}
_LEVEL = re.compile(r"^(?:\(.{1,60}?\) )?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_TROUBLE = re.compile(r"^(?:Traceback \(most|[\w.]*(?:Error|Exception)\b|.{0,40}: error: )")
_NAME = re.compile(r"^e([1-9]\d{0,8})$")


class EngineDir:
    """The files of one engine. Writing methods raise `DiskFull` when the disk is."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def __repr__(self) -> str:
        return f"EngineDir({self.id})"

    @property
    def id(self) -> str:
        """`e7`: the folder's name is the engine's id."""
        return self.path.name

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.json"

    @property
    def lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def log_path(self) -> Path:
        return self.path / "engine.log"

    @property
    def socket_path(self) -> Path:
        return self.path / "api.sock"

    @property
    def tmp_path(self) -> Path:
        """The engine's own TMPDIR, made when asked for; under /tmp when the state directory's path is too long."""
        inside = self.path / "tmp"
        if len(os.fsencode(inside)) <= MAX_TMP_PATH_CHARS:
            inside.mkdir(mode=0o700, parents=True, exist_ok=True)
            return inside
        return self._tmp_outside() or self._make_tmp_outside()

    def write_spec(self, spec: dict[str, Any]) -> None:
        """What the engine was promised; written before it is spawned."""
        self._make_folder()
        _write_json(self.spec_path, spec)

    def read_spec(self) -> dict[str, Any] | None:
        """None when the hub died before it wrote one."""
        return read_json(self.spec_path)

    def mark_ready(self) -> None:
        _mark(self.path / "ready")

    def is_ready(self) -> bool:
        return (self.path / "ready").exists()

    def mark_stopping(self) -> None:
        """A stop has begun; the next hub finishes it if this one dies."""
        _mark(self.path / "stopping")

    def is_stopping(self) -> bool:
        return (self.path / "stopping").exists()

    def mark_draining(self) -> None:
        """An unload waits for requests to finish; the next hub goes on waiting."""
        _mark(self.path / "draining")

    def is_draining(self) -> bool:
        return (self.path / "draining").exists()

    def note_sleep(self, state: str) -> None:
        """`suspending`, `sleeping`, `waking` or `awake`: what a later hub cannot ask an engine that is busy with it."""
        write_atomic(self.path / "sleep", state.encode())

    def sleep_state(self) -> str:
        try:
            return (self.path / "sleep").read_text(encoding="utf-8")
        except FileNotFoundError:
            return "awake"

    def write_exit(self, exit_: dict[str, Any]) -> None:
        """`{"code": int | None, "failure": ErrorInfo as JSON | None}`."""
        _write_json(self.path / "exit.json", exit_)

    def read_exit(self) -> dict[str, Any] | None:
        return read_json(self.path / "exit.json")

    def write_key(self, key: str) -> None:
        """The engine's API key, in a file that only this user reads."""
        self._make_folder()
        write_atomic(self.path / "api.key", key.encode())

    def read_key(self) -> str | None:
        try:
            return (self.path / "api.key").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def begin_life(self) -> None:
        """Forget an earlier process in this folder. Only for the holder of the lock, right before a spawn."""
        for name in ("proc.json", "ready", "stopping", "draining", "sleep", "exit.json", "api.sock"):
            (self.path / name).unlink(missing_ok=True)

    def rotate_log(self, max_bytes: int) -> bool:
        """Move a log above `max_bytes` to engine.log.1; was it moved?

        Copied and cut, since vLLM holds the file open (it appends, so it goes on at the new end); a line written
        between the two is lost. On a full disk the old copy is given up: room matters more than history.
        """
        if not self.log_path.exists() or self.log_path.stat().st_size <= max_bytes:
            return False
        kept = self.path / "engine.log.1"
        try:
            _copy_end(self.log_path, kept, max_bytes)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            kept.unlink(missing_ok=True)
        os.truncate(self.log_path, 0)
        return True

    def tail(self, n_lines: int, level: str | None = None) -> tuple[list[str], bool]:
        """The last lines of the log, without secrets, at most 20 KB; and whether earlier ones were left out.

        `level` (DEBUG … CRITICAL) keeps lines of that level and above; tracebacks count as errors.
        """
        lines, truncated = _end_of(self.log_path)
        wanted = lines if level is None else _at_level(lines, level)
        shown = _bounded(wanted[-n_lines:] if n_lines > 0 else [], TAIL_LIMIT_BYTES)
        return shown, truncated or len(shown) < len(wanted)

    def cleanup_tmp(self) -> None:
        """Remove the engine's TMPDIR: vLLM leaves sockets and compiler caches there at every start."""
        outside = self._tmp_outside()
        shutil.rmtree(self.path / "tmp", ignore_errors=True)
        if outside is not None:
            shutil.rmtree(outside, ignore_errors=True)
        (self.path / "tmp_path").unlink(missing_ok=True)

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def _tmp_outside(self) -> Path | None:
        try:
            path = Path((self.path / "tmp_path").read_text(encoding="utf-8"))
            status = path.lstat()
        except FileNotFoundError:
            return None
        # /tmp is everybody's: a cleaner may have removed ours, and somebody else may have made one of its name.
        ours = status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700
        return path if ours and stat.S_ISDIR(status.st_mode) and path.name.startswith(TMP_PREFIX) else None

    def _make_tmp_outside(self) -> Path:
        self._make_folder()
        path = Path(tempfile.mkdtemp(prefix=TMP_PREFIX, dir="/tmp"))  # 0700 and unguessable
        write_atomic(self.path / "tmp_path", str(path).encode())
        return path


def engine_dirs(root: Path) -> list[EngineDir]:
    """The engines' folders below `root` (`<state directory>/engines`), oldest first."""
    named = [(match, path) for path in _children(root) if (match := _NAME.match(path.name))]
    numbered = [(int(match[1]), path) for match, path in named if path.is_dir() and not path.is_symlink()]
    return [EngineDir(path) for _, path in sorted(numbered)]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(value, indent=1).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file that was written atomically; None when there is none. ValueError for other content."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, not an object")
    return value


def _mark(path: Path) -> None:
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise disk_error(error, path) from error


def _children(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except FileNotFoundError:
        return []


def _copy_end(source: Path, target: Path, max_bytes: int) -> None:
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            reader.seek(-max_bytes, os.SEEK_END)
            shutil.copyfileobj(reader, writer)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _end_of(path: Path) -> tuple[list[str], bool]:
    try:
        end = read_end(path, _TAIL_READ_BYTES + 1)
    except FileNotFoundError:
        return [], False
    lines = end.decode(errors="replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    cut = len(end) > _TAIL_READ_BYTES
    return [plain_text(line) for line in lines[1 if cut else 0 :]], cut


def _at_level(lines: list[str], level: str) -> list[str]:
    if level.upper() not in _LEVELS:
        raise ValueError(f"level {level!r} is not one of {', '.join(_LEVELS)}")
    least, current, kept = _LEVELS[level.upper()], _LEVELS["INFO"], []
    for line in lines:
        if found := _LEVEL.match(line):
            current = _LEVELS[found[1]]
        elif _TROUBLE.match(line):
            current = _LEVELS["ERROR"]
        if current >= least:
            kept.append(line)
    return kept


def _bounded(lines: list[str], limit_bytes: int) -> list[str]:
    kept: list[str] = []
    for line in reversed(lines):
        size = len(line.encode()) + 1
        if size > limit_bytes:
            if not kept:
                kept.append(line.encode()[: limit_bytes - 4].decode(errors="ignore") + "…")
            break
        kept.append(line)
        limit_bytes -= size
    return kept[::-1]
