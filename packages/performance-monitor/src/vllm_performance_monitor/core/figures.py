"""The figures that people ask for, of one engine over one stretch of time, or of several together. Pure.

Rates are increases over the seconds in which counters were followed. Quantiles come from vLLM's histograms, by linear
interpolation; each carries the width of its bucket, which is how far it can be off.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vllm_mcp_protocol.metrics.histogram import BadHistogram, Histogram, add, quantile
from vllm_mcp_protocol.monitoring import GaugeValues, SubjectWindow

LATENCIES: Mapping[str, str] = {
    "ttft": "time_to_first_token_seconds",
    "inter_token": "inter_token_latency_seconds",
    "e2e": "e2e_request_latency_seconds",
    "queue": "request_queue_time_seconds",
    "prefill": "request_prefill_time_seconds",
    "decode": "request_decode_time_seconds",
}
"""vLLM's histogram of each."""

_FAILED = ("abort", "error")
_PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Window:
    """What a stretch of time brought for one engine, or for several."""

    covered_s: float
    engines: int
    gauges: Mapping[str, GaugeValues]
    counters: Mapping[str, float]
    histograms: Mapping[str, Histogram]


def window_of(subject: SubjectWindow) -> Window:
    histograms = {name: one.histogram() for name, one in subject.histograms.items()}
    return Window(subject.covered_s, 1, subject.gauges, subject.counters, histograms)


def in_total(windows: Sequence[Window]) -> Window:
    """Several engines as one: requests, tokens and gauges that count are added; shares are averaged."""
    gauges: dict[str, list[GaugeValues]] = {}
    counters: dict[str, float] = {}
    histograms: dict[str, Histogram] = {}
    for window in windows:
        for name, stat in window.gauges.items():
            gauges.setdefault(name, []).append(stat)
        for name, amount in window.counters.items():
            counters[name] = counters.get(name, 0.0) + amount
        for name, histogram in window.histograms.items():
            histograms[name] = _added(histograms.get(name), histogram)
    joined = {name: _joined(stats, mean=name.endswith("_perc")) for name, stats in gauges.items()}
    return Window(max((one.covered_s for one in windows), default=0.0), len(windows), joined, counters, histograms)


def _added(one: Histogram | None, other: Histogram) -> Histogram:
    if one is None:
        return other
    try:
        return add(one, other)
    except BadHistogram:
        return one if one.count >= other.count else other


def _joined(stats: Sequence[GaugeValues], *, mean: bool) -> GaugeValues:
    parts = [[getattr(stat, part) for stat in stats] for part in ("mean", "low", "high", "last")]
    average, low, high, last = (math.fsum(part) / (len(stats) if mean else 1) for part in parts)
    return GaugeValues(mean=average, low=low, high=high, last=last)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds. None where nothing was measured."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    avg_ms: float | None
    p99_error_ms: float | None
    """Width of the bucket of the p99; None where the bucket has no end: then the p99 is at least what is said."""
    measured: int
    """Observations."""


def latency(histogram: Histogram | None) -> Latency:
    """Of a histogram of seconds."""
    if histogram is None or not histogram.count:
        return Latency(None, None, None, None, None, 0)
    p99 = quantile(histogram, 0.99)
    return Latency(
        p50_ms=_quantile_ms(histogram, 0.5),
        p95_ms=_quantile_ms(histogram, 0.95),
        p99_ms=_quantile_ms(histogram, 0.99),
        avg_ms=None if histogram.mean is None else round(histogram.mean * 1000, 3),
        p99_error_ms=None if p99 is None or p99.at_least else round(min(p99.error, _most_s(histogram, 0.99)) * 1000, 3),
        measured=round(histogram.count),
    )


def _quantile_ms(histogram: Histogram, q: float) -> float | None:
    """Inside its bucket, and never more than the mean allows: vLLM's first bucket of queue times ends at 300 ms, and
    most requests wait for microseconds."""
    told = quantile(histogram, q)
    return None if told is None else round(min(told.value, _most_s(histogram, q)) * 1000, 3)


def _most_s(histogram: Histogram, q: float) -> float:
    """What the quantile cannot exceed (Markov): the share 1 - q of all lies at or above it, and none below 0."""
    return math.inf if histogram.mean is None else histogram.mean / (1 - q)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Per second, over the seconds that were followed."""

    prompt_tokens_per_second: float | None
    generation_tokens_per_second: float | None
    requests_per_second: float | None
    avg_batch_size: float | None
    """Requests that run at once, the mean of the looks."""
    avg_tokens_per_step: float | None


def throughput(window: Window) -> Throughput:
    running = window.gauges.get("num_requests_running")
    steps = window.histograms.get("iteration_tokens_total")
    return Throughput(
        _rate(window, "prompt_tokens"),
        _rate(window, "generation_tokens"),
        _rate(window, "request_success"),
        None if running is None else round(running.mean, 3),
        None if steps is None or steps.mean is None else round(steps.mean, 3),
    )


def _rate(window: Window, counter: str) -> float | None:
    amount = window.counters.get(counter)
    return None if amount is None or not window.covered_s else round(amount / window.covered_s, 3)


@dataclass(frozen=True, slots=True)
class Requests:
    """Of the stretch of time; running and waiting as they are now."""

    total: int | None
    successful: int | None
    failed: int | None
    failed_by_cause: Mapping[str, int]
    running: int | None
    waiting: int | None
    error_rate_percent: float | None
    preemptions: int | None


def requests(window: Window) -> Requests:
    ended = window.counters.get("request_success")
    causes = {reason: round(window.counters.get(f"request_success:{reason}", 0.0)) for reason in _FAILED}
    causes |= {
        f"http_{status}": round(amount)
        for name, amount in window.counters.items()
        if (status := name.removeprefix("http_requests:")) != name and status[:1] in "45"
    }
    causes = {cause: count for cause, count in causes.items() if count}
    failed = sum(count for cause, count in causes.items() if cause in _FAILED)
    return Requests(
        total=None if ended is None else round(ended),
        successful=None if ended is None else round(ended) - failed,
        failed=None if ended is None else failed,
        failed_by_cause=causes,
        running=_last(window, "num_requests_running"),
        waiting=_last(window, "num_requests_waiting"),
        error_rate_percent=None if not ended else round(_PERCENT * failed / ended, 3),
        preemptions=None if (n := window.counters.get("num_preemptions")) is None else round(n),
    )


def _last(window: Window, gauge: str) -> int | None:
    stat = window.gauges.get(gauge)
    return None if stat is None else round(stat.last)


@dataclass(frozen=True, slots=True)
class Cache:
    """The KV cache, in percent."""

    kv_usage_percent: float | None
    kv_usage_max_percent: float | None
    prefix_hit_rate_percent: float | None
    """Of the prompt tokens that were looked up."""


def cache(window: Window) -> Cache:
    usage = window.gauges.get("kv_cache_usage_perc")
    asked = window.counters.get("prefix_cache_queries")
    hits = window.counters.get("prefix_cache_hits", 0.0)
    return Cache(
        None if usage is None else round(usage.last * _PERCENT, 3),
        None if usage is None else round(usage.high * _PERCENT, 3),
        None if not asked else round(_PERCENT * hits / asked, 3),
    )


def custom(window: Window, names: Iterable[str]) -> dict[str, float | None]:
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
