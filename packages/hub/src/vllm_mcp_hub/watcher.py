"""Looks at engines and tells the supervisor what it sees: phases, health, deaths, use, memory, idle time.

One engine or remote host that behaves badly must not stop the watch over the others: every look is bounded in time,
and what it raises is logged and forgotten.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable

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
TICK_S = 0.5
SAMPLE_S = 2.0
REMOTE_S = 5.0
MEMORY_EVERY = 5
"""Memory is measured at every fifth sample: reading smaps of a large process takes milliseconds."""

_HEALTH_LIMIT_S = 2.0
_LOOK_LIMIT_S = 30.0
_LOG_READ_BYTES = 256 * 1024
_LINE_LIMIT_BYTES = 64 * 1024
_NOT_LOOKED_AT = (EngineStatus.QUEUED, EngineStatus.STOPPED)


async def watch(supervisor: Supervisor) -> None:
    """Look at every engine, for ever."""
    complaints: dict[str, str] = {}
    while True:
        records = [supervisor.records[e.id] for e in supervisor.ledger.live() if e.state not in _NOT_LOOKED_AT]
        looks = (_bounded(_look(supervisor, r), r.id, complaints) for r in records if r.launched.is_set())
        await asyncio.gather(*looks)
        moving = any(e.state in SETTLING or e.state is EngineStatus.QUEUED for e in supervisor.ledger.live())
        await asyncio.sleep(UNSETTLED_LOOK_S if moving else SETTLED_LOOK_S)


async def tick(supervisor: Supervisor) -> None:
    """Tell the ledger the time."""
    while True:
        await asyncio.sleep(TICK_S)
        supervisor.tell(ev.Tick(time.monotonic()))


async def sample(supervisor: Supervisor) -> None:
    """Requests in flight, memory and log size of our engines."""
    complaints: dict[str, str] = {}
    rounds = 0
    while True:
        await asyncio.sleep(SAMPLE_S)
        rounds += 1
        records = [supervisor.records[engine.id] for engine in supervisor.ledger.live()]
        memory = rounds % MEMORY_EVERY == 0
        await asyncio.gather(*(_bounded(_sample_one(supervisor, r, memory), r.id, complaints) for r in records))


async def sample_remotes(supervisor: Supervisor) -> None:
    """What engines that run elsewhere serve now."""
    complaints: dict[str, str] = {}
    while True:
        await asyncio.sleep(REMOTE_S)
        remotes = list(supervisor.remotes.values())
        await asyncio.gather(*(_bounded(supervisor.refresh(remote), remote.id, complaints) for remote in remotes))


async def _bounded(work: Awaitable[None], engine_id: str, complaints: dict[str, str]) -> None:
    try:
        async with asyncio.timeout(_LOOK_LIMIT_S):
            await work
    except Exception as error:  # a look may meet anything; the same trouble is logged once, not ten times a second
        if complaints.get(engine_id) != repr(error):
            complaints[engine_id] = repr(error)
            log.exception("looking at %s failed", engine_id)


async def _look(supervisor: Supervisor, record: Record) -> None:
    returncode = record.child.poll() if record.child else None  # reaps, so that a zombie is not taken for life
    seen = await asyncio.to_thread(processes.observe, record.dir)
    engine = supervisor.ledger.engines.get(record.id)
    if engine is None or engine.state in _NOT_LOOKED_AT or not record.launched.is_set():
        return  # it changed while we looked
    match seen:
        case Seen.GONE:
            await _vanished(supervisor, record, engine, returncode)
        case Seen.HEADLESS if engine.state is not EngineStatus.STOPPING:
            await asyncio.to_thread(_read_log, record)
            failure = await asyncio.to_thread(explain, record, returncode)
            again = _try_again(supervisor, record, engine, failure)
            await supervisor.tell_and_wait(ev.LeaderLost(record.id, failure, again=again))
        case Seen.RUNNING if engine.state is EngineStatus.STARTING:
            await _follow_start(supervisor, record)
        case _:
            pass


async def _vanished(supervisor: Supervisor, record: Record, engine: Engine, returncode: int | None) -> None:
    await asyncio.to_thread(_read_log, record)
    failure = await asyncio.to_thread(explain, record, returncode)
    again = _try_again(supervisor, record, engine, failure)
    if again or engine.retry:
        record.launched.clear()
        record.was_ready = False
    await supervisor.tell_and_wait(ev.Vanished(record.id, returncode, failure, again=again))
    if supervisor.state_of(record.id) is EngineStatus.STOPPED:
        record.launched.set()  # nothing will be launched: whoever waits to stop it may go on


def _try_again(supervisor: Supervisor, record: Record, engine: Engine, failure: ErrorInfo) -> bool:
    """Replace the record's plan by a smaller one, when that was allowed and makes sense; was it?"""
    first = engine.state is EngineStatus.STARTING and engine.attempts == 1 and record.request.allow_smaller
    smaller = smaller_request(record.request, failure) if first else None
    if smaller is None:
        return False
    try:
        plan = plan_start(smaller, supervisor.devices, history=supervisor.history.all(), cpu_count=os.cpu_count() or 1)
    except SuiteError as error:
        log.warning("%s is not tried again with a smaller context: %s", record.id, error)
        return False
    context = smaller.options.max_model_len
    told = f"max_model_len={context}: the first start ran out of memory ({failure.message[:200]})"
    record.request, record.startup, record.attempt_offset = smaller, StartupLog(), record.log_offset
    record.plan = plan.model_copy(update={"reasons": (*plan.reasons, told), "need": record.plan.need})
    return True


async def _follow_start(supervisor: Supervisor, record: Record) -> None:
    await asyncio.to_thread(_read_log, record)
    now = (record.startup.phase, record.startup.detail)
    if now != (record.phase, record.phase_detail):
        record.phase, record.phase_detail = now
        supervisor.bump(record)
    if record.endpoint is not None and await asyncio.to_thread(_listens, record) and await _healthy(record):
        await _became_ready(supervisor, record)


def _listens(record: Record) -> bool:
    """Is it our engine that listens? A stranger on its port must be neither trusted nor told the key."""
    port = record.request.options.port
    return record.dir.socket_path.exists() if port is None else processes.listens(record.dir, port)


async def _healthy(record: Record) -> bool:
    async with asyncio.timeout(_HEALTH_LIMIT_S * 2), EngineHttp(record.started_endpoint(), _HEALTH_LIMIT_S) as http:
        return await http.healthy()


def _read_log(record: Record) -> None:
    """Feed what the engine wrote since."""
    try:
        with open(record.dir.log_path, "rb") as file:
            if file.seek(0, os.SEEK_END) < record.log_offset:
                record.log_offset = 0  # the log was turned over
            file.seek(record.log_offset)
            data = file.read(_LOG_READ_BYTES)
    except OSError:
        return
    record.log_offset += len(data)
    *lines, rest = (record.log_rest + data).split(b"\n")
    record.log_rest = rest[-_LINE_LIMIT_BYTES:]
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
    except (OSError, SuiteError) as error:
        log.warning("the start of %s was not recorded: %s", record.id, error)


async def _sample_one(supervisor: Supervisor, record: Record, memory: bool) -> None:
    await gauge(supervisor, record)
    await asyncio.to_thread(record.dir.rotate_log, supervisor.config.log_limit_mib * 1024**2)
    if memory and record.was_ready:
        found = await asyncio.to_thread(measure, record.dir, record.devices)
        record.measured_bytes = found or record.measured_bytes
