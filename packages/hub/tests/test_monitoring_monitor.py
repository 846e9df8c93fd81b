"""The sampler among engines that misbehave, and a history that is full, locked or damaged."""

import asyncio
import os
import resource
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from vllm_mcp_hub.core.monitoring.keeping import Ages, HistoryTrouble, Kept
from vllm_mcp_hub.core.monitoring.points import make_point
from vllm_mcp_hub.core.monitoring.timeline import MINUTE, QUARTER, RAW, Finished, Timeline
from vllm_mcp_hub.monitoring.history import History
from vllm_mcp_hub.monitoring.monitor import LOOKS_AT_ONCE, Monitor, Watched
from vllm_mcp_protocol.model import Endpoint

pytestmark = pytest.mark.anyio

_TEXT = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0"} %d
"""

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def engine(name: str, answer: Answer) -> AsyncIterator[Watched]:
    """Somebody who listens, and answers whatever is asked in his way."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await answer(writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Watched(name, name, Endpoint(url=f"http://127.0.0.1:{port}", served_name=name))
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def whole(status: str, body: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    return answer


async def _hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def _endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x" * 100_000)
        await writer.drain()


async def _cut(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n# TYPE")
    writer.close()


async def test_bad_engines_cost_only_their_own_points(monkeypatch: pytest.MonkeyPatch) -> None:
    # Who waits for a look that hangs waits for ever.
    monkeypatch.setattr("vllm_mcp_hub.monitoring.monitor.LOOK_LIMIT_S", 3600.0)
    monkeypatch.setattr("vllm_mcp_protocol.engine_http.CONTROL_TIMEOUT_S", 3600.0)
    tokens = iter(range(0, 10_000, 10))

    async def good(writer: asyncio.StreamWriter) -> None:
        await whole("200 OK", (_TEXT % next(tokens)).encode())(writer)

    bad: dict[str, Answer] = {
        "hangs": _hang,
        "endless": _endless,
        "cut": _cut,
        "500": whole("500 Internal Server Error", b"{}"),
        "binary": whole("200 OK", bytes(range(256)) * 50),
    }
    async with (
        engine("good", good) as fine,
        engine("hangs", bad["hangs"]) as one,
        engine("endless", bad["endless"]) as two,
        engine("cut", bad["cut"]) as three,
        engine("500", bad["500"]) as four,
        engine("binary", bad["binary"]) as five,
    ):
        monitor = Monitor(lambda: [fine, one, two, three, four, five], lambda: {"host": {"host_cpu_percent": 5.0}}, 1.0)
        with anyio.fail_after(60):
            for _ in range(3):
                await monitor.round()
        now_s = time.time()
        window = monitor.window("engine:good", now_s - 60, now_s)
        assert window is not None
        assert (window.looks, window.counter("generation_tokens")) == (3, 20.0)
        assert monitor.engines["good"].answers
        assert monitor.window("engine:500", now_s - 60, now_s) is None
        assert not monitor.engines["500"].answers
        assert "500" in monitor.engines["500"].trouble
        binary = monitor.window("engine:binary", now_s - 60, now_s)
        assert binary is None or not binary.gauge_stats
        host = monitor.window("host", now_s - 60, now_s)
        assert host is not None
        await monitor.close()


async def test_a_shorter_interval_does_not_wait_for_the_end_of_the_long_one() -> None:
    monitor = Monitor(list, lambda: {"host": {"g": 1.0}}, 3600.0)
    running = asyncio.create_task(monitor.run())
    await _until(lambda: monitor.rounds == 1)
    monitor.look_every(0.1)
    await _until(lambda: monitor.rounds >= 4)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await monitor.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_counters_are_followed_however_rarely_the_engine_is_looked_at() -> None:
    tokens = iter(range(0, 1000, 10))

    async def counts(writer: asyncio.StreamWriter) -> None:
        await whole("200 OK", (_TEXT % next(tokens)).encode())(writer)

    async with engine("good", counts) as good:
        monitor = Monitor(lambda: [good], dict, 300.0)
        await monitor.round()
        monitor.engines["good"].following.last_s -= 300  # as if the interval were over
        await monitor.round()
        window = monitor.window("engine:good", 0, time.time())
        assert window is not None
        assert window.counter("generation_tokens") == 10.0
        await monitor.close()


async def test_many_that_hang_hold_up_each_other_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mcp_hub.monitoring.monitor.LOOK_LIMIT_S", 0.3)
    async with engine("good", whole("200 OK", (_TEXT % 1).encode())) as good, engine("bad", _hang) as bad:
        hanging = [replace(bad, id=f"bad-{number}") for number in range(2 * LOOKS_AT_ONCE)]
        monitor = Monitor(lambda: [*hanging, good], dict, 1.0)
        for _ in range(20):
            await monitor.round()
            if not any(monitor.engines[one.id].answers for one in hanging):
                break
        looks = _looks(monitor, "engine:good")
        for _ in range(5):
            await monitor.round()
        assert _looks(monitor, "engine:good") == looks + 5
        await monitor.close()


def _looks(monitor: Monitor, subject: str) -> int:
    window = monitor.window(subject, 0, time.time())
    return 0 if window is None else window.looks


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "http://:0"])
async def test_an_address_that_is_none_costs_only_its_own_points(url: str) -> None:
    bad = Watched("e1", "bad", Endpoint(url=url, served_name="bad"))
    async with engine("good", whole("200 OK", (_TEXT % 1).encode())) as good:
        monitor = Monitor(lambda: [bad, good], dict, 1.0)
        await monitor.round()
        assert monitor.engines["good"].answers
        assert not monitor.engines["e1"].answers
        assert monitor.engines["e1"].trouble
        await monitor.close()


