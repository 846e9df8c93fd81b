"""Downloads as values: what one is to fetch, how far it is, how it ended, and how it is told. Pure."""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from vllm_mcp_protocol.errors import DiskFull, DownloadFailed, ErrorInfo
from vllm_mcp_protocol.units import MIB, format_bytes, to_mib

Status = Literal["starting", "downloading", "complete", "failed", "cancelled"]

SPEED_WINDOW_S = 10.0


class WantedFile(BaseModel):
    """A file of the repository."""

    model_config = ConfigDict(frozen=True)

    name: str
    size_bytes: int | None = None
    blob: str | None = None
    """Its name among the blobs of the cache."""
    sha256: str | None = None
    """Checksum of what LFS stores; None for small files that git keeps itself."""


class Limits(BaseModel):
    """How patient a download is, and what it leaves free."""

    model_config = ConfigDict(frozen=True)

    spare_bytes: int = 512 * MIB
    """Left free on the disk: tokenizer, vLLM's compile cache, logs."""
    retries: int = 6
    """Attempts in a row that gained less than a mebibyte, for each file."""
    backoff_s: float = 1.0
    """Before the first repetition; doubled for each further one."""
    most_backoff_s: float = 60.0
    """A site that asks for a longer wait than this is left, and the caller told when to come back."""
    silence_s: float = 30.0
    """For connecting, and between two pieces of a file."""
    at_once: int = 4
    """Files that are fetched side by side."""


class Spec(BaseModel):
    """What a download is to fetch: written before its process starts. Holds no secret."""

    model_config = ConfigDict(frozen=True)

    model_id: str
    revision: str
    commit: str
    site: str
    cache_dir: str
    files: tuple[WantedFile, ...]
    total_bytes: int
    resumed_from_bytes: int
    started_s: float
    """Unix seconds."""
    limits: Limits = Limits()


class Progress(BaseModel):
    """How far it is, as its process writes it down every half second."""

    model_config = ConfigDict(frozen=True)

    bytes_done: int = 0
    files_done: int = 0
    current: tuple[str, ...] = ()
    bytes_per_second: float | None = None


class Outcome(BaseModel):
    """How it ended, written by its process as the last thing (or by the one who cancelled it)."""

    model_config = ConfigDict(frozen=True)

    status: Literal["complete", "failed", "cancelled"]
    bytes_done: int
    path: str | None = None
    error: ErrorInfo | None = None
    ended_s: float = 0.0


class Download(BaseModel):
    """A download as others see it."""

    model_config = ConfigDict(frozen=True)

    job: str | None
    """Its folder's name; None when there was nothing to do."""
    status: Status
    model_id: str = ""
    revision: str = ""
    commit: str = ""
    path: str | None = None
    """The snapshot, once it is complete."""
    bytes_done: int = 0
    bytes_total: int | None = None
    resumed_from_bytes: int = 0
    """Of `bytes_done`, those that were there when this download started."""
    files_done: int = 0
    files_total: int = 0
    current: tuple[str, ...] = ()
    bytes_per_second: float | None = None
    joined: bool = False
    """Somebody else's call had started it."""
    error: ErrorInfo | None = None

    @property
    def running(self) -> bool:
        return self.status in ("starting", "downloading")

    @property
    def seconds_left(self) -> float | None:
        """At the speed of the last seconds; None when nothing is known."""
        if not self.running or not self.bytes_per_second or self.bytes_total is None:
            return None
        return max(0, self.bytes_total - self.bytes_done) / self.bytes_per_second


def job_name(model_id: str, revision: str, patterns: Sequence[str] | None, cache_dir: str) -> str:
    """Folder name of a download: the same wish has the same one, in every process."""
    wish = "\0".join([model_id, revision, cache_dir, *sorted(patterns or ("",))])
    readable = re.sub(r"[^\w.-]", "-", model_id, flags=re.ASCII).strip(".-")[:60]
    return f"{readable}-{sha256(wish.encode(errors='replace')).hexdigest()[:10]}"


