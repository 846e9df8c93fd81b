"""download-model's work: real processes that fetch with the real huggingface_hub from a Hub on loopback."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir

from tests.fakes.fake_hf_site import FakeFile, HfSite
from tests.hubs import SOURCES, wait_for
from vllm_auto_discovery.core.downloads.jobs import Download, Limits, Spec, WantedFile
from vllm_auto_discovery.downloads import jobs as downloading
from vllm_auto_discovery.downloads.fetch import Fetcher
from vllm_auto_discovery.downloads.folder import JobFolder, downloads_dir
from vllm_mcp_protocol.errors import (
    BadInput,
    DiskFull,
    DownloadFailed,
    FileNotInRepository,
    GatedRepository,
    HuggingFaceRateLimited,
    HuggingFaceUnreachable,
    ModelNotFound,
    Offline,
    RevisionNotFound,
    SuiteError,
)
from vllm_mcp_protocol.hf import cache as hf_cache
from vllm_mcp_protocol.settings import Settings

pytestmark = pytest.mark.anyio

SECRET = "hf_ThisIsNobodysToken123"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
SECOND = bytes(reversed(range(256))) * 2048
CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
PATIENT = Limits(spare_bytes=0, backoff_s=0.01, silence_s=30)
FILES: dict[str, bytes | FakeFile] = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "README.md": b"# a model",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same once more",
    "onnx/model.onnx": b"for others",
    "1_Pooling/config.json": b"{}",
}
WANTED = {"config.json", "tokenizer.json", "README.md", "model.safetensors", "1_Pooling/config.json"}


class Place:
    """A Hub, a cache and a state folder, with the settings of a server between them."""

    def __init__(self, hub: HfSite, folder: Path) -> None:
        self.hub = hub
        self.cache = folder / "hub"
        self.env = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(self.cache),
            "HF_HOME": str(folder / "home"),
            "VLLM_HUB_DIR": str(folder / "s"),
        }
        self.settings = Settings.from_environment(self.env)

    async def start(self, model_id: str = "org/model", **more: Any) -> Download:
        return await downloading.start_or_join(self.settings, model_id, **{"limits": PATIENT} | more)

    async def download(self, model_id: str = "org/model", **more: Any) -> Download:
        """Start it and wait for its end."""
        begun = await self.start(model_id, **more)
        assert begun.job is not None
        ended = await downloading.wait(self.settings, begun.job, 60)
        assert not ended.running, ended
        return ended

    def fetcher(self, limits: Limits = PATIENT) -> tuple[Fetcher, WantedFile]:
        """What a download's process does with the weights of org/model, here in this one."""
        file = self.hub.models["org/model"].files["model.safetensors"]
        wanted = WantedFile(name="model.safetensors", size_bytes=len(file.content), blob=file.blob, sha256=file.blob)
        return Fetcher(self.spec(wanted, limits=limits), self.settings), wanted

    async def fetch(self, limits: Limits = PATIENT) -> dict[str, Any]:
        """Fetch the weights without a process; the error, or nothing."""
        fetcher, wanted = self.fetcher(limits)
        try:
            await asyncio.to_thread(fetcher.fetch, wanted)
        except DownloadFailed as error:
            return error.info.model_dump()
        assert self.blob(WEIGHTS).read_bytes() == WEIGHTS
        return {}

    def spec(self, *files: WantedFile, limits: Limits = PATIENT) -> Spec:
        """A download of these files of org/model."""
        return Spec(
            model_id="org/model",
            revision="main",
            commit=self.hub.models["org/model"].commit,
            site=self.hub.url,
            cache_dir=str(self.cache),
            files=files,
            total_bytes=sum(file.size_bytes or 0 for file in files),
            resumed_from_bytes=0,
            started_s=0,
            limits=limits,
        )

    def folder(self, job: str | None) -> JobFolder:
        assert job is not None
        return JobFolder(downloads_dir(self.settings) / job)

    def pid(self, job: str | None) -> int:
        """The download's process, once it has said who it is."""
        record = self.folder(job).path / "worker.json"
        wait_for(record.exists, "the download's process has started")
        return int(json.loads(record.read_bytes())["pid"])

    def blob(self, content: bytes) -> Path:
        """Where the cache keeps this content of org/model."""
        return self.cache / "models--org--model" / "blobs" / FakeFile(content, lfs=True).blob


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read from the environment once, at its import
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, SOURCES)))
    with HfSite() as hub:
        hub.add("org/model", FILES)
        place = Place(hub, tmp_path)
        yield place
        hub.go_on.set()
        for job in downloading.list_jobs(place.settings):
            wait_for(lambda job=job: not place.folder(job.job).held(), f"{job.job} has ended")  # type: ignore[misc]


