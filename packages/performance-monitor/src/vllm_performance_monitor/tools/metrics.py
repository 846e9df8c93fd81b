"""get-metrics: how the engines are, in one call."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

from pydantic import Field

from vllm_mcp_protocol.model import EngineView
from vllm_mcp_protocol.monitoring import Alert, EngineWatch, MonitoringWindow, Series, SubjectWindow
from vllm_mcp_protocol.serving.server import READ, SuiteServer
from vllm_mcp_protocol.units import to_mib
from vllm_performance_monitor.core import figures
from vllm_performance_monitor.results import (
    AlertRow,
    EngineMetrics,
    HardwareRow,
    HistoryRow,
    MemoryPart,
    MetricsResult,
)
from vllm_performance_monitor.workplace import Workplace, engines_of

Group = Literal["throughput", "latency", "memory", "gpu", "requests", "cache", "errors"]
_GROUPS: tuple[str, ...] = get_args(Group)
_MOST_ENGINES = 12
"""An engine takes 1.2 KB of an answer."""
_MOST_WITH_HISTORY = 4
_MOST_HISTORY_POINTS = 200
_HISTORY = ("rate:generation_tokens", "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")

ModelId = Annotated[str | None, Field(max_length=400, description="Only this model (default: all engines)")]
Duration = Annotated[float, Field(ge=5, le=86_400, description="Window that ends now, seconds")]


def register(server: SuiteServer, work: Workplace) -> None:
    """Add it."""

    @server.tool("get-metrics", title="Metrics of engines and GPUs", annotations=READ)
    async def get_metrics(
        duration_seconds: Duration = 60,
        metrics: Annotated[
            list[str] | None,
            Field(
                max_length=40,
                description="throughput, latency, memory, gpu, requests, cache, errors (default: all), or any metric "
                "of vLLM by its name without vllm:",
            ),
        ] = None,
        model_id: ModelId = None,
        include_history: Annotated[bool, Field(description="Also the course of the main figures")] = False,
        resolution_seconds: Annotated[
            float | None, Field(ge=1, le=86_400, description="Between two points of the history")
        ] = None,
    ) -> MetricsResult:
        """Show how fast, how busy and how healthy the engines are: per engine and in total over a window of time, with
        quantiles and their error, and the alerts that are active now.
        """
        hub = await work.ready()
        window, state, alerts = await asyncio.gather(hub.metrics(duration_seconds), hub.state(), hub.alerts())
        asked = metrics or list(_GROUPS)
        names = [name for name in asked if name not in _GROUPS]
        views = {view.id: view for view in state.engines}
        watches = {watch.name: watch for watch in window.engines}
        subjects = engines_of(window, model_id) if model_id else _shown(window)
        shown = subjects[: _MOST_WITH_HISTORY if include_history else _MOST_ENGINES]
        rows = [_row(one, watches, views, asked, names) for one in shown]
        return MetricsResult(
            duration_seconds=duration_seconds,
            sampled_every_seconds=window.interval_s,
            engines=rows,
            total=_figures("total", figures.in_total(subjects), asked, names) if subjects else None,
            hardware=hardware_rows(window) if "gpu" in asked else [],
            alerts=[alert_row(one) for one in alerts.active[:10]],
            history=await _history(work, shown, duration_seconds, resolution_seconds) if include_history else [],
            notes=list(_notes(window, len(shown), len(subjects), alerts.note)),
        )


def _shown(window: MonitoringWindow) -> list[SubjectWindow]:
    """Engines that are there now first, then those that were."""
    now = {f"engine:{watch.name}" for watch in window.engines}
    return sorted(engines_of(window, None), key=lambda one: (one.subject not in now, one.subject))


def _row(
    subject: SubjectWindow,
    watches: Mapping[str, EngineWatch],
    views: Mapping[str, EngineView],
    asked: Sequence[str],
    names: Sequence[str],
) -> EngineMetrics:
    name = subject.subject.removeprefix("engine:")
    row = _figures(name, subject, asked, names)
    watch = watches.get(name)
    view = None if watch is None else views.get(watch.engine_id)
    update: dict[str, object] = {}
    if watch is not None:
        update = {
            "engine_id": watch.engine_id,
            "answers": watch.answers,
            "trouble": watch.trouble[:200],
            "stuck_seconds": watch.stuck_s if watch.stuck_s else None,
        }
    if view is not None and "memory" in asked:
        update["memory"] = memory_of(view)
    return row.model_copy(update=update)


def memory_of(view: EngineView) -> MemoryPart:
    """What the hub measured, and what vLLM said at its start."""
    facts = view.start_facts
    return MemoryPart(
        measured_mb=None if view.measured_bytes is None else to_mib(view.measured_bytes),
        promised_mb=to_mib(view.promised_bytes) if view.promised_bytes else None,
        weights_mb=None if facts.weights_bytes is None else to_mib(facts.weights_bytes),
        kv_cache_mb=None if facts.kv_cache_bytes is None else to_mib(facts.kv_cache_bytes),
        kv_cache_tokens=facts.kv_cache_tokens,
        max_concurrency=facts.max_concurrency,
    )


def _figures(name: str, window: SubjectWindow, asked: Sequence[str], names: Sequence[str]) -> EngineMetrics:
    wants_requests = "requests" in asked or "errors" in asked
    return EngineMetrics(
        engine=name,
        covered_seconds=round(window.covered_s, 1),
        throughput=figures.throughput(window) if "throughput" in asked else None,
        latency=figures.latencies(window) if "latency" in asked else None,
        requests=figures.requests(window) if wants_requests else None,
        cache=figures.cache(window) if "cache" in asked else None,
        custom=figures.custom(window, names) if names else None,
    )


def hardware_rows(window: MonitoringWindow) -> list[HardwareRow]:
    """GPUs, or the host where there is none."""
    gpus = [one for one in window.subjects if one.subject.startswith("gpu:")]
    if gpus:
        return [_gpu_row(one) for one in gpus[:16]]
    return [_host_row(one) for one in window.subjects if one.subject == "host"]


def _gpu_row(one: SubjectWindow) -> HardwareRow:
    return HardwareRow(
        device=one.subject,
        utilization_percent=_mean(one, "gpu_utilization_percent"),
        memory_used_mb=_mib(one, "gpu_memory_used_bytes"),
        memory_total_mb=_mib(one, "gpu_memory_total_bytes"),
        temperature_c=_mean(one, "gpu_temperature_celsius"),
        power_w=_mean(one, "gpu_power_watts"),
    )


def _host_row(one: SubjectWindow) -> HardwareRow:
    return HardwareRow(
        device="host",
        utilization_percent=_mean(one, "host_cpu_percent"),
        memory_used_mb=_mib(one, "host_memory_used_bytes"),
        memory_total_mb=_mib(one, "host_memory_total_bytes"),
    )


def _mean(one: SubjectWindow, gauge: str) -> float | None:
    stat = one.gauges.get(gauge)
    return None if stat is None else round(stat.mean, 2)


def _mib(one: SubjectWindow, gauge: str) -> int | None:
    stat = one.gauges.get(gauge)
    return None if stat is None else to_mib(round(stat.last))


def alert_row(alert: Alert) -> AlertRow:
    """An alert as people see it."""
    return AlertRow(
        rule=alert.rule,
        severity=alert.severity,
        engine=alert.subject,
        metric=alert.metric,
        value=alert.value,
        threshold=alert.threshold,
        since=iso_time(alert.since),
        message=alert.message[:400],
        suggestion=alert.suggestion[:400],
    )


def iso_time(at_s: float) -> str:
    """ISO 8601, UTC, seconds."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


