"""`tool`: which tool a name means, what people and programs get, and that progress stays on stderr."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from packages.cli.tests.conftest import Cli, make_model

from tests.fakes.fakes import make_fake_vllm, set_knobs
from tests.fakes.toy_server import TOY
from tests.fakes.toy_tools import build_server
from vllm_mcp.tools import Installed, answer, resolve
from vllm_mcp_protocol.errors import ToolNotFound, UnknownArgument
from vllm_mcp_protocol.settings import Settings

SPELLINGS = (
    "load-model",
    "load_model",
    "mcp_vllm-toy_load-model",
    "mcp__vllm-toy__load-model",
    "mcp_vllm_toy_load_model",
    "vllm-toy_load-model",
    "vllm-toy load-model",
    "vllm_toy load_model",
)


def toy(name: str = TOY.name, **settings: object) -> Installed:
    return Installed(replace(TOY, name=name), build_server(Settings.model_validate(settings)))


def call(*words: str, servers: Sequence[Installed] = (), as_json: bool = True) -> int:
    return answer(words, servers or [toy()], as_json=as_json)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_clients_spelling_is_understood(spelling: str) -> None:
    server, tool, rest = resolve([*spelling.split(), "--model-id", "m"], [toy()])
    assert (server.name, tool, rest) == ("vllm-toy", "load-model", ["--model-id", "m"])


def test_a_tool_of_two_servers_needs_its_server() -> None:
    servers = [toy(), toy("vllm-other")]
    with pytest.raises(ToolNotFound, match="several servers: mcp_vllm-toy_load-model, mcp_vllm-other_load-model"):
        resolve(["load-model"], servers)
    assert resolve(["mcp_vllm-other_load-model"], servers)[0].name == "vllm-other"
    assert resolve(["vllm-other", "load-model"], servers)[0].name == "vllm-other"


@pytest.mark.parametrize(
    ("words", "closest"),
    [(["load-modle"], "load-model"), (["mcp_vllm-toy_lode-model"], "load-model"), (["vllm-toy", "ecko"], None)],
)
def test_an_unknown_name_gets_the_closest(words: list[str], closest: str | None) -> None:
    with pytest.raises(ToolNotFound) as caught:
        resolve(words, [toy()])
    assert caught.value.info.details["closest"] == closest
    assert "vllm-mcp tool --list" in caught.value.info.suggestion


def test_json_is_the_structured_result_and_progress_is_not_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("load-model", "--model-id", "org/m", "--tensor_parallel_size", "2", "--gpu-ids=0,1") == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert result["options"] == {"tensor_parallel_size": 2, "dtype": "auto", "gpu_ids": [0, 1]}
    assert err == "  0%  org/m: step 0\n", "later steps differ in a number only: no line each for a log"


def test_people_get_facts_and_tables(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    server = toy()
    assert call("load-model", "--model-id", "org/m", servers=[server], as_json=False) == 0
    assert call("list-models", servers=[server], as_json=False) == 0
    loaded, listed = capfd.readouterr().out.split("total count", 1)
    assert "status" in loaded
    assert "org/m" in listed
    assert "success" not in loaded + listed


def test_a_failure_is_words_and_a_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("load-model", "--model-id", "too/large", as_json=False) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "too/large needs 32768 MiB and 16384 MiB are free.",
        "Next: unload-model e3, or load-model with max_model_len=8192",
    ]


def test_json_failures_keep_their_details(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("load-model", "--model-id", "too/large") == 1
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["code"] == "GPU_MEMORY_INSUFFICIENT"
    assert error["details"]["holders"] == ["e3"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["need-hub"], 3),
        (["echo-values", "--whole", "99"], 2),
        (["echo-values", "--share", "1", "--mode", "a"], 0),
        (["crash-now"], 1),
    ],
)
def test_exit_codes(words: list[str], code: int) -> None:
    assert call(*words) == code


def test_an_unknown_parameter_names_the_closest() -> None:
    with pytest.raises(UnknownArgument, match="Did you mean --model-id"):
        call("load-model", "--modelid", "m")


def test_what_a_model_writes_cannot_drive_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2Jgone\x07\x9b31m"
    assert call("echo-values", "--text", evil, as_json=False) == 0
    assert "gone" in (shown := capfd.readouterr().out)
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)


def test_help_says_units_bounds_and_defaults(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("load-model", "--help", as_json=False) == 0
    text = capfd.readouterr().out
    assert "--model-id" in text
    assert "required" in text
    assert "Context window, tokens" in text
    assert "default 45; a whole number from 0 to 3600" in " ".join(text.split())


def test_list_shows_what_is_permitted(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("--list", servers=[toy(vllm_mcp_read_only=True)]) == 0
    tools = {tool["tool"] for tool in json.loads(capfd.readouterr().out)["tools"]}
    assert "list-models" in tools
    assert "load-model" not in tools


def test_a_refused_tool_says_who_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("load-model", "--model-id", "m", servers=[toy(vllm_mcp_read_only=True)], as_json=False) == 1
    assert "VLLM_MCP_READ_ONLY" in capfd.readouterr().err


# -- the suite's own servers ---------------------------------------------------------------------------------


def test_the_command_lists_the_model_manager(cli: Cli) -> None:
    listed = json.loads(cli("tool", "--list", "--json").stdout)
    names = {tool["name"] for tool in listed["tools"]}
    assert {"mcp_vllm-model-manager_load-model", "mcp_vllm-model-manager_list-models"} <= names
    assert not cli.state.exists()


@pytest.mark.parametrize("command", ["tool", "call"])
def test_parameters_are_shown_without_a_hub(cli: Cli, command: str) -> None:
    done = cli(command, "mcp_vllm-model-manager_load-model", "--help")
    assert done.returncode == 0
    assert "--gpu-memory-utilization" in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert not cli.state.exists()


def test_a_tool_that_does_not_exist(cli: Cli) -> None:
    done = cli("tool", "mcp_vllm-model-manager_lod-model", "--json")
    assert done.returncode == 2
    assert "Did you mean load-model?" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "TOOL_NOT_FOUND"


@pytest.fixture
def fake(cli: Cli) -> Path:
    """A fake engine for the command's hub, and a model in an allowed folder; the model's path."""
    model = make_model(cli.folder / "models" / "a-model")
    cli.env |= {"VLLM_EXECUTABLE": str(make_fake_vllm(cli.folder / "fake")), "VLLM_MODEL_CACHE_DIR": str(model.parent)}
    return model


def test_a_model_from_load_to_unload(cli: Cli, fake: Path) -> None:
    name = "mcp_vllm-model-manager_load-model"
    loaded = cli("tool", name, "--model-id", str(fake), "--gpu-memory-utilization", "0.8", "--json")
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout)["status"] == "loaded"
    assert "%  " in loaded.stderr
    asked = cli("call", "generate-text", "--prompt", "hello", "--max_tokens=3", "--json")
    assert json.loads(asked.stdout)["usage"]["completion_tokens"] == 3
    listed = cli("tool", "list-models", "--filter-by-status", "loaded")
    assert "a-model" in listed.stdout
    assert cli("tool", "unload-model", "--model-id", str(fake)).returncode == 0
    gone = cli("tool", "unload-model", "--model-id", str(fake))
    assert gone.returncode == 1
    assert "Next: " in gone.stderr


def test_ctrl_c_cancels_a_load(cli: Cli, fake: Path) -> None:
    set_knobs(cli.folder / "fake", load_s=600)
    process = cli.start("tool", "load-model", "--model-id", str(fake))
    assert process.stderr is not None
    assert "a-model" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 130)
    assert err.endswith("load-model was cancelled.\n")
    engines = json.loads(cli("status", "--json").stdout)["engines"]
    assert [engine["status"] for engine in engines if engine["status"] not in ("stopping", "stopped")] == []


def test_the_line_that_people_type_after_shell_init(cli: Cli) -> None:
    script = 'eval "$("$PYTHON" -m vllm_mcp shell-init bash)"; crush --tool mcp_vllm-model-manager_list-models --json'
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=cli.environment(PYTHON=sys.executable),
        check=False,
    )
    assert json.loads(done.stdout)["total_count"] == 0, done.stderr
