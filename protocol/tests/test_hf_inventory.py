"""What a scan of caches and folders finds, beside huggingface_hub's own scan; what it survives; what it remembers."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.caches import COMMIT, CONFIG, NASTY, OTHER, MadeRepo, Nasty, age, bad, make_cache
from vllm_mcp_protocol import reading
from vllm_mcp_protocol.hf.inventory import CachedRepo, Inventory
from vllm_mcp_protocol.hf.scanner import InventoryScanner, scan_folder

COMMITS = (COMMIT, OTHER, "c" * 40)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


def scan(*folders: Path) -> Inventory:
    return InventoryScanner().scan(folders)


def only(inventory: Inventory) -> CachedRepo:
    (repo,) = inventory.repos
    return repo


Files = dict[str, tuple[int, bool]]
Seen = dict[tuple[str, str], tuple[int, float, dict[str, tuple[int, set[str], Files]]]]


def ours(inventory: Inventory) -> Seen:
    """Of each repository its size and newest change, and of each revision its size, refs and files with sizes."""
    return {
        (repo.kind, repo.repo_id): (
            repo.size_bytes,
            repo.last_modified_s,
            {
                revision.commit: (
                    revision.size_bytes,
                    set(revision.refs),
                    {file.name: (file.size_bytes, file.blob is None) for file in revision.files},
                )
                for revision in repo.revisions
            },
        )
        for repo in inventory.repos
    }


def theirs(cache: Path) -> Seen:
    """The same, as huggingface_hub says it."""
    from huggingface_hub import scan_cache_dir

    found = scan_cache_dir(cache)
    assert not found.warnings
    return {
        (repo.repo_type, repo.repo_id): (
            repo.size_on_disk,
            repo.last_modified,
            {
                revision.commit_hash: (
                    revision.size_on_disk,
                    set(revision.refs),
                    {
                        str(file.file_path.relative_to(revision.snapshot_path)): (
                            file.size_on_disk,
                            file.blob_path == file.file_path,
                        )
                        for file in revision.files
                    },
                )
                for revision in repo.revisions
            },
        )
        for repo in found.repos
    }


@pytest.mark.parametrize("shared", [False, True], ids=["own blobs", "shared blobs"])
@pytest.mark.parametrize("seed", range(3))
def test_whole_caches_are_seen_as_huggingface_hub_sees_them(tmp_path: Path, seed: int, shared: bool) -> None:
    cache = make_cache(tmp_path / "hub", 30, seed=seed, shared=shared)
    found = scan(cache)
    assert ours(found) == theirs(cache)
    assert len(found.repos) == 30
    assert found.all_warnings == ()
    assert [repo.repo_id for repo in found.repos] == sorted(repo.repo_id for repo in found.repos)


_NAMES = st.sampled_from(("config.json", "a.bin", "ü.txt", "a b.json", ".hidden", "onnx/m.onnx", "a/b/c.txt"))
_REFS = st.sampled_from(("main", "v1.0", "refs/pr/1", "feature/x"))


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(
        st.tuples(st.sampled_from(COMMITS), _NAMES),
        st.tuples(st.binary(max_size=9), st.sampled_from(("own", "shared", "plain"))),
        min_size=1,
        max_size=15,
    ),
    refs=st.dictionaries(_REFS, st.integers(0, 2), max_size=4),
)
def test_any_layout_is_seen_as_huggingface_hub_sees_it(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[tuple[str, str], tuple[bytes, str]],
    refs: dict[str, int],
) -> None:
    cache = tmp_path_factory.mktemp("hub")
    repo = MadeRepo(cache, "org/any")
    for (commit, name), (content, how) in files.items():
        if how == "plain":
            path = repo.path / "snapshots" / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        else:
            repo.add(commit, name, content, shared=how == "shared")
    there = sorted({commit for commit, _ in files})
    for name, number in refs.items():
        repo.ref(name, there[number % len(there)])
    found = scan(cache)
    assert found.all_warnings == ()
    assert ours(found) == theirs(cache)


@pytest.mark.parametrize("nasty", NASTY, ids=lambda nasty: nasty.name.replace(" ", "-"))
def test_what_is_bad_is_a_warning_and_harms_nothing_else(tmp_path: Path, nasty: Nasty) -> None:
    cache = make_cache(tmp_path / "hub", 4, seed=7)
    good = ours(scan(cache))
    nasty.make(cache)
    found = scan(cache)
    assert any(nasty.warning in warning for warning in found.all_warnings), found.all_warnings
    json.dumps(found.all_warnings).encode()
    seen = ours(found)
    bad_one = seen.pop(("model", "org/bad"), None)
    seen.pop(("model", "org/other"), None)
    assert seen == good
    revisions = bad_one[2] if bad_one is not None else {}
    assert (tuple(revisions[COMMIT][2]) if COMMIT in revisions else None) == nasty.kept


def test_all_that_is_bad_at_once(tmp_path: Path) -> None:
    """Hardly a cache any more; the scan still ends and still finds what is good."""
    cache = make_cache(tmp_path / "hub", 4, seed=7)
    good = ours(scan(cache))
    for nasty in NASTY:
        try:
            nasty.make(cache)
        except OSError:
            continue  # what was made before is in its way
    assert good.items() <= ours(scan(cache)).items()


def test_links_to_nowhere_are_missing_files(cache: Path) -> None:
    repo = bad(cache)
    repo.link(COMMIT, "model-00001-of-00002.safetensors", "../../blobs/" + "e" * 64)
    repo.link(COMMIT, "onnx/model.onnx", "../../../blobs/" + "f" * 64)
    (repo.path / "blobs" / f"{'e' * 64}.0a1b2c3d.incomplete").write_bytes(b"x" * 70)
    found = only(scan(cache))
    assert found.revisions[0].missing == ("model-00001-of-00002.safetensors", "onnx/model.onnx")
    assert [(blob.name[64:], blob.size_bytes) for blob in found.unfinished] == [(".0a1b2c3d.incomplete", 70)]
    assert found.size_bytes == found.revisions[0].size_bytes + 70


def test_main_comes_first_and_then_the_newest(cache: Path) -> None:
    repo = MadeRepo(cache, "org/m")
    for number, commit in enumerate((OTHER, "d" * 40, COMMIT, "c" * 40)):
        repo.add(commit, "config.json", b"%d" % number)
        os.utime(repo.path / "snapshots" / commit, (number, number))
    assert [revision.commit[0] for revision in only(scan(cache)).revisions] == ["c", "a", "d", "b"]
    repo.ref("main", "d" * 40)
    found = only(scan(cache))
    assert [revision.commit[0] for revision in found.revisions] == ["d", "c", "a", "b"]
    assert [found.revision(name) for name in (None, "main", "d" * 40)] == [found.revisions[0]] * 3
    assert found.revision("no-such") is None


def test_the_way_to_a_files_content_leads_over_no_link(cache: Path) -> None:
    repo = bad(cache)
    (repo.path / "snapshots" / COMMIT / "own.txt").write_bytes(b"own")
    revision = only(scan(cache)).revisions[0]
    paths = {file.name: Path(revision.path_of(file)) for file in revision.files}
    assert {name: path.read_bytes() for name, path in paths.items()} == {
        "config.json": json.dumps(CONFIG).encode(),
        "own.txt": b"own",
    }
    assert not any(path.is_symlink() for path in paths.values())


def test_absolute_links_and_links_over_links_lead_to_their_blob(cache: Path) -> None:
    repo = bad(cache)
    blob = repo.add(COMMIT, "model.safetensors", b"w" * 100)
    weights = repo.add(COMMIT, "shared.safetensors", b"s" * 10, shared=True)
    repo.link(COMMIT, "absolute.safetensors", str(blob))
    repo.link(COMMIT, "copy.safetensors", "model.safetensors")
    repo.link(COMMIT, "copy-of-shared.safetensors", "shared.safetensors")
    found = only(scan(cache))
    blobs = {file.name: file.blob for file in found.revisions[0].files if file.name != "config.json"}
    assert blobs == {
        **dict.fromkeys(("model.safetensors", "absolute.safetensors", "copy.safetensors"), blob.name),
        **dict.fromkeys(("shared.safetensors", "copy-of-shared.safetensors"), weights.name),
    }
    assert found.revisions[0].size_bytes == 110 + len(json.dumps(CONFIG))
    assert found.warnings == ()


def test_the_place_of_shared_contents_may_not_be_a_link_out(cache: Path, tmp_path: Path) -> None:
    repo = bad(cache)
    repo.add(COMMIT, "model.safetensors", b"w" * 100, shared=True)
    (cache / "blobs").rename(tmp_path / "elsewhere")
    (cache / "blobs").symlink_to(tmp_path / "elsewhere")
    found = only(scan(cache))
    assert [file.name for file in found.revisions[0].files] == ["config.json"]
    assert any("is a link out of the cache" in warning for warning in found.warnings)


def test_leftovers_of_other_programs_are_no_refs_and_no_revisions(cache: Path) -> None:
    repo = bad(cache)
    repo.ref("main.0123abcd.tmp", OTHER)
    (repo.path / "refs/.DS_Store").write_bytes(b"\0")
    (repo.path / "snapshots/.DS_Store").write_bytes(b"\0")
    (repo.path / ".no_exist" / COMMIT).mkdir(parents=True)
    found = only(scan(cache))
    assert (found.refs, len(found.revisions), found.warnings) == ((("main", COMMIT),), 1, ())


def test_a_folder_with_too_many_entries_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of 20,000 is lowered in one place; a folder's own size decides how its names are read."""
    repo = bad(cache)
    for number in range(30):
        repo.add(COMMIT, f"{number}.txt", b"x")
    for module in ("hf.scan.notes", "hf.scanner"):
        monkeypatch.setattr(f"vllm_mcp_protocol.{module}.MOST_ENTRIES", 20)
    monkeypatch.setattr(reading, "MOST_ENTRIES", 20)
    for large_bytes in (10**9, 0):
        monkeypatch.setattr("vllm_mcp_protocol.hf.scan.notes.LARGE_FOLDER_BYTES", large_bytes)
        found = only(scan(cache))
        assert len(found.revisions[0].files) == 20
        assert any("only 20 of its entries were read" in warning for warning in found.warnings)


