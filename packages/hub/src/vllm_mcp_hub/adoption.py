"""What a new hub does first: find the engines that outlived the last one, finish its stops, sweep orphans."""

import asyncio
import logging
import time
from typing import Any

from pydantic import SecretStr, ValidationError

from vllm_mcp_hub.core import events as ev
from vllm_mcp_hub.core.ledger import Engine
from vllm_mcp_hub.core.lifecycle import FORCED_GRACE_S
from vllm_mcp_hub.explain import explain
from vllm_mcp_hub.host import processes
from vllm_mcp_hub.host.engine_dir import EngineDir, engine_dirs
from vllm_mcp_hub.host.processes import Seen
from vllm_mcp_hub.record import Record
from vllm_mcp_hub.supervisor import Supervisor
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import ErrorInfo, SuiteError
from vllm_mcp_protocol.model import Endpoint, EngineStatus, EngineView, LoadRequest, Phase, StartFacts, StartPlan

log = logging.getLogger(__name__)

_ASK_LIMIT_S = 1.0


async def adopt_all(supervisor: Supervisor) -> None:
    """Read every engine folder. Runs before the hub answers anybody, so nobody sees half of it."""
    folders = await asyncio.to_thread(engine_dirs, supervisor.root / "engines")
    for folder in folders:
        supervisor.ledger.next_id = max(supervisor.ledger.next_id, int(folder.id[1:]) + 1)
    found = await asyncio.gather(*(_adopt_one(supervisor, folder) for folder in folders))
    for record, state in (pair for pair in found if pair is not None):
        supervisor.records[record.id] = record
        supervisor.tell(_adopted(record, state, supervisor.config.engine.start_limit_s))
        if record.dir.is_stopping():
            supervisor.tell(ev.StopRequested(record.id, force=True))  # finish what the last hub began


async def _adopt_one(supervisor: Supervisor, folder: EngineDir) -> tuple[Record, EngineStatus] | None:
    seen = await asyncio.to_thread(processes.settle, folder)
    if seen is Seen.HEADLESS:
        await asyncio.to_thread(processes.stop, folder, grace_s=0)  # orphans hold the device
    spec = await asyncio.to_thread(folder.read_spec)
    if seen in (Seen.HEADLESS, Seen.GONE) or spec is None:
        await asyncio.to_thread(_remember_past, supervisor, folder, spec)
        return None
    try:
        record = _record(supervisor, folder, spec)
    except (ValidationError, KeyError, TypeError) as error:
        log.error("%s runs, but its spec.json cannot be read (%s): it is stopped", folder.id, error)
        await asyncio.to_thread(processes.stop, folder, grace_s=FORCED_GRACE_S)
        return None
    return record, await _state_of(record)


def _record(supervisor: Supervisor, folder: EngineDir, spec: dict[str, Any]) -> Record:
    key, where = folder.read_key(), spec["endpoint"]
    endpoint = Endpoint(**where | {"api_key": SecretStr(key) if key else None})
    record = Record(
        id=folder.id,
        dir=folder,
        request=LoadRequest.model_validate(spec["request"]),
        plan=StartPlan.model_validate(spec["plan"]),
        devices=tuple(spec["devices"]),
        created_at=float(spec["created_at"]),
        created_s=time.monotonic() - max(0.0, time.time() - float(spec["created_at"])),
        epoch=supervisor.epoch,
        executable=spec["executable"],
        argv=tuple(spec["argv"]),
        endpoint=endpoint,
    )
    record.launched.set()
    if folder.is_ready():
        record.was_ready, record.phase = True, Phase.READY
        started = spec["start"]
        record.ready_at, record.start_took_s = started["ready_at"], started["took_s"]
        record.measured_bytes = started["measured_bytes"]
        record.adopted_facts = StartFacts.model_validate(started["facts"])
    return record


async def _state_of(record: Record) -> EngineStatus:
    """STARTING, READY or SLEEPING; and the adapters that it serves."""
    if not record.was_ready or record.endpoint is None:
        return EngineStatus.STARTING
    state = EngineStatus.READY
    try:
        async with EngineHttp(record.endpoint, timeout_s=_ASK_LIMIT_S) as http:
            if record.plan.asleep_bytes is not None and await http.is_sleeping():
                state = EngineStatus.SLEEPING
            if record.request.options.enable_lora:
                record.loras = {str(m["id"]): str(m.get("root", "")) for m in await http.models() if m.get("parent")}
    except SuiteError as error:
        log.warning("%s did not answer while it was adopted: %s", record.id, error)
    return state


def _adopted(record: Record, state: EngineStatus, start_limit_s: float) -> ev.Adopted:
    return ev.Adopted(
        engine=record.id,
        name=record.name,
        devices=record.devices,
        need_bytes=record.plan.need.device_bytes,
        now_s=time.monotonic(),
        state=state,
        asleep_bytes=record.plan.asleep_bytes,
        ttl_s=record.request.ttl_s,
        pinned=record.request.pin,
        start_limit_s=start_limit_s,
        model=record.request.model_id,
    )


def _remember_past(supervisor: Supervisor, folder: EngineDir, spec: dict[str, Any] | None) -> None:
    """Keep an ended engine's last view, so that its log and failure can still be asked for."""
    folder.cleanup_tmp()
    ended = folder.read_exit()
    if ended is None and spec is not None:
        ended = _unseen_end(supervisor, folder, spec)
    view = (ended or {}).get("view")
    if view is None:
        return
    try:
        supervisor.past[folder.id] = EngineView.model_validate(view)
    except ValidationError:
        log.warning("%s: exit.json of another version, left alone", folder.id)


def _unseen_end(supervisor: Supervisor, folder: EngineDir, spec: dict[str, Any]) -> dict[str, Any] | None:
    """An engine that ended while no hub ran: its cause is read from its log now."""
    try:
        record = _record(supervisor, folder, spec)
    except (ValidationError, KeyError, TypeError):
        return None
    failure: ErrorInfo | None = None
    if not folder.is_stopping():
        failure = explain(record, None)
    engine = Engine(
        record.id, record.name, record.devices, 0, EngineStatus.STOPPED, 0, time.monotonic(), failure=failure
    )
    view = record.view(engine, now_s=time.monotonic()).model_dump(mode="json")
    ended = {
        "code": None,
        "failure": None if failure is None else failure.model_dump(mode="json"),
        "view": view,
    }
    folder.write_exit(ended)
    return ended
