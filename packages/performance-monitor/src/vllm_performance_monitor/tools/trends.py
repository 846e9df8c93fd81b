"""Where metrics are going, and what they looked like."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import anyio
from anyio import to_thread
from pydantic import Field

from vllm_mcp_protocol.errors import MetricNotFound
from vllm_mcp_protocol.files import write_atomic
from vllm_mcp_protocol.monitoring import AlertRuleView, Series
from vllm_mcp_protocol.paths import state_dir
from vllm_mcp_protocol.serving.server import READ, SuiteServer
from vllm_mcp_protocol.units import format_seconds
from vllm_performance_monitor.core.named_series import Named, named, subjects_for
from vllm_performance_monitor.results import PlotResult, TrendResult
from vllm_performance_monitor.tools.metrics import Duration, ModelId
from vllm_performance_monitor.workplace import Workplace

_DAY_S = 86_400.0
_TREND_POINTS = 500
_PLOT_POINTS = 400
_MOST_LINES = 8
_KEPT_PLOTS = 20
_drawing = anyio.Lock()
"""matplotlib keeps its fonts without a lock of its own."""


def register(server: SuiteServer, work: Workplace) -> None:
    """Add both."""

    @server.tool("get-trends", title="Where a metric is going", annotations=READ)
    async def get_trends(
        metric: Annotated[
            str, Field(min_length=1, max_length=100, description="Such as throughput, latency_p99, kv_usage")
        ],
        duration_hours: Annotated[float, Field(ge=0.1, le=744, description="Time that is looked at, hours")] = 24,
        model_id: ModelId = None,
    ) -> TrendResult:
        """Tell in words and figures where a metric is going: its slope with the uncertainty, changes of level, hours
        that were unlike the same hour of the days before, and when it reaches the threshold of its alert.
        """
        from vllm_performance_monitor.core.trend_words import in_words
        from vllm_performance_monitor.core.trends import trend_of

        one = named(metric)
        duration_s = duration_hours * 3600
        now_s = datetime.now(UTC).timestamp()
        course = await _course(
            work, one, model_id, now_s - max(duration_s, 8 * _DAY_S), now_s, duration_s / _TREND_POINTS
        )
        rule = await _rule(work, one)
        offset_s = _offset_s()
        trend = await to_thread.run_sync(
            lambda: trend_of(
                course.points,
                since=now_s - duration_s,
                now=now_s,
                threshold=None if rule is None else rule.threshold,
                direction="below" if rule is not None and rule.direction == "below" else "above",
                offset_s=offset_s,
            )
        )
        told = in_words(trend, one, rule, now_s)
        return TrendResult(metric=metric, engine=course.name, unit=one.unit, points=trend.points, **told)

    @server.tool("plot-metrics", title="Draw metrics", annotations=READ)
    async def plot_metrics(
        metrics: Annotated[
            list[str] | None,
            Field(max_length=6, description="Such as throughput, latency_p99, running, kv_usage, gpu_util"),
        ] = None,
        duration_seconds: Duration = 3600,
        model_id: ModelId = None,
        compare: Annotated[bool, Field(description="Also the same time one day before")] = False,
    ) -> PlotResult:
        """Draw the course of metrics as a picture (PNG), with the thresholds of their alerts; also as a file."""
        from vllm_performance_monitor.core.chart import Before, Chart, Threshold
        from vllm_performance_monitor.core.chart import Series as Line

        wanted = [named(name) for name in metrics or ["throughput", "latency_p99", "running"]]
        now_s = datetime.now(UTC).timestamp()
        begin_s = now_s - duration_seconds
        courses = await _courses(work, wanted, model_id, begin_s, now_s)
        if not courses:
            raise _nothing(wanted[0].name, model_id, duration_seconds)
        rules = {one.metric: one for one in (await work.hub.alerts()).rules if one.enabled}
        limits = [
            Threshold(rules[one.alert_metric].threshold, one.unit, f"alert {rules[one.alert_metric].name}")
            for one in wanted
            if one.alert_metric in rules
        ]
        earlier = await _courses(work, wanted, model_id, begin_s - _DAY_S, now_s - _DAY_S) if compare else []
        chart = Chart(
            series=[Line(one.title, one.named.unit, one.points, one.gap_s) for one in courses],
            begin=begin_s,
            end=now_s,
            title=f"{model_id or 'all engines'}, the last {format_seconds(duration_seconds)}",
            thresholds=limits,
            before=Before(
                [Line(one.title, one.named.unit, one.points, one.gap_s) for one in earlier], _DAY_S, "a day before"
            )
            if earlier
            else None,
            offset_s=_offset_s(),
        )
        picture = await _drawn(chart)
        path = await to_thread.run_sync(_kept, state_dir(work.settings) / "plots", picture, now_s)
        width, height = chart.pixels
        result = PlotResult(path=str(path), width=width, height=height, series=[one.figures for one in courses])
        result.show_png(picture)
        return result


async def _drawn(chart: Any) -> bytes:
    from vllm_performance_monitor.plotting import png_of

    async with _drawing:
        return await to_thread.run_sync(png_of, chart)


def _kept(folder: Path, picture: bytes, now_s: float) -> Path:
    """The picture as a file; of the older ones some stay."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{datetime.fromtimestamp(now_s, UTC):%Y%m%d-%H%M%S-%f}.png"
    write_atomic(path, picture)
    for old in sorted(folder.glob("*.png"))[:-_KEPT_PLOTS]:
        old.unlink(missing_ok=True)
    return path


