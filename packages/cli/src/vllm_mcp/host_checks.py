"""Checks of `doctor` that concern the machine: Python, GPUs, memory, disks, folders, tokens."""

import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_mcp.findings import Finding, blocking, note, ok, warning
from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.paths import (
    SOCKET_PATH_LIMIT_BYTES,
    file_system_of,
    managed_engine_root,
    model_cache_dirs,
    prepare_state_dir,
    socket_path_fits,
    state_dir,
    user_home,
)
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import GIB, KIB, format_bytes

_LOW_MEMORY_BYTES = 4 * GIB
"""The CPU engine with a tiny model takes 1.6-2.6 GiB; below this even that gets tight."""

_LOW_DISK_BYTES = 10 * GIB
"""The CUDA engine's environment takes about 8 GiB installed, the CPU one 2.5 GiB."""

_FULL_DISK_BYTES = GIB // 2


@dataclass(frozen=True)
class Gpus:
    """What NVML said: the GPUs' names, or why there are none."""

    names: tuple[str, ...] = ()
    why_none: str = ""
    broken: bool = False
    """A driver is there but does not work."""


def python_version() -> Finding:
    """Which Python runs this; pip refuses to install the suite into one that is too old."""
    return ok("python", f"{platform.python_version()} at {sys.executable}")


def gpu_names() -> Gpus:
    """Ask NVML. A machine without a driver is a value, not an error."""
    try:
        import pynvml
    except ImportError:
        return Gpus(why_none="the package nvidia-ml-py is not installed", broken=True)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        missing = isinstance(error, pynvml.NVMLError_LibraryNotFound)
        has_device = Path("/dev/nvidia0").exists()
        return Gpus(why_none="no NVIDIA driver" if missing else str(error), broken=has_device)
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return Gpus(tuple(_gpu_words(pynvml, handle) for handle in handles), "the driver lists no GPU")
    except pynvml.NVMLError as error:
        return Gpus(why_none=str(error), broken=True)
    finally:
        pynvml.nvmlShutdown()


def _gpu_words(pynvml: object, handle: object) -> str:
    name = pynvml.nvmlDeviceGetName(handle)  # type: ignore[attr-defined]
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # type: ignore[attr-defined]
    text = name.decode() if isinstance(name, bytes) else str(name)
    return f"{text} ({format_bytes(memory.free)} of {format_bytes(memory.total)} free)"


def gpu(gpus: Gpus) -> Finding:
    """GPUs found, or the CPU engine's turn."""
    if gpus.names:
        return ok("gpu", "; ".join(gpus.names))
    if gpus.broken:
        return warning("gpu", f"NVML cannot be used: {gpus.why_none}", "run nvidia-smi and repair the driver")
    return note("gpu", f"{gpus.why_none}: engines run on the CPU")


def memory() -> Finding:
    """Host memory: the CPU engine's room, and the page cache that makes loads fast."""
    values = _meminfo()
    free, total = values.get("MemAvailable", 0), values.get("MemTotal", 0)
    words = f"{format_bytes(free)} of {format_bytes(total)} available"
    if 0 < free < _LOW_MEMORY_BYTES:
        return warning("memory", words, "close something large before loading on the CPU")
    return ok("memory", words)


def _meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(value) * KIB for name, value, *_ in fields if value.isdigit()}


def bfloat16(*, has_gpu: bool) -> Iterable[Finding]:
    """CPUs that announce AMX: some virtual machines kill a process that uses it."""
    if has_gpu or "amx_bf16" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"):
        return
    yield note(
        "bfloat16",
        "this CPU announces AMX; on some virtual machines bfloat16 then kills the first request",
        "if an engine dies like that, load with dtype=float32 (or float16)",
    )


def disk(settings: Settings) -> Iterable[Finding]:
    """Room where models, engines and state are written; folders on one file system count once."""
    wanted = {
        "models": model_cache_dirs(settings)[0],
        "engine": managed_engine_root(settings),
        "state": state_dir(settings),
    }
    seen: dict[int, list[str]] = {}
    where: dict[int, Path] = {}
    for name, folder in wanted.items():
        real = existing_parent(folder)
        device = real.stat().st_dev
        seen.setdefault(device, []).append(name)
        where.setdefault(device, real)
    for device, names in seen.items():
        yield _disk_finding(where[device], ", ".join(names))


def _disk_finding(folder: Path, what: str) -> Finding:
    free = shutil.disk_usage(folder).free
    words = f"{format_bytes(free)} free for {what} ({folder})"
    if free < _FULL_DISK_BYTES:
        return blocking("disk", words, "make room, or move the folder (HF_HOME, VLLM_MCP_ENGINE_DIR, VLLM_HUB_DIR)")
    if free < _LOW_DISK_BYTES:
        return warning("disk", words, "make room before downloading a model or installing an engine")
    return ok("disk", words)


def existing_parent(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def model_cache(settings: Settings) -> Finding:
    """Where models are, and how many."""
    folders = model_cache_dirs(settings)
    counts = []
    for folder in folders:
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
            return warning("models", f"{folder} cannot be read", f"chmod u+rx {folder}, or set HF_HOME")
        count = sum(1 for _ in folder.glob("models--*")) if folder.is_dir() else None
        counts.append(f"{folder} ({'not there yet' if count is None else count})")
    return ok("models", "; ".join(counts))


def token(settings: Settings) -> Finding:
    """Whether a Hugging Face token is there; never its value."""
    if settings.hf_token is not None:
        return ok("hf token", "set in the environment")
    home = Path(settings.hf_home).expanduser() if settings.hf_home else user_home() / ".cache/huggingface"
    if (home / "token").is_file():
        return ok("hf token", f"stored in {home / 'token'}")
    return note("hf token", "not set; only gated models need one")


def state_folder(settings: Settings) -> Finding:
    """The hub's folder: short path, local disk, ours alone."""
    folder = state_dir(settings)
    if folder.is_dir() and stat.S_IMODE(folder.stat().st_mode) & 0o077:
        return warning("state", f"{folder} is open to other users", f"chmod 700 {folder} (the next hub does it)")
    try:
        words = _usable(folder)
    except SuiteError as error:
        return blocking("state", error.info.message, error.info.suggestion)
    return words


def _usable(folder: Path) -> Finding:
    if folder.is_dir():
        prepare_state_dir(folder)
        return ok("state", f"{folder} ({file_system_of(folder) or 'file system unknown'})")
    parent = existing_parent(folder)
    remedy = "set VLLM_HUB_DIR to a short path on a local disk, for example /var/tmp/vllm-hub"
    if not socket_path_fits(folder):
        return blocking(
            "state",
            f"{folder} is too long: sockets in it would exceed {SOCKET_PATH_LIMIT_BYTES} bytes",
            remedy,
        )
    in_the_way = [path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()]
    if in_the_way:
        return blocking("state", f"{folder} cannot be made: {in_the_way[0]} is not a folder", remedy)
    if not os.access(parent, os.W_OK | os.X_OK):
        return blocking("state", f"{folder} cannot be made: {parent} is not writable", remedy)
    return ok("state", f"{folder} (made when needed)")


def node(env: Mapping[str, str]) -> Finding:
    """Node and npm: only for tools around the suite."""
    path = env.get("PATH", os.defpath)
    found = [name for name in ("node", "npm") if shutil.which(name, path=path)]
    if len(found) == 2:
        return ok("node", "node and npm are there (only MCP Inspector and claude-code-templates need them)")
    return note("node", "node or npm is missing; only MCP Inspector and claude-code-templates need them")
