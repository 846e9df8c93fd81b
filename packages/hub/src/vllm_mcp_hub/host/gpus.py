"""Readings of all GPUs: everything the driver tells, a GPU that is lost included.

A session with the driver is kept, because opening one may take the driver longer than all the questions together.
While it is kept the driver's module cannot be unloaded, so whoever stops sampling calls `close`.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

from vllm_mcp_hub.host.bounded import OneAtATime, Silent
from vllm_mcp_hub.host.gpu_questions import LOST, SESSION_IS_OVER, Gpu, GpuLost
from vllm_mcp_hub.host.nvml import NoDriver, close_session, open_session
from vllm_mcp_protocol.gpu import GpuReading

logger = logging.getLogger(__name__)

LIMIT_S = 5.0
"""A reading of eight GPUs takes milliseconds; a driver that needs seconds is in trouble."""

LASTING_EVERY_S = 30.0
"""How often limits, modes and error counts are asked again, and whether a lost GPU is back."""

_DRIVER_GONE = "the NVIDIA driver is gone"
_NOT_LISTED = "the driver does not list it any more"


def read_gpus(*, processes: bool = True, limit_s: float = LIMIT_S) -> list[GpuReading]:
    """All GPUs, asked everything once; empty without a driver or GPU. Raises Silent where the driver hangs."""
    reader = GpuReader(limit_s=limit_s)
    try:
        return reader.read(processes=processes, thorough=True)
    finally:
        reader.close()


class GpuReader:
    """Reads the GPUs again and again, and remembers those it has seen."""

    def __init__(self, *, limit_s: float = LIMIT_S, lasting_every_s: float = LASTING_EVERY_S) -> None:
        self._limit_s = limit_s
        self._lasting_every_s = lasting_every_s
        self._driver = OneAtATime()
        self._nvml: Any = None
        self._opened_at = 0.0
        self._listed: list[Gpu | GpuReading] = []
        """In the order of their index; those that could not be opened as the reading that says why."""
        self._seen: dict[str, GpuReading] = {}
        """The identity of every GPU seen so far, by uuid."""
        self._any_lost = False

    def read(self, *, processes: bool = False, thorough: bool = False) -> list[GpuReading]:
        """All GPUs; those seen before and lost since stay in the list. Returns within `limit_s`, or twice that when
        another reading is under way.

        `thorough` asks also what seldom changes, and has the driver measure PCIe (40 ms each) where it keeps no
        counters. When the driver hangs, the GPUs known so far are lost; Silent where none is known yet. It blocks:
        call it in a thread.
        """
        try:
            return self._driver.ask(lambda: self._read(processes, thorough), self._limit_s)
        except Silent as silent:
            if not self._seen:
                raise
            why = f"the NVIDIA driver has not answered for {silent.seconds:.0f} s"
            return [_lost(gpu, why) for gpu in list(self._seen.values())]

    def close(self) -> None:
        """End the session with the driver; the next reading opens another one. Never waits for a driver that hangs."""
        try:
            self._driver.ask(self._close, self._limit_s)
        except Silent:
            logger.warning("the NVIDIA driver hangs: its session is left open")

    def _read(self, processes: bool, thorough: bool) -> list[GpuReading]:
        for _ in range(2):  # a session that is over is opened once more
            try:
                self._open()
                found = [self._ask(gpu, processes, thorough) for gpu in self._listed]
                self._any_lost = any(reading.lost for reading in found)
                return found + [_lost(gpu, _NOT_LISTED) for gpu in self._missing(found)]
            except NoDriver as error:
                logger.debug("no GPU: %s", error)
                return [_lost(gpu, _DRIVER_GONE) for gpu in self._seen.values()]
            except _SessionOver as error:
                logger.debug("the session with the driver is over: %s", error)
                self._close()
        return [_lost(gpu, _DRIVER_GONE) for gpu in self._seen.values()]

    def _open(self) -> None:
        """Have a session that knows the GPUs there are now."""
        if self._nvml is not None:
            # Only a new session sees a GPU again that was lost and reset.
            look_again = self._any_lost and time.monotonic() - self._opened_at >= self._lasting_every_s
            if look_again or self._count() != len(self._listed):
                self._close()
        if self._nvml is None:
            self._nvml = open_session()
            self._opened_at = time.monotonic()
            listed = [self._gpu(index) for index in range(self._count())]
            missing = {gpu.id: gpu for gpu in self._missing(listed)}
            # A lost GPU may not even tell who it is; it is taken for the one that had its place.
            self._listed = [
                _lost(missing[gpu.id], gpu.lost or "")
                if isinstance(gpu, GpuReading) and gpu.uuid is None and gpu.id in missing
                else gpu
                for gpu in listed
            ]

    def _missing(self, listed: Sequence[Gpu | GpuReading]) -> list[GpuReading]:
        """Those seen before that are not in the list."""
        here = {gpu.uuid for gpu in listed}
        return [gpu for uuid, gpu in self._seen.items() if uuid not in here]

    def _close(self) -> None:
        if self._nvml is not None:
            nvml, self._nvml, self._listed = self._nvml, None, []
            close_session(nvml)

    def _count(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            raise _SessionOver(str(error)) from error

    def _gpu(self, index: int) -> Gpu | GpuReading:
        nvml, uuid, name = self._nvml, None, None
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(nvml.nvmlDeviceGetUUID(handle))
            name = str(nvml.nvmlDeviceGetName(handle))
        except nvml.NVMLError as error:
            if error.value in SESSION_IS_OVER:
                raise _SessionOver(str(error)) from error
            return GpuReading(id=str(index), uuid=uuid, name=name, lost=LOST.get(error.value, f"NVML: {error}"))
        self._seen[uuid] = GpuReading(id=str(index), uuid=uuid, name=name)
        return Gpu(nvml, handle, str(index), uuid, name)

    def _ask(self, gpu: Gpu | GpuReading, processes: bool, thorough: bool) -> GpuReading:
        if isinstance(gpu, GpuReading):
            return gpu
        try:
            return gpu.read(lasting_every_s=self._lasting_every_s, processes=processes, thorough=thorough)
        except GpuLost as why:
            return GpuReading(id=gpu.id, uuid=gpu.uuid, name=gpu.name, lost=str(why))
        except gpu.nvml.NVMLError as error:
            raise _SessionOver(str(error)) from error


class _SessionOver(Exception):
    """The driver does not know this session any more: it was unloaded, or replaced."""


def _lost(gpu: GpuReading, why: str) -> GpuReading:
    return gpu.model_copy(update={"lost": why})
