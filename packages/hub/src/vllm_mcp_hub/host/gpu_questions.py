"""What one GPU is asked, through nvidia-ml-py, and what its answers mean.

Every function of NVML may be missing in a driver, unsupported by a GPU, or refused to this user: then the field is
None. Only an answer that says that the GPU itself is gone ends the questions.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_mcp_hub.host.devices import process_name
from vllm_mcp_hub.host.host_memory import meminfo
from vllm_mcp_protocol.gpu import (
    EccCounts,
    GpuClocks,
    GpuEcc,
    GpuMemory,
    GpuMig,
    GpuNvlink,
    GpuPcie,
    GpuPower,
    GpuProcess,
    GpuReading,
    GpuTemperature,
    GpuUtilization,
    MigInstance,
)

NOT_SUPPORTED, FUNCTION_NOT_FOUND, DEPRECATED = 3, 13, 26
UNINITIALIZED, DRIVER_NOT_LOADED, VERSION_MISMATCH = 1, 9, 18
GPU_IS_LOST, RESET_REQUIRED, UNKNOWN = 15, 16, 999

SESSION_IS_OVER = (UNINITIALIZED, DRIVER_NOT_LOADED, VERSION_MISMATCH)
LOST = {
    GPU_IS_LOST: "it fell off the bus; the host must be restarted, or the GPU reset",
    RESET_REQUIRED: "it must be reset (nvidia-smi --gpu-reset, or restart the host)",
    UNKNOWN: "the driver reports an unknown error for it",
}
_NEVER = (NOT_SUPPORTED, FUNCTION_NOT_FOUND, DEPRECATED)
_MEMORY_V2 = 0x02000028
_NO_VALUE = (2**32 - 1, 2**64 - 1)
"""What NVML puts into unsigned numbers that it does not know."""

_MEMORY_TEMPERATURE, _ENERGY_MJ, _NVLINK_SPEED_COMMON, _NVLINK_COUNT, _NVLINK_SPEED = 82, 83, 90, 91, 164
_TLIMIT_SHUTDOWN, _TLIMIT_SLOWDOWN, _TLIMIT_MEMORY, _TLIMIT_GPU = 193, 194, 195, 196
_PCIE_SENT, _PCIE_RECEIVED = 197, 198
_TLIMITS = (_TLIMIT_SHUTDOWN, _TLIMIT_SLOWDOWN, _TLIMIT_MEMORY, _TLIMIT_GPU)
_SIGNED = frozenset(_TLIMITS)
_VALUE_FIELDS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Of NVML's union, by its value type."""

_WIDE = ("ulVal", "ullVal", "sllVal")
_COMPUTE_MODES: dict[int, Literal["default", "exclusive thread", "prohibited", "exclusive process"]] = {
    0: "default",
    1: "exclusive thread",
    2: "prohibited",
    3: "exclusive process",
}


class GpuLost(Exception):
    """The GPU does not answer as one; says why."""


@dataclass(frozen=True)
class Lasting:
    """What changes only when somebody changes it, or over days."""

    thresholds: GpuTemperature
    tlimits: dict[int, int]
    power: GpuPower
    clocks: GpuClocks
    pcie: GpuPcie
    nvlink: GpuNvlink | None
    ecc: GpuEcc
    compute_mode: Literal["default", "exclusive thread", "prohibited", "exclusive process"] | None
    mig: tuple[bool, bool] | None


