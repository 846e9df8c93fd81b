"""What the alert rules look at, made of the last samples. Pure.

Each rule's metric has a window that fits it: a p99 of five minutes, a queue over two. Where nothing can be told, the
value is None: the rules know what that means.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_mcp_hub.core.alerting.derived import error_rate, queue_growth
from vllm_mcp_hub.core.alerting.evaluation import LONGEST_STEP_S
from vllm_mcp_hub.core.alerting.states import Observation
from vllm_mcp_hub.core.monitoring.points import Point
from vllm_mcp_hub.core.monitoring.timeline import RAW, Timeline
from vllm_mcp_protocol.metrics.arrangement import EngineReading
from vllm_mcp_protocol.metrics.histogram import bounded_quantile
from vllm_mcp_protocol.metrics.outcomes import outcomes

LATENCY_S = 300.0
QUEUE_S = 120.0
MINUTE_S = 60.0
_LEAST_REQUESTS = 20
"""A p99 of fewer is their slowest."""


@dataclass(slots=True)
class Moving:
    """Whether an engine gets on."""

    stuck_s: float | None = None
    """For how long it has had requests, running or waiting, without a token and without a step.

    Tokens alone would not do: a long prefill in chunks gives none for a while, but each chunk is a step.
    """
    _at_s: float = 0.0
    _done: tuple[float, float] | None = None
    """Tokens and steps since its start at the last look; None when it had nothing to do."""

    def look(self, at_s: float, reading: EngineReading, longest_step_s: float = LONGEST_STEP_S) -> None:
        """Take what was seen. Since the last look no more than `longest_step_s` passed, whatever the clock says: a
        host that slept proves nothing."""
        tokens = reading.counters.get("prompt_tokens", 0.0) + reading.counters.get("generation_tokens", 0.0)
        steps = reading.histograms.get("iteration_tokens_total")
        busy = any(reading.gauges.get(name, 0.0) > 0 for name in ("num_requests_running", "num_requests_waiting"))
        done = (tokens, 0.0 if steps is None else steps.count) if busy else None
        passed_s = min(max(at_s - self._at_s, 0.0), longest_step_s)
        stands = done is not None and done == self._done
        self.stuck_s = (self.stuck_s or 0.0) + passed_s if stands else 0.0
        self._at_s, self._done = at_s, done


def engine_observations(
    subject: str, timeline: Timeline | None, moving: Moving, restarts: int, now_s: float, *, answers: bool
) -> Iterator[Observation]:
    """Of one engine that should serve."""
    values: dict[str, float | None] = {"answering": float(answers), "restarts": float(restarts)}
    if answers and timeline is not None:
        values |= _of_latency(timeline.window(now_s - LATENCY_S, now_s))
        values |= _of_last_minute(timeline.window(now_s - MINUTE_S, now_s))
        values["queue_growth"] = queue_growth(_series(timeline, "num_requests_waiting", now_s - QUEUE_S, now_s))
        values["stuck_seconds"] = moving.stuck_s
    for metric, value in values.items():
        yield Observation(subject, metric, value, now_s)


def _of_latency(window: Point | None) -> dict[str, float | None]:
    found = {} if window is None else window.histograms
    names = {"latency_p99": "e2e_request_latency_seconds", "ttft_p99": "time_to_first_token_seconds"}
    values: dict[str, float | None] = {}
    for metric, name in names.items():
        histogram = found.get(name)
        enough = histogram is not None and histogram.count >= _LEAST_REQUESTS
        told = bounded_quantile(histogram, 0.99) if histogram is not None and enough else None
        values[metric] = None if told is None else told.value * 1000
    return values


def _of_last_minute(window: Point | None) -> dict[str, float | None]:
    if window is None:
        return {}
    kv, waiting = window.gauge("kv_cache_usage_perc"), window.gauge("num_requests_waiting")
    preempted = window.counter("num_preemptions")
    ended = outcomes(window.increases)
    return {
        "kv_usage": None if kv is None else kv.last * 100,
        "requests_waiting": None if waiting is None else waiting.last,
        "preemptions": None if preempted is None else preempted * 60 / window.covered_s,
        "error_rate": None if ended is None else error_rate(ended.total - ended.failed, ended.failed),
    }


def _series(timeline: Timeline, gauge: str, begin_s: float, end_s: float) -> Sequence[tuple[float, float]]:
    points = ((point.end_s, point.gauge(gauge)) for point in timeline.series(begin_s, end_s, RAW))
    return [(at_s, stat.last) for at_s, stat in points if stat is not None]


_GPU = {
    "gpu_util": "gpu_utilization_percent",
    "memory_util": "gpu_memory_utilization_percent",
    "temperature": "gpu_temperature_celsius",
    "temperature_margin": "gpu_temperature_margin_celsius",
}
_HOST = {"disk_used": "host_disk_utilization_percent"}


def gauge_observations(subject: str, point: Point, now_s: float) -> Iterator[Observation]:
    """Of a GPU, or of the host, as it was just seen."""
    for metric, name in (_HOST if subject == "host" else _GPU).items():
        stat = point.gauge(name)
        yield Observation(subject, metric, None if stat is None else stat.last, now_s)
    free = point.gauge("host_disk_free_bytes")
    if subject == "host":
        yield Observation(subject, "disk_free_gib", None if free is None else free.last / 1024**3, now_s)
    else:
        lost = point.gauge("gpu_lost")
        yield Observation(subject, "gpu_present", 1.0 if lost is None else 1.0 - lost.last, now_s)
