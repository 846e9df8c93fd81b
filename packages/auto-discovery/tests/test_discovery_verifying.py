"""Checking cached files: each kind of damage is found and named, and nothing else is."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import anyio
import pytest
from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store
from huggingface_hub.utils.sha import git_hash
from hypothesis import given
from hypothesis import strategies as st

from tests.caches import COMMIT, OTHER, MadeRepo
from vllm_auto_discovery import verifying
from vllm_auto_discovery.core.verification import ExpectedFile, FileCheck, Verification, algorithm_of, judge_checksum
from vllm_auto_discovery.verifying import verify, verify_in_thread
from vllm_mcp_protocol.errors import RevisionNotFound
from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.hf.scanner import InventoryScanner


def _scan(path: Path) -> CachedRepo:
    repo = InventoryScanner().scan_repo(path)
    assert repo is not None
    return repo


def _add_git(repo: MadeRepo, commit: str, name: str, content: bytes) -> Path:
    """A small file, whose blob has the name that git gives it."""
    blob = repo.path / "blobs" / git_hash(content)
    blob.write_bytes(content)
    repo.link(commit, name, f"../../blobs/{blob.name}")
    return blob


def _model(cache: Path) -> MadeRepo:
    repo = MadeRepo(cache, "org/m")
    repo.add(COMMIT, "model.safetensors", b"w" * 9000)
    _add_git(repo, COMMIT, "config.json", b'{"a": 1}')
    repo.ref("main", COMMIT)
    return repo


def _found(checked: Verification) -> dict[str, str]:
    return {check.name: check.status for check in checked.files}


def test_whole_files_are_ok(tmp_path: Path) -> None:
    checked = verify(_scan(_model(tmp_path).path))
    assert _found(checked) == {"config.json": "ok", "model.safetensors": "ok"}
    assert checked.sound
    assert (checked.commit, checked.read_bytes) == (COMMIT, 9008)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "grown", "emptied"])
def test_each_damage_of_a_content_is_found(tmp_path: Path, name: str, damage: str) -> None:
    repo = _model(tmp_path)
    blob = (repo.path / "snapshots" / COMMIT / name).resolve()
    content = blob.read_bytes()
    changed = {"flipped": b"?" + content[1:], "cut": content[:-1], "grown": content + b"?", "emptied": b""}[damage]
    blob.write_bytes(changed)
    checked = verify(_scan(repo.path))
    (bad,) = checked.with_status("corrupt")
    assert (bad.name, bad.expected) == (name, blob.name)
    assert bad.actual == (git_hash(changed) if name == "config.json" else hashlib.sha256(changed).hexdigest())
    assert not checked.sound


def test_git_agrees_with_the_checksum_of_small_files(tmp_path: Path) -> None:
    content = os.urandom(100)
    (tmp_path / "x").write_bytes(content)
    named = subprocess.run(["git", "hash-object", "x"], cwd=tmp_path, check=True, capture_output=True, text=True)
    repo = MadeRepo(tmp_path, "org/m")
    blob = repo.path / "blobs" / named.stdout.strip()
    blob.write_bytes(content)
    repo.link(COMMIT, "x", f"../../blobs/{blob.name}")
    assert _found(verify(_scan(repo.path))) == {"x": "ok"}


def test_missing_unfinished_and_unnamed_contents_are_told_apart(tmp_path: Path) -> None:
    repo = _model(tmp_path)
    repo.link(COMMIT, "gone.bin", "../../blobs/" + "f" * 64)
    (repo.path / "blobs" / ("f" * 64 + ".incomplete")).write_bytes(b"u" * 77)
    (repo.path / "blobs" / "strange-etag").write_bytes(b"s")
    repo.link(COMMIT, "strange.bin", "../../blobs/strange-etag")
    checked = verify(_scan(repo.path))
    assert _found(checked) == {
        "config.json": "ok",
        "gone.bin": "missing",
        "model.safetensors": "ok",
        "strange.bin": "unchecked",
    }
    assert [blob.size_bytes for blob in checked.unfinished] == [77]


def _safetensors(data: bytes, claimed: int | None = None) -> bytes:
    header = {"t": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return (claimed or len(text)).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("model.safetensors", _safetensors(b"x" * 50), "unchecked"),
        ("model.safetensors", _safetensors(b"x" * 50)[:-1], "corrupt"),
        ("model.safetensors", _safetensors(b"x", claimed=2**62), "corrupt"),
        ("model.safetensors", b"", "corrupt"),
        ("model.gguf", b"GGUF", "corrupt"),
        ("notes.txt", b"", "unchecked"),
    ],
)
def test_of_a_file_without_a_checksum_the_structure_is_checked(
    tmp_path: Path, name: str, content: bytes, status: str
) -> None:
    repo = _model(tmp_path)
    folder = repo.path / "snapshots" / OTHER
    folder.mkdir()
    (folder / name).write_bytes(content)
    (check,) = verify(_scan(repo.path), OTHER).files
    assert (check.name, check.status) == (name, status)
    assert check.detail


def test_what_the_hub_says_finds_files_that_were_never_fetched_and_wrong_sizes(tmp_path: Path) -> None:
    repo = _model(tmp_path)
    folder = repo.path / "snapshots" / COMMIT
    (folder / "plain.bin").write_bytes(b"plain")
    (folder / "other.bin").write_bytes(b"other")
    told = {
        "config.json": ExpectedFile(8),
        "model.safetensors": ExpectedFile(9001, "0" * 64),
        "plain.bin": ExpectedFile(5, hashlib.sha256(b"plain").hexdigest().upper()),
        "other.bin": ExpectedFile(5, "0" * 64),
        "tokenizer.json": ExpectedFile(123),
    }
    checked = verify(_scan(repo.path), expected=told)
    assert _found(checked) == {
        "config.json": "ok",
        "model.safetensors": "corrupt",
        "other.bin": "corrupt",
        "plain.bin": "ok",
        "tokenizer.json": "missing",
    }
    (weights,) = [check for check in checked.files if check.name == "model.safetensors"]
    assert (weights.expected, weights.actual) == ("9001 bytes", "9000 bytes")
    assert checked.read_bytes == 8 + 5 + 5  # what has the wrong size is not read


def test_a_content_with_two_names_is_read_once(tmp_path: Path) -> None:
    repo = _model(tmp_path)
    repo.add(COMMIT, "copy.safetensors", b"w" * 9000)
    checked = verify(_scan(repo.path))
    assert _found(checked)["copy.safetensors"] == "ok"
    assert checked.read_bytes == 9008


def test_shared_contents_of_the_cache_are_checked(tmp_path: Path) -> None:
    repo = _model(tmp_path)
    blob = repo.path / "blobs" / hashlib.sha256(b"w" * 9000).hexdigest()
    assert publish_blob_to_shared_store(blob_path=str(blob), xet_hash="ab" * 32, cache_dir=tmp_path, expected_size=9000)
    assert verify(_scan(repo.path)).sound
    store = tmp_path / "blobs/ab" / ("ab" * 32)
    store.chmod(0o600)
    store.write_bytes(b"v" * 9000)
    assert _found(verify(_scan(repo.path)))["model.safetensors"] == "corrupt"


def test_the_asked_revision_is_checked_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    repo = _model(tmp_path)
    repo.add(OTHER, "b.bin", b"b")
    assert _found(verify(_scan(repo.path), OTHER)) == {"b.bin": "ok"}
    with pytest.raises(RevisionNotFound, match="nope") as missing:
        verify(_scan(repo.path), "nope")
    assert "main" in missing.value.info.suggestion
    with pytest.raises(RevisionNotFound):
        verify(_scan(MadeRepo(tmp_path, "org/empty").path))


def test_progress_counts_every_byte_and_never_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "CHUNK_BYTES", 1000)
    repo = _model(tmp_path)
    (repo.path / "snapshots" / COMMIT / "plain.txt").write_bytes(b"p" * 30)
    seen: list[tuple[int, int, str]] = []
    verify(_scan(repo.path), on_progress=lambda *told: seen.append(told))
    done = [entry[0] for entry in seen]
    assert done == sorted(done)
    assert seen[-1][:2] == (9038, 9038)
    assert len(done) > 10


def test_a_cancelled_check_stops_between_two_chunks_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "CHUNK_BYTES", 1000)
    seen: list[int] = []
    checked = verify(
        _scan(_model(tmp_path).path),
        on_progress=lambda done, _total, _name: seen.append(done),
        is_cancelled=lambda: bool(seen) and seen[-1] >= 3000,
    )
    assert checked.cancelled
    assert not checked.sound
    assert _found(checked) == {"config.json": "ok"}
    assert 3000 <= checked.read_bytes <= 5000


def test_files_that_vanish_or_are_no_files_by_now_are_findings(tmp_path: Path) -> None:
    repo = _model(tmp_path)
    scanned = _scan(repo.path)
    for name, blob in [(path.name, path.resolve()) for path in (repo.path / "snapshots" / COMMIT).iterdir()]:
        blob.unlink()
        if name == "config.json":
            os.mkfifo(blob)
    assert _found(verify(scanned)) == {"config.json": "unreadable", "model.safetensors": "missing"}


def test_a_blob_that_became_a_link_out_is_not_read(tmp_path: Path) -> None:
    repo = _model(tmp_path / "cache")
    scanned = _scan(repo.path)
    (tmp_path / "secret").write_bytes(b"w" * 9000)
    blob = (repo.path / "snapshots" / COMMIT / "model.safetensors").resolve()
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    checked = verify(scanned)
    assert _found(checked)["model.safetensors"] == "unreadable"
    assert checked.read_bytes == 8


@pytest.mark.anyio
async def test_in_a_thread_it_finds_the_same(tmp_path: Path) -> None:
    repo = _scan(_model(tmp_path).path)
    assert await verify_in_thread(repo) == verify(repo)


@pytest.mark.anyio
async def test_a_cancelled_call_ends_its_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "CHUNK_BYTES", 1)
    repo = _scan(_model(tmp_path).path)
    started, ended = anyio.Event(), anyio.Event()
    results: list[Verification] = []
    loop_call = anyio.from_thread.run_sync
    real = verifying.verify

    def watched(*args: object, **named: object) -> Verification:
        results.append(real(*args, **named))  # type: ignore[arg-type]
        loop_call(ended.set)
        return results[0]

    monkeypatch.setattr(verifying, "verify", watched)

    async def call() -> None:
        await verify_in_thread(repo, on_progress=lambda *_told: loop_call(started.set))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await started.wait()
        group.cancel_scope.cancel()
    with anyio.fail_after(60):
        await ended.wait()
    assert results[0].cancelled


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_content_has_its_checksum_exactly_when_it_is_the_same(one: bytes, two: bytes) -> None:
    made = judge_checksum("x", len(two), hashlib.sha256(one).hexdigest(), hashlib.sha256(two).hexdigest())
    assert (made.status == "ok") == (one == two)
    assert isinstance(made, FileCheck)


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("a" * 64, "sha256"),
        ("0" * 40, "git-sha1"),
        ("A" * 64, None),
        ("a" * 63, None),
        ("a" * 64 + "\n", None),
        ("strange-etag", None),
        ("", None),
    ],
)
def test_a_name_is_a_checksum_only_when_it_is_one(name: str, algorithm: str | None) -> None:
    assert algorithm_of(name) == algorithm
