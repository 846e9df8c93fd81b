"""The `blobs` folder of a repository, and what repositories of one cache share."""

import os
import re
from operator import attrgetter
from stat import S_ISLNK, S_ISREG

from vllm_mcp_protocol.hf_inventory import CachedFile, UnfinishedBlob
from vllm_mcp_protocol.hf_scan.notes import Notes
from vllm_mcp_protocol.reading import printable

UNFINISHED = ".incomplete"
LINK = "../../blobs/"
"""How the links at the top of a snapshot begin; each folder further down puts `../` before it."""

_SHARED = re.compile(r"\.\./\.\./blobs/(([0-9a-f]{2})/\2[0-9a-f]{62})")


class SharedBlobs:
    """The contents that repositories of one cache share; for the time of one scan."""

    def __init__(self, cache: str) -> None:
        self._path = f"{cache}/blobs"
        self._straight: dict[str, bool] = {}

    def place(self, link: str) -> str | None:
        """The path of the contents that a blob is a link to; None when it leads elsewhere.

        No part of the way there is a link.
        """
        shared = _SHARED.fullmatch(link)
        return f"{self._path}/{shared[1]}" if shared is not None and self._is_straight(shared[2]) else None

    def _is_straight(self, group: str) -> bool:
        """Whether none of the folders on the way to a group of contents is a link."""
        if group not in self._straight:
            self._straight[group] = not any(map(os.path.islink, (self._path, f"{self._path}/{group}")))
        return self._straight[group]


class Blob:
    """A finished blob."""

    __slots__ = ("file", "name", "size_bytes")

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name, self.size_bytes = name, size_bytes
        self.file: CachedFile | None = None
        """What it was found as last: the revisions of a repository have most of their files in common."""


class Blobs:
    """What lies in one `blobs` folder."""

    __slots__ = ("by_link", "shared", "unfinished")

    def __init__(self) -> None:
        self.by_link: dict[str, Blob] = {}
        """The text of an ordinary link to a finished blob → that blob."""
        self.shared: dict[str, str] = {}
        """Path of shared contents → the name of the blob that links there."""
        self.unfinished: list[UnfinishedBlob] = []

    @property
    def unfinished_bytes(self) -> int:
        return sum([blob.size_bytes for blob in self.unfinished])

    def name_at(self, real: str, home: str) -> str:
        """Name of the blob that is, or would be, at the path `real`; "" when that is no place of one.

        `real` and `home`, the repository's folder, are paths without links.
        """
        if real.startswith(f"{home}/blobs/"):
            return real[len(f"{home}/blobs/") :]
        return next((name for path, name in self.shared.items() if os.path.realpath(path) == real), "")


def read_blobs(repo: str, store: SharedBlobs, notes: Notes) -> Blobs:
    """Names and sizes; one `lstat` for each."""
    blobs, newest_s = Blobs(), notes.newest_s
    top, by_link = f"{repo}/blobs/", blobs.by_link
    for name in notes.enter(f"{repo}/blobs", "blobs"):
        try:
            status = os.lstat(top + name)
        except OSError:
            continue  # renamed or deleted since it was listed
        if not S_ISREG(status.st_mode):
            shared = _shared(top, name, status, store, notes)
            if shared is None:
                continue
            blobs.shared[shared] = name
            try:
                status = os.lstat(shared)
            except OSError:
                notes.mark_absent(shared)
                continue
            if not S_ISREG(status.st_mode):
                continue
            notes.mark(shared, status)
        if status.st_mtime > newest_s:
            newest_s = status.st_mtime
        if name.endswith(UNFINISHED):
            blobs.unfinished.append(UnfinishedBlob(printable(name), status.st_size))
        else:
            by_link[LINK + name] = Blob(name, status.st_size)
    notes.newest_s = newest_s
    blobs.unfinished.sort(key=attrgetter("name"))
    return blobs


def _shared(top: str, name: str, status: os.stat_result, store: SharedBlobs, notes: Notes) -> str | None:
    """Path of the shared contents that a blob is a link to, as good as a file; nothing else but a file is a blob."""
    if not S_ISLNK(status.st_mode):
        notes.warn(f"blobs/{name} is not a file")
        return None
    try:
        path = store.place(os.readlink(top + name))
    except OSError:
        return None  # gone: the snapshot's link to it is a missing file
    if path is None:
        notes.warn(f"blobs/{name} is a link out of the cache; not followed")
    return path
