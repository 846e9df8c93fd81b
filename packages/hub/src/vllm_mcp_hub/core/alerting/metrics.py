"""The metrics that rules know by name: in which unit observations and thresholds are, and how people read them. Pure.

A rule may watch any metric that is observed; these are the ones that messages can say well.
"""

from dataclasses import dataclass
from typing import Literal

from vllm_mcp_protocol.units import format_seconds

Unit = Literal["percent", "ms", "s", "celsius", "gib", "count", "per_minute", ""]

_SUFFIX: dict[Unit, str] = {"percent": " %", "celsius": " °C", "gib": " GiB", "per_minute": " per minute"}


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means."""

    name: str
    label: str
    """As a noun: "GPU utilization"."""
    unit: Unit = ""
    one_is_all: bool = True
    """Of a percentage: a threshold of exactly 1 means all of it. False: it means 1 %."""
    words: tuple[str, str] | None = None
    """Of a metric that is 0 or 1: what 0 and what 1 is called."""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # of a GPU
        Metric("gpu_util", "GPU utilization", "percent"),
        Metric("memory_util", "GPU memory in use", "percent"),
        Metric("temperature", "GPU temperature", "celsius"),
        Metric("temperature_margin", "distance to the temperature at which the GPU slows down", "celsius"),
        Metric("gpu_present", "GPU", words=("cannot be reached", "can be reached")),
        # of an engine
        Metric("latency_p99", "p99 end-to-end latency", "ms"),
        Metric("ttft_p99", "p99 time to first token", "ms"),
        Metric("error_rate", "share of failed requests", "percent", one_is_all=False),
        Metric("requests_waiting", "waiting requests", "count"),
        Metric("queue_growth", "growth of the queue", "count"),
        Metric("kv_usage", "KV cache in use", "percent"),
        Metric("preemptions", "preemptions", "per_minute"),
        Metric("stuck_seconds", "time without progress while requests run or wait", "s"),
        Metric("answering", "engine", words=("does not answer", "answers")),
        Metric("restarts", "unasked-for ends within an hour", "count"),
        # of the host
        Metric("disk_free_gib", "free disk space", "gib"),
        Metric("disk_used", "disk in use", "percent"),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of that name; one that is not in the table has its own name for a label and no unit."""
    return METRICS.get(name) or Metric(name, name.replace("_", " "))


def read_threshold(metric: str, value: float) -> float:
    """A threshold as somebody wrote it, in the metric's unit.

    People write percentages as 95 and as 0.95, and the suite's own settings are shares; nobody means 0.95 %. So up to
    1 a percentage is read as a share; of the error rate only below 1, because 1 % is a threshold that people choose.
    """
    known = metric_named(metric)
    if known.unit != "percent" or value <= 0:
        return value
    is_share = value < 1 or (value == 1 and known.one_is_all)
    return value * 100 if is_share else value


def say_value(metric: str, value: float) -> str:
    """A value with its unit: ``97.4 %``, ``2.35 s``, ``does not answer``."""
    known = metric_named(metric)
    if known.words is not None:
        return known.words[value > 0]
    if known.unit == "ms":
        return f"{value:.0f} ms" if abs(value) < 1000 else say_seconds(value / 1000)
    if known.unit == "s":
        return say_seconds(value)
    return f"{_short(value)}{_SUFFIX.get(known.unit, '')}"


def say_seconds(seconds: float) -> str:
    """A duration; below ten seconds with the digits that latencies need."""
    if abs(seconds) < 10:
        return f"{_short(seconds)} s"
    return format_seconds(seconds) if seconds >= 60 else f"{_short(seconds)} s"


def _short(value: float) -> str:
    """Three digits at least, never an exponent: 0.123, 1.2, 97.4, 15000."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}"
