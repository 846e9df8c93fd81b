"""A machine's GPUs as a JSON file: put this folder on PYTHONPATH and name the file in FAKE_NVML.

    {"gpus": [{"name": "NVIDIA H100", "uuid": "GPU-1", "total": 85899345920, "used": 1048576,
               "processes": [{"pid": 42, "used": 1048576}], "lost": false, "no_memory_info": false}],
     "driver": true}

The file is read at every call, so a test changes the machine by replacing the file. Without FAKE_NVML, or with
`"driver": false`, there is no driver. The names and the shapes are those of nvidia-ml-py.
"""

import json
import os
from dataclasses import dataclass
from typing import Any


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class NVMLError_InvalidArgument(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


@dataclass(frozen=True)
class _Memory:
    total: int
    free: int
    used: int


@dataclass(frozen=True)
class _Process:
    pid: int
    usedGpuMemory: int | None


def _machine() -> dict[str, Any]:
    path = os.environ.get("FAKE_NVML")
    machine: dict[str, Any] = {"driver": False}
    if path:
        with open(path, encoding="utf-8") as file:
            machine = json.load(file)
    if not machine.get("driver", True):
        raise NVMLError_LibraryNotFound("NVML Shared Library Not Found")
    return machine


def _gpu(handle: int) -> dict[str, Any]:
    gpu: dict[str, Any] = _machine()["gpus"][handle]
    if gpu.get("lost"):
        raise NVMLError_GpuIsLost("GPU is lost")
    return gpu


def nvmlInit() -> None:
    _machine()


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return len(_machine()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    if not 0 <= index < nvmlDeviceGetCount():
        raise NVMLError_InvalidArgument("Invalid Argument")
    _gpu(index)
    return index


def nvmlDeviceGetName(handle: int) -> str:
    return str(_gpu(handle).get("name", "Fake GPU"))


def nvmlDeviceGetUUID(handle: int) -> str:
    return str(_gpu(handle).get("uuid", f"GPU-fake-{handle}"))


def nvmlDeviceGetMemoryInfo(handle: int) -> _Memory:
    gpu = _gpu(handle)
    if gpu.get("no_memory_info"):
        raise NVMLError_NotSupported("Not Supported")
    total, used = int(gpu["total"]), int(gpu.get("used", 0))
    return _Memory(total=total, free=total - used, used=used)


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[_Process]:
    return [_Process(entry["pid"], entry.get("used")) for entry in _gpu(handle).get("processes", [])]


def nvmlDeviceGetGraphicsRunningProcesses(handle: int) -> list[_Process]:
    _gpu(handle)
    return []
