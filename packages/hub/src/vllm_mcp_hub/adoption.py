"""What a new hub does first: find the engines that outlived the last one, finish its stops, sweep orphans."""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

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
from vllm_mcp_protocol.errors import EngineFailed, ErrorInfo, SuiteError
from vllm_mcp_protocol.model import Endpoint, EngineStatus, EngineView, LoadRequest, Phase, StartFacts, StartPlan

log = logging.getLogger(__name__)

_ASK_LIMIT_S = 2.0


async def adopt_all(hub: Supervisor) -> None:
    """Read every engine folder. Runs before the hub answers anybody, so nobody sees half of it.

    One damaged folder must not keep the hub from starting: its trouble is logged, and the others are adopted.
    """
    root = hub.root / "engines"
    await asyncio.to_thread(_prune, root, hub.config.keep_stopped)
    folders = await asyncio.to_thread(engine_dirs, root)
    for folder in folders:
        hub.ledger.next_id = max(hub.ledger.next_id, int(folder.id[1:]) + 1)
    found = await asyncio.gather(*(_adopt_one(hub, folder) for folder in folders))
    for adopted in found:
        if adopted is not None:
            _take_over(hub, adopted)


@dataclass
class _Found:
    """A folder of which something runs."""

    record: Record
    seen: Seen
    state: EngineStatus
    in_flight: int = 0


def _take_over(hub: Supervisor, found: _Found) -> None:
    record = found.record
    hub.records[record.id] = record
    hub.tell(_adopted(record, found.state, hub.config.engine.start_limit_s))
    if found.in_flight:
        hub.tell(ev.Gauged(record.id, found.in_flight, time.monotonic()))
    if found.seen is Seen.HEADLESS:
        hub.tell(ev.LeaderLost(record.id, None if record.dir.is_stopping() else explain(record, None)))
    elif record.dir.is_stopping():
        hub.tell(ev.StopRequested(record.id, force=True))  # finish what the last hub began
    elif record.dir.is_draining():
        hub.tell(ev.StopRequested(record.id))
    elif found.state is EngineStatus.WAKING:
        hub.carry_out(ev.Wake(record.id))


def _prune(root: Path, keep: int) -> None:
    try:
        processes.prune(root, keep)
    except (OSError, SuiteError) as error:
        log.warning("old engine folders could not be removed: %s", error)


async def _adopt_one(hub: Supervisor, folder: EngineDir) -> _Found | None:
    try:
        seen = await asyncio.to_thread(processes.settle, folder)
        if seen is Seen.GONE:
            await asyncio.to_thread(_remember_past, hub, folder)
            return None
        record = await asyncio.to_thread(_record_of, hub, folder)
        if record is not None:
            return await _found(record, seen)
        log.error("%s runs, but its spec.json cannot be read: it is stopped", folder.id)
        await asyncio.to_thread(processes.stop, folder, grace_s=FORCED_GRACE_S)
    except Exception:  # whatever lies in that folder
        log.exception("%s could not be adopted", folder.id)
    return None


def _record_of(hub: Supervisor, folder: EngineDir) -> Record | None:
    """The engine as its spec.json tells it; None when that is missing, damaged or of another version."""
    try:
        spec = folder.read_spec()
        return None if spec is None else _record(hub, folder, spec)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        log.warning("%s: spec.json cannot be read: %s", folder.id, error)
        return None


def _record(hub: Supervisor, folder: EngineDir, spec: dict[str, Any]) -> Record:
    key, where = folder.read_key(), spec["endpoint"]
    record = Record(
        id=folder.id,
        dir=folder,
        request=LoadRequest.model_validate(spec["request"]),
        plan=StartPlan.model_validate(spec["plan"]),
        devices=tuple(spec["devices"]),
        created_at=float(spec["created_at"]),
        created_s=time.monotonic() - max(0.0, time.time() - float(spec["created_at"])),
        epoch=hub.epoch,
        executable=spec["executable"],
        argv=tuple(spec["argv"]),
        endpoint=None if where is None else Endpoint(**where | {"api_key": SecretStr(key) if key else None}),
    )
    record.launched.set()
    if folder.is_ready():
        record.was_ready, record.phase = True, Phase.READY
        started = spec["start"]
        record.ready_at, record.start_took_s = started["ready_at"], started["took_s"]
        record.measured_bytes = started["measured_bytes"]
        record.adopted_facts = StartFacts.model_validate(started["facts"])
    return record


async def _found(record: Record, seen: Seen) -> _Found:
    """Where the engine was, and what it has to do."""
    if not record.was_ready or record.endpoint is None or seen is not Seen.RUNNING:
        return _Found(record, seen, EngineStatus.READY if record.was_ready else EngineStatus.STARTING)
    # A hub that died in the middle of falling asleep or waking has left the engine in a state that it cannot tell
    # itself (it says `is_sleeping` while it wakes): it is woken, with its whole memory promised.
    noted = {"sleeping": EngineStatus.SLEEPING, "suspending": EngineStatus.WAKING, "waking": EngineStatus.WAKING}
    found = _Found(record, seen, noted.get(record.dir.sleep_state(), EngineStatus.READY))
    if found.state in (EngineStatus.READY, EngineStatus.SLEEPING):
        await _ask(found)
    return found


async def _ask(found: _Found) -> None:
    record = found.record
    try:
        async with asyncio.timeout(_ASK_LIMIT_S), EngineHttp(record.started_endpoint(), _ASK_LIMIT_S) as http:
            if record.request.options.enable_lora:
                record.loras = {str(m["id"]): str(m.get("root", "")) for m in await http.models() if m.get("parent")}
            use = await http.use()
            found.in_flight, record.work_done = use.in_flight, use.work_done
    except (SuiteError, TimeoutError) as error:
        log.warning("%s did not answer while it was adopted: %s", record.id, error)


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
        port=record.request.options.port,
    )


def _remember_past(hub: Supervisor, folder: EngineDir) -> None:
    """Keep an ended engine's last view, so that its log and failure can still be asked for."""
    folder.cleanup_tmp()
    try:
        ended = folder.read_exit() or _unseen_end(hub, folder)
        if ended is not None:
            hub.past[folder.id] = EngineView.model_validate(ended["view"])
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s: exit.json cannot be read, its end is forgotten: %s", folder.id, error)


def _unseen_end(hub: Supervisor, folder: EngineDir) -> dict[str, Any] | None:
    """An engine that ended while no hub ran: its cause is read from its log now."""
    record = _record_of(hub, folder)
    if record is None:
        return None
    failure = None if folder.is_stopping() else _why(record)
    record.ended_at = time.time()
    engine = Engine(
        record.id, record.name, record.devices, 0, EngineStatus.STOPPED, 0, time.monotonic(), failure=failure
    )
    view = record.view(engine, now_s=time.monotonic()).model_dump(mode="json")
    ended = {"code": None, "failure": None if failure is None else failure.model_dump(mode="json"), "view": view}
    try:
        folder.write_exit(ended)
    except (OSError, SuiteError) as error:
        log.warning("%s: how it ended cannot be written down: %s", folder.id, error)
    return ended


def _why(record: Record) -> ErrorInfo:
    if (record.dir.path / "proc.json").exists():
        return explain(record, None)
    return EngineFailed(
        f"The hub ended before the turn of {record.id} ({record.name}) came; nothing was started.",
        engine_id=record.id,
        suggestion=f"load-model with model_id={record.request.model_id} again",
    ).info
