"""What a host offers: GPUs through a fake NVML library, memory through folders shaped like /proc and /sys."""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_mcp_hub.host.devices import foreign_holders, memory_by_pid, read_devices
from vllm_mcp_protocol.model import Device, Holder
from vllm_mcp_protocol.units import GIB

FAKE_NVML = Path(__file__).parents[3] / "tests" / "fakes" / "nvml"
Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Replace this host's GPUs by the given ones."""
    monkeypatch.syspath_prepend(FAKE_NVML)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "nvml.json"))

    def _machine(*gpus: dict[str, Any], driver: bool = True) -> None:
        (tmp_path / "nvml.json").write_text(json.dumps({"gpus": gpus, "driver": driver}))

    return _machine


H100 = {"name": "NVIDIA H100", "uuid": "GPU-1", "total": 80 * GIB, "used": 3 * GIB}


def test_gpus_are_read(machine: Machine) -> None:
    machine(H100, H100 | {"uuid": "GPU-2", "used": 0})
    assert read_devices() == [
        Device(id="0", kind="cuda", name="NVIDIA H100", uuid="GPU-1", total_bytes=80 * GIB, free_bytes=77 * GIB),
        Device(id="1", kind="cuda", name="NVIDIA H100", uuid="GPU-2", total_bytes=80 * GIB, free_bytes=80 * GIB),
    ]


def test_a_gpu_that_fell_off_is_left_out_with_a_warning(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine(H100, H100 | {"lost": True}, H100)
    with caplog.at_level(logging.WARNING):
        assert [device.id for device in read_devices()] == ["0", "2"]
    assert "GPU 1 is left out" in caplog.text
    machine(H100 | {"lost": True})
    assert read_devices() == []


def test_a_gpu_without_memory_of_its_own_has_the_hosts(machine: Machine) -> None:
    machine(H100 | {"no_memory_info": True})
    (device,) = read_devices()
    assert device.total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("gpus", [(), (H100,)])
def test_no_driver_or_no_gpu_is_the_cpu_device(machine: Machine, gpus: tuple[dict[str, Any], ...]) -> None:
    machine(*gpus, driver=not gpus)
    (device,) = read_devices()
    assert (device.id, device.kind) == ("cpu", "cpu")


def test_no_library_is_the_cpu_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (device,) = read_devices(reserve_bytes=0)
    assert device.id == "cpu"
    assert 0 < device.free_bytes <= device.total_bytes
    assert device.name
    assert memory_by_pid("0") == {}
    assert foreign_holders("0", set()) == ()


def test_holders_are_those_that_are_not_ours(machine: Machine) -> None:
    processes = [{"pid": os.getpid(), "used": GIB}, {"pid": 1, "used": 2 * GIB}, {"pid": 999999999, "used": None}]
    machine(H100 | {"processes": processes})
    assert memory_by_pid("0") == {os.getpid(): GIB, 1: 2 * GIB}
    holders = foreign_holders("0", {os.getpid()})
    assert [(holder.pid, holder.bytes) for holder in holders] == [(1, 2 * GIB), (999999999, None)]
    assert holders[1] == Holder(pid=999999999, name="unknown", bytes=None)
    assert holders[0].name == Path("/proc/1/comm").read_text().strip()


def test_a_gpu_that_does_not_tell_has_no_holders(machine: Machine) -> None:
    machine(H100 | {"lost": True})
    assert foreign_holders("0", set()) == ()
    assert foreign_holders("7", set()) == ()


def test_the_cpu_device_names_large_processes() -> None:
    ballast = b"x" * (300 * 1024**2)
    assert os.getpid() in {holder.pid for holder in foreign_holders("cpu", set())} or len(ballast) < 0
    assert os.getpid() not in {holder.pid for holder in foreign_holders("cpu", {os.getpid()})}
    assert memory_by_pid("cpu") == {}


# -- memory of the host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Device]:
    """The cpu device of a machine of 16 GiB, 12 of them free, in a cgroup whose files are given."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {16 * 1024**2} kB\nMemAvailable: {12 * 1024**2} kB\nHugePages_Total: 0\n")
    (proc / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Example  CPU @ 3 GHz\n")

    def _host(path: str = "0::/", files: dict[str, str] | None = None, reserve_bytes: int = GIB) -> Device:
        (proc / "self" / "cgroup").write_text(f"{path}\n")
        for name, text in (files or {}).items():
            (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroup / name).write_text(f"{text}\n")
        (device,) = read_devices(reserve_bytes, proc=proc, cgroup=cgroup)
        return device

    return _host


def test_the_reserve_is_not_for_engines(host: Callable[..., Device]) -> None:
    device = host()
    assert (device.total_bytes, device.free_bytes, device.name) == (15 * GIB, 12 * GIB, "Example CPU @ 3 GHz")
    assert host(reserve_bytes=100 * GIB).total_bytes == 0


@pytest.mark.parametrize(
    ("path", "files", "total_gib", "free_gib"),
    [
        ("0::/", {"memory.max": "max"}, 15, 12),
        ("0::/", {"memory.max": str(4 * GIB), "memory.current": str(GIB)}, 3, 3),
        ("0::/a/b", {"a/memory.max": str(8 * GIB), "a/memory.current": str(6 * GIB), "a/b/memory.max": "max"}, 7, 2),
        ("0::/a", {"a/memory.max": str(8 * GIB), "a/memory.current": str(6 * GIB),
                   "a/memory.stat": f"anon 1\ninactive_file {3 * GIB}"}, 7, 5),
        ("0::/elsewhere/on/the/host", {"memory.max": str(2 * GIB)}, 1, 1),
        ("5:cpu,memory:/x", {"memory/x/memory.limit_in_bytes": str(4 * GIB),
                             "memory/x/memory.usage_in_bytes": str(2 * GIB)}, 3, 2),
        ("5:memory:/", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, 15, 12),
        ("0::/", {"memory.max": str(64 * GIB)}, 15, 12),
    ],
)  # fmt: skip
def test_a_cgroups_limit_bounds_the_device(
    host: Callable[..., Device], path: str, files: dict[str, str], total_gib: int, free_gib: int
) -> None:
    device = host(path, files)
    assert (device.total_bytes, device.free_bytes) == (total_gib * GIB, free_gib * GIB)
