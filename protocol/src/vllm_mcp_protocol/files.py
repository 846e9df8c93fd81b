"""Small files that are written whole and read from their end."""

import errno
import os
import shutil
import threading
from pathlib import Path

from vllm_mcp_protocol.errors import DiskFull
from vllm_mcp_protocol.units import format_bytes

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` (0600) by `data`: a reader sees the old or the new, also after a power cut.

    Raises DiskFull when there is no room, and other OSErrors as they are; then the old file stands.
    """
    # Its writer's alone: two threads of one process may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        _write_through(temporary, data)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_through(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
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
