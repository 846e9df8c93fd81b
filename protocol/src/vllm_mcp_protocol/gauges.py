"""Readings flattened to named numbers, for sampling, alerts and exporters. Pure.

The names are stable: people write them into alert rules and dashboards. `docs/gauges.md` is the table of them.
What is not told has no entry, so that nobody takes it for zero.
"""

from collections.abc import Mapping
from types import MappingProxyType

from vllm_mcp_protocol.gpu import Disk, GpuReading, HostReading, Pressure, throttle_words, throttled_by

GPU_GAUGES: Mapping[str, str] = MappingProxyType(
    {
        "gpu_lost": "1 when the GPU cannot be used (fell off the bus, needs a reset, driver gone or silent), else 0",
        "gpu_utilization_percent": "share of the time in which a kernel ran",
        "gpu_memory_controller_percent": "share of the time in which GPU memory was read or written",
        "gpu_memory_total_bytes": "GPU memory",
        "gpu_memory_used_bytes": "GPU memory in use, without what the driver reserves where it tells",
        "gpu_memory_free_bytes": "GPU memory that can be allocated",
        "gpu_memory_reserved_bytes": "GPU memory that the driver keeps for itself",
        "gpu_memory_utilization_percent": "what is not free of the GPU memory",
        "gpu_temperature_celsius": "temperature of the GPU",
        "gpu_memory_temperature_celsius": "temperature of the GPU's memory",
        "gpu_temperature_margin_celsius": "degrees until the hardware slows the GPU down; below 0 it does",
        "gpu_power_watts": "power drawn by the board",
        "gpu_power_limit_watts": "power limit that is enforced now",
        "gpu_power_utilization_percent": "power drawn, of the limit",
        "gpu_energy_joules": "energy since the driver was loaded (a counter)",
        "gpu_graphics_clock_mhz": "graphics clock",
        "gpu_sm_clock_mhz": "clock of the streaming multiprocessors",
        "gpu_memory_clock_mhz": "memory clock",
        "gpu_throttled": "1 when clocks are held down by anything but idleness or a setting, else 0",
        "gpu_throttled_thermal": "1 when heat holds the clocks down, else 0",
        "gpu_throttled_power": "1 when power holds the clocks down, else 0",
        "gpu_fan_percent": "fan speed, of the highest that is meant for it; may exceed 100",
        "gpu_performance_state": "0 (fastest) to 15",
        "gpu_pcie_generation": "PCIe generation now",
        "gpu_pcie_width": "PCIe lanes now",
        "gpu_pcie_sent_mb_per_second": "sent by the GPU over PCIe",
        "gpu_pcie_received_mb_per_second": "received by the GPU over PCIe",
        "gpu_nvlink_links_active": "NVLink links that are up",
        "gpu_nvlink_links_down": "NVLink links that the GPU has and that are not up",
        "gpu_ecc_corrected": "memory errors corrected since the driver was loaded",
        "gpu_ecc_uncorrected": "memory errors not corrected since the driver was loaded",
        "gpu_ecc_uncorrected_lifetime": "memory errors not corrected in the GPU's life",
        "gpu_memory_repair_pending": "1 when bad pages or rows wait for a reset, else 0",
        "gpu_memory_repair_failed": "1 when a bad row could not be replaced, else 0",
        "gpu_processes": "processes on the GPU, where they were asked for",
    }
)

HOST_GAUGES: Mapping[str, str] = MappingProxyType(
    {
        "host_cpu_percent": "how busy all CPUs were since the sample before",
        "host_load_1m": "runnable tasks, averaged over a minute",
        "host_memory_total_bytes": "memory, within the cgroup's limit",
        "host_memory_used_bytes": "memory that is not available",
        "host_memory_available_bytes": "memory that can still be used without swapping",
        "host_memory_utilization_percent": "memory that is not available, of all",
        "host_swap_used_bytes": "swap in use",
        "host_disk_total_bytes": "disk of the state folder",
        "host_disk_free_bytes": "free on the disk of the state folder",
        "host_disk_utilization_percent": "not free on the disk of the state folder",
        "host_cache_disk_total_bytes": "disk of the Hugging Face cache",
        "host_cache_disk_free_bytes": "free on the disk of the Hugging Face cache",
        "host_cache_disk_utilization_percent": "not free on the disk of the Hugging Face cache",
        "host_cpu_pressure_percent": "share of the last 10 s in which some task waited for a CPU",
        "host_memory_pressure_percent": "share of the last 10 s in which some task waited for memory",
        "host_memory_stall_percent": "share of the last 10 s in which every task waited for memory",
        "host_io_pressure_percent": "share of the last 10 s in which some task waited for a disk",
    }
)


def gpu_gauges(reading: GpuReading) -> dict[str, float]:
    """The numbers of a GPU by the names of GPU_GAUGES."""
    if reading.lost is not None:
        return {"gpu_lost": 1.0}
    told = {"gpu_lost": 0.0, **_gpu_memory(reading), **_gpu_state(reading), **_gpu_links(reading), **_gpu_ecc(reading)}
    return _told(told)


