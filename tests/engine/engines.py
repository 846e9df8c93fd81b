"""Running one engine, real or fake, for a test: started like the hub does, gone at the end whatever happens."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx2

START_LIMIT_S = 300.0
"""The real engine needs 12-60 s here, more on a busy machine."""
POLL_S = 0.05

CPU_FLAGS = ("--enforce-eager", "--max-num-seqs", "16", "--kv-cache-memory-bytes", "16M")
CPU_ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the default pins to core 0 and starves the API server
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class RunningEngine:
    """A `vllm serve` of a test, in a session of its own."""

    process: subprocess.Popen[bytes]
    client: httpx2.Client
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def session_pids(self) -> list[int]:
        """Processes of the engine's session that still run."""
        return pids_of_session(self.process.pid)

    def wait_gone(self, timeout_s: float = 30.0) -> int:
        """Wait until no process is left; the leader's exit status. Raises TimeoutError naming who is left."""
        code = self.process.wait(timeout_s)
        end = monotonic() + timeout_s
        while left := self.session_pids():
            if monotonic() > end:
                raise TimeoutError(f"still running: {left}")
            sleep(POLL_S)
        return code


def pids_of_session(session: int) -> list[int]:
    """Living processes (no zombies) of a session, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def started(
    executable: Path,
    model: str,
    *,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    api_key: str | None = None,
    port: int | None = None,
) -> Iterator[RunningEngine]:
    """Start `vllm serve MODEL` on a unix socket, or on a port of loopback; not waited for. Everything of it is killed
    at the end."""
    with tempfile.TemporaryDirectory(prefix="ve-") as name:  # short: vLLM makes sockets in TMPDIR
        folder = Path(name)
        where = ["--uds", f"{name}/s"] if port is None else ["--host", "127.0.0.1", "--port", str(port)]
        command = [str(executable), "serve", model, "--served-model-name", model, *where, *flags]
        whole_env = os.environ | CPU_ENV | {"TMPDIR": name} | dict(env or {})
        if api_key:
            whole_env["VLLM_API_KEY"] = api_key
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=whole_env, start_new_session=True
            )
        try:
            with _client(f"{name}/s" if port is None else None, port, api_key) as client:
                yield RunningEngine(process, client, folder)
        finally:
            _kill_session(process)


def _client(uds: str | None, port: int | None, api_key: str | None) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    transport = httpx2.HTTPTransport(uds=uds)
    base_url = "http://localhost" if port is None else f"http://127.0.0.1:{port}"
    return httpx2.Client(transport=transport, base_url=base_url, headers=headers, timeout=60)


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def free_port() -> int:
    """A port of loopback that nobody listens on, now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_healthy(engine: RunningEngine, timeout_s: float = START_LIMIT_S) -> None:
    """Poll /health. Raises RuntimeError with the end of the log when the engine ends or the time does."""
    end = monotonic() + timeout_s
    while monotonic() < end and engine.process.poll() is None:
        # httpx2 leaks the socket of a refused unix connection (a ResourceWarning): ask only who listens
        if _listens(engine) and engine.client.get("/health").status_code == 200:
            return
        sleep(POLL_S)
    raise RuntimeError(f"not healthy, exit status {engine.process.poll()}:\n{engine.log[-3000:]}")


def _listens(engine: RunningEngine) -> bool:
    url = engine.client.base_url
    on_port = url.port is not None
    with socket.socket(socket.AF_INET if on_port else socket.AF_UNIX) as probe:
        return probe.connect_ex((url.host, url.port) if on_port else str(engine.folder / "s")) == 0
