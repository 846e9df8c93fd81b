"""What clients may wish for, each as one function over the supervisor: the verbs behind the HTTP routes."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import SecretStr

from vllm_mcp_hub.core import events as ev
from vllm_mcp_hub.core.plan import plan_start
from vllm_mcp_hub.effects import sleep_verified, wake_verified
from vllm_mcp_hub.record import Record
from vllm_mcp_hub.remotes import new_remote
from vllm_mcp_hub.spawn import check_port
from vllm_mcp_hub.supervisor import Order, Supervisor
from vllm_mcp_protocol.engine_env import VllmFacts, facts_dir, known_vllm_facts, read_vllm_facts, require_executable
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.hub_config import HubConfig, read_config
from vllm_mcp_protocol.model import (
    Endpoint,
    EngineStatus,
    EngineView,
    LoadGrant,
    LoadRequest,
    ModelConfig,
)

_REMOTE_LIMIT_S = 300.0
_ADAPTER_LIMIT_S = 120.0
_GAUGE_LIMIT_S = 3.0


async def load(hub: Supervisor, request: LoadRequest) -> LoadGrant:
    """Plan, place and promise. The start itself goes on when this returns."""
    hub.config = await asyncio.to_thread(read_config, hub.root / "hub.toml")
    executable = await asyncio.to_thread(_executable, hub, request)
    vllm = await asyncio.to_thread(_vllm_facts, hub, request, executable)
    devices = await hub.see_devices()
    await _prepare(hub, request)
    plan = plan_start(
        request,
        devices,
        supported_flags=vllm.flags if vllm else frozenset(),
        history=hub.history.of(vllm.version if vllm else None),
        cpu_count=os.cpu_count() or 1,
    )
    order = Order(request, plan, executable)
    grant = await hub.ask(lambda number: _load_event(number, order, hub.config), order=order)
    if request.dry_run and not grant.joined:
        return LoadGrant(plan=plan, devices=grant.devices, evicted=grant.evicted)
    record = hub.records[grant.engine]
    return LoadGrant(
        engine=hub.view(grant.engine),
        joined=grant.joined,
        plan=record.plan,
        devices=record.devices,
        evicted=grant.evicted,
    )


async def _prepare(hub: Supervisor, request: LoadRequest) -> None:
    """What has to be known before the ledger decides: is the port free, and who of the idle is really idle?"""
    port = request.options.port
    present = hub.ledger.serving(request.options.served_model_name or request.model_id)
    if port is not None and present is None and not any(e.port == port for e in hub.ledger.live()):
        await asyncio.to_thread(check_port, port)
    if request.make_room:
        await asyncio.gather(*(gauge(hub, hub.records[engine.id]) for engine in list(hub.ledger.live())))


def _executable(hub: Supervisor, request: LoadRequest) -> str:
    asked = hub.settings.model_copy(update={"vllm_executable": request.environment.executable})
    return require_executable(asked, hub.config.engine.executable, os.environ)


def _vllm_facts(hub: Supervisor, request: LoadRequest, executable: str) -> VllmFacts | None:
    """Version and flags. Asking takes vLLM some 10 s the first time: only a load that names flags waits for it."""
    folder = facts_dir(hub.settings)
    if request.options.extra_args:
        return read_vllm_facts(executable, folder)
    return known_vllm_facts(executable, folder)


def _load_event(number: str, order: Order, config: HubConfig) -> ev.LoadRequested:
    request, plan = order.request, order.plan
    return ev.LoadRequested(
        request=number,
        name=request.options.served_model_name or request.model_id,
        device_count=plan.device_count,
        need_bytes=plan.need.device_bytes,
        now_s=time.monotonic(),
        devices=tuple(map(str, request.gpu_ids)),
        asleep_bytes=plan.asleep_bytes,
        make_room=request.make_room,
        ttl_s=request.ttl_s,
        pinned=request.pin,
        start_limit_s=config.engine.start_limit_s,
        model=request.model_id,
        port=request.options.port,
        dry_run=request.dry_run,
    )


async def stop(hub: Supervisor, engine_id: str, *, force: bool) -> EngineView:
    """Unload; without force, what runs is finished first."""
    await gauge(hub, hub.record(engine_id, "unloaded"))
    await hub.tell_and_wait(ev.StopRequested(engine_id, force))
    return hub.view(engine_id)


async def gauge(hub: Supervisor, record: Record) -> None:
    """Ask a ready engine how many requests it has. One that does not answer keeps its last count."""
    if hub.state_of(record.id) not in (EngineStatus.READY, EngineStatus.DRAINING):
        return
    with contextlib.suppress(SuiteError, TimeoutError):
        endpoint = record.started_endpoint()
        async with asyncio.timeout(_GAUGE_LIMIT_S), EngineHttp(endpoint, timeout_s=_GAUGE_LIMIT_S) as http:
            use = await http.use()
        used = record.work_done is not None and use.work_done != record.work_done
        record.work_done = use.work_done
        await hub.tell_and_wait(ev.Gauged(record.id, use.in_flight, time.monotonic(), used=used))


async def sleep(hub: Supervisor, engine_id: str, level: int) -> EngineView:
    """Have it put to sleep; a failure is shown by the engine's view."""
    if engine_id in hub.remotes:
        return await _remote_work(hub, engine_id, lambda http: sleep_verified(http, level))
    await gauge(hub, hub.record(engine_id, "put to sleep"))
    await hub.ask(lambda number: ev.SleepRequested(number, engine_id, level))
    return hub.view(engine_id)


