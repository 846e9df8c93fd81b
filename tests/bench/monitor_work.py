"""What `monitor.py` starts as processes of their own: the engines, the sampler, and a writer without a pause.

`python -m tests.bench.monitor_work PIECE FOLDER` prints one JSON object.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.monitor_history import GPUS, Machine
from vllm_mcp_hub.effects import carry_out
from vllm_mcp_hub.monitoring.history import History
from vllm_mcp_hub.monitoring.monitor import Monitor, Seen
from vllm_mcp_hub.monitoring.watching import ALERTS_EVERY_S
from vllm_mcp_hub.remotes import Remote
from vllm_mcp_hub.supervisor import Supervisor
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.metrics.reading import EngineReader, read_engine_metrics
from vllm_mcp_protocol.model import EngineStatus
from vllm_mcp_protocol.monitoring import MonitoringWish
from vllm_mcp_protocol.settings import Settings

ENGINES = 16
WARM_S, MEASURED_S, INTERVAL_S = 5.0, 20.0, 1.0
TEXTS, ROUNDS = 64, 10
RECORDED = Path(__file__).parents[2] / "protocol" / "tests" / "data" / "metrics" / "vllm-0.32-busy.prom"
_COUNTED = ("_total", "_bucket", "_count", "_sum")

Answer = dict[str, Any]


def texts_of(recorded: str, count: int = TEXTS) -> list[bytes]:
    """The recorded answer as it goes on: what had been counted by then is counted once more from text to text. So each
    bucket grows, as an engine's do; of a fraction of it, some would fall by rounding."""
    return ["\n".join(_grown(line, 1 + number) for line in recorded.split("\n")).encode() for number in range(count)]


def _grown(line: str, factor: int) -> str:
    name = line.partition("{")[0].partition(" ")[0]
    if line.startswith("#") or not name.endswith(_COUNTED):
        return line
    head, _, value = line.rpartition(" ")
    number = float(value) * factor
    return f"{head} {number!r}"


async def serve(folder: Path) -> Answer:
    """Sixteen engines, each on a port of its own, until stdin ends. The ports are printed first."""
    texts = texts_of(RECORDED.read_text(encoding="utf-8"))
    servers = [await asyncio.start_server(_engine(number, texts), "127.0.0.1", 0) for number in range(ENGINES)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    return {}


def _engine(
    number: int, texts: list[bytes]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    models = json.dumps({"object": "list", "data": [{"id": name_of(number), "object": "model"}]}).encode()
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
                status, body = b"404 Not Found", b"{}"
                if path == b"/metrics":
                    status, body, asked = b"200 OK", texts[asked % len(texts)], asked + 1
                elif path == b"/v1/models":
                    status, body = b"200 OK", models
                writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    return answer


def name_of(number: int) -> str:
    """What an engine serves."""
    return f"bench/model-{number:02}"


async def sample(folder: Path) -> Answer:
    """Processor seconds per second of the hub's monitoring, alerts included, with nothing else of the hub; then of each
    of its pieces alone, in seconds per round."""
    supervisor = Supervisor(folder, Settings.from_environment({"VLLM_HUB_DIR": str(folder)}), carry_out)
    for number, port in enumerate(json.loads((folder / "ports.json").read_text(encoding="utf-8"))):
        remote = Remote(f"r{number}", f"http://127.0.0.1:{port}", None, time.time(), 1)
        remote.status, remote.model_id = EngineStatus.READY, name_of(number)
        supervisor.remotes[remote.id] = remote
    monitoring = supervisor.monitoring
    monitor = monitoring.monitor
    monitoring.wish(MonitoringWish(interval_ms=round(INTERVAL_S * 1000)))
    running = asyncio.create_task(monitoring.run())
    await asyncio.sleep(WARM_S)
    rounds, cpu_s, started_s = monitor.rounds, time.process_time(), time.perf_counter()
    await asyncio.sleep(MEASURED_S)
    share = (time.process_time() - cpu_s) / (time.perf_counter() - started_s)
    rounds = monitor.rounds - rounds
    _check(monitor, rounds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    pieces = await _pieces(folder, monitor.engines)
    pieces["gauges"] = await _cpu_s(lambda: asyncio.to_thread(monitoring._read_gauges))
    known = {seen.watched.name: None for seen in monitor.engines.values()}
    pieces["alerts"] = await _cpu_s(_awaited(lambda: monitoring._look_for_alerts(known))) * INTERVAL_S / ALERTS_EVERY_S
    return {"share": share, "rounds": rounds, "pieces": pieces}


def _check(monitor: Monitor, rounds: int) -> None:
    engines = [seen for seen in monitor.engines.values() if seen.answers and seen.last is not None]
    gpus = [name for name in monitor.timelines if name.startswith("gpu:")]
    if len(engines) != ENGINES or len(gpus) != GPUS or monitor.said or rounds < 0.8 * MEASURED_S / INTERVAL_S:
        raise RuntimeError(f"{len(engines)} engines, {len(gpus)} GPUs in {rounds} rounds: {monitor.said}")


async def _pieces(folder: Path, engines: dict[str, Seen]) -> dict[str, float]:
    """Of one round over all engines: asking, reading what came, and keeping it."""
    clients = [EngineHttp(seen.watched.endpoint) for seen in engines.values()]
    texts = texts_of(RECORDED.read_text(encoding="utf-8"))
    reader = EngineReader()
    monitor = Monitor(list, dict, INTERVAL_S)
    await monitor.open(folder / "alone.db")
    machine = Machine(ENGINES)

    async def scrape() -> None:
        await asyncio.gather(*(client.metrics() for client in clients))

    async def parse() -> None:
        for text in texts[:ENGINES]:
            reader.read(text)

    async def parse_theirs() -> None:
        for text in texts[:ENGINES]:
            list(text_string_to_metric_families(text.decode()))

    readings = [read_engine_metrics(text) for text in texts[:ENGINES]]
    followings = [seen.following for seen in engines.values()]

    async def store() -> None:
        now_s = time.time()
        for number, (following, reading) in enumerate(zip(followings, readings, strict=True)):
            monitor._add(f"engine:{name_of(number)}", following.look(now_s, reading))
        for subject, point in machine.hardware(now_s, INTERVAL_S):
            monitor._add(subject, point)
        await monitor._write()

    found = {
        "scrape": await _cpu_s(scrape),
        "parse": await _cpu_s(parse),
        "parse_theirs": await _cpu_s(parse_theirs),
        "store": await _cpu_s(store),
    }
    await monitor.close()
    for client in clients:
        await client.aclose()
    return found


def _awaited(work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def done() -> object:
        return work()

    return done


async def _cpu_s(work: Callable[[], Awaitable[object]]) -> float:
    """Of the whole process, its threads included; the middle of several rounds."""
    await work()
    taken = []
    for _ in range(ROUNDS):
        before_s = time.process_time()
        await work()
        taken.append(time.process_time() - before_s)
    return sorted(taken)[len(taken) // 2]


async def write(folder: Path) -> Answer:
    """Rounds of a whole machine, one after another, into the history until stdin ends."""
    history, said = await History.open(folder / "metrics.db")
    if said:
        raise RuntimeError(said)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    machine, written = Machine(ENGINES), 0
    print(json.dumps("writing"), flush=True)
    while not ended.done():
        await history.write(machine.kept_now())
        written += 1
    await history.close()
    return {"written": written}


PIECES: dict[str, Callable[[Path], Coroutine[Any, Any, Answer]]] = {"serve": serve, "sample": sample, "write": write}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(PIECES[sys.argv[1]](Path(sys.argv[2])))))
