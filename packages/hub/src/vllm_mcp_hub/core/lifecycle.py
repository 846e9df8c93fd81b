"""The heart of the hub: the life of engines and the promises of memory. Events in, effects out.

One `Ledger` is owned by one task, and `step` is the only way to change it, so "two loads for the same GPU" is a
plain sequential program and not a race. There is no clock here: events carry `now_s`, a monotonic time.

                       ┌──────────────────────────── again (once, smaller) ───────────┐
    LoadRequested      ▼                                                              │
    ───────────▶ QUEUED ──device quiet──▶ STARTING ──healthy──▶ READY ◀──────┐   STARTING
                   │                        │                  │ │ │         │        │
                   │                        │        busy stop │ │ └─sleep─▶ SUSPENDING ─▶ SLEEPING
                   │                        │                  ▼ │           │               │ wake
                   │                        │           DRAINING │        WAKING ◀─quiet─ WAKE_QUEUED
                   │                        ▼                  ▼ ▼
                   │                      STOPPING ◀─── stop · timeout · leader lost · idle · pushed out
                   ▼                        │ vanished
                 STOPPED ◀──────────────────┘

Every state in which the device's free memory moves is SETTLING, and nothing is started beside it: vLLM sizes its KV
cache from free-memory deltas of the whole device (vllm#55827, vllm#56830).
"""

from vllm_mcp_hub.core.admission import admit, name_taken, not_loaded, not_now, sleep_obstacle, wake_obstacle
from vllm_mcp_hub.core.events import (
    Adopted,
    BecameReady,
    DevicesSeen,
    Effect,
    Event,
    Gauged,
    Granted,
    Kill,
    LeaderLost,
    LeaseEnded,
    LeaseRequested,
    LoadRequested,
    Refused,
    RequestId,
    SleepEnded,
    SleepRequested,
    Spawn,
    SpawnFailed,
    StopRequested,
    Suspend,
    Tick,
    Vanished,
    Wake,
    WakeEnded,
    WakeRequested,
)
from vllm_mcp_hub.core.ledger import Engine, IllegalTransition, Ledger, S
from vllm_mcp_protocol.errors import EngineNotFound, ErrorInfo, StartTimedOut
from vllm_mcp_protocol.model import DeviceId

STOP_GRACE_S = 20.0
"""From SIGTERM to SIGKILL. A ready vLLM 0.32 ends in 0.4 s; a starting one 2-9 s after the second SIGTERM."""

FORCED_GRACE_S = 2.0
LOST_GRACE_S = 0.0


def step(ledger: Ledger, event: Event) -> list[Effect]:
    """Apply one event, then start whatever the event made room for."""
    return [*_apply(ledger, event), *_start_queued(ledger)]


def _apply(ledger: Ledger, event: Event) -> list[Effect]:
    match event:
        case LoadRequested():
            return _load(ledger, event)
        case Adopted():
            return _adopt(ledger, event)
        case LeaseRequested():
            return _lease(ledger, event)
        case LeaseEnded(request, now_s):
            return _end_lease(ledger, request, now_s)
        case DevicesSeen(capacity):
            ledger.refresh(capacity)
            return []
        case Tick(now_s):
            return [effect for engine in list(ledger.live()) for effect in _tick(ledger, engine, now_s)]
        case _ if event.engine not in ledger.engines:
            return _forgotten(event)
        case _:
            return _apply_to_engine(ledger, ledger.engines[event.engine], event)


def _forgotten(event: Event) -> list[Effect]:
    """News of an engine that stopped so long ago that it is forgotten is no news; a question needs an answer."""
    if not isinstance(event, SleepRequested | WakeRequested):
        return []
    gone = EngineNotFound(f"Engine {event.engine} is not there any more.", engine_id=event.engine)
    return [Refused(event.request, gone.info)]


