"""Hooks that do what they like, given real news: a server's endless answer, programs that shout or never end."""

import asyncio
import logging
import time
import tracemalloc
from pathlib import Path

import anyio
import pytest

from tests.fakes.scripted_server import Request, chunked, scripted
from vllm_mcp_hub.core.alerting.states import Observation
from vllm_mcp_hub.host.launch import stat_fields
from vllm_mcp_hub.monitoring.alerts import Alerts
from vllm_mcp_hub.monitoring.sending import post, run

pytestmark = pytest.mark.anyio

NEWS = {"kind": "raised", "message": "disk full"}
LIMIT_S = 60.0


async def test_an_answer_without_an_end_is_an_answer() -> None:
    async def endless(request: Request) -> None:
        await request.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await request.send(chunked(b"x" * 100_000))

    async with scripted(endless) as server:
        with anyio.fail_after(LIMIT_S):
            result = await post(f"http://127.0.0.1:{server.port}/", NEWS)
        assert (result.outcome, server.requests[0].body) == ("delivered", NEWS)


async def test_a_redirect_is_a_failure_that_says_why() -> None:
    async def moved(request: Request) -> None:
        await request.send(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")

    async with scripted(moved) as server:
        result = await post(f"http://127.0.0.1:{server.port}/", NEWS)
        assert result.retry_after_s == 7
        assert (result.outcome, result.error) == ("failed", "it answered 302, and redirects are not followed")
        assert len(server.requests) == 1


async def test_of_a_program_that_shouts_the_end_is_kept() -> None:
    tracemalloc.start()
    try:
        result = await run(["/bin/sh", "-c", "head -c 100000000 /dev/zero >&2; echo no such host >&2; exit 3"], NEWS)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.outcome == "failed"
    assert result.error.startswith("it ended with 3: ")
    assert result.error.endswith("no such host\n")
    assert most_bytes < 10_000_000


async def test_a_program_is_given_the_news_on_its_standard_input(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    assert (await run(["/bin/sh", "-c", f"cat > {heard}"], NEWS)).outcome == "delivered"
    assert heard.read_text() == '{"kind": "raised", "message": "disk full"}'
    assert (await run(["/bin/true"], {"message": "x" * 1_000_000})).outcome == "delivered", "it need not read it"


async def test_of_a_program_that_is_given_up_nothing_is_left(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    work = asyncio.create_task(run(["/bin/sh", "-c", f"sleep 300 & echo $! > {started}; wait; echo"], NEWS))
    with anyio.fail_after(LIMIT_S):
        while not (started.exists() and started.read_text().strip()):
            await asyncio.sleep(0.02)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        while (fields := stat_fields(int(started.read_text()))) is not None and fields[0] not in "ZX":
            await asyncio.sleep(0.02)


async def test_a_hook_that_does_not_work_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alerts = Alerts(tmp_path, 1.0)
    alerts.set_rule("any-disk", {"metric": "disk_used", "threshold": 1.5, "for_seconds": 0})
    alerts.command = ("/there/is/none",)
    with caplog.at_level(logging.WARNING), anyio.fail_after(LIMIT_S):
        alerts.look([Observation("host", "disk_used", 50.0, time.time())], {}, time.time())
        while not alerts.notes:
            await asyncio.sleep(0.02)
    for said in (*alerts.notes, caplog.text):
        assert "No such file" in said
    assert alerts.undelivered == 1
    alerts.command = ()
    alerts.look([], {}, time.time())
    assert (alerts.undelivered, alerts.notes) == (0, [])
