"""What deleting a cached model, or one revision of it, takes away and leaves: a plan, made from a scan. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vllm_mcp_protocol.errors import RevisionNotFound
from vllm_mcp_protocol.hf.inventory import CachedRepo, CachedRevision
from vllm_mcp_protocol.units import format_bytes

_NAMED = 5

LEFTOVERS = ".deleting"
"""Folder within a repository for snapshots whose deletion has begun; no scan takes it for a revision."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A snapshot that a deletion moved away and did not finish."""

    folder: str
    """Its name within `LEFTOVERS`: `<commit>.<random>`."""
    blobs: Mapping[str, int]
    """Size by name, of those of its blobs that are still there."""
    plain_bytes: int
    """Of its files without a blob."""

    @property
    def commit(self) -> str:
        """The revision that it was."""
        return self.folder.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """What goes and what stays. Names are relative to `path`."""

    repo_id: str
    path: str
    """The repository's folder."""
    commits: tuple[str, ...]
    refs: tuple[tuple[str, str], ...]
    """Name and commit: one that was moved to another commit meanwhile stays."""
    blobs: tuple[str, ...]
    """Unfinished ones too, when the whole repository goes."""
    leftovers: tuple[str, ...]
    """Folders of deletions that were interrupted earlier; they are finished now."""
    whole_repo: bool
    """Nothing stays, and the folder goes, too."""
    freed_bytes: int
    """What the disk gets back, each blob counted once."""
    unfinished_bytes: int
    """Part of `freed_bytes`: downloads that had not ended."""
    kept_bytes: int
    """Of the files that are deleted, what stays because other revisions use it."""
    kept_for: tuple[str, ...]
    """The commits of those revisions."""
    store_bytes: int
    """In contents that repositories of the cache share: freed as far as no other repository uses them."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All that is removed, in order; a crash in between never leaves a revision that looks whole and is not."""
        named = [f"snapshots/{commit}" for commit in self.commits]
        named += [f"refs/{name}" for name, _ in self.refs]
        named += [f"blobs/{name}" for name in self.blobs]
        named += [f"{LEFTOVERS}/{folder}" for folder in self.leftovers]
        return (*named, *(["."] if self.whole_repo else []))

    def in_words(self) -> tuple[str, ...]:
        """What will happen, a sentence a line."""
        what = "the whole repository" if self.whole_repo else f"revision {', '.join(self.commits) or 'leftovers'}"
        lines = [f"{self.repo_id}: deletes {what}, frees {format_bytes(self.freed_bytes)}."]
        if self.unfinished_bytes:
            lines.append(f"{format_bytes(self.unfinished_bytes)} of it are downloads that have not ended.")
        if self.kept_bytes:
            lines.append(f"{format_bytes(self.kept_bytes)} stay: {_some(self.kept_for)} uses the same files.")
        if self.store_bytes:
            shared = format_bytes(self.store_bytes)
            lines.append(f"Up to {shared} more are shared in the cache, freed if no other repository uses them.")
        return tuple(lines)


def _some(commits: Sequence[str]) -> str:
    more = len(commits) - _NAMED
    return ", ".join(commits[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def plan_deletion(
    repo: CachedRepo,
    revision: str | None = None,
    *,
    linked: Collection[str] = (),
    leftovers: Sequence[Leftover] = (),
) -> DeletionPlan:
    """Delete `revision` (branch, tag or commit), or the whole repository when it is None or the last revision.

    `linked` are blobs that are links to contents which the cache's repositories share. `leftovers` of earlier
    deletions are finished in any case. Raises RevisionNotFound.
    """
    commit = None if revision is None else _commit(repo, revision, leftovers)
    going = [one for one in repo.revisions if commit in (None, one.commit)]
    staying = [one for one in repo.revisions if one not in going]
    whole = not staying
    sizes = _blob_sizes(going) | {name: size for left in leftovers for name, size in left.blobs.items()}
    used = _blob_sizes(staying)
    gone = {name: size for name, size in sizes.items() if name not in used}
    unfinished = {blob.name: blob.size_bytes for blob in repo.unfinished} if whole else {}
    plain_bytes = sum(file.size_bytes for one in going for file in one.files if file.blob is None)
    plain_bytes += sum(left.plain_bytes for left in leftovers)
    own_bytes = sum(size for name, size in gone.items() if name not in linked)
    return DeletionPlan(
        repo_id=repo.repo_id,
        path=repo.path,
        commits=tuple(one.commit for one in going),
        refs=tuple((name, at) for name, at in repo.refs if whole or at == commit),
        blobs=(*sorted(gone), *sorted(unfinished)),
        leftovers=tuple(left.folder for left in leftovers),
        whole_repo=whole,
        freed_bytes=own_bytes + plain_bytes + sum(unfinished.values()),
        unfinished_bytes=sum(unfinished.values()),
        kept_bytes=sum(size for name, size in sizes.items() if name in used),
        kept_for=tuple(one.commit for one in staying if any(name in sizes for name in _blob_sizes([one]))),
        store_bytes=sum(size for name, size in gone.items() if name in linked),
    )


def _commit(repo: CachedRepo, revision: str, leftovers: Sequence[Leftover]) -> str:
    """The commit that a name means, also where only a ref or a leftover of it is there."""
    commits = {one.commit for one in repo.revisions} | {left.commit for left in leftovers}
    refs = dict(repo.refs)
    commit = refs.get(revision, revision)
    if commit in commits or commit in refs.values():
        return commit
    known = [*refs, *(one.commit for one in repo.revisions)][:20]
    begun = [left.commit for left in leftovers][:20]
    raise RevisionNotFound(
        f"{repo.repo_id} has no revision {revision[:200]!r} in the cache.",
        model_id=repo.repo_id,
        revision=revision[:200],
        known=known,
        begun=begun,
        suggestion=_suggestion(known, begun),
    )


def _suggestion(known: Sequence[str], begun: Sequence[str]) -> str:
    if begun:
        return f"a deletion of {', '.join(begun)} was interrupted; revision={begun[0]} finishes it"
    if known:
        return f"revision is one of {', '.join(known)}; without it the whole repository is meant"
    return "leave revision out: the whole repository is meant then"


def _blob_sizes(revisions: Sequence[CachedRevision]) -> dict[str, int]:
    return {file.blob: file.size_bytes for one in revisions for file in one.files if file.blob is not None}
