"""Looks at engines and tells the supervisor what it sees: phases, health, deaths, use, memory, idle time."""

import asyncio
import logging
import os
import time

from vllm_mcp_hub.core import events as ev
from vllm_mcp_hub.core.ledger import SETTLING, Engine
from vllm_mcp_hub.core.plan import plan_start
from vllm_mcp_hub.core.retry import smaller_request
from vllm_mcp_hub.core.startup import StartupLog
from vllm_mcp_hub.explain import explain
from vllm_mcp_hub.host import processes
from vllm_mcp_hub.host.processes import Seen
from vllm_mcp_hub.memory import measure
from vllm_mcp_hub.record import Record
from vllm_mcp_hub.supervisor import Supervisor
from vllm_mcp_hub.wishes import gauge
from vllm_mcp_protocol.engine_env import facts_dir, known_vllm_facts
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import ErrorInfo, SuiteError
from vllm_mcp_protocol.model import CPU, EngineStatus, Phase, StartRecord

log = logging.getLogger(__name__)

UNSETTLED_LOOK_S = 0.1
SETTLED_LOOK_S = 0.5
SAMPLE_S = 2.0
MEMORY_EVERY = 5
"""Memory is measured at every fifth sample: reading smaps of a large process takes milliseconds."""

_LOG_READ_BYTES = 256 * 1024
_NOT_LOOKED_AT = (EngineStatus.QUEUED, EngineStatus.STOPPED)


async def watch(supervisor: Supervisor) -> None:
    """Look at every engine, for ever."""
    while True:
        engines = list(supervisor.ledger.live())
        for engine in engines:
            record = supervisor.records[engine.id]
            if engine.state not in _NOT_LOOKED_AT and record.launched.is_set():
                await _look(supervisor, record)
        moving = any(e.state in SETTLING or e.state is EngineStatus.QUEUED for e in supervisor.ledger.live())
        await asyncio.sleep(UNSETTLED_LOOK_S if moving else SETTLED_LOOK_S)


async def _look(supervisor: Supervisor, record: Record) -> None:
    returncode = record.child.poll() if record.child else None  # reaps, so that a zombie is not taken for life
    seen = await asyncio.to_thread(processes.observe, record.dir)
    engine = supervisor.ledger.engines[record.id]
    if not record.launched.is_set() or engine.state in _NOT_LOOKED_AT:
        return  # it changed while we looked
    match seen:
        case Seen.GONE:
            await _vanished(supervisor, record, engine, returncode)
        case Seen.HEADLESS if engine.state is not EngineStatus.STOPPING:
            failure = await asyncio.to_thread(explain, record, returncode)
            await supervisor.tell_and_wait(ev.LeaderLost(record.id, failure))
        case Seen.RUNNING if engine.state is EngineStatus.STARTING:
            await _follow_start(supervisor, record)
        case _:
            pass


async def _vanished(supervisor: Supervisor, record: Record, engine: Engine, returncode: int | None) -> None:
    await asyncio.to_thread(_read_log, record)
    failure = await asyncio.to_thread(explain, record, returncode)
    again = engine.state is EngineStatus.STARTING and engine.attempts == 1 and _shrink(supervisor, record, failure)
    if again:
        record.launched.clear()
    await supervisor.tell_and_wait(ev.Vanished(record.id, returncode, failure, again=again))


def _shrink(supervisor: Supervisor, record: Record, failure: ErrorInfo) -> bool:
    """Replace the record's plan by a smaller one, when that was allowed and makes sense."""
    smaller = smaller_request(record.request, failure) if record.request.allow_smaller else None
    if smaller is None:
        return False
    try:
        plan = plan_start(smaller, supervisor.devices, history=supervisor.history.all(), cpu_count=os.cpu_count() or 1)
    except SuiteError:
        return False
    told = f"max_model_len={smaller.options.max_model_len}: the first start ran out of memory ({failure.message[:200]})"
    record.request, record.startup, record.attempt_offset = smaller, StartupLog(), record.log_offset
    record.plan = plan.model_copy(update={"reasons": (*plan.reasons, told), "need": record.plan.need})
    return True


