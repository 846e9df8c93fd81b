"""What lies in Hugging Face caches, by names and sizes alone: repositories, revisions, files, unfinished downloads.

What a scan makes by the thousand is a tuple: it takes half the time of a frozen dataclass to make and to compare.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple


class CachedFile(NamedTuple):
    """A file of one revision."""

    name: str
    """Path within the snapshot, with slashes: `config.json`, `onnx/model.onnx`."""
    size_bytes: int
    blob: str | None
    """File name of its blob in the repository's `blobs` folder; None for a plain file without a link."""


new_file = partial(tuple.__new__, CachedFile)
"""A `CachedFile` of the tuple of its fields: a cache has thousands, and this takes a third of the time of the call."""


class CachedRevision(NamedTuple):
    """A snapshot folder."""

    commit: str
    path: str
    refs: tuple[str, ...]
    """Branches, tags and `pr/…` that are at this commit, sorted."""
    files: tuple[CachedFile, ...]
    """Files that are there, by name."""
    missing: tuple[str, ...]
    """Names whose blob is not there (a link that leads nowhere), by name."""
    size_bytes: int
    """Of its files, each blob once."""

    def path_of(self, file: CachedFile) -> str:
        """Where the content of one of its files lies: its blob, or the file itself."""
        if file.blob is None:
            return f"{self.path}/{file.name}"
        return f"{self.path.rpartition('/snapshots/')[0]}/blobs/{file.blob}"


class UnfinishedBlob(NamedTuple):
    """What a download has fetched of one file so far."""

    name: str
    """Name of the file in `blobs`, ending in `.incomplete`."""
    size_bytes: int


class CachedRepo(NamedTuple):
    """A repository folder, `models--org--name`."""

    repo_id: str
    """`org/name`."""
    kind: str
    """`model`, `dataset` or `space`."""
    path: str
    revisions: tuple[CachedRevision, ...]
    """The one that `main` names first, then the others, newest first."""
    refs: tuple[tuple[str, str], ...]
    """Name and commit, also of refs whose snapshot is not there."""
    unfinished: tuple[UnfinishedBlob, ...]
    size_bytes: int
    """All that it takes on disk: files of all revisions with each blob once, and unfinished blobs."""
    last_modified_s: float
    """Wall clock of the newest change of a file, unix seconds."""
    warnings: tuple[str, ...]
    """What is wrong in it, without its name."""

    def revision(self, name: str | None = None) -> CachedRevision | None:
        """The snapshot that a branch, tag or commit names; without a name `main`'s, else the newest."""
        if name is None:
            return self.revisions[0] if self.revisions else None
        commit = dict(self.refs).get(name, name)
        return next((revision for revision in self.revisions if revision.commit == commit), None)


@dataclass(frozen=True, slots=True)
class PlainModel:
    """A folder with a model that is not in the cache layout: files of a user's own."""

    path: str
    files: tuple[CachedFile, ...]
    size_bytes: int
    warnings: tuple[str, ...]
    """What is wrong in it, without its path."""

    def path_of(self, file: CachedFile) -> str:
        """Where the content of one of its files lies."""
        return f"{self.path}/{file.name}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that was found, repositories by id, and what could not be read."""

    repos: tuple[CachedRepo, ...]
    folders: tuple[PlainModel, ...]
    warnings: tuple[str, ...]
    """About what is neither in `repos` nor in `folders`; those hold their own."""

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Every warning, each with the name of the repository or the path that it is about."""
        about = [f"{repo.repo_id}: {text}" for repo in self.repos for text in repo.warnings]
        about += [f"{folder.path}: {text}" for folder in self.folders for text in folder.warnings]
        return (*self.warnings, *about)