def error_of(download: Download) -> dict[str, Any]:
    assert download.error is not None, download
    assert download.error.suggestion
    return download.error.model_dump()


async def test_a_whole_download_is_complete_for_everybody_who_reads_the_cache(place: Place) -> None:
    reports: list[Download] = []

    async def note(now: Download) -> None:
        reports.append(now)

    begun = await place.start()
    assert begun.running
    assert begun.job
    ended = await downloading.wait(place.settings, begun.job, 60, note)
    assert (ended.status, ended.error) == ("complete", None)
    total = sum(len(place.hub.models["org/model"].files[name].content) for name in WANTED)
    # Two of the files are `{}`: one blob.
    assert (ended.bytes_done, ended.bytes_total, ended.resumed_from_bytes) == (total - 2, total - 2, 0)
    assert (ended.files_done, ended.files_total) == (len(WANTED), len(WANTED))
    assert [now.bytes_done for now in reports] == sorted(now.bytes_done for now in reports)

    found = hf_cache.find("org/model", [place.cache])
    assert found is not None
    assert found.complete
    assert found.path == ended.path
    assert found.revision == place.hub.models["org/model"].commit
    (repo,) = scan_cache_dir(place.cache).repos
    (revision,) = repo.revisions
    assert scan_cache_dir(place.cache).warnings == []
    assert {str(file.file_path.relative_to(revision.snapshot_path)) for file in revision.files} == WANTED
    assert revision.refs == {"main"}
    assert (Path(ended.path or "") / "model.safetensors").read_bytes() == WEIGHTS
    assert list((place.cache / "models--org--model" / "blobs").glob("*.incomplete")) == []


async def test_a_subset_leaves_no_listing_that_would_make_the_library_call_it_incomplete(place: Place) -> None:
    """huggingface_hub holds a snapshot against trees/<commit>.json, offline: vLLM asks for all of `*.safetensors`."""
    await place.download()
    assert not (place.cache / "models--org--model" / "trees").exists()


async def test_a_second_download_fetches_nothing_again(place: Place) -> None:
    await place.download()
    transfers = len(place.hub.asked("GET /storage|GET .*/resolve"))
    again = await place.download()
    assert again.status == "complete"
    assert again.resumed_from_bytes == again.bytes_total
    assert len(place.hub.asked("GET /storage|GET .*/resolve")) == transfers


async def test_the_storage_that_the_site_sends_on_to_is_not_shown_the_token(place: Place) -> None:
    place.hub.add("org/closed", {"model.safetensors": WEIGHTS}, gated="auto", allowed_token=SECRET)
    place.settings = Settings.from_environment(place.env | {"HF_TOKEN": SECRET})
    assert (await place.download("org/closed")).status == "complete"
    assert {seen.token for seen in place.hub.asked("resolve")} == {SECRET}
    assert {seen.token for seen in place.hub.asked("storage")} == {None}
    assert place.hub.asked("storage")


async def test_files_are_what_the_caller_names(place: Place) -> None:
    ended = await place.download(files=["*.onnx", "config.json"])
    assert ended.files_total == 2
    assert {path.name for path in Path(ended.path or "").rglob("*") if path.is_file()} == {"model.onnx", "config.json"}


