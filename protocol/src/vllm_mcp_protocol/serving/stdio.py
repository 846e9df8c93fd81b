"""Stdio that every client can live with: both protocol eras, pings always answered, gone when the client is.

- Crush pings before each call even in 2026-07-28, which has no `ping`, and restarts one that stays silent.
- A line that is not JSON-RPC is answered with JSON-RPC's own error; the SDK alone drops it silently.
- Nothing but protocol reaches fd 1: the SDK diverts it to stderr while serving, and it stays there,
  because text that a stray `print` left in a buffer would otherwise reach the client at exit.
- A copy on stdio owns nothing, so after EOF a tool that cannot be cancelled gets two seconds, not more.
"""

import logging
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse

logger = logging.getLogger(__name__)

END_LIMIT_S = 2.0
"""Time that running tools get to end after EOF. Clients wait about this long before they kill."""

_PARSE_ERROR = -32700
_INVALID_REQUEST = -32600
_STREAM_CLOSED = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class ConnectionServer(Protocol):
    """What stdio needs of a server."""

    async def serve_connection(self, read: Any, write: Any) -> None: ...


async def serve_stdio(server: ConnectionServer) -> None:
    """Serve the client behind stdin and stdout until EOF or until it is gone."""
    try:
        async with stdio_server() as (read, write):
            sys.stdout = sys.stderr
            async with screened(read, write) as messages:
                await server.serve_connection(messages, write)
    except* BrokenPipeError:
        logger.info("The client closed its end while an answer was written")
    finally:
        os.dup2(2, 1)


@asynccontextmanager
async def screened(read: Any, write: Any) -> AsyncIterator[Any]:
    """Yield `read` without pings and without lines that are no messages: both are answered here."""
    send, receive = anyio.create_memory_object_stream[Any](0)

    async def relay() -> None:
        async with send:
            async for item in read:
                answer = _answer(item)
                try:
                    await (send.send(item) if answer is None else write.send(SessionMessage(answer)))
                except _STREAM_CLOSED:
                    return
        _end_soon()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay)
        yield receive
        tasks.cancel_scope.cancel()


def _answer(item: Any) -> JSONRPCResponse | JSONRPCError | None:
    """The answer to what never reaches the server; None for what does."""
    match item:
        case SessionMessage(message=JSONRPCRequest(method="ping", id=request_id)):
            return JSONRPCResponse(jsonrpc="2.0", id=request_id, result={})
        case Exception():
            return JSONRPCError(jsonrpc="2.0", id=None, error=_line_error(item))
        case _:
            return None


def _line_error(error: Exception) -> ErrorData:
    details = getattr(error, "errors", None)
    kinds = {item["type"] for item in details(include_url=False, include_input=False)} if details else set()
    if "json_invalid" in kinds or not details:
        return ErrorData(code=_PARSE_ERROR, message="Parse error: a line is one JSON-RPC message")
    return ErrorData(code=_INVALID_REQUEST, message="Invalid Request: not a JSON-RPC 2.0 message")


def _end_soon() -> None:
    """End the process even when something will not be cancelled (a thread in a system call)."""
    timer = threading.Timer(END_LIMIT_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
