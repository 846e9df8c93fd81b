"""Programs from npm that drive our servers, installed once per machine outside the repository."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

PROGRAMS = (
    "node@22",  # the inspector needs 22.19; machines have older ones
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "@modelcontextprotocol/inspector@2.12.0",
    "@anthropic-ai/claude-code@2.1.197",  # 4 s and 235 MB
    "opencode-ai@1.18.33",  # 14 s and 350 MB to install; a binary that needs no Node
)
_QUIET = ("--no-audit", "--no-fund", "--no-save", "--no-package-lock", "--loglevel=error")


def program(name: str) -> list[str]:
    """The command of an installed script, with the Node it needs. Skips the test when the machine has no npm."""
    commands = _installed()
    return [str(commands / "node"), str(commands / name)]


def binary(name: str) -> str:
    """The path of an installed program that is no script. Skips the test when the machine has no npm."""
    return str(_installed() / name)


def _installed() -> Path:
    """The folder of all commands, installed when it is not there yet."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed; it comes with Node.js")
    folder = cache() / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    complete = folder / "complete"
    wanted = "\n".join(PROGRAMS)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists() or complete.read_text() != wanted:
            subprocess.run(["npm", "install", *_QUIET, "--prefix", str(folder), *PROGRAMS], cwd=folder, check=True)
            complete.write_text(wanted)
    return folder / "node_modules" / ".bin"


def run(
    name: str, words: Sequence[str], home: Path, env: Mapping[str, str] | None = None, timeout_s: float = 180
) -> "subprocess.CompletedProcess[str]":
    """Run a program with a home folder of its own; it must end within `timeout_s`."""
    command = program(name)
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
    return subprocess.run(
        [*command, *words],
        cwd=home,
        env={"PATH": path, "HOME": str(home), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vllm-mcp-tests"
