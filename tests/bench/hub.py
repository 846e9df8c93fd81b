"""The hub with ten engines: adoption after SIGKILL, `list-models` over stdio, memory of each process.

The engines are the fake vLLM on ten fake GPUs, so that they start side by side and cost almost nothing. The peer
of adoption is what a client waits for a hub that has nothing to adopt; the peer of the rest is a hello-world server
on the official SDK, which does the least that an MCP server can.
"""

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.bench.rows import Row
from tests.bench.start import HELLO, SDK_HELLO
from tests.bench.stdio import StdioServer, peak_mib
from tests.fakes.fakes import make_fake_vllm
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineEnvironment, EngineStatus, HubState, LoadOptions, LoadRequest
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import GIB

ROOT = Path(__file__).parents[2]
ENGINES = 10
ROUNDS = 9
CALLS = 50
READY_LIMIT_S = 60.0


def main() -> list[Row]:
    """Measure everything in one temporary folder; nothing is left running."""
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as name, _machine(Path(name)):
        return asyncio.run(_rows(Path(name)))


async def _rows(folder: Path) -> list[Row]:
    executable = make_fake_vllm(folder / "fake")
    async with _hub(folder / "many") as hub, _hub(folder / "none") as empty:
        await _load_engines(hub, executable)
        adoption_s = await _median_restart_s(hub, engines=ENGINES)
        cold_s = await _median_restart_s(empty, engines=0)
        rows = [Row(f"hub: killed → answered, {ENGINES} engines", "hub without engines", adoption_s, cold_s, "s")]
        rows += await asyncio.to_thread(_server_rows, folder, hub)
        return rows


def _server_rows(folder: Path, hub: Hub) -> list[Row]:
    hello = folder / "hello.py"
    hello.write_text(HELLO, encoding="utf-8")
    env = {**os.environ, "VLLM_HUB_DIR": str(hub.folder)}
    assert hub.hub_pid is not None
    with (
        StdioServer([sys.executable, "-m", "vllm_model_manager"], env, ROOT) as ours,
        StdioServer([sys.executable, str(hello)], env, ROOT) as theirs,
    ):
        listed = ours.call("list-models")["structuredContent"]
        if listed["loaded_count"] != ENGINES:
            raise RuntimeError(f"list-models shows {listed['loaded_count']} loaded models, not {ENGINES}")
        our_ms = _median_call_ms(lambda: ours.call("list-models"))
        their_ms = _median_call_ms(lambda: theirs.call("add", a=1))
        hello_mib = theirs.peak_mib
        return [
            Row(f"model manager: list-models, {ENGINES} engines", f"add, {SDK_HELLO}", our_ms, their_ms, "ms"),
            Row(f"model manager: peak memory, {ENGINES} engines", SDK_HELLO, ours.peak_mib, hello_mib, "MiB"),
            Row(f"hub: peak memory, {ENGINES} engines", SDK_HELLO, peak_mib(hub.hub_pid), hello_mib, "MiB"),
        ]


def _median_call_ms(call: Callable[[], object]) -> float:
    call()
    taken_s = []
    for _ in range(CALLS):
        started_s = time.perf_counter()
        call()
        taken_s.append(time.perf_counter() - started_s)
    return statistics.median(taken_s) * 1000


async def _median_restart_s(hub: Hub, *, engines: int) -> float:
    """Seconds from the hub's SIGKILL to the first answer of the next hub, which must know every engine."""
    taken_s = []
    for _ in range(ROUNDS):
        await hub.state()
        assert hub.hub_pid is not None
        os.kill(hub.hub_pid, signal.SIGKILL)
        started_s = time.perf_counter()
        state = await hub.state()
        taken_s.append(time.perf_counter() - started_s)
        if _ready(state) != engines:
            raise RuntimeError(f"{_ready(state)} engines are ready after the restart, not {engines}")
    return statistics.median(taken_s)


def _ready(state: HubState) -> int:
    return sum(engine.status is EngineStatus.READY for engine in state.engines)


def _live(state: HubState) -> list[str]:
    return [engine.id for engine in state.engines if engine.status is not EngineStatus.STOPPED]


async def _load_engines(hub: Hub, executable: Path) -> None:
    environment = EngineEnvironment(executable=str(executable))
    for index in range(ENGINES):
        options = LoadOptions(gpu_memory_utilization=0.5)
        model = f"bench/model-{index}"
        await hub.load(LoadRequest(model_id=model, options=options, environment=environment, gpu_ids=(index,)))
    await _until(hub, lambda state: _ready(state) == ENGINES)


async def _until(hub: Hub, holds: Callable[[HubState], bool]) -> None:
    """Poll the state until `holds`. Raises TimeoutError with the engines as they are then."""
    deadline_s = time.monotonic() + READY_LIMIT_S
    while not holds(state := await hub.state()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"after {READY_LIMIT_S:.0f} s: {[(e.id, e.status, e.failure) for e in state.engines]}")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def _hub(folder: Path) -> AsyncIterator[Hub]:
    """A client of a hub of its own; at the end its engines and the hub itself are gone."""
    async with Hub(Settings.from_environment({"VLLM_HUB_DIR": str(folder)}), client="bench") as hub:
        try:
            yield hub
        finally:
            await _end(hub)


async def _end(hub: Hub) -> None:
    stops: list[Awaitable[object]] = [hub.stop(engine, force=True) for engine in _live(await hub.state())]
    await asyncio.gather(*stops)
    await _until(hub, lambda state: not _live(state))
    await hub.retire()


@contextmanager
def _machine(folder: Path) -> Iterator[None]:
    """Ten GPUs in the environment that hubs inherit from this process, and the sources of a bare checkout."""
    gpus = folder / "gpus.json"
    gpus.write_text(json.dumps({"gpus": [{"name": f"Fake {i}", "total": 16 * GIB} for i in range(ENGINES)]}))
    sources = [ROOT / "tests/fakes/nvml", ROOT, ROOT / "protocol/src", *sorted(ROOT.glob("packages/*/src"))]
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=os.pathsep.join(map(str, sources)), FAKE_NVML=str(gpus))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
