"""HTTP/1.1 where its cost counts: one request and one answer at a time on connections that stay open, over TCP, TLS or
a unix socket.

Why not the HTTP client that the suite uses everywhere else: a load generator takes processor time from what it
measures when both are on one machine, and is itself the limit when it is too slow; and a hub that looks at sixteen
engines each second should not be felt. Measured on two cores with 16 streams at once: 123 µs for each token with
httpx2, 54 with aiohttp (which `vllm bench serve` uses), 42 with this; at 100 streams httpx2 gave out at 18,000
tokens/s, the other two at 28,000 and 30,000. A look at an engine takes 0.9 ms with httpx2 and 0.08 with this. It is
what these need of HTTP, on asyncio's streams: no redirects, no proxies, no cookies, no compression.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio

from vllm_mcp_protocol.http1 import BadHttp, Body, Head, body_of, parse_head

MAX_HEAD_BYTES = 64 * 1024
READ_BYTES = 64 * 1024


class Unreachable(Exception):
    """No connection, or it ended before an answer began."""


class CutOff(Exception):
    """The connection ended in the middle of an answer."""


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False

    @property
    def alive(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())

    def drop(self) -> None:
        """At once and without a farewell: that is what tells an engine to stop working on the request."""
        self.writer.transport.abort()


@dataclass(slots=True)
class Answer:
    """Status and headers; the body as it comes."""

    head: Head
    _body: Body
    _connection: _Connection

    @property
    def whole(self) -> bool:
        return self._body.done

    async def part(self) -> bytes:
        """What arrives next, as it arrives; empty at the end of the body. Raises CutOff, BadHttp."""
        while not self._body.done:
            try:
                arrived = await self._connection.reader.read(READ_BYTES)
            except OSError as error:
                raise CutOff(_reason(error)) from error
            if not arrived and not self._body.end():
                raise CutOff("the connection ended in the middle of the answer")
            if content := self._body.feed(arrived):
                return content
        return b""

    async def parts(self) -> AsyncIterator[bytes]:
        """All of the body, as it arrives. Raises CutOff, BadHttp."""
        while part := await self.part():
            yield part


class Wire:
    """Connections to one server, at most `limit`, kept open between requests."""

    def __init__(
        self, base_url: str, *, uds: str | None = None, limit: int, headers: Mapping[str, str], connect_s: float = 10.0
    ) -> None:
        parts = urlsplit(base_url)
        self._uds = uds
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._connect_s = connect_s
        self._gate = asyncio.Semaphore(limit)
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._tls: ssl.SSLContext | None = None
        fixed = {"host": parts.netloc.rpartition("@")[2] or "localhost", "accept-encoding": "identity", **headers}
        lines = [f"{name}: {value}\r\n" for name, value in fixed.items()]
        if any("\r" in line[:-2] or "\n" in line[:-2] for line in lines):
            raise ValueError("a header has more than one line")
        self._headers = "".join(lines).encode("latin-1")

    @property
    def open_connections(self) -> int:
        return len(self._idle) + len(self._busy)

    async def aclose(self) -> None:
        """End every connection, those in use too."""
        for connection in (*self._idle, *self._busy):
            connection.drop()
        self._idle.clear()
        await asyncio.sleep(0)  # asyncio closes the sockets in its next round

    @asynccontextmanager
    async def ask(self, method: str, path: str, body: bytes | None = None) -> AsyncIterator[Answer]:
        """An answer whose body is still to be read. When it is not read to its end, the connection is dropped.

        Raises Unreachable, BadHttp.
        """
        request = f"{method} {self._prefix}{path} HTTP/1.1\r\n".encode() + self._headers
        request += b"\r\n" if body is None else b"content-length: %d\r\n\r\n%b" % (len(body), body)
        async with self._gate:
            connection, answer = await self._sent(request)
            try:
                yield answer
            finally:
                self._busy.discard(connection)
                if answer.whole and answer.head.keeps_alive and connection.alive:
                    self._idle.append(connection)
                else:
                    connection.drop()

    async def _sent(self, request: bytes) -> tuple[_Connection, Answer]:
        """A server may close an idle connection just when it is used again: then once more, on a new one."""
        while True:
            connection = self._reused() or await self._connected()
            reused, connection.used = connection.used, True
            self._busy.add(connection)
            try:
                return connection, await self._began(connection, request)
            except BaseException as error:
                self._busy.discard(connection)
                connection.drop()
                if not (reused and isinstance(error, Unreachable)):
                    raise

    def _reused(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
            connection.drop()
        return None

    async def _connected(self) -> _Connection:
        try:
            with anyio.fail_after(self._connect_s):
                return _Connection(*await self._opened())
        except TimeoutError as error:
            raise Unreachable(f"no connection within {self._connect_s:g} s") from error
        except (OSError, ValueError) as error:  # a host name that cannot be one is a ValueError
            raise Unreachable(_reason(error)) from error

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._uds:
            return await asyncio.open_unix_connection(self._uds, limit=MAX_HEAD_BYTES)
        if self._secure and self._tls is None:
            self._tls = ssl.create_default_context()
        return await asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=MAX_HEAD_BYTES)

    async def _began(self, connection: _Connection, request: bytes) -> Answer:
        """Send, and read the head; answers of 1xx come before the one that counts."""
        try:
            connection.writer.write(request)
            await connection.writer.drain()
            head = parse_head(await self._head_bytes(connection))
            while head.status < 200:
                head = parse_head(await self._head_bytes(connection))
        except OSError as error:
            raise Unreachable(_reason(error)) from error
        return Answer(head, body_of(head), connection)

    async def _head_bytes(self, connection: _Connection) -> bytes:
        try:
            return (await connection.reader.readuntil(b"\r\n\r\n"))[:-4]
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise BadHttp(f"the answer ended in its head: {error.partial[:60]!r}") from error
            raise Unreachable("the connection ended before an answer") from error
        except asyncio.LimitOverrunError as error:
            raise BadHttp(f"the head of the answer is larger than {MAX_HEAD_BYTES >> 10} KiB") from error


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