def _apply_to_engine(ledger: Ledger, engine: Engine, event: Event) -> list[Effect]:
    match event:
        case BecameReady(_, now_s):
            return _ready(engine, now_s) if engine.state is S.STARTING else []  # a late probe is not news
        case StopRequested(_, force):
            return _stop(engine, force)
        case LeaderLost(_, failure, again):
            return _lose(engine, failure, again)
        case Vanished(_, exit_code, failure, again):
            return _vanish(engine, exit_code, failure, again)
        case SpawnFailed(_, failure):
            return _vanish(engine, None, failure, again=False)
        case SleepRequested(request, _, level):
            return _sleep(ledger, engine, request, level)
        case SleepEnded(_, now_s, failure):
            return _slept(engine, now_s, failure)
        case WakeRequested(request, _, now_s):
            return _wake(ledger, engine, request, now_s)
        case WakeEnded(_, now_s, failure):
            return _woken(engine, now_s, failure)
        case Gauged(_, in_flight, now_s, used):
            return _gauge(engine, in_flight, now_s, used)
        case _:
            raise IllegalTransition(f"{event} is not an engine's event")


# -- starting --------------------------------------------------------------------------------------------------------
def _start_queued(ledger: Ledger) -> list[Effect]:
    """Start or wake queued engines in the order of their tickets, on devices that are quiet. No overtaking."""
    effects: list[Effect] = []
    claimed: set[DeviceId] = set()
    queued = (e for e in ledger.engines.values() if e.state in (S.QUEUED, S.WAKE_QUEUED))
    for engine in sorted(queued, key=lambda e: e.ticket):
        if not ledger.settling(engine.devices) and not claimed.intersection(engine.devices):
            if engine.state is S.QUEUED:
                engine.move(S.STARTING)
                effects.append(Spawn(engine.id))
            else:
                engine.move(S.WAKING)
                effects.append(Wake(engine.id))
        claimed.update(engine.devices)
    return effects


def _load(ledger: Ledger, event: LoadRequested) -> list[Effect]:
    present = ledger.serving(event.name)
    if present is not None:
        return _join(ledger, present, event)
    placement = admit(ledger, event)
    if isinstance(placement, ErrorInfo):
        return [Refused(event.request, placement)]
    if event.dry_run:
        return [Granted(event.request, "", devices=placement.devices, evicted=placement.evict)]
    kills = [effect for victim in placement.evict for effect in _stop(ledger.engines[victim], force=False)]
    engine = _new_engine(ledger, event, placement.devices)
    return [*kills, Granted(event.request, engine.id, devices=engine.devices, evicted=placement.evict)]


def _join(ledger: Ledger, present: Engine, event: LoadRequested) -> list[Effect]:
    if event.model not in ("", event.name, present.name, present.model):
        return [Refused(event.request, name_taken(present, event.model))]
    joined: list[Effect] = [Granted(event.request, present.id, joined=True, devices=present.devices)]
    if event.dry_run:
        return joined
    if present.state is S.SUSPENDING:
        return [Refused(event.request, not_now(present, "is going to sleep"))]
    if present.state is S.SLEEPING:
        refused = [e for e in _wake(ledger, present, event.request, event.now_s) if isinstance(e, Refused)]
        return [*refused] if refused else joined
    return joined


def _new_engine(ledger: Ledger, event: LoadRequested, devices: tuple[DeviceId, ...]) -> Engine:
    engine = Engine(
        id=f"e{ledger.next_id}",
        name=event.name,
        devices=devices,
        need_bytes=event.need_bytes,
        state=S.QUEUED,
        ticket=ledger.ticket(),
        last_used_s=event.now_s,
        model=event.model,
        port=event.port,
        asleep_bytes=event.asleep_bytes,
        ttl_s=event.ttl_s,
        pinned=event.pinned,
        start_limit_s=event.start_limit_s,
    )
    ledger.next_id += 1
    ledger.engines[engine.id] = engine
    return engine


def _adopt(ledger: Ledger, event: Adopted) -> list[Effect]:
    if event.engine in ledger.engines:
        raise IllegalTransition(f"{event.engine} is adopted twice")
    ledger.engines[event.engine] = Engine(
        id=event.engine,
        name=event.name,
        devices=event.devices,
        need_bytes=event.need_bytes,
        state=event.state,
        ticket=ledger.ticket(),
        last_used_s=event.now_s,
        model=event.model,
        port=event.port,
        asleep_bytes=event.asleep_bytes,
        ttl_s=event.ttl_s,
        pinned=event.pinned,
        start_limit_s=event.start_limit_s,
        asleep_since_s=event.now_s,
        started_s=event.now_s,
        adopted=True,
    )
    ledger.next_id = max(ledger.next_id, int(event.engine[1:]) + 1)
    return []


