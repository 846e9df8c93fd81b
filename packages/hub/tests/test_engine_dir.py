"""An engine's folder: what is written is whole or absent, what is shown is bounded and without secrets."""

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_hub.host.engine_dir import MAX_TMP_PATH_CHARS, TAIL_LIMIT_BYTES, EngineDir, engine_dirs
from vllm_mcp_protocol.errors import DiskFull


@pytest.fixture
def edir(tmp_path: Path) -> EngineDir:
    return EngineDir(tmp_path / "e7")


def test_what_is_written_is_read_again(edir: EngineDir) -> None:
    assert edir.id == "e7"
    assert (edir.read_spec(), edir.read_exit(), edir.read_key()) == (None, None, None)
    edir.write_spec({"model": "org/m", "devices": ["0"]})
    edir.write_exit({"code": 0, "failure": None})
    edir.write_key("k")
    assert edir.read_spec() == {"model": "org/m", "devices": ["0"]}
    assert edir.read_exit() == {"code": 0, "failure": None}
    assert edir.read_key() == "k"
    assert sorted(path.name for path in edir.path.iterdir()) == ["api.key", "exit.json", "spec.json"]


def test_only_the_user_reads_the_folder_and_the_key(edir: EngineDir) -> None:
    edir.write_key("k")
    assert stat.S_IMODE(edir.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((edir.path / "api.key").stat().st_mode) == 0o600


def test_marks(edir: EngineDir) -> None:
    edir.write_spec({})
    assert (edir.is_ready(), edir.is_stopping()) == (False, False)
    edir.mark_ready()
    edir.mark_stopping()
    assert (edir.is_ready(), edir.is_stopping()) == (True, True)
    edir.begin_life()
    assert (edir.is_ready(), edir.is_stopping()) == (False, False)


def test_a_full_disk_is_told_and_loses_nothing(edir: EngineDir) -> None:
    edir.write_spec({"old": True})
    # The kernel's own "disk full", without a disk to fill: the temporary file leads to /dev/full.
    (edir.path / f".spec.json.{os.getpid()}-{threading.get_native_id()}-0-0.tmp").symlink_to("/dev/full")
    with pytest.raises(DiskFull) as caught:
        edir.write_spec({"new": True})
    assert caught.value.info.details["path"] == str(edir.spec_path)
    assert caught.value.info.details["free_bytes"] > 0
    assert edir.read_spec() == {"old": True}
    assert [path.name for path in edir.path.iterdir()] == ["spec.json"]


def test_content_that_is_no_object_is_refused(edir: EngineDir) -> None:
    edir.write_spec({})
    edir.spec_path.write_text("[1]")
    with pytest.raises(ValueError, match="not an object"):
        edir.read_spec()


def test_rotation_keeps_the_end_and_the_writer_goes_on(edir: EngineDir) -> None:
    edir.write_spec({})
    assert not edir.rotate_log(10)
    with open(edir.log_path, "ab", buffering=0) as log:
        log.write(b"0123456789")
        assert not edir.rotate_log(10)
        log.write(b"abcdef")
        assert edir.rotate_log(10)
        log.write(b"next")
    assert (edir.path / "engine.log.1").read_bytes() == b"6789abcdef"
    assert edir.log_path.read_bytes() == b"next"


def test_rotation_on_a_full_disk_gives_room(edir: EngineDir) -> None:
    edir.write_spec({})
    edir.log_path.write_bytes(b"x" * 100)
    (edir.path / "engine.log.1").write_bytes(b"old")
    (edir.path / "engine.log.1.tmp").symlink_to("/dev/full")
    assert edir.rotate_log(10)
    assert edir.log_path.stat().st_size == 0
    assert not (edir.path / "engine.log.1").exists()


LINES = st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60), max_size=40)


@given(lines=LINES, count=st.integers(0, 50))
def test_tail_is_the_end_of_the_log(tmp_path_factory: pytest.TempPathFactory, lines: list[str], count: int) -> None:
    lines = [
        line.replace("hf_", "").replace("sk-", "").replace("earer", "").replace(":", "").replace("=", "")
        for line in lines
    ]
    edir = EngineDir(tmp_path_factory.mktemp("log") / "e1")
    edir.write_spec({})
    edir.log_path.write_text("".join(f"{line}\n" for line in lines))
    shown, truncated = edir.tail(count)
    assert shown == ([] if count == 0 else lines[-count:])
    assert truncated is (len(lines) > count)