def host_gauges(reading: HostReading) -> dict[str, float]:
    """The numbers of a host by the names of HOST_GAUGES."""
    memory = reading.memory
    return _told(
        {
            "host_cpu_percent": reading.cpu_percent,
            "host_load_1m": reading.load[0] if reading.load else None,
            "host_memory_total_bytes": memory.total_bytes,
            "host_memory_used_bytes": memory.used_bytes,
            "host_memory_available_bytes": memory.available_bytes,
            "host_memory_utilization_percent": _percent(memory.used_bytes, memory.total_bytes),
            "host_swap_used_bytes": memory.swap_used_bytes,
            **_disk("host_disk", reading.state_disk),
            **_disk("host_cache_disk", reading.cache_disk),
            "host_cpu_pressure_percent": _some(reading.cpu_pressure),
            "host_memory_pressure_percent": _some(reading.memory_pressure),
            "host_memory_stall_percent": reading.memory_pressure.full_avg10_percent
            if reading.memory_pressure
            else None,
            "host_io_pressure_percent": _some(reading.io_pressure),
        }
    )


def _gpu_memory(reading: GpuReading) -> dict[str, float | None]:
    if (memory := reading.memory) is None:
        return {}
    return {
        "gpu_memory_total_bytes": memory.total_bytes,
        "gpu_memory_used_bytes": memory.used_bytes,
        "gpu_memory_free_bytes": memory.free_bytes,
        "gpu_memory_reserved_bytes": memory.reserved_bytes,
        "gpu_memory_utilization_percent": _percent(memory.total_bytes - memory.free_bytes, memory.total_bytes),
    }


def _gpu_state(reading: GpuReading) -> dict[str, float | None]:
    power, clocks, bits = reading.power, reading.clocks, reading.event_bits
    return {
        "gpu_utilization_percent": reading.utilization.gpu_percent,
        "gpu_memory_controller_percent": reading.utilization.memory_percent,
        "gpu_temperature_celsius": reading.temperature.celsius,
        "gpu_memory_temperature_celsius": reading.temperature.memory_celsius,
        "gpu_temperature_margin_celsius": reading.temperature.margin_celsius,
        "gpu_power_watts": power.watts,
        "gpu_power_limit_watts": power.limit_watts,
        "gpu_power_utilization_percent": _percent(power.watts, power.limit_watts),
        "gpu_energy_joules": power.energy_joules,
        "gpu_graphics_clock_mhz": clocks.graphics_mhz,
        "gpu_sm_clock_mhz": clocks.sm_mhz,
        "gpu_memory_clock_mhz": clocks.memory_mhz,
        "gpu_throttled": None if bits is None else bool(throttle_words(bits)),
        "gpu_throttled_thermal": None if bits is None else throttled_by(bits, "thermal"),
        "gpu_throttled_power": None if bits is None else throttled_by(bits, "power"),
        "gpu_fan_percent": reading.fan_percent,
        "gpu_performance_state": reading.performance_state,
        "gpu_processes": None if reading.processes is None else len({process.pid for process in reading.processes}),
    }


def _gpu_links(reading: GpuReading) -> dict[str, float | None]:
    pcie, nvlink = reading.pcie, reading.nvlink
    return {
        "gpu_pcie_generation": pcie.generation,
        "gpu_pcie_width": pcie.width,
        "gpu_pcie_sent_mb_per_second": pcie.sent_mb_per_second,
        "gpu_pcie_received_mb_per_second": pcie.received_mb_per_second,
        "gpu_nvlink_links_active": nvlink.active if nvlink else None,
        "gpu_nvlink_links_down": nvlink.links - nvlink.active if nvlink else None,
    }


def _gpu_ecc(reading: GpuReading) -> dict[str, float | None]:
    ecc = reading.ecc
    return {
        "gpu_ecc_corrected": ecc.volatile.corrected,
        "gpu_ecc_uncorrected": ecc.volatile.uncorrected,
        "gpu_ecc_uncorrected_lifetime": ecc.aggregate.uncorrected,
        "gpu_memory_repair_pending": _either(ecc.retirement_pending, ecc.remapping_pending),
        "gpu_memory_repair_failed": ecc.remapping_failed,
    }


def _disk(name: str, disk: Disk | None) -> dict[str, float | None]:
    if disk is None:
        return {}
    return {
        f"{name}_total_bytes": disk.total_bytes,
        f"{name}_free_bytes": disk.free_bytes,
        f"{name}_utilization_percent": _percent(disk.total_bytes - disk.free_bytes, disk.total_bytes),
    }


def _some(pressure: Pressure | None) -> float | None:
    return pressure.some_avg10_percent if pressure else None


def _either(one: bool | None, other: bool | None) -> bool | None:
    return None if one is None and other is None else bool(one or other)


def _percent(part: float | None, whole: float | None) -> float | None:
    return 100 * part / whole if part is not None and whole else None


def _told(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}
