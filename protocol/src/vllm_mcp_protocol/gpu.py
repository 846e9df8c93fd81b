"""What a GPU and its host say about themselves at one moment. Values only, and the wire format; pure.

None means: this GPU, driver or kernel does not tell. It is a value, never an error, and never a zero.
Percentages are 0..100; MB is 10^6 bytes, as the makers of links count; memory and disks are in bytes.
"""

from typing import Literal

from pydantic import Field

from vllm_mcp_protocol.model import DeviceId, Value

_EVENT_REASONS: tuple[tuple[int, str, str], ...] = (
    (0x001, "idle", "idle"),
    (0x002, "setting", "clocks were set by an administrator"),
    (0x004, "power", "power limit reached"),
    (0x008, "hardware", "hardware slowdown (heat or power)"),
    (0x010, "setting", "held to the clocks of its sync boost group"),
    (0x020, "thermal", "too hot: slowed down by the driver"),
    (0x040, "thermal", "too hot: slowed down by the hardware"),
    (0x080, "power", "power brake from outside (supply or server)"),
    (0x100, "setting", "clocks were set for a display"),
    (0x200, "power", "board limit reached"),
    (0x400, "hardware", "reliability limit (voltage)"),
)
"""NVML's clocks event reasons (called throttle reasons before): bit, kind, words."""

_NO_THROTTLING = ("idle", "setting")
"""An idle GPU clocks down to save power, and a setting was wanted: an alert on either would never end."""


class GpuMemory(Value):
    total_bytes: int
    used_bytes: int
    """In use by processes, where `reserved_bytes` is told; else with what the driver keeps for itself."""
    free_bytes: int
    reserved_bytes: int | None = None
    """Kept by the driver and firmware; part of the total, neither used nor free."""
    shared_with_host: bool = False
    """The GPU has no memory of its own to report: the figures are the host's."""


class GpuUtilization(Value):
    """Of the driver's last sample period (a sixth of a second to a second, by model)."""

    gpu_percent: int | None = None
    """Share of the time in which some kernel ran; says nothing of how much of the GPU it used."""
    memory_percent: int | None = None
    """Share of the time in which the memory was read or written."""


class GpuTemperature(Value):
    celsius: int | None = None
    memory_celsius: int | None = None
    slowdown_celsius: int | None = None
    shutdown_celsius: int | None = None
    gpu_max_celsius: int | None = None
    memory_max_celsius: int | None = None
    margin_celsius: int | None = None
    """Degrees until the hardware slows the GPU down."""


class GpuPower(Value):
    watts: float | None = None
    limit_watts: float | None = None
    """The limit that is enforced now, whoever asked for it."""
    default_limit_watts: float | None = None
    min_limit_watts: float | None = None
    max_limit_watts: float | None = None
    energy_joules: float | None = None
    """Since the driver was loaded."""


class GpuClocks(Value):
    graphics_mhz: int | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    max_graphics_mhz: int | None = None
    max_sm_mhz: int | None = None
    max_memory_mhz: int | None = None


class GpuPcie(Value):
    generation: int | None = None
    """Now: idle GPUs save power on the link, too."""
    width: int | None = None
    max_generation: int | None = None
    max_width: int | None = None
    sent_mb_per_second: float | None = None
    """By the GPU."""
    received_mb_per_second: float | None = None


class GpuNvlink(Value):
    links: int
    active: int
    link_mb_per_second: int | None = None
    """Speed of one active link (the slowest, if they differ), as the driver gives it."""


class EccCounts(Value):
    corrected: int | None = None
    uncorrected: int | None = None


class GpuEcc(Value):
    enabled: bool | None = None
    enabled_after_reset: bool | None = None
    volatile: EccCounts = EccCounts()
    """Since the driver was loaded."""
    aggregate: EccCounts = EccCounts()
    """In the GPU's life."""
    retirement_pending: bool | None = None
    """Bad memory pages wait for a reset to be taken out of use."""
    remapped_rows: int | None = None
    remapping_pending: bool | None = None
    """Bad memory rows wait for a reset to be replaced by spare ones."""
    remapping_failed: bool | None = None
    """No spare row was left: the GPU should be replaced."""


class MigInstance(Value):
    """A part of a GPU that is used like one."""

    uuid: str
    profile: str | None = None
    """For example 3g.40gb."""
    memory: GpuMemory | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None


class GpuMig(Value):
    enabled: bool
    enabled_after_reset: bool
    instances: tuple[MigInstance, ...] = ()


