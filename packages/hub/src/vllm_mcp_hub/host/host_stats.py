"""Readings of the host: CPUs, memory, disks, pressure."""

import os
from contextlib import suppress
from pathlib import Path

from vllm_mcp_hub.host.bounded import OneAtATime, Silent
from vllm_mcp_hub.host.host_memory import CGROUP, PROC, meminfo, text_of, within_cgroup
from vllm_mcp_protocol.gpu import CpuTimes, Disk, HostMemory, HostReading, Pressure, cpu_percent

DISK_LIMIT_S = 2.0
"""A local file system answers in microseconds; one on a network whose server is gone, never."""


class HostReader:
    """Reads the host again and again: how busy the CPUs are is the difference of two readings."""

    def __init__(
        self,
        *,
        state_dir: Path | None = None,
        cache_dir: Path | None = None,
        proc: Path = PROC,
        cgroup: Path = CGROUP,
        disk_limit_s: float = DISK_LIMIT_S,
    ) -> None:
        self._state_dir, self._cache_dir = state_dir, cache_dir
        self._proc, self._cgroup = proc, cgroup
        self._disk_limit_s = disk_limit_s
        # One each, so that a cache on a dead server does not hide the state folder's disk.
        self._state_disk, self._cache_disk = OneAtATime(), OneAtATime()
        self._before: CpuTimes | None = None

    def read(self) -> HostReading:
        """The host now. Returns within twice the disks' limit; call it in a thread."""
        times = cpu_times(text_of(self._proc / "stat"))
        before, self._before = self._before, times
        return HostReading(
            cpus=_usable_cpus(),
            cpu_times=times,
            cpu_percent=cpu_percent(before, times) if before and times else None,
            load=load_average(text_of(self._proc / "loadavg")),
            memory=self._memory(),
            state_disk=self._disk(self._state_disk, self._state_dir),
            cache_disk=self._disk(self._cache_disk, self._cache_dir),
            cpu_pressure=pressure(text_of(self._proc / "pressure" / "cpu")),
            memory_pressure=pressure(text_of(self._proc / "pressure" / "memory")),
            io_pressure=pressure(text_of(self._proc / "pressure" / "io")),
        )

    def _memory(self) -> HostMemory:
        info = meminfo(self._proc)
        total, available = within_cgroup(info, self._proc, self._cgroup)
        swap = info.get("SwapTotal", 0)
        return HostMemory(
            total_bytes=total,
            available_bytes=min(available, total),
            swap_total_bytes=swap,
            swap_used_bytes=swap - info.get("SwapFree", swap),
        )

    def _disk(self, bounded: OneAtATime, folder: Path | None) -> Disk | None:
        if folder is None:
            return None
        try:
            return bounded.ask(lambda: disk_of(folder), self._disk_limit_s)
        except (OSError, Silent):
            return None


def cpu_times(stat: str) -> CpuTimes | None:
    """Ticks of all CPUs, from /proc/stat."""
    first = stat.partition("\n")[0].split()
    if len(first) < 5 or first[0] != "cpu":
        return None
    # user nice system idle iowait irq softirq steal; guests' time after these is already in user and nice
    ticks = [int(number) for number in first[1:9]]
    total = sum(ticks)
    return CpuTimes(busy=total - sum(ticks[3:5]), total=total)


def load_average(text: str) -> tuple[float, float, float] | None:
    """Averages over 1, 5 and 15 minutes, from /proc/loadavg."""
    with suppress(ValueError):
        one, five, fifteen = (float(number) for number in text.split()[:3])
        return one, five, fifteen
    return None


def pressure(text: str) -> Pressure | None:
    """One file of /proc/pressure; None where the kernel keeps none."""
    lines = {line.split()[0]: dict(pair.split("=") for pair in line.split()[1:]) for line in text.splitlines() if line}
    if "some" not in lines:
        return None
    full = lines.get("full", {})
    return Pressure(
        some_avg10_percent=float(lines["some"]["avg10"]),
        some_avg60_percent=float(lines["some"]["avg60"]),
        full_avg10_percent=float(full["avg10"]) if full else None,
        full_avg60_percent=float(full["avg60"]) if full else None,
    )


def disk_of(folder: Path) -> Disk:
    """The file system that `folder` is on, or will be on once it is made. Raises OSError."""
    for place in (folder, *folder.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            found = os.statvfs(place)
            return Disk(
                path=str(folder),
                total_bytes=found.f_blocks * found.f_frsize,
                free_bytes=found.f_bavail * found.f_frsize,
            )
    raise FileNotFoundError(str(folder))


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0))
