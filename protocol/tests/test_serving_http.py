"""Streamable HTTP: who may speak to it, and that it answers like stdio."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.fakes.toy_client import MODERN_META, ROOT, TOY_COMMAND, server_env
from tests.fakes.toy_tools import build_server
from vllm_mcp_protocol.errors import SettingError
from vllm_mcp_protocol.serving.http import checked_token, http_app, is_loopback, read_token
from vllm_mcp_protocol.settings import Settings

pytestmark = pytest.mark.anyio

TOKEN = "correct horse"


@contextmanager
def http_server(*arguments: str, **env: str) -> Iterator[str]:
    """The address of a toy server on a free port."""
    command = [*TOY_COMMAND, "--transport", "http", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=server_env(**env), cwd=ROOT, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert "listens on" in line, line + process.stderr.read()
            yield line.split()[-1]
        finally:
            process.terminate()
            rest = process.stderr.read()
            code = process.wait(timeout=60)
    assert code in (0, -15)
    assert "Traceback" not in rest


def refused(*arguments: str, exits: int = 2, **env: str) -> str:
    """What a server says that will not start."""
    command = [*TOY_COMMAND, "--transport", "http", "--port", "0", *arguments]
    done = subprocess.run(
        command, env=server_env(**env), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == exits
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def discover(address: str, **headers: str) -> httpx2.Response:
    """One request of 2026-07-28, by hand."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": MODERN_META}}
    always = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "server/discover",
    }
    return httpx2.post(address, json=message, headers={**always, **headers}, timeout=20)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_session_over_http_is_like_one_over_stdio(mode: str) -> None:
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    with http_server() as address:
        async with Client(address, mode=mode) as client:
            assert len((await client.list_tools()).tools) == 12
            loaded = await client.call_tool("load-model", {"model_id": "a/b"}, progress_callback=on_progress)
            failed = await client.call_tool("load-model", {"model_id": "too/large"})
            await client.read_resource("fleet://status")
    assert loaded.structured_content is not None
    assert loaded.structured_content["status"] == "loaded"
    assert failed.is_error
    assert seen


def test_loopback_checks_host_and_origin() -> None:
    with http_server() as address:
        assert discover(address).status_code == 200
        assert discover(address, Host="evil.example").status_code == 421
        assert discover(address, Origin="http://evil.example").status_code == 403
        assert discover(address, Origin="http://localhost:3000").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_token_that_is_set_is_required(host: str) -> None:
    with http_server("--host", host, VLLM_MCP_TOKEN=TOKEN) as address:
        address = address.replace("0.0.0.0", "127.0.0.1")
        none = discover(address)
        wrong = [discover(address, Authorization=value) for value in ("Bearer nope", f"Basic {TOKEN}", "Bearer")]
        assert discover(address, Authorization=f"Bearer {TOKEN}").status_code == 200
        assert discover(address, Authorization=f"bearer {TOKEN}").status_code == 200
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
            Client(streamable_http_client(address, http_client=http), mode="auto") as client,
        ):
            assert len((await client.list_tools()).tools) == 12
    assert [answer.status_code for answer in (none, *wrong)] == [401] * 4
    assert none.headers["www-authenticate"].startswith("Bearer")
    assert none.json()["error"]["code"] == "UNAUTHORIZED"
    assert TOKEN not in none.text


def test_the_token_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(TOKEN + "\n")
    with http_server("--token-file", str(file)) as address:
        assert discover(address).status_code == 401
        assert discover(address, Authorization=f"Bearer {TOKEN}").status_code == 200


def test_other_addresses_are_refused_without_a_token() -> None:
    words = refused("--host", "0.0.0.0", VLLM_MCP_TOKEN="${VLLM_MCP_TOKEN}")
    assert "without a bearer token" in words
    assert "VLLM_MCP_TOKEN" in words


def test_a_port_in_use_is_a_sentence() -> None:
    with http_server() as address:
        port = address.rsplit(":", 1)[1].removesuffix("/mcp")
        words = refused("--port", port, exits=1)
    assert "PORT_IN_USE" in words
    assert "choose another --port" in words


@pytest.mark.parametrize(
    ("text", "mode", "words"), [("", 0o600, "empty"), (TOKEN, 0o644, "other users"), (None, 0, "read")]
)
def test_token_files_that_will_not_do(tmp_path: Path, text: str | None, mode: int, words: str) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.touch(mode=mode)
        file.write_text(text)
    with pytest.raises(SettingError, match=words):
        read_token(file)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
    ],
)
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if not loopback:
        with pytest.raises(SettingError):
            checked_token(host, None)
        with pytest.raises(SettingError):
            http_app(build_server(Settings()), host, "")
    assert checked_token(host, TOKEN) == TOKEN


def test_nothing_but_mcp_is_served() -> None:
    with http_server() as address:
        for path in ("/", "/docs", "/openapi.json", "/mcp/../etc"):
            answer: Any = httpx2.get(address.removesuffix("/mcp") + path, timeout=20)
            assert answer.status_code == 404
