"""What the hub knows, as metric families for Prometheus: base units, shares from 0 to 1. Pure.

What was not measured has no sample, so that nobody takes it for zero. Of an engine that does not answer, of one that is
gone and of a GPU that is lost, only that is told: what was seen before would look as if it still held.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vllm_mcp_protocol.model import Device, EngineStatus, EngineView
from vllm_mcp_protocol.monitoring import Alert, EngineWatch, MonitoringWindow, SubjectWindow
from vllm_performance_monitor.core import figures

Kind = Literal["gauge", "counter"]

_ENGINE, _GPU = "engine:", "gpu:"
_PERCENT, _MILLI = 100.0, 1000.0
_DECIMALS = 9
"""Of values that were divided: enough for a nanosecond, and no 0.07300000000000001."""


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    """The names are those of the family, always all of them; what is not known is empty."""
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """One metric."""

    name: str
    """A counter's without `_total`, which queries have."""
    kind: Kind
    help: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class _Metric:
    help: str
    labels: tuple[str, ...] = ()
    kind: Kind = "gauge"


_BY_ENGINE = ("engine",)
_BY_GPU = ("gpu", "uuid", "name")

_METRICS: Mapping[str, _Metric] = {
    "engine_up": _Metric("1 when the engine answers, 0 when it should and does not.", _BY_ENGINE),
    "engine_stuck_seconds": _Metric("For how long requests have run or waited without getting on.", _BY_ENGINE),
    "engine_recent_failures": _Metric("Ends within the last hour that nobody had asked for.", _BY_ENGINE),
    "engine_requests_running": _Metric("Requests that run now.", _BY_ENGINE),
    "engine_requests_waiting": _Metric("Requests that wait now.", _BY_ENGINE),
    "engine_kv_cache_usage_ratio": _Metric("Share of the KV cache in use now.", _BY_ENGINE),
    "engine_generation_tokens_per_second": _Metric("Tokens generated, over the window.", _BY_ENGINE),
    "engine_prompt_tokens_per_second": _Metric("Prompt tokens processed, over the window.", _BY_ENGINE),
    "engine_requests_per_second": _Metric("Requests that ended, over the window.", _BY_ENGINE),
    "engine_failed_requests_per_second": _Metric(
        "Requests that failed, over the window; not those that were aborted.", _BY_ENGINE
    ),
    "engine_latency_seconds": _Metric(
        "Latency that this percentage of requests did not exceed, over the window.", ("engine", "stage", "percentile")
    ),
    "gpu_lost": _Metric("1 when the GPU cannot be used, else 0.", _BY_GPU),
    "gpu_memory_used_bytes": _Metric("GPU memory in use.", _BY_GPU),
    "gpu_memory_total_bytes": _Metric("GPU memory.", _BY_GPU),
    "gpu_utilization_ratio": _Metric("Share of the time in which a kernel ran.", _BY_GPU),
    "gpu_temperature_celsius": _Metric("Temperature of the GPU.", _BY_GPU),
    "gpu_power_watts": _Metric("Power drawn by the board.", _BY_GPU),
    "gpu_energy_joules": _Metric("Energy since the driver was loaded.", _BY_GPU, "counter"),
    "gpu_throttled": _Metric("1 when anything but idleness or a setting holds the clocks down, else 0.", _BY_GPU),
    "host_cpu_utilization_ratio": _Metric("How busy all CPUs are; told where there is no GPU."),
    "host_memory_used_bytes": _Metric("Memory that is not available; told where there is no GPU."),
    "host_memory_total_bytes": _Metric("Memory, within the cgroup's limit; told where there is no GPU."),
    "alert_active": _Metric(
        "1 for each alert that is active; no sample when there is none.", ("rule", "severity", "engine", "gpu")
    ),
    "last_sample_age_seconds": _Metric(
        "Time since the hub last saw it; no sample when it was not seen in the window.", ("subject",)
    ),
    "sample_interval_seconds": _Metric("Time between two looks of the hub."),
    "window_seconds": _Metric("Window of the rates and latencies."),
}

_GPU_GAUGES = (
    ("gpu_memory_used_bytes", "gpu_memory_used_bytes", 1.0),
    ("gpu_memory_total_bytes", "gpu_memory_total_bytes", 1.0),
    ("gpu_utilization_ratio", "gpu_utilization_percent", _PERCENT),
    ("gpu_temperature_celsius", "gpu_temperature_celsius", 1.0),
    ("gpu_power_watts", "gpu_power_watts", 1.0),
    ("gpu_energy_joules", "gpu_energy_joules", 1.0),
    ("gpu_throttled", "gpu_throttled", 1.0),
)
_HOST_GAUGES = (
    ("host_cpu_utilization_ratio", "host_cpu_percent", _PERCENT),
    ("host_memory_used_bytes", "host_memory_used_bytes", 1.0),
    ("host_memory_total_bytes", "host_memory_total_bytes", 1.0),
)
"""(metric, gauge of the hub, what to divide it by)."""

_Found = tuple[str, tuple[str, ...], float | None]
"""(metric, its labels' values, value)."""


