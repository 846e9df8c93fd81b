"""The `snapshots` folder of a repository: a folder for each revision, with links into `blobs`."""

import os
from operator import attrgetter
from stat import S_ISDIR, S_ISREG
from sys import intern

from vllm_mcp_protocol.hf.inventory import CachedFile, CachedRevision, new_file
from vllm_mcp_protocol.hf.scan.blobs import LINK, Blob, Blobs
from vllm_mcp_protocol.hf.scan.notes import Notes
from vllm_mcp_protocol.hf.scan.refs import LITTER, is_commit
from vllm_mcp_protocol.reading import reason

_by_name = attrgetter("name")


class Snapshot:
    """One revision and its files as they are found."""

    __slots__ = ("changed_ns", "commit", "files", "inside", "missing", "path", "used")

    def __init__(self, path: str, inside: str, commit: str) -> None:
        self.path, self.commit = path, commit
        self.inside = inside
        """Its path below the cache."""
        self.changed_ns = 0
        self.files: list[CachedFile] = []
        self.missing: list[str] = []
        self.used: dict[str, int] = {}
        """Size of each blob, and of each plain file by its path."""

    def revision(self, refs: list[tuple[str, str]]) -> CachedRevision:
        refs_here = tuple([name for name, commit in refs if commit == self.commit])
        self.files.sort(key=_by_name)
        files, missing, size_bytes = tuple(self.files), tuple(sorted(self.missing)), sum(self.used.values())
        return CachedRevision(self.commit, self.path, refs_here, files, missing, size_bytes)


def read_snapshots(repo: str, blobs: Blobs, main: str | None, notes: Notes) -> list[Snapshot]:
    """Every snapshot, that of the commit `main` first, then the newest."""
    reader = _Reader(repo, blobs, notes)
    found = []
    for name in notes.enter(f"{repo}/snapshots", "snapshots"):
        if name in LITTER:
            continue
        if not is_commit(name):
            notes.warn(f"snapshots/{name} is not the name of a commit")
        elif (snapshot := reader.read(name)) is not None:
            found.append(snapshot)
    if len(found) > 1:
        found.sort(key=lambda snapshot: (snapshot.commit != main, -snapshot.changed_ns, snapshot.commit))
    return found


class _Reader:
    """Reads the snapshots of one repository."""

    __slots__ = ("_blobs", "_notes", "_repo")

    def __init__(self, repo: str, blobs: Blobs, notes: Notes) -> None:
        self._repo, self._blobs, self._notes = repo, blobs, notes

    def read(self, commit: str) -> Snapshot | None:
        """The snapshot; None, with a warning unless it has just been deleted, when it cannot be read."""
        notes = self._notes
        inside = f"{self._repo}/snapshots/{commit}"
        snapshot = Snapshot(notes.cache.whole(inside), inside, intern(commit))
        marked, warned = len(notes.marks), len(notes.warnings)
        names = notes.enter(inside, f"snapshots/{commit}")
        if len(notes.marks) == marked or (not names and len(notes.warnings) > warned):
            return None
        snapshot.changed_ns = notes.marks[marked][2]
        waiting = self._add(snapshot, names, self._blobs.by_link)
        depth = 0
        while waiting:
            depth += 1
            climb = "../" * depth
            by_link = {climb + text: blob for text, blob in self._blobs.by_link.items()}
            waiting = [
                deeper
                for inside in waiting
                if notes.may_descend(inside, depth)
                for deeper in self._add(snapshot, self._inside(snapshot, inside), by_link)
            ]
        return snapshot

    def _inside(self, snapshot: Snapshot, folder: str) -> list[str]:
        return [f"{folder}/{name}" for name in self._notes.enter(f"{snapshot.inside}/{folder}", folder)]

    def _add(self, snapshot: Snapshot, names: list[str], by_link: dict[str, Blob]) -> list[str]:
        """Add the files of one folder of the snapshot; the names of the folders in it.

        The hot loop of a scan. An ordinary link is judged by its text alone: the name behind `blobs/` was listed
        there, so it leads to that blob and nowhere else, and resolving it would double the time.
        """
        folders = []
        top, handle = f"{snapshot.inside}/", self._notes.cache.handle
        readlink, find, used, add = os.readlink, by_link.get, snapshot.used, snapshot.files.append
        for name in names:
            try:
                blob = find(readlink(top + name, dir_fd=handle))
            except OSError:
                if self._is_folder(snapshot, name):
                    folders.append(name)
                continue
            if blob is None:
                self._add_link(snapshot, name)
                continue
            if blob.found_as != name:  # else it is in another revision too
                if not (name.isascii() or self._notes.is_text(name)):
                    continue
                blob.found_as = intern(name)
                blob.file = new_file((blob.found_as, blob.size_bytes, blob.name))
            used[blob.name] = blob.size_bytes
            add(blob.file)
        return folders

    def _is_folder(self, snapshot: Snapshot, name: str) -> bool:
        """Whether this is a folder; a plain file is added, anything else is a warning."""
        path = f"{snapshot.path}/{name}"
        try:
            status = os.lstat(path)
        except OSError as error:
            self._notes.warn(f"{name}: {reason(error)}")
            return False
        if not self._notes.is_text(name):
            return False
        if S_ISREG(status.st_mode):
            self._add_plain(snapshot, path, name, status)
        elif not S_ISDIR(status.st_mode):
            self._notes.warn(f"{name} is not a file")
        return S_ISDIR(status.st_mode)

    def _add_link(self, snapshot: Snapshot, name: str) -> None:
        """A link that is absolute, leads over another link, to nowhere or out of the repository: step by step."""
        if not self._notes.is_text(name):
            return
        cache = self._notes.cache
        real, home = os.path.realpath(f"{snapshot.path}/{name}"), os.path.realpath(cache.whole(self._repo))
        blob_name = self._blobs.name_at(real, home, cache)
        blob = self._blobs.by_link.get(LINK + blob_name)
        if blob is not None:
            snapshot.used[blob.name] = blob.size_bytes
            snapshot.files.append(CachedFile(intern(name), blob.size_bytes, blob.name))
        elif not blob_name and not real.startswith(f"{home}/"):
            self._notes.warn(f"{name} is a link out of the cache; not followed")
        elif os.path.isdir(real):
            self._notes.warn(f"{name} is a link to a folder; not followed")
        elif not blob_name and os.path.isfile(real):
            self._add_plain(snapshot, real, name, os.lstat(real))
        else:
            snapshot.missing.append(name)
            self._notes.warn(f"{name} is missing: its blob is not there")

    def _add_plain(self, snapshot: Snapshot, path: str, name: str, status: os.stat_result) -> None:
        """A file without a blob may be written in place, so it is marked itself."""
        self._notes.mark(path, status)
        self._notes.newest_s = max(self._notes.newest_s, status.st_mtime)
        snapshot.used[path] = status.st_size
        snapshot.files.append(CachedFile(intern(name), status.st_size, None))
