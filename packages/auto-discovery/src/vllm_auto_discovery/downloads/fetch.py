"""One file from the Hub into the cache, so that what was fetched is never fetched twice.

huggingface_hub 1.33 gives every attempt a temporary file of its own and throws it away when it ends early: a cut in the
middle of a shard of 5 GB would cost 5 GB. So files that LFS stores are fetched here, by ranges, into the `.incomplete`
file that earlier versions of the library used, under the library's own lock, and checked against their SHA-256; the
library then links them. Everything else is the library's.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vllm_auto_discovery.core.downloads.jobs import Spec, WantedFile, backoff_s, stopped
from vllm_mcp_protocol.errors import DownloadFailed, HuggingFaceRateLimited, HuggingFaceUnreachable, SuiteError
from vllm_mcp_protocol.files import NO_ROOM, disk_error
from vllm_mcp_protocol.hf import refusals as hf_refusals
from vllm_mcp_protocol.hf import site as hf_hub
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import MIB

_PROGRESS_BYTES = MIB
"""An attempt that gained so much starts the count of attempts anew."""


def repo_folder(cache_dir: str, model_id: str) -> Path:
    """The model's folder in a cache."""
    return Path(cache_dir) / ("models--" + model_id.replace("/", "--"))


def have_bytes(repo: Path, commit: str, file: WantedFile) -> int:
    """How much of a file is in the cache already, whole or in part."""
    places = [repo / "snapshots" / commit / file.name]
    if file.blob is not None:
        places += [repo / "blobs" / file.blob, repo / "blobs" / f"{file.blob}.incomplete"]
    sizes = [size for place in places if (size := _size(place)) is not None]
    return min(sizes[0], file.size_bytes or 0) if sizes else 0


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _allocated_bytes(path: Path) -> int:
    """Xet writes a file in several places at once: its length says nothing."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


class _Damaged(Exception):
    """The content does not have the checksum that the Hub lists."""


class Fetcher:
    """Fetches files of one download; several threads may call `fetch`."""

    def __init__(self, spec: Spec, settings: Settings, pause: Callable[[float], None] = time.sleep) -> None:
        self._spec = spec
        self._access = hf_hub.access(settings)
        self._asked = hf_hub.asked(settings, spec.model_id, spec.revision)
        self._pause = pause
        self._repo = repo_folder(spec.cache_dir, spec.model_id)
        self.done = {_key(file): have_bytes(self._repo, spec.commit, file) for file in spec.files}
        """Bytes of each content that are on the disk."""
        self.current: set[str] = set()
        """Names of the files that are being fetched."""

    @property
    def bytes_done(self) -> int:
        """All that is on the disk, of the large files that the library fetches just now too."""
        large = (f for f in self._spec.files if f.name in self.current and f.sha256 and not self._by_ranges(f))
        return sum(self.done.values()) + sum(_allocated_bytes(path) for file in large for path in self._strays(file))

    @property
    def snapshot(self) -> Path:
        return self._repo / "snapshots" / self._spec.commit

    def fetch(self, file: WantedFile) -> None:
        """Have `file` in the snapshot.

        Raises DownloadFailed when the site stays away, DiskFull, or what it refuses with.
        """
        trouble: tuple[type[Exception], ...] = (HuggingFaceUnreachable, *hf_refusals.failures())
        self.current.add(file.name)
        attempt = damaged = 0
        try:
            while True:
                before = self.done[_key(file)]
                try:
                    return self._once(file)
                except _Damaged:
                    damaged += 1
                    cause = self._cause_of_damage(file, damaged)
                except trouble as error:
                    cause = self._cause(error)
                attempt = 0 if self.done[_key(file)] - before >= _PROGRESS_BYTES else attempt + 1
                self._wait_or_give_up(attempt, cause)
        finally:
            self.current.discard(file.name)

    def finish(self) -> None:
        """Say in `refs` where the branch or tag is: last, so that until now it named what was complete."""
        revision = self._spec.revision
        if revision == self._spec.commit or ".." in revision.split("/") or revision.startswith("/"):
            return
        ref = self._repo / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        staged = ref.with_name(f".{ref.name}.{os.getpid()}.tmp")
        staged.write_text(self._spec.commit)
        os.replace(staged, ref)

    def _once(self, file: WantedFile) -> None:
        if not (self.snapshot / file.name).exists():
            if self._by_ranges(file):
                self._fetch_blob(file, self._repo / "blobs" / (file.blob or ""))
            else:
                self._remove_strays(file)
            self._let_library_do(file)
        self.done[_key(file)] = file.size_bytes or 0

    def _by_ranges(self, file: WantedFile) -> bool:
        """The Hub serves larger files through Xet only, where the library is the one that knows how."""
        from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE

        known = file.sha256 is not None and file.blob == file.sha256
        return known and file.size_bytes is not None and file.size_bytes <= MAX_HTTP_DOWNLOAD_SIZE

    def _strays(self, file: WantedFile) -> list[Path]:
        """The library's temporary files of this content."""
        return list((self._repo / "blobs").glob(f"{file.blob}.????????.incomplete")) if file.blob else []

    def _remove_strays(self, file: WantedFile) -> None:
        """What a process that was killed left of them; the one that lives holds the lock."""
        if self._strays(file):
            with self._lock(file):
                for path in self._strays(file):
                    path.unlink(missing_ok=True)

    def _lock(self, file: WantedFile) -> AbstractContextManager[Any]:
        """The library's own lock of a blob: vLLM, when it downloads the same, waits for us, and we for it."""
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        lock = Path(self._spec.cache_dir) / ".locks" / self._repo.name / f"{file.blob}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        held: AbstractContextManager[Any] = WeakFileLock(lock)
        return held

    def _let_library_do(self, file: WantedFile) -> None:
        """Link a blob into the snapshot, or fetch it first."""
        from huggingface_hub import hf_hub_download

        hf_hub_download(
            self._spec.model_id,
            file.name,
            revision=self._spec.commit,
            cache_dir=self._spec.cache_dir,
            endpoint=self._access.endpoint,
            token=self._access.token,
            etag_timeout=self._spec.limits.silence_s,
            library_name="vllm-mcp",
        )

    def _fetch_blob(self, file: WantedFile, blob: Path) -> None:
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(file):
            if blob.exists():
                return
            partial = blob.with_name(f"{blob.name}.incomplete")
            self._stream(file, partial)
            self._check(file, partial)
            os.replace(partial, blob)

    def _stream(self, file: WantedFile, partial: Path) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        size, start = file.size_bytes or 0, _size(partial) or 0
        if start > size:  # of another content, then
            start = 0
        if start == size and partial.exists():
            return
        endpoint, token = self._access
        url = hf_hub_url(self._spec.model_id, file.name, revision=self._spec.commit, endpoint=endpoint)
        headers = build_hf_headers(token=token, library_name="vllm-mcp") | {"Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={start}-"} if start else {}
        with get_session().stream("GET", url, headers=headers, timeout=self._spec.limits.silence_s) as response:
            if response.status_code == 416:  # what is there cannot be the beginning of this file
                self._forget(file, partial)
                raise _Damaged
            hf_raise_for_status(response)
            self._write(file, partial, response, _continues_at(response, start))
        if _size(partial) != size:
            raise hf_refusals.unreachable(self._asked, "the connection was cut")

    def _write(self, file: WantedFile, partial: Path, response: Any, start: int) -> None:
        """Unbuffered, and in the pieces that arrive: nothing that came is lost to a cut or a kill."""
        written = start
        with open(partial, "ab", buffering=0) as out:
            out.truncate(start)
            for piece in response.iter_bytes():
                written += len(piece)
                if written > (file.size_bytes or 0):
                    raise _Damaged
                out.write(piece)
                self.done[_key(file)] = written

    def _check(self, file: WantedFile, partial: Path) -> None:
        with partial.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != file.sha256:
            self._forget(file, partial)
            raise _Damaged

    def _forget(self, file: WantedFile, partial: Path) -> None:
        partial.unlink()
        self.done[_key(file)] = 0

    def _cause_of_damage(self, file: WantedFile, times: int) -> SuiteError:
        words = f"the content of {file.name} does not have the checksum that {self._spec.site} lists for it"
        if times > 1:  # the first time, what was there from before may have been the bad part
            raise stopped(self._spec, self.bytes_done, words, file=file.name, sha256=file.sha256)
        return HuggingFaceUnreachable(words)

    def _cause(self, error: Exception) -> SuiteError:
        """What went wrong on the way. Raises what no repetition would cure."""
        cause = error if isinstance(error, SuiteError) else hf_refusals.explained(error, self._asked)
        if (number := _disk_errno(error)) is not None:
            raise self._disk(error, number) from error
        if not isinstance(cause, HuggingFaceUnreachable | HuggingFaceRateLimited):
            raise cause.with_details(bytes_done=self.bytes_done) from error
        return cause

    def _disk(self, error: Exception, number: int) -> Exception:
        assert isinstance(error, OSError)  # noqa: S101
        if number in NO_ROOM:
            return disk_error(error, self._repo)
        where = f" ({error.filename})" if error.filename else ""
        return stopped(self._spec, self.bytes_done, f"the cache cannot be written: {os.strerror(number)}{where}")

    def _wait_or_give_up(self, attempt: int, cause: SuiteError) -> None:
        limits, asked_s = self._spec.limits, cause.info.details.get("retry_after_s")
        if attempt > limits.retries or (asked_s or 0) > limits.most_backoff_s:
            raise self._given_up(cause)
        self._pause(backoff_s(attempt, limits, asked_s))

    def _given_up(self, cause: SuiteError) -> DownloadFailed:
        details = {name: cause.info.details[name] for name in ("retry_after_s", "status") if name in cause.info.details}
        return stopped(self._spec, self.bytes_done, cause.info.message, cause=cause.code, **details)


def _key(file: WantedFile) -> str:
    return file.blob or file.name


def _continues_at(response: Any, start: int) -> int:
    """Where the answer begins: a site that does not know ranges sends all of it again."""
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    if found is None or int(found[1]) != start:
        raise ValueError("another range than the one asked for")
    return start


def _disk_errno(error: Exception) -> int | None:
    """The number of an error of the local disk. Those of the network come without a number, or as one of its kind."""
    if isinstance(error, ConnectionError) or not isinstance(error, OSError):
        return None
    network = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT)
    return None if error.errno in network else error.errno
