"""What this server is: the one source of its bundles, its `--help` and its `initialize`."""

from vllm_mcp_protocol.serving.description import EnvVar, ServerDescription

_INSTRUCTIONS = """\
Tells how vLLM engines and GPUs are doing, now and over days, from vLLM's own metrics and NVML. The hub samples them \
also while no client is there.

get-metrics is the first call: throughput, latency (p50/p95/p99 with their error), requests, KV cache, memory, for \
each engine and in total, with the active alerts. duration_seconds says over which time. get-gpu-stats and \
get-memory-stats look into GPUs (without one, at the host) and at what the memory is used for.
get-alerts shows what is wrong with a next step; set-alert-rule changes a limit. get-trends tells where a metric is \
going and when it reaches its threshold, plot-metrics draws.
benchmark-model measures how fast a loaded model is under rising load, benchmark-providers several servers side by \
side; both load the engines for minutes: ask the user before.

Errors carry a code, a message and a `suggestion`: follow it. Latencies are milliseconds, sizes MiB, shares percent. \
null means that nothing was measured, never zero."""

_WISHES = (
    "MONITOR_INTERVAL_MS",
    "METRICS_ENDPOINT",
    "METRICS_DB_PATH",
    "METRICS_RETENTION_HOURS",
    "ENABLE_GPU_MONITORING",
    "ENABLE_ALERTS",
)
"""When they are unset, what the hub holds applies, and that is no constant."""

_VARIABLES = (
    "VLLM_API_ENDPOINT",
    "VLLM_API_KEY",
    "DISCOVERY_ENDPOINTS",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "VLLM_HUB_DIR",
    "VLLM_MCP_READ_ONLY",
    "VLLM_MCP_ALLOWED_TOOLS",
    "VLLM_MCP_DENIED_TOOLS",
    "LOG_LEVEL",
)
"""What they mean is said in `Settings`."""

_THRESHOLDS = (
    EnvVar("ALERT_THRESHOLD_GPU_UTIL", "GPU utilization at which an alert starts, percent or share"),
    EnvVar("ALERT_THRESHOLD_MEMORY_UTIL", "GPU memory in use at which an alert starts, percent or share"),
    EnvVar("ALERT_THRESHOLD_LATENCY_P99", "p99 latency at which an alert starts, milliseconds"),
)

DESCRIPTION = ServerDescription(
    name="vllm-performance-monitor",
    title="vLLM performance monitor",
    summary="Live and historical metrics of vLLM engines and GPUs, alerts, trends, pictures and benchmarks",
    instructions=_INSTRUCTIONS,
    distribution="vllm-performance-monitor",
    command="vllm-performance-monitor",
    module_build="vllm_performance_monitor.server:build_server",
    environment=(
        *(EnvVar(name, default="") for name in _WISHES),
        *(EnvVar(name) for name in _VARIABLES),
        *_THRESHOLDS,
    ),
    by_hand=("exporter", "dashboard"),
)
