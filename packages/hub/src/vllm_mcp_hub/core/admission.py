"""May it, now? And if not: who is in the way, and what would help. Pure."""

from collections.abc import Mapping

from vllm_mcp_hub.core.events import LoadRequested
from vllm_mcp_hub.core.ledger import Engine, Ledger, S
from vllm_mcp_hub.core.placement import Idle, Placement, place
from vllm_mcp_protocol.errors import (
    BadInput,
    DeviceSettling,
    ErrorInfo,
    GpuMemoryInsufficient,
    ModelBusy,
    ModelNotLoaded,
    NotSupported,
    PortInUse,
    TooFewDevices,
)
from vllm_mcp_protocol.model import DeviceId
from vllm_mcp_protocol.units import to_mib


def admit(ledger: Ledger, event: LoadRequested) -> Placement | ErrorInfo:
    taken = next((e for e in ledger.live() if event.port is not None and e.port == event.port), None)
    if taken is not None:
        return _port_taken(event, taken)
    wanted = event.devices or tuple(ledger.capacity)
    unknown = [device for device in wanted if device not in ledger.capacity]
    if unknown or len(wanted) < event.device_count:
        return TooFewDevices(
            f"{event.name} asks for {event.device_count} devices of {wanted}; there are {sorted(ledger.capacity)}.",
            asked=event.device_count,
            devices=sorted(ledger.capacity),
            suggestion=f"load-model with tensor_parallel_size × pipeline_parallel_size at most {len(ledger.capacity)}",
        ).info
    free = {device: ledger.free(device) for device in wanted}
    idle = _idle(ledger) if event.make_room else ()
    found = place(free, count=event.device_count, need_bytes=event.need_bytes, evictable=idle)
    return found or _no_room(ledger, event, free)


def _port_taken(event: LoadRequested, holder: Engine) -> ErrorInfo:
    return PortInUse(
        f"Port {event.port} belongs to {holder.id} ({holder.name}, {holder.state}).",
        port=event.port,
        holder=holder.id,
        suggestion=f"choose another port, or unload-model {holder.name} and wait until it is gone",
    ).info


def _idle(ledger: Ledger) -> tuple[Idle, ...]:
    candidates = (e for e in ledger.engines.values() if e.state in (S.READY, S.SLEEPING) and not (e.busy or e.pinned))
    return tuple(Idle(e.id, e.last_used_s, {d: e.holds_on(d) for d in e.devices}) for e in candidates)


def _no_room(ledger: Ledger, event: LoadRequested, free: Mapping[DeviceId, int]) -> ErrorInfo:
    device = max(free, key=lambda name: free[name])
    holders = [e for e in ledger.engines.values() if e.holds_on(device)]
    required, available = to_mib(event.need_bytes), max(0, free[device] // 1024**2)
    held = ", ".join(f"{e.id} ({e.name}, {to_mib(e.holds_on(device))} MiB, {e.state})" for e in holders)
    return GpuMemoryInsufficient(
        f"{event.name} needs {required} MiB on {event.device_count} device(s); the emptiest, {device}, has "
        f"{available} MiB of {ledger.capacity[device] // 1024**2} MiB unpromised"
        + (f"; held by {held}." if held else "."),
        required_mb=required,
        available_mb=available,
        capacity_mb=ledger.capacity[device] // 1024**2,
        device=device,
        holders=[e.id for e in holders],
        suggestion=_room_suggestion(event, holders),
    ).info


def _room_suggestion(event: LoadRequested, holders: list[Engine]) -> str:
    smaller = "load-model with a smaller max_model_len or gpu_memory_utilization"
    if not holders:
        return smaller
    oldest = min(holders, key=lambda e: (e.busy, e.pinned, e.last_used_s))
    retry = "" if event.make_room else ", load-model with make_room=true"
    return f"unload-model {oldest.name}{retry}, or {smaller}"


def sleep_obstacle(ledger: Ledger, engine: Engine) -> ErrorInfo | None:
    if engine.asleep_bytes is None:
        return NotSupported(
            f"{engine.id} ({engine.name}) cannot sleep: vLLM's sleep mode needs a GPU, and an engine that only the "
            "suite reaches (a load without port).",
            engine_id=engine.id,
            suggestion=f"unload-model {engine.name}",
        ).info
    if engine.state is not S.READY or engine.busy:
        return _busy(engine) if engine.state is S.READY else not_now(engine, f"is {engine.state}")
    others = ledger.settling(engine.devices)
    return not_now(engine, f"shares a device with {others[0].id}, which is {others[0].state}") if others else None


def wake_obstacle(ledger: Ledger, engine: Engine) -> ErrorInfo | None:
    if engine.state is not S.SLEEPING:
        return not_now(engine, f"is {engine.state}")
    extra = engine.need_bytes - (engine.asleep_bytes or 0)
    short = {device: ledger.free(device) for device in engine.devices if ledger.free(device) < extra}
    if not short:
        return None
    request = LoadRequested("", engine.name, len(engine.devices), extra, 0.0)
    return _no_room(ledger, request, short)


def _busy(engine: Engine) -> ErrorInfo:
    requests = max(engine.in_flight, len(engine.leases) + len(engine.waiting))
    return ModelBusy(
        f"{engine.id} ({engine.name}) is busy: {requests} requests run or wait.",
        engine_id=engine.id,
        in_flight=requests,
        suggestion="call again when they have finished",
    ).info


def not_now(engine: Engine, why: str) -> ErrorInfo:
    return DeviceSettling(
        f"{engine.id} ({engine.name}) {why}.",
        engine_id=engine.id,
        suggestion="call again when it has finished",
    ).info


def name_taken(engine: Engine, model: str) -> ErrorInfo:
    """The error of a load of another model under a name in use."""
    return BadInput(
        f"{engine.id} serves {engine.model or engine.name} as {engine.name}, so {model} cannot have that name.",
        engine_id=engine.id,
        suggestion=f"give another served_model_name, or unload-model {engine.name} first",
    ).info


def not_loaded(name: str, loaded: list[str]) -> ErrorInfo:
    """The error of a request for a model that nothing serves."""
    here = f"Loaded: {', '.join(loaded)}." if loaded else "No model is loaded."
    return ModelNotLoaded(
        f"{name} is not loaded. {here}",
        model_id=name,
        loaded=loaded,
        suggestion=f"load-model with model_id={name}",
    ).info
