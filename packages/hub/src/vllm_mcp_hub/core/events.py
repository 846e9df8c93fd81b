"""What happens to engines (events), and what is to be done about it (effects). Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.model import DeviceId, EngineStatus

EngineId = str
RequestId = str

START_LIMIT_S = 1800.0
"""A start may take so long unless hub.toml says otherwise: 70B weights from a network disk take 10-20 minutes."""


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
    start_limit_s: float = START_LIMIT_S
    model: str = ""
    """The model behind the name, when they differ: a load by the model's own id joins it too."""
    port: int | None = None
    """TCP port that it will listen on; a port is given once."""
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
    start_limit_s: float = START_LIMIT_S
    model: str = ""
    port: int | None = None


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
    again: bool = False
    """Start it once more when they are gone, with a smaller plan."""


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
    now_s: float
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
    used: bool = False
    """It has worked since it was asked last, though perhaps not at this moment."""


@dataclass(frozen=True)
class DevicesSeen:
    """What each device may be promised, read anew: a driver may come late, a GPU may fall off the bus."""

    capacity: Mapping[DeviceId, int]


@dataclass(frozen=True)
class Tick:
    now_s: float


Event = (
    LoadRequested | Adopted | BecameReady | StopRequested | LeaderLost | Vanished | SpawnFailed | SleepRequested
    | SleepEnded | WakeRequested | WakeEnded | LeaseRequested | LeaseEnded | Gauged | DevicesSeen
    | Tick
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