class GpuProcess(Value):
    pid: int
    """The host's number: inside a container without the host's process namespace it matches no process."""
    name: str
    bytes: int | None = None
    kind: Literal["compute", "graphics"]
    gpu_instance: int | None = None
    """With MIG: the instance it runs on."""


class GpuReading(Value):
    """One GPU at one moment."""

    id: DeviceId
    """NVML's index. It may change when a GPU is lost and the driver is asked anew; `uuid` does not."""
    uuid: str | None = None
    name: str | None = None
    lost: str | None = None
    """Why it cannot be used, in words; everything below is then as if not told."""
    memory: GpuMemory | None = None
    utilization: GpuUtilization = GpuUtilization()
    temperature: GpuTemperature = GpuTemperature()
    power: GpuPower = GpuPower()
    clocks: GpuClocks = GpuClocks()
    event_bits: int | None = None
    """Clocks event reasons as NVML gives them; `events` has the words."""
    pcie: GpuPcie = GpuPcie()
    nvlink: GpuNvlink | None = None
    ecc: GpuEcc = GpuEcc()
    fan_percent: int | None = None
    performance_state: int | None = Field(default=None, ge=0, le=15)
    """0 is the fastest."""
    compute_mode: Literal["default", "exclusive thread", "prohibited", "exclusive process"] | None = None
    mig: GpuMig | None = None
    processes: tuple[GpuProcess, ...] | None = None
    """None: not asked for, or not told."""

    @property
    def events(self) -> tuple[str, ...]:
        """Why its clocks are where they are, in words."""
        return event_words(self.event_bits or 0)

    @property
    def throttle_reasons(self) -> tuple[str, ...]:
        """Those of `events` that mean less speed than could be had."""
        return throttle_words(self.event_bits or 0)


def event_words(bits: int) -> tuple[str, ...]:
    """Every reason in NVML's `bits`, in words; a bit that is not known here is named by its number."""
    return tuple(words for _, _, words in _reasons(bits))


def throttle_words(bits: int) -> tuple[str, ...]:
    """The reasons that mean throttling: neither idleness nor a setting that somebody chose."""
    return tuple(words for _, kind, words in _reasons(bits) if kind not in _NO_THROTTLING)


def throttled_by(bits: int, kind: Literal["thermal", "power"]) -> bool:
    """Is heat, or power, among the reasons?"""
    return any(found == kind for _, found, _ in _reasons(bits))


def _reasons(bits: int) -> list[tuple[int, str, str]]:
    found = [reason for reason in _EVENT_REASONS if bits & reason[0]]
    rest = bits & ~sum(bit for bit, _, _ in _EVENT_REASONS)
    unknown = [1 << place for place in range(rest.bit_length()) if rest >> place & 1]
    return found + [(bit, "unknown", f"unknown reason {bit:#x}") for bit in unknown]


class CpuTimes(Value):
    """Ticks that all CPUs together have spent since the start of the host."""

    busy: int
    total: int


def cpu_percent(before: CpuTimes, after: CpuTimes) -> float | None:
    """How busy all CPUs were between two readings; None when no time passed, or the counters went back."""
    total, busy = after.total - before.total, after.busy - before.busy
    if total <= 0 or busy < 0:
        return None
    return min(100.0, 100 * busy / total)


class HostMemory(Value):
    total_bytes: int
    """Within the limit of this process's cgroup."""
    available_bytes: int
    swap_total_bytes: int = 0
    swap_used_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        return self.total_bytes - self.available_bytes


class Disk(Value):
    """The file system that a folder is on."""

    path: str
    """The folder itself may not exist yet."""
    total_bytes: int
    free_bytes: int
    """What an ordinary user may still write."""


class Pressure(Value):
    """Share of the time in which tasks waited for a resource (the kernel's PSI), averaged over 10 s and 60 s."""

    some_avg10_percent: float
    some_avg60_percent: float
    full_avg10_percent: float | None = None
    """All tasks at once waited."""
    full_avg60_percent: float | None = None


class HostReading(Value):
    """The host at one moment; what there is to see where there is no GPU."""

    cpus: int
    """That this process may use."""
    cpu_times: CpuTimes | None = None
    cpu_percent: float | None = None
    """Of all of the host's CPUs since the reading before; None for the first."""
    load: tuple[float, float, float] | None = None
    """Runnable tasks, averaged over 1, 5 and 15 minutes."""
    memory: HostMemory
    state_disk: Disk | None = None
    cache_disk: Disk | None = None
    """Of the Hugging Face cache. None: not asked for, or it does not answer."""
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None