async def wake(hub: Supervisor, engine_id: str) -> EngineView:
    """Have it woken in its turn; a failure is shown by the engine's view."""
    if engine_id in hub.remotes:
        return await _remote_work(hub, engine_id, wake_verified)
    hub.record(engine_id, "woken")
    await hub.ask(lambda number: ev.WakeRequested(number, engine_id, time.monotonic()))
    return hub.view(engine_id)


async def load_lora(hub: Supervisor, engine_id: str, name: str, path: str) -> EngineView:
    """Serve an adapter. Raises EngineRequestFailed with vLLM's words."""
    return await _adapter(
        hub, engine_id, lambda http: http.load_lora(name, path), lambda r: r.loras.update({name: path})
    )


async def unload_lora(hub: Supervisor, engine_id: str, name: str) -> EngineView:
    """Stop serving an adapter."""
    return await _adapter(hub, engine_id, lambda http: http.unload_lora(name), lambda r: r.loras.pop(name, None))


async def _adapter(
    hub: Supervisor,
    engine_id: str,
    work: Callable[[EngineHttp], Awaitable[Any]],
    note: Callable[[Record], object],
) -> EngineView:
    if engine_id in hub.remotes:
        return await _remote_work(hub, engine_id, work)
    record = hub.record(engine_id, "given adapters")
    async with EngineHttp(record.started_endpoint(), timeout_s=_ADAPTER_LIMIT_S) as http:
        await work(http)
    note(record)
    hub.bump(record)
    return hub.view(engine_id)


async def _remote_work(hub: Supervisor, engine_id: str, work: Callable[[EngineHttp], Awaitable[Any]]) -> EngineView:
    remote = hub.remotes[engine_id]
    async with EngineHttp(remote.endpoint, timeout_s=_REMOTE_LIMIT_S) as http:
        await work(http)
    await remote.refresh()
    hub.bump(remote)
    return remote.view()


def set_model_config(hub: Supervisor, model_id: str, config: ModelConfig | None) -> None:
    """Keep request defaults of a model. Blocking."""
    with hub.files_lock:
        hub.model_configs.set(model_id, config)


async def attach(hub: Supervisor, url: str, api_key: str | None) -> EngineView:
    """Show a running engine; the same address twice is one engine."""
    key = SecretStr(api_key) if api_key else None
    remote = next((r for r in hub.remotes.values() if r.url == url), None)
    if remote is None:
        remote = new_remote(len(hub.remotes) + 1, url, key, hub.epoch)
        hub.remotes[remote.id] = remote
    remote.api_key = key or remote.api_key
    await remote.refresh()
    hub.bump(remote)
    return remote.view()


async def lease(hub: Supervisor, number: str, model: str) -> Endpoint:
    """Hold the engine that serves `model`; waits until it is ready. Ends with the event LeaseEnded(number)."""
    live = [hub.records[engine.id] for engine in hub.ledger.live()]
    owned = next((r for r in live if model in (r.id, r.name, r.request.model_id, *r.loras)), None)
    remote = next((r for r in hub.remotes.values() if model in (r.id, r.model_id, *r.loras)), None)
    if owned is None and remote is not None:
        return remote.endpoint.model_copy(update={"served_name": model if model in remote.loras else remote.model_id})
    name = model if owned is None else owned.name
    grant = await hub.ask(lambda r: ev.LeaseRequested(r, name, time.monotonic()), number=number)
    record = hub.records[grant.engine]
    served = model if model in record.loras else record.name
    return record.started_endpoint().model_copy(update={"served_name": served})
