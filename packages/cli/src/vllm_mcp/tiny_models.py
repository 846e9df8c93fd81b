"""Tiny local models, so that demo and tests need no download. The engine environment's Python makes them."""

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vllm_mcp import make_tiny_models
from vllm_mcp.make_tiny_models import MODELS, ORG, STAMP
from vllm_mcp_protocol.errors import BadInput, VllmNotInstalled
from vllm_mcp_protocol.hf.cache import find

_MAKING_LIMIT_S = 300.0
"""8 s here with compiled bytecode; most of it imports torch and transformers."""


def ensure_tiny_models(engine_python: str | Path, hf_home: Path, names: Sequence[str] = ("tiny-llama",)) -> list[str]:
    """Make those of `names` that are not in `hf_home`'s cache yet; the model ids, in the order of `names`.

    Raises BadInput for a name that is not one of MODELS, and VllmNotInstalled with the script's last lines.
    """
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise BadInput(
            f"There is no tiny model {unknown[0]!r}.",
            parameter="names",
            value=unknown[0],
            allowed=list(MODELS),
        )
    hub, version = hf_home / "hub", _version()
    if any(not _is_there(hub, name, version) for name in names):
        hub.mkdir(parents=True, exist_ok=True)
        with (hub / ".tiny-models.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second caller waits, and then finds them made
            if missing := [name for name in names if not _is_there(hub, name, version)]:
                _make(engine_python, hub, version, missing)
    return [f"{ORG}/{name}" for name in names]


def _version() -> str:
    """Changes with the script: a model made by another one is made anew."""
    return hashlib.sha256(Path(make_tiny_models.__file__).read_bytes()).hexdigest()[:12]


def _is_there(hub: Path, name: str, version: str) -> bool:
    facts = find(f"{ORG}/{name}", [hub])
    if facts is None or facts.path is None or not facts.complete:
        return False
    try:
        stamp = json.loads((Path(facts.path) / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(stamp, dict) and stamp.get("version") == version


def _make(python: str | Path, hub: Path, version: str, names: Sequence[str]) -> None:
    script = str(Path(make_tiny_models.__file__))
    command = [str(python), script, "--hub", str(hub), "--version", version, *names]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MAKING_LIMIT_S,
            env=env | {"HF_HUB_OFFLINE": "1"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(python, str(error)) from error
    if done.returncode != 0:
        raise _failed(python, "\n".join(done.stderr.strip().splitlines()[-10:]))


def _failed(python: str | Path, words: str) -> VllmNotInstalled:
    return VllmNotInstalled(
        f"The tiny model could not be made with {python}: {words}",
        last_lines=words.splitlines(),
        suggestion="run `vllm-mcp engine install` again, or name a model of your own",
    )