def test_tail_of_no_log_is_empty(edir: EngineDir) -> None:
    assert edir.tail(10) == ([], False)


@pytest.mark.parametrize("line_bytes", [10, 999, 50_000])
def test_tail_is_bounded_and_says_so(edir: EngineDir, line_bytes: int) -> None:
    edir.write_spec({})
    edir.log_path.write_text(f"{'é' * (line_bytes // 2)}\n" * (3_000_000 // line_bytes))
    shown, truncated = edir.tail(1_000_000)
    assert truncated
    assert shown
    assert sum(len(line.encode()) + 1 for line in shown) <= TAIL_LIMIT_BYTES


def test_tail_shows_text_and_no_secrets(edir: EngineDir) -> None:
    edir.write_spec({})
    edir.log_path.write_bytes(
        b"\x1b[1;36m(Worker pid=1)\x1b[0m hi\n10%\r 50%\r100% done\n"
        b"args: {'api_key': ['s3cret'], 'hf_token': 'hf_abcdefghijklmnop'} Bearer tok3n sk-abcdefghijk\n\xff\xfe\x00\n"
    )
    shown, _ = edir.tail(10)
    assert shown[:2] == ["(Worker pid=1) hi", "100% done"]
    text = "\n".join(shown)
    assert not any(secret in text for secret in ("s3cret", "hf_abc", "tok3n", "sk-abc"))


def test_tail_by_level_keeps_tracebacks(edir: EngineDir) -> None:
    edir.write_spec({})
    edir.log_path.write_text(
        "(APIServer pid=1) INFO 11-21 00:50:22 [a.py:1] fine\n"
        "plain text\n"
        "(APIServer pid=1) WARNING 11-21 00:50:22 [a.py:1] careful\n"
        "(EngineCore pid=2) ERROR 11-21 00:50:23 [b.py:2] broken\n"
        "INFO:     Started server process [1]\n"
        "Traceback (most recent call last):\n"
        '  File "x.py", line 1\n'
        "ValueError: no\n"
    )
    errors, _ = edir.tail(100, "ERROR")
    assert [line.split()[-1] for line in errors] == ["broken", "last):", "1", "no"]
    warnings, _ = edir.tail(100, "warning")
    assert len(warnings) == 5
    with pytest.raises(ValueError, match="LOUD"):
        edir.tail(1, "LOUD")


def test_the_tmp_folder_is_inside_when_its_path_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    edir = EngineDir(Path("/tmp") / f"t{os.getpid()}" / "e1")
    try:
        assert edir.tmp_path == edir.path / "tmp"
        assert edir.tmp_path.is_dir()
        edir.cleanup_tmp()
        assert not (edir.path / "tmp").exists()
    finally:
        edir.cleanup_tmp()
        edir.path.rmdir()
        edir.path.parent.rmdir()


def test_the_tmp_folder_is_elsewhere_when_vllms_sockets_would_not_fit(tmp_path: Path) -> None:
    edir = EngineDir(tmp_path / ("long" * 20) / "e1")
    first = edir.tmp_path
    assert len(str(first)) <= MAX_TMP_PATH_CHARS
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert edir.tmp_path == first == EngineDir(edir.path).tmp_path
    (first / "socket").touch()
    edir.cleanup_tmp()
    assert not first.exists()


def test_a_tmp_folder_that_somebody_else_put_there_is_not_used(tmp_path: Path) -> None:
    edir = EngineDir(tmp_path / ("long" * 20) / "e1")
    first = edir.tmp_path
    first.chmod(0o777)
    second = edir.tmp_path
    assert second != first
    edir.cleanup_tmp()
    assert first.exists()
    first.rmdir()
    target = tmp_path / "precious"
    target.mkdir(mode=0o700)
    (edir.path / "tmp_path").write_text(str(target))
    edir.cleanup_tmp()
    assert target.exists()


def test_folders_are_sorted_by_number_and_others_ignored(tmp_path: Path) -> None:
    for name in ("e10", "e9", "e1", "e01", "x", "e", "e-1", "ee2"):
        (tmp_path / name).mkdir()
    assert [edir.id for edir in engine_dirs(tmp_path)] == ["e1", "e9", "e10"]
    assert engine_dirs(tmp_path / "absent") == []
