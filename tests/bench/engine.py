"""`load-model` until the model is ready, beside `vllm serve` started by hand with the same flags. Real engine.

Both sides take turns on the same tiny model, so that the page cache is equally warm; medians are compared. The aim
is at most half a second more than by hand.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2

from tests.bench.rows import Row
from tests.bench.stdio import StdioServer
from vllm_mcp.tiny_models import ensure_tiny_models
from vllm_mcp_protocol.engine_env import engine_python, require_executable
from vllm_mcp_protocol.hf.cache import find
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineEnvironment, EngineView, LoadRequest
from vllm_mcp_protocol.settings import Settings

ROOT = Path(__file__).parents[2]
ROUNDS = 3
START_LIMIT_S = 300
POLL_S = 0.05
BY_HAND = "vllm serve by hand"


def main() -> list[Row]:
    """Measure in a hub and a model cache of their own; nothing is left running."""
    executable = require_executable(Settings.from_environment(os.environ), None, os.environ)
    # vLLM's own sockets lie below it, and a socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as name:
        folder = Path(name)
        (model,) = ensure_tiny_models(engine_python(executable), folder / "hf")
        return [asyncio.run(_compare(folder, executable, model))]


async def _compare(folder: Path, executable: str, model: str) -> Row:
    variables = {
        "VLLM_HUB_DIR": str(folder / "hub"),
        "VLLM_EXECUTABLE": executable,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    async with Hub(Settings.from_environment(variables), client="bench") as hub:
        try:
            plan_env = await _plan_env(hub, executable, folder / "hf", model)
            our_s, their_s = [], []
            for _ in range(ROUNDS):
                taken_s, engine = await _through_the_suite(hub, variables, model)
                our_s.append(taken_s)
                by_hand = _env(folder, variables, plan_env)
                their_s.append(await asyncio.to_thread(_by_hand, engine.argv, by_hand, folder / "hand.sock"))
        finally:
            await hub.retire()
    name = f"load-model → ready, {model}"
    return Row(name, BY_HAND, statistics.median(our_s), statistics.median(their_s), "s")


async def _plan_env(hub: Hub, executable: str, hf_home: Path, model: str) -> Mapping[str, str]:
    """What the hub adds to the engine's environment; asking for it also warms the cache of vLLM's flags."""
    environment = EngineEnvironment(executable=executable, hf_home=str(hf_home), hf_offline=True)
    facts = find(model, [hf_home / "hub"])
    request = LoadRequest(model_id=model, facts=facts, environment=environment, dry_run=True)
    return (await hub.load(request)).plan.env


async def _through_the_suite(hub: Hub, variables: Mapping[str, str], model: str) -> tuple[float, EngineView]:
    """Seconds of one `load-model` over stdio, and the engine as it was started; it is unloaded again."""
    env = {**os.environ, **variables}
    command = [sys.executable, "-m", "vllm_model_manager"]
    with StdioServer(command, env, ROOT) as server:
        started_s = time.perf_counter()
        await asyncio.to_thread(server.call, "load-model", model_id=model, wait_seconds=START_LIMIT_S)
        taken_s = time.perf_counter() - started_s
        engine = (await hub.state()).serving(model)
        assert engine is not None
        await asyncio.to_thread(server.call, "unload-model", model_id=model, force=True)
    return taken_s, engine


def _env(folder: Path, variables: Mapping[str, str], plan_env: Mapping[str, str]) -> dict[str, str]:
    tmp = folder / "tmp"
    tmp.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "LANG", "USER") if name in os.environ}
    own = {"TMPDIR": str(tmp), "VLLM_NO_USAGE_STATS": "1"}
    return {**kept, **own, **{name: variables[name] for name in ("HF_HOME", "HF_HUB_OFFLINE")}, **plan_env}


def _by_hand(argv: Sequence[str], env: Mapping[str, str], socket: Path) -> float:
    """Seconds from spawning the same command line, on a socket of its own, to its first healthy answer."""
    words = list(argv)
    words[words.index("--uds") + 1] = str(socket)
    log = socket.with_suffix(".log")
    started_s = time.perf_counter()
    with (
        log.open("wb") as out,
        subprocess.Popen(words, env=dict(env), stdout=out, stderr=out, start_new_session=True) as process,
    ):
        try:
            _wait_until_healthy(process, socket, log)
            return time.perf_counter() - started_s
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            socket.unlink(missing_ok=True)


def _wait_until_healthy(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    """Raises RuntimeError with the log's end when the engine ends or takes too long."""
    deadline_s = time.monotonic() + START_LIMIT_S
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://engine") as http:
        while process.poll() is None and time.monotonic() < deadline_s:
            try:
                if http.get("/health").status_code == httpx2.codes.OK:
                    return
            except httpx2.TransportError:
                pass  # not listening yet
            time.sleep(POLL_S)
    raise RuntimeError(f"vllm by hand did not become healthy: {log.read_text(errors='replace')[-2000:]}")
