"""Reads the files of a cached revision and compares them with their checksums. Changes nothing."""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vllm_auto_discovery.core.verification import (
    ExpectedFile,
    FileCheck,
    Verification,
    algorithm_of,
    expected_checksum,
    judge_checksum,
    judge_size,
    missing_files,
)
from vllm_mcp_protocol.errors import RevisionNotFound
from vllm_mcp_protocol.hf.inventory import CachedFile, CachedRepo, CachedRevision
from vllm_mcp_protocol.reading import reason
from vllm_mcp_protocol.units import MIB

CHUNK_BYTES = 4 * MIB
"""Read at once: SHA-256 does it in 3 ms with the CPU's instructions, so a cancellation is heeded at once."""

OnProgress = Callable[[int, int, str], None]
"""Bytes read, bytes in all, and the name of the file that is read; called from the reading thread."""


class _Cancelled(Exception):
    pass


def verify(
    repo: CachedRepo,
    revision: str | None = None,
    *,
    expected: Mapping[str, ExpectedFile] | None = None,
    on_progress: OnProgress = lambda _done, _total, _name: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Verification:
    """Check every file of a revision (branch, tag or commit; without one `main`'s, else the newest). Blocks.

    `expected` is what the Hub lists, by name, where it was asked: then files that were never downloaded are missing,
    and plain files have a checksum, too. Raises RevisionNotFound. What is damaged or cannot be read is a finding.
    """
    found = repo.revision(revision)
    if found is None:
        raise _no_revision(repo, revision)
    return _Check(repo, found, expected or {}, on_progress, is_cancelled).run()


async def verify_in_thread(
    repo: CachedRepo,
    revision: str | None = None,
    *,
    expected: Mapping[str, ExpectedFile] | None = None,
    on_progress: OnProgress = lambda _done, _total, _name: None,
) -> Verification:
    """`verify` in a thread, which ends soon after a cancellation."""
    import anyio.to_thread

    stop = threading.Event()
    work = partial(verify, repo, revision, expected=expected, on_progress=on_progress, is_cancelled=stop.is_set)
    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    finally:
        stop.set()


def _no_revision(repo: CachedRepo, revision: str | None) -> RevisionNotFound:
    known = [*dict(repo.refs), *(one.commit for one in repo.revisions)][:20]
    asked = "no revision" if revision is None else f"no revision {revision[:200]!r}"
    return RevisionNotFound(
        f"{repo.repo_id} has {asked} in the cache.",
        model_id=repo.repo_id,
        revision=None if revision is None else revision[:200],
        known=known,
        suggestion=f"revision is one of {', '.join(known)}" if repo.revisions else "download-model fetches it",
    )


@dataclass(slots=True)
class _Check:
    """One checking."""

    repo: CachedRepo
    revision: CachedRevision
    told: Mapping[str, ExpectedFile]
    on_progress: OnProgress
    is_cancelled: Callable[[], bool]
    read_bytes: int = 0
    done_bytes: int = 0
    """Read, or passed over; what progress tells."""
    total_bytes: int = 0
    checksums: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of contents that were read, by path and algorithm: a blob with two names is read once."""

    def run(self) -> Verification:
        self.total_bytes = self.revision.size_bytes
        checks, cancelled = [], False
        try:
            for file in self.revision.files:
                checks.append(self._check(file))
        except _Cancelled:
            cancelled = True
        here = {file.name for file in self.revision.files}
        checks += missing_files(self.revision.missing, here, self.told)
        return Verification(
            repo_id=self.repo.repo_id,
            commit=self.revision.commit,
            files=tuple(sorted(checks, key=lambda check: check.name)),
            unfinished=self.repo.unfinished,
            read_bytes=self.read_bytes,
            cancelled=cancelled,
        )

    def _check(self, file: CachedFile) -> FileCheck:
        told = self.told.get(file.name)
        try:
            path = self._confined(file)
            with _opened(path) as (handle, size_bytes):
                if (wrong := judge_size(file.name, size_bytes, told)) is not None:
                    return wrong
                checksum = expected_checksum(file.blob, told)
                if checksum is None:
                    return self._structure(file, path, size_bytes)
                actual = self._checksum(handle, size_bytes, path, checksum, file.name)
                return judge_checksum(file.name, size_bytes, checksum, actual)
        except FileNotFoundError:
            return FileCheck(file.name, "missing", detail="it was deleted since the scan")
        except (OSError, ValueError) as error:
            return FileCheck(file.name, "unreadable", detail=f"it cannot be read: {reason(error)}")

    def _confined(self, file: CachedFile) -> str:
        """Where its content is: in the repository, or in the contents that the cache's repositories share.

        Raises ValueError when it is elsewhere.
        """
        real = os.path.realpath(self.revision.path_of(file))
        home = os.path.realpath(self.repo.path)
        shared = f"{os.path.dirname(home)}/blobs"
        if real.startswith((f"{home}/", f"{shared}/")):
            return real
        raise ValueError("it is a link out of the cache; not followed")

    def _structure(self, file: CachedFile, path: str, size_bytes: int) -> FileCheck:
        """Without a checksum: does the header of a weight file fit the file?"""
        from vllm_mcp_protocol.weights.files import read_gguf, read_safetensors
        from vllm_mcp_protocol.weights.headers import BadHeader

        readers = {".safetensors": read_safetensors, ".gguf": read_gguf}
        read = readers.get(os.path.splitext(file.name)[1])
        self._advance(size_bytes, file.name)
        if read is None:
            return FileCheck(file.name, "unchecked", size_bytes, detail="nothing says what its checksum should be")
        try:
            read(Path(path))
        except BadHeader as error:
            return FileCheck(file.name, "corrupt", size_bytes, detail=str(error))
        return FileCheck(file.name, "unchecked", size_bytes, detail="it has no checksum; its header fits the file")

    def _checksum(self, handle: int, size_bytes: int, path: str, wanted: str, name: str) -> str:
        algorithm = algorithm_of(wanted) or "sha256"
        key = (path, algorithm)
        if key not in self.checksums:
            self.checksums[key] = self._hash(handle, size_bytes, git=algorithm == "git-sha1", name=name)
        return self.checksums[key]

    def _hash(self, handle: int, size_bytes: int, *, git: bool, name: str) -> str:
        # Git's SHA-1 is a name here, not a protection.
        digest = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False) if git else hashlib.sha256()
        self._advance(0, name)
        left_bytes = size_bytes + 1  # no more of a file that grows while it is read: it is wrong already
        while left_bytes > 0 and (chunk := os.read(handle, CHUNK_BYTES)):
            digest.update(chunk)
            left_bytes -= len(chunk)
            self.read_bytes += len(chunk)
            self._advance(len(chunk), name)
        return digest.hexdigest()

    def _advance(self, more_bytes: int, name: str) -> None:
        if self.is_cancelled():
            raise _Cancelled
        self.done_bytes = min(self.done_bytes + more_bytes, self.total_bytes)
        self.on_progress(self.done_bytes, self.total_bytes, name)


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    """A regular file, open, and its size. Raises OSError, and ValueError for what is no file."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        yield handle, status.st_size
    finally:
        os.close(handle)