async def test_an_engine_that_serves_something_else_or_somewhere_else_is_another_one() -> None:
    async with (
        engine("r1", whole("200 OK", (_TEXT % 1).encode())) as first,
        engine("r1", whole("200 OK", (_TEXT % 2).encode())) as elsewhere,
    ):
        now = [first]
        monitor = Monitor(lambda: now, dict, 1.0)
        await monitor.round()
        for changed in (replace(first, name="m/b"), elsewhere):
            now[0] = changed
            await monitor.round()
            assert monitor.engines["r1"].watched == changed
            assert monitor.engines["r1"].answers
        assert monitor.timelines.keys() == {"engine:r1", "engine:m/b"}
        reading = monitor.engines["r1"].last
        assert reading is not None
        assert reading.counters["generation_tokens"] == 2.0, "it is asked where it is now"
        await monitor.close()


def _kept(subject: str, at_s: float, value: float = 1.0) -> Kept:
    return Kept(subject, Finished(RAW, at_s, make_point(at_s - 5, at_s, {"g": value}, {"c": value})))


async def test_what_was_written_down_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.db"
    history, said = await History.open(path)
    assert said is None
    await history.write([_kept("engine:a", 100.0 + 5 * number, number) for number in range(10)])
    await history.close()
    again, said = await History.open(path)
    found = await again.read("engine:a", RAW, 110.0, 130.0)
    assert [point.end_s for point in found] == [110.0, 115.0, 120.0, 125.0]
    assert await again.read("engine:b", RAW, 0, 1e9) == []
    await again.forget(Ages(20.0, 20.0, 20.0), 150.0)
    assert [point.end_s for point in await again.read("engine:a", RAW, 0, 1e9)] == [130.0, 135.0, 140.0, 145.0]
    await again.close()


