"""A server that sends what a test says, byte for byte, on a port of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from vllm_mcp_protocol.model import Endpoint

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Request:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    send: Callable[[bytes], Awaitable[None]]
    connection: int

    async def events(self, *events: Any, done: bool = True) -> None:
        """A whole streamed answer: JSON values, or text where it is a string."""
        await self.send(STREAM)
        for event in (*events, *(("[DONE]",) if done else ())):
            await self.send(chunked(sse(event)))
        await self.send(b"0\r\n\r\n")

    async def refuse(self, status: int, message: str) -> None:
        content = json.dumps({"error": {"message": message}}).encode()
        await self.send(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content)


Script = Callable[[Request], Awaitable[None]]
"""What is sent for a request. When it raises ConnectionError, the connection is closed."""


@dataclass
class Scripted:
    """The server while it runs."""

    port: int
    requests: list[Request] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    connections: int = 0
    gone: int = 0
    """Connections that the client ended."""

    def endpoint(self, key: str | None = None) -> Endpoint:
        return Endpoint(
            url=f"http://127.0.0.1:{self.port}", served_name="m", api_key=None if key is None else SecretStr(key)
        )


def sse(event: Any) -> bytes:
    return f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def piece(text: str = "a", finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Scripted]:
    """Serve `script` to every request."""
    site = Scripted(0)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        site.connections += 1
        number = site.connections
        site.open_now += 1
        site.most_open = max(site.most_open, site.open_now)

        async def send(content: bytes) -> None:
            writer.write(content)
            await writer.drain()

        try:
            while True:
                request = await _read(reader, send, number)
                site.requests.append(request)
                await script(request)
        except asyncio.IncompleteReadError:
            site.gone += 1
        except ConnectionError:
            pass
        finally:
            site.open_now -= 1
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        await server.wait_closed()


async def _read(reader: asyncio.StreamReader, send: Callable[[bytes], Awaitable[None]], number: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(head[0].split()[1], headers, json.loads(body or b"{}"), send, number)
