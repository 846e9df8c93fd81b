"""Loading fake models on a site's hub, and waiting for what comes of it."""

from typing import Any

from tests.hubs import wish
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineStatus, EngineView, LoadGrant


async def load(hub: Hub, model: str, gpu: int | None = 0, **more: Any) -> LoadGrant:
    return await hub.load(wish(model, gpu_ids=() if gpu is None else (gpu,), **more))


async def until(hub: Hub, engine_id: str, *statuses: EngineStatus) -> EngineView:
    """The engine when it has one of `statuses`; bounded."""
    view = await hub.wait(engine_id, seen_epoch=-1, timeout_s=0)
    for _ in range(200):
        if view.status in statuses:
            return view
        view = await hub.wait(engine_id, seen_epoch=view.epoch, timeout_s=1)
    raise AssertionError(f"{engine_id} is {view.status}, not {statuses}: {view.failure}")


async def ready(hub: Hub, model: str, gpu: int | None = 0, **more: Any) -> str:
    grant = await load(hub, model, gpu, **more)
    assert grant.engine is not None
    await until(hub, grant.engine.id, EngineStatus.READY)
    return grant.engine.id


async def stopped(hub: Hub, engine_id: str) -> EngineView:
    return await until(hub, engine_id, EngineStatus.STOPPED)
