"""Carries out the plan to delete a cached model. Confined to the repository's folder; no link in it is followed.

The order is the plan's: the snapshots are moved into `.deleting`, where no scan takes them for revisions; then refs go,
then the blobs that nobody uses any more, then what was moved. So a revision is either whole or not to be seen, whenever
the process dies; and what was moved still names its blobs, so that the next deletion in the repository finishes the
work. Everything is opened relative to its folder's descriptor: a link put there meanwhile is not followed either.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vllm_auto_discovery.core.deletion import LEFTOVERS, DeletionPlan, Leftover, plan_deletion
from vllm_mcp_protocol.errors import PathNotAllowed
from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.hf.scanner import InventoryScanner
from vllm_mcp_protocol.reading import MOST_ENTRIES, printable, reason

_REPO_FOLDER = re.compile(r"(models|datasets|spaces)--[^/\0]+")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = (errno.ELOOP, errno.ENOTDIR)
"""What opening a link as a folder gives."""
_DEEPEST_FOLDER = 32
_REF_LIMIT_BYTES = 1024
MOST_SENTENCES = 20


class Files:
    """The changes that a deletion makes; tests let the n-th fail. Names are relative to the open folder `at`."""

    def unlink(self, name: str, at: int) -> None:
        os.unlink(name, dir_fd=at)

    def rmdir(self, name: str, at: int) -> None:
        os.rmdir(name, dir_fd=at)

    def mkdir(self, name: str, at: int) -> None:
        os.mkdir(name, 0o700, dir_fd=at)

    def rename(self, name: str, at: int, new_name: str, new_at: int) -> None:
        os.rename(name, new_name, src_dir_fd=at, dst_dir_fd=new_at)

    def unlink_shared(self, path: Path, cache_root: Path) -> int:
        """Remove a blob that is a link to shared contents, and the contents when it was the last; bytes freed."""
        return _unlink_shared(path, cache_root)


@dataclass(slots=True)
class Deletion:
    """What was done."""

    freed_bytes: int = 0
    """Without the refs' 40 bytes each, as huggingface_hub counts."""
    removed_files: int = 0
    left: list[str] = field(default_factory=list)
    """What could not be removed, and why, in sentences; at most `MOST_SENTENCES`."""
    kept: list[str] = field(default_factory=list)
    """What was not removed because it came into use after the plan was made, in sentences."""

    @property
    def complete(self) -> bool:
        """Did everything go that was planned?"""
        return not self.left


def prepare(repo: CachedRepo, revision: str | None = None) -> DeletionPlan:
    """The plan for a repository as it lies on disk (see `plan_deletion`). Changes nothing. Raises RevisionNotFound."""
    return plan_deletion(repo, revision, linked=_linked_blobs(repo), leftovers=tuple(_leftovers(repo)))


def execute(plan: DeletionPlan, cache_root: Path, *, files: Files | None = None) -> Deletion:
    """Carry out `plan` in the cache at `cache_root`. Blocks; call it in a thread.

    What is gone already is no error, so the same plan may be carried out again. What others began to use since the
    plan was made stays. Raises PathNotAllowed, before anything is changed, when the plan's folder is not a
    repository directly in the cache, or is a link.
    """
    deletion = Deletion()
    with _opened_repo(plan, cache_root) as opened:
        if opened is not None:
            _Execution(plan, cache_root, *opened, files or Files(), deletion).run()
    return deletion


