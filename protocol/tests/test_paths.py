"""Folders: where state may live, and how paths from tools are confined."""

import os
import socket
from pathlib import Path

import pytest

from vllm_mcp_protocol.errors import PathNotAllowed, StateDirRefused
from vllm_mcp_protocol.paths import (
    SOCKET_PATH_LIMIT_BYTES,
    confine,
    file_system_of,
    model_cache_dirs,
    prepare_state_dir,
    state_dir,
    user_home,
)
from vllm_mcp_protocol.settings import Settings


def test_the_state_folder_does_not_depend_on_the_clients_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = state_dir(Settings())
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")
    assert state_dir(Settings()) == plain == user_home() / ".local/state/vllm-hub" / socket.gethostname()


def test_it_is_private_from_the_start(tmp_path: Path) -> None:
    folder = prepare_state_dir(tmp_path / "hub")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    prepare_state_dir(folder)
    assert folder.stat().st_mode & 0o777 == 0o700, "an older, open folder is closed"


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateDirRefused, match=str(SOCKET_PATH_LIMIT_BYTES)):
        prepare_state_dir(tmp_path / ("x" * 100))


def test_a_folder_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirRefused, match="Not a directory") as caught:
        prepare_state_dir(tmp_path / "file/hub")
    assert "VLLM_HUB_DIR" in caught.value.info.suggestion


def test_the_file_system_is_told() -> None:
    assert file_system_of(Path("/proc/self")) == "proc"


def test_confined_paths_follow_links_before_they_are_judged(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "adapter").mkdir()
    (inside / "link").symlink_to(outside)
    assert confine(str(inside / "adapter"), [inside], parameter="lora_path") == inside / "adapter"
    out = (inside / "link", inside / "../out", outside, "/etc", f"{inside}/adapter/../../out", "a\0b")
    for bad in map(str, out):
        with pytest.raises(PathNotAllowed) as caught:
            confine(bad, [inside], parameter="lora_path")
        assert caught.value.info.details["parameter"] == "lora_path"


def test_a_folder_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache-of-others").mkdir()
    with pytest.raises(PathNotAllowed):
        confine(str(tmp_path / "cache-of-others"), [tmp_path / "cache"], parameter="lora_path")


def test_the_cache_is_found_by_each_of_its_variables(tmp_path: Path) -> None:
    assert model_cache_dirs(Settings()) == (user_home() / ".cache/huggingface/hub",)
    assert model_cache_dirs(Settings(hf_home="/a")) == (Path("/a/hub"),)
    assert model_cache_dirs(Settings(hf_home="/a", hf_hub_cache="/b")) == (Path("/b"),)
    assert model_cache_dirs(Settings(vllm_model_cache_dir="/c", hf_home="/a")) == (Path("/c"), Path("/a/hub"))


def test_an_open_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    """Started by root with VLLM_HUB_DIR=/tmp, the hub would close /tmp to everybody."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "somebody's").write_text("")
    for mode in (0o777, 0o755, 0o710):
        shared.chmod(mode)
        with pytest.raises(StateDirRefused, match=f"mode {mode:04o}") as caught:
            prepare_state_dir(shared)
        assert "chmod 700" in caught.value.info.suggestion
        assert shared.stat().st_mode & 0o7777 == mode
        assert not (shared / "engines").exists()


def test_a_folder_with_the_sticky_bit_is_never_closed(tmp_path: Path) -> None:
    (tmp_path / "hub.lock").write_text("")
    tmp_path.chmod(0o1777)
    with pytest.raises(StateDirRefused, match="mode 1777"):
        prepare_state_dir(tmp_path)


def test_a_hubs_open_folder_is_closed_whatever_else_lies_in_it(tmp_path: Path) -> None:
    for name, more in (("empty", ()), ("configured", ("hub.toml",)), ("ran", ("hub.lock", "notes.txt"))):
        folder = tmp_path / name
        folder.mkdir()
        folder.chmod(0o755)
        for file in more:
            (folder / file).write_text("")
        assert prepare_state_dir(folder).stat().st_mode & 0o777 == 0o700


def test_a_lock_that_is_a_link_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "hub.lock").symlink_to(tmp_path / "notes.txt")
    tmp_path.chmod(0o755)
    with pytest.raises(StateDirRefused):
        prepare_state_dir(tmp_path)


@pytest.mark.parametrize("name", ["~nosuchuser/x", "loop/x", "a\ud800b", "x" * 5000, "a\udcff"])
def test_paths_that_lead_nowhere_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    allowed = tmp_path / "allowed"
    with pytest.raises(PathNotAllowed) as caught:
        confine(name if name.startswith("~") else f"{tmp_path}/{name}", [allowed], parameter="lora_path")
    info = caught.value.info
    assert info.details["parameter"] == "lora_path"
    assert info.suggestion
    info.model_dump_json().encode()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of somebody else")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    with pytest.raises(StateDirRefused, match="12345"):
        prepare_state_dir(theirs)
