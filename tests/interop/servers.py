"""The servers that foreign programs are let loose on."""

import fcntl
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio

from tests.fakes.toy_client import ROOT, TOY_COMMAND, eventually, server_env
from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.settings import Settings


def server_commands() -> dict[str, tuple[str, ...]]:
    """Each server's name and command: the toy, which has every kind of trouble, and all that are installed."""
    commands: dict[str, tuple[str, ...]] = {"vllm-toy": TOY_COMMAND}
    for package in ("vllm_model_manager", "vllm_auto_discovery", "vllm_state_persistence", "vllm_performance_monitor"):
        if importlib.util.find_spec(package) is not None:
            commands[package.replace("_", "-")] = (sys.executable, "-m", package)
    return commands


@contextmanager
def http_server(command: tuple[str, ...], folder: Path) -> Iterator[str]:
    """The address of a server on a free port, with its state in `folder`; ended afterwards."""
    words = [*command, "--transport", "http", "--port", "0"]
    key = "passphrase:of the tests alone"  # state persistence saves nothing without one
    env = server_env(VLLM_HUB_DIR=str(folder / "hub"), HF_HOME=str(folder / "hf"), ENCRYPTION_KEY=key)
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=env, cwd=ROOT, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert "listens on" in line, line + process.stderr.read()
            yield line.split()[-1]
        finally:
            process.terminate()
            process.communicate(timeout=60)
            anyio.run(_end_hub, folder / "hub")


async def _end_hub(state: Path) -> None:
    """End the hub that a server may have started, and wait until it is gone."""
    lock = state / "hub.lock"
    if not lock.exists():
        return
    hub = Hub(Settings.from_environment({"VLLM_HUB_DIR": str(state)}), start=False)
    with suppress(SuiteError):  # it may never have come up
        await hub.retire()
    await hub.aclose()
    await eventually(lambda: _is_free(lock))


def _is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
