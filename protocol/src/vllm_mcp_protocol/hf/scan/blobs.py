"""The `blobs` folder of a repository, and what repositories of one cache share."""

import os
import re
from operator import attrgetter
from stat import S_ISLNK, S_ISREG

from vllm_mcp_protocol.hf.inventory import CachedFile, UnfinishedBlob
from vllm_mcp_protocol.hf.scan.notes import Mark, Notes, hold
from vllm_mcp_protocol.hf.scan.opened import OpenCache
from vllm_mcp_protocol.reading import printable

UNFINISHED = ".incomplete"
LINK = "../../blobs/"
"""How the links at the top of a snapshot begin; each folder further down puts `../` before it."""

_SHARED = re.compile(r"\.\./\.\./(blobs/([0-9a-f]{2}))/\2[0-9a-f]{62}")


class SharedBlobs:
    """The contents that repositories of one cache share; for the time of one scan."""

    def __init__(self, cache: OpenCache) -> None:
        self.cache = cache
        self._is_link = os.path.islink(cache.whole("blobs"))
        self._groups: dict[str, Mark | None] = {}
        """The mark of each folder of contents; None when it or the folder around it is a link."""
        self._holding: dict[Mark, bool] = {}

    def place(self, link: str) -> tuple[str, Mark] | None:
        """Path of the contents that a blob is a link to, and the mark of their folder; None when it leads elsewhere.

        No part of the way there is a link.
        """
        shared = _SHARED.fullmatch(link)
        if shared is None:
            return None
        folder = shared[1]
        if folder not in self._groups:
            self._groups[folder] = None if self._is_link else _mark(folder, self.cache)
        group = self._groups[folder]
        return (link.removeprefix("../../"), group) if group is not None else None

    def hold(self, marks: tuple[Mark, ...]) -> bool:
        """Whether the folders still look as they did; each is looked at once in a scan, many repositories name it."""
        for mark in marks:
            if mark not in self._holding:
                self._holding[mark] = hold((mark,), self.cache)
        return all([self._holding[mark] for mark in marks])


class Blob:
    """A finished blob."""

    __slots__ = ("file", "found_as", "name", "size_bytes")

    file: CachedFile
    """What it was found as last, if it was: the revisions of a repository have most of their files in common."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name, self.size_bytes = name, size_bytes
        self.found_as = ""
        """The name of `file`; "" while there is none."""


class Blobs:
    """What lies in one `blobs` folder."""

    __slots__ = ("by_link", "groups", "shared", "unfinished")

    def __init__(self) -> None:
        self.by_link: dict[str, Blob] = {}
        """The text of an ordinary link to a finished blob → that blob."""
        self.shared: dict[str, str] = {}
        """Path of shared contents → the name of the blob that links there."""
        self.groups: dict[str, Mark] = {}
        """Of the folders that have the shared contents, by path."""
        self.unfinished: list[UnfinishedBlob] = []

    @property
    def unfinished_bytes(self) -> int:
        return sum([blob.size_bytes for blob in self.unfinished])

    def name_at(self, real: str, home: str, cache: OpenCache) -> str:
        """Name of the blob that is, or would be, at the path `real`; "" when that is no place of one.

        `real` and `home`, the repository's folder, are paths without links.
        """
        if real.startswith(f"{home}/blobs/"):
            return real[len(f"{home}/blobs/") :]
        return next((name for path, name in self.shared.items() if os.path.realpath(cache.whole(path)) == real), "")


def read_blobs(repo: str, store: SharedBlobs, notes: Notes) -> Blobs:
    """Names and sizes; one `lstat` for each."""
    blobs, newest_s = Blobs(), notes.newest_s
    top, handle, lstat, by_link = f"{repo}/blobs/", notes.cache.handle, os.lstat, blobs.by_link
    for name in notes.enter(f"{repo}/blobs", "blobs"):
        try:
            status = lstat(top + name, dir_fd=handle)
        except OSError:
            continue  # renamed or deleted since it was listed
        if not S_ISREG(status.st_mode):
            shared = _shared(top + name, name, status, store, notes)
            if shared is None:
                continue
            path, mark = shared
            blobs.shared[path] = name
            blobs.groups[mark[0]] = mark
            try:
                status = lstat(path, dir_fd=handle)
            except OSError:
                continue  # the snapshot's link to it is a missing file
            if not S_ISREG(status.st_mode):
                continue
        if status.st_mtime > newest_s:
            newest_s = status.st_mtime
        if name.endswith(UNFINISHED):
            blobs.unfinished.append(UnfinishedBlob(printable(name), status.st_size))
        else:
            by_link[LINK + name] = Blob(name, status.st_size)
    notes.newest_s = newest_s
    blobs.unfinished.sort(key=attrgetter("name"))
    return blobs


def _mark(path: str, cache: OpenCache) -> Mark | None:
    """The mark of a folder; one that never holds while there is nothing, None for a link."""
    try:
        status = os.lstat(path, dir_fd=cache.handle)
    except OSError:
        return (path, 0, 0, 0)
    if S_ISLNK(status.st_mode):
        return None
    return (path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _shared(path: str, name: str, status: os.stat_result, store: SharedBlobs, notes: Notes) -> tuple[str, Mark] | None:
    """Where the shared contents are that a blob is a link to, as good as a file; nothing else but a file is a blob."""
    if not S_ISLNK(status.st_mode):
        notes.warn(f"blobs/{name} is not a file")
        return None
    try:
        place = store.place(os.readlink(path, dir_fd=store.cache.handle))
    except OSError:
        return None  # gone since it was listed
    if place is None:
        notes.warn(f"blobs/{name} is a link out of the cache; not followed")
    return place
