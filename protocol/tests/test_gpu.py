"""Readings of GPUs and hosts: bits in words, and numbers by name."""

import re
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.gauges import GPU_GAUGES, HOST_GAUGES, gpu_gauges, host_gauges
from vllm_mcp_protocol.gpu import (
    CpuTimes,
    GpuEcc,
    GpuMemory,
    GpuPower,
    GpuReading,
    HostMemory,
    HostReading,
    cpu_percent,
    event_words,
    throttle_words,
    throttled_by,
)

ROOT = Path(__file__).parents[2]
BITS = {
    value
    for name, value in vars(pynvml).items()
    if re.fullmatch(r"nvmlClocks(Event|Throttle)Reason(?!All|None)\w+", name)
}
"""Every reason that NVIDIA's own binding knows."""

NO_THROTTLING = {
    pynvml.nvmlClocksEventReasonGpuIdle,
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
    pynvml.nvmlClocksEventReasonSyncBoost,
    pynvml.nvmlClocksEventReasonDisplayClockSetting,
}
ANY_BITS = st.integers(0, 2**64 - 1)


def test_every_reason_of_nvml_has_words_of_its_own() -> None:
    assert len(BITS) >= 11
    words = [event_words(bit) for bit in sorted(BITS)]
    assert all(len(one) == 1 and "unknown" not in one[0] for one in words)
    assert len(set(words)) == len(BITS)


@given(ANY_BITS)
def test_every_bit_is_said_and_nothing_else(bits: int) -> None:
    words = event_words(bits)
    assert len(words) == len(set(words)) == bits.bit_count()
    unknown = sum(int(word.rpartition(" ")[2], 16) for word in words if word.startswith("unknown"))
    assert unknown == bits & ~sum(BITS)


@given(ANY_BITS, ANY_BITS)
def test_reasons_together_are_the_reasons_of_each(one: int, other: int) -> None:
    assert {*event_words(one | other)} == {*event_words(one), *event_words(other)}


@given(ANY_BITS)
def test_idleness_and_settings_are_no_throttling(bits: int) -> None:
    wanted = bits & ~sum(NO_THROTTLING)
    assert throttle_words(bits) == event_words(wanted)
    gauges = gpu_gauges(GpuReading(id="0", event_bits=bits))
    assert gauges["gpu_throttled"] == (wanted != 0)
    assert gauges["gpu_throttled"] >= gauges["gpu_throttled_thermal"]
    assert gauges["gpu_throttled"] >= gauges["gpu_throttled_power"]


def test_heat_and_power_are_told_apart() -> None:
    hot = pynvml.nvmlClocksEventReasonHwThermalSlowdown
    power = pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown
    assert [throttled_by(hot, kind) for kind in ("thermal", "power")] == [True, False]
    assert [throttled_by(power, kind) for kind in ("thermal", "power")] == [False, True]


TIMES = st.tuples(st.integers(0, 2**50), st.integers(0, 2**50)).map(
    lambda pair: CpuTimes(busy=pair[0], total=pair[0] + pair[1])
)


@given(TIMES, TIMES)
def test_cpus_are_busy_between_none_and_all_of_the_time(before: CpuTimes, after: CpuTimes) -> None:
    percent = cpu_percent(before, after)
    assert percent is None or 0 <= percent <= 100
    later = CpuTimes(busy=before.busy + after.busy, total=before.total + after.total)
    assert (cpu_percent(before, later) is None) == (after.total == 0)


def test_what_is_not_told_has_no_number() -> None:
    assert gpu_gauges(GpuReading(id="0")) == {"gpu_lost": 0}
    assert gpu_gauges(GpuReading(id="0", lost="gone", fan_percent=3)) == {"gpu_lost": 1}
    assert all(value == value for value in gpu_gauges(GpuReading(id="0", power=GpuPower(limit_watts=0))).values())


def test_shares_are_of_the_whole() -> None:
    gauges = gpu_gauges(
        GpuReading(
            id="0",
            memory=GpuMemory(total_bytes=100, used_bytes=70, free_bytes=20, reserved_bytes=10),
            power=GpuPower(watts=350, limit_watts=700),
            ecc=GpuEcc(retirement_pending=False, remapping_pending=True),
        )
    )
    assert (gauges["gpu_memory_utilization_percent"], gauges["gpu_power_utilization_percent"]) == (80, 50)
    assert gauges["gpu_memory_repair_pending"] == 1
    host = HostReading(cpus=1, memory=HostMemory(total_bytes=200, available_bytes=50))
    assert host_gauges(host)["host_memory_utilization_percent"] == 75


@pytest.mark.parametrize("name", [*GPU_GAUGES, *HOST_GAUGES])
def test_names_end_in_their_unit_or_count_something(name: str) -> None:
    units = r"(bytes|percent|celsius|watts|joules|mhz|mb_per_second)"
    plain = r"gpu_(lost|throttled\w*|performance_state|pcie_\w+|nvlink_\w+|ecc_\w+|memory_repair_\w+|processes)"
    assert re.fullmatch(rf"\w+_{units}|{plain}|host_load_1m", name)


def test_the_table_in_the_documentation_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "docs/gauges.md").read_text(), flags=re.MULTILINE)
    assert dict(rows) == {**GPU_GAUGES, **HOST_GAUGES}
