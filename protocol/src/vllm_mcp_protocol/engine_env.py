"""Find the `vllm` command, and learn once per installed version what it can do. Never imports vllm.

The suite's own engine environments live under `paths.managed_engine_root`:

    engine/cpu        link to the finished build, replaced in one step; a half-built environment has no link
    engine/cpu-…/     one build: a virtual environment
    engine/facts/     what the installed versions answered (this module's cache)
"""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vllm_mcp_protocol.errors import DiskFull, VllmNotInstalled
from vllm_mcp_protocol.files import write_atomic
from vllm_mcp_protocol.paths import managed_engine_root
from vllm_mcp_protocol.settings import Settings

log = logging.getLogger(__name__)

EngineKind = Literal["cpu", "cuda"]
MANAGED_KINDS: tuple[EngineKind, ...] = ("cuda", "cpu")
"""A machine that has both was given a GPU after the CPU engine: prefer the GPU's."""

INSTALL_HINT = "run `vllm-mcp engine install`, or set VLLM_EXECUTABLE to the path of a vllm command"

_QUESTION_LIMIT_S = 180.0
"""`vllm serve --help=all` imports torch: 5 s with compiled bytecode, 22 s with cold files, 53 s without."""
_LONGEST_CACHE_BYTES = 1 << 20
_Record = TypeVar("_Record", bound=BaseModel)
_FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w.-]*")
_OPTION_LINE = re.compile(r"^ {2}(-\S.*)$", re.MULTILINE)
_VERSION = re.compile(r"^\s*(?:vllm\s+)?(\d+(?:\.\w+)+(?:[.+-][\w.+-]+)?)\s*$", re.MULTILINE)


class VllmFacts(BaseModel):
    """What one installed vLLM says about itself."""

    model_config = ConfigDict(frozen=True)

    version: str
    """As `vllm --version` prints it, for example ``0.32.0`` or ``0.32.0+cpu``."""
    flags: frozenset[str]
    """Long flags of `vllm serve`, with the leading dashes."""
    platform: str
    """What it was built for: ``cpu``, ``cuda``, ``rocm``, ``tpu`` or ``xpu``."""


def facts_dir(settings: Settings) -> Path:
    """Where `read_vllm_facts` keeps its answers, shared by the installer, the hub and `doctor`."""
    return managed_engine_root(settings) / "facts"


def managed_executable(root: Path, kind: EngineKind) -> Path | None:
    """The `vllm` of a finished managed environment; None when there is none, or it was not finished."""
    executable = root / kind / "bin/vllm"
    return executable if _is_executable(executable) else None


def find_executable(settings: Settings, hub_toml_executable: str | None, env: Mapping[str, str]) -> str | None:
    """Absolute path of `vllm`: the setting's, hub.toml's, the managed environment's, or the one on PATH.

    None when there is none. Raises VllmNotInstalled when a configured path cannot be run.
    """
    named = (("VLLM_EXECUTABLE", settings.vllm_executable), ("hub.toml: executable", hub_toml_executable))
    for source, path in named:
        if path:
            return _configured(source, path, env)
    root = managed_engine_root(settings)
    for kind in MANAGED_KINDS:
        if found := managed_executable(root, kind):
            return str(found)
    on_path = shutil.which("vllm", path=env.get("PATH", os.defpath))
    return os.path.abspath(on_path) if on_path else None


def require_executable(settings: Settings, hub_toml_executable: str | None, env: Mapping[str, str]) -> str:
    """`find_executable`, or VllmNotInstalled with what was looked at."""
    found = find_executable(settings, hub_toml_executable, env)
    if found is None:
        root = managed_engine_root(settings)
        raise VllmNotInstalled(
            f"There is no vllm command: VLLM_EXECUTABLE is not set, {root} has no finished environment, "
            "and PATH has none.",
            suggestion=INSTALL_HINT,
            looked_at=["VLLM_EXECUTABLE", "hub.toml", str(root), "PATH"],
        )
    return found


def engine_python(executable: str | Path) -> Path:
    """The Python that runs `executable` (a `vllm` command): the one of its environment."""
    return Path(executable).resolve().parent / "python"


