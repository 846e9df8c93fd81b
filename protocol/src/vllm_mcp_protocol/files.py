"""Small files that are written whole and read from their end."""

import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from vllm_mcp_protocol.errors import DiskFull
from vllm_mcp_protocol.units import format_bytes

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_SYNCS_AT_ONCE = 4
"""Waiting for the disk together is shorter: a file system's journal takes several files in one commit."""


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` (0600) by `data`: a reader sees the old or the new, also after a power cut.

    Raises DiskFull when there is no room, and other OSErrors as they are; then the old file stands.
    """
    write_all_atomic([(path, data)])


def write_all_atomic(files: Iterable[tuple[Path, bytes]]) -> None:
    """`write_atomic` of many files, much faster than one by one. They appear in their order, each of them whole.

    None is replaced before all are on the disk under other names. Where it raises after that, the first ones may have
    been replaced.
    """
    drafts: list[tuple[Path, Path]] = []
    try:
        for path, data in files:
            # Its writer's alone: two threads of one process may write the same file.
            name = f".{path.name}.{os.getpid()}-{threading.get_native_id()}-{len(drafts)}.tmp"
            drafts.append((path.with_name(name), path))
            with _explained(path):
                _write(drafts[-1][0], data)
        _sync_all([draft for draft, _ in drafts])
        for draft, path in drafts:
            with _explained(path):
                os.replace(draft, path)
        _sync_all(list(dict.fromkeys(path.parent for _, path in drafts)))
    except BaseException:
        for draft, _ in drafts:
            draft.unlink(missing_ok=True)
        raise


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
    if len(paths) < 2:
        _sync(paths)
        return
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as threads:
        list(threads.map(_sync, [paths[first::_SYNCS_AT_ONCE] for first in range(min(_SYNCS_AT_ONCE, len(paths)))]))


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        with _explained(path):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
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