async def test_a_cut_is_repaired_within_the_download_and_only_the_rest_is_asked_for(place: Place) -> None:
    place.hub.cuts = [300_000, 200_000]
    assert await place.fetch() == {}
    assert place.hub.ranges() == [f"bytes={at}-" for at in (300_000, 300_000, 500_000, 500_000)]  # site, then storage


async def test_after_too_many_cuts_what_came_is_kept_and_the_next_download_goes_on(place: Place) -> None:
    place.hub.cuts = [100_000] * 3
    failed = await place.download(limits=PATIENT.model_copy(update={"retries": 2}))
    error = error_of(failed)
    assert (failed.status, error["code"]) == ("failed", "DOWNLOAD_FAILED")
    assert "the connection was cut" in error["message"]
    assert "kept" in error["message"]
    assert place.blob(WEIGHTS).with_suffix(".incomplete").stat().st_size == 300_000

    place.hub.seen.clear()
    ended = await place.download()
    assert ended.status == "complete"
    assert ended.resumed_from_bytes >= 300_000
    assert ended.resumed_from_bytes == failed.bytes_done
    assert set(place.hub.ranges()) == {"bytes=300000-"}


async def test_a_part_of_something_else_is_found_out_by_its_checksum_and_fetched_anew(place: Place) -> None:
    partial = place.blob(WEIGHTS).with_suffix(".incomplete")
    partial.parent.mkdir(parents=True)
    for size in (2300, len(WEIGHTS), len(WEIGHTS) + 5):
        partial.write_bytes(b"?" * size)
        assert await place.fetch() == {}
        place.blob(WEIGHTS).unlink()
        (place.fetcher()[0].snapshot / "model.safetensors").unlink()


async def test_content_that_never_has_its_checksum_is_not_put_into_the_cache(place: Place) -> None:
    for body in (bytes(len(WEIGHTS)), bytes(len(WEIGHTS) + 5)):
        place.hub.answers.clear()
        place.hub.answer("GET /storage", 200, body=body)
        error = await place.fetch()
        assert error["code"] == "DOWNLOAD_FAILED"
        assert "checksum" in error["message"]
        assert not place.blob(WEIGHTS).exists()
    found = hf_cache.find("org/model", [place.cache])
    assert found is None or not found.complete


