"""`vllm-model-manager` as a client starts it: a process on stdio, whose end is not the end of what it started."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import anyio
import pytest
from anyio import to_thread
from mcp import Client, StdioServerParameters

from tests.hubs import HubSite, wait_for
from vllm_mcp_protocol.model import EngineStatus, EngineView
from vllm_model_manager import __version__
from vllm_model_manager.description import DESCRIPTION

pytestmark = pytest.mark.anyio

ERAS = [("legacy", "2025-11-25"), ("auto", "2026-07-28")]


def connect(site: HubSite, mode: Any) -> Client:
    command = StdioServerParameters(command=sys.executable, args=["-m", "vllm_model_manager"], env=site.env)
    return Client(command, mode=mode)


async def only_view(site: HubSite) -> EngineView:
    """The engine of this test; those of earlier ones have stopped."""
    async with site.client() as hub:
        views = [v for v in (await hub.state()).engines if v.status is not EngineStatus.STOPPED]
    [view] = views
    return view


async def until_starting(site: HubSite) -> None:
    with anyio.fail_after(60):
        while len(site.living()) != 1:
            await anyio.sleep(0.05)


@pytest.mark.parametrize(("mode", "version"), ERAS)
async def test_a_session_from_load_to_unload(site: HubSite, mode: str, version: str) -> None:
    with anyio.fail_after(60):
        async with connect(site, mode) as client:
            assert client.protocol_version == version
            loaded = await client.call_tool("load-model", {"model_id": "org/llama"})
            asked = await client.call_tool("generate-text", {"prompt": "hello"})
            unloaded = await client.call_tool("unload-model", {"model_id": "org/llama"})
    for result in (loaded, asked, unloaded):
        assert not result.is_error, result.structured_content
    assert site.living() == []


LEGACY_HELLO: list[dict[str, Any]] = [
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "tests", "version": "0"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
]
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Pipe:
    """A client that speaks by hand, so that it can end in ways that a well-behaved one does not."""

    def __init__(self, site: HubSite, mode: str) -> None:
        self._modern = mode == "auto"
        command = [sys.executable, "-m", "vllm_model_manager"]
        self.process = subprocess.Popen(
            command, env=site.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0
        )
        for message in [] if self._modern else LEGACY_HELLO:
            self.send(message)

    def load(self, model_id: str) -> None:
        """Ask for a load, as request 1."""
        meta = {"_meta": MODERN_META} if self._modern else {}
        params = {"name": "load-model", "arguments": {"model_id": model_id}, **meta}
        self.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})

    def send(self, message: dict[str, Any]) -> None:
        """One line on the server's stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End of file, and wait for the server's end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("end", ["eof", "kill"])
async def test_a_client_that_ends_in_the_middle_of_a_load_does_not_end_the_load(
    site: HubSite, mode: str, end: str
) -> None:
    site.set_knobs(load_s=3)
    client = Pipe(site, mode)
    client.load("org/llama")
    await until_starting(site)
    if end == "kill":
        os.killpg(client.process.pid, signal.SIGKILL)
    client.close()
    async with site.client() as hub:
        view = await only_view(site)
        with anyio.fail_after(60):
            while view.status is EngineStatus.STARTING:
                view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=5)
    assert view.status is EngineStatus.READY


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_cancelled_load_is_stopped(site: HubSite, mode: str) -> None:
    site.set_knobs(load_s=30)
    client = Pipe(site, mode)
    client.load("org/llama")
    await until_starting(site)
    client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    await to_thread.run_sync(wait_for, lambda: site.living() == [], "the cancelled engine is gone")
    client.close()


def test_help_lists_every_variable_with_its_meaning() -> None:
    command = [sys.executable, "-m", "vllm_model_manager", "--help"]
    done = subprocess.run(command, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.partition("environment:\n")[2].splitlines() if line)
    for variable in DESCRIPTION.environment:
        assert lines[variable.name].startswith(variable.description), variable.name
    assert lines["VLLM_TIMEOUT"].endswith("[120000]")


def test_the_version_is_told_without_importing_the_sdk() -> None:
    code = "import sys, runpy\nsys.argv = ['vllm-model-manager', '--version']\n"
    code += "try: runpy.run_module('vllm_model_manager', run_name='__main__')\n"
    code += "except SystemExit as end: assert not end.code\n"
    code += "assert 'mcp' not in sys.modules and 'httpx2' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().split() == ["vllm-model-manager", __version__]
