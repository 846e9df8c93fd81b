"""The figures that people ask for, of one engine over one stretch of time, or of several together. Pure.

Rates are increases over the seconds in which counters were followed. Quantiles come from vLLM's histograms, by linear
interpolation; each carries the width of its bucket, which is how far it can be off.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import Field

from vllm_mcp_protocol.metrics.histogram import BadHistogram, Histogram, add, bounded_quantile
from vllm_mcp_protocol.metrics.names import METRICS, Together
from vllm_mcp_protocol.metrics.outcomes import outcomes
from vllm_mcp_protocol.monitoring import GaugeStat, SubjectWindow
from vllm_mcp_protocol.serving.results import Part

LATENCIES: Mapping[str, str] = {
    "ttft": "time_to_first_token_seconds",
    "inter_token": "inter_token_latency_seconds",
    "e2e": "e2e_request_latency_seconds",
    "queue": "request_queue_time_seconds",
    "prefill": "request_prefill_time_seconds",
    "decode": "request_decode_time_seconds",
}
"""vLLM's histogram of each."""

_One = TypeVar("_One")

_QUANTILES = (0.5, 0.95, 0.99)
_PERCENT = 100.0


def in_total(windows: Sequence[SubjectWindow]) -> SubjectWindow:
    """Several engines, one at least, as one: requests, tokens and gauges that count are added; shares are averaged."""
    gauges = {name: _joined(stats, mean=_is_share(name)) for name, stats in _by_name(one.gauges for one in windows)}
    return SubjectWindow(
        subject="total",
        begin_s=min(one.begin_s for one in windows),
        end_s=max(one.end_s for one in windows),
        looks=sum(one.looks for one in windows),
        covered_s=max(one.covered_s for one in windows),
        gauges=gauges,
        counters={name: math.fsum(amounts) for name, amounts in _by_name(one.counters for one in windows)},
        histograms={name: _added(found) for name, found in _by_name(one.histograms for one in windows)},
    )


def _is_share(gauge: str) -> bool:
    """Of engines, as of ranks. `gauge` may have a label's value behind its name."""
    metric = METRICS.get(gauge.partition(":")[0])
    return metric is not None and metric.together is Together.MEAN


def _by_name(found: Iterable[Mapping[str, _One]]) -> Iterable[tuple[str, list[_One]]]:
    named: dict[str, list[_One]] = {}
    for one in found:
        for name, value in one.items():
            named.setdefault(name, []).append(value)
    return named.items()


def _added(found: Sequence[Histogram]) -> Histogram:
    """Of engines that have no bound in common, those that are alike and saw most."""
    try:
        return add(*found)
    except BadHistogram:
        alike: dict[tuple[float, ...], list[Histogram]] = {}
        for one in found:
            alike.setdefault(one.bounds, []).append(one)
        return max((add(*some) for some in alike.values()), key=lambda one: one.count)


def _joined(stats: Sequence[GaugeStat], *, mean: bool) -> GaugeStat:
    parts = zip(*((one.mean, one.low, one.high, one.last) for one in stats), strict=True)
    return GaugeStat(*(math.fsum(part) / (len(stats) if mean else 1) for part in parts))


class Latency(Part):
    """Milliseconds. None where nothing was measured."""

    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    avg_ms: float | None = None
    p99_error_ms: float | None = Field(
        default=None, description="Width of the bucket of the p99; null with a p99: it is at least that"
    )
    measured: int = 0


class Latencies(Part):
    """Fields as in LATENCIES."""

    ttft: Latency = Latency()
    inter_token: Latency = Latency()
    e2e: Latency = Latency()
    queue: Latency = Latency()
    prefill: Latency = Latency()
    decode: Latency = Latency()


def latencies(window: SubjectWindow) -> Latencies:
    return Latencies(**{name: latency(window.histograms.get(metric)) for name, metric in LATENCIES.items()})


