"""`demo`: plays to the end on a fake engine, and leaves nothing behind however it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packages.cli.tests.conftest import Cli, make_model

from tests.fakes.fakes import make_fake_vllm
from tests.hubs import wait_for
from vllm_mcp.demo_scenes import Choice, DemoSetting, info_lines, server_environment
from vllm_mcp.demo_stream import MAX_TOKENS
from vllm_mcp.descendants import Process
from vllm_mcp_protocol.engine_env import require_executable
from vllm_mcp_protocol.settings import Settings

STEPS = ("load-model", "generate-text", "Stream an answer", "get-model-info", "list-models", "unload-model")


class Stage:
    """A fake engine, a model, and a TMPDIR in which the demo's folder is found."""

    def __init__(self, cli: Cli, **knobs: Any) -> None:
        self.cli = cli
        self.tmp = cli.folder / "t"
        self.tmp.mkdir()
        self.vllm = make_fake_vllm(cli.folder / "fake", **knobs)
        self.model = make_model(cli.folder / "hf" / "hub" / "a-model")
        self.env = {
            "VLLM_EXECUTABLE": str(self.vllm),
            "TMPDIR": str(self.tmp),
            "VLLM_MODEL_CACHE_DIR": str(self.model.parent),
        }

    @property
    def mine(self) -> bytes:
        return str(self.cli.folder).encode()

    def words(self, *more: str) -> list[str]:
        return ["demo", "--model", str(self.model), *more]

    def play(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.cli(*self.words(*more), **self.env)

    def start(self) -> "subprocess.Popen[str]":
        return self.cli.start(*self.words(), **self.env)

    def running(self) -> list[str]:
        """Command lines of processes that belong to this stage: engines name its paths, hubs have them in env."""
        return [f"{pid} {command}" for pid, command in _commands() if _mentions(pid, self.mine)]

    def wait_until_gone(self) -> None:
        """What was killed is still there until the kernel is done with it; what lives on is named."""
        wait_for(lambda: not self.running(), f"nothing is left: {self.running()}")

    def loads(self) -> bool:
        """An engine starts: `vllm serve MODEL`, and not the question for its flags."""
        return any("serve" in command and "--uds" in command for command in self.running())


def _commands() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            yield int(name), _read(f"/proc/{name}/cmdline").replace(b"\0", b" ").decode(errors="replace")


def _mentions(pid: int, what: bytes) -> bool:
    return what in _read(f"/proc/{pid}/cmdline") or what in _read(f"/proc/{pid}/environ")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def until(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "this should have happened by now"
        time.sleep(0.05)


def test_it_plays_to_the_end_and_leaves_nothing(cli: Cli) -> None:
    stage = Stage(cli)
    done = stage.play()
    assert done.returncode == 0, done.stdout + done.stderr
    places = [done.stdout.index(step) for step in STEPS]
    assert places == sorted(places)
    assert "none is left" in done.stdout
    assert "tokens in" in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80 and str(cli.folder) not in line] == []
    assert "\x1b" not in done.stdout
    stage.wait_until_gone()
    assert list(stage.tmp.iterdir()) == []
    assert not cli.state.exists(), "the user's own hub is not touched"


def test_programs_get_one_object(cli: Cli) -> None:
    stage = Stage(cli, answer_tokens=7)
    done = stage.play("--json")
    result = json.loads(done.stdout)
    assert result["success"] is True
    assert result["stream"]["completion_tokens"] == 7
    assert result["stream"]["pieces"] >= 2
    assert result["processes_left"] == []
    assert all(step["seconds"] >= 0 for step in result["steps"])
    assert "load-model" in done.stderr


@pytest.mark.parametrize(("number", "deaf"), [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_an_interrupt_while_loading_ends_everything(cli: Cli, number: signal.Signals, deaf: bool) -> None:
    stage = Stage(cli, load_s=600, deaf=deaf)
    process = stage.start()
    until(lambda: stage.loads() or process.poll() is not None)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "Ended what the demo had started" in err
    assert "Traceback" not in err
    stage.wait_until_gone()
    assert list(stage.tmp.iterdir()) == []


def test_a_server_that_is_killed_is_a_failure_and_swept(cli: Cli) -> None:
    stage = Stage(cli, load_s=600)
    process = stage.start()
    until(lambda: stage.loads() or process.poll() is not None)
    (server,) = (pid for pid, command in _commands() if "vllm_model_manager" in command and _mentions(pid, stage.mine))
    os.kill(server, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "The MCP server" in err
    assert "Traceback" not in err
    stage.wait_until_gone()
    assert list(stage.tmp.iterdir()) == []


def test_an_engine_that_does_not_start_is_explained_and_swept(cli: Cli) -> None:
    stage = Stage(cli, oom=True)
    done = stage.play()
    assert done.returncode == 1
    assert "memory" in done.stderr.lower()
    assert "Next: " in done.stderr
    assert "Traceback" not in done.stderr
    stage.wait_until_gone()
    assert list(stage.tmp.iterdir()) == []


def test_an_engine_that_dies_on_its_first_request(cli: Cli) -> None:
    stage = Stage(cli, die_on_first_request="SIGILL")
    done = stage.play("--json")
    assert done.returncode == 1, done.stdout
    assert json.loads(done.stdout)["success"] is False
    stage.wait_until_gone()
    assert list(stage.tmp.iterdir()) == []


def test_orphans_of_an_engine_are_not_left(cli: Cli) -> None:
    stage = Stage(cli, orphan=True)
    done = stage.play()
    assert done.returncode == 0, done.stdout + done.stderr
    stage.wait_until_gone()


@pytest.mark.engine
def test_the_real_engine(cli: Cli) -> None:
    """What the README promises of `make demo`, on the real vLLM with the model that the suite makes itself."""
    vllm = require_executable(Settings.from_environment(os.environ), None, os.environ)
    done = cli("demo", "--json", VLLM_EXECUTABLE=vllm)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model_id"] == "tiny-org/tiny-llama"
    assert result["stream"]["completion_tokens"] == MAX_TOKENS
    assert result["stream"]["pieces"] > MAX_TOKENS // 2, "token by token, not in one burst"
    assert "random weights" in " ".join(done.stderr.split())
    assert "none is left" in done.stderr


def test_without_vllm_and_without_a_way_to_get_one(cli: Cli) -> None:
    stage = Stage(cli)
    stage.env["VLLM_EXECUTABLE"] = "/nowhere/vllm"
    done = stage.play()
    assert done.returncode == 1
    assert "/nowhere/vllm" in done.stderr
    assert list(stage.tmp.iterdir()) == []


def test_keep_leaves_an_engine_that_can_be_used_and_ended(cli: Cli) -> None:
    stage = Stage(cli)
    done = stage.play("--keep")
    assert done.returncode == 0, done.stderr
    (folder,) = stage.tmp.iterdir()
    assert f"VLLM_HUB_DIR={folder} " in done.stdout
    shown = json.loads(cli("status", "--json", VLLM_HUB_DIR=str(folder)).stdout)
    assert [engine["status"] for engine in shown["engines"]] == ["ready"]
    assert cli("down", VLLM_HUB_DIR=str(folder)).returncode == 1, "it asks, and nobody is there to answer"
    assert cli("down", "--force", VLLM_HUB_DIR=str(folder)).returncode == 0
    until(lambda: stage.running() == [])


def test_the_users_settings_do_not_change_the_demo(tmp_path: Path) -> None:
    env = {"VLLM_TENSOR_PARALLEL_SIZE": "8", "VLLM_MCP_READ_ONLY": "true", "HF_TOKEN": "t", "PATH": "/bin"}
    setting = DemoSetting(Settings(), tmp_path, env, None, False, threading.Event())
    assert server_environment(setting, "/v", Choice("m", Path("/h"))) == {
        "HF_TOKEN": "t",
        "PATH": "/bin",
        "VLLM_HUB_DIR": str(tmp_path),
        "VLLM_EXECUTABLE": "/v",
        "HF_HOME": "/h",
        "HF_HUB_OFFLINE": "1",
    }


def test_figures_that_are_not_known_are_not_shown() -> None:
    assert list(info_lines({"performance": None, "start_up": []})) == []
    figures = {"kv_cache_tokens": 34816, "max_concurrency": 17.0, "memory_usage_mb": 1300}
    lines = list(info_lines({"performance": figures, "start_up": [{"phase": "weights", "seconds": 1.25}]}))
    assert lines == [
        "KV cache: 34,816 tokens, 17.0 requests of full length at once",
        "memory: 1,300 MiB",
        "start-up: weights 1.2 s",
    ]


def test_a_tree_with_orphans_is_found_and_ended() -> None:
    """In a process of its own: being a subreaper cannot be taken back."""
    code = """
import subprocess, sys, time
from vllm_mcp.descendants import adopt_orphans, descendants, end_descendants, reap
adopt_orphans()
subprocess.run(["sh", "-c", "trap '' TERM; (trap '' TERM; while :; do sleep 60; done) & exit 0"])
deaf = [p.name for p in descendants()]
assert "sh" in deaf, deaf
ended = end_descendants()
assert {p.name for p in ended} >= {"sh", "sleep"}, ended
assert descendants() == []
print("none left")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "none left\n", done.stderr
    assert str(Process(7, "vllm")) == "vllm (7)"
