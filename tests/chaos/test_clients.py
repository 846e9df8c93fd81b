"""MCP clients over stdio, as Crush and Claude Code run them: several at once, and killed without warning."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from tests.chaos.waiting import until
from tests.hubs import HubSite, wait_for
from vllm_mcp_protocol.model import EngineStatus

pytestmark = pytest.mark.anyio
COMMAND = [sys.executable, "-m", "vllm_model_manager"]


@pytest.fixture(autouse=True)
def models(site: HubSite) -> None:
    """Two models in the cache; the fake engine never opens them."""
    for name in ("one", "two"):
        snapshot = (
            Path(site.env["HF_HOME"]) / f"hub/models--tests--{name}/snapshots/0123456789abcdef0123456789abcdef01234567"
        )
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(
            json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
        )
        (snapshot / "model.safetensors").write_bytes(b"\0" * 1024)
        refs = snapshot.parents[1] / "refs"
        refs.mkdir()
        (refs / "main").write_text(snapshot.name)


def server(site: HubSite) -> StdioServerParameters:
    return StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=site.env)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    answer: dict[str, Any] | None = result.structured_content
    assert answer is not None
    assert not result.is_error, answer
    return answer


async def test_two_clients_of_both_revisions_see_one_truth(site: HubSite) -> None:
    async with Client(server(site), mode="legacy") as old, Client(server(site), mode="auto") as new:
        assert old.protocol_version != new.protocol_version
        loaded = await call(old, "load-model", model_id="tests/one", wait_seconds=60)
        assert loaded["status"] == "loaded"
        joined = await call(new, "load-model", model_id="tests/one", wait_seconds=60)
        assert joined["engine_id"] == loaded["engine_id"]
        assert (await call(old, "list-models"))["models"] == (await call(new, "list-models"))["models"]
        await call(new, "unload-model", model_id="tests/one")
        assert (await call(old, "list-models"))["loaded_count"] == 0


def message(number: int, method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


def loading(site: HubSite, client: str) -> "subprocess.Popen[bytes]":
    """A server in a process group of its own, in the middle of a load that `client` asked for."""
    site.set_knobs(load_s=2.0)
    process = subprocess.Popen(
        COMMAND, env=site.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    )
    assert process.stdin is not None
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": client, "version": "1"}}
    process.stdin.write(message(1, "initialize", **hello))
    process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    process.stdin.write(message(2, "tools/call", name="load-model", arguments={"model_id": "tests/one"}))
    process.stdin.flush()
    wait_for(site.living, "the engine has been started")
    return process


async def test_a_client_killed_in_the_middle_of_a_load_does_not_stop_it(site: HubSite) -> None:
    """Crush SIGKILLs the whole process group. The engine belongs to the hub and gets ready."""
    process = loading(site, "crush")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    async with site.client(start=False) as hub:
        await until(hub, "e1", EngineStatus.READY)


async def test_a_server_ends_when_its_client_closes_the_pipe(site: HubSite) -> None:
    process = loading(site, "opencode")
    process.communicate(timeout=60)
    assert process.returncode == 0
    async with site.client(start=False) as hub:
        await until(hub, "e1", EngineStatus.READY)
