"""A server's command, run as people and scripts run it."""

import json
import subprocess
import sys

import pytest

from tests.fakes.toy_client import ROOT, TOY_COMMAND, server_env
from tests.fakes.toy_server import TOY
from vllm_mcp_protocol.serving.description import EnvVar, ServerDescription
from vllm_mcp_protocol.settings import Settings


def command(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TOY_COMMAND, *words],
        env=server_env(**env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_version_and_help_need_no_sdk() -> None:
    code = (
        "import sys; from tests.fakes.toy_server import TOY; from vllm_mcp_protocol.serving.command import run\n"
        "try: run(TOY, [sys.argv[1]])\nexcept SystemExit: pass\n"
        "assert not {'mcp', 'pydantic', 'anyio', 'starlette'} & set(sys.modules), sorted(sys.modules)"
    )
    for word in ("--version", "--help"):
        subprocess.run([sys.executable, "-c", code, word], env=server_env(), cwd=ROOT, check=True, timeout=60)


def test_a_server_does_not_pay_for_rich() -> None:
    code = (
        "import sys; from tests.fakes.toy_tools import build_server; from vllm_mcp_protocol.settings import Settings\n"
        "build_server(Settings()); assert 'rich.console' not in sys.modules\n"
        "import rich.console"
    )
    subprocess.run([sys.executable, "-c", code], env=server_env(), cwd=ROOT, check=True, timeout=60)


def test_help_shows_how_to_call_a_tool() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "call TOOL" in done.stdout
    assert "exit codes" in done.stdout
    assert "environment:\n  LOG_LEVEL  What is written to stderr [WARNING]\n" in done.stdout


def test_a_variable_is_described_where_it_is_read() -> None:
    port, key, read_only = EnvVar("VLLM_TIMEOUT"), EnvVar("VLLM_API_KEY"), EnvVar("VLLM_MCP_READ_ONLY")
    assert port.description == Settings.model_fields["vllm_timeout"].description
    assert [(v.default, v.secret) for v in (port, key, read_only)] == [("120000", False), ("", True), ("false", False)]
    own = EnvVar("NOT_A_SETTING", "Of its own")
    assert (own.description, own.default, own.secret) == ("Of its own", "", False)
    with pytest.raises(KeyError):
        EnvVar("NOT_A_SETTING").description  # noqa: B018


def test_tools_are_listed_with_their_parameters() -> None:
    done = command("tools")
    assert done.returncode == 0
    assert "--tensor-parallel-size: GPUs that share each layer (a whole number from 1 to 64)" in done.stdout
    assert "--model-id (required)" in done.stdout
    listed = json.loads(command("tools", "--json", VLLM_MCP_READ_ONLY="1").stdout)
    assert "load-model" not in {tool["name"] for tool in listed}
    assert "list-models" in {tool["name"] for tool in listed}


def test_a_call_prints_for_people_and_for_programs() -> None:
    words = ("call", "load-model", "--model-id", "a/b", "--gpu-ids", "0,1", "--pin")
    people = command(*words)
    assert (people.returncode, people.stderr) == (0, "")
    assert "model id: a/b" in people.stdout
    program = command(*words, "--json")
    assert json.loads(program.stdout)["options"]["gpu_ids"] == [0, 1]


FAILURES = [
    (("load-model", "--model-id", "too/large"), 1, "unload-model e3"),
    (("load-model",), 2, "model_id is required"),
    (("load-model", "--modl-id", "x"), 2, "Did you mean --model-id"),
    (("echo-values", "--whole", "99"), 2, "from -10 to 10"),
    (("lod-model",), 2, "Did you mean load-model"),
    (("need-hub",), 3, "vllm-mcp doctor"),
    (("crash-now",), 1, "INTERNAL_ERROR"),
]


@pytest.mark.parametrize(("words", "code", "says"), FAILURES)
def test_failures_exit_with_their_kind_and_the_next_step(words: tuple[str, ...], code: int, says: str) -> None:
    done = command("call", *words)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stdout == ""


def test_a_failure_is_structured_for_programs() -> None:
    done = command("call", "--json", "load-model", "--model-id", "too/large")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["details"]["available_mb"] == 16384


@pytest.mark.parametrize(
    "words", [("--transport", "smoke"), ("--port", "99999"), ("--port", "x"), ("nonsense",), ("call",)]
)
def test_bad_usage_exits_with_2(words: tuple[str, ...]) -> None:
    done = command(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_setting_that_cannot_be_read_is_named() -> None:
    done = command("tools", VLLM_TIMEOUT="soon")
    assert done.returncode == 2
    assert "VLLM_TIMEOUT='soon'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_of_one_tool() -> None:
    done = command("call", "load-model", "--help")
    assert done.returncode == 0
    assert "--gpu-ids" in done.stdout


def test_a_reader_that_leaves_early_is_no_crash() -> None:
    shell = f"{' '.join(TOY_COMMAND)} tools | head -1"
    done = subprocess.run(
        ["bash", "-c", shell], env=server_env(), cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [("summary", "x" * 101), ("instructions", "x" * 1200), ("module_build", "no.function"), ("module_build", ":f")],
)
def test_descriptions_keep_their_limits(field: str, value: str) -> None:
    values = {**TOY.__dict__, field: value}
    with pytest.raises(ValueError, match=field):
        ServerDescription(**values)
