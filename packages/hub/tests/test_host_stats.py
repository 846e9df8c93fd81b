"""The host's own numbers, from folders shaped like /proc and /sys, and from this machine."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_hub.host import host_stats
from vllm_mcp_hub.host.host_stats import HostReader, cpu_times, disk_of, load_average, pressure
from vllm_mcp_protocol.gauges import HOST_GAUGES, host_gauges
from vllm_mcp_protocol.gpu import CpuTimes, Disk, Pressure
from vllm_mcp_protocol.units import GIB

PSI = "some avg10=12.50 avg60=3.25 avg300=1.00 total=123\n"
FULL = "full avg10=2.00 avg60=0.50 avg300=0.00 total=45\n"


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., HostReader]:
    """A machine of 16 GiB, 12 of them free, in a cgroup of 8 GiB, 6 of them used."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    kib = 1024**2
    sizes = {"MemTotal": 16 * kib, "MemAvailable": 12 * kib, "SwapTotal": 4 * kib, "SwapFree": 3 * kib}
    (proc / "meminfo").write_text("".join(f"{name}: {size} kB\n" for name, size in sizes.items()))
    (proc / "self" / "cgroup").write_text("0::/\n")
    (cgroup / "memory.max").write_text(f"{8 * GIB}\n")
    (cgroup / "memory.current").write_text(f"{6 * GIB}\n")

    def _host(files: dict[str, str] | None = None, folder: Path | None = None) -> HostReader:
        for name, text in (files or {}).items():
            (proc / name).parent.mkdir(exist_ok=True)
            (proc / name).write_text(text)
        return HostReader(proc=proc, cgroup=cgroup, state_dir=folder, cache_dir=folder)

    return _host


def test_a_host_tells_all_it_has(host: Callable[..., HostReader], tmp_path: Path) -> None:
    reader = host(
        {
            "stat": "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3 4\n",
            "loadavg": "1.50 0.75 0.25 3/123 4567\n",
            "pressure/cpu": PSI,
            "pressure/memory": PSI + FULL,
            "pressure/io": PSI + FULL,
        },
        folder=tmp_path,
    )
    assert reader.read().cpu_percent is None
    (tmp_path / "proc" / "stat").write_text("cpu  140 5 55 840 60 0 0 0 20 0\n")
    reading = reader.read()
    assert reading.cpu_percent == 50
    assert reading.load == (1.5, 0.75, 0.25)
    memory = reading.memory
    assert (memory.total_bytes, memory.available_bytes, memory.used_bytes) == (8 * GIB, 2 * GIB, 6 * GIB)
    assert (memory.swap_total_bytes, memory.swap_used_bytes) == (4 * GIB, GIB)
    assert reading.cpu_pressure == Pressure(some_avg10_percent=12.5, some_avg60_percent=3.25)
    assert reading.memory_pressure is not None
    assert reading.memory_pressure.full_avg10_percent == 2
    gauges = host_gauges(reading)
    assert {*gauges} == {*HOST_GAUGES}
    assert (gauges["host_cpu_percent"], gauges["host_memory_utilization_percent"]) == (50, 75)


def test_what_a_kernel_does_not_tell_is_none(host: Callable[..., HostReader]) -> None:
    reading = host().read()
    assert (reading.cpu_times, reading.load, reading.state_disk, reading.io_pressure) == (None,) * 4
    assert {*host_gauges(reading)} == {
        *("host_memory_total_bytes", "host_memory_used_bytes", "host_memory_available_bytes"),
        *("host_memory_utilization_percent", "host_swap_used_bytes"),
    }


@given(st.lists(st.integers(0, 2**48), min_size=5, max_size=10))
def test_busy_ticks_are_those_that_are_neither_idle_nor_waiting(ticks: list[int]) -> None:
    times = cpu_times(f"cpu  {' '.join(map(str, ticks))}\ncpu0 1 2 3 4 5\n")
    assert times is not None
    assert times.busy == sum(ticks[:3]) + sum(ticks[5:8])
    assert times.total - times.busy == ticks[3] + ticks[4]


@pytest.mark.parametrize("text", ["", "intr 1 2 3 4 5", "cpu 1 2"])
def test_other_texts_are_not_cpu_times(text: str) -> None:
    assert cpu_times(text) is None
    assert load_average(text[:3]) is None
    assert pressure("") is None


def test_this_machine_tells_cpu_and_memory() -> None:
    reader = HostReader()
    first, second = reader.read(), reader.read()
    assert isinstance(first.cpu_times, CpuTimes)
    assert second.cpu_percent is None or 0 <= second.cpu_percent <= 100
    assert 1 <= second.cpus <= (os.cpu_count() or 1)


def test_a_disk_that_does_not_answer_hides_nothing_else(
    host: Callable[..., HostReader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named pipe is opened by nobody: like a server that is gone."""
    os.mkfifo(tmp_path / "dead")

    def _disk_of(folder: Path) -> Disk:
        if folder.name == "dead":
            folder.read_bytes()
        return disk_of(folder)

    monkeypatch.setattr(host_stats, "disk_of", _disk_of)
    reader = HostReader(state_dir=tmp_path, cache_dir=tmp_path / "dead", disk_limit_s=0.2)
    for _ in range(2):
        assert reader.read().cache_disk is None
    monkeypatch.setattr(host_stats, "disk_of", disk_of)
    patient = HostReader(state_dir=tmp_path, cache_dir=tmp_path / "none")
    assert patient.read().state_disk is not None
    handle = os.open(tmp_path / "dead", os.O_RDWR)  # lets the thread go
    os.write(handle, b".")
    os.close(handle)
