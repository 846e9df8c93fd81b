"""Rows of GPUs, and the host. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from vllm_mcp_protocol.model import Device, EngineStatus, EngineView
from vllm_mcp_protocol.monitoring import MonitoringWindow, SubjectWindow

_GPU = "gpu:"


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One GPU at the last look; None is what it does not tell. Of one that is lost only that is told."""

    id: str
    name: str
    lost: bool
    throttled_by: str = ""
    """`heat`, `power`, `other`; empty when nothing holds the clocks down."""
    utilization_percent: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    engines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostRow:
    """The host at the last look."""

    cpu_percent: float | None
    memory_used_bytes: float | None
    memory_total_bytes: float | None
    disk_free_bytes: float | None
    """Of the disk with the hub's state folder."""
    disk_total_bytes: float | None


def gpu_rows(window: MonitoringWindow, devices: Iterable[Device], views: Iterable[EngineView]) -> list[GpuRow]:
    """`views`: the engines that are to be named beside their GPUs."""
    names = {one.id: one.name for one in devices if one.kind == "cuda"}
    holders: dict[str, list[str]] = {}
    for view in views:
        for device in view.devices if view.status is not EngineStatus.STOPPED else ():
            holders.setdefault(device, []).append(view.served_name)
    seen = [(one.subject.removeprefix(_GPU), one) for one in window.subjects if one.subject.startswith(_GPU)]
    seen.sort(key=lambda one: (len(one[0]), one[0]))
    return [_gpu(gpu, names.get(gpu, ""), tuple(holders.get(gpu, ())), one) for gpu, one in seen]


def _gpu(gpu: str, name: str, engines: tuple[str, ...], seen: SubjectWindow) -> GpuRow:
    if _last(seen, "gpu_lost"):
        return GpuRow(gpu, name, lost=True, engines=engines)
    return GpuRow(
        gpu,
        name,
        lost=False,
        throttled_by=_throttled_by(seen),
        utilization_percent=_last(seen, "gpu_utilization_percent"),
        memory_used_bytes=_last(seen, "gpu_memory_used_bytes"),
        memory_total_bytes=_last(seen, "gpu_memory_total_bytes"),
        temperature_celsius=_last(seen, "gpu_temperature_celsius"),
        power_watts=_last(seen, "gpu_power_watts"),
        power_limit_watts=_last(seen, "gpu_power_limit_watts"),
        engines=engines,
    )


def _throttled_by(seen: SubjectWindow) -> str:
    if not _last(seen, "gpu_throttled"):
        return ""
    return (
        "heat" if _last(seen, "gpu_throttled_thermal") else "power" if _last(seen, "gpu_throttled_power") else "other"
    )


def host_row(window: MonitoringWindow) -> HostRow | None:
    """None where the host was not seen."""
    seen = next((one for one in window.subjects if one.subject == "host"), None)
    if seen is None:
        return None
    return HostRow(
        cpu_percent=_last(seen, "host_cpu_percent"),
        memory_used_bytes=_last(seen, "host_memory_used_bytes"),
        memory_total_bytes=_last(seen, "host_memory_total_bytes"),
        disk_free_bytes=_last(seen, "host_disk_free_bytes"),
        disk_total_bytes=_last(seen, "host_disk_total_bytes"),
    )


def _last(seen: SubjectWindow, gauge: str) -> float | None:
    stat = seen.gauges.get(gauge)
    return None if stat is None else stat.last