def families(
    window: MonitoringWindow,
    alerts: Iterable[Alert] = (),
    engines: Sequence[EngineView] = (),
    devices: Iterable[Device] = (),
) -> list[Family]:
    """The families that have samples, each set of labels once.

    `engines` and `devices`, the hub's, tell which engines failed and what the GPUs are called.
    """
    found: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _METRICS}
    for name, labels, value in _found(window, alerts, engines, devices):
        if value is not None:
            found[name][labels] = value
    return [_family(name, samples) for name, samples in found.items() if samples]


def _family(name: str, samples: Mapping[tuple[str, ...], float]) -> Family:
    metric = _METRICS[name]
    made = tuple(Sample(dict(zip(metric.labels, labels, strict=True)), value) for labels, value in samples.items())
    return Family(f"vllm_mcp_{name}", metric.kind, metric.help, metric.labels, made)


def _found(
    window: MonitoringWindow, alerts: Iterable[Alert], engines: Sequence[EngineView], devices: Iterable[Device]
) -> Iterator[_Found]:
    subjects = {one.subject: one for one in window.subjects}
    yield from _failed(window, engines)
    for watch in sorted(window.engines, key=lambda one: one.answers):  # of two with one name, the one that answers
        yield from _engine(watch, subjects.get(f"{_ENGINE}{watch.name}"))
    yield from _hardware(subjects, {f"{_GPU}{one.id}": one for one in devices if one.kind == "cuda"})
    for alert in alerts:
        yield "alert_active", (alert.rule, alert.severity, *_place(alert.subject)), 1.0
    watched = {f"{_ENGINE}{watch.name}" for watch in window.engines}
    for subject, seen in subjects.items():
        if subject in watched or not subject.startswith(_ENGINE):
            yield "last_sample_age_seconds", (subject,), round(max(0.0, window.at_s - seen.end_s), 3)
    yield "sample_interval_seconds", (), window.interval_s
    yield "window_seconds", (), window.duration_s


def _place(subject: str) -> tuple[str, str]:
    """The labels `engine` and `gpu`."""
    if subject.startswith(_ENGINE):
        return subject.removeprefix(_ENGINE), ""
    return "", subject.removeprefix(_GPU) if subject.startswith(_GPU) else ""


def _failed(window: MonitoringWindow, engines: Sequence[EngineView]) -> Iterator[_Found]:
    """Those whose last engine served and ended by itself. One that was unloaded, sleeps or starts is not missed."""
    last: dict[str, EngineView] = {}
    for one in sorted(engines, key=lambda one: one.ready_at or 0.0):
        if one.ready_at is not None:
            last[one.served_name] = one
    watched = {watch.name for watch in window.engines}
    for name, one in last.items():
        if one.status is EngineStatus.STOPPED and one.failure is not None and name not in watched:
            yield "engine_up", (name,), 0.0


def _engine(watch: EngineWatch, seen: SubjectWindow | None) -> Iterator[_Found]:
    labels = (watch.name,)
    yield "engine_up", labels, float(watch.answers)
    yield "engine_recent_failures", labels, float(watch.restarts)
    yield "engine_stuck_seconds", labels, watch.stuck_s
    if not watch.answers or seen is None:
        return
    load, fast, cache = figures.requests(seen), figures.throughput(seen), figures.cache(seen)
    yield "engine_requests_running", labels, load.running
    yield "engine_requests_waiting", labels, load.waiting
    yield "engine_kv_cache_usage_ratio", labels, _divided(cache.kv_usage_percent, _PERCENT)
    yield "engine_generation_tokens_per_second", labels, fast.generation_tokens_per_second
    yield "engine_prompt_tokens_per_second", labels, fast.prompt_tokens_per_second
    if seen.covered_s:
        yield "engine_requests_per_second", labels, _divided(load.total, seen.covered_s)
        yield "engine_failed_requests_per_second", labels, _divided(load.failed, seen.covered_s)
    for stage, histogram in figures.LATENCIES.items():
        told = figures.latency(seen.histograms.get(histogram))
        for percentile, value_ms in (("50", told.p50_ms), ("95", told.p95_ms), ("99", told.p99_ms)):
            yield "engine_latency_seconds", (watch.name, stage, percentile), _divided(value_ms, _MILLI)


def _hardware(subjects: Mapping[str, SubjectWindow], devices: Mapping[str, Device]) -> Iterator[_Found]:
    gpus = {name: seen for name, seen in subjects.items() if name.startswith(_GPU)}
    for subject, seen in gpus.items():
        device = devices.get(subject)
        known = ("", "") if device is None else (device.uuid or "", device.name)
        labels = (subject.removeprefix(_GPU), *known)
        lost = _last(seen, "gpu_lost")
        yield "gpu_lost", labels, lost
        if not lost:
            yield from _gauges(seen, _GPU_GAUGES, labels)
    if not gpus and (host := subjects.get("host")) is not None:
        yield from _gauges(host, _HOST_GAUGES, ())


def _gauges(seen: SubjectWindow, wanted: Iterable[tuple[str, str, float]], labels: tuple[str, ...]) -> Iterator[_Found]:
    for metric, gauge, by in wanted:
        yield metric, labels, _divided(_last(seen, gauge), by)


def _last(seen: SubjectWindow, gauge: str) -> float | None:
    stat = seen.gauges.get(gauge)
    return None if stat is None else stat.last


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else round(value / by, _DECIMALS)
