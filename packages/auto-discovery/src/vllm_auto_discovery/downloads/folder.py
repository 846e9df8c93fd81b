"""The folder of one download: what it is to fetch, how far it is, how it ended, and whether its process lives.

<state folder>/downloads/<name>/spec.json       what is to be fetched; no secret is in it
                                lock            held <=> its process lives, or is being started
                                worker.json     the process, written by itself: whom to tell to stop
                                progress.json   how far it is, twice a second
                                outcome.json    how it ended; missing after an end: it was killed
                                worker.log
"""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from vllm_auto_discovery.core.downloads.jobs import Download, Outcome, Progress, Spec, seen
from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.files import write_atomic
from vllm_mcp_protocol.paths import state_dir
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.state_lock import is_held, try_lock
from vllm_mcp_protocol.units import MIB

_READ_LIMIT_BYTES = 16 * MIB
"""A repository of 20,000 files makes a spec of 4 MB."""

_NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)
_MOST_FOLDERS = 1000

Value = TypeVar("Value", bound=BaseModel)


class JobFolder:
    """One download's folder; it need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock_path = path / "lock"
        self.log_path = path / "worker.log"

    @property
    def name(self) -> str:
        return self.path.name

    def held(self) -> bool:
        """Does its process live? The kernel's answer, not a record's."""
        return is_held(self.lock_path)

    def take(self, *, inheritable: bool) -> int | None:
        """The lock's descriptor, or None while somebody holds it. Makes the folder."""
        while True:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                fd = try_lock(self.lock_path, inheritable=inheritable)
            except FileNotFoundError:
                continue  # pruned in between
            if fd is None or self._is_still_here(fd):
                return fd
            os.close(fd)

    def _is_still_here(self, fd: int) -> bool:
        """A folder that was pruned and made again has another lock file: this lock would guard nothing."""
        try:
            return os.path.samestat(os.fstat(fd), self.lock_path.stat())
        except FileNotFoundError:
            return False

    def begin(self, spec: Spec) -> None:
        """A new life of the folder. The caller holds its lock."""
        for name in ("progress.json", "outcome.json", "worker.json"):
            (self.path / name).unlink(missing_ok=True)
        write_atomic(self.path / "spec.json", spec.model_dump_json().encode())

    def spec(self) -> Spec | None:
        return self._read("spec.json", Spec)

    def progress(self) -> Progress | None:
        return self._read("progress.json", Progress)

    def outcome(self) -> Outcome | None:
        return self._read("outcome.json", Outcome)

    def look(self, *, joined: bool = False) -> Download:
        """The download as it is now."""
        held = self.held()  # before the rest: what ends in between is seen as running once more, and not as killed
        outcome = None if held else self.outcome()
        return seen(self.name, self.spec(), self.progress(), outcome, held=held, joined=joined)

    def write_progress(self, progress: Progress) -> None:
        """Not synced to the disk: that would wait behind the gigabytes of the download, twice a second."""
        staged = self.path / ".progress.tmp"
        staged.write_bytes(progress.model_dump_json().encode())
        os.replace(staged, self.path / "progress.json")

    def write_outcome(self, outcome: Outcome) -> None:
        write_atomic(self.path / "outcome.json", outcome.model_dump_json().encode())

    def record_self(self) -> None:
        """This process is the download's."""
        record = {"pid": os.getpid(), "start": _start_ticks(os.getpid())}
        write_atomic(self.path / "worker.json", json.dumps(record).encode())

    def send(self, number: signal.Signals) -> None:
        """A signal to the download's process, and to no other that got its number."""
        try:
            record = json.loads((self.path / "worker.json").read_bytes()[:4096])
            pid, start = int(record["pid"]), int(record["start"])
            handle = os.pidfd_open(pid)
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return  # not there yet, or no more
        try:
            # The descriptor pins the process, and whoever held the lock after that is the one that was recorded.
            if self.held() and _start_ticks(pid) == start:
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)

    def remove(self) -> bool:
        """Delete the folder unless its process lives."""
        fd = try_lock(self.lock_path, inheritable=False)
        if fd is None:
            return False
        try:
            shutil.rmtree(self.path)
        finally:
            os.close(fd)
        return True

    def _read(self, name: str, kind: type[Value]) -> Value | None:
        try:
            with (self.path / name).open("rb") as file:
                return kind.model_validate_json(file.read(_READ_LIMIT_BYTES))
        except (OSError, ValidationError):
            return None


def downloads_dir(settings: Settings) -> Path:
    """Where the folders are."""
    return state_dir(settings) / "downloads"


def job_folder(settings: Settings, job: str) -> JobFolder:
    """Raises BadInput for a name that no download has."""
    folder = JobFolder(downloads_dir(settings) / job)
    if not _NAME.fullmatch(job) or job.startswith(".") or not folder.path.is_dir():
        raise BadInput(
            f"There is no download {job[:100]!r}.",
            parameter="job",
            value=job[:100],
            suggestion="download-model with the model's name starts or joins its download",
        )
    return folder


def job_folders(settings: Settings) -> Iterator[JobFolder]:
    """Every download's folder, by name."""
    try:
        with os.scandir(downloads_dir(settings)) as entries:
            names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and _NAME.fullmatch(e.name))
    except OSError:
        return
    for name in names[:_MOST_FOLDERS]:
        yield JobFolder(downloads_dir(settings) / name)


def prune(settings: Settings, keep: int) -> list[str]:
    """Remove the folders of the downloads that ended longest ago, but for `keep` of them; the names removed."""
    ended = sorted((f for f in job_folders(settings) if not f.held()), key=_changed_s)
    removed = []
    for folder in ended[: max(0, len(ended) - keep)]:
        with suppress(OSError):
            if folder.remove():
                removed.append(folder.name)
    return removed


def _changed_s(folder: JobFolder) -> float:
    try:
        return folder.path.stat().st_mtime
    except OSError:
        return 0.0


def _start_ticks(pid: int) -> int | None:
    """When a process started, clock ticks since boot: with its number, its name."""
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(data[data.rfind(b")") + 2 :].split()[19])
