"""What the ledger's effects do to real engines. Each runs as a task and reports back by an event."""

import asyncio
import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Awaitable, Callable

from vllm_mcp_hub.core import events as ev
from vllm_mcp_hub.host import processes
from vllm_mcp_hub.host.devices import foreign_holders, read_devices
from vllm_mcp_hub.memory import check_free_memory
from vllm_mcp_hub.record import Record
from vllm_mcp_hub.spawn import check_port, command_line, environment, hub_path, make_endpoint
from vllm_mcp_hub.supervisor import EngineEffect, Supervisor
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import EngineFailed, ErrorInfo, NoSuchGpu, SleepFailed, SuiteError
from vllm_mcp_protocol.hub_config import read_config

log = logging.getLogger(__name__)

_STUCK_PAUSE_S = 5.0
_SLEEP_LIMIT_S = 300.0
"""Level 1 copies the weights to host memory: seconds per 10 GB."""


async def carry_out(hub: Supervisor, effect: EngineEffect) -> None:
    """Do to the engine what the ledger decided."""
    record = hub.records[effect.engine]
    match effect:
        case ev.Spawn():
            await spawn(hub, record)
        case ev.Kill(_, grace_s):
            await kill(hub, record, grace_s)
        case ev.Suspend(_, level):
            await suspend(hub, record, level)
        case ev.Wake():
            await wake(hub, record)


async def spawn(hub: Supervisor, record: Record) -> None:
    """Start the engine's process, or tell why it could not be started."""
    record.launched.clear()
    failure: ErrorInfo | None = None
    try:
        await _check_memory(hub, record)
        record.child = await asyncio.to_thread(_launch, hub, record)
    except SuiteError as error:
        failure = error.info
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in a variable
        failure = EngineFailed(f"{record.name} could not be started: {error}.", suggestion="run vllm-mcp doctor").info
    finally:
        record.launched.set()
    if failure is not None:
        await hub.tell_and_wait(ev.SpawnFailed(record.id, failure))


async def _check_memory(hub: Supervisor, record: Record) -> None:
    devices = await asyncio.to_thread(read_devices, hub.host_reserve_bytes)
    own = await asyncio.to_thread(_pids_of_all, hub)
    by_id = {device.id: device for device in devices}
    for device_id in record.devices:
        if device_id not in by_id:
            raise NoSuchGpu(
                f"{record.name} was promised memory on {device_id}, which is not there any more.",
                device=device_id,
                suggestion="run vllm-mcp doctor, then load-model again",
            )
        check_free_memory(record.name, by_id[device_id], record.plan.need, lambda name: foreign_holders(name, own))


def _pids_of_all(hub: Supervisor) -> set[int]:
    return {pid for record in list(hub.records.values()) for pid in processes.pids_of(record.dir)}


def _launch(hub: Supervisor, record: Record) -> "subprocess.Popen[bytes]":
    config = read_config(hub.root / "hub.toml")
    if record.request.options.port is not None:
        check_port(record.request.options.port)
    record.endpoint = make_endpoint(record)
    record.argv = command_line(record, record.executable)
    record.dir.write_spec(record.spec())
    crash_here(hub, "before_spawn")
    record.startup.begin(time.monotonic())
    child = processes.spawn(record.dir, record.argv, environment(record, config, record.executable, hub_path()))
    crash_here(hub, "after_spawn")
    return child


def crash_here(hub: Supervisor, point: str) -> None:
    """Die at a named point: how the tests show that a crash there loses nothing."""
    if hub.crash_point == point:
        os._exit(9)


async def kill(hub: Supervisor, record: Record, grace_s: float) -> None:
    """End the engine's processes; the watcher sees them vanish."""
    await record.launched.wait()
    with contextlib.suppress(OSError):  # a full disk must not keep an engine alive
        await asyncio.to_thread(record.dir.mark_stopping)
    crash_here(hub, "mid_stop")
    await _until_gone(record, grace_s)


async def _until_gone(record: Record, grace_s: float) -> None:
    """A process in the driver's hands survives SIGKILL until the driver lets go; its memory is not free before."""
    while True:
        try:
            await asyncio.to_thread(processes.stop, record.dir, grace_s=grace_s)
        except RuntimeError as error:
            log.error("%s: %s; trying again", record.id, error)
            await asyncio.sleep(_STUCK_PAUSE_S)
        else:
            return


async def suspend(hub: Supervisor, record: Record, level: int) -> None:
    """Put the engine to sleep and tell whether it does."""
    await asyncio.to_thread(record.dir.note_sleep, "suspending")
    failure = await _engine_work(record, lambda http: sleep_verified(http, level))
    await asyncio.to_thread(record.dir.note_sleep, "awake" if failure else "sleeping")
    await hub.tell_and_wait(ev.SleepEnded(record.id, time.monotonic(), failure))


async def wake(hub: Supervisor, record: Record) -> None:
    """Wake the engine and tell whether it is."""
    await asyncio.to_thread(record.dir.note_sleep, "waking")
    failure = await _engine_work(record, wake_verified)
    if failure is None:
        await asyncio.to_thread(record.dir.note_sleep, "awake")
    await hub.tell_and_wait(ev.WakeEnded(record.id, time.monotonic(), failure))


async def _engine_work(record: Record, work: Callable[[EngineHttp], Awaitable[None]]) -> ErrorInfo | None:
    try:
        async with EngineHttp(record.started_endpoint(), timeout_s=_SLEEP_LIMIT_S) as http:
            await work(http)
    except SuiteError as error:
        return error.info
    return None


async def sleep_verified(http: EngineHttp, level: int) -> None:
    """A 200 proves nothing: vLLM's CPU build answers it and does not sleep."""
    await http.sleep(level)
    if not await http.is_sleeping():
        raise SleepFailed("The engine answered the sleep request but does not sleep.", suggestion="unload-model")


async def wake_verified(http: EngineHttp) -> None:
    """Wake, and ask whether it is awake."""
    await http.wake()
    if await http.is_sleeping():
        raise SleepFailed(
            "The engine answered the wake request but still sleeps.",
            suggestion="unload-model, then load-model",
        )