def latency(histogram: Histogram | None) -> Latency:
    """Of a histogram of seconds."""
    if histogram is None or not (count := histogram.count):
        return Latency()
    mean = histogram.mean
    p50, p95, p99 = (bounded_quantile(histogram, q) for q in _QUANTILES)
    return Latency(
        p50_ms=None if p50 is None else _ms(p50.value),
        p95_ms=None if p95 is None else _ms(p95.value),
        p99_ms=None if p99 is None else _ms(p99.value),
        avg_ms=None if mean is None else _ms(mean),
        p99_error_ms=None if p99 is None or p99.at_least else _ms(p99.error),
        measured=round(count),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


class Throughput(Part):
    """Per second, over the seconds that were followed."""

    prompt_tokens_per_second: float | None = None
    generation_tokens_per_second: float | None = None
    requests_per_second: float | None = None
    avg_batch_size: float | None = Field(default=None, description="Requests that run at once, mean of the looks")
    avg_tokens_per_step: float | None = None


def throughput(window: SubjectWindow) -> Throughput:
    running = window.gauges.get("num_requests_running")
    steps = window.histograms.get("iteration_tokens_total")
    return Throughput(
        prompt_tokens_per_second=_rate(window, "prompt_tokens"),
        generation_tokens_per_second=_rate(window, "generation_tokens"),
        requests_per_second=_rate(window, "request_success"),
        avg_batch_size=None if running is None else round(running.mean, 3),
        avg_tokens_per_step=None if steps is None or steps.mean is None else round(steps.mean, 3),
    )


def _rate(window: SubjectWindow, counter: str) -> float | None:
    amount = window.counters.get(counter)
    return None if amount is None or not window.covered_s else round(amount / window.covered_s, 3)


class Requests(Part):
    """Of the stretch of time; running and waiting as they are now."""

    total: int | None = Field(default=None, description="That ended: successful, failed and aborted ones")
    successful: int | None = None
    failed: int | None = Field(
        default=None, description="By the engine or its server; an error that was answered with 5xx is one"
    )
    failed_by_cause: dict[str, int] = Field(default={}, description="error: of the engine; http_5xx: of its server")
    aborted: int | None = Field(default=None, description="The client went away; no failure")
    refused: int | None = Field(default=None, description="Answers of 4xx, which are in no other number")
    running: int | None = None
    waiting: int | None = None
    error_rate_percent: float | None = None
    preemptions: int | None = None


def requests(window: SubjectWindow) -> Requests:
    running, waiting = (_last(window, name) for name in ("num_requests_running", "num_requests_waiting"))
    preempted = window.counters.get("num_preemptions")
    preemptions = None if preempted is None else round(preempted)
    ended = outcomes(window.counters)
    if ended is None:
        return Requests(running=running, waiting=waiting, preemptions=preemptions)
    causes = {"error": round(ended.errors), "http_5xx": round(ended.server_errors)}
    return Requests(
        total=round(ended.total),
        successful=round(ended.total - ended.failed - ended.aborted),
        failed=round(ended.failed),
        failed_by_cause={cause: count for cause, count in causes.items() if count},
        aborted=round(ended.aborted),
        refused=round(ended.refused),
        running=running,
        waiting=waiting,
        error_rate_percent=round(_PERCENT * ended.failed / ended.total, 3) if ended.total else None,
        preemptions=preemptions,
    )


def _last(window: SubjectWindow, gauge: str) -> int | None:
    stat = window.gauges.get(gauge)
    return None if stat is None else round(stat.last)


class Cache(Part):
    """The KV cache, in percent."""

    kv_usage_percent: float | None = None
    kv_usage_max_percent: float | None = None
    prefix_hit_rate_percent: float | None = None
    """Of the prompt tokens that were looked up."""


def cache(window: SubjectWindow) -> Cache:
    usage = window.gauges.get("kv_cache_usage_perc")
    asked = window.counters.get("prefix_cache_queries")
    hits = window.counters.get("prefix_cache_hits", 0.0)
    return Cache(
        kv_usage_percent=None if usage is None else round(usage.last * _PERCENT, 3),
        kv_usage_max_percent=None if usage is None else round(usage.high * _PERCENT, 3),
        prefix_hit_rate_percent=None if not asked else round(_PERCENT * hits / asked, 3),
    )


def custom(window: SubjectWindow, names: Iterable[str]) -> dict[str, float | None]:
    """Any metric by its name: a gauge's last value, a counter's increase, a histogram's mean."""
    found: dict[str, float | None] = {}
    for name in names:
        if name in window.gauges:
            found[name] = window.gauges[name].last
        elif name in window.counters:
            found[name] = window.counters[name]
        else:
            histogram = window.histograms.get(name)
            found[name] = None if histogram is None else histogram.mean
    return found
