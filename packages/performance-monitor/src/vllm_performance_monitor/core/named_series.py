"""The courses that people ask for by name: which numbers of the hub they are, in which unit, of what. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.model_names import closest

Of = Literal["engine", "gpu", "host"]


@dataclass(frozen=True, slots=True)
class Named:
    """One of them."""

    name: str
    series: str
    """As the hub is asked for it."""
    unit: str
    of: Of = "engine"
    scale: float = 1.0
    alert_metric: str = ""
    """The metric of the alert rule that has its threshold."""
    label: str = ""

    @property
    def shown(self) -> str:
        return self.label or self.name.replace("_", " ")


_MS = 1000.0
_PERCENT = 100.0

NAMED: dict[str, Named] = {
    one.name: one
    for one in (
        Named("throughput", "rate:generation_tokens", "tokens/s", label="generated tokens"),
        Named("prompt_throughput", "rate:prompt_tokens", "tokens/s", label="prompt tokens"),
        Named("requests_per_second", "rate:request_success", "requests/s", label="finished requests"),
        Named("latency_p50", "p50:e2e_request_latency_seconds", "ms", scale=_MS, label="p50 latency"),
        Named("latency_p95", "p95:e2e_request_latency_seconds", "ms", scale=_MS, label="p95 latency"),
        Named("latency_p99", "p99:e2e_request_latency_seconds", "ms", scale=_MS, alert_metric="latency_p99",
              label="p99 latency"),
        Named("ttft_p50", "p50:time_to_first_token_seconds", "ms", scale=_MS, label="p50 time to first token"),
        Named("ttft_p99", "p99:time_to_first_token_seconds", "ms", scale=_MS, alert_metric="ttft_p99",
              label="p99 time to first token"),
        Named("inter_token_p50", "p50:inter_token_latency_seconds", "ms", scale=_MS, label="p50 between tokens"),
        Named("inter_token_p99", "p99:inter_token_latency_seconds", "ms", scale=_MS, label="p99 between tokens"),
        Named("queue_p99", "p99:request_queue_time_seconds", "ms", scale=_MS, label="p99 in the queue"),
        Named("running", "num_requests_running", "requests", label="running"),
        Named("waiting", "num_requests_waiting", "requests", alert_metric="requests_waiting", label="waiting"),
        Named("kv_usage", "kv_cache_usage_perc", "%", scale=_PERCENT, alert_metric="kv_usage", label="KV cache in use"),
        Named("preemptions", "rate:num_preemptions", "per minute", scale=60.0, alert_metric="preemptions"),
        Named("gpu_util", "gpu_utilization_percent", "%", "gpu", alert_metric="gpu_util", label="GPU utilization"),
        Named("gpu_memory", "gpu_memory_utilization_percent", "%", "gpu", alert_metric="memory_util",
              label="GPU memory in use"),
        Named("gpu_temperature", "gpu_temperature_celsius", "°C", "gpu", alert_metric="temperature",
              label="GPU temperature"),
        Named("gpu_power", "gpu_power_watts", "W", "gpu", label="GPU power"),
        Named("host_cpu", "host_cpu_percent", "%", "host", label="host CPU"),
        Named("host_memory", "host_memory_utilization_percent", "%", "host", label="host memory in use"),
        Named("host_disk", "host_disk_utilization_percent", "%", "host", alert_metric="disk_used", label="disk in use"),
    )
}  # fmt: skip


def named(name: str) -> Named:
    """A course by its name, or any number of an engine as the hub knows it (`rate:…`, `p95:…`, a gauge). Raises
    BadInput for a word that is none."""
    if name in NAMED:
        return NAMED[name]
    if ":" in name or "_" in name:
        return Named(name, name, "", label=name)
    close = closest(name, NAMED, 1)
    raise BadInput(
        f"{name[:80]!r} is no metric that has a course; there are: {', '.join(NAMED)}.",
        parameter="metric",
        value=name[:80],
        suggestion=f"give {close[0]}"
        if close
        else "give one of these, or rate:NAME, p99:NAME, NAME of vLLM's own metrics",
    )


def subjects_for(one: Named, known: Sequence[str], model_id: str | None) -> list[str]:
    """Of what its course is there: of one model, or of all that are alike."""
    if one.of == "host":
        return ["host"]
    kind = f"{one.of}:"
    if one.of == "engine" and model_id is not None:
        return [f"engine:{model_id}"]
    return [subject for subject in known if subject.startswith(kind)]
