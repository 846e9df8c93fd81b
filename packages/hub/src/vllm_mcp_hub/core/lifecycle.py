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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vllm_mcp_hub.core.placement import Idle, Placement, place
from vllm_mcp_protocol.errors import (
    DeviceSettling,
    ErrorInfo,
    GpuMemoryInsufficient,
    ModelNotLoaded,
    NotSupported,
    StartTimedOut,
    TooFewDevices,
)
from vllm_mcp_protocol.model import DeviceId, EngineStatus
from vllm_mcp_protocol.units import to_mib

S = EngineStatus
EngineId = str
RequestId = str

SETTLING = frozenset({S.STARTING, S.SUSPENDING, S.WAKING, S.STOPPING})
PROMISED = frozenset({S.QUEUED, S.STARTING, S.READY, S.DRAINING, S.SUSPENDING, S.WAKE_QUEUED, S.WAKING})
"""States whose bytes count in full. STOPPING does not: its bytes already belong to whoever is next in line, who will
not be started before the stopping engine has vanished. SLEEPING counts with its small remainder."""

SERVING = frozenset({S.QUEUED, S.STARTING, S.READY, S.SUSPENDING, S.SLEEPING, S.WAKE_QUEUED, S.WAKING})
"""States that a second load of the same name joins."""

LIVE = SERVING | {S.DRAINING, S.STOPPING}

TRANSITIONS: Mapping[EngineStatus, frozenset[EngineStatus]] = {
    S.QUEUED: frozenset({S.STARTING, S.STOPPED}),
    S.STARTING: frozenset({S.READY, S.STOPPING, S.STOPPED, S.QUEUED}),
    S.READY: frozenset({S.DRAINING, S.SUSPENDING, S.STOPPING, S.STOPPED}),
    S.DRAINING: frozenset({S.STOPPING, S.STOPPED}),
    S.SUSPENDING: frozenset({S.SLEEPING, S.READY, S.STOPPING, S.STOPPED}),
    S.SLEEPING: frozenset({S.WAKE_QUEUED, S.STOPPING, S.STOPPED}),
    S.WAKE_QUEUED: frozenset({S.WAKING, S.STOPPING, S.STOPPED}),
    S.WAKING: frozenset({S.READY, S.STOPPING, S.STOPPED}),
    S.STOPPING: frozenset({S.STOPPED}),
    S.STOPPED: frozenset(),
}

STOP_GRACE_S = 20.0
"""From SIGTERM to SIGKILL. A ready vLLM 0.32 ends in 0.4 s; a starting one 2-9 s after the second SIGTERM."""

FORCED_GRACE_S = 2.0
LOST_GRACE_S = 0.0


# -- events ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LoadRequested:
    request: RequestId
    name: str
    """The name that it will be served under."""
    device_count: int
    need_bytes: int
    now_s: float
    devices: tuple[DeviceId, ...] = ()
    """Exactly these devices; empty: the hub chooses."""
    asleep_bytes: int | None = None
    make_room: bool = False
    ttl_s: float | None = None
    pinned: bool = False
    start_limit_s: float = 1800.0
    model: str = ""
    """The model behind the name, when they differ: a load by the model's own id joins it too."""
    dry_run: bool = False


@dataclass(frozen=True)
class Adopted:
    """An engine that runs already, found by a new hub."""

    engine: EngineId
    name: str
    devices: tuple[DeviceId, ...]
    need_bytes: int
    now_s: float
    state: EngineStatus
    asleep_bytes: int | None = None
    ttl_s: float | None = None
    pinned: bool = False
    start_limit_s: float = 1800.0
    model: str = ""


@dataclass(frozen=True)
class BecameReady:
    engine: EngineId
    now_s: float


@dataclass(frozen=True)
class StopRequested:
    engine: EngineId
    force: bool = False


@dataclass(frozen=True)
class LeaderLost:
    """The API server is gone, others of its session live and hold the device."""

    engine: EngineId
    failure: ErrorInfo | None


