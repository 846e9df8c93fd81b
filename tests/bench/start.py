"""How long until a freshly spawned server has listed its tools, beside a hello-world on the official SDK.

Speaks JSON-RPC by hand over pipes, so that no client library is part of what is measured. Both sides take
turns, so that a busy moment of the machine hits both; medians are compared.
"""

import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.rows import Row
from vllm_mcp.bundles import descriptions, registered_tools

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 7
TOGETHER = 5
"""A client starts its servers at once; the suite has five."""

Command = Sequence[str]

SDK_HELLO = "hello-world (mcp SDK)"
HELLO = """
from mcp.server import MCPServer
server = MCPServer("hello", log_level="WARNING")
@server.tool()
async def add(a: int, b: int = 1) -> int:
    \"\"\"Add two numbers.\"\"\"
    return a + b
if __name__ == "__main__":
    server.run("stdio")
"""

_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_HELLO_2025 = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "0"},
}
MODERN = "2026-07-28"
ERAS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "2025-11-25": (
        {"id": 1, "method": "initialize", "params": _HELLO_2025},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list", "params": {}},
    ),
    MODERN: (
        {"id": 1, "method": "server/discover", "params": {"_meta": _META}},
        {"id": 2, "method": "tools/list", "params": {"_meta": _META}},
    ),
}


class Start(NamedTuple):
    """One start of a server, up to its list of tools."""

    seconds: float
    peak_mib: float


def start(command: Command, era: str, env: Mapping[str, str], least: int) -> Start:
    """Spawn, list the tools (`least` or more), end by EOF."""
    started_s = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(env), cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in ERAS[era]:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline()) if "id" in message else {}
        taken_s = time.perf_counter() - started_s
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(answer["result"]["tools"]) < least:
        raise RuntimeError(f"{command} ended with {process.returncode} or listed too few tools: {answer}")
    return Start(taken_s, usage.ru_maxrss / 1024)


def all_at_once(command: Command, era: str, env: Mapping[str, str], least: int) -> Start:
    """The slowest and the largest of five servers that were spawned together."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        runs = [pool.submit(start, command, era, env, least) for _ in range(TOGETHER)]
        starts = [run.result() for run in runs]
    return Start(max(one.seconds for one in starts), max(one.peak_mib for one in starts))


class Server(NamedTuple):
    """A server of ours: its name, its command, and how many tools it has at least."""

    name: str
    command: Command
    least: int


def our_servers() -> list[Server]:
    """All of the suite's."""
    return [
        Server(server.name, (sys.executable, "-m", server.package), len(registered_tools(server)))
        for server in descriptions()
    ]


def main() -> list[Row]:
    """Rows of each server alone, and of five at once."""
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder) / "hello_world.py"
        hello.write_text(HELLO, encoding="utf-8")
        env = _environment(Path(folder))
        _compile(env)
        theirs = (sys.executable, str(hello))
        servers = our_servers()
        rows = [row for server in servers for row in _alone(server, theirs, env)]
        name, command, least = servers[0]
        together = _medians(all_at_once, command, theirs, MODERN, env, least)
        rows.append(_row(f"{name}: {TOGETHER} at once", "ms", together[0].seconds * 1000, together[1].seconds * 1000))
    return rows


def _alone(server: Server, theirs: Command, env: Mapping[str, str]) -> list[Row]:
    rows = []
    for era in ERAS:
        ours, peer = _medians(start, server.command, theirs, era, env, server.least)
        name = f"{server.name}: spawn → tools/list, {era}"
        rows.append(_row(name, "ms", ours.seconds * 1000, peer.seconds * 1000))
    return [*rows, _row(f"{server.name}: peak memory after tools/list", "MiB", ours.peak_mib, peer.peak_mib)]


def _medians(
    measure: Callable[[Command, str, Mapping[str, str], int], Start],
    ours: Command,
    theirs: Command,
    era: str,
    env: Mapping[str, str],
    least: int,
) -> tuple[Start, Start]:
    """Ours and theirs, each the median of several starts taken in turns after one that warms the caches."""
    pairs = [(measure(ours, era, env, least), measure(theirs, era, env, 1)) for _ in range(ROUNDS + 1)][1:]
    return _median([pair[0] for pair in pairs]), _median([pair[1] for pair in pairs])


def _median(starts: Sequence[Start]) -> Start:
    return Start(statistics.median(s.seconds for s in starts), statistics.median(s.peak_mib for s in starts))


def _row(name: str, unit: str, ours: float, theirs: float) -> Row:
    return Row(name, SDK_HELLO, ours, theirs, unit)


def _environment(folder: Path) -> dict[str, str]:
    """What a client passes, and the source folders: installed or not makes no difference."""
    sources = [ROOT, *sorted(ROOT.glob("packages/*/src")), ROOT / "protocol/src"]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, sources)), "VLLM_HUB_DIR": str(folder / "hub")}


def _compile(env: Mapping[str, str]) -> None:
    for source in env["PYTHONPATH"].split(os.pathsep)[1:]:
        compileall.compile_dir(source, quiet=1)
