"""Files that are written whole, one or many together, and read from their end."""

import ctypes
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from vllm_mcp_protocol.errors import DiskFull
from vllm_mcp_protocol.units import format_bytes

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_SYNCS_AT_ONCE = 4
"""Waiting for the disk together is shorter: a file system's journal takes several files in one commit."""

_WHOLE_FILE_SYSTEMS = 100
"""From so many files on, one wait for everything on their file system is shorter than one for each of them."""

_DRAFT = re.compile(r"\..+\.\d+-\d+-\d+-\d+\.tmp")
_ABANDONED_S = 86_400.0


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` (0600) by `data`: a reader sees the old or the new, also after a power cut.

    Raises DiskFull when there is no room, and other OSErrors as they are; then the old file stands.
    """
    write_all_atomic([(path, data)])


def write_all_atomic(files: Iterable[tuple[Path, bytes]]) -> None:
    """`write_atomic` of many files. They appear in their order, each of them whole.

    None is replaced before all are on the disk under other names. Where it raises after that, the first ones may have
    been replaced.
    """
    with Drafts() as drafts:
        drafts.add(files)
        for error in drafts.finish():
            if error is not None:
                raise error


class _Set(NamedTuple):
    drafts: list[tuple[Path, Path]]
    """Of each file its draft, and its path."""
    replaces: bool


class Drafts:
    """Sets of files that are written now and appear together later, much faster than one after the other.

    Nothing that was not finished is left behind when the `with` block ends.
    """

    def __init__(self, *, sweep: bool = False) -> None:
        """With `sweep`, what writers that were killed a day ago or more have left in the same folders is removed."""
        self._sets: list[_Set] = []
        self._sweeps = sweep
        self._swept: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sets:
            _unlink(one.drafts)

    def add(self, files: Iterable[tuple[Path, bytes]], *, replace: bool = True) -> None:
        """Write a set under other names. Without `replace` its last file appears only where there is none, and
        FileExistsError is what became of the set. Raises DiskFull and other OSErrors, and whatever `files` raises; then
        it is as if this set had not been given."""
        drafts: list[tuple[Path, Path]] = []
        try:
            for path, data in files:
                if self._sweeps and path.parent not in self._swept:
                    self._swept.add(path.parent)
                    _sweep(path.parent)
                # Its writer's alone: two threads of one process may write the same file.
                name = f".{path.name}.{os.getpid()}-{threading.get_native_id()}-{len(self._sets)}-{len(drafts)}.tmp"
                drafts.append((path.with_name(name), path))
                with _explained(path):
                    _write(drafts[-1][0], data)
        except BaseException:
            _unlink(drafts)
            raise
        self._sets.append(_Set(drafts, replace))

    def finish(self) -> list[Exception | None]:
        """Let all of them appear, on the disk when it returns; of each set why it could not.

        Raises OSError where nothing can be brought to the disk; then nothing was replaced.
        """
        sets, every = self._sets, [pair for one in self._sets for pair in one.drafts]
        _sync_all([draft for draft, _ in every])
        done = [_appear(one) for one in sets]
        self._sets = [one for one, error in zip(sets, done, strict=True) if error is not None]
        _sync_all(list(dict.fromkeys(path.parent for _, path in every)))
        return done


def _appear(one: "_Set") -> Exception | None:
    try:
        for draft, path in one.drafts:
            with _explained(path):
                if one.replaces or path != one.drafts[-1][1]:
                    os.replace(draft, path)
                else:  # unlike a rename a link never replaces what came meanwhile
                    os.link(draft, path)
                    draft.unlink()
    except (OSError, DiskFull) as error:
        return error
    return None


def _sweep(folder: Path) -> None:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _DRAFT.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_S:
                        os.unlink(entry.path)


def _unlink(drafts: Iterable[tuple[Path, Path]]) -> None:
    for draft, _ in drafts:
        draft.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def _write(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def _sync_all(paths: Sequence[Path]) -> None:
    """Files, or folders."""
    if len(paths) >= _WHOLE_FILE_SYSTEMS and _syncfs is not None:
        for one in {path.stat().st_dev: path for path in paths}.values():
            _sync([one], _syncfs)
    elif len(paths) > 1:
        with ThreadPoolExecutor(_SYNCS_AT_ONCE) as threads:
            list(threads.map(_sync, [paths[first::_SYNCS_AT_ONCE] for first in range(min(_SYNCS_AT_ONCE, len(paths)))]))
    else:
        _sync(paths)


def _find_syncfs() -> Callable[[int], None] | None:
    """syncfs(2) of Linux: everything of a file system to the disk, of whichever program it is."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is None:
        return None

    def syncfs(handle: int) -> None:
        if function(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs


_syncfs = _find_syncfs()


def _sync(paths: Iterable[Path], sync: Callable[[int], None] = os.fsync) -> None:
    for path in paths:
        with _explained(path):
            handle = os.open(path, os.O_RDONLY)
            try:
                sync(handle)
            finally:
                os.close(handle)


def disk_error(error: OSError, path: Path) -> Exception:
    """What to raise for `error`, met while `path` was written: DiskFull with the numbers, or `error` itself."""
    if error.errno not in NO_ROOM:
        return error
    free_bytes = shutil.disk_usage(path.parent).free
    return DiskFull(
        f"No room to write {path}: {format_bytes(free_bytes)} free on its disk ({error.strerror}).",
        suggestion=f"Free space on the disk that holds {path.parent}, then try again.",
        path=str(path),
        free_bytes=free_bytes,
    )


def read_end(path: Path, limit_bytes: int, *, since_byte: int = 0) -> bytes:
    """The last `limit_bytes` of a file, nothing from before `since_byte` unless it is shorter than that by now.

    Raises OSError.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit_bytes, since_byte if since_byte <= size else 0))
        return file.read(limit_bytes)