@dataclass(frozen=True)
class Vanished:
    """Nothing of the engine is left: lock free, session empty."""

    engine: EngineId
    exit_code: int | None
    failure: ErrorInfo | None = None
    """Why, when nobody asked for it."""
    again: bool = False
    """Start it once more, with a smaller plan (after an out-of-memory, when the caller allowed it)."""


@dataclass(frozen=True)
class SpawnFailed:
    engine: EngineId
    failure: ErrorInfo


@dataclass(frozen=True)
class SleepRequested:
    request: RequestId
    engine: EngineId
    level: int = 1


@dataclass(frozen=True)
class SleepEnded:
    engine: EngineId
    failure: ErrorInfo | None


@dataclass(frozen=True)
class WakeRequested:
    request: RequestId
    engine: EngineId
    now_s: float


@dataclass(frozen=True)
class WakeEnded:
    engine: EngineId
    now_s: float
    failure: ErrorInfo | None


@dataclass(frozen=True)
class LeaseRequested:
    request: RequestId
    name: str
    now_s: float


@dataclass(frozen=True)
class LeaseEnded:
    request: RequestId
    now_s: float


@dataclass(frozen=True)
class Gauged:
    """Requests running or waiting in the engine, by its own count."""

    engine: EngineId
    in_flight: int
    now_s: float


@dataclass(frozen=True)
class KeepChanged:
    engine: EngineId
    pinned: bool
    ttl_s: float | None


@dataclass(frozen=True)
class Tick:
    now_s: float


Event = (
    LoadRequested | Adopted | BecameReady | StopRequested | LeaderLost | Vanished | SpawnFailed | SleepRequested
    | SleepEnded | WakeRequested | WakeEnded | LeaseRequested | LeaseEnded | Gauged | KeepChanged | Tick
)  # fmt: skip


# -- effects --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spawn:
    engine: EngineId


@dataclass(frozen=True)
class Kill:
    engine: EngineId
    grace_s: float


@dataclass(frozen=True)
class Suspend:
    engine: EngineId
    level: int


@dataclass(frozen=True)
class Wake:
    engine: EngineId


@dataclass(frozen=True)
class Granted:
    request: RequestId
    engine: EngineId
    joined: bool = False
    devices: tuple[DeviceId, ...] = ()
    evicted: tuple[EngineId, ...] = ()


@dataclass(frozen=True)
class Refused:
    request: RequestId
    error: ErrorInfo


Effect = Spawn | Kill | Suspend | Wake | Granted | Refused


class IllegalTransition(AssertionError):
    """A bug in the caller, never a user's error. Nothing was changed."""


class BrokenPromise(AssertionError):
    """The ledger contradicts itself."""


@dataclass
class Engine:
    """What the decisions need to know of an engine."""

    id: EngineId
    name: str
    devices: tuple[DeviceId, ...]
    need_bytes: int
    state: EngineStatus
    ticket: int
    """Place in the queue of starts and wakes."""
    last_used_s: float
    model: str = ""
    asleep_bytes: int | None = None
    ttl_s: float | None = None
    pinned: bool = False
    start_limit_s: float = 1800.0
    started_s: float | None = None
    adopted: bool = False
    attempts: int = 1
    in_flight: int = 0
    leases: set[RequestId] = field(default_factory=set)
    waiting: list[RequestId] = field(default_factory=list)
    """Leases that will be granted when it is ready."""
    exit_code: int | None = None
    failure: ErrorInfo | None = None

    @property
    def busy(self) -> bool:
        return bool(self.leases or self.waiting or self.in_flight)

    def holds_on(self, device: DeviceId) -> int:
        """Bytes that count as promised on `device` now."""
        if device not in self.devices:
            return 0
        if self.state is S.SLEEPING:
            return self.asleep_bytes or 0
        return self.need_bytes if self.state in PROMISED else 0


