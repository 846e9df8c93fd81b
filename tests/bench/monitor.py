"""The hub's monitoring, beside the limits that it has to keep: what sampling costs, and what the history does.

- sampling: 16 engines that answer with the recorded metrics of a busy vLLM 0.32 (96 KB, with values that grow) over
  HTTP, 8 GPUs of the fake driver, and the host, once per second for 20 s. Processor time, of all threads, as a share of
  one core: of the monitoring alone, and of a whole hub with these engines attached less one without any. That hub also
  asks each of them every 5 s what it serves, which is no part of monitoring. Then each piece of the work by itself, all
  beside the limit of the whole. The fake driver's description is read once: it stands for a driver, not for a file.
- get-metrics over a day of 16 engines: the whole tool call over stdio, the hub's answer over its socket, and with the
  course of the main figures.
- the size of the history after 7 days of 16 engines (see `monitor_history.py`).
- reading a day of one engine from that file, beside another process that writes without a pause, and beside the same
  event loop writing so: the 99th percentile against that without a writer.

Other work on the machine shows in these numbers.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.monitor_history import GPUS, Machine, fill
from tests.bench.monitor_work import ENGINES, INTERVAL_S, MEASURED_S, WARM_S, name_of
from tests.bench.rows import Row
from tests.bench.stdio import StdioServer
from tests.hubs import ROOT, HubSite
from vllm_mcp_hub.core.monitoring.timeline import QUARTER
from vllm_mcp_hub.monitoring.history import History
from vllm_mcp_protocol.hub_client import Hub

DAY_S, WEEK_HOURS = 24 * 3600.0, 168
CALLS, READS, TURNS = 30, 500, 3
SHARE_LIMIT, METRICS_LIMIT_MS, SIZE_LIMIT_MB = 3.0, 50.0, 200.0
PEER = "prometheus_client's parser, every family"
NEVER_MS = 3_600_000
PIECES = {
    "scrape": "scraping over HTTP",
    "parse": "reading what came",
    "store": "keeping it, rolled up and written down",
    "gauges": "GPUs and host",
    "alerts": "alerts",
}

_DRIVER = '''"""The fake driver, whose description is read once."""
from functools import cache
from tests.fakes.nvml import pynvml
pynvml._machine = cache(pynvml._machine)
from tests.fakes.nvml.pynvml import *
'''


def main() -> list[Row]:
    """Nothing is left running."""
    with _site() as site:
        rows = _sampling(site)
    with _site() as site:
        asyncio.run(fill(site.state / "metrics.db", engines=ENGINES, hours=WEEK_HOURS, end_s=time.time()))
        rows += [_size(site.state), *asyncio.run(_questions(site))]
    with _site() as site:
        asyncio.run(fill(site.state / "metrics.db", engines=ENGINES, hours=24, end_s=time.time()))
        return [*rows, *asyncio.run(_readers(site))]


# sampling


def _sampling(site: HubSite) -> list[Row]:
    with _worker(site, "serve") as (ports, _):
        (site.state / "ports.json").write_text(json.dumps(ports), encoding="utf-8")
        alone = _ask(site, "sample")
        with _site() as other:
            whole = asyncio.run(_hub_share(other, ports))
    with _site() as other:
        idle = asyncio.run(_hub_share(other, []))
    limit = f"limit: {SHARE_LIMIT:g} % of a core"
    name = f"sampling {ENGINES} engines and {GPUS} GPUs each second"

    def share(what: str, percent: float) -> Row:
        return Row(what, limit, percent, SHARE_LIMIT, "%")

    pieces: dict[str, float] = alone["pieces"]
    theirs_ms = (pieces["scrape"] + pieces["parse_theirs"]) * 1000
    ours_ms = (pieces["scrape"] + pieces["parse"]) * 1000
    return [
        share(f"{name}: the monitoring", alone["share"] * 100),
        share(f"{name}: the whole hub", (whole - idle) * 100),
        *(share(f"- {words}", pieces[piece] / INTERVAL_S * 100) for piece, words in PIECES.items()),
        Row(f"scraping and reading {ENGINES} engines, processor time", PEER, ours_ms, theirs_ms, "ms"),
    ]


async def _hub_share(site: HubSite, ports: list[int]) -> float:
    """Processor seconds per second of a hub with these engines."""
    config = site.state / "hub.toml"
    interval_ms = round(INTERVAL_S * 1000) if ports else NEVER_MS
    config.write_text(f"{config.read_text(encoding='utf-8')}[monitoring]\ninterval_ms = {interval_ms}\n")
    async with site.client() as hub:
        for port in ports:
            await hub.attach(f"http://127.0.0.1:{port}")
        await asyncio.sleep(2 * WARM_S)
        seen = await hub.metrics(WARM_S)
        if len([one for one in seen.engines if one.answers]) != len(ports):
            raise RuntimeError(f"{len(seen.engines)} engines are sampled, not {len(ports)}: {seen.note}")
        pid = hub.hub_pid
        assert pid is not None
        before_s, started_s = _processor_s(pid), time.perf_counter()
        await asyncio.sleep(MEASURED_S)
        return (_processor_s(pid) - before_s) / (time.perf_counter() - started_s)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# the history


def _size(folder: Path) -> Row:
    size_mb = sum(path.stat().st_size for path in folder.glob("metrics.db*")) / 1e6
    return Row(f"history of 7 days, {ENGINES} engines", "limit: 200 MB", size_mb, SIZE_LIMIT_MB, "MB")


async def _questions(site: HubSite) -> list[Row]:
    """Of a hub that has that history."""
    async with site.client() as hub:
        await _check_day(hub)
        answer_ms = await _answer_ms(hub)
        command = [sys.executable, "-m", "vllm_performance_monitor"]
        with StdioServer(command, {**os.environ, **site.env}, ROOT) as server:
            call_ms, course_ms = await asyncio.to_thread(_call_ms, server)
    limit, name = f"limit: {METRICS_LIMIT_MS:g} ms", f"24 hours, {ENGINES} engines"
    return [
        Row(f"get-metrics, {name}: the whole call", limit, call_ms, METRICS_LIMIT_MS, "ms"),
        Row(f"get-metrics, {name}: the hub's answer", limit, answer_ms, METRICS_LIMIT_MS, "ms"),
        Row(f"get-metrics, {name}: with the course of 4 engines", limit, course_ms, METRICS_LIMIT_MS, "ms"),
    ]


async def _check_day(hub: Hub) -> None:
    window = await hub.metrics(DAY_S)
    covered_s = [one.covered_s for one in window.subjects if one.subject.startswith("engine:")]
    if len(covered_s) != ENGINES or min(covered_s) < 0.9 * DAY_S:
        raise RuntimeError(f"engines are told of for these seconds: {covered_s}")


async def _answer_ms(hub: Hub) -> float:
    """As bytes: what a client makes of them is part of its call."""
    taken_s = []
    for _ in range(CALLS):
        started_s = time.perf_counter()
        await hub._ask("GET", "/v1/metrics", params={"seconds": DAY_S})
        taken_s.append(time.perf_counter() - started_s)
    return statistics.median(taken_s) * 1000


def _call_ms(server: StdioServer) -> tuple[float, float]:
    """Without and with history."""

    def median_ms(call: Callable[[], Any]) -> float:
        call()
        taken_s = []
        for _ in range(CALLS):
            started_s = time.perf_counter()
            call()
            taken_s.append(time.perf_counter() - started_s)
        return statistics.median(taken_s) * 1000

    found = server.call("get-metrics", duration_seconds=DAY_S)["structuredContent"]
    if not found["engines"] or not found["total"]:
        raise RuntimeError(f"get-metrics tells of no engine: {found['notes']}")
    return (
        median_ms(lambda: server.call("get-metrics", duration_seconds=DAY_S)),
        median_ms(lambda: server.call("get-metrics", duration_seconds=DAY_S, include_history=True)),
    )


async def _readers(site: HubSite) -> list[Row]:
    history, said = await History.open(site.state / "metrics.db")
    if said:
        raise RuntimeError(said)
    machine, written = Machine(ENGINES), 0

    async def write_on() -> None:
        nonlocal written
        while True:
            await history.write(machine.kept_now())
            written += 1

    alone, beside, together = list[float](), list[float](), list[float]()
    for _ in range(TURNS):
        alone += await _reads_ms(history)
        with _worker(site, "write"):
            beside += await _reads_ms(history)
        writing = asyncio.create_task(write_on())
        together += await _reads_ms(history)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
    await history.close()
    if not written:
        raise RuntimeError("the writer never wrote")
    name = "reading a day of an engine"
    alone_p99, beside_p99, together_p99 = map(_p99, (alone, beside, together))
    return [
        Row(
            f"{name}: median beside a writing process",
            "no writer",
            statistics.median(beside),
            statistics.median(alone),
            "ms",
        ),
        Row(f"{name}: p99 beside a writing process", "no writer", beside_p99, alone_p99, "ms"),
        Row(f"{name}: p99 in an event loop that writes", "no writer", together_p99, alone_p99, "ms"),
    ]


async def _reads_ms(history: History) -> list[float]:
    now_s, taken_ms = time.time(), []
    for number in range(READS):
        subject = f"engine:{name_of(number % ENGINES)}"
        started_s = time.perf_counter()
        found = await history.read(subject, QUARTER, now_s - DAY_S, now_s)
        taken_ms.append((time.perf_counter() - started_s) * 1000)
        if len(found) < 90:
            raise RuntimeError(f"{len(found)} quarters of {subject}")
    return taken_ms


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


# processes


@contextmanager
def _site() -> Iterator[HubSite]:
    """A state folder with eight fake GPUs and nothing that runs."""
    site = HubSite(gpus=GPUS)
    try:
        driver = site.folder / "driver"
        driver.mkdir()
        (driver / "pynvml.py").write_text(_DRIVER, encoding="utf-8")
        site.env["PYTHONPATH"] = os.pathsep.join([str(driver), site.env["PYTHONPATH"]])
        yield site
    finally:
        site.close()


def _command(site: HubSite, piece: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench.monitor_work", piece, str(site.state)]


def _ask(site: HubSite, piece: str) -> Any:
    run = subprocess.run(_command(site, piece), env=site.env, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{piece} failed: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


@contextmanager
def _worker(site: HubSite, piece: str) -> Iterator[tuple[Any, "subprocess.Popen[str]"]]:
    """A process that works until the end of this; what it said first, as JSON."""
    process = subprocess.Popen(
        _command(site, piece), env=site.env, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), process
        process.communicate("", timeout=30)
        if process.returncode:
            raise RuntimeError(f"{piece} ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()