async def test_what_one_hub_saw_the_next_one_knows(tmp_path: Path) -> None:
    """Of each tier, and together with what it sees itself."""
    path, now_s = tmp_path / "metrics.db", time.time()
    history, _ = await History.open(path)
    timeline = Timeline()
    for number in range(240, 0, -1):  # four hours, once a minute
        at_s = now_s - 60.0 * number
        done = timeline.add(make_point(at_s - 60, at_s, {"g": 1.0}, {"c": 10.0}))
        await history.write([Kept("engine:a", one) for one in done])
    await history.write([Kept("engine:a", one) for one in timeline.close()])
    await history.close()
    monitor = Monitor(list, dict, 0.1)
    await monitor.open(path)
    assert monitor.recalled.is_set()
    day = monitor.window("engine:a", now_s - 86_400, now_s)
    assert day is not None
    assert (day.looks, day.counter("c")) == (240, 2400)
    assert day.covered_s == pytest.approx(240 * 60)
    last = monitor.window("engine:a", now_s - 330, now_s)
    assert last is not None
    assert last.looks == 5
    monitor._add("engine:a", make_point(now_s - 60, now_s, {"g": 1.0}, {"c": 10.0}))
    assert sum(one.looks for one in await monitor.series("engine:a", now_s - 86_400, now_s, QUARTER)) == 241
    await monitor.close()


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b""])
async def test_a_damaged_history_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.db"
    history, _ = await History.open(path)
    await history.write([_kept("engine:a", 100.0)])
    await history.close()
    whole_file = path.read_bytes()
    path.write_bytes(damage or whole_file[:4096] + b"\xff" * (len(whole_file) - 4096))
    monitor = Monitor(list, lambda: {"host": {"g": 1.0}}, 0.2)
    monitor.own_path = path
    await monitor.open(path)
    assert monitor.said
    assert "aside" in monitor.said
    await monitor.round()
    await monitor.close()
    assert len(list(tmp_path.glob("metrics.db.damaged-*"))) >= 1
    again, said = await History.open(path)
    assert said is None
    assert len(await again.read("host", RAW, 0, 1e12)) == 1
    await again.close()


async def test_a_history_of_another_format_is_set_aside_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.db"
    history, _ = await History.open(path)
    await history.close()
    with closing(sqlite3.connect(path)) as link:
        link.execute("PRAGMA user_version = 7")
    again, said = await History.open(path)
    await again.close()
    assert "its format is 7" in (said or "")
    assert len(list(tmp_path.glob("elsewhere.db.damaged-*"))) == 1


async def test_a_hub_that_was_killed_leaves_a_file_that_is_known_for_a_history(tmp_path: Path) -> None:
    """What SQLite has not yet taken over from its WAL does not count."""
    history, _ = await History.open(tmp_path / "metrics.db")
    await history.write([_kept("host", 100.0)])
    left = tmp_path / "left" / "metrics.db"
    left.parent.mkdir()
    for end in ("", "-wal"):
        shutil.copy(tmp_path / f"metrics.db{end}", left.with_name(left.name + end))
    await history.close()
    again, said = await History.open(left)
    assert (said, len(await again.read("host", RAW, 0, 1e9))) == (None, 1)
    await again.close()


def _text(path: Path) -> None:
    path.write_text("notes of somebody\n" * 50)