@dataclass
class Ledger:
    """All engines, and what each device may be promised (bytes)."""

    capacity: dict[DeviceId, int]
    engines: dict[EngineId, Engine] = field(default_factory=dict)
    next_id: int = 1
    next_ticket: int = 1

    def promised(self, device: DeviceId) -> int:
        """Bytes promised on `device`."""
        return sum(engine.holds_on(device) for engine in self.engines.values())

    def free(self, device: DeviceId) -> int:
        """Bytes of `device` that nobody was promised; negative when adopted engines hold more than there is."""
        return self.capacity[device] - self.promised(device)

    def serving(self, name: str) -> Engine | None:
        """The engine that a load of `name` would join."""
        return next((e for e in self.engines.values() if name in (e.name, e.model) and e.state in SERVING), None)

    def live(self) -> Iterator[Engine]:
        """Engines of which the operating system may still hold something."""
        return (e for e in self.engines.values() if e.state in LIVE)

    def settling(self, devices: tuple[DeviceId, ...]) -> list[Engine]:
        """Engines whose memory moves on one of `devices`."""
        return [e for e in self.engines.values() if e.state in SETTLING and set(e.devices) & set(devices)]

    def check(self) -> None:
        """What must always hold. Raises BrokenPromise telling what does not; only a bug of ours can."""
        for device in self.capacity:
            self._check_device(device)
        names = [e.name for e in self.engines.values() if e.state in SERVING and not e.adopted]
        _require(len(names) == len(set(names)), f"one name is served twice: {names}")
        for engine in self.engines.values():
            leasable = engine.state in (S.READY, S.DRAINING)
            _require(not engine.leases or leasable, f"{engine.id} is leased while {engine.state}")
            coming = engine.state in (S.QUEUED, S.STARTING, S.WAKE_QUEUED, S.WAKING)
            _require(not engine.waiting or coming, f"{engine.id} has waiters while {engine.state}")

    def _check_device(self, device: DeviceId) -> None:
        """An adopted engine may hold more than fits, or start beside another one: the last hub's doing, not ours."""
        on = [e for e in self.engines.values() if device in e.devices]
        adopted = any(e.adopted for e in on)
        promised, total = self.promised(device), self.capacity[device]
        _require(adopted or promised <= total, f"{device}: promised {promised} of {total}")
        moving = [e.id for e in on if e.state in (S.STARTING, S.WAKING) and not e.adopted]
        _require(len(moving) <= 1, f"{device}: {moving} start at once")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BrokenPromise(otherwise)


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
        case Tick(now_s):
            return [effect for engine in list(ledger.live()) for effect in _tick(ledger, engine, now_s)]
        case _:
            return _apply_to_engine(ledger, ledger.engines[event.engine], event)


def _apply_to_engine(ledger: Ledger, engine: Engine, event: Event) -> list[Effect]:
    match event:
        case BecameReady(_, now_s):
            return _ready(engine, now_s) if engine.state is S.STARTING else []  # a late probe is not news
        case StopRequested(_, force):
            return _stop(engine, force)
        case LeaderLost(_, failure):
            return _lose(engine, failure)
        case Vanished(_, exit_code, failure, again):
            return _vanish(engine, exit_code, failure, again)
        case SpawnFailed(_, failure):
            return _vanish(engine, None, failure, again=False)
        case SleepRequested(request, _, level):
            return _sleep(ledger, engine, request, level)
        case SleepEnded(_, failure):
            return _slept(engine, failure)
        case WakeRequested(request, _, now_s):
            return _wake(ledger, engine, request, now_s)
        case WakeEnded(_, now_s, failure):
            return _woken(engine, now_s, failure)
        case Gauged(_, in_flight, now_s):
            return _gauge(engine, in_flight, now_s)
        case KeepChanged(_, pinned, ttl_s):
            engine.pinned, engine.ttl_s = pinned, ttl_s
            return []
        case _:
            raise IllegalTransition(f"{event} is not an engine's event")


def _move(engine: Engine, state: EngineStatus) -> None:
    if state not in TRANSITIONS[engine.state]:
        raise IllegalTransition(f"{engine.id}: {engine.state} → {state}")
    engine.state = state