@dataclass
class Gpu:
    """One GPU in one session with the driver."""

    nvml: Any
    handle: Any
    id: str
    uuid: str
    name: str
    refused: set[tuple[Any, ...]] = field(default_factory=set)
    """Questions that it will never answer; forgotten when the lasting things are asked again."""
    lasting: Lasting | None = None
    lasting_at: float = 0.0
    bytes_moved: tuple[float, int, int] | None = None
    """When the PCIe counters were read last, and what they said: sent, received."""

    def read(self, *, lasting_every_s: float, processes: bool, thorough: bool) -> GpuReading:
        """Ask everything that moves, and from time to time (always when `thorough`) what lasts. Raises GpuLost."""
        memory = self._memory(self.handle, essential=True)
        now = time.monotonic()
        if self.lasting is None or thorough or now - self.lasting_at >= lasting_every_s:
            self.refused.clear()
            self.lasting, self.lasting_at = self._lasting(), now
        last = self.lasting
        fields = self._fields((_MEMORY_TEMPERATURE, _ENERGY_MJ, _PCIE_SENT, _PCIE_RECEIVED))
        utilization = self._ask("nvmlDeviceGetUtilizationRates")
        state = self._number("nvmlDeviceGetPerformanceState")
        return GpuReading(
            id=self.id,
            uuid=self.uuid,
            name=self.name,
            memory=memory,
            utilization=GpuUtilization(gpu_percent=utilization.gpu, memory_percent=utilization.memory)
            if utilization
            else GpuUtilization(),
            temperature=self._temperature(last, fields.get(_MEMORY_TEMPERATURE)),
            power=last.power.model_copy(
                update={
                    "watts": _thousandth(self._number("nvmlDeviceGetPowerUsage")),
                    "limit_watts": _thousandth(self._number("nvmlDeviceGetEnforcedPowerLimit")),
                    "energy_joules": _thousandth(fields.get(_ENERGY_MJ)),
                }
            ),
            clocks=last.clocks.model_copy(
                update={
                    "graphics_mhz": self._number("nvmlDeviceGetClockInfo", 0),
                    "sm_mhz": self._number("nvmlDeviceGetClockInfo", 1),
                    "memory_mhz": self._number("nvmlDeviceGetClockInfo", 2),
                }
            ),
            event_bits=self._event_bits(),
            pcie=self._pcie(last, fields, now, thorough),
            nvlink=last.nvlink,
            ecc=last.ecc,
            fan_percent=self._number("nvmlDeviceGetFanSpeed"),
            performance_state=state if state is not None and 0 <= state <= 15 else None,
            compute_mode=last.compute_mode,
            mig=self._mig(*last.mig) if last.mig else None,
            processes=self._processes() if processes else None,
        )

    # -- asking

    def _ask(self, function: str, *args: Any, of: Any = None) -> Any:
        """The answer, or None where there is none. Raises GpuLost, and NVMLError when the session is over."""
        question = (function, *args)
        if of is None and question in self.refused:
            return None
        try:
            return getattr(self.nvml, function)(self.handle if of is None else of, *args)
        except self.nvml.NVMLError as error:
            if error.value in (GPU_IS_LOST, RESET_REQUIRED):
                raise GpuLost(LOST[error.value]) from error
            if error.value in SESSION_IS_OVER:
                raise
            if error.value in _NEVER and of is None:
                self.refused.add(question)
        except (AttributeError, getattr(self.nvml, "NVMLLibraryMismatchError", AttributeError)):
            self.refused.add(question)  # the binding, or the driver's library, is older than the function
        return None

    def _number(self, function: str, *args: Any, of: Any = None) -> int | None:
        value = self._ask(function, *args, of=of)
        return None if value is None or value in _NO_VALUE else int(value)

    def _flags(self, function: str) -> tuple[bool, bool] | None:
        answer = self._ask(function)
        return None if answer is None else (bool(answer[0]), bool(answer[1]))

    def _fields(self, ids: Sequence[Any]) -> dict[Any, int]:
        """Several of NVML's numbered fields in one question; only those that are told."""
        asked = tuple(one for one in ids if ("field", one) not in self.refused)
        answers = self._ask("nvmlDeviceGetFieldValues", asked) if asked else None
        told: dict[Any, int] = {}
        for one, answer in zip(asked, answers or (), strict=False):
            if answer.nvmlReturn in (GPU_IS_LOST, RESET_REQUIRED):
                raise GpuLost(LOST[answer.nvmlReturn])
            if answer.nvmlReturn in _NEVER:
                self.refused.add(("field", one))
            if answer.nvmlReturn == 0 and (value := _field_value(one, answer)) is not None:
                told[one] = value
        return told

    # -- what moves

    def _memory(self, handle: Any, *, essential: bool = False) -> GpuMemory | None:
        try:
            try:
                memory = self.nvml.nvmlDeviceGetMemoryInfo(handle, version=_MEMORY_V2)
            except self.nvml.NVMLError as error:
                if error.value not in (*_NEVER, 2, 25):  # an older library knows neither the function nor the version
                    raise
                memory = self.nvml.nvmlDeviceGetMemoryInfo(handle)
        except self.nvml.NVMLError as error:
            if error.value in LOST and (essential or error.value != UNKNOWN):
                raise GpuLost(LOST[error.value]) from error
            if error.value in SESSION_IS_OVER:
                raise
            return _hosts_memory() if essential and error.value == NOT_SUPPORTED else None
        return GpuMemory(
            total_bytes=memory.total,
            used_bytes=memory.used,
            free_bytes=memory.free,
            reserved_bytes=getattr(memory, "reserved", None),
        )

    def _temperature(self, last: Lasting, memory_celsius: int | None) -> GpuTemperature:
        """Newer GPUs give limits as distances from a temperature that they keep for themselves ("T.Limit")."""
        celsius = self._number("nvmlDeviceGetTemperature", 0)
        distance = self._ask("nvmlDeviceGetMarginTemperature")
        known = last.thresholds

        def limit(told: int | None, field_id: int) -> int | None:
            if told is not None or celsius is None or distance is None or field_id not in last.tlimits:
                return told
            return celsius + int(distance) - last.tlimits[field_id]

        slowdown = limit(known.slowdown_celsius, _TLIMIT_SLOWDOWN)
        margin = None
        if distance is not None:
            margin = int(distance) - last.tlimits.get(_TLIMIT_SLOWDOWN, 0)
        elif celsius is not None and slowdown is not None:
            margin = slowdown - celsius
        return GpuTemperature(
            celsius=celsius,
            memory_celsius=memory_celsius,
            slowdown_celsius=slowdown,
            shutdown_celsius=limit(known.shutdown_celsius, _TLIMIT_SHUTDOWN),
            gpu_max_celsius=limit(known.gpu_max_celsius, _TLIMIT_GPU),
            memory_max_celsius=known.memory_max_celsius,  # its distance is to the memory's temperature: not derived
            margin_celsius=margin,
        )

    def _event_bits(self) -> int | None:
        bits = self._number("nvmlDeviceGetCurrentClocksEventReasons")
        return bits if bits is not None else self._number("nvmlDeviceGetCurrentClocksThrottleReasons")

    def _pcie(self, last: Lasting, fields: dict[Any, int], now: float, thorough: bool) -> GpuPcie:
        """Throughput is the difference of two counters; where there are none yet, the driver measures for 20 ms a way.

        That is too long for every second, so it is asked to only when `thorough`.
        """
        before, self.bytes_moved = self.bytes_moved, None
        sent = received = None
        if _PCIE_SENT in fields and _PCIE_RECEIVED in fields:
            self.bytes_moved = (now, fields[_PCIE_SENT], fields[_PCIE_RECEIVED])
            if before and now > before[0]:
                sent = _rate(fields[_PCIE_SENT] - before[1], now - before[0])
                received = _rate(fields[_PCIE_RECEIVED] - before[2], now - before[0])
        if thorough and sent is None and received is None:
            sent = _thousandth(self._number("nvmlDeviceGetPcieThroughput", 0))
            received = _thousandth(self._number("nvmlDeviceGetPcieThroughput", 1))
        return last.pcie.model_copy(
            update={
                "generation": self._number("nvmlDeviceGetCurrPcieLinkGeneration"),
                "width": self._number("nvmlDeviceGetCurrPcieLinkWidth"),
                "sent_mb_per_second": sent,
                "received_mb_per_second": received,
            }
        )

    def _mig(self, enabled: bool, pending: bool) -> GpuMig:
        count = self._number("nvmlDeviceGetMaxMigDeviceCount") if enabled else 0
        found = (self._ask_instance(index) for index in range(count or 0))
        instances = tuple(instance for instance in found if instance is not None)
        return GpuMig(enabled=enabled, enabled_after_reset=pending, instances=instances)

    def _ask_instance(self, index: int) -> MigInstance | None:
        try:
            handle = self.nvml.nvmlDeviceGetMigDeviceHandleByIndex(self.handle, index)
        except self.nvml.NVMLError as error:
            if error.value in (GPU_IS_LOST, RESET_REQUIRED):
                raise GpuLost(LOST[error.value]) from error
            if error.value in SESSION_IS_OVER:
                raise
            return None  # places that hold no instance are not found
        uuid = self._ask("nvmlDeviceGetUUID", of=handle)
        if uuid is None:
            return None
        return MigInstance(
            uuid=str(uuid),
            profile=_profile(
                str(self._ask("nvmlDeviceGetName", of=handle) or ""),
                self._ask("nvmlDeviceGetAttributes_v2", of=handle),
            ),
            memory=self._memory(handle),
            gpu_instance=self._number("nvmlDeviceGetGpuInstanceId", of=handle),
            compute_instance=self._number("nvmlDeviceGetComputeInstanceId", of=handle),
        )

    def _processes(self) -> tuple[GpuProcess, ...] | None:
        compute = self._ask("nvmlDeviceGetComputeRunningProcesses")
        graphics = self._ask("nvmlDeviceGetGraphicsRunningProcesses")
        if compute is None and graphics is None:
            return None
        return tuple(
            GpuProcess(
                pid=process.pid,
                name=process_name(process.pid),
                bytes=process.usedGpuMemory,
                kind=kind,
                gpu_instance=_known(getattr(process, "gpuInstanceId", None)),
            )
            for kind, found in _by_kind(compute, graphics)
            for process in found
        )

    # -- what lasts

    def _lasting(self) -> Lasting:
        default_mw = self._number("nvmlDeviceGetPowerManagementDefaultLimit")
        limits = self._ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        mode = self._number("nvmlDeviceGetComputeMode")
        return Lasting(
            thresholds=GpuTemperature(
                shutdown_celsius=self._number("nvmlDeviceGetTemperatureThreshold", 0),
                slowdown_celsius=self._number("nvmlDeviceGetTemperatureThreshold", 1),
                memory_max_celsius=self._number("nvmlDeviceGetTemperatureThreshold", 2),
                gpu_max_celsius=self._number("nvmlDeviceGetTemperatureThreshold", 3),
            ),
            tlimits=self._fields(_TLIMITS),
            power=GpuPower(
                default_limit_watts=_thousandth(default_mw),
                min_limit_watts=_thousandth(_known(limits[0])),
                max_limit_watts=_thousandth(_known(limits[1])),
            ),
            clocks=GpuClocks(
                max_graphics_mhz=self._number("nvmlDeviceGetMaxClockInfo", 0),
                max_sm_mhz=self._number("nvmlDeviceGetMaxClockInfo", 1),
                max_memory_mhz=self._number("nvmlDeviceGetMaxClockInfo", 2),
            ),
            pcie=GpuPcie(
                max_generation=self._number("nvmlDeviceGetMaxPcieLinkGeneration"),
                max_width=self._number("nvmlDeviceGetMaxPcieLinkWidth"),
            ),
            nvlink=self._nvlink(),
            ecc=self._ecc(),
            compute_mode=None if mode is None else _COMPUTE_MODES.get(mode),
            mig=self._flags("nvmlDeviceGetMigMode"),
        )

    def _nvlink(self) -> GpuNvlink | None:
        links = self._fields((_NVLINK_COUNT,)).get(_NVLINK_COUNT)
        if not links:
            return None
        states = [self._number("nvmlDeviceGetNvLinkState", link) for link in range(links)]
        active = [link for link, state in enumerate(states) if state]
        speeds = self._fields([(_NVLINK_SPEED, link) for link in active])
        known = [speed for speed in speeds.values() if speed]
        if not known:  # older than the numbered field of each link
            known = [speed for speed in self._fields((_NVLINK_SPEED_COMMON,)).values() if speed and active]
        return GpuNvlink(links=links, active=len(active), link_mb_per_second=min(known, default=None))

    def _ecc(self) -> GpuEcc:
        mode = self._flags("nvmlDeviceGetEccMode")
        retirement = self._number("nvmlDeviceGetRetiredPagesPendingStatus")
        remapped = self._ask("nvmlDeviceGetRemappedRows")
        counts = [
            EccCounts(
                corrected=self._number("nvmlDeviceGetTotalEccErrors", 0, since),
                uncorrected=self._number("nvmlDeviceGetTotalEccErrors", 1, since),
            )
            for since in (0, 1)
        ]
        return GpuEcc(
            enabled=mode[0] if mode else None,
            enabled_after_reset=mode[1] if mode else None,
            volatile=counts[0],
            aggregate=counts[1],
            retirement_pending=None if retirement is None else bool(retirement),
            remapped_rows=None if remapped is None else remapped[0] + remapped[1],
            remapping_pending=None if remapped is None else bool(remapped[2]),
            remapping_failed=None if remapped is None else bool(remapped[3]),
        )


