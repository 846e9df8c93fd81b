"""The kit's stdio in a real process, spoken to as clients do, and as they should not."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from tests.fakes.toy_client import MODERN_META, ROOT, TOY_COMMAND, RawClient, eventually, raw_client, server_env

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["2025-11-25", "2026-07-28"])
def modern(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "2026-07-28")


@pytest.fixture
def client(modern: bool) -> Iterator[RawClient]:
    with raw_client(modern=modern) as client:
        yield client


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
async def test_the_official_client_holds_a_session(mode: str, version: str) -> None:
    command, *arguments = TOY_COMMAND
    server = StdioServerParameters(command=command, args=arguments, env=server_env(), cwd=ROOT)
    async with Client(server, mode=mode) as client:
        assert client.protocol_version == version
        assert len((await client.list_tools()).tools) == 12
        loaded = await client.call_tool("load-model", {"model_id": "a/b"})
        refused = await client.call_tool("load-model", {"model_id": "too/large"})
    assert loaded.structured_content is not None
    assert loaded.structured_content["status"] == "loaded"
    assert refused.is_error


def test_both_eras_answer_the_same() -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("list-models", {}),
        ("load-model", {"model_id": "a/b", "gpu_ids": [0]}),
        ("load-model", {"model_id": "too/large"}),
        ("list-models", {"bad": 1}),
        ("no-such-tool", {}),
    ]
    seen = []
    for modern in (False, True):
        with raw_client(modern=modern) as client:
            answers = [client.call(tool, arguments) for tool, arguments in calls]
            tools = client.ask("tools/list")["result"]["tools"]
        kept = [(a.get("isError", False), a["content"], a["structuredContent"]) for a in answers]
        seen.append((kept, tools))
    assert seen[0] == seen[1]


def test_pings_are_answered_before_between_and_during_calls(client: RawClient, tmp_path: Path) -> None:
    marker = str(tmp_path / "running")
    sleeping = client.send("tools/call", {"name": "sleep-model", "arguments": {"seconds": 60, "marker": marker}})
    for request_id in ("text-id", 7001):
        client.write(json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "ping"}).encode())
        assert client.answer(request_id) == {"jsonrpc": "2.0", "id": request_id, "result": {}}
    assert client.call("list-models", {})["structuredContent"]["success"]
    client.notify("notifications/cancelled", {"requestId": sleeping})
    assert client.end() == 0


async def test_cancelling_stops_the_tool_and_nothing_else(client: RawClient, tmp_path: Path) -> None:
    marker = tmp_path / "running"
    arguments = {"seconds": 600, "marker": str(marker)}
    sleeping = client.send("tools/call", {"name": "sleep-model", "arguments": arguments})
    await eventually(marker.exists)
    client.notify("notifications/cancelled", {"requestId": sleeping})
    await eventually(lambda: not marker.exists())
    assert client.call("list-models", {})["structuredContent"]["success"]


GARBAGE = [
    (b"this is not json", -32700),
    (b'{"jsonrpc": "2.0", "id": 1, "method"', -32700),
    (b"\xff\xfe\x00binary", -32700),
    (b"[" * 100_000, -32700),
    (b'{"hello": "world"}', -32600),
    (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', -32600),
    (b'"text"', -32600),
    (b"", -32700),
]


def test_garbage_is_answered_and_survived(client: RawClient) -> None:
    for line, code in GARBAGE:
        client.write(line)
        answer = client.answer(None)
        assert (line[:20], answer["error"]["code"]) == (line[:20], code)
        assert answer["id"] is None
    assert client.call("list-models", {})["structuredContent"]["success"]
    assert client.end() == 0


def test_garbage_before_hello_is_survived() -> None:
    with subprocess.Popen(
        TOY_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=server_env(), cwd=ROOT
    ) as process:
        client = RawClient(process, modern=True)
        for _ in range(20):
            client.write(b"garbage")
        client.write(b'{"jsonrpc": "2.0", "id": "early", "method": "ping"}')
        assert client.answer("early")["result"] == {}
        client.open()
        assert client.end() == 0


def test_huge_lines_are_refused_with_a_short_answer(client: RawClient) -> None:
    answer = client.call("echo-values", {"text": "x" * 20_000_000})
    assert answer["isError"]
    assert len(answer["content"][0]["text"]) < 2000
    client.write(b"y" * 20_000_000)
    assert client.answer(None)["error"]["code"] == -32700
    assert client.call("list-models", {})["structuredContent"]["success"]


def test_nothing_else_reaches_stdout(client: RawClient) -> None:
    assert client.call("print-noise", {})["structuredContent"]["success"]
    assert client.end() == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in client.lines)
    assert b"noise" not in b"".join(client.lines)


async def test_eof_ends_a_running_call(client: RawClient, tmp_path: Path) -> None:
    marker = tmp_path / "running"
    arguments = {"seconds": 600, "marker": str(marker)}
    client.send("tools/call", {"name": "sleep-model", "arguments": arguments})
    await eventually(marker.exists)
    assert client.end() == 0
    assert not marker.exists(), "the tool's own clean-up ran"


async def test_eof_ends_even_what_cannot_be_cancelled(client: RawClient, tmp_path: Path) -> None:
    marker = tmp_path / "running"
    arguments = {"seconds": 600, "marker": str(marker)}
    client.send("tools/call", {"name": "block-thread", "arguments": arguments})
    await eventually(marker.exists)
    assert client.end(limit_s=20) == 0


def test_a_client_that_dies_while_it_is_answered() -> None:
    params = {
        "name": "long-answer",
        "arguments": {"size_bytes": 500_000},
        "_meta": MODERN_META,
    }
    pipe = subprocess.PIPE
    with subprocess.Popen(TOY_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, env=server_env(), cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for request_id in range(5):
            message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
            process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.read(1) == b"{"
        # Far more than a pipe holds is still to be written when both pipes break, as after a SIGKILL.
        process.stdout.close()
        process.stdin.close()
        assert process.wait(timeout=60) == 0
        words = process.stderr.read().decode()
    assert "Traceback" not in words


def test_crashes_are_logged_to_stderr(modern: bool) -> None:
    with raw_client(modern=modern, stderr=subprocess.PIPE) as client:
        assert client.call("crash-now", {})["structuredContent"]["error"]["code"] == "INTERNAL_ERROR"
        assert client.end() == 0
        assert client.process.stderr is not None
        assert b"hunter2" in client.process.stderr.read()


def test_permissions_come_from_the_environment(modern: bool) -> None:
    with raw_client(modern=modern, VLLM_MCP_READ_ONLY="true", VLLM_MCP_DENIED_TOOLS="${UNSET}") as client:
        names = {tool["name"] for tool in client.ask("tools/list")["result"]["tools"]}
        refused = client.call("load-model", {"model_id": "a/b"})
    assert "list-models" in names
    assert "load-model" not in names
    assert refused["structuredContent"]["error"]["code"] == "TOOL_NOT_ALLOWED"
