"""Downloads, as a server sees them: start one or join it, look, wait, cancel.

A client kills its servers without warning, so the work is done by a process of its own (`worker`), which a later
call, of this or of another server, finds again by its folder (`folder.JobFolder`).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from vllm_auto_discovery.core.downloads.choice import choose
from vllm_auto_discovery.core.downloads.jobs import (
    Download,
    Limits,
    Outcome,
    Spec,
    WantedFile,
    check_room,
    job_name,
    total_bytes,
)
from vllm_auto_discovery.downloads.fetch import have_bytes, repo_folder
from vllm_auto_discovery.downloads.folder import JobFolder, downloads_dir, job_folder, job_folders, prune
from vllm_mcp_protocol.errors import FilesInUse, PathNotAllowed, StateDirRefused, error_from_info
from vllm_mcp_protocol.files import NO_ROOM, disk_error
from vllm_mcp_protocol.hf import cache as hf_cache
from vllm_mcp_protocol.hf import site as hf_hub
from vllm_mcp_protocol.model_names import check_model_id, is_path
from vllm_mcp_protocol.paths import model_cache_dirs, prepare_state_dir, state_dir, user_home
from vllm_mcp_protocol.settings import Settings

POLL_S = 0.25
STOP_LIMIT_S = 10.0
"""For an end after SIGTERM, which takes milliseconds; then SIGKILL, which loses nothing either."""

_KEEP_FOLDERS = 20

_PASSED_ON = (
    *("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
"""All that a download inherits: how to reach the network, and nothing else of the client that asked first."""

Report = Callable[[Download], Awaitable[None]]


async def start_or_join(
    settings: Settings,
    model_id: str,
    *,
    revision: str | None = None,
    files: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> Download:
    """Have a model downloaded into the cache that vLLM uses; join a download of the same that runs already.

    `files`: names or globs; without them, what vLLM needs. What earlier ones fetched is not fetched again.
    Raises BadInput, Offline, DiskFull, FileNotInRepository, ModelNotFound, RevisionNotFound, GatedRepository,
    HuggingFaceUnauthorized, HuggingFaceRateLimited, HuggingFaceUnreachable or StateDirRefused: then nothing was
    started.
    """
    check_model_id(model_id)
    cache = model_cache_dirs(settings)[0].absolute()
    folder = JobFolder(downloads_dir(settings) / job_name(model_id, revision or "main", files, str(cache)))
    with _kept(settings):
        if folder.held():
            return folder.look(joined=True)
    if settings.hf_hub_offline and not is_path(model_id):
        return await _offline(settings, model_id, revision, files)
    answer = await hf_hub.ask_within(settings, model_id, revision)
    plan = partial(_plan, answer, revision or "main", files, cache, limits or Limits())
    spec = await to_thread.run_sync(plan)
    return await to_thread.run_sync(_start, settings, folder, spec)


def look(settings: Settings, job: str) -> Download:
    """A download as it is now. Raises BadInput for one that does not exist."""
    return job_folder(settings, job).look()


def list_jobs(settings: Settings) -> tuple[Download, ...]:
    """Downloads that run, and the last ones that ended, by name. A folder that cannot be read counts as failed."""
    return tuple(folder.look() for folder in job_folders(settings))


def running(settings: Settings, model_id: str) -> tuple[Download, ...]:
    """Downloads that write into the model's folder of a cache now."""
    return tuple(job for job in list_jobs(settings) if job.running and job.model_id in (model_id, ""))


async def wait(settings: Settings, job: str, wait_s: float, report: Report | None = None) -> Download:
    """The download when it has ended, or as it is after `wait_s`; `report` hears of it in between."""
    folder, deadline_s = job_folder(settings, job), anyio.current_time() + wait_s
    while True:
        now = folder.look()
        if report is not None:
            await report(now)
        left_s = deadline_s - anyio.current_time()
        if not now.running or left_s <= 0:
            return now
        await anyio.sleep(min(POLL_S, left_s))


async def cancel(settings: Settings, job: str) -> Download:
    """End a download; what it fetched is kept. One that had ended stays as it is. Raises BadInput, FilesInUse."""
    return await to_thread.run_sync(_cancel, job_folder(settings, job))


def raise_if_failed(download: Download) -> None:
    """Raises the error that a download ended with."""
    if download.error is not None:
        raise error_from_info(download.error)


async def _offline(settings: Settings, model_id: str, revision: str | None, files: Sequence[str] | None) -> Download:
    """Nothing to do, when the cache has all of it. Raises Offline."""
    facts = await to_thread.run_sync(partial(hf_cache.find, model_id, model_cache_dirs(settings), revision))
    if facts is None or not facts.complete or files:
        raise hf_hub.offline(settings, model_id)
    have = facts.weights_bytes or 0
    return Download(
        job=None,
        status="complete",
        model_id=model_id,
        revision=revision or "main",
        commit=facts.revision or "",
        path=facts.path,
        bytes_done=have,
        bytes_total=have,
        resumed_from_bytes=have,
    )