def _ready(engine: Engine, now_s: float) -> list[Effect]:
    engine.move(S.READY)
    engine.last_used_s = now_s
    return _grant_waiting(engine)


def _grant_waiting(engine: Engine) -> list[Effect]:
    granted, engine.waiting = engine.waiting, []
    engine.leases.update(granted)
    return [Granted(request, engine.id) for request in granted]


# -- ending ----------------------------------------------------------------------------------------------------------
def _stop(engine: Engine, force: bool) -> list[Effect]:
    if engine.state in (S.STOPPED, S.STOPPING):
        # A forced stop of an engine that is already stopping shortens its grace; its kill is repeated, harmlessly.
        engine.retry = False
        kills = [Kill(engine.id, FORCED_GRACE_S)] if force and engine.state is S.STOPPING else []
        return [*kills, *_refuse_waiting(engine)]  # those who waited for the second start
    if engine.state is S.QUEUED:
        engine.move(S.STOPPED)  # never spawned: nothing to kill
        return _refuse_waiting(engine)
    if engine.state is S.DRAINING and not force:
        return []
    if engine.state is S.READY and engine.busy and not force:
        engine.move(S.DRAINING)
        return []
    return _end(engine, FORCED_GRACE_S if force else STOP_GRACE_S)


def _end(engine: Engine, grace_s: float, failure: ErrorInfo | None = None) -> list[Effect]:
    engine.move(S.STOPPING)
    engine.failure = failure
    engine.leases.clear()
    return [Kill(engine.id, grace_s), *_refuse_waiting(engine)]


def _refuse_waiting(engine: Engine) -> list[Effect]:
    waiting, engine.waiting = engine.waiting, []
    error = engine.failure or not_loaded(engine.name, [])
    return [Refused(request, error) for request in waiting]


def _lose(engine: Engine, failure: ErrorInfo | None, again: bool) -> list[Effect]:
    if engine.state in (S.QUEUED, S.STOPPING, S.STOPPED):
        return []
    if again and engine.state is S.STARTING and engine.attempts == 1:
        engine.move(S.STOPPING)
        engine.retry = True
        return [Kill(engine.id, LOST_GRACE_S)]
    return _end(engine, LOST_GRACE_S, failure)


def _vanish(engine: Engine, exit_code: int | None, failure: ErrorInfo | None, again: bool) -> list[Effect]:
    if engine.state in (S.QUEUED, S.STOPPED):
        raise IllegalTransition(f"{engine.id} vanished while {engine.state}")
    if engine.retry or (again and engine.state is S.STARTING and engine.attempts == 1):
        engine.move(S.QUEUED)
        engine.attempts, engine.started_s, engine.retry = 2, None, False
        return []
    asked = engine.state is S.STOPPING
    engine.move(S.STOPPED)
    engine.exit_code, engine.in_flight = exit_code, 0
    engine.leases.clear()
    engine.failure = engine.failure if asked else failure
    return _refuse_waiting(engine)


# -- sleeping --------------------------------------------------------------------------------------------------------
def _sleep(ledger: Ledger, engine: Engine, request: RequestId, level: int) -> list[Effect]:
    granted = Granted(request, engine.id)
    if engine.state in (S.SUSPENDING, S.SLEEPING):
        return [granted]
    obstacle = sleep_obstacle(ledger, engine)
    if obstacle is not None:
        return [Refused(request, obstacle)]
    engine.move(S.SUSPENDING)
    return [granted, Suspend(engine.id, level)]


def _slept(engine: Engine, now_s: float, failure: ErrorInfo | None) -> list[Effect]:
    if engine.state is not S.SUSPENDING:
        return []
    engine.failure, engine.asleep_since_s = failure, now_s
    engine.move(S.SLEEPING if failure is None else S.READY)
    if failure is not None:
        engine.asleep_bytes = None  # it would fail again, and an idle one would be asked at every tick
    return []


