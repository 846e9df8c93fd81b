"""What a reading notes on its way: warnings, and marks that tell the next one whether anything changed."""

import os
from collections.abc import Iterable
from stat import S_ISDIR, S_ISLNK

from vllm_mcp_protocol.hf.scan.opened import OpenCache
from vllm_mcp_protocol.reading import LARGE_FOLDER_BYTES, MOST_ENTRIES, names_in, printable, reason

DEEPEST_FOLDER = 8
"""Nesting of folders within a snapshot or within `refs`: real repositories have three."""
MOST_FOLDERS = 2_000
"""Folders read of one repository; the largest datasets have hundreds."""

Mark = tuple[str, int, int, int]
"""What a file or folder looked like: path below the cache, inode, and times of modification and change, ns.

Whatever is added to a folder, removed from it or renamed in it changes its mark.
"""


def hold(marks: Iterable[Mark], cache: OpenCache) -> bool:
    """Whether everything still looks as it did."""
    for path, inode, modified_ns, changed_ns in marks:
        try:
            status = os.lstat(path, dir_fd=cache.handle)
        except OSError:
            return False
        if status.st_mtime_ns != modified_ns or status.st_ctime_ns != changed_ns or status.st_ino != inode:
            return False
    return True


class Notes:
    """The notes of one reading of one repository."""

    __slots__ = ("_folders_left", "absent", "cache", "marks", "newest_s", "warnings")

    def __init__(self, cache: OpenCache) -> None:
        self.cache = cache
        self.warnings: list[str] = []
        self.marks: list[Mark] = []
        self.newest_s = 0.0
        """Wall clock of the newest change of a file so far."""
        self.absent = False
        """Whether a folder that could be there is not, so that the folder around it has to be marked."""
        self._folders_left = MOST_FOLDERS

    def warn(self, text: str) -> None:
        self.warnings.append(printable(text))

    def mark(self, path: str, status: os.stat_result) -> None:
        self.marks.append((path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns))

    def enter(self, folder: str, shown: str) -> list[str]:
        """The names in a folder, which is marked; none, with a warning unless it is absent, when it cannot be read."""
        cache = self.cache
        try:
            status = os.lstat(folder, dir_fd=cache.handle)
            self.marks.append((folder, status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
            if S_ISDIR(status.st_mode):
                listed = cache.whole(folder)
                names = os.listdir(listed) if status.st_size < LARGE_FOLDER_BYTES else names_in(listed)
                return names if len(names) <= MOST_ENTRIES else self._cut(names, shown)
            self.warn(f"{shown} is {'a link; not followed' if S_ISLNK(status.st_mode) else 'not a folder'}")
        except FileNotFoundError:
            self.absent = True
        except OSError as error:
            self.absent = True
            self.warn(f"{shown}: {reason(error)}")
        return []

    def _cut(self, names: list[str], shown: str) -> list[str]:
        self.warn(f"{shown}: only {MOST_ENTRIES} of its entries were read")
        return names[:MOST_ENTRIES]

    def may_descend(self, shown: str, depth: int) -> bool:
        """Whether a folder inside another one is to be read; a warning when that would be too deep or too many."""
        self._folders_left -= 1
        if depth > DEEPEST_FOLDER:
            self.warn(f"{shown} is nested too deeply; not read")
        elif self._folders_left == -1:
            self.warn(f"more than {MOST_FOLDERS} folders; the rest is not read")
        return depth <= DEEPEST_FOLDER and self._folders_left >= 0

    def is_text(self, name: str) -> bool:
        """Whether a name can be written as UTF-8; a warning when it cannot."""
        if name.isascii() or printable(name) == name:
            return True
        self.warn(f"{name} is not a name in UTF-8; not read")
        return False
