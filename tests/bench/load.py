"""What the suite adds to a start: `load` → ready through the hub, beside the same engine started by hand.

The engine is the fake vLLM, which takes two seconds every time: starts of the real one differ by seconds from each
other on a small machine, so `BENCH=engine` shows that it works and this shows what it costs.
"""

import asyncio
import contextlib
import socket
import statistics
import subprocess
import time
from pathlib import Path

from tests.bench.rows import Row
from tests.chaos.waiting import ready, stopped
from tests.hubs import HubSite
from vllm_mcp_protocol.hub_client import Hub

ROUNDS = 5
START_S = 2.0
POLL_S = 0.005


def main() -> list[Row]:
    """Measure on a private hub; nothing is left running."""
    site = HubSite(load_s=START_S)
    try:
        ours_s, theirs_s = asyncio.run(_measure(site))
    finally:
        site.close()
    return [Row(f"load → ready, engine that takes {START_S:g} s", "the same by hand", ours_s, theirs_s, "s")]


async def _measure(site: HubSite) -> tuple[float, float]:
    ours, theirs = [], []
    async with site.client() as hub:
        await hub.state()  # a hub that runs, as it does for every load but a user's first
        for number in range(ROUNDS):
            ours.append(await _through_the_hub(hub, f"m{number}"))
            theirs.append(await asyncio.to_thread(_by_hand, site.vllm, site.folder / f"s{number}"))
    return statistics.median(ours), statistics.median(theirs)


async def _through_the_hub(hub: Hub, model: str) -> float:
    started_s = time.perf_counter()
    engine = await ready(hub, model)
    taken_s = time.perf_counter() - started_s
    await hub.stop(engine, force=True)
    await stopped(hub, engine)
    return taken_s


def _by_hand(vllm: Path, uds: Path) -> float:
    started_s = time.perf_counter()
    command = [str(vllm), "serve", "m", "--uds", str(uds)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not _healthy(uds):
            time.sleep(POLL_S)
        taken_s = time.perf_counter() - started_s
        process.terminate()
    return taken_s


def _healthy(uds: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(uds))
        probe.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        return b"200" in probe.recv(100)
    return False
