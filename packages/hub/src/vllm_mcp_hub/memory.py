"""Memory as the operating system and the driver see it: what engines really hold, and whether a promise can be kept."""

from collections.abc import Callable, Sequence

from vllm_mcp_hub.host import processes
from vllm_mcp_hub.host.devices import memory_by_pid
from vllm_mcp_hub.host.engine_dir import EngineDir
from vllm_mcp_protocol.errors import GpuMemoryHeld
from vllm_mcp_protocol.model import CPU, Device, DeviceId, Holder, Need
from vllm_mcp_protocol.units import to_mib


def check_free_memory(name: str, device: Device, need: Need, holders: Callable[[str], Sequence[Holder]]) -> None:
    """Raises GpuMemoryHeld with the processes that hold it when less than `need` is free on `device`."""
    if device.free_bytes >= need.device_bytes:
        return
    found = holders(device.id)
    shown = ", ".join(f"{h.name} (pid {h.pid}" + (f", {to_mib(h.bytes)} MiB)" if h.bytes else ")") for h in found[:5])
    raise GpuMemoryHeld(
        f"{name} was promised {to_mib(need.device_bytes)} MiB on {device.id} ({device.name}), but only "
        f"{device.free_bytes // 1024**2} MiB are free; held by processes that are not ours: {shown or 'not known'}.",
        device=device.id,
        required_mb=to_mib(need.device_bytes),
        available_mb=device.free_bytes // 1024**2,
        holders=[h.pid for h in found],
        suggestion="end those processes, or load-model with a smaller gpu_memory_utilization or max_model_len",
    )


def measure(folder: EngineDir, devices: Sequence[DeviceId]) -> int | None:
    """Bytes that an engine holds on its devices together: host memory on the CPU device, else GPU memory."""
    if tuple(devices) == (CPU,):
        return processes.memory_of_session(folder)
    own = processes.pids_of(folder)
    found = [size for device in devices for pid, size in memory_by_pid(device).items() if pid in own]
    return sum(found) or None