def _configured(source: str, path: str, env: Mapping[str, str]) -> str:
    """A bare name is looked up on PATH, as a shell would; everything else is a path."""
    given = path if "/" in path or path.startswith("~") else shutil.which(path, path=env.get("PATH")) or path
    executable = Path(given).expanduser().absolute()
    if _is_executable(executable):
        return str(executable)
    why = "is not an executable file" if executable.exists() else "does not exist"
    raise VllmNotInstalled(
        f"{source} names {path!r}, which {why}.",
        variable=source,
        path=path,
        suggestion=f"correct {source}, or remove it and run `vllm-mcp engine install`",
    )


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def read_vllm_facts(executable: str | Path, cache_dir: Path) -> VllmFacts:
    """Version, flags and platform of `executable`; asks it once per installed version (5-25 s), then 1 ms.

    Blocks: call it through a thread from async code. Raises VllmNotInstalled with vLLM's own last words when
    the command cannot be run.
    """
    path = Path(executable)
    record = cache_dir / f"vllm-{fingerprint(path)}.json"
    known = read_record(record, VllmFacts)
    if known is not None:
        return known
    facts = _ask(path)
    write_record(record, facts.model_dump() | {"flags": sorted(facts.flags)})
    return facts


def known_vllm_facts(executable: str | Path, cache_dir: Path) -> VllmFacts | None:
    """The remembered facts, or None: never starts vLLM."""
    return read_record(cache_dir / f"vllm-{fingerprint(Path(executable))}.json", VllmFacts)


def fingerprint(executable: Path) -> str:
    """Changes when the command or the vllm distribution beside it is replaced, also in place."""
    real = executable.resolve()
    parts = [_stamp(path) for path in (real, *_distributions(real))]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:24]


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} missing"
    return f"{path} {status.st_mtime_ns} {status.st_size}"


def _distributions(executable: Path) -> list[Path]:
    return sorted(executable.parent.parent.glob("lib/python3*/site-packages/vllm*.dist-info/METADATA"))


def _ask(executable: Path) -> VllmFacts:
    with ThreadPoolExecutor(2) as pool:
        version_text = pool.submit(output_of, executable, ("--version",))
        help_text = pool.submit(output_of, executable, ("serve", "--help=all"))
        version, flags = _VERSION.search(version_text.result()), parse_flags(help_text.result())
    if version is None or not flags:
        what = "--version" if version is None else "serve --help=all"
        raise _unusable(executable, f"`{what}` answered nothing that can be read", "")
    return VllmFacts(version=version[1], flags=flags, platform=_platform(version[1], executable))


def parse_flags(help_text: str) -> frozenset[str]:
    """Long flags that a help text defines; flags that are only mentioned in descriptions do not count."""
    definitions = (re.split(r"\s{2,}", match[1])[0] for match in _OPTION_LINE.finditer(help_text))
    return frozenset(flag for definition in definitions for flag in _FLAG.findall(definition))


def _platform(version: str, executable: Path) -> str:
    """From the local version (``+cpu``); the CUDA build from PyPI has none, then torch's tells."""
    torch = executable.resolve().parent.parent.glob("lib/python3*/site-packages/torch-*.dist-info")
    for label in (version.partition("+")[2], *(path.name.partition("+")[2] for path in torch)):
        for platform in ("cpu", "rocm", "tpu", "xpu"):
            if platform in label:
                return platform
    return "cuda"


def output_of(executable: Path, args: Sequence[str]) -> str:
    """What a program of the engine's environment prints. Raises VllmNotInstalled when it fails or is too slow."""
    env = os.environ | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    for ours in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):  # of this program's Python, not of the engine's
        env.pop(ours, None)
    try:
        done = subprocess.run(
            [str(executable), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_QUESTION_LIMIT_S,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _unusable(executable, f"no answer within {_QUESTION_LIMIT_S:.0f} s", "") from None
    except OSError as error:
        raise _unusable(executable, str(error), "") from error
    if done.returncode != 0:
        raise _unusable(executable, f"exit status {done.returncode}", done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace")


def _unusable(executable: Path, why: str, words: str) -> VllmNotInstalled:
    last = words.strip().splitlines()[-5:]
    return VllmNotInstalled(
        f"{executable} cannot be used: {why}." + (f" It said: {last[-1][:300]}" if last else ""),
        path=str(executable),
        last_lines=[line[:500] for line in last],
        suggestion=f"try `{executable} --version` by hand, or {INSTALL_HINT}",
    )


def read_record(record: Path, kind: type[_Record]) -> _Record | None:
    """A remembered answer; None when there is none, or it is damaged."""
    try:
        with record.open("rb") as file:
            content = file.read(_LONGEST_CACHE_BYTES + 1)
    except OSError:
        return None
    try:
        return kind.model_validate_json(content)
    except ValidationError:
        log.warning("%s is damaged; asking vLLM again", record)
        return None


def write_record(record: Path, answer: Mapping[str, Any]) -> None:
    """Remember an answer. A cache that cannot be written costs time, not the answer."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(record, json.dumps(answer, indent=1).encode())
    except (OSError, DiskFull) as error:
        log.warning("the facts of vLLM could not be kept in %s: %s", record, error)