def _by_kind(compute: Any, graphics: Any) -> tuple[tuple[Literal["compute", "graphics"], Any], ...]:
    return (("compute", compute or ()), ("graphics", graphics or ()))


def _field_value(one: Any, answer: Any) -> int | None:
    """A field's number. Counters of bytes are taken only from 64 bits: 32 of them wrap several times in a second."""
    kind = _VALUE_FIELDS[answer.valueType] if 0 <= answer.valueType < len(_VALUE_FIELDS) else None
    if kind is None or (one in (_PCIE_SENT, _PCIE_RECEIVED) and kind not in _WIDE):
        return None
    if one in _SIGNED:
        kind = "siVal"  # a distance below zero is declared unsigned by some drivers
    value = int(getattr(answer.value, kind))
    return None if value in _NO_VALUE else value


def _profile(name: str, attributes: Any) -> str | None:
    """`3g.40gb`: the end of the instance's name, or made of its slices and memory."""
    _, marker, profile = name.rpartition(" MIG ")
    if marker:
        return profile.strip()
    if attributes is None:
        return None
    return f"{attributes.gpuInstanceSliceCount}g.{round(attributes.memorySizeMB / 1024)}gb"


def _hosts_memory() -> GpuMemory:
    info = meminfo()
    total, free = info["MemTotal"], info["MemAvailable"]
    return GpuMemory(total_bytes=total, used_bytes=total - free, free_bytes=free, shared_with_host=True)


def _known(value: int | None) -> int | None:
    return None if value is None or value in _NO_VALUE else value


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000


def _rate(moved_bytes: int, seconds: float) -> float | None:
    return moved_bytes / seconds / 1e6 if moved_bytes >= 0 else None
