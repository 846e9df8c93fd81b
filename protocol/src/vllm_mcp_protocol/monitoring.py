"""What the hub tells of its samples: the wire format. Times are Unix seconds, durations seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from vllm_mcp_protocol.gpu import GpuReading, HostReading
from vllm_mcp_protocol.metrics.histogram import Histogram
from vllm_mcp_protocol.model import Value
from vllm_mcp_protocol.settings import MetricsUrl

LONGEST_WINDOW_S = 86_400.0
LONGEST_SERIES_S = 31 * 86_400.0


@dataclass(frozen=True, slots=True)
class GaugeStat:
    """What a gauge was over a stretch of time."""

    mean: float
    """Of the looks at it."""
    low: float
    high: float
    last: float


class SubjectWindow(Value):
    """What a stretch of time brought for one engine, GPU or the host."""

    subject: str
    """`engine:NAME`, `gpu:0`, `host`."""
    begin_s: float
    end_s: float
    looks: int
    covered_s: float
    """Seconds in which counters were followed; the rest are gaps."""
    gauges: Mapping[str, GaugeStat] = {}
    counters: Mapping[str, float] = {}
    """By how much each grew."""
    histograms: Mapping[str, Histogram] = {}
    """What fell into each bucket."""


class EngineWatch(Value):
    """How an engine is, as the last looks found it."""

    engine_id: str
    name: str
    answers: bool
    trouble: str = ""
    """Why it does not answer."""
    stuck_s: float | None = None
    """For how long it has had requests, running or waiting, without getting on."""
    restarts: int = 0
    """Ends within an hour that nobody had asked for."""


class MonitoringWindow(Value):
    """All subjects over one stretch of time."""

    at_s: float
    duration_s: float
    interval_s: float
    """Between two looks."""
    note: str = ""
    """What hinders the history, in words."""
    engines: tuple[EngineWatch, ...] = ()
    subjects: tuple[SubjectWindow, ...] = ()


class Series(Value):
    """One number over time; None where nothing is known: a gap."""

    subject: str
    name: str
    """As asked for: `kv_cache_usage_perc`, `rate:generation_tokens`, `p99:e2e_request_latency_seconds`."""
    resolution_s: float
    points: tuple[tuple[float, float | None], ...] = ()
    """(end of the stretch, value), the oldest first."""


class Alert(Value):
    """An alert that is active."""

    rule: str
    severity: str
    subject: str
    metric: str
    value: float | None
    worst: float | None = None
    threshold: float
    since: float
    message: str
    suggestion: str = ""


class AlertRuleView(Value):
    """A rule in force."""

    name: str
    metric: str
    threshold: float
    clear_threshold: float
    for_seconds: float
    clear_for_seconds: float
    severity: str
    direction: str
    enabled: bool
    missing: str
    subjects: str
    suggestion: str
    origin: str


class AlertsView(Value):
    """What is to be said about this host."""

    at_s: float
    active: tuple[Alert, ...] = ()
    changes: tuple[Mapping[str, Any], ...] = ()
    """What was raised and cleared, the oldest first."""
    rules: tuple[AlertRuleView, ...] = ()
    undelivered: int = 0
    """News that no hook has taken yet."""
    note: str = ""
    """Why a rule that somebody gave does not hold, a hook takes nothing, or nothing is looked for."""


class GpusView(Value):
    """What the GPUs tell, and the host."""

    at_s: float
    gpus: tuple[GpuReading, ...] = ()
    host: HostReading
    owners: Mapping[int, str] = {}
    """Which engine a process belongs to, by its id."""


class MonitoringWish(Value):
    """What a client's settings ask for; None and nothing leave things as they are."""

    interval_ms: Annotated[int, Field(ge=100, le=3_600_000)] | None = None
    retention_hours: Annotated[int, Field(ge=1, le=24 * 366)] | None = None
    db_path: str | None = Field(default=None, min_length=1, max_length=4096, pattern="^/")
    """Of the history."""
    gpus: bool | None = None
    alerts: bool | None = None
    thresholds: Mapping[str, float] | None = None
    endpoint: MetricsUrl | None = None
    """A /metrics address to look at beside the engines'."""
