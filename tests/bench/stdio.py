"""A stdio MCP server that is spoken to by hand, so that no client library is part of what is measured."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

GOODBYE_LIMIT_S = 20
_INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "0"},
}


class StdioServer:
    """A running server; entering spawns and initializes it, leaving ends it by EOF."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(env), cwd=cwd)
        self._next_id = 0

    def __enter__(self) -> Self:
        self.ask("initialize", _INITIALIZE)
        self._send({"method": "notifications/initialized"})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # which is how a client says goodbye
        try:
            self._process.wait(timeout=GOODBYE_LIMIT_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """The result of one request. Raises RuntimeError when the server answers with an error, or ends."""
        self._next_id += 1
        self._send({"id": self._next_id, "method": method, "params": params})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.get("id") == self._next_id:
                return _result(method, answer)
        raise RuntimeError(f"the server ended before it answered {method}")

    def call(self, tool: str, **arguments: Any) -> Any:
        """The result of one tool call. Raises RuntimeError when the tool fails."""
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RuntimeError(f"{tool}: {result['content']}")
        return result

    @property
    def peak_mib(self) -> float:
        """Most memory that the server has held so far, MiB."""
        return peak_mib(self._process.pid)

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._process.stdin.flush()


def _result(method: str, answer: Mapping[str, Any]) -> Any:
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]


def peak_mib(pid: int) -> float:
    """Most memory that process `pid` has held so far (VmHWM), MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