def total_bytes(files: Iterable[WantedFile]) -> int:
    """Size of the files, one content under two names counted once."""
    sizes: dict[str, int] = {}
    for file in files:
        sizes[file.blob or file.name] = file.size_bytes or 0
    return sum(sizes.values())


def check_room(model_id: str, cache_dir: str, missing_bytes: int, free_bytes: int, limits: Limits) -> None:
    """Raises DiskFull when what is missing does not fit beside what is to stay free."""
    required = missing_bytes + limits.spare_bytes
    if missing_bytes and free_bytes < required:
        raise DiskFull(
            f"{model_id} needs {format_bytes(missing_bytes)} more in {cache_dir}, and "
            f"{format_bytes(limits.spare_bytes)} are to stay free: {format_bytes(free_bytes)} are free.",
            path=cache_dir,
            required_mb=to_mib(required),
            missing_mb=to_mib(missing_bytes),
            available_mb=int(free_bytes // MIB),
            suggestion="free space there (delete-cached-model), or set VLLM_MODEL_CACHE_DIR to one on another disk",
        )


def backoff_s(attempt: int, limits: Limits, asked_s: float | None = None) -> float:
    """Seconds before attempt number `attempt` + 1 (the first is 0); not less than the site asked for."""
    own_s = float(min(limits.most_backoff_s, limits.backoff_s * 2 ** min(attempt, 30)))
    return max(own_s, asked_s or 0.0)


def speed(samples: Sequence[tuple[float, int]]) -> float | None:
    """Bytes per second over samples of (seconds, bytes done), oldest first; None while there is nothing to tell."""
    if len(samples) < 2:
        return None
    (first_s, first), (last_s, last) = samples[0], samples[-1]
    return (last - first) / (last_s - first_s) if last_s > first_s and last >= first else None


def stopped(spec: Spec, bytes_done: int, why: str, **details: Any) -> DownloadFailed:
    """The error of a download that ended before it was complete."""
    return DownloadFailed(
        f"The download of {spec.model_id} stopped at {format_bytes(bytes_done)} of {format_bytes(spec.total_bytes)}: "
        f"{why.rstrip('.')}. What was fetched is kept.",
        suggestion=f"download-model {spec.model_id} again: it goes on where it stopped",
        model_id=spec.model_id,
        bytes_done=bytes_done,
        bytes_total=spec.total_bytes,
        **details,
    )


def seen(
    job: str, spec: Spec | None, progress: Progress | None, outcome: Outcome | None, *, held: bool, joined: bool = False
) -> Download:
    """A download as its folder shows it; `held`: its process lives (it holds the folder's lock)."""
    if spec is None:
        return Download(job=job, status="starting" if held else "failed", error=None if held else _unreadable(job))
    done = progress.bytes_done if progress is not None else spec.resumed_from_bytes
    common = {
        "job": job,
        "model_id": spec.model_id,
        "revision": spec.revision,
        "commit": spec.commit,
        "bytes_total": spec.total_bytes,
        "resumed_from_bytes": spec.resumed_from_bytes,
        "files_total": len(spec.files),
        "files_done": progress.files_done if progress is not None else 0,
        "joined": joined,
    }
    if held:
        now = progress or Progress()
        status = "starting" if progress is None else "downloading"
        return Download.model_validate(
            common
            | {"status": status, "bytes_done": done, "current": now.current, "bytes_per_second": now.bytes_per_second}
        )
    if outcome is None:
        error = stopped(spec, done, "its process was killed").info
        return Download.model_validate(common | {"status": "failed", "bytes_done": done, "error": error})
    ended = {"status": outcome.status, "bytes_done": outcome.bytes_done, "path": outcome.path, "error": outcome.error}
    if outcome.status == "complete":
        ended["files_done"] = len(spec.files)
    return Download.model_validate(common | ended)


def _unreadable(job: str) -> ErrorInfo:
    return DownloadFailed(
        f"The download {job} left nothing readable behind.", suggestion="call download-model again"
    ).info