async def _follow_start(supervisor: Supervisor, record: Record) -> None:
    await asyncio.to_thread(_read_log, record)
    now = (record.startup.phase, record.startup.detail)
    if now != (record.phase, record.phase_detail):
        record.phase, record.phase_detail = now
        supervisor.bump(record)
    if record.endpoint is None or (record.endpoint.uds and not record.dir.socket_path.exists()):
        return
    async with EngineHttp(record.endpoint, timeout_s=2) as http:
        if await http.healthy():
            await _became_ready(supervisor, record)


def _read_log(record: Record) -> None:
    """Feed what the engine wrote since."""
    try:
        with open(record.dir.log_path, "rb") as file:
            file.seek(record.log_offset)
            data = file.read(_LOG_READ_BYTES)
    except OSError:
        return
    record.log_offset += len(data)
    *lines, record.log_rest = (record.log_rest + data).split(b"\n")
    for line in lines:
        record.startup.feed(line.decode(errors="replace"), time.monotonic())


async def _became_ready(supervisor: Supervisor, record: Record) -> None:
    await asyncio.to_thread(_read_log, record)
    now_s = time.monotonic()
    record.phase, record.phase_detail = Phase.READY, ""
    record.was_ready, record.ready_at = True, time.time()
    record.startup.finish(now_s)
    if record.start_took_s is None:
        record.start_took_s = round(now_s - record.created_s, 3)
    record.measured_bytes = await asyncio.to_thread(measure, record.dir, record.devices)
    await asyncio.to_thread(_keep_ready, record)
    await supervisor.tell_and_wait(ev.BecameReady(record.id, now_s))
    await asyncio.to_thread(_remember_start, supervisor, record)


def _keep_ready(record: Record) -> None:
    """For the next hub. On a full disk the engine serves all the same; the next hub then asks it anew."""
    try:
        record.dir.write_spec(record.spec())
        record.dir.mark_ready()
    except (OSError, SuiteError) as error:
        log.warning("%s is ready, but that could not be written down: %s", record.id, error)


def _remember_start(supervisor: Supervisor, record: Record) -> None:
    per_device = None if record.measured_bytes is None else record.measured_bytes // max(1, len(record.devices))
    known = known_vllm_facts(record.executable, facts_dir(supervisor.settings))
    finished = StartRecord(
        model_id=record.request.model_id,
        flags=record.plan.flags,
        device_kind="cpu" if record.devices == (CPU,) else "cuda",
        vllm_version=known.version if known else None,
        seconds=record.start_took_s or 0.0,
        device_bytes=per_device,
        facts=record.start_facts(),
    )
    try:
        supervisor.history.add(finished)
    except OSError as error:
        log.warning("the start of %s was not recorded: %s", record.id, error)


async def sample(supervisor: Supervisor) -> None:
    """Requests in flight, memory, log size and idle time, every two seconds."""
    rounds = 0
    while True:
        await asyncio.sleep(SAMPLE_S)
        rounds += 1
        supervisor.tell(ev.Tick(time.monotonic()))
        records = [supervisor.records[engine.id] for engine in supervisor.ledger.live()]
        await asyncio.gather(*(_sample_one(supervisor, r, rounds % MEMORY_EVERY == 0) for r in records))
        for remote in list(supervisor.remotes.values()):
            if await remote.refresh():
                supervisor.bump(remote)


async def _sample_one(supervisor: Supervisor, record: Record, memory: bool) -> None:
    await gauge(supervisor, record)
    await asyncio.to_thread(record.dir.rotate_log, supervisor.config.log_limit_mib * 1024**2)
    if memory and record.was_ready:
        record.measured_bytes = await asyncio.to_thread(measure, record.dir, record.devices) or record.measured_bytes
