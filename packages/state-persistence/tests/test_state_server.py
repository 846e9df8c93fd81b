"""The server as clients meet it: save, look, compare, restore, remove, over MCP in both eras."""

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.desk import Desk as BareDesk
from tests.hubs import HubSite, wish
from vllm_mcp_protocol.model import EngineStatus, ModelConfig
from vllm_mcp_protocol.settings import Settings
from vllm_state_persistence.commands import run_command
from vllm_state_persistence.server import build_server

pytestmark = pytest.mark.anyio

HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
MORE = [*HELLO, {"role": "user", "content": "and now?"}]


class Desk(BareDesk):
    """State persistence at work."""

    build = staticmethod(build_server)

    async def save(self, messages: list[dict[str, Any]], session_id: str = "chat", **more: Any) -> dict[str, Any]:
        return await self.call("save-state", session_id=session_id, source="inline", messages=messages, **more)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubSite]:
    made = HubSite(gpus=2)
    made.env["ENCRYPTION_KEY"] = "passphrase:correct horse battery staple"
    home = tmp_path / "home"
    home.mkdir()
    for name in ("CLAUDE_CONFIG_DIR", "XDG_DATA_HOME", "CLAUDE_CODE_SESSION_ID", "OPENCODE_DB", "CRUSH_GLOBAL_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    yield made
    made.close()


@pytest.fixture
def new_desk(site: HubSite, tmp_path: Path) -> Callable[..., Desk]:
    project = tmp_path / "project"
    project.mkdir()
    return lambda mode="auto": Desk(site, mode, project)


@pytest.fixture(params=["legacy", "auto"])
async def desk(new_desk: Callable[..., Desk], request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(new_desk(request.param).open())


@pytest.fixture
async def modern(new_desk: Callable[..., Desk]) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(new_desk().open())


async def test_a_session_grows_by_what_is_new_and_comes_back(desk: Desk) -> None:
    first = await desk.save(HELLO, description="before lunch", tags=["demo"])
    second = await desk.save(MORE)
    again = await desk.save(MORE)
    assert (first["messages"], second["messages"]) == (2, 3)
    assert (second["parent_state_id"], first["encrypted"]) == (first["state_id"], True)
    assert (again["unchanged"], again["state_id"], again["new_bytes"]) == (True, second["state_id"], 0)
    listed = (await desk.call("list-states"))["states"]
    assert [row["state_id"] for row in listed] == [second["state_id"], first["state_id"]]
    assert (await desk.call("list-states", tag="demo"))["states"][0]["description"] == "before lunch"
    back = await desk.call("load-state", session_id="chat", target="inline")
    assert back["messages"] == MORE
    older = await desk.call("load-state", session_id="chat", state_id=first["state_id"], target="inline")
    assert older["messages"] == HELLO


async def test_what_changed_is_told_in_words(desk: Desk) -> None:
    first, second = await desk.save(HELLO), await desk.save(MORE)
    found = await desk.call("diff-states", from_state_id=first["state_id"], to_state_id=second["state_id"])
    assert (found["messages_added"], found["messages_removed"]) == (1, 0)
    assert "and now?" in found["in_words"][0]
    held = await desk.call("get-state", state_id=second["state_id"], include_messages=True, limit=1)
    assert held["messages"] == [{"role": "user", "preview": "and now?"}]


async def test_snapshots_go_when_it_is_forced_and_their_space_comes_back(desk: Desk) -> None:
    for number in range(3):
        await desk.save([{"role": "user", "content": f"{number}" + os.urandom(40_000).hex()}])
    planned = await desk.call("clear-state", session_id="chat", keep_last=1, dry_run=True)
    assert (planned["status"], planned["cleared_items"]) == ("planned", 2)
    await desk.fail("clear-state", "FORCE_REQUIRED", session_id="chat", keep_last=1)
    done = await desk.call("clear-state", session_id="chat", keep_last=1, force=True)
    assert done["cleared_items"] == 2
    assert done["space_freed_bytes"] > 50_000
    assert len((await desk.call("list-states"))["states"]) == 1
    assert (await desk.call("verify-states"))["status"] == "ok"


async def test_a_snapshot_travels_to_another_machine(modern: Desk, tmp_path: Path) -> None:
    saved = await modern.save(MORE)
    gone = await modern.call("export-state", state_id=saved["state_id"], path="chat.vllmstate")
    await modern.fail("export-state", "INVALID_ARGUMENT", state_id=saved["state_id"], path="chat.vllmstate")
    await modern.fail("export-state", "PATH_NOT_ALLOWED", state_id=saved["state_id"], path="/etc/x.vllmstate")
    await modern.fail("export-state", "PATH_NOT_ALLOWED", state_id=saved["state_id"], path="x.txt")
    assert "and now?" not in Path(gone["path"]).read_bytes().decode("latin1")
    other = HubSite(gpus=0)
    try:
        other.env["ENCRYPTION_KEY"] = modern.site.env["ENCRYPTION_KEY"]
        async with Desk(other, "auto", modern.project).open() as there:
            assert (await there.call("import-state", path="chat.vllmstate"))["state_id"] == saved["state_id"]
            assert (await there.call("load-state", session_id="chat", target="inline"))["messages"] == MORE
    finally:
        other.close()


async def test_engines_come_back_with_the_same_flags(modern: Desk, site: HubSite) -> None:
    async with site.client() as hub:
        grant = await hub.load(wish("org/a", gpu_ids=(1,), pin=True, options={"max_model_len": 4096}))
        assert grant.engine is not None
        await hub.set_model_config("org/a", ModelConfig(temperature=0.3))
        view = await hub.wait(grant.engine.id, seen_epoch=-1, timeout_s=0)
        while view.status is not EngineStatus.READY:
            view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=5)
        saved = await modern.save(HELLO)
        assert saved["models"] == ["org/a"]
        await hub.stop(view.id, force=True)
        await hub.set_model_config("org/a", None)
        with anyio.fail_after(60):
            while (await hub.wait(view.id, seen_epoch=-1, timeout_s=0)).status is not EngineStatus.STOPPED:
                await anyio.sleep(0.05)
        planned = await modern.call("load-state", session_id="chat", target="inline", dry_run=True)
        assert planned["status"] == "planned"
        assert {"load", "set-config", "blocked"} & {step["action"] for step in planned["restored"]["models"]}


async def test_what_was_measured_is_saved_where_somebody_wants_it(modern: Desk, site: HubSite) -> None:
    without_hub = await modern.save(HELLO, include_metrics=True, include_models=False)
    assert any("no hub runs" in warning for warning in without_hub["warnings"])
    config = site.state / "hub.toml"
    config.write_text(config.read_text() + "[monitoring]\ninterval_ms = 200\n")
    async with site.client() as hub:
        with anyio.fail_after(60):
            while {one.subject for one in (await hub.metrics(60)).subjects} != {"gpu:0", "gpu:1", "host"}:
                await anyio.sleep(0.1)
        saved = await modern.save(HELLO, include_metrics=True, include_models=False)
        plain = await modern.save(MORE, include_models=False)
    assert (saved["unchanged"], saved["warnings"]) == (False, [])
    rows = {row["subject"]: row for row in (await modern.call("get-state", state_id=saved["state_id"]))["metrics"]}
    assert set(rows) == {"gpu:0", "gpu:1", "host"}
    assert rows["gpu:0"]["means"]["gpu_memory_total_bytes"] == float(f"{80 * 1024**3:.4g}")
    assert (await modern.call("get-state", state_id=plain["state_id"]))["metrics"] == []


async def test_the_hub_saves_what_changed_while_no_client_does(new_desk: Callable[..., Desk], site: HubSite) -> None:
    """A transcript of Claude Code that was saved once, and grows."""
    folder = Path(os.environ["HOME"]) / ".claude/projects/-work"
    folder.mkdir(parents=True)
    transcript = folder / "11111111-2222-3333-4444-555555555555.jsonl"
    line = {"type": "user", "sessionId": transcript.stem, "cwd": "/work", "message": {"role": "user", "content": "one"}}
    transcript.write_text(json.dumps(line) + "\n")
    async with site.client() as hub, new_desk().open(variables={"BACKUP_INTERVAL_SECONDS": "1"}) as desk:
        await hub.state()
        first = await desk.call("save-state", session_id=transcript.stem, source="claude-code")
        line["message"] = {"role": "user", "content": "two"}
        with transcript.open("a") as file:
            file.write(json.dumps(line) + "\n")
        with anyio.fail_after(60):
            while len((await desk.call("list-states"))["states"]) < 2:
                (chore,) = (await hub.state()).chores
                assert not chore.last_exit_code, chore
                await anyio.sleep(0.2)
        newest = (await desk.call("list-states"))["states"][0]
        assert (newest["parent_state_id"], newest["messages"]) == (first["state_id"], 2)

        (chore,) = (await hub.state()).chores
        with anyio.fail_after(60):
            while (await hub.state()).chores[0].runs < chore.runs + 2:
                await anyio.sleep(0.2)
        assert len((await desk.call("list-states"))["states"]) == 2, "nothing changed, so nothing is saved"


async def test_a_session_that_has_not_changed_is_not_read_and_comes_back(modern: Desk) -> None:
    """Neither its messages nor its header."""
    folder = Path(os.environ["HOME"]) / ".claude/projects/-work"
    folder.mkdir(parents=True)
    transcript = folder / "11111111-2222-3333-4444-555555555555.jsonl"
    line = {"type": "user", "sessionId": transcript.stem, "cwd": "/work", "message": {"role": "user", "content": "one"}}
    transcript.write_text(json.dumps(line) + "\n")
    wanted = {"session_id": transcript.stem, "source": "claude-code"}
    first = await modern.call("save-state", **wanted)
    again = await modern.call("save-state", **wanted)
    assert (again["unchanged"], again["state_id"]) == (True, first["state_id"])
    tagged = await modern.call("save-state", tags=["keep"], **wanted)
    assert (tagged["parent_state_id"], tagged["messages"]) == (first["state_id"], 1)
    restored = await modern.call("load-state", session_id=transcript.stem, restore_models=False)
    written = json.loads(Path(restored["where"]).read_text())
    assert {**written, "sessionId": transcript.stem, "cwd": "/work"} == line


async def test_bad_input_is_explained(modern: Desk) -> None:
    await modern.fail("save-state", "SESSION_NOT_FOUND")
    await modern.fail("save-state", "INVALID_ARGUMENT", source="inline")
    await modern.fail("save-state", "INVALID_ARGUMENT", source="crush", messages=HELLO)
    await modern.fail("load-state", "SESSION_NOT_FOUND", session_id="nothing")
    await modern.fail("get-state", "STATE_NOT_FOUND", state_id="s-" + "0" * 16)
    await modern.fail("get-state", "INVALID_ARGUMENT", state_id="x")
    saved = await modern.save(HELLO)
    await modern.fail("load-state", "SESSION_NOT_FOUND", session_id="other", state_id=None)
    await modern.fail("load-state", "INVALID_ARGUMENT", session_id="wrong", state_id=saved["state_id"])


async def test_without_a_key_nothing_is_saved_in_clear(new_desk: Callable[..., Desk], site: HubSite) -> None:
    del site.env["ENCRYPTION_KEY"]
    async with new_desk().open() as desk:
        error = await desk.fail("list-states", "KEY_MISSING")
        assert "init-key" in error["details"]["suggestion"]
    assert not (site.state / "state.db").exists()
    async with new_desk().open(variables={"ENCRYPT_SENSITIVE_DATA": "false"}) as desk:
        saved = await desk.save(HELLO)
        assert not saved["encrypted"]
        assert "WITHOUT encryption" in saved["warnings"][0]


async def test_a_wrong_key_touches_nothing(new_desk: Callable[..., Desk], site: HubSite) -> None:
    async with new_desk().open() as desk:
        await desk.save(HELLO)
    before = (site.state / "state.db").read_bytes()
    async with new_desk().open(variables={"ENCRYPTION_KEY": "passphrase:not this one at all"}) as desk:
        await desk.fail("list-states", "KEY_WRONG")
    assert (site.state / "state.db").read_bytes() == before


async def test_the_resources_tell_the_same(modern: Desk) -> None:
    saved = await modern.save(HELLO)
    listed = json.loads((await modern.client.read_resource("state://sessions")).contents[0].text)  # type: ignore[union-attr]
    assert [row["state_id"] for row in listed["sessions"]] == [saved["state_id"]]
    one = json.loads((await modern.client.read_resource("state://session/chat/summary")).contents[0].text)  # type: ignore[union-attr]
    assert one["messages"] == 2


def test_the_commands_work_by_hand(site: HubSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLLM_HUB_DIR", str(site.state))
    monkeypatch.delenv("ENCRYPTION_KEY", raising=False)
    assert run_command(["verify"]) == 1
    assert run_command(["init-key"]) == 0
    for words in (["verify"], ["prune"], ["rotate-key"], ["snapshot"], ["backup", str(tmp_path / "copy.db")]):
        assert run_command(words) == 0, words
    assert run_command(["export", "s-" + "0" * 16, str(tmp_path / "x.vllmstate")]) == 1


def _say_something(home: Path, name: str) -> None:
    folder = home / ".claude/projects/-home-me-x"
    folder.mkdir(parents=True, exist_ok=True)
    line = {"type": "user", "cwd": "/home/me/x", "uuid": name, "message": {"role": "user", "content": f"I am {name}"}}
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def test_a_snapshot_of_all_takes_also_what_was_never_saved(
    site: HubSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_HUB_DIR", str(site.state))
    monkeypatch.setenv("ENCRYPTION_KEY", site.env["ENCRYPTION_KEY"])
    names = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(3)]
    for name in names:
        _say_something(tmp_path / "home", name)
    for words, said in (
        (["snapshot"], "0 sessions saved, 0 unchanged"),
        (["snapshot", "--all"], "3 sessions saved, 0 unchanged"),
        (["snapshot", "--all"], "0 sessions saved, 3 unchanged"),
    ):
        assert run_command(words) == 0
        assert said in capsys.readouterr().out
    _say_something(tmp_path / "home", names[1])
    assert run_command(["snapshot"]) == 0
    assert "1 sessions saved, 2 unchanged" in capsys.readouterr().out


def test_a_damaged_store_is_salvaged_into_a_new_one(
    site: HubSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_HUB_DIR", str(site.state))
    monkeypatch.setenv("ENCRYPTION_KEY", site.env["ENCRYPTION_KEY"])
    _say_something(tmp_path / "home", "00000000-0000-4000-8000-000000000000")
    assert run_command(["snapshot", "--all"]) == 0
    whole = tmp_path / "aside.db"
    (site.state / "state.db").rename(whole)
    assert run_command(["salvage", str(whole)]) == 0
    assert "1 snapshots saved" in capsys.readouterr().out
    (tmp_path / "link.db").symlink_to(site.state / "state.db")
    for wrong, why in (("none.db", "is no file"), ("link.db", "is the store itself")):
        assert run_command(["salvage", str(tmp_path / wrong)]) == 2
        assert why in capsys.readouterr().err
    (site.state / "state.db").unlink()
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 3])
    assert run_command(["salvage", str(whole)]) == 1
    assert capsys.readouterr().err


def test_saved_conversations_are_written_back_by_hand(
    site: HubSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_HUB_DIR", str(site.state))
    monkeypatch.setenv("ENCRYPTION_KEY", site.env["ENCRYPTION_KEY"])
    names = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(3)]
    for name in names:
        _say_something(tmp_path / "home", name)
    assert run_command(["snapshot", "--all"]) == 0
    projects = tmp_path / "home/.claude/projects"
    before = {path.name: path.read_bytes() for path in projects.rglob("*.jsonl")}
    for path in projects.rglob("*.jsonl"):
        path.unlink()
    assert run_command(["restore"]) == 2
    assert run_command(["restore", names[0], "nobody"]) == 1
    told = capsys.readouterr()
    assert ("1 conversations written" in told.out, "nobody: there is no snapshot" in told.err) == (True, True)
    assert run_command(["restore", "--all"]) == 1  # one is there already
    assert "2 conversations written" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in projects.rglob("*.jsonl")} == before
    assert run_command(["restore", "--all", "--force"]) == 0
    assert run_command(["restore", "--all", "--new"]) == 0
    assert len(list(projects.rglob("*.jsonl"))) == 6


async def test_one_save_may_go_without_compression(modern: Desk) -> None:
    text = [{"role": "user", "content": "the same words " * 600}]
    plain = await modern.save(text, session_id="plain", compression=False)
    small = await modern.save([{"role": "user", "content": "other words now " * 600}], session_id="small")
    assert plain["new_bytes"] > 8_000 > 2_000 > small["new_bytes"]
    assert (await modern.call("load-state", session_id="plain", target="inline"))["messages"] == text


def test_every_tool_is_named_in_the_instructions() -> None:
    from vllm_state_persistence.description import DESCRIPTION

    tools = build_server(Settings.from_environment({})).registered_tools
    assert set(tools) == {
        *("save-state", "load-state", "clear-state", "list-states", "get-state", "diff-states"),
        *("verify-states", "export-state", "import-state"),
    }
    assert [name for name in tools if name not in DESCRIPTION.instructions] == []