@dataclass(frozen=True)
class _Course:
    named: Named
    subject: str
    points: Sequence[tuple[float, float | None]]
    resolution_s: float
    several: bool

    @property
    def name(self) -> str:
        return self.subject.removeprefix("engine:")

    @property
    def title(self) -> str:
        return f"{self.named.shown}, {self.name}" if self.several else self.named.shown

    @property
    def gap_s(self) -> float:
        return 3 * self.resolution_s

    @property
    def figures(self) -> dict[str, Any]:
        values = [value for _, value in self.points if value is not None]
        return {
            "name": self.title,
            "unit": self.named.unit,
            "points": len(values),
            "first": _round(values[0]) if values else None,
            "last": _round(values[-1]) if values else None,
            "min": _round(min(values)) if values else None,
            "max": _round(max(values)) if values else None,
            "mean": _round(fmean(values)) if values else None,
        }


def _round(value: float) -> float:
    return value if not value or not math.isfinite(value) else float(f"{value:.6g}")


async def _course(
    work: Workplace, one: Named, model_id: str | None, begin_s: float, end_s: float, step_s: float
) -> _Course:
    """The course of one thing. Raises METRIC_NOT_FOUND where nothing is known."""
    found = await _courses(work, [one], model_id, begin_s, end_s, step_s)
    if not found:
        raise _nothing(one.name, model_id, end_s - begin_s)
    return found[0]


async def _courses(
    work: Workplace,
    wanted: Sequence[Named],
    model_id: str | None,
    begin_s: float,
    end_s: float,
    step_s: float | None = None,
) -> list[_Course]:
    hub = await work.ready()
    known = [one.subject for one in (await hub.metrics(86_400)).subjects]
    step_s = step_s or (end_s - begin_s) / _PLOT_POINTS
    found: list[_Course] = []
    for one in wanted:
        subjects = subjects_for(one, known, model_id)
        if not subjects:
            continue
        for series in await hub.series(
            subjects[:_MOST_LINES], [one.series], begin_s=begin_s, end_s=end_s, resolution_s=step_s
        ):
            points = _scaled(series, one.scale)
            course = _Course(one, series.subject, points, series.resolution_s, len(subjects) > 1)
            if any(value is not None for _, value in course.points):
                found.append(course)
    return found[:_MOST_LINES]


def _scaled(series: Series, scale: float) -> list[tuple[float, float | None]]:
    return [(at_s, None if value is None else value * scale) for at_s, value in series.points]


async def _rule(work: Workplace, one: Named) -> AlertRuleView | None:
    rules = (await work.hub.alerts()).rules if one.alert_metric else ()
    return next((rule for rule in rules if rule.metric == one.alert_metric), None)


def _nothing(metric: str, model_id: str | None, duration_s: float) -> MetricNotFound:
    whose = f" of {model_id[:100]!r}" if model_id else ""
    return MetricNotFound(
        f"Nothing is known of {metric}{whose} in the last {format_seconds(duration_s)}.",
        metric=metric,
        suggestion="get-metrics shows what is sampled; samples begin when the hub does, and engines need requests",
    )


def _offset_s() -> float:
    offset = datetime.now().astimezone().utcoffset()
    return 0.0 if offset is None else offset.total_seconds()