async def _history(
    work: Workplace, subjects: Sequence[SubjectWindow], duration_s: float, resolution_s: float | None
) -> list[HistoryRow]:
    if not subjects:
        return []
    most = _MOST_HISTORY_POINTS // (len(subjects) * len(_HISTORY))
    step_s = max(resolution_s or 0.0, duration_s / max(2, most))
    now_s = datetime.now(UTC).timestamp()
    names = [one.subject for one in subjects]
    found = await work.hub.series(names, _HISTORY, begin_s=now_s - duration_s, end_s=now_s, resolution_s=step_s)
    return [_history_row(one, most) for one in found]


def _history_row(series: Series, most: int) -> HistoryRow:
    shown = series.points[-most:]
    return HistoryRow(
        engine=series.subject.removeprefix("engine:"),
        metric=series.name,
        times=[iso_time(at_s) for at_s, _ in shown],
        values=[None if value is None else round(value, 4) for _, value in shown],
    )


def _notes(window: MonitoringWindow, shown: int, engines: int, rules: str) -> Iterable[str]:
    if window.note:
        yield window.note[:300]
    if rules:
        yield rules[:300]
    if engines > shown:
        yield f"{engines - shown} engines are not shown; give model_id"
    if not engines:
        yield "no engine was seen in this time: load-model starts one"
    if not any(one.subject.startswith("gpu:") for one in window.subjects):
        yield "there is no GPU here: the host's processor and memory stand in its place"