def _plan(answer: hf_hub.HubModel, revision: str, patterns: Sequence[str] | None, cache: Path, limits: Limits) -> Spec:
    """What to fetch. Raises BadInput, FileNotInRepository, DiskFull, or PathNotAllowed for a cache that cannot be."""
    listed = [WantedFile.model_validate(file.model_dump()) for file in answer.files]
    chosen = choose(answer.model_id, listed, patterns)
    repo = repo_folder(str(cache), answer.model_id)
    have = sum({file.blob or file.name: have_bytes(repo, answer.commit, file) for file in chosen}.values())
    total = total_bytes(chosen)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(cache).free
    except OSError as error:
        raise PathNotAllowed(
            f"The cache folder {cache} cannot be used: {error.strerror or error}.",
            path=str(cache),
            suggestion="set VLLM_MODEL_CACHE_DIR (or HF_HOME) to a folder that can be written",
        ) from error
    check_room(answer.model_id, str(cache), total - have, free_bytes, limits)
    return Spec(
        model_id=answer.model_id,
        revision=revision,
        commit=answer.commit,
        site=answer.site,
        cache_dir=str(cache),
        files=chosen,
        total_bytes=total,
        resumed_from_bytes=have,
        started_s=time.time(),
        limits=limits,
    )


def _start(settings: Settings, folder: JobFolder, spec: Spec) -> Download:
    prepare_state_dir(state_dir(settings))
    with _kept(settings):
        lock = folder.take(inheritable=True)
        if lock is None:
            return folder.look(joined=True)
        try:
            folder.begin(spec)
            _spawn(settings, folder, lock)
        finally:
            os.close(lock)
        prune(settings, _KEEP_FOLDERS)
        return folder.look()


@contextmanager
def _kept(settings: Settings) -> Iterator[None]:
    """For work in the folders of downloads. Raises DiskFull or StateDirRefused for what the disk refuses."""
    try:
        yield
    except OSError as error:
        folder = downloads_dir(settings)
        if error.errno in NO_ROOM:
            raise disk_error(error, folder) from error
        raise StateDirRefused(
            f"Downloads cannot be kept in {folder}: {error.strerror or error}.",
            path=str(error.filename or folder),
            suggestion=f"make {folder} a folder that you may write to, or set VLLM_HUB_DIR to another one",
        ) from error


def _spawn(settings: Settings, folder: JobFolder, lock: int) -> None:
    """Nobody's child: a shell starts it and ends, so no server keeps its corpse. It inherits the folder's lock."""
    command = ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-m", "vllm_auto_discovery.downloads.worker"]
    with open(os.open(folder.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
        subprocess.run(
            [*command, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(settings),
            start_new_session=True,
            pass_fds=[lock],
            check=False,
        )


def _environment(settings: Settings) -> dict[str, str]:
    """For a download's process: the token and the address of the site are here, and in none of its files."""
    endpoint, token = hf_hub.access(settings)
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env |= {"HOME": str(user_home()), "HF_ENDPOINT": endpoint}
    env |= {"HF_HOME": settings.hf_home} if settings.hf_home else {}
    env |= {"HF_TOKEN": token} if isinstance(token, str) else {}
    # Every repository keeps its own blobs, as in all versions of the cache: a scan sees whose they are. The library's
    # warnings name the signed addresses that it is sent on to.
    return env | {
        "HF_HUB_DISABLE_SHARED_BLOBS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_VERBOSITY": "error",
    }


def _cancel(folder: JobFolder) -> Download:
    begun_s = time.monotonic()
    while folder.held():
        waited_s = time.monotonic() - begun_s
        if waited_s > 2 * STOP_LIMIT_S:
            raise FilesInUse(
                f"The download {folder.name} does not end; its process hangs in the kernel (a dead disk?).",
                job=folder.name,
                suggestion="look at the disk that holds the cache, then cancel again",
            )
        folder.send(signal.SIGTERM if waited_s < STOP_LIMIT_S else signal.SIGKILL)
        time.sleep(0.02)
    _note_cancelled(folder)
    return folder.look()


def _note_cancelled(folder: JobFolder) -> None:
    """For a process that was ended before it could say so itself."""
    spec, lock = folder.spec(), folder.take(inheritable=False)
    if lock is None:
        return
    try:
        if spec is not None and folder.outcome() is None:
            progress = folder.progress()
            done = progress.bytes_done if progress is not None else spec.resumed_from_bytes
            folder.write_outcome(Outcome(status="cancelled", bytes_done=done, ended_s=time.time()))
    finally:
        os.close(lock)