@contextmanager
def _opened_repo(plan: DeletionPlan, cache_root: Path) -> Iterator[tuple[int, int] | None]:
    """The cache's and the repository's folder, open; None when the repository is not there any more."""
    parent, name = os.path.split(plan.path)
    if not _REPO_FOLDER.fullmatch(name) or os.path.realpath(parent) != os.path.realpath(cache_root):
        raise _refused(plan, f"it is not the folder of a repository in the cache {cache_root}")
    if not all(map(_is_name, (*plan.commits, *plan.blobs))):
        raise _refused(plan, "the plan holds names that lead out of it")
    opened: list[int] = []
    try:
        try:
            opened.append(os.open(cache_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            opened.append(os.open(name, _FOLDER, dir_fd=opened[0]))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _refused(plan, "it is a link or a file" if error.errno in _LINKS else reason(error)) from error
        yield (opened[0], opened[1]) if len(opened) == 2 else None
    finally:
        for handle in opened:
            os.close(handle)


def _is_name(name: str) -> bool:
    """Does it name something in a folder, and nothing elsewhere?"""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _refused(plan: DeletionPlan, why: str) -> PathNotAllowed:
    return PathNotAllowed(
        f"{printable(plan.path)} is not deleted: {why}.",
        path=printable(plan.path),
        suggestion="a link or a folder elsewhere is deleted by its owner, with rm",
    )


@dataclass(slots=True)
class _Execution:
    """One carrying out."""

    plan: DeletionPlan
    cache_root: Path
    root: int
    repo: int
    files: Files
    done: Deletion

    def run(self) -> None:
        if not self._move_snapshots():
            return  # a revision that is still to be seen needs its blobs
        refs_gone = all([self._remove_ref(name, commit) for name, commit in self.plan.refs])
        now = InventoryScanner().scan_repo(Path(self.plan.path))
        if now is None or not self._remove_blobs({file.blob for one in now.revisions for file in one.files}):
            return  # what was moved tells the next deletion which blobs are left
        if not refs_gone:
            return
        if self.plan.whole_repo and self._nobody_came(now):
            self._remove_tree(os.path.basename(self.plan.path), self.root, self.plan.repo_id)
        else:
            self._remove_tree(LEFTOVERS, self.repo, LEFTOVERS)

    def _nobody_came(self, now: CachedRepo) -> bool:
        """Is there still nothing but what the plan knew?"""
        came = {one.commit for one in now.revisions} | {name for name, _ in now.refs}
        came |= {blob.name for blob in now.unfinished} - set(self.plan.blobs)
        if came:
            self.done.kept.append(f"The folder stays: {', '.join(sorted(came)[:3])} came after the plan was made.")
        return not came

    def _remove_ref(self, name: str, commit: str) -> bool:
        *folders, base = ("refs", *name.split("/"))
        try:
            with self._walked(folders) as at:
                # A branch that a download moved to another commit meanwhile is not ours any more.
                if _content(base, at) == commit:
                    self.files.unlink(base, at)
        except FileNotFoundError:
            return True
        except OSError as error:
            return self._failed(f"refs/{name}", error)
        return True

    def _move_snapshots(self) -> bool:
        try:
            if self.plan.commits:
                self.files.mkdir(LEFTOVERS, self.repo)
        except FileExistsError:
            pass
        except OSError as error:
            return self._failed(LEFTOVERS, error)
        return all([self._move_snapshot(commit) for commit in self.plan.commits])

    def _move_snapshot(self, commit: str) -> bool:
        try:
            with self._walked(["snapshots"]) as snapshots, self._walked([LEFTOVERS]) as leftovers:
                self.files.rename(commit, snapshots, f"{commit}.{secrets.token_hex(4)}", leftovers)
        except FileNotFoundError:
            return True
        except OSError as error:
            return self._failed(f"snapshots/{commit}", error)
        return True

    def _remove_blobs(self, used: set[str | None]) -> bool:
        for name in sorted(used.intersection(self.plan.blobs), key=str):
            self.done.kept.append(f"blobs/{name} stays: another revision came to use it.")
        try:
            with self._walked(["blobs"]) as blobs:
                return all([self._remove_blob(name, blobs) for name in self.plan.blobs if name not in used])
        except FileNotFoundError:
            return True
        except OSError as error:
            return self._failed("blobs", error)

    def _remove_blob(self, name: str, blobs: int) -> bool:
        try:
            if stat.S_ISLNK(os.stat(name, dir_fd=blobs, follow_symlinks=False).st_mode):
                path = Path(self.plan.path, "blobs", name)
                self.done.freed_bytes += self.files.unlink_shared(path, self.cache_root)
                self.done.removed_files += 1
            else:
                self._unlink(name, blobs)
        except FileNotFoundError:
            return True
        except OSError as error:
            return self._failed(f"blobs/{name}", error)
        return True

    def _unlink(self, name: str, at: int) -> None:
        """Remove a file and count what that frees: nothing, where the file has another name."""
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
            self.files.unlink(name, at)
            self.done.removed_files += 1
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                self.done.freed_bytes += status.st_size

    def _remove_tree(self, name: str, at: int, shown: str, depth: int = 0) -> bool:
        """Remove `name` with all that is in it. Links in it are removed, never followed."""
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                self._unlink(name, at)
            elif depth > _DEEPEST_FOLDER:
                raise OSError(errno.ENAMETOOLONG, "nested too deeply")
            elif self._empty(name, at, shown, depth):
                self.files.rmdir(name, at)
            else:
                return False
        except FileNotFoundError:
            return True
        except OSError as error:
            return self._failed(shown, error)
        return True

    def _empty(self, name: str, at: int, shown: str, depth: int) -> bool:
        folder = os.open(name, _FOLDER, dir_fd=at)
        try:
            return all(
                [self._remove_tree(inner, folder, f"{shown}/{inner}", depth + 1) for inner in os.listdir(folder)]
            )
        finally:
            os.close(folder)

    @contextmanager
    def _walked(self, names: list[str]) -> Iterator[int]:
        """The open folder at `names`. Raises OSError when it is not there, or a part of the way is a link."""
        opened = [self.repo]
        try:
            for name in names:
                if not _is_name(name):
                    raise OSError(errno.EINVAL, "its name leads out of the repository")
                opened.append(os.open(name, _FOLDER, dir_fd=opened[-1]))
            yield opened[-1]
        finally:
            for handle in opened[1:]:
                os.close(handle)

    def _failed(self, shown: str, error: OSError) -> bool:
        """Say it; always False."""
        why = "a part of its path is a link or a file" if error.errno in _LINKS else reason(error)
        if len(self.done.left) < MOST_SENTENCES:
            self.done.left.append(f"{printable(shown)} could not be deleted: {why}.")
        return False


def _content(name: str, at: int) -> str:
    """Text of a ref. Raises OSError."""
    handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    with os.fdopen(handle, "rb") as file:
        return file.read(_REF_LIMIT_BYTES).decode(errors="replace").strip()


def _linked_blobs(repo: CachedRepo) -> frozenset[str]:
    """Blobs that are links to contents which the cache's repositories share."""
    try:
        with os.scandir(f"{repo.path}/blobs") as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return frozenset()


def _leftovers(repo: CachedRepo) -> Iterator[Leftover]:
    """What interrupted deletions left in the repository."""
    folder = f"{repo.path}/{LEFTOVERS}"
    if os.path.islink(folder):
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        yield _leftover(repo, name)


def _leftover(repo: CachedRepo, name: str) -> Leftover:
    blobs: dict[str, int] = {}
    plain_bytes, home = 0, os.path.realpath(f"{repo.path}/blobs")
    for path in islice(_files_below(f"{repo.path}/{LEFTOVERS}/{name}"), MOST_ENTRIES):
        with suppress(OSError):
            if not os.path.islink(path):
                plain_bytes += os.lstat(path).st_size
                continue
            hop = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(path)), os.readlink(path)))
            if os.path.dirname(hop) == home:
                blobs[os.path.basename(hop)] = os.stat(hop).st_size
    return Leftover(name, blobs, plain_bytes)


def _files_below(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (f"{parent}/{name}" for name in names)


def _unlink_shared(path: Path, cache_root: Path) -> int:
    """huggingface_hub keeps account of who uses shared contents; only it may remove them."""
    from huggingface_hub import DeleteCacheStrategy

    target = Path(os.path.realpath(path))
    size_bytes = target.stat().st_size if target.exists() else 0
    none: frozenset[Path] = frozenset()
    try:
        strategy = DeleteCacheStrategy(
            expected_freed_size=0,
            blobs=frozenset({path}),
            refs=none,
            repos=none,
            snapshots=none,
            cache_dir=cache_root,
        )
    except TypeError:  # a release before shared contents: it would not count them
        path.unlink(missing_ok=True)
        return 0
    strategy.execute()
    if path.is_symlink():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return 0 if target.exists() else size_bytes