def _database(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as link:
        link.execute(f"PRAGMA user_version = {version}")
        link.execute("CREATE TABLE t (a)")


@pytest.mark.parametrize(
    "make", [_text, partial(_database, version=0), partial(_database, version=1), partial(_database, version=7)]
)
async def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "theirs" / "metrics.db"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes()
    monitor = Monitor(list, lambda: {"host": {"g": 1.0}}, 0.1)
    monitor.own_path = tmp_path / "metrics.db"
    await monitor.open(path)
    await monitor.round()
    await monitor.close()
    assert "is no history of metrics" in (monitor.said or "")
    assert path.read_bytes() == before
    assert {one.name for one in path.parent.iterdir()} <= {"metrics.db", "metrics.db.lock"}


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
async def test_what_is_no_file_is_no_history(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "metrics.db")
    with pytest.raises(HistoryTrouble, match="no regular file"):
        await History.open(tmp_path / "metrics.db", own=True)


async def test_a_locked_history_stops_no_look_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_mcp_hub.monitoring.history.BUSY_S", 0.1)
    path = tmp_path / "metrics.db"
    monitor = Monitor(list, lambda: {"host": {"g": 1.0}}, 0.1)
    await monitor.open(path)
    await monitor.round()
    await monitor.written()
    link = sqlite3.connect(path, isolation_level=None)
    link.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        await monitor.round()
        await monitor.written()
    assert "locked" in (monitor.said or "")
    link.execute("ROLLBACK")
    link.close()
    await monitor.round()
    await monitor.written()
    assert "locked" not in (monitor.said or "")
    await monitor.close()
    history, _ = await History.open(path)
    assert len(await history.read("host", RAW, 0, 1e12)) == 4
    assert len(await history.read("host", MINUTE, 0, 1e12)) in (1, 2)
    assert len(await history.read("host", QUARTER, 0, 1e12)) in (1, 2)
    await history.close()


async def test_looks_go_on_while_a_locked_history_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_mcp_hub.monitoring.history.BUSY_S", 600)
    path = tmp_path / "metrics.db"
    monitor = Monitor(list, lambda: {"host": {"g": 1.0}}, 0.1)
    await monitor.open(path)
    link = sqlite3.connect(path, isolation_level=None)
    link.execute("BEGIN IMMEDIATE")
    running = asyncio.create_task(monitor.run())
    await _until(lambda: _looks(monitor, "host") >= 5)
    assert monitor.said is None, "the first write is still waiting for the lock"
    link.execute("ROLLBACK")
    link.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    looks = _looks(monitor, "host")
    await monitor.close()
    history, _ = await History.open(path)
    assert sum(point.looks for point in await history.read("host", RAW, 0, 1e12)) == looks
    await history.close()


async def test_a_full_disk_stops_no_look_and_loses_nothing(tmp_path: Path) -> None:
    """The limit on the size of files is what this process can meet without a disk of its own."""
    path = tmp_path / "metrics.db"
    monitor = Monitor(list, lambda: {"host": {"g": 1.0}}, 0.1)
    await monitor.open(path)
    await monitor.round()
    await monitor.written()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        for _ in range(2):
            await monitor.round()
            await monitor.written()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (monitor.said or "").startswith("metrics are not written down")
    await monitor.round()
    await monitor.written()
    assert monitor.said is None
    await monitor.close()
    history, said = await History.open(path)
    assert said is None
    assert len(await history.read("host", RAW, 0, 1e12)) == 4
    await history.close()


async def test_a_folder_that_cannot_be_written_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monitor = Monitor(list, lambda: {"host": {"g": 1.0}}, 0.1)
    await monitor.open(tmp_path / "file" / "metrics.db")
    await monitor.round()
    assert monitor.said
    assert monitor.window("host", 0, time.time()) is not None
    await monitor.close()


async def test_a_history_that_another_hub_keeps_is_left_alone_and_taken_up_when_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "metrics.db"
    first, second = (Monitor(list, lambda: {"host": {"g": 1.0}}, 0.1) for _ in range(2))
    await first.open(path)
    await second.open(path)
    assert second.said == f"no history of metrics is kept in {path}: another hub keeps its history there"
    await first.round()
    await second.round()
    await first.close()
    await second._forget()
    await second.round()
    await second.close()
    history, _ = await History.open(path)
    assert len(await history.read("host", RAW, 0, 1e12)) == 2, "a round of the first, and one of the second"
    await history.close()


async def test_a_history_that_comes_back_adds_to_what_is_known(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    now_s = time.time()
    history, _ = await History.open(old)
    await history.write([_kept("host", now_s - 60 + number) for number in range(3)])
    await history.close()
    monitor = Monitor(list, lambda: {"host": {"g": 1.0}}, 0.1)
    await monitor.open(new)
    for looks in range(2, 6):
        monitor.move_to(old if looks % 2 else new)
        await monitor.round()
        await monitor.round()
        window = monitor.window("host", now_s - 300, time.time() + 1)
        assert window is not None
        assert window.looks == 2 * (looks - 1) + (3 if looks > 2 else 0)
    await monitor.close()
