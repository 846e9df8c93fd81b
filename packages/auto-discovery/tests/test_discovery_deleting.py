"""Deleting from a cache: what huggingface_hub would free is freed, and nothing that dies half-way looks whole."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir
from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store

from tests.caches import COMMIT, OTHER, MadeRepo, make_cache
from vllm_auto_discovery.core.deletion import LEFTOVERS, DeletionPlan
from vllm_auto_discovery.deleting import Deletion, Files, execute, prepare
from vllm_mcp_protocol.errors import PathNotAllowed, RevisionNotFound
from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.hf.scanner import InventoryScanner

THIRD = "c" * 40


def _scan(path: Path) -> CachedRepo:
    repo = InventoryScanner().scan_repo(path)
    assert repo is not None
    return repo


def _three_revisions(cache: Path) -> Path:
    """Weights in two of them, a config of each, one file without a blob, tags, and an unfinished download."""
    repo = MadeRepo(cache, "org/m")
    for commit in (COMMIT, OTHER, THIRD):
        repo.add(commit, "config.json", b"config of " + commit.encode())
        repo.add(commit, "README.md", b"the same")
    for commit in (COMMIT, OTHER):
        repo.add(commit, "model.safetensors", b"w" * 5000)
        repo.add(commit, "onnx/model.onnx", b"o" * 300)
    (repo.path / "snapshots" / COMMIT / "plain.txt").write_bytes(b"p" * 70)
    repo.ref("main", COMMIT)
    repo.ref("refs/pr/1", COMMIT)
    repo.ref("v2", OTHER)
    return repo.path


def _tree(root: Path) -> dict[str, str]:
    """Everything below a folder: files by content, links by target."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder, name)
            shown = os.readlink(path) if path.is_symlink() else "/" if path.is_dir() else path.read_text("latin-1")
            found[str(path.relative_to(root))] = shown
    return found


