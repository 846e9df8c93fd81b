"""Reads of files that somebody else wrote: bounded, never blocking, and explained in words that fit into JSON."""

import os
import stat
from itertools import islice

from vllm_mcp_protocol.units import format_bytes

MOST_ENTRIES = 20_000
"""Entries read of one folder: a cache has hundreds; more is a mistake, and says so."""

LARGE_FOLDER_BYTES = 1_000_000
"""A folder of 20,000 entries has about that size on ext4 and xfs. Below it, `listdir` takes a quarter less time than
`scandir`; above it, the names of a folder with millions of entries would not fit into memory."""


def read_regular(path: str | os.PathLike[str], limit_bytes: int, *, flags: int = 0) -> bytes:
    """Content of a regular file of at most `limit_bytes`. Never blocks: a named pipe is refused.

    Raises OSError, or ValueError for what is no file or is too long.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a regular file")
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"longer than {format_bytes(limit_bytes)}")
    return content


def names_in(folder: str) -> list[str]:
    """Names in a large folder, in no order; at most one over `MOST_ENTRIES`. Raises OSError."""
    with os.scandir(folder) as listed:
        return [entry.name for entry in islice(listed, MOST_ENTRIES + 1)]


def reason(error: Exception) -> str:
    """Why a read failed, in a few words without the path."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)[:200]


def printable(text: str) -> str:
    """Names on disk need not be UTF-8; what goes into JSON must be."""
    return text.encode(errors="replace").decode()