def _wake(ledger: Ledger, engine: Engine, request: RequestId, now_s: float) -> list[Effect]:
    granted = Granted(request, engine.id)
    if engine.state in (S.READY, S.WAKE_QUEUED, S.WAKING):
        return [granted]
    refusal = wake_obstacle(ledger, engine)
    if refusal is not None:
        return [Refused(request, refusal)]
    engine.move(S.WAKE_QUEUED)
    engine.ticket, engine.last_used_s = ledger.ticket(), now_s
    return [granted]


def _woken(engine: Engine, now_s: float, failure: ErrorInfo | None) -> list[Effect]:
    if engine.state is not S.WAKING:
        return []
    if failure is None:
        return _ready(engine, now_s)
    return _end(engine, FORCED_GRACE_S, failure)  # half awake is of no use to anybody, its memory is unknown


# -- use and idleness ------------------------------------------------------------------------------------------------
def _lease(ledger: Ledger, event: LeaseRequested) -> list[Effect]:
    engine = ledger.serving(event.name)
    if engine is None:
        loaded = [e.name for e in ledger.engines.values() if e.joinable]
        return [Refused(event.request, not_loaded(event.name, loaded))]
    engine.last_used_s = event.now_s
    if engine.state is S.READY:
        engine.leases.add(event.request)
        return [Granted(event.request, engine.id)]
    if engine.state is S.SUSPENDING:
        return [Refused(event.request, not_now(engine, "is going to sleep"))]
    if engine.state is S.SLEEPING:
        refused = [e for e in _wake(ledger, engine, event.request, event.now_s) if isinstance(e, Refused)]
        if refused:
            return [*refused]
    engine.waiting.append(event.request)
    return []


def _end_lease(ledger: Ledger, request: RequestId, now_s: float) -> list[Effect]:
    for engine in ledger.engines.values():
        if request in engine.waiting:
            engine.waiting.remove(request)
        elif request in engine.leases:
            engine.leases.remove(request)
            engine.last_used_s = now_s
            return _finish_draining(engine)
    return []


def _gauge(engine: Engine, in_flight: int, now_s: float, used: bool) -> list[Effect]:
    engine.in_flight = in_flight
    if in_flight or used:
        engine.last_used_s = now_s
    return _finish_draining(engine)


def _finish_draining(engine: Engine) -> list[Effect]:
    return _end(engine, STOP_GRACE_S) if engine.state is S.DRAINING and not engine.busy else []


def _tick(ledger: Ledger, engine: Engine, now_s: float) -> list[Effect]:
    if engine.state is S.STARTING:
        engine.started_s = now_s if engine.started_s is None else engine.started_s
        return _check_start_limit(engine, now_s)
    if engine.state is S.READY and _expired(engine, engine.last_used_s, now_s):
        return _retire_idle(ledger, engine)
    if engine.state is S.SLEEPING and _expired(engine, engine.asleep_since_s, now_s):
        return _end(engine, STOP_GRACE_S)
    return []


def _check_start_limit(engine: Engine, now_s: float) -> list[Effect]:
    if engine.started_s is None or now_s - engine.started_s < engine.start_limit_s:
        return []
    failure = StartTimedOut(
        f"{engine.name} was not ready {engine.start_limit_s:.0f} s after its start.",
        engine_id=engine.id,
        limit_s=engine.start_limit_s,
        suggestion=f"get-model-logs {engine.name}; a slow disk or download needs a larger start_limit_s in hub.toml",
    ).info
    return _end(engine, FORCED_GRACE_S, failure)


def _expired(engine: Engine, since_s: float, now_s: float) -> bool:
    kept = engine.pinned or engine.busy or engine.ttl_s is None
    return not kept and now_s - since_s >= (engine.ttl_s or 0)


def _retire_idle(ledger: Ledger, engine: Engine) -> list[Effect]:
    """Sleep where it can, because waking takes a second or two, and end after as long again; else end now."""
    if engine.asleep_bytes is None:
        return _end(engine, STOP_GRACE_S)
    if ledger.settling(engine.devices):
        return []  # at the next tick
    engine.move(S.SUSPENDING)
    return [Suspend(engine.id, 1)]
