"""What each tool answers. Fields never disappear; what was not measured is null."""

from typing import Any

from pydantic import Field

from vllm_mcp_protocol.serving.results import Part, ToolResult
from vllm_performance_monitor.core.figures import Cache, Latencies, Requests, Throughput


class MemoryPart(Part):
    measured_mb: int | None = Field(default=None, description="Memory seen in use on its devices")
    promised_mb: int | None = None
    weights_mb: int | None = Field(default=None, description="As vLLM said at its start")
    kv_cache_mb: int | None = None
    kv_cache_tokens: int | None = None
    max_concurrency: float | None = None


class EngineMetrics(Part):
    engine: str = Field(description="The name that it serves; total: all engines together")
    engine_id: str | None = None
    answers: bool | None = None
    trouble: str = ""
    stuck_seconds: float | None = Field(default=None, description="Requests run or wait, and no token and no step")
    covered_seconds: float = Field(description="Seconds of the window that were followed; the rest are gaps")
    throughput: Throughput | None = None
    latency: Latencies | None = None
    requests: Requests | None = None
    cache: Cache | None = None
    memory: MemoryPart | None = None
    custom: dict[str, float | None] | None = None


class HardwareRow(Part):
    device: str
    utilization_percent: float | None = None
    memory_used_mb: int | None = None
    memory_total_mb: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class AlertRow(Part):
    rule: str
    severity: str
    engine: str = Field(description="engine:NAME, gpu:0 or host")
    metric: str
    value: float | None
    threshold: float
    since: str = Field(description="ISO 8601, UTC")
    message: str
    suggestion: str = ""


class HistoryRow(Part):
    engine: str
    metric: str
    times: list[str] = Field(description="ISO 8601, UTC")
    values: list[float | None] = Field(description="null: a gap")


class MetricsResult(ToolResult):
    duration_seconds: float
    sampled_every_seconds: float
    engines: list[EngineMetrics] = []
    total: EngineMetrics | None = None
    hardware: list[HardwareRow] = []
    alerts: list[AlertRow] = []
    history: list[HistoryRow] = []
    notes: list[str] = []


class GpuStats(ToolResult):
    gpus: list[dict[str, Any]] = Field(default=[], description="As NVML tells; what a GPU does not tell is null")
    host: dict[str, Any] | None = Field(default=None, description="Where there is no GPU: the host in its place")
    notes: list[str] = []


class ModelMemory(Part):
    model: str
    engine_id: str
    measured_mb: int | None = None
    promised_mb: int | None = None
    weights_mb: int | None = None
    kv_cache_mb: int | None = None
    activations_mb: int | None = None
    cuda_graph_mb: int | None = None
    other_mb: int | None = None
    how: dict[str, str] = Field(default={}, description="How each figure was obtained")


class MemoryStats(ToolResult):
    gpu_memory: list[dict[str, Any]] = []
    system_memory: dict[str, Any] = {}
    model_memory: list[ModelMemory] = []
    notes: list[str] = []


class AlertsResult(ToolResult):
    active: list[AlertRow] = []
    past: list[dict[str, Any]] = Field(default=[], description="What was raised and cleared, the newest first")
    undelivered: int = Field(default=0, description="News that no hook has taken yet")
    notes: list[str] = []


class RulePart(Part):
    rule: str
    metric: str
    threshold: float
    clear_threshold: float
    for_seconds: float
    severity: str
    direction: str
    enabled: bool
    origin: str
    suggestion: str = ""


class RuleResult(ToolResult):
    rule: RulePart | None


class TrendResult(ToolResult):
    metric: str
    engine: str
    unit: str
    points: int
    in_words: list[str]
    slope_per_hour: float | None = None
    slope_low: float | None = Field(default=None, description="95 % interval")
    slope_high: float | None = None
    changes: list[dict[str, Any]] = []
    anomalies: list[dict[str, Any]] = []
    forecast: dict[str, Any] | None = None


class PlotResult(ToolResult):
    path: str = Field(description="The picture as a file")
    width: int
    height: int
    series: list[dict[str, Any]] = Field(description="The numbers: name, unit, first, last, min, max, mean")
    notes: list[str] = []


class QuantilesPart(Part):
    p50: float
    p95: float
    p99: float


class BenchmarkRow(Part):
    server: str
    model: str
    load: str = Field(description="Users at a time, or requests per second (/s)")
    requests: int
    failed: int
    requests_per_second: float
    output_tokens_per_second: float
    ttft_ms: QuantilesPart | None = Field(default=None, description="Time to the first token")
    itl_ms: QuantilesPart | None = Field(default=None, description="Time between two pieces of an answer")
    e2e_ms: QuantilesPart | None = Field(default=None, description="Time of a whole answer")
    ended_by: str


class BenchmarkResult(ToolResult):
    benchmark_id: str
    status: str = Field(description="running, done, cancelled")
    progress: str | None = None
    seconds: float | None = None
    workload: str | None = None
    rows: list[BenchmarkRow] = []
    table: list[str] = Field(default=[], description="The same for people")
    beside_earlier: list[str] = Field(default=[], description="What changed since the last run of the same kind")
    path: str | None = Field(default=None, description="The whole report as a file")
    notes: list[str] = []