async def test_what_only_the_library_can_fetch_has_progress_too_and_leaves_no_rubbish(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of more than 50 GB, which the Hub serves through Xet alone."""
    place.hub.add("org/model", {"model.safetensors": WEIGHTS * 24})
    file = place.hub.models["org/model"].files["model.safetensors"]
    left = place.blob(file.content).with_suffix(".deadbeef.incomplete")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a process that was killed")
    fetcher, wanted = place.fetcher()
    monkeypatch.setattr(fetcher, "_by_ranges", lambda _: False)
    assert fetcher.bytes_done == 0
    place.hub.hold_after = len(WEIGHTS) * 12
    fetching = asyncio.create_task(asyncio.to_thread(fetcher.fetch, wanted))
    assert await asyncio.to_thread(place.hub.held.wait, 30)
    await asyncio.to_thread(wait_for, lambda: fetcher.bytes_done >= 10 * 1024**2, "a part is on the disk")
    place.hub.go_on.set()
    await fetching
    assert fetcher.bytes_done == len(file.content)
    assert [path.name for path in left.parent.iterdir()] == [file.blob]
    assert (fetcher.snapshot / "model.safetensors").read_bytes() == file.content


async def test_a_full_disk_is_told_as_one_and_not_as_a_network(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher, wanted = place.fetcher()

    def full(*_: object) -> None:  # a file system of a few kilobytes needs root to be mounted
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place.cache.mkdir()
    monkeypatch.setattr(fetcher, "_write", full)
    with pytest.raises(DiskFull):
        await asyncio.to_thread(fetcher.fetch, wanted)
    (place.cache / "models--org--model" / "blobs").rmdir()
    (place.cache / "models--org--model" / "blobs").write_bytes(b"")
    with pytest.raises(DownloadFailed, match="cannot be written"):
        await asyncio.to_thread(fetcher.fetch, wanted)


async def test_a_site_that_knows_no_ranges_sends_all_of_it_again(place: Place) -> None:
    partial = place.blob(WEIGHTS).with_suffix(".incomplete")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:5000])
    place.hub.answer("GET /storage", 200, body=WEIGHTS)
    assert await place.fetch() == {}


async def test_a_site_that_refuses_the_range_is_asked_for_all_of_it(place: Place) -> None:
    partial = place.blob(WEIGHTS).with_suffix(".incomplete")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:5000])
    place.hub.answer("GET /storage", 416, times=1)
    assert await place.fetch() == {}
    assert place.hub.asked("GET /storage")[-1].range is None


@pytest.mark.parametrize(("status", "headers"), [(503, {}), (500, {}), (429, {"Retry-After": "0"}), (429, {})])
async def test_a_busy_site_is_asked_again(place: Place, status: int, headers: dict[str, str]) -> None:
    place.hub.answer("GET /storage", status, headers=headers, times=2)
    assert await place.fetch() == {}
    assert len(place.hub.asked("GET /storage")) == 3


async def test_a_site_that_stays_broken_is_left(place: Place) -> None:
    place.hub.answer("GET /storage", 502)
    error = await place.fetch(PATIENT.model_copy(update={"retries": 2}))
    assert (error["code"], error["details"]["status"]) == ("DOWNLOAD_FAILED", 502)
    assert len(place.hub.asked("GET /storage")) == 3


async def test_a_site_that_asks_for_an_hour_is_left_at_once_and_the_hour_is_told(place: Place) -> None:
    place.hub.answer("GET /storage", 429, headers={"Retry-After": "3600"})
    error = await place.fetch()
    assert (error["code"], error["details"]["retry_after_s"]) == ("DOWNLOAD_FAILED", 3600)
    assert len(place.hub.asked("GET /storage")) == 1


async def test_access_that_is_lost_on_the_way_is_told_as_such_and_not_tried_again(place: Place) -> None:
    place.hub.answer("GET /org/model/resolve", 403, headers={"X-Error-Code": "GatedRepo"})
    fetcher, wanted = place.fetcher()
    with pytest.raises(GatedRepository):
        await asyncio.to_thread(fetcher.fetch, wanted)
    assert len(place.hub.asked("GET /org/model/resolve")) == 1


@pytest.mark.parametrize(
    ("model_id", "more", "kind"),
    [
        ("not a name", {}, BadInput),
        ("/tmp/folder", {}, BadInput),
        ("org/none", {}, ModelNotFound),
        ("org/model", {"revision": "v9"}, RevisionNotFound),
        ("org/model", {"files": ["*.nothing"]}, FileNotInRepository),
        ("org/gated", {}, GatedRepository),
        ("org/broken", {}, HuggingFaceUnreachable),
        ("org/busy", {}, HuggingFaceRateLimited),
        ("org/model", {"limits": Limits(spare_bytes=10**18)}, DiskFull),
    ],
)
async def test_what_cannot_be_downloaded_is_refused_before_anything_starts(
    place: Place, model_id: str, more: dict[str, Any], kind: type[SuiteError]
) -> None:
    place.hub.add("org/gated", FILES, gated="manual", allowed_token=SECRET)
    place.hub.answer("org/broken", 500)
    place.hub.answer("org/busy", 429, headers={"Retry-After": "7"})
    with pytest.raises(kind) as caught:
        await place.start(model_id, **more)
    assert caught.value.info.suggestion
    assert downloading.list_jobs(place.settings) == ()
    assert not (place.cache / "models--org--model").exists()


async def test_only_the_missing_bytes_must_fit_on_the_disk(place: Place) -> None:
    await place.download()
    assert (await place.download(limits=Limits(spare_bytes=10**18))).status == "complete"


async def test_offline_nothing_is_asked_and_what_is_complete_is_there(place: Place) -> None:
    online, offline = place.settings, Settings.from_environment(place.env | {"HF_HUB_OFFLINE": "1"})
    place.settings = offline
    with pytest.raises(Offline):
        await place.start()
    assert place.hub.seen == []
    place.settings = online
    ended = await place.download()
    place.settings = offline
    there = await place.start()
    assert (there.status, there.path, there.job) == ("complete", ended.path, None)
    place.settings = online


async def test_a_mirror_serves_in_place_of_the_hub(place: Place) -> None:
    with HfSite() as mirror:
        mirror.add("org/model", FILES)
        place.settings = Settings.from_environment(place.env | {"HF_ENDPOINT": mirror.url})
        assert (await place.download()).status == "complete"
        assert mirror.asked("storage")
    assert place.hub.seen == []


async def test_a_cancelled_download_keeps_what_came_and_the_next_one_goes_on(place: Place) -> None:
    place.hub.hold_after = 400_000
    begun = await place.start()
    assert begun.job
    assert await asyncio.to_thread(place.hub.held.wait, 30)
    partial = place.blob(WEIGHTS).with_suffix(".incomplete")
    wait_for(lambda: partial.exists() and partial.stat().st_size >= 400_000, "the first part is on the disk")
    ended = await downloading.cancel(place.settings, begun.job)
    assert (ended.status, ended.error) == ("cancelled", None)
    kept = partial.stat().st_size
    assert ended.bytes_done >= kept >= 400_000
    assert (await downloading.cancel(place.settings, begun.job)).status == "cancelled"

    place.hub.hold_after = None
    place.hub.go_on.set()
    place.hub.seen.clear()
    ended = await place.download()
    assert ended.status == "complete"
    assert ended.resumed_from_bytes >= kept
    assert set(place.hub.ranges()) == {f"bytes={kept}-"}


async def test_the_same_wish_joins_the_download_that_runs(place: Place) -> None:
    place.hub.hold_after = 0
    first = await place.start()
    assert await asyncio.to_thread(place.hub.held.wait, 30)
    asked = len(place.hub.asked("/api/"))
    second = await place.start()
    assert (second.job, second.joined, first.joined) == (first.job, True, False)
    assert len(place.hub.asked("/api/")) == asked, "who joins need not ask"
    assert [job.job for job in downloading.running(place.settings, "org/model")] == [first.job]
    place.hub.go_on.set()
    assert second.job
    assert (await downloading.wait(place.settings, second.job, 60)).status == "complete"
    assert len(place.hub.asked("GET /storage")) == 1
    assert downloading.running(place.settings, "org/model") == ()


async def test_two_downloads_of_one_repository_fetch_each_content_once(place: Place) -> None:
    place.hub.hold_after = 0
    whole = await place.start()
    assert await asyncio.to_thread(place.hub.held.wait, 30)
    part = await place.start(files=["model.safetensors"])
    assert whole.job != part.job
    wait_for(lambda: place.folder(part.job).look().current, "the second one is at the same file")
    place.hub.go_on.set()
    for job in (whole.job, part.job):
        assert job
        assert (await downloading.wait(place.settings, job, 60)).status == "complete"
    assert len(place.hub.asked("GET /storage")) == 1


async def test_waiting_ends_with_the_time_and_the_download_goes_on(place: Place) -> None:
    place.hub.hold_after = 0
    begun = await place.start()
    assert begun.job
    assert (await downloading.wait(place.settings, begun.job, 0)).running
    place.hub.go_on.set()
    assert (await downloading.wait(place.settings, begun.job, 60)).status == "complete"


_STARTER = """
import anyio, os, sys
from huggingface_hub import constants
constants.HF_HUB_OFFLINE = False
from vllm_auto_discovery.downloads import jobs as downloading
from vllm_auto_discovery.core.downloads.jobs import Limits
from vllm_mcp_protocol.settings import Settings

async def main():
    begun = await downloading.start_or_join(
        Settings.from_environment(os.environ), "org/model", limits=Limits(spare_bytes=0, backoff_s=0.01)
    )
    print(begun.job, flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


async def test_the_kill_of_the_server_that_started_it_does_not_end_a_download(place: Place) -> None:
    """Crush kills the whole process group of a server."""
    place.hub.hold_after = 400_000
    env = place.env | {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], "HF_TOKEN": SECRET}
    server = subprocess.Popen(
        [sys.executable, "-c", _STARTER], env=env, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert server.stdout is not None
    try:
        job = (await asyncio.to_thread(server.stdout.readline)).strip()
        assert job
        assert await asyncio.to_thread(place.hub.held.wait, 30), place.folder(job).look()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server.stdout.close()

    joined = await place.start()
    assert (joined.job, joined.joined, joined.running) == (job, True, True)
    pid = place.pid(job)
    assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert f"HF_TOKEN={SECRET}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    place.hub.go_on.set()
    assert (await downloading.wait(place.settings, job, 60)).status == "complete"
    written = [path for path in place.folder(job).path.rglob("*") if path.is_file()]
    assert len(written) >= 5
    assert [path.name for path in written if SECRET.encode() in path.read_bytes()] == []


async def test_a_killed_download_is_told_as_one_whatever_came_before_and_the_next_goes_on(place: Place) -> None:
    place.hub.hold_after = 400_000
    begun = await place.start()
    assert begun.job
    assert await asyncio.to_thread(place.hub.held.wait, 30)
    partial = place.blob(WEIGHTS).with_suffix(".incomplete")
    wait_for(lambda: partial.exists() and partial.stat().st_size >= 400_000, "the first part is on the disk")
    assert (await downloading.cancel(place.settings, begun.job)).status == "cancelled"
    await place.start()
    os.kill(place.pid(begun.job), signal.SIGKILL)
    killed = await downloading.wait(place.settings, begun.job, 60)
    assert killed.status == "failed"
    assert error_of(killed)["code"] == "DOWNLOAD_FAILED"
    assert "killed" in error_of(killed)["message"]
    with pytest.raises(SuiteError, match="killed"):
        downloading.raise_if_failed(killed)

    place.hub.hold_after = None
    place.hub.go_on.set()
    ended = await place.download()
    assert (ended.status, ended.job) == ("complete", begun.job)
    assert ended.resumed_from_bytes >= 400_000


async def test_a_cancel_before_the_process_can_hear_it_is_one_all_the_same(place: Place) -> None:
    begun = await place.start()
    assert begun.job
    assert (await downloading.cancel(place.settings, begun.job)).status in ("cancelled", "complete")


async def test_a_download_that_nobody_knows_is_refused(place: Place) -> None:
    for job in ("none", "../s", "", ".", "a/b"):
        with pytest.raises(BadInput):
            downloading.look(place.settings, job)
        with pytest.raises(BadInput):
            await downloading.cancel(place.settings, job)


async def test_folders_that_cannot_be_read_are_listed_as_failed_and_spoil_nothing(place: Place) -> None:
    ended = await place.download()
    root = downloads_dir(place.settings)
    for name, content in (("empty", None), ("odd", b"\xff\xfe"), ("list", b"[]")):
        (root / name).mkdir()
        if content is not None:
            (root / name / "spec.json").write_bytes(content)
    (root / "file").write_bytes(b"")
    listed = {job.job: job.status for job in downloading.list_jobs(place.settings)}
    assert listed == {ended.job: "complete", "empty": "failed", "odd": "failed", "list": "failed"}


async def test_the_folders_of_old_downloads_are_removed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_KEEP_FOLDERS", 1)
    first = await place.download(files=["config.json"])
    second = await place.download(files=["README.md"])
    third = await place.download(files=["tokenizer.json"])
    assert {job.job for job in downloading.list_jobs(place.settings)} == {second.job, third.job}
    assert first.job not in os.listdir(downloads_dir(place.settings))
