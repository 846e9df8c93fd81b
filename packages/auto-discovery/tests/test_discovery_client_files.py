"""Client configurations on disk: found, changed in one step, taken back, and never harmed."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_auto_discovery.clients.backups import MOST_PER_FILE, Backups
from vllm_auto_discovery.clients.files import sync, undo
from vllm_auto_discovery.clients.places import Places, config_path, places
from vllm_auto_discovery.core.clients.json_text import LIMIT_BYTES
from vllm_auto_discovery.core.clients.plans import Client
from vllm_auto_discovery.core.clients.servable import Endpoint, ServableModel
from vllm_mcp_protocol.errors import ClientConfigInvalid, ForceRequired, NotThere, PathNotAllowed, StateDirRefused

LLAMA = ServableModel("org/llama", "llama", Endpoint("http://127.0.0.1:8099/v1"), 8_192)
QWEN = ServableModel("org/qwen", "qwen", Endpoint("http://127.0.0.1:8099/v1"), 8_192)
MINE = '{\n  "options": {"debug": true}\n}'


@pytest.fixture
def where(tmp_path: Path) -> Places:
    """A project and a home folder, both without any configuration."""
    for name in ("project", "home"):
        (tmp_path / name).mkdir()
    return places(tmp_path / "project", {"HOME": str(tmp_path / "home")})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def written(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith((".new", ".tmp"))]


# Where it is.


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (Client.CRUSH, "home/.config/crush/crush.json"),
        (Client.OPENCODE, "home/.config/opencode/opencode.json"),
        (Client.CLAUDE_CODE, "home/.claude/settings.json"),
    ],
)
def test_the_users_own_file_is_the_default(where: Places, tmp_path: Path, client: Client, expected: str) -> None:
    assert config_path(client, where) == tmp_path / expected


@pytest.mark.parametrize(
    ("client", "name"),
    [
        (Client.CRUSH, "crush.json"),
        (Client.CRUSH, ".crush.json"),
        (Client.OPENCODE, "opencode.json"),
        (Client.OPENCODE, "opencode.jsonc"),
        (Client.CLAUDE_CODE, ".claude/settings.json"),
        (Client.CLAUDE_CODE, ".claude/settings.local.json"),
    ],
)
def test_the_projects_file_comes_first(where: Places, client: Client, name: str) -> None:
    path = written(where.project / name, MINE)
    assert config_path(client, where) == path


def test_of_two_files_the_one_that_wins_in_the_client_is_taken(where: Places) -> None:
    for name in ("crush.json", ".crush.json", "opencode.json", "opencode.jsonc"):
        written(where.project / name, MINE)
    assert config_path(Client.CRUSH, where).name == ".crush.json"
    assert config_path(Client.OPENCODE, where).name == "opencode.jsonc"
    written(where.config[Client.OPENCODE] / "opencode.jsonc", MINE)
    (where.project / "opencode.json").unlink()
    (where.project / "opencode.jsonc").unlink()
    assert config_path(Client.OPENCODE, where) == where.config[Client.OPENCODE] / "opencode.jsonc"


def test_the_clients_own_variables_are_heeded(tmp_path: Path) -> None:
    env = {"HOME": "/h", "XDG_CONFIG_HOME": "/x", "CLAUDE_CONFIG_DIR": "/c", "CRUSH_GLOBAL_CONFIG": "/g"}
    assert dict(places(tmp_path, env).config) == {
        Client.CRUSH: Path("/g"),
        Client.OPENCODE: Path("/x/opencode"),
        Client.CLAUDE_CODE: Path("/c"),
    }
    assert places(tmp_path, {"HOME": "/h", "XDG_CONFIG_HOME": "x"}).config[Client.CRUSH] == Path("/h/.config/crush")


def test_a_given_path_is_seen_from_the_project(where: Places) -> None:
    assert config_path(Client.CRUSH, where, "sub/crush.json") == where.project / "sub/crush.json"
    own = where.config[Client.CRUSH] / "other.jsonc"
    assert config_path(Client.CRUSH, where, str(own)) == own


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/crush.json", "../crush.json", "sub/../../crush.json", "~/crush.json", "~nobody-here/crush.json"),
        *(
            "crush.txt",
            "crush",
            ".",
            "",
            "a\0.json",
            "out/crush.json",
            "out.json",
            "loop.json",
            "folder.json",
            "\ud800.json",
        ),
    ],
)
def test_a_path_outside_or_of_another_kind_is_refused(where: Places, path: str) -> None:
    outside = where.home / "outside"
    outside.mkdir()
    written(outside / "crush.json", MINE)
    (where.project / "out").symlink_to(outside)
    (where.project / "out.json").symlink_to(outside / "crush.json")
    (where.project / "loop.json").symlink_to("loop.json")
    (where.project / "folder.json").mkdir()
    with pytest.raises(PathNotAllowed) as caught:
        config_path(Client.CRUSH, where, path)
    str(caught.value).encode()


def test_a_project_cannot_lead_us_elsewhere_by_a_link(where: Places) -> None:
    (where.project / "crush.json").symlink_to(written(where.home / "secrets.json", MINE))
    with pytest.raises(PathNotAllowed):
        config_path(Client.CRUSH, where)


def test_the_users_own_link_is_followed(where: Places, state: Path) -> None:
    real = written(where.home / "dotfiles" / "crush.json", MINE)
    link = where.config[Client.CRUSH] / "crush.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    path = config_path(Client.CRUSH, where)
    sync(Client.CRUSH, path, [LLAMA], state)
    assert link.is_symlink()
    assert "org/llama" in real.read_text()


# What is written.


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
def test_a_file_is_changed_with_its_mode_kept(where: Places, state: Path, mode: int) -> None:
    path = written(where.project / "crush.json", MINE, mode)
    synced = sync(Client.CRUSH, path, [LLAMA], state)
    assert json.loads(path.read_text())["options"] == {"debug": True}
    assert [item.model for item in synced.plan.listed] == [LLAMA]
    assert synced.change.done
    assert '+      "base_url": "http://127.0.0.1:8099/v1",' in synced.change.diff
    assert mode_of(path) == mode
    assert left_over(where.project) == []


def test_a_new_file_is_its_owners_alone(where: Places, state: Path) -> None:
    path = config_path(Client.OPENCODE, where)
    sync(Client.OPENCODE, path, [LLAMA], state)
    assert mode_of(path) == 0o600
    found = json.loads(path.read_text())
    assert found["$schema"] == "https://opencode.ai/config.json"
    assert list(found["provider"]["vllm"]["models"]) == ["org/llama"]


def test_nothing_is_written_when_nothing_changes(where: Places, state: Path) -> None:
    path = written(where.project / "crush.json", MINE)
    assert not sync(Client.CRUSH, path, [], state).change.done
    assert path.read_text() == MINE
    sync(Client.CRUSH, path, [LLAMA], state)
    before = path.stat()
    again = sync(Client.CRUSH, path, [LLAMA], state).change
    assert (again.diff, again.done) == ("", False)
    assert path.stat() == before
    absent = where.project / "absent.json"
    assert not sync(Client.CRUSH, absent, [], state).change.done
    assert not absent.exists()


def test_a_dry_run_shows_the_same_and_touches_nothing(where: Places, state: Path) -> None:
    path = written(where.project / "crush.json", MINE)
    shown = sync(Client.CRUSH, path, [LLAMA], state, dry_run=True).change
    assert path.read_text() == MINE
    assert not state.exists()
    done = sync(Client.CRUSH, path, [LLAMA], state).change
    assert (shown.diff, shown.done, done.done) == (done.diff, False, True)


@pytest.mark.parametrize("text", ["", "\n", "  \n"])
def test_an_empty_file_is_as_good_as_none(where: Places, state: Path, text: str) -> None:
    path = written(where.project / "crush.json", text)
    sync(Client.CRUSH, path, [LLAMA], state)
    assert "vllm" in json.loads(path.read_text())["providers"]
    undo(path, state)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{\n  "a": 1\n  "b": 2}', "line 3, column 3"),
        (b'{"a": 1} // x', "a comment"),
        (b"[]", "begin with {"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'{"providers": []}', "not an object"),
        (b'{"a": "' + b"x" * LIMIT_BYTES + b'"}', "longer than"),
        (b"[" * 100_000, "deeper than"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_a_file_that_cannot_be_read_is_left_as_it_is(where: Places, state: Path, content: bytes, words: str) -> None:
    path = where.project / "crush.json"
    path.write_bytes(content)
    with pytest.raises(ClientConfigInvalid) as caught:
        sync(Client.CRUSH, path, [LLAMA], state)
    assert words in caught.value.info.message
    assert str(path) in caught.value.info.message
    assert caught.value.info.suggestion
    assert path.read_bytes() == content
    assert not state.exists()


def test_a_pipe_does_not_hold_us(where: Places, state: Path) -> None:
    os.mkfifo(where.project / "crush.json")
    with pytest.raises(ClientConfigInvalid, match="not a regular file"):
        sync(Client.CRUSH, where.project / "crush.json", [LLAMA], state)


class Meddling(list[ServableModel]):
    """Models that somebody looks at just when the file changes: between our reading and our writing."""

    def __init__(self, meddle: Callable[[], Any]) -> None:
        super().__init__([LLAMA])
        self.meddle = meddle

    def __iter__(self) -> Iterator[ServableModel]:
        self.meddle()
        return super().__iter__()


def test_a_file_that_changes_meanwhile_is_left_to_whoever_changed_it(where: Places, state: Path) -> None:
    path = written(where.project / "crush.json", MINE)
    with pytest.raises(ClientConfigInvalid, match="changed by another program"):
        sync(Client.CRUSH, path, Meddling(lambda: path.write_text("{}")), state)
    assert path.read_text() == "{}"
    with pytest.raises(NotThere):
        undo(path, state)
    assert left_over(where.project) == []


def test_a_file_that_appears_or_vanishes_meanwhile_stays_that_way(where: Places, state: Path) -> None:
    path = where.project / "crush.json"
    with pytest.raises(ClientConfigInvalid, match="changed by another program"):
        sync(Client.CRUSH, path, Meddling(lambda: path.write_text("{}")), state)
    assert path.read_text() == "{}"
    with pytest.raises(ClientConfigInvalid, match="changed by another program"):
        sync(Client.CRUSH, path, Meddling(path.unlink), state)
    assert not path.exists()


def test_a_folder_that_cannot_be_made_is_said(where: Places, state: Path) -> None:
    (where.home / ".config").write_text("a file")
    with pytest.raises((ClientConfigInvalid, PathNotAllowed)):
        sync(Client.CRUSH, config_path(Client.CRUSH, where), [LLAMA], state)


def test_what_cannot_be_remembered_is_not_changed(where: Places, tmp_path: Path) -> None:
    path = written(where.project / "crush.json", MINE)
    with pytest.raises(StateDirRefused, match="cannot be kept"):
        sync(Client.CRUSH, path, [LLAMA], written(tmp_path / "file", "") / "state")
    assert path.read_text() == MINE


# Taking it back.


def test_undo_brings_back_every_byte_and_the_mode(where: Places, state: Path) -> None:
    text = '\ufeff{\r\n\t"model": "a/b", // mine\r\n}'
    path = where.project / "opencode.jsonc"
    path.write_bytes(text.encode())
    path.chmod(0o640)
    sync(Client.OPENCODE, path, [LLAMA], state)
    path.chmod(0o600)
    assert undo(path, state).done
    assert path.read_bytes() == text.encode()
    assert mode_of(path) == 0o640


def test_undo_goes_back_step_by_step_and_then_has_nothing_left(where: Places, state: Path) -> None:
    path = where.project / "crush.json"
    sync(Client.CRUSH, path, [LLAMA], state)
    first = path.read_text()
    sync(Client.CRUSH, path, [LLAMA, QWEN], state)
    undo(path, state)
    assert path.read_text() == first
    change = undo(path, state)
    assert not path.exists()
    assert '-  "providers": {' in change.diff
    with pytest.raises(NotThere):
        undo(path, state)


def test_undo_of_a_file_that_was_changed_since_needs_force(where: Places, state: Path) -> None:
    path = written(where.project / "crush.json", MINE)
    sync(Client.CRUSH, path, [LLAMA], state)
    theirs = path.read_text().replace("true", "false")
    path.write_text(theirs)
    with pytest.raises(ForceRequired) as caught:
        undo(path, state)
    assert '+  "options": {"debug": false},' in caught.value.info.details["difference"]
    assert path.read_text() == theirs
    assert not undo(path, state, force=True, dry_run=True).done
    assert path.read_text() == theirs
    undo(path, state, force=True)
    assert path.read_text() == MINE


def test_undo_of_a_file_that_was_deleted_since_needs_force(where: Places, state: Path) -> None:
    path = written(where.project / "crush.json", MINE)
    sync(Client.CRUSH, path, [LLAMA], state)
    path.unlink()
    with pytest.raises(ForceRequired):
        undo(path, state)
    undo(path, state, force=True)
    assert path.read_text() == MINE


def test_what_is_remembered_is_bounded_private_and_apart_for_each_file(where: Places, state: Path) -> None:
    path, other = where.project / "crush.json", where.project / "other.json"
    sync(Client.CRUSH, other, [QWEN], state)
    for number in range(MOST_PER_FILE + 5):
        sync(Client.CRUSH, path, [[LLAMA], [QWEN]][number % 2], state)
    files = [found for found in state.rglob("*") if found.is_file()]
    assert len(files) == MOST_PER_FILE + 1
    assert {mode_of(found) for found in files} == {0o600}
    assert {mode_of(found) for found in [state, *(found for found in state.rglob("*") if found.is_dir())]} == {0o700}
    for _ in range(MOST_PER_FILE):
        undo(path, state)
    with pytest.raises(NotThere):
        undo(path, state)
    assert "org/qwen" in other.read_text()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"before": 1, "after": "x", "mode": 1}', b"\xff"])
def test_a_damaged_memory_is_passed_over(where: Places, state: Path, damage: bytes) -> None:
    path = where.project / "crush.json"
    sync(Client.CRUSH, path, [LLAMA], state)
    (kept,) = (found for found in state.rglob("*.json"))
    kept.with_name("2.json").write_bytes(damage)
    undo(path, state)
    assert not path.exists()


def test_strange_files_beside_the_memory_are_none_of_it(where: Places, state: Path) -> None:
    path = where.project / "crush.json"
    sync(Client.CRUSH, path, [LLAMA], state)
    (kept,) = (found for found in state.rglob("*.json"))
    kept.with_name("notes.json").write_text("{}")
    kept.with_name("9").mkdir()
    assert Backups(state, path).last() is not None
