"""A machine's GPUs as a JSON file: put this folder on PYTHONPATH and name the file in FAKE_NVML.

    {"gpus": [{"name": "NVIDIA H100", "uuid": "GPU-1", "total": 85899345920, "used": 1048576,
               "processes": [{"pid": 42, "used": 1048576}], "lost": false, "no_memory_info": false}],
     "driver": true}

`machines.py` has the whole description. The file is read at every call, so a test changes the machine by replacing
the file. Without FAKE_NVML, or with `"driver": false`, there is no driver. The names and the shapes are those of
nvidia-ml-py; `packages/hub/tests/test_gpus.py` holds this module and the real binding to the same readings.
"""

import json
import os
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    value = 999

    def __init__(self, value: int | str | None = None) -> None:
        if isinstance(value, int):
            self.value = value
        super().__init__(type(self).__name__)


class NVMLError_InvalidArgument(NVMLError):
    value = 2


class NVMLError_NotSupported(NVMLError):
    value = 3


class NVMLError_NotFound(NVMLError):
    value = 6


class NVMLError_LibraryNotFound(NVMLError):
    value = 12


class NVMLError_GpuIsLost(NVMLError):
    value = 15


_CLASSES = {error.value: error for error in NVMLError.__subclasses__()}
_MIG_INSTANCE = 1000
"""A MIG instance's handle is its GPU's plus this times one plus its index."""

_FIELDS: dict[int, tuple[int, tuple[str, ...]]] = {
    82: (1, ("memory_temperature",)),
    83: (3, ("energy_mj",)),
    90: (1, ("nvlink", "common_mb_s")),
    91: (1, ("nvlink", "count")),
    193: (1, ("tlimits", "shutdown")),
    194: (1, ("tlimits", "slowdown")),
    195: (1, ("tlimits", "mem_max")),
    196: (1, ("tlimits", "gpu_max")),
    197: (3, ("pcie", "sent")),
    198: (3, ("pcie", "received")),
}
"""NVML's numbered fields: the type of their value, and where it is."""

_NVLINK_SPEED = 164


def _machine() -> dict[str, Any]:
    path = os.environ.get("FAKE_NVML")
    machine: dict[str, Any] = {"driver": False}
    if path:
        with open(path, encoding="utf-8") as file:
            machine = json.load(file)
    if not machine.get("driver", True):
        raise NVMLError_LibraryNotFound
    return machine


