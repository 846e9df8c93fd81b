"""Scraping: sockets, connections that stay or end, keys, sizes. What becomes of a round: test_monitoring_monitor."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from vllm_mcp_hub.monitoring.scraping import Scraper
from vllm_mcp_protocol.engine_http import MAX_CONTROL_BYTES
from vllm_mcp_protocol.errors import EngineRequestFailed, EngineUnreachable
from vllm_mcp_protocol.model import Endpoint

pytestmark = pytest.mark.anyio

KEY = "k-secret"


class Listener:
    """An engine on a unix socket that remembers what it was asked, and answers what it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.closes = False
        self.asked: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                self.asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer)
                await writer.drain()
                if self.closes:
                    writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(url="http://engine", uds=str(self.path), served_name="m", api_key=SecretStr(KEY))


@asynccontextmanager
async def listening(tmp_path: Path) -> AsyncIterator[tuple[Listener, Scraper]]:
    listener = Listener(tmp_path / "engine.sock")
    server = await asyncio.start_unix_server(listener.serve, str(listener.path))
    scraper = Scraper(listener.endpoint)
    try:
        yield listener, scraper
    finally:
        await scraper.aclose()
        server.close()


async def test_one_connection_serves_many_scrapes_and_a_closed_one_is_made_anew(tmp_path: Path) -> None:
    async with listening(tmp_path) as (listener, scraper):
        assert [await scraper.metrics() for _ in range(3)] == [b"ok"] * 3
        assert listener.connections == 1
        assert listener.asked[0].startswith(b"GET /metrics HTTP/1.1\r\n")
        assert f"authorization: Bearer {KEY}".encode() in listener.asked[0]
        listener.closes = True
        assert [await scraper.metrics() for _ in range(3)] == [b"ok"] * 3
        assert listener.connections == 3
        listener.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        assert await scraper.metrics() == b"ok"


REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (REFUSED % (len(KEY) + 9, f"bad key: {KEY}".encode()), "401 to GET /metrics: bad key: (hidden)"),
        (REFUSED % (0, b""), "401 to GET /metrics: Unauthorized"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n", "302 to GET /metrics: Found"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (MAX_CONTROL_BYTES + 1), "larger than 4 MiB"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "SSH-2.0"),
    ],
)
async def test_what_is_no_answer_is_told_in_words(tmp_path: Path, answer: bytes, words: str) -> None:
    async with listening(tmp_path) as (listener, scraper):
        listener.answer = answer
        with pytest.raises(EngineRequestFailed) as caught:
            await scraper.metrics()
        assert words in str(caught.value)
        assert KEY not in str(caught.value)
        listener.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        assert await scraper.metrics() == b"ok"


async def test_nobody_listens(tmp_path: Path) -> None:
    scraper = Scraper(Endpoint(url="http://engine", uds=str(tmp_path / "none.sock"), served_name="m"))
    with pytest.raises(EngineUnreachable, match="cannot be asked for its metrics"):
        await scraper.metrics()


async def test_a_scrape_that_is_given_up_leaves_no_half_answer(tmp_path: Path) -> None:
    async with listening(tmp_path) as (listener, scraper):
        listener.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await scraper.metrics()
        listener.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        assert await scraper.metrics() == b"ok"
        assert listener.connections == 2
