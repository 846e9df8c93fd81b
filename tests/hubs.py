"""A hub of the tests' own: a private state folder, fake GPUs, a fake vLLM, and a clean end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.fakes.fakes import make_fake_vllm, set_knobs
from vllm_mcp_hub.host.engine_dir import EngineDir, engine_dirs
from vllm_mcp_hub.host.launch import stat_fields
from vllm_mcp_hub.host.processes import Seen, observe, session_members, session_of
from vllm_mcp_protocol import PROTOCOL
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import LoadOptions, LoadRequest
from vllm_mcp_protocol.settings import Settings

ROOT = Path(__file__).parents[1]
GIB = 1024**3
_PACKAGES = (
    "protocol",
    "packages/hub",
    "packages/model-manager",
    "packages/auto-discovery",
    "packages/state-persistence",
    "packages/performance-monitor",
    "packages/cli",
)
SOURCES = [ROOT, *(ROOT / package / "src" for package in _PACKAGES)]


class HubSite:
    """One state folder with everything that may run in it. `env` is what client processes are given."""

    def __init__(self, *, gpus: int = 2, **knobs: Any) -> None:
        # Not pytest's tmp_path: its long names exceed the 107 bytes of a unix socket's path.
        self.folder = Path(tempfile.mkdtemp(prefix="vh-", dir="/tmp"))
        self.state = self.folder / "s"
        self.state.mkdir(mode=0o700)
        self.vllm = make_fake_vllm(self.folder / "fake", **knobs)
        (self.state / "hub.toml").write_text(f'[engine]\nexecutable = "{self.vllm}"\n')
        self.machine = self.folder / "nvml.json"
        self.set_gpus(gpus)
        paths = [ROOT / "tests/fakes/nvml", *SOURCES]
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "VLLM_HUB_DIR": str(self.state),
            "FAKE_NVML": str(self.machine),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "hf"),
        }

    def set_gpus(self, count: int, *, total_bytes: int = 80 * GIB, used_bytes: int = 0, **more: Any) -> None:
        """The machine's GPUs from now on; 0 is a machine without a driver."""
        gpus = [
            {"name": "Fake H100", "uuid": f"GPU-{n}", "total": total_bytes, "used": used_bytes, "processes": [], **more}
            for n in range(count)
        ]
        staged = self.machine.with_suffix(".new")
        staged.write_text(json.dumps({"gpus": gpus, "driver": count > 0}))
        os.replace(staged, self.machine)

    def set_knobs(self, **knobs: Any) -> None:
        """How fake engines started from now on behave."""
        set_knobs(self.vllm.parent, **knobs)

    def settings(self, **more: str) -> Settings:
        """Settings of a client of this site."""
        return Settings.from_environment(self.env | more)

    def client(self, *, protocol: int = PROTOCOL, start: bool = True) -> Hub:
        """A connection to this site's hub; starts it with this site's environment."""
        return SiteHub(self, protocol=protocol, start=start)

    def run(self, code: str, *args: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start Python `code` as a client process of its own, in a process group of its own, as MCP clients do."""
        return subprocess.Popen(
            [sys.executable, "-c", code, *args],
            env=self.env | dict(env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def hub_pids(self) -> list[int]:
        """Living hubs of this site, found by their command and environment."""
        return [pid for pid in _pids() if _is_hub(pid, self.state)]

    def kill_hub(self) -> None:
        """SIGKILL the hub, and the late starters that would only exit 0 because of it."""
        killed: set[int] = set()
        while found := set(self.hub_pids()) - killed:
            for pid in found:
                _kill(pid)
            killed |= found
        # A dying process has no command line any more while its socket still answers: look at its state.
        wait_for(lambda: not any(map(_alive, killed)), "no hub is left")

    def engine(self, engine_id: str) -> EngineDir:
        """Folder of an engine."""
        return EngineDir(self.state / "engines" / engine_id)

    def living(self) -> list[str]:
        """Engines of which something runs, by their folders alone."""
        return [d.id for d in engine_dirs(self.state / "engines") if observe(d) is not Seen.GONE]

    def members(self, engine_id: str) -> list[int]:
        """Living processes of an engine."""
        session = session_of(self.engine(engine_id))
        return [] if session is None else session_members(session)

    def close(self) -> None:
        """End what this site started, and nothing else."""
        self.kill_all()
        shutil.rmtree(self.folder)

    def kill_all(self) -> None:
        """SIGKILL the hub and every engine, also one whose process was being started as the hub died."""
        self.kill_hub()
        wait_for(self._killed, "everything of the site is gone")

    def _killed(self) -> bool:
        for engine in engine_dirs(self.state / "engines"):
            for pid in self.members(engine.id):
                _kill(pid)
        return not self.hub_pids() and not self.living()


class SiteHub(Hub):
    """A hub client whose hub gets the site's environment instead of the test runner's."""

    def __init__(self, site: HubSite, *, protocol: int, start: bool) -> None:
        super().__init__(site.settings(), client="tests", start=start, protocol=protocol)
        self._site = site

    def _environment(self) -> dict[str, str]:
        return dict(self._site.env)


def wish(model: str, **more: Any) -> LoadRequest:
    """A load of `model` on one whole fake GPU."""
    options = LoadOptions(**more.pop("options", {}))
    return LoadRequest(model_id=model, options=options, **more)


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    """Return when `condition` holds. The limit is for tests that fail; passing ones never reach it."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {limit_s:.0f} s in vain until {what}"
        time.sleep(0.02)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_hub(pid: int, state: Path) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        env = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return b"vllm_mcp_hub" in command and f"VLLM_HUB_DIR={state}".encode() in env.split(b"\0")


def _alive(pid: int) -> bool:
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
