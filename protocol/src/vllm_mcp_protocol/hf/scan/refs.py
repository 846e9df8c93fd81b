"""The `refs` folder of a repository: the only files of a cache that a scan reads."""

import os
import re
from stat import S_ISDIR, S_ISREG
from sys import intern

from vllm_mcp_protocol.hf.scan.notes import Notes
from vllm_mcp_protocol.reading import printable, reason
from vllm_mcp_protocol.units import format_bytes

REF_LIMIT_BYTES = 1024
_COMMIT = re.compile(r"(?!\.\.?$)[\w.-]{1,200}")
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers leave in every folder."""

_LEFTOVER = re.compile(r".+\.[0-9a-f]{8}\.tmp")
"""What huggingface_hub writes a ref into before it renames it."""
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def is_commit(text: str) -> bool:
    """Whether this can be a commit. Nearly all are digits and letters, which is seen without the slower expression."""
    return (text.isalnum() and len(text) <= 200) or _COMMIT.fullmatch(text) is not None


def read_refs(repo: str, notes: Notes) -> list[tuple[str, str]]:
    """Name and commit of every ref, by name: `main`, `v1.0`, `refs/pr/1`."""
    found: list[tuple[str, str]] = []
    waiting = [("refs", 0)]
    while waiting:
        folder, depth = waiting.pop()
        if depth and not notes.may_descend(folder, depth):
            continue
        for name in notes.enter(f"{repo}/{folder}", folder):
            if name in LITTER or (name.endswith(".tmp") and _LEFTOVER.fullmatch(name)):
                continue
            shown = f"{folder}/{name}"
            try:
                content = _read(f"{repo}/{shown}", notes)
            except (OSError, ValueError) as error:
                notes.warn(f"{shown} cannot be read: {reason(error)}")
                continue
            if content is None:
                waiting.append((shown, depth + 1))
            else:
                _add(shown, content, found, notes)
    found.sort()
    return found


def _add(shown: str, content: str, found: list[tuple[str, str]], notes: Notes) -> None:
    if is_commit(content) and (shown.isascii() or printable(shown) == shown):
        found.append((intern(shown[len("refs/") :]), intern(content)))
    else:
        notes.warn(f"{shown} names no commit")


def _read(path: str, notes: Notes) -> str | None:
    """What is in it; None for a folder.

    Raises OSError, also for a link, and ValueError for what is no file, too long, or no text.
    """
    handle = os.open(path, _FLAGS, dir_fd=notes.cache.handle)
    try:
        status = os.fstat(handle)
        if S_ISDIR(status.st_mode):
            return None
        if not S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        notes.mark(path, status)
        content = os.read(handle, REF_LIMIT_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) > REF_LIMIT_BYTES:
        raise ValueError(f"longer than {format_bytes(REF_LIMIT_BYTES)}")
    return content.decode().strip()
