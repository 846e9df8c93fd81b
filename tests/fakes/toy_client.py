"""A client that speaks raw JSON-RPC over pipes, for what a well-behaved client library would not do."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import anyio

ROOT = Path(__file__).resolve().parents[2]
TOY_COMMAND = (sys.executable, "-m", "tests.fakes.toy_server")
ANSWER_LIMIT_S = 30.0

MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def server_env(**more: str) -> dict[str, str]:
    """The environment of a server in a checkout: the source folders and little else."""
    sources = [ROOT, ROOT / "protocol/src", *sorted(ROOT.glob("packages/*/src"))]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, sources)), **more}


async def eventually(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    """Wait until `condition()` holds; TimeoutError after `limit_s`."""
    with anyio.fail_after(limit_s):
        while not condition():
            await anyio.sleep(0.01)


class RawClient:
    """One spawned server and the lines between it and us."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, modern: bool) -> None:
        self.process = process
        self.modern = modern
        self.lines: list[bytes] = []
        """Everything that the server wrote to stdout."""
        self._arrived: Queue[dict[str, Any] | None] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._last_id = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._arrived.put(json.loads(line))
        self._arrived.put(None)

    def write(self, line: bytes) -> None:
        """Send `line` and its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> int:
        """Send a request; its id."""
        self._last_id += 1
        content = {**(params or {}), **({"_meta": {**MODERN_META, **more}} if self.modern else {})}
        message = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": content}
        self.write(json.dumps(message).encode())
        return self._last_id

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification."""
        self.write(json.dumps({"jsonrpc": "2.0", "method": method, "params": params or {}}).encode())

    def answer(self, wanted: int | str | None) -> dict[str, Any]:
        """The next message with the id `wanted`; others are dropped. Raises TimeoutError, EOFError."""
        while True:
            try:
                message = self._arrived.get(timeout=ANSWER_LIMIT_S)
            except Empty:
                raise TimeoutError(f"no answer to {wanted}; so far: {self.lines}") from None
            if message is None:
                raise EOFError(f"the server ended before it answered {wanted}")
            if message.get("id") == wanted and "method" not in message:
                return message

    def ask(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        return self.answer(self.send(method, params))

    def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a tool; its result."""
        found: dict[str, Any] = self.ask("tools/call", {"name": tool, "arguments": arguments})["result"]
        return found

    def open(self) -> None:
        """Say hello in the way of the era."""
        if self.modern:
            self.ask("server/discover")
            return
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "0"},
        }
        self.ask("initialize", hello)
        self.notify("notifications/initialized")

    def end(self, limit_s: float = 60.0) -> int:
        """Close the server's stdin and wait for its exit; the code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=limit_s)
        self._reader.join(timeout=limit_s)
        return code


@contextmanager
def raw_client(
    *, modern: bool, command: tuple[str, ...] = TOY_COMMAND, stderr: Any = None, **env: str
) -> Iterator[RawClient]:
    """A server spawned with `env` that was said hello to; killed at the end if it still runs."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=server_env(**env),
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        client = RawClient(process, modern=modern)
        try:
            client.open()
            yield client
        finally:
            if process.poll() is None:
                process.kill()
