"""Streamable HTTP at `/mcp`. Loopback needs no token, and checks Host and Origin; other addresses do."""

import hmac
import ipaddress
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mcp_protocol.errors import PortInUse, SettingError, Unauthorized
from vllm_mcp_protocol.serving.results import compact_json, failure_payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from vllm_mcp_protocol.serving.server import SuiteServer

PATH = "/mcp"
_GRACE_S = 3
"""Time that running calls get after SIGTERM or Ctrl-C."""


def is_loopback(host: str) -> bool:
    """Is `host` reachable from this machine only?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(file: Path) -> str:
    """The token in `file`. Raises SettingError when it is unreadable, empty, or readable by other users."""
    try:
        mode = file.stat().st_mode
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused_file(file, f"it cannot be read ({error})", "name a readable file") from None
    if stat.S_IMODE(mode) & 0o077:
        raise _refused_file(file, "other users may read it", f"chmod 600 {file}")
    if not token:
        raise _refused_file(file, "it is empty", "write a token into it: openssl rand -hex 32")
    return token


def checked_token(host: str, token: str | None, *, could: str = "load models") -> str | None:
    """`token`, or SettingError when `host` may not be served without one; `could`: what everybody could do then."""
    if token or is_loopback(host):
        return token
    raise SettingError(
        f"Refusing to listen on {host} without a bearer token: everybody on the network could {could}.",
        suggestion="set VLLM_MCP_TOKEN or pass --token-file FILE, or listen on 127.0.0.1",
        variable="VLLM_MCP_TOKEN",
        host=host,
    )


def http_app(server: "SuiteServer", host: str, token: str | None) -> "ASGIApp":
    """The ASGI application. Raises SettingError when `host` needs a token and there is none."""
    from mcp.server.transport_security import TransportSecuritySettings

    checked_token(host, token)
    names = ("127.0.0.1", "localhost", "[::1]") + ((_bracketed(host),) if is_loopback(host) else ())
    hosts = [*names, *(f"{name}:*" for name in names)]
    security = TransportSecuritySettings(
        # Elsewhere the token does the work: a page in a browser that reaches us by a rebound name has none.
        enable_dns_rebinding_protection=is_loopback(host),
        allowed_hosts=hosts,
        allowed_origins=[f"http://{name}" for name in hosts],
    )
    app = server.streamable_http_app(streamable_http_path=PATH, host=host, transport_security=security)
    return with_token(app, token) if token else app


async def serve_http(server: "SuiteServer", host: str, port: int, token: str | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; prints the address to stderr once it listens. Port 0: any free one.

    Raises SettingError (no token), PortInUse.
    """
    await serve_app(http_app(server, host, token), server.name, host, port, PATH)


async def serve_app(
    app: "ASGIApp",
    name: str,
    host: str,
    port: int,
    path: str,
    listening: "Callable[[str], object] | None" = None,
) -> None:
    """Serve any application like that; `name` and `path` are for the line that says where it listens, and `listening`
    is told that address, too.

    Raises PortInUse.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    listener = _listen(host, port)
    with listener:
        address = f"http://{_bracketed(host)}:{listener.getsockname()[1]}{path}"
        print(f"{name} listens on {address}", file=sys.stderr, flush=True)
        if listening is not None:
            listening(address)
        await uvicorn.Server(config).serve(sockets=[listener])


def with_token(app: "ASGIApp", token: str) -> "ASGIApp":
    """`app` for those only who send `Authorization: Bearer TOKEN`; the others get 401."""
    return _Bearer(app, token)


class _Bearer:
    """Lets only requests with the right token through."""

    def __init__(self, app: "ASGIApp", token: str) -> None:
        self._app = app
        self._wanted = b"bearer " + token.encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http" and not self._knows(scope):
            await _unauthorized(send)
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: "Scope") -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._wanted)


async def _unauthorized(send: "Send") -> None:
    error = Unauthorized(
        "This server needs a bearer token, and the request has none or another one.",
        suggestion="send the header `Authorization: Bearer TOKEN` with the server's token",
    )
    body = compact_json(failure_payload(error.info)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"www-authenticate", b'Bearer realm="vllm-mcp"'),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _listen(host: str, port: int) -> Any:
    import socket

    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        return socket.create_server((bare, port), family=family, backlog=128)
    except OSError as error:
        raise PortInUse(
            f"Cannot listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}.",
            suggestion="choose another --port, or 0 for any free one",
            host=host,
            port=port,
        ) from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _refused_file(file: Path, why: str, next_step: str) -> SettingError:
    return SettingError(f"--token-file {file}: {why}.", suggestion=next_step, file=str(file))
