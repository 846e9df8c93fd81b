"""Reads one repository of a Hugging Face cache: names, sizes and links, and of the contents only the refs.

    models--org--name/blobs/<hash>                    the contents; <hash>[.<random>].incomplete while downloading
    models--org--name/refs/main                       the commit that a branch or tag is at
    models--org--name/snapshots/<commit>/<file>       links into blobs, or plain files
    blobs/<2 digits>/<hash>                           contents that repositories share: links of their blobs lead here
                                                      (huggingface_hub 1.33, utils/_shared_blobs.py)

No link is followed out of the repository, but for the shared contents. A damaged entry becomes a warning.
"""

import os
from typing import NamedTuple

from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.hf.scan.blobs import Blobs, SharedBlobs, read_blobs
from vllm_mcp_protocol.hf.scan.notes import Mark, Notes
from vllm_mcp_protocol.hf.scan.refs import read_refs
from vllm_mcp_protocol.hf.scan.snapshots import Snapshot, read_snapshots
from vllm_mcp_protocol.units import format_bytes


class RepoReading(NamedTuple):
    """A repository, and the marks that hold for as long as reading it again would give the same."""

    repo: CachedRepo
    marks: tuple[Mark, ...]
    shared: tuple[Mark, ...]
    """Of folders outside of it, which change for other repositories too."""


def read_repo(name: str, repo_id: str, kind: str, store: SharedBlobs) -> RepoReading:
    """The repository in the cache's folder `name`, which is no link. Never raises for what lies on disk."""
    notes = Notes(store.cache)
    blobs = read_blobs(name, store, notes)
    refs = read_refs(name, notes)
    snapshots = read_snapshots(name, blobs, dict(refs).get("main"), notes)
    _judge(blobs, refs, snapshots, notes)
    if notes.absent or not notes.newest_s:
        _note_folder(name, notes)
    repo = CachedRepo(
        repo_id=repo_id,
        kind=kind,
        path=store.cache.whole(name),
        revisions=tuple([snapshot.revision(refs) for snapshot in snapshots]),
        refs=tuple(refs),
        unfinished=tuple(blobs.unfinished),
        size_bytes=_used_bytes(snapshots) + blobs.unfinished_bytes,
        last_modified_s=notes.newest_s,
        warnings=tuple(notes.warnings),
    )
    return RepoReading(repo, tuple(notes.marks), tuple(blobs.groups.values()))


def _judge(blobs: Blobs, refs: list[tuple[str, str]], snapshots: list[Snapshot], notes: Notes) -> None:
    """Warn of what is wrong with the repository as a whole."""
    if not snapshots:
        left_bytes = blobs.unfinished_bytes
        notes.warnings.insert(0, "no snapshot" + (f", {format_bytes(left_bytes)} downloaded" if left_bytes else ""))
        return
    commits = [snapshot.commit for snapshot in snapshots]
    for name, commit in refs:
        if commit not in commits:
            notes.warn(f"refs/{name} is at {commit}, whose snapshot is not there")


def _note_folder(name: str, notes: Notes) -> None:
    """Mark the repository's own folder: one that is missing in it may come. Without files its time is the newest."""
    try:
        status = os.lstat(name, dir_fd=notes.cache.handle)
    except OSError:
        return
    notes.mark(name, status)
    notes.newest_s = notes.newest_s or status.st_mtime


def _used_bytes(snapshots: list[Snapshot]) -> int:
    """Of all files, each blob once."""
    used = snapshots[0].used if snapshots else {}
    for snapshot in snapshots[1:]:
        used = used | snapshot.used
    return sum(used.values())