# -- starting -------------------------------------------------------------------------------------------------------
def _start_queued(ledger: Ledger) -> list[Effect]:
    """Start or wake queued engines in the order of their tickets, on devices that are quiet. No overtaking."""
    effects: list[Effect] = []
    claimed: set[DeviceId] = set()
    queued = (e for e in ledger.engines.values() if e.state in (S.QUEUED, S.WAKE_QUEUED))
    for engine in sorted(queued, key=lambda e: e.ticket):
        if not ledger.settling(engine.devices) and not claimed.intersection(engine.devices):
            if engine.state is S.QUEUED:
                _move(engine, S.STARTING)
                effects.append(Spawn(engine.id))
            else:
                _move(engine, S.WAKING)
                effects.append(Wake(engine.id))
        claimed.update(engine.devices)
    return effects


def _ticket(ledger: Ledger) -> int:
    ledger.next_ticket += 1
    return ledger.next_ticket - 1


def _load(ledger: Ledger, event: LoadRequested) -> list[Effect]:
    present = ledger.serving(event.name)
    if present is not None:
        return _join(ledger, present, event)
    placement = _place(ledger, event)
    if isinstance(placement, ErrorInfo):
        return [Refused(event.request, placement)]
    if event.dry_run:
        return [Granted(event.request, "", devices=placement.devices, evicted=placement.evict)]
    kills = [effect for victim in placement.evict for effect in _stop(ledger.engines[victim], force=False)]
    engine = _new_engine(ledger, event, placement.devices)
    return [*kills, Granted(event.request, engine.id, devices=engine.devices, evicted=placement.evict)]


def _join(ledger: Ledger, present: Engine, event: LoadRequested) -> list[Effect]:
    joined: list[Effect] = [Granted(event.request, present.id, joined=True, devices=present.devices)]
    if event.dry_run:
        return joined
    if present.state is S.SUSPENDING:
        return [Refused(event.request, _not_now(present, "is going to sleep"))]
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
        ticket=_ticket(ledger),
        last_used_s=event.now_s,
        model=event.model,
        asleep_bytes=event.asleep_bytes,
        ttl_s=event.ttl_s,
        pinned=event.pinned,
        start_limit_s=event.start_limit_s,
    )
    ledger.next_id += 1
    ledger.engines[engine.id] = engine
    return engine


def _place(ledger: Ledger, event: LoadRequested) -> Placement | ErrorInfo:
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


def _adopt(ledger: Ledger, event: Adopted) -> list[Effect]:
    if event.engine in ledger.engines:
        raise IllegalTransition(f"{event.engine} is adopted twice")
    ledger.engines[event.engine] = Engine(
        id=event.engine,
        name=event.name,
        devices=event.devices,
        need_bytes=event.need_bytes,
        state=event.state,
        ticket=_ticket(ledger),
        last_used_s=event.now_s,
        model=event.model,
        asleep_bytes=event.asleep_bytes,
        ttl_s=event.ttl_s,
        pinned=event.pinned,
        start_limit_s=event.start_limit_s,
        started_s=event.now_s,
        adopted=True,
    )
    ledger.next_id = max(ledger.next_id, int(event.engine[1:]) + 1)
    return []


def _ready(engine: Engine, now_s: float) -> list[Effect]:
    _move(engine, S.READY)
    engine.last_used_s = now_s
    return _grant_waiting(engine)


def _grant_waiting(engine: Engine) -> list[Effect]:
    granted, engine.waiting = engine.waiting, []
    engine.leases.update(granted)
    return [Granted(request, engine.id) for request in granted]


# -- ending ---------------------------------------------------------------------------------------------------------
def _stop(engine: Engine, force: bool) -> list[Effect]:
    if engine.state in (S.STOPPED, S.STOPPING):
        # A forced stop of an engine that is already stopping shortens its grace; its kill is repeated, harmlessly.
        return [Kill(engine.id, FORCED_GRACE_S)] if force and engine.state is S.STOPPING else []
    if engine.state is S.QUEUED:
        _move(engine, S.STOPPED)  # never spawned: nothing to kill
        return _refuse_waiting(engine)
    if engine.state is S.DRAINING and not force:
        return []
    if engine.state is S.READY and engine.busy and not force:
        _move(engine, S.DRAINING)
        return []
    return _end(engine, FORCED_GRACE_S if force else STOP_GRACE_S)