def _used_bytes(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def _delete(path: Path, revision: str | None = None, files: Files | None = None) -> tuple[DeletionPlan, Deletion]:
    plan = prepare(_scan(path), revision)
    return plan, execute(plan, path.parent, files=files)


@pytest.mark.parametrize("seed", range(5))
def test_each_revision_frees_and_leaves_what_huggingface_hub_says(tmp_path: Path, seed: int) -> None:
    cache = make_cache(tmp_path / "ours", 6, seed=seed)
    for number, repo in enumerate(InventoryScanner().scan([cache]).repos):
        commit = repo.revisions[(seed + number) % len(repo.revisions)].commit
        theirs = tmp_path / "theirs"
        shutil.copytree(cache, theirs, symlinks=True)
        strategy = scan_cache_dir(theirs).delete_revisions(commit)
        strategy.execute()
        plan, done = _delete(Path(repo.path), commit)
        assert done.freed_bytes == strategy.expected_freed_size
        assert plan.freed_bytes <= done.freed_bytes <= plan.freed_bytes + plan.store_bytes
        assert _without_leftovers(_tree(cache)) == _tree(theirs)
        assert done.complete
        shutil.rmtree(theirs)


def _without_leftovers(tree: dict[str, str]) -> dict[str, str]:
    return {name: shown for name, shown in tree.items() if Path(name).name != LEFTOVERS}


def test_files_that_another_revision_uses_stay_and_are_told(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    plan, done = _delete(path, "v2")
    assert plan.commits == (OTHER,)
    assert plan.refs == (("v2", OTHER),)
    assert plan.kept_bytes == 5000 + 300 + len("the same")
    assert set(plan.kept_for) == {COMMIT, THIRD}
    assert done.freed_bytes == len("config of ") + 40  # its config
    repo = _scan(path)
    assert {one.commit for one in repo.revisions} == {COMMIT, THIRD}
    assert all(not one.missing for one in repo.revisions)


def test_the_last_revision_takes_the_repository_and_its_unfinished_downloads_with_it(tmp_path: Path) -> None:
    repo = MadeRepo(tmp_path, "org/m")
    repo.add(COMMIT, "config.json", b"{}")
    (repo.path / "blobs/x.incomplete").write_bytes(b"u" * 999)
    plan, done = _delete(repo.path, COMMIT)
    assert plan.whole_repo
    assert (plan.freed_bytes, plan.unfinished_bytes, done.freed_bytes) == (1001, 999, 1001)
    assert not repo.path.exists()
    assert plan.paths[-1] == "."


def test_an_unfinished_download_stays_with_the_other_revisions(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    (path / "blobs/x.incomplete").write_bytes(b"u" * 999)
    plan, _ = _delete(path, "main")
    assert plan.unfinished_bytes == 0
    assert (path / "blobs/x.incomplete").exists()


def test_a_whole_repository_goes_with_all_that_lies_in_it(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    (path / "blobs" / ("d" * 64)).write_bytes(b"orphan")
    (path / ".no_exist" / COMMIT).mkdir(parents=True)
    (path / "snapshots" / COMMIT / "out").symlink_to(tmp_path)
    everything = _used_bytes(path) - _used_bytes(path / "refs")
    _, done = _delete(path)
    assert done.freed_bytes == everything
    assert list(tmp_path.iterdir()) == []


def test_a_ref_without_its_snapshot_can_be_deleted(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    (path / "refs/old").write_text("d" * 40)
    plan, done = _delete(path, "old")
    assert (plan.commits, plan.freed_bytes, plan.whole_repo) == ((), 0, False)
    assert done.complete
    assert not (path / "refs/old").exists()
    assert len(_scan(path).revisions) == 3


def test_a_revision_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    with pytest.raises(RevisionNotFound, match="nope") as missing:
        prepare(_scan(path), "nope")
    assert "main" in missing.value.info.suggestion


def test_the_plan_speaks_in_words(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    words = " ".join(prepare(_scan(path), "main").in_words())
    assert f"org/m: deletes revision {COMMIT}, frees 120 B." in words
    assert f"{OTHER}" in words
    assert "whole repository" in prepare(_scan(path)).in_words()[0]


# --- interruptions ---


class Crash(BaseException):
    """The process dies."""


class FaultyFiles(Files):
    """The n-th change fails: with a death, or with an error of the file system."""

    def __init__(self, fails_at: int, error: Callable[[], BaseException]) -> None:
        self.count, self._fails_at, self._error = 0, fails_at, error

    def _change(self) -> None:
        self.count += 1
        if self.count == self._fails_at:
            raise self._error()

    def unlink(self, name: str, at: int) -> None:
        self._change()
        super().unlink(name, at)

    def rmdir(self, name: str, at: int) -> None:
        self._change()
        super().rmdir(name, at)

    def mkdir(self, name: str, at: int) -> None:
        self._change()
        super().mkdir(name, at)

    def rename(self, name: str, at: int, new_name: str, new_at: int) -> None:
        self._change()
        super().rename(name, at, new_name, new_at)

    def unlink_shared(self, path: Path, cache_root: Path) -> int:
        self._change()
        return super().unlink_shared(path, cache_root)


def _steps(make: Callable[[Path], Path], folder: Path, revision: str | None) -> tuple[int, dict[str, str]]:
    """How many changes an undisturbed deletion makes, and what it leaves."""
    counting = FaultyFiles(0, Crash)
    _delete(make(folder), revision, counting)
    return counting.count, _without_leftovers(_tree(folder))


def _assert_whole_or_gone(path: Path, revision: str | None) -> None:
    """What is still to be seen is complete; of the revision nothing is, once anything of it is gone."""
    repo = InventoryScanner().scan_repo(path)
    for one in repo.revisions if repo else ():
        assert not one.missing
        names = {file.name for file in one.files}
        assert {"config.json", "README.md"} <= names
        assert ("model.safetensors" in names) == (one.commit != THIRD)
    if revision is not None:
        words = [str(warning) for warning in scan_cache_dir(path.parent).warnings]
        assert all(word.startswith("Reference(s) refer to missing commit") for word in words)


def _delete_again(path: Path, revision: str | None) -> None:
    """As a user would: with the same words, else as the error says, else it is done."""
    try:
        _delete(path, revision)
    except RevisionNotFound as missing:
        begun = re.search(r"revision=(\w+) finishes it", missing.info.suggestion)
        if begun:
            _delete(path, begun[1])


@pytest.mark.parametrize("revision", ["main", OTHER, THIRD, None])
def test_a_death_between_any_two_changes_leaves_no_broken_revision_and_a_second_run_finishes(
    tmp_path: Path, revision: str | None
) -> None:
    steps, wanted = _steps(_three_revisions, tmp_path / "whole", revision)
    assert steps >= 5
    for number in range(1, steps + 1):
        cache = tmp_path / str(number)
        path = _three_revisions(cache)
        with pytest.raises(Crash):
            _delete(path, revision, FaultyFiles(number, Crash))
        _assert_whole_or_gone(path, revision)
        _delete_again(path, revision)
        assert _without_leftovers(_tree(cache)) == wanted, number


@pytest.mark.parametrize("revision", ["main", None])
def test_any_change_that_is_refused_is_said_and_a_second_run_finishes(tmp_path: Path, revision: str | None) -> None:
    steps, wanted = _steps(_three_revisions, tmp_path / "whole", revision)
    for number in range(1, steps + 1):
        cache = tmp_path / str(number)
        path = _three_revisions(cache)
        error = PermissionError(13, "Permission denied")
        _, done = _delete(path, revision, FaultyFiles(number, lambda error=error: error))  # type: ignore[misc]
        assert not done.complete
        assert "could not be deleted: Permission denied." in done.left[0]
        _assert_whole_or_gone(path, revision)
        _delete_again(path, revision)
        assert _without_leftovers(_tree(cache)) == wanted, number


def test_another_deletion_in_the_repository_finishes_an_interrupted_one(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    with pytest.raises(Crash):
        _delete(path, "main", FaultyFiles(5, Crash))
    plan, done = _delete(path, OTHER)
    assert plan.leftovers
    assert done.complete
    blobs = {entry.name for entry in (path / "blobs").iterdir()}
    assert blobs == {file.blob for one in _scan(path).revisions for file in one.files}


def test_the_same_plan_may_be_carried_out_again(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    for revision in ("main", None):
        plan, _ = _delete(path, revision)
        again = execute(plan, tmp_path)
        assert (again.freed_bytes, again.removed_files, again.left) == (0, 0, [])
    assert not path.exists()


# --- what changes in between ---


def test_a_blob_that_a_new_revision_uses_by_now_stays(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    plan = prepare(_scan(path), "main")
    new = MadeRepo(tmp_path, "org/m")
    new.add("d" * 40, "config.json", b"config of " + COMMIT.encode())
    done = execute(plan, tmp_path)
    assert any("another revision came to use it" in line for line in done.kept)
    (found,) = [one for one in _scan(path).revisions if one.commit == "d" * 40]
    assert (found.missing, len(found.files)) == ((), 1)


def test_a_branch_that_a_download_moved_stays(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    plan = prepare(_scan(path), COMMIT)
    (path / "refs/main").write_text(THIRD)
    execute(plan, tmp_path)
    assert (path / "refs/main").read_text() == THIRD


@pytest.mark.parametrize("what", ["revision", "download"])
def test_what_came_after_the_plan_keeps_the_repository(tmp_path: Path, what: str) -> None:
    repo = MadeRepo(tmp_path, "org/m")
    repo.add(COMMIT, "config.json", b"{}")
    plan = prepare(_scan(repo.path), COMMIT)
    assert plan.whole_repo
    if what == "revision":
        repo.add(OTHER, "config.json", b"{ }")
    else:
        (repo.path / "blobs/y.incomplete").write_bytes(b"u")
    done = execute(plan, tmp_path)
    assert "came after the plan was made" in done.kept[0]
    left = _scan(repo.path)
    assert len(left.revisions) + len(left.unfinished) == 1


def test_files_that_vanish_meanwhile_are_no_trouble(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    plan = prepare(_scan(path))
    shutil.rmtree(path / "snapshots")
    shutil.rmtree(path / "refs")
    assert execute(plan, tmp_path).complete
    assert not path.exists()


def test_a_blob_with_another_hard_link_frees_nothing(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path)
    (tmp_path / "copy").hardlink_to(next(p for p in (path / "blobs").iterdir() if p.stat().st_size == 5000))
    _, done = _delete(path)
    assert done.freed_bytes < 5000
    assert (tmp_path / "copy").stat().st_size == 5000


# --- strangers ---


def _precious(tmp_path: Path) -> Path:
    """A folder of somebody else's, with what a repository has."""
    outside = tmp_path / "outside"
    for name in ("blobs", "snapshots", "refs"):
        (outside / name).mkdir(parents=True)
        (outside / name / "precious").write_text("precious")
    return outside


@pytest.mark.parametrize("part", ["blobs", "snapshots", "refs"])
def test_a_part_that_became_a_link_is_not_followed(tmp_path: Path, part: str) -> None:
    outside = _precious(tmp_path)
    path = _three_revisions(tmp_path / "cache")
    plan = prepare(_scan(path))
    for child in (path / part).iterdir():
        target = outside / part / child.name
        shutil.copytree(child, target, symlinks=True) if child.is_dir() else shutil.copy(child, target)
    before = _tree(outside)
    shutil.rmtree(path / part)
    (path / part).symlink_to(outside / part)
    done = execute(plan, path.parent)
    assert not done.complete
    assert "a part of its path is a link or a file" in done.left[0]
    assert _tree(outside) == before


def test_links_in_a_snapshot_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = _precious(tmp_path)
    path = _three_revisions(tmp_path / "cache")
    (path / "snapshots" / COMMIT / "folder").symlink_to(outside)
    (path / "snapshots" / COMMIT / "file").symlink_to(outside / "blobs/precious")
    (path / "link").symlink_to(outside)
    before = _tree(outside)
    _, done = _delete(path)
    assert done.complete
    assert _tree(outside) == before


def test_a_repository_that_is_a_link_is_refused(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path / "cache")
    plan = prepare(_scan(path))
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    before = _tree(tmp_path)
    with pytest.raises(PathNotAllowed, match="link"):
        execute(plan, path.parent)
    assert _tree(tmp_path) == before


def test_a_plan_for_another_place_is_refused(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path / "cache")
    plan = prepare(_scan(path))
    for root in (tmp_path, path, tmp_path / "none"):
        with pytest.raises(PathNotAllowed, match="not the folder of a repository in the cache"):
            execute(plan, root)
    assert path.exists()


@pytest.mark.parametrize("name", ["../../../outside/blobs/precious", "..", ".", "", "/etc/x", "a/../../x", "a\0b"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    """The scan gives none; a plan is only a value, though."""
    _precious(tmp_path)
    path = _three_revisions(tmp_path / "cache")
    plan, before = prepare(_scan(path), "main"), _tree(tmp_path)
    for evil in (replace(plan, blobs=(name,)), replace(plan, commits=(name,))):
        with pytest.raises(PathNotAllowed, match="names that lead out"):
            execute(evil, path.parent)
    assert _tree(tmp_path) == before


def test_a_ref_whose_name_leads_out_is_said_and_left(tmp_path: Path) -> None:
    path = _three_revisions(tmp_path / "cache")
    (tmp_path / "precious").write_text(COMMIT)
    plan = replace(prepare(_scan(path), "main"), refs=(("../../../precious", COMMIT),))
    done = execute(plan, path.parent)
    assert done.left == ["refs/../../../precious could not be deleted: its name leads out of the repository."]
    assert (tmp_path / "precious").exists()


# --- contents that the cache's repositories share ---


def _sharing(cache: Path, repo_id: str, content: bytes) -> Path:
    """A repository whose weights lie in the cache's shared store, put there by huggingface_hub."""
    repo = MadeRepo(cache, repo_id)
    repo.add(COMMIT, "config.json", b"{}")
    blob = repo.add(COMMIT, "model.safetensors", content)
    done = publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash="ab" * 32, cache_dir=cache, expected_size=len(content)
    )
    assert done
    assert blob.is_symlink()
    return repo.path


def test_shared_contents_go_with_the_last_repository_that_uses_them(tmp_path: Path) -> None:
    one, two = (_sharing(tmp_path, name, b"w" * 5000) for name in ("org/one", "org/two"))
    plan, done = _delete(one)
    assert (plan.freed_bytes, plan.store_bytes, done.freed_bytes) == (2, 5000, 2)
    assert (two / "snapshots" / COMMIT / "model.safetensors").stat().st_size == 5000
    _, done = _delete(two)
    assert done.freed_bytes == 5002
    assert not (tmp_path / "blobs/ab" / ("ab" * 32)).exists()


def test_a_link_to_shared_contents_is_kept_while_it_is_used(tmp_path: Path) -> None:
    path = _sharing(tmp_path, "org/one", b"w" * 5000)
    repo = MadeRepo(tmp_path, "org/one")
    blob = next(entry.name for entry in (path / "blobs").iterdir() if entry.is_symlink())
    repo.link(OTHER, "model.safetensors", f"../../blobs/{blob}")
    plan, _ = _delete(path, COMMIT)
    assert (plan.store_bytes, plan.kept_bytes) == (0, 5000)
    assert (path / "snapshots" / OTHER / "model.safetensors").stat().st_size == 5000