def _gpu(handle: int, function: str = "") -> dict[str, Any]:
    """What a handle stands for, unless it is lost, hangs, or has an error for this function."""
    gpu: dict[str, Any] = _machine()["gpus"][handle % _MIG_INSTANCE]
    while gpu.get("hang", {}).get(function):
        time.sleep(0.01)
        gpu = _machine()["gpus"][handle % _MIG_INSTANCE]
    if lost := gpu.get("lost"):
        _raise(15 if lost is True else lost)
    if function in gpu.get("errors", {}):
        _raise(gpu["errors"][function])
    if handle >= _MIG_INSTANCE:
        gpu = gpu["mig"]["devices"][handle // _MIG_INSTANCE - 1]
    return gpu


def _raise(code: int) -> None:
    raise _CLASSES.get(code, NVMLError)(code)


def _told(handle: int, function: str, *path: str | int) -> Any:
    value: Any = _gpu(handle, function)
    for name in path:
        try:
            value = value[name]
        except (KeyError, IndexError):
            raise NVMLError_NotSupported from None
    return value


def nvmlInit() -> None:
    _machine()


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return len(_machine()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    if not 0 <= index < nvmlDeviceGetCount():
        raise NVMLError_InvalidArgument
    _gpu(index, "nvmlDeviceGetHandleByIndex")
    return index


def nvmlDeviceGetName(handle: int) -> str:
    gpu = _gpu(handle, "nvmlDeviceGetName")
    if handle >= _MIG_INSTANCE and "name" not in gpu:
        raise NVMLError_NotSupported
    return str(gpu.get("name", "Fake GPU"))


def nvmlDeviceGetUUID(handle: int) -> str:
    return str(_gpu(handle, "nvmlDeviceGetUUID").get("uuid", f"GPU-fake-{handle}"))


def nvmlDeviceGetMemoryInfo(handle: int, version: int | None = None) -> SimpleNamespace:
    gpu = _gpu(handle, "nvmlDeviceGetMemoryInfo")
    if gpu.get("no_memory_info") or (version and "reserved" not in gpu):
        raise NVMLError_NotSupported
    total, used, reserved = int(gpu["total"]), int(gpu.get("used", 0)), int(gpu.get("reserved", 0))
    if version:
        return SimpleNamespace(total=total, reserved=reserved, free=total - used - reserved, used=used)
    return SimpleNamespace(total=total, free=total - used - reserved, used=used + reserved)


def _processes(handle: int, function: str, which: str) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(
            pid=entry["pid"], usedGpuMemory=entry.get("used"), gpuInstanceId=entry.get("gpu_instance", 2**32 - 1)
        )
        for entry in _gpu(handle, function).get(which, [])
    ]


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return _processes(handle, "nvmlDeviceGetComputeRunningProcesses", "processes")


def nvmlDeviceGetGraphicsRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return _processes(handle, "nvmlDeviceGetGraphicsRunningProcesses", "graphics_processes")


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    return SimpleNamespace(**_told(handle, "nvmlDeviceGetUtilizationRates", "utilization"))


def nvmlDeviceGetTemperature(handle: int, _sensor: int) -> int:
    return int(_told(handle, "nvmlDeviceGetTemperature", "temperature"))


def nvmlDeviceGetTemperatureThreshold(handle: int, which: int) -> int:
    name = ("shutdown", "slowdown", "mem_max", "gpu_max")[which]
    return int(_told(handle, "nvmlDeviceGetTemperatureThreshold", "thresholds", name))


def nvmlDeviceGetMarginTemperature(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetMarginTemperature", "margin"))


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetPowerUsage", "power", "usage_mw"))


def nvmlDeviceGetEnforcedPowerLimit(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetEnforcedPowerLimit", "power", "enforced_mw"))


def nvmlDeviceGetPowerManagementDefaultLimit(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetPowerManagementDefaultLimit", "power", "default_mw"))


def nvmlDeviceGetPowerManagementLimitConstraints(handle: int) -> list[int]:
    function = "nvmlDeviceGetPowerManagementLimitConstraints"
    return [_told(handle, function, "power", "min_mw"), _told(handle, function, "power", "max_mw")]


def nvmlDeviceGetClockInfo(handle: int, which: int) -> int:
    return int(_told(handle, "nvmlDeviceGetClockInfo", "clocks", ("graphics", "sm", "memory")[which]))


def nvmlDeviceGetMaxClockInfo(handle: int, which: int) -> int:
    return int(_told(handle, "nvmlDeviceGetMaxClockInfo", "max_clocks", ("graphics", "sm", "memory")[which]))


def nvmlDeviceGetCurrentClocksEventReasons(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetCurrentClocksEventReasons", "reasons"))


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetCurrentClocksThrottleReasons", "throttle_reasons"))


def nvmlDeviceGetCurrPcieLinkGeneration(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetCurrPcieLinkGeneration", "pcie", "generation"))


def nvmlDeviceGetCurrPcieLinkWidth(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetCurrPcieLinkWidth", "pcie", "width"))


def nvmlDeviceGetMaxPcieLinkGeneration(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetMaxPcieLinkGeneration", "pcie", "max_generation"))


def nvmlDeviceGetMaxPcieLinkWidth(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetMaxPcieLinkWidth", "pcie", "max_width"))


def nvmlDeviceGetPcieThroughput(handle: int, which: int) -> int:
    return int(_told(handle, "nvmlDeviceGetPcieThroughput", "pcie", ("sent_kb_s", "received_kb_s")[which]))


def nvmlDeviceGetNvLinkState(handle: int, link: int) -> int:
    return int(_told(handle, "nvmlDeviceGetNvLinkState", "nvlink", "links", link, "active"))


def nvmlDeviceGetEccMode(handle: int) -> list[int]:
    return [_told(handle, "nvmlDeviceGetEccMode", "ecc", name) for name in ("current", "pending")]


def nvmlDeviceGetTotalEccErrors(handle: int, kind: int, counter: int) -> int:
    return int(_told(handle, "nvmlDeviceGetTotalEccErrors", "ecc", "counts", str(counter), str(kind)))


def nvmlDeviceGetRetiredPagesPendingStatus(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetRetiredPagesPendingStatus", "retirement_pending"))


def nvmlDeviceGetRemappedRows(handle: int) -> tuple[int, ...]:
    names = ("corrected", "uncorrected", "pending", "failed")
    return tuple(_told(handle, "nvmlDeviceGetRemappedRows", "remapped", name) for name in names)


def nvmlDeviceGetFanSpeed(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetFanSpeed", "fan"))


def nvmlDeviceGetPerformanceState(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetPerformanceState", "performance_state"))


def nvmlDeviceGetComputeMode(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetComputeMode", "compute_mode"))


def nvmlDeviceGetMigMode(handle: int) -> list[int]:
    return [_told(handle, "nvmlDeviceGetMigMode", "mig", name) for name in ("current", "pending")]


def nvmlDeviceGetMaxMigDeviceCount(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetMaxMigDeviceCount", "mig", "count"))


def nvmlDeviceGetMigDeviceHandleByIndex(handle: int, index: int) -> int:
    mig = _told(handle, "nvmlDeviceGetMigDeviceHandleByIndex", "mig")
    if index >= mig.get("count", 0):
        raise NVMLError_InvalidArgument
    if index >= len(mig.get("devices", [])):
        raise NVMLError_NotFound
    return handle + _MIG_INSTANCE * (index + 1)


def nvmlDeviceGetGpuInstanceId(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetGpuInstanceId", "gpu_instance"))


def nvmlDeviceGetComputeInstanceId(handle: int) -> int:
    return int(_told(handle, "nvmlDeviceGetComputeInstanceId", "compute_instance"))


def nvmlDeviceGetAttributes_v2(handle: int) -> SimpleNamespace:
    slices = _told(handle, "nvmlDeviceGetAttributes_v2", "slices")
    return SimpleNamespace(
        gpuInstanceSliceCount=slices, memorySizeMB=_told(handle, "nvmlDeviceGetAttributes_v2", "memory_mb")
    )


def nvmlDeviceGetFieldValues(handle: int, ids: Sequence[int | tuple[int, int]]) -> list[SimpleNamespace]:
    _gpu(handle, "nvmlDeviceGetFieldValues")
    return [_field(handle, *one) if isinstance(one, tuple) else _field(handle, one) for one in ids]


def _field(handle: int, number: int, scope: int = 0) -> SimpleNamespace:
    kind, path = _FIELDS.get(number, (1, ("nowhere",)))
    where = ("nvlink", "links", scope, "mb_s") if number == _NVLINK_SPEED else path
    try:
        value = int(_told(handle, "", *where))
    except NVMLError_NotSupported:
        return SimpleNamespace(nvmlReturn=3, valueType=0, value=None)
    union = SimpleNamespace(uiVal=value % 2**32, ullVal=value, siVal=value)
    return SimpleNamespace(nvmlReturn=0, valueType=kind, value=union)