def _end(engine: Engine, grace_s: float) -> list[Effect]:
    _move(engine, S.STOPPING)
    engine.leases.clear()
    return [Kill(engine.id, grace_s), *_refuse_waiting(engine)]


def _refuse_waiting(engine: Engine) -> list[Effect]:
    waiting, engine.waiting = engine.waiting, []
    error = engine.failure or not_loaded(engine.name, [])
    return [Refused(request, error) for request in waiting]


def _lose(engine: Engine, failure: ErrorInfo | None) -> list[Effect]:
    if engine.state in (S.STOPPING, S.STOPPED):
        return []
    engine.failure = failure
    return _end(engine, LOST_GRACE_S)


def _vanish(engine: Engine, exit_code: int | None, failure: ErrorInfo | None, again: bool) -> list[Effect]:
    if engine.state in (S.QUEUED, S.STOPPED):
        raise IllegalTransition(f"{engine.id} vanished while {engine.state}")
    if again and engine.state is S.STARTING and engine.attempts == 1:
        _move(engine, S.QUEUED)
        engine.attempts, engine.started_s = 2, None
        return []
    asked = engine.state is S.STOPPING
    _move(engine, S.STOPPED)
    engine.exit_code, engine.in_flight = exit_code, 0
    engine.leases.clear()
    engine.failure = engine.failure or (None if asked else failure)
    return _refuse_waiting(engine)


# -- sleeping -------------------------------------------------------------------------------------------------------
def _sleep(ledger: Ledger, engine: Engine, request: RequestId, level: int) -> list[Effect]:
    granted = Granted(request, engine.id)
    if engine.state in (S.SUSPENDING, S.SLEEPING):
        return [granted]
    obstacle = _sleep_obstacle(ledger, engine)
    if obstacle is not None:
        return [Refused(request, obstacle)]
    _move(engine, S.SUSPENDING)
    return [granted, Suspend(engine.id, level)]


def _sleep_obstacle(ledger: Ledger, engine: Engine) -> ErrorInfo | None:
    if engine.asleep_bytes is None:
        return NotSupported(
            f"{engine.id} ({engine.name}) cannot sleep: vLLM's sleep mode needs a GPU, and an engine that only the "
            "suite reaches (a load without port).",
            engine_id=engine.id,
            suggestion=f"unload-model {engine.name}",
        ).info
    if engine.state is not S.READY or engine.busy:
        return _not_now(engine, "is " + ("busy" if engine.state is S.READY else engine.state))
    others = ledger.settling(engine.devices)
    return _not_now(engine, f"shares a device with {others[0].id}, which is {others[0].state}") if others else None


def _not_now(engine: Engine, why: str) -> ErrorInfo:
    return DeviceSettling(
        f"{engine.id} ({engine.name}) {why}.",
        engine_id=engine.id,
        suggestion="call again when it has finished",
    ).info


def _slept(engine: Engine, failure: ErrorInfo | None) -> list[Effect]:
    if engine.state is not S.SUSPENDING:
        return []
    engine.failure = failure
    _move(engine, S.SLEEPING if failure is None else S.READY)
    return []


def _wake(ledger: Ledger, engine: Engine, request: RequestId, now_s: float) -> list[Effect]:
    granted = Granted(request, engine.id)
    if engine.state in (S.READY, S.WAKE_QUEUED, S.WAKING):
        return [granted]
    refusal = _wake_obstacle(ledger, engine)
    if refusal is not None:
        return [Refused(request, refusal)]
    _move(engine, S.WAKE_QUEUED)
    engine.ticket, engine.last_used_s = _ticket(ledger), now_s
    return [granted]


def _wake_obstacle(ledger: Ledger, engine: Engine) -> ErrorInfo | None:
    if engine.state is not S.SLEEPING:
        return _not_now(engine, f"is {engine.state}")
    extra = engine.need_bytes - (engine.asleep_bytes or 0)
    short = {device: ledger.free(device) for device in engine.devices if ledger.free(device) < extra}
    if not short:
        return None
    request = LoadRequested("", engine.name, len(engine.devices), extra, 0.0)
    return _no_room(ledger, request, short)


