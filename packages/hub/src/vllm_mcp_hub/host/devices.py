"""What this host can serve models on: GPUs as NVML shows them, or the host's memory where there is none.

"No GPU" is a value, not an error. NVML is asked anew each time: a driver that is upgraded or a GPU that falls off
the bus is seen at the next question, and the hub holds no handle that could go stale.
"""

import logging
import os
from pathlib import Path
from typing import Any

from vllm_mcp_hub.host.host_memory import meminfo, text_of, within_cgroup
from vllm_mcp_hub.host.nvml import session
from vllm_mcp_protocol.model import CPU, Device, DeviceId, Holder
from vllm_mcp_protocol.units import GIB, MIB

logger = logging.getLogger(__name__)

SMALL_HOLDER_BYTES = 256 * MIB
"""On the cpu device, processes below this are not worth naming."""

MAX_HOLDERS = 8


def read_devices(
    reserve_bytes: int = GIB, *, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")
) -> list[Device]:
    """The GPUs, or one device `cpu`: the host's memory less `reserve_bytes`, within the cgroup's limit.

    A GPU that cannot be read is left out with a warning; when that is all of them, the list is empty.
    """
    with session() as nvml:
        if nvml is not None and (count := nvml.nvmlDeviceGetCount()):
            return [device for index in range(count) if (device := _gpu(nvml, index)) is not None]
    return [_cpu(reserve_bytes, proc, cgroup)]


def foreign_holders(device_id: DeviceId, own_pids: set[int]) -> tuple[Holder, ...]:
    """Processes that are not ours and hold the device's memory, largest first."""
    sizes = _host_memory_by_pid() if device_id == CPU else _gpu_memory_by_pid(device_id)
    foreign = [
        Holder(pid=pid, name=process_name(pid), bytes=size) for pid, size in sizes.items() if pid not in own_pids
    ]
    return tuple(sorted(foreign, key=lambda holder: -(holder.bytes or 0))[:MAX_HOLDERS])


def memory_by_pid(device_id: DeviceId) -> dict[int, int]:
    """Bytes of a GPU's memory held by each process; empty for `cpu` and where the driver does not tell.

    The numbers are the host's: inside a container without the host's process namespace they match no process.
    """
    if device_id == CPU:
        return {}
    return {pid: size for pid, size in _gpu_memory_by_pid(device_id).items() if size is not None}


def _gpu(nvml: Any, index: int) -> Device | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name, uuid = str(nvml.nvmlDeviceGetName(handle)), str(nvml.nvmlDeviceGetUUID(handle))
        total_bytes, free_bytes = _gpu_memory(nvml, handle)
    except nvml.NVMLError as error:
        logger.warning("GPU %d is left out: %s", index, error)
        return None
    return Device(id=str(index), kind="cuda", name=name, uuid=uuid, total_bytes=total_bytes, free_bytes=free_bytes)


def _gpu_memory(nvml: Any, handle: Any) -> tuple[int, int]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:
        # Grace-Blackwell desktops and Jetsons share the host's memory and have none of their own to report.
        info = meminfo()
        return info["MemTotal"], info["MemAvailable"]
    return int(memory.total), int(memory.free)


def _gpu_memory_by_pid(device_id: DeviceId) -> dict[int, int | None]:
    with session() as nvml:
        if nvml is None:
            return {}
        sizes: dict[int, int | None] = {}
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(int(device_id))
            for ask in (
                nvml.nvmlDeviceGetComputeRunningProcesses,
                nvml.nvmlDeviceGetGraphicsRunningProcesses,
            ):
                for process in ask(handle):
                    sizes[process.pid] = _larger(sizes.get(process.pid), process.usedGpuMemory)
        except nvml.NVMLError as error:
            logger.warning("GPU %s does not tell who uses it: %s", device_id, error)
        return sizes


def _larger(known: int | None, told: int | None) -> int | None:
    return max(known or 0, int(told)) if told is not None else known


def _cpu(reserve_bytes: int, proc: Path, cgroup: Path) -> Device:
    total_bytes, free_bytes = within_cgroup(meminfo(proc), proc, cgroup)
    total_bytes = max(0, total_bytes - reserve_bytes)
    return Device(
        id=CPU,
        kind="cpu",
        name=_cpu_name(proc),
        total_bytes=total_bytes,
        free_bytes=min(free_bytes, total_bytes),
    )


def _cpu_name(proc: Path) -> str:
    for line in (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware", "cpu model"):
            return " ".join(value.split())
    return "CPU"


def _host_memory_by_pid() -> dict[int, int]:
    page_bytes, sizes = os.sysconf("SC_PAGE_SIZE"), {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (statm := text_of(Path("/proc", name, "statm"))):
            sizes[int(name)] = int(statm.split()[1]) * page_bytes
    return {pid: size for pid, size in sizes.items() if size >= SMALL_HOLDER_BYTES}


def process_name(pid: int) -> str:
    """What the kernel calls a process, or "unknown"."""
    return text_of(Path(f"/proc/{pid}/comm")).strip() or "unknown"
