"""Files written whole, and read from their end."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import DiskFull
from vllm_mcp_protocol.files import Drafts, disk_error, read_end, write_all_atomic, write_atomic


def test_a_file_is_replaced_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["spec.json"]


def test_what_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "spec.json" / "in the way").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "spec.json", b"new")
    assert os.listdir(tmp_path) == ["spec.json"]


_WRITE_WITH_A_LIMIT = f"""
import resource, signal, sys
from pathlib import Path
from vllm_mcp_protocol.files import Drafts, write_atomic
signal.signal({int(signal.SIGXFSZ)}, signal.SIG_IGN)
resource.setrlimit({resource.RLIMIT_FSIZE}, (1000, 1000))
write_atomic(Path(sys.argv[1]), bytes(5000))
"""


def test_a_write_that_stops_halfway_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_WITH_A_LIMIT, str(path)], capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["spec.json"]


def test_of_many_files_all_are_written_or_none_is_replaced(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number % 2}" / f"{number}" for number in range(30)]
    for folder in ("0", "1"):
        (tmp_path / folder).mkdir()
    write_all_atomic((path, b"old") for path in paths)
    with pytest.raises(FileNotFoundError):
        write_all_atomic([*((path, b"new") for path in paths), (tmp_path / "no folder" / "x", b"new")])
    assert [path.read_bytes() for path in paths] == [b"old"] * 30
    write_all_atomic((path, path.name.encode()) for path in paths)
    assert [path.read_bytes() for path in paths] == [path.name.encode() for path in paths]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    write_all_atomic([])


def test_only_a_full_disk_is_explained(tmp_path: Path) -> None:
    full = disk_error(OSError(28, "No space left on device"), tmp_path / "x")
    assert isinstance(full, DiskFull)
    assert str(tmp_path / "x") in str(full)
    refused = PermissionError(13, "Permission denied")
    assert disk_error(refused, tmp_path / "x") is refused


@given(content=st.binary(max_size=50), limit=st.integers(1, 60), since=st.integers(0, 60))
def test_the_end_is_the_end(tmp_path_factory: pytest.TempPathFactory, content: bytes, limit: int, since: int) -> None:
    path = tmp_path_factory.mktemp("end") / "log"
    path.write_bytes(content)
    assert read_end(path, limit) == content[-limit:]
    kept = content if since > len(content) else content[since:]
    assert read_end(path, limit, since_byte=since) == kept[-limit:]


def test_a_file_that_came_meanwhile_is_not_replaced_unless_that_is_wanted(tmp_path: Path) -> None:
    with Drafts() as drafts:
        for name, replace in (("a", False), ("b", False), ("c", True)):
            drafts.add([(tmp_path / name, b"ours")], replace=replace)
        for name in ("b", "c"):
            (tmp_path / name).write_bytes(b"theirs")
        first, second, third = drafts.finish()
    assert (first, type(second), third) == (None, FileExistsError, None)
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"ours", b"theirs", b"ours"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]