def _woken(engine: Engine, now_s: float, failure: ErrorInfo | None) -> list[Effect]:
    if engine.state is not S.WAKING:
        return []
    if failure is None:
        return _ready(engine, now_s)
    engine.failure = failure  # half awake is of no use to anybody, and its memory is unknown
    return _end(engine, FORCED_GRACE_S)


# -- use and idleness -----------------------------------------------------------------------------------------------
def _lease(ledger: Ledger, event: LeaseRequested) -> list[Effect]:
    engine = ledger.serving(event.name)
    if engine is None:
        loaded = [e.name for e in ledger.engines.values() if e.state in SERVING]
        return [Refused(event.request, not_loaded(event.name, loaded))]
    engine.last_used_s = event.now_s
    if engine.state is S.READY:
        engine.leases.add(event.request)
        return [Granted(event.request, engine.id)]
    if engine.state is S.SUSPENDING:
        return [Refused(event.request, _not_now(engine, "is going to sleep"))]
    if engine.state is S.SLEEPING:
        refused = [e for e in _wake(ledger, engine, event.request, event.now_s) if isinstance(e, Refused)]
        if refused:
            return [*refused]
    engine.waiting.append(event.request)
    return []


def not_loaded(name: str, loaded: list[str]) -> ErrorInfo:
    """The error of a request for a model that nothing serves."""
    here = f"Loaded: {', '.join(loaded)}." if loaded else "No model is loaded."
    return ModelNotLoaded(
        f"{name} is not loaded. {here}",
        model_id=name,
        loaded=loaded,
        suggestion=f"load-model with model_id={name}",
    ).info


def _end_lease(ledger: Ledger, request: RequestId, now_s: float) -> list[Effect]:
    for engine in ledger.engines.values():
        if request in engine.waiting:
            engine.waiting.remove(request)
        elif request in engine.leases:
            engine.leases.remove(request)
            engine.last_used_s = now_s
            return _finish_draining(engine)
    return []


def _gauge(engine: Engine, in_flight: int, now_s: float) -> list[Effect]:
    engine.in_flight = in_flight
    if in_flight:
        engine.last_used_s = now_s
    return _finish_draining(engine)


def _finish_draining(engine: Engine) -> list[Effect]:
    return _end(engine, STOP_GRACE_S) if engine.state is S.DRAINING and not engine.busy else []


def _tick(ledger: Ledger, engine: Engine, now_s: float) -> list[Effect]:
    if engine.state is S.STARTING:
        engine.started_s = now_s if engine.started_s is None else engine.started_s
        return _check_start_limit(engine, now_s)
    if engine.state is S.READY and _expired(engine, now_s):
        return _retire_idle(ledger, engine)
    return []


def _check_start_limit(engine: Engine, now_s: float) -> list[Effect]:
    if engine.started_s is None or now_s - engine.started_s < engine.start_limit_s:
        return []
    engine.failure = StartTimedOut(
        f"{engine.name} was not ready {engine.start_limit_s:.0f} s after its start.",
        engine_id=engine.id,
        limit_s=engine.start_limit_s,
        suggestion=f"get-model-logs {engine.name}; a slow disk or download needs a larger start_limit_s in hub.toml",
    ).info
    return _end(engine, FORCED_GRACE_S)


def _expired(engine: Engine, now_s: float) -> bool:
    kept = engine.pinned or engine.busy or engine.ttl_s is None
    return not kept and now_s - engine.last_used_s >= (engine.ttl_s or 0)


def _retire_idle(ledger: Ledger, engine: Engine) -> list[Effect]:
    """Sleep where it can, because waking takes a second or two; else stop."""
    if engine.asleep_bytes is None:
        return _end(engine, STOP_GRACE_S)
    if ledger.settling(engine.devices):
        return []  # at the next tick
    _move(engine, S.SUSPENDING)
    return [Suspend(engine.id, 1)]