def test_a_repository_of_thousands_of_folders_is_cut_short(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mcp_protocol.hf.scan.notes.MOST_FOLDERS", 5)
    repo = bad(cache)
    for number in range(9):
        repo.add(COMMIT, f"{number}/x.txt", b"x")
    found = only(scan(cache))
    assert len(found.revisions[0].files) == 1 + 5
    assert found.warnings == ("more than 5 folders; the rest is not read",)


def test_a_cache_that_is_not_there_is_empty_and_one_under_two_names_is_read_once(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "hub", 2)
    (tmp_path / "other-name").symlink_to(cache)
    found = scan(tmp_path / "none", cache, tmp_path / "other-name", tmp_path / "none/below")
    assert (len(found.repos), found.warnings) == (2, ())
    file = tmp_path / "file"
    file.touch()
    assert "Not a directory" in scan(file).warnings[0]


def test_a_cache_is_found_by_a_relative_path_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad(cache).add(COMMIT, "shared.safetensors", b"s" * 10, shared=True)
    whole = only(scan(cache))
    monkeypatch.chdir(cache)
    for found in (only(scan(Path())), InventoryScanner().scan_repo(Path("models--org--bad"))):
        assert found is not None
        assert found.revisions[0].files == whole.revisions[0].files
        assert Path(found.path).resolve() == Path(whole.path)


@pytest.mark.parametrize("was_on", [True, False])
def test_a_scan_leaves_the_collector_as_it_was_and_nothing_open(cache: Path, was_on: bool) -> None:
    bad(cache)
    scanner, opened = InventoryScanner(), os.listdir("/proc/self/fd")
    try:
        if not was_on:
            gc.disable()
        for folder in (cache, cache / "models--org--bad/refs/main"):
            scanner.scan([folder])
        scanner.scan_repo(cache / "models--org--bad")
        assert gc.isenabled() == was_on
    finally:
        gc.enable()
    assert os.listdir("/proc/self/fd") == opened


NOBODY = 65534
_PERMISSIONS = f"""
import os
from pathlib import Path
from vllm_mcp_protocol.hf.scanner import InventoryScanner

if os.getuid() == 0:  # who may read everything
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
scanner, cache = InventoryScanner(), Path("hub")
bad = cache / "models--org--bad"
for folder in (bad / "blobs", bad / "refs", *(bad / "snapshots").iterdir(), bad / "snapshots", bad, cache):
    mode = folder.stat().st_mode
    for less in (0o000, 0o400, 0o100):
        folder.chmod(less)
        found = scanner.scan([cache])
        denied = any("Permission denied" in text or "is missing" in text for text in found.all_warnings)
        assert denied or (folder == bad and less == 0o100), (folder, less)  # what is in it is known by name
        assert folder == cache or any(repo.repo_id == "org/good" for repo in found.repos)
    folder.chmod(mode)
    assert scanner.scan([cache]).all_warnings == (), folder
"""


def test_what_may_not_be_read_is_a_warning_until_it_may(cache: Path) -> None:
    bad(cache)
    MadeRepo(cache, "org/good").add(COMMIT, "config.json", b"{}")
    age(cache)
    if os.getuid() == 0:
        for path in (cache.parent, cache, *cache.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    subprocess.run([sys.executable, "-c", _PERMISSIONS], cwd=cache.parent, check=True)


# --- scanning again ---


@pytest.fixture
def known(cache: Path) -> InventoryScanner:
    """A scanner that has scanned a settled cache with `org/bad`, `org/other` and two more."""
    make_cache(cache, 2, seed=3)
    bad(cache)
    MadeRepo(cache, "org/other").add(OTHER, "onnx/model.onnx", b"x")
    (cache / "models--org--bad/snapshots" / COMMIT / "own.txt").write_bytes(b"own")
    age(cache)
    scanner = InventoryScanner()
    scanner.scan([cache])
    return scanner


def by_id(inventory: Inventory) -> dict[str, CachedRepo]:
    return {repo.repo_id: repo for repo in inventory.repos}


def test_what_did_not_change_is_not_read_again(known: InventoryScanner, cache: Path) -> None:
    """A blob that grows in place shows in no folder: only who reads the repository again sees it."""
    before = known.scan([cache])
    blob = next((cache / "models--org--other/blobs").iterdir())
    with blob.open("ab") as file:
        file.write(b"more")
    warm, fresh = known.scan([cache]), known.scan([cache], fresh=True)
    assert all(ours is theirs for ours, theirs in zip(before.repos, warm.repos, strict=True))
    assert by_id(fresh)["org/other"].size_bytes == by_id(warm)["org/other"].size_bytes + 4
    assert by_id(fresh)["org/bad"] is by_id(warm)["org/bad"]


def _move_ref(repo: Path) -> None:
    """In place, without a change of its folder."""
    (repo / "refs/main").write_text(OTHER)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda repo: MadeRepo(repo.parent, "org/bad").add(COMMIT, "new.txt", b"new"),
    "a new nested file": lambda repo: MadeRepo(repo.parent, "org/bad").add(COMMIT, "a/b/new.txt", b"new"),
    "a new revision": lambda repo: MadeRepo(repo.parent, "org/bad").add(OTHER, "config.json", b"{}"),
    "a new ref": lambda repo: MadeRepo(repo.parent, "org/bad").ref("refs/pr/1", COMMIT),
    "a moved ref": _move_ref,
    "a ref that is gone": lambda repo: (repo / "refs/main").unlink(),
    "a file that is gone": lambda repo: (repo / "snapshots" / COMMIT / "config.json").unlink(),
    "a blob that is gone": lambda repo: next((repo / "blobs").iterdir()).unlink(),
    "a plain file written in place": lambda repo: (repo / "snapshots" / COMMIT / "own.txt").write_bytes(b"owner"),
    "a download that began": lambda repo: (repo / "blobs/x.incomplete").write_bytes(b"1"),
    "refs that are gone": lambda repo: (repo / "refs").rename(repo / "away"),
    "blobs that are gone": lambda repo: (repo / "blobs").rename(repo / "away"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=[name.replace(" ", "-") for name in CHANGES])
def test_every_change_is_seen_by_the_next_scan(
    known: InventoryScanner, cache: Path, change: Callable[[Path], object]
) -> None:
    before = by_id(known.scan([cache]))
    change(cache / "models--org--bad")
    after = by_id(known.scan([cache]))
    assert after["org/bad"] != before["org/bad"]
    assert after["org/bad"] == by_id(scan(cache))["org/bad"]
    assert all(after[name] is before[name] for name in before if name != "org/bad")


def test_a_nested_folder_is_watched_too(known: InventoryScanner, cache: Path) -> None:
    MadeRepo(cache, "org/other").add(OTHER, "onnx/second.onnx", b"y")
    assert [file.name for file in by_id(known.scan([cache]))["org/other"].revisions[0].files] == [
        "onnx/model.onnx",
        "onnx/second.onnx",
    ]


def test_a_download_is_seen_to_grow_and_to_finish(known: InventoryScanner, cache: Path) -> None:
    part = cache / "models--org--bad/blobs/x.incomplete"
    part.write_bytes(b"1")
    age(cache)
    sizes = []
    for _ in range(3):
        with part.open("ab") as file:
            file.write(b"1")
        (left,) = by_id(known.scan([cache]))["org/bad"].unfinished
        sizes.append(left.size_bytes)
    assert sizes == [2, 3, 4]
    part.rename(part.with_suffix(""))
    age(cache)
    assert by_id(known.scan([cache]))["org/bad"].unfinished == ()


def test_shared_contents_that_are_gone_are_noticed(cache: Path) -> None:
    bad(cache).add(COMMIT, "model.safetensors", b"w" * 9, shared=True)
    age(cache)
    scanner = InventoryScanner()
    assert only(scanner.scan([cache])).revisions[0].missing == ()
    (content,) = (path for path in (cache / "blobs").glob("*/*") if not path.suffix)
    content.unlink()
    assert only(scanner.scan([cache])).revisions[0].missing == ("model.safetensors",)
    content.write_bytes(b"w" * 9)
    assert only(scanner.scan([cache])).revisions[0].missing == ()


def test_what_is_shared_with_another_repository_leaves_this_one_as_it_is(cache: Path) -> None:
    bad(cache).add(COMMIT, "model.safetensors", b"w" * 9, shared=True)
    age(cache)
    scanner = InventoryScanner()
    before = only(scanner.scan([cache]))
    MadeRepo(cache, "org/other").add(OTHER, "model.safetensors", b"w" * 9, shared=True)
    after = by_id(scanner.scan([cache]))
    assert after["org/bad"] is before
    assert after["org/other"].size_bytes == 9


def test_what_changed_just_now_is_read_again(cache: Path) -> None:
    """Another change in the same tick of the file system's clock would show in no folder; so does this one."""
    bad(cache)
    scanner = InventoryScanner()
    before = only(scanner.scan([cache]))
    assert only(scanner.scan([cache])) is before
    with next((cache / "models--org--bad/blobs").iterdir()).open("ab") as file:
        file.write(b"more")
    assert only(scanner.scan([cache])).size_bytes == before.size_bytes + 4


def test_a_change_is_seen_although_the_time_of_the_folder_was_set_back(known: InventoryScanner, cache: Path) -> None:
    """`rsync --times` and `cp --preserve` do that."""
    before = by_id(known.scan([cache]))
    folder = cache / "models--org--bad/snapshots" / COMMIT
    status = folder.stat()
    (folder / "config.json").rename(folder / "renamed.json")
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert by_id(known.scan([cache]))["org/bad"] != before["org/bad"]


@pytest.mark.parametrize("name", ["refs", "blobs", "snapshots"])
def test_a_folder_that_comes_later_is_seen(cache: Path, name: str) -> None:
    folder = bad(cache).path / name
    folder.rename(cache / ".away")
    age(cache)
    scanner = InventoryScanner()
    scanner.scan([cache])
    (cache / ".away").rename(folder)
    assert only(scanner.scan([cache])) == only(scan(cache))


def test_repositories_that_come_and_go_are_seen(known: InventoryScanner, cache: Path) -> None:
    MadeRepo(cache, "org/new").add(COMMIT, "config.json", b"{}")
    assert "org/new" in by_id(known.scan([cache]))
    (cache / "models--org--new").rename(cache / "models--org--newer")
    names = by_id(known.scan([cache]))
    assert "org/newer" in names
    assert "org/new" not in names


def test_one_repository_alone(known: InventoryScanner, cache: Path) -> None:
    before = by_id(known.scan([cache]))["org/bad"]
    assert known.scan_repo(cache / "models--org--bad") is before
    for name in ("models--org--none", "models--", "CACHEDIR.TAG", ".locks", "models--a b", ""):
        assert known.scan_repo(cache / name) is None, name
    (cache / "models--org--link").symlink_to("models--org--bad")
    assert known.scan_repo(cache / "models--org--link") is None


# --- plain folders ---


def model(path: Path, *files: str) -> Path:
    for name in files or ("config.json", "model.safetensors"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"{}")
    return path


def test_models_below_a_folder_and_below_its_folders(tmp_path: Path) -> None:
    expected = [
        model(tmp_path / "llama", "config.json", "onnx/model.onnx", ".git/config.json"),
        model(tmp_path / "mistral", "params.json", "consolidated.safetensors"),
        model(tmp_path / "org/gguf", "model-Q4.gguf"),
        model(tmp_path / "org/lora", "adapter_config.json"),
    ]
    model(tmp_path / "a/b/too-deep")
    model(tmp_path / ".hidden")
    model(tmp_path / "pipeline", "model_index.json", "text_encoder/config.json")
    (tmp_path / "notes.txt").touch()
    found = scan(tmp_path)
    assert [folder.path for folder in found.folders] == [str(path) for path in expected]
    assert [file.name for file in found.folders[0].files] == ["config.json", "onnx/model.onnx"]
    assert found.folders[0].size_bytes == 4
    assert found.all_warnings == ()


def test_a_folder_that_is_a_model_itself(tmp_path: Path) -> None:
    model(tmp_path, "config.json", "1_Pooling/config.json")
    (only_one,) = scan(tmp_path).folders
    assert (only_one.path, len(only_one.files)) == (str(tmp_path), 2)


def test_a_cache_may_hold_plain_models_too(cache: Path) -> None:
    bad(cache)
    model(cache / "my-model")
    model(cache / "blobs/aa")
    found = scan(cache)
    assert [folder.path for folder in found.folders] == [str(cache / "my-model")]
    assert len(found.repos) == 1
    assert InventoryScanner().scan([cache], plain=False).folders == ()


def test_plain_folders_follow_links_only_inside_the_folder_that_was_named(tmp_path: Path) -> None:
    models, outside = tmp_path / "models", model(tmp_path / "outside")
    folder = model(models / "llama")
    (models / "linked").symlink_to(outside)
    (models / "store.safetensors").write_bytes(b"123")
    (folder / "inside.safetensors").symlink_to("../store.safetensors")
    (folder / "out.json").symlink_to(outside / "config.json")
    (folder / "gone.json").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"\xe4")).touch()
    (only_one,) = scan(models).folders
    assert [file.name for file in only_one.files] == ["config.json", "inside.safetensors", "model.safetensors"]
    assert only_one.size_bytes == 2 + 2 + 3
    for part in ("out.json is a link out", "gone.json is missing", "pipe is not a file", "not a name in UTF-8"):
        assert any(part in warning for warning in only_one.warnings), part
    assert any("linked is a link to a folder" in warning for warning in scan(models).warnings)
    named = scan_folder(str(folder))
    assert named is not None
    assert "out.json" in [file.name for file in named.files]


def test_a_plain_model_keeps_its_object_until_one_of_its_files_is_written(tmp_path: Path) -> None:
    folder = model(tmp_path / "llama")
    scanner = InventoryScanner()
    (before,) = scanner.scan([tmp_path]).folders
    assert scanner.scan([tmp_path]).folders[0] is before
    os.utime(folder / "config.json", (1, 1))
    assert scanner.scan([tmp_path]).folders[0] is not before


def test_a_home_folder_is_not_searched_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mcp_protocol.hf.scanner._MOST_LOOKED_IN", 5)
    for number in range(9):
        (tmp_path / str(number)).mkdir()
    assert [text for text in scan(tmp_path).warnings if "only 5 folders are looked into" in text]
    deep = tmp_path / ("x" * 200) / ("y" * 200)
    model(deep)
    monkeypatch.undo()
    assert any("at most 400 characters" in warning for warning in scan(tmp_path).warnings)
