"""The official inspector's command line against our servers over stdio, in both protocol eras."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.toy_client import server_env
from tests.interop.node_programs import run
from tests.interop.servers import server_commands

pytestmark = pytest.mark.interop

DEFINITIONS = Path(__file__).parents[2] / "protocol/vllm-tool-definitions.json"
EXIT_TOOL_FAILED = 5
ERAS = ("legacy", "modern")


def inspect(server: str, era: str, home: Path, *words: str) -> tuple[int, Any, str]:
    """Exit code, parsed stdout and stderr of one inspector run."""
    env = server_env(VLLM_HUB_DIR=str(home / "hub"), HF_HOME=str(home / "hf"))
    pairs = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
    done = run("mcp-inspector", ["--cli", *pairs, *server_commands()[server], "--protocol-era", era, *words], home)
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", sorted(server_commands()))
def test_schemas_are_portable(server: str, era: str, tmp_path: Path) -> None:
    code, listed, problems = inspect(server, era, tmp_path, "--method", "tools/list", "--strict")
    assert (code, problems.strip()) == (0, "")
    names = [tool["name"] for tool in listed["tools"]]
    published = json.loads(DEFINITIONS.read_text(encoding="utf-8"))["servers"]
    assert names == [tool["name"] for tool in published.get(server, listed["tools"])]
    assert names


@pytest.mark.parametrize("era", ERAS)
def test_a_tool_answers_as_text_and_structure(era: str, tmp_path: Path) -> None:
    arguments = json.dumps({"model_id": "a/b", "gpu_ids": [0, 1]})
    words = ("--method", "tools/call", "--tool-name", "load-model", "--tool-args-json", arguments)
    code, result, _ = inspect("vllm-toy", era, tmp_path, *words)
    assert code == 0
    assert result["structuredContent"]["options"]["gpu_ids"] == [0, 1]
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]


@pytest.mark.parametrize("era", ERAS)
def test_a_failure_reaches_the_user_with_its_next_step(era: str, tmp_path: Path) -> None:
    """The TypeScript SDK checks failures against the output schema too, and would hide one that does not fit."""
    words = ("--method", "tools/call", "--tool-name", "load-model", "--tool-arg", "model_id=too/large")
    code, result, _ = inspect("vllm-toy", era, tmp_path, *words)
    assert code == EXIT_TOOL_FAILED
    assert result["isError"] is True
    assert result["structuredContent"]["error"]["details"]["suggestion"].startswith("unload-model")
