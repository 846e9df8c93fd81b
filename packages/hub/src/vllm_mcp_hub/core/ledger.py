"""All engines of a host and the memory that they were promised: the state that `lifecycle.step` changes. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vllm_mcp_hub.core.events import START_LIMIT_S, EngineId, RequestId
from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.model import DeviceId, EngineStatus

S = EngineStatus
SETTLING = frozenset({S.STARTING, S.SUSPENDING, S.WAKING, S.STOPPING})
PROMISED = frozenset({S.QUEUED, S.STARTING, S.READY, S.DRAINING, S.SUSPENDING, S.WAKE_QUEUED, S.WAKING})
"""States whose bytes count in full. STOPPING does not: its bytes already belong to whoever is next in line, who will
not be started before the stopping engine has vanished. SLEEPING counts with its small remainder."""

SERVING = frozenset({S.QUEUED, S.STARTING, S.READY, S.SUSPENDING, S.SLEEPING, S.WAKE_QUEUED, S.WAKING})
"""States of an engine that serves its name, or will: see `Engine.joinable`."""

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
    S.STOPPING: frozenset({S.STOPPED, S.QUEUED}),
    S.STOPPED: frozenset(),
}


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
    start_limit_s: float = START_LIMIT_S
    started_s: float | None = None
    asleep_since_s: float = 0.0
    adopted: bool = False
    attempts: int = 1
    in_flight: int = 0
    leases: set[RequestId] = field(default_factory=set)
    waiting: list[RequestId] = field(default_factory=list)
    """Leases that will be granted when it is ready."""
    port: int | None = None
    retry: bool = False
    """It will be queued again when it is gone; its promise stands."""
    exit_code: int | None = None
    failure: ErrorInfo | None = None

    @property
    def busy(self) -> bool:
        return bool(self.leases or self.waiting or self.in_flight)

    @property
    def joinable(self) -> bool:
        """A second load or lease of its name gets this engine, also while it goes only to start again."""
        return self.state in SERVING or self.retry

    def holds_on(self, device: DeviceId) -> int:
        """Bytes that count as promised on `device` now."""
        if device not in self.devices:
            return 0
        if self.state is S.SLEEPING:
            return self.asleep_bytes or 0
        return self.need_bytes if self.state in PROMISED or self.retry else 0

    def move(self, state: EngineStatus) -> None:
        """Change the state. Raises IllegalTransition, changing nothing, when TRANSITIONS does not have it."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"{self.id}: {self.state} → {state}")
        self.state = state


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
        return next((e for e in self.engines.values() if name in (e.name, e.model) and e.joinable), None)

    def refresh(self, seen: Mapping[DeviceId, int]) -> None:
        """Take over what the devices hold now. One that is gone keeps what its engines were promised, and no more."""
        used = {device for engine in self.live() for device in engine.devices}
        self.capacity = dict(seen) | {device: self.promised(device) for device in used - seen.keys()}

    def live(self) -> Iterator[Engine]:
        """Engines of which the operating system may still hold something."""
        return (e for e in self.engines.values() if e.state in LIVE)

    def settling(self, devices: tuple[DeviceId, ...]) -> list[Engine]:
        """Engines whose memory moves on one of `devices`."""
        return [e for e in self.engines.values() if e.state in SETTLING and set(e.devices) & set(devices)]

    def ticket(self) -> int:
        """The next place in the queue of starts and wakes."""
        self.next_ticket += 1
        return self.next_ticket - 1

    def check(self) -> None:
        """What must always hold. Raises BrokenPromise telling what does not; only a bug of ours can."""
        for device in self.capacity:
            self._check_device(device)
        names = [e.name for e in self.engines.values() if e.joinable and not e.adopted]
        _require(len(names) == len(set(names)), f"one name is served twice: {names}")
        for engine in self.engines.values():
            leasable = engine.state in (S.READY, S.DRAINING)
            _require(not engine.leases or leasable, f"{engine.id} is leased while {engine.state}")
            coming = engine.retry or engine.state in (S.QUEUED, S.STARTING, S.WAKE_QUEUED, S.WAKING)
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
