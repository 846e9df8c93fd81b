"""What one scrape of an engine says, under canonical names (see `names`). Pure.

Data-parallel ranks and models are labels in vLLM: counters and histograms are added up over them, and so are gauges
that count something; shares, such as that of the KV cache, are averaged. Where an engine of a version between two
names gives both, today's name counts.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vllm_mcp_protocol.metrics.exposition import parse_prometheus
from vllm_mcp_protocol.metrics.families import MOST_PROBLEMS, Sample
from vllm_mcp_protocol.metrics.histogram import BadHistogram, Histogram, add
from vllm_mcp_protocol.metrics.names import METRICS, Kind, Metric, Together
from vllm_mcp_protocol.metrics.openmetrics import is_openmetrics, parse_openmetrics

SAME_START_S = 1.0
"""Two values of process_start_time_seconds that are closer than this are one start: the kernel counts in ticks."""

_Labels = Mapping[str, str]
_Series = frozenset[tuple[str, str]]
"""The labels of a sample without its bound."""


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One scrape. A metric that the engine does not have, or that is NaN, is in none of these."""

    gauges: Mapping[str, float]
    """Without those that are told apart by a label."""
    counters: Mapping[str, float]
    """Since the engine's start, over all labels."""
    histograms: Mapping[str, Histogram]
    """Since the engine's start."""
    gauges_by: Mapping[str, Mapping[str, float]]
    """By the label that `Metric.by` names: `gauges_by["num_requests_waiting_by_reason"]["capacity"]`."""
    counters_by: Mapping[str, Mapping[str, float]]
    """By the label that `Metric.by` names: `counters_by["request_success"]["stop"]`; `counters` has them together."""
    infos: Mapping[str, Sequence[_Labels]]
    """Labels of samples that say something in them, those of the highest value first: for adapters, the newest."""
    model_names: Sequence[str]
    """Of all samples, sorted."""
    ranks: int
    """Data-parallel ranks that were seen; 0 where no sample names one."""
    skipped: int
    """Malformed lines, and metrics whose samples contradict each other; they are left out."""
    problems: Sequence[str]
    """The first of them in words."""

    @property
    def started_s(self) -> float | None:
        """When the API server started, Unix time; unknown where several share one answer."""
        return self.gauges.get("process_start_time_seconds")

    def restarted_since(self, earlier: "EngineReading") -> bool:
        """Do both know when they were started, and disagree?"""
        mine_s, theirs_s = self.started_s, earlier.started_s
        return mine_s is not None and theirs_s is not None and abs(mine_s - theirs_s) >= SAME_START_S


def read_engine_metrics(text: bytes) -> EngineReading:
    """What an engine's answer at /metrics says, in either format. It never raises: what cannot be read is counted."""
    parse = parse_openmetrics if is_openmetrics(text) else parse_prometheus
    exposition = parse(text, wanted=WANTED, lenient=True)
    gathered = _Gathered(exposition.skipped, [str(problem) for problem in exposition.problems])
    for family in exposition.families:
        gathered.take(family.samples)
    return gathered.reading()


class _Place(NamedTuple):
    """What a name in the text stands for."""

    metric: Metric
    age: int
    """0 for today's name, then the former ones."""
    part: str = ""
    """Of a histogram: `bucket`, `sum` or `count`."""


def _places() -> Iterator[tuple[str, _Place]]:
    for metric in METRICS.values():
        for age, written in enumerate(metric.written):
            if metric.kind is Kind.HISTOGRAM:
                yield from ((f"{written}_{part}", _Place(metric, age, part)) for part in ("bucket", "sum", "count"))
            else:
                yield written, _Place(metric, age)
                if metric.kind is Kind.COUNTER:
                    yield f"{written}_total", _Place(metric, age)


_PLACES = dict(_places())

WANTED = frozenset(_PLACES) | {written for metric in METRICS.values() for written in metric.written}
"""The names of families and of samples that are read."""


@dataclass(slots=True)
class _Parts:
    """One cumulative histogram: those of one rank."""

    buckets: dict[str, float] = field(default_factory=dict)
    sum: float = math.nan

    def histogram(self) -> Histogram:
        return Histogram.of_buckets(((float(bound), height) for bound, height in self.buckets.items()), self.sum)


class _Gathered:
    """The samples of one scrape by metric and by the age of the name they came under."""

    def __init__(self, skipped: int, problems: list[str]) -> None:
        self._skipped, self._problems = skipped, problems
        self._values: dict[str, dict[int, list[tuple[_Labels, float]]]] = {}
        self._parts: dict[tuple[str, int], dict[_Series, _Parts]] = {}
        self._series: dict[int, _Series] = {}
        self._said: dict[str, set[str]] = {"engine": set(), "model_name": set()}

    def take(self, samples: Iterable[Sample]) -> None:
        for name, labels, value, _, _ in samples:
            place = _PLACES.get(name)
            if place is None:
                continue
            # Families share their labels (see Sample), which the exposition keeps alive.
            series = self._series.get(id(labels)) or self._new_series(labels)
            if not place.part:
                self._values.setdefault(place.metric.name, {}).setdefault(place.age, []).append((labels, value))
            elif place.part != "count":  # which the bucket +Inf has, too
                ranks = self._parts.setdefault((place.metric.name, place.age), {})
                parts = ranks.get(series)
                if parts is None:
                    parts = ranks[series] = _Parts()
                if place.part == "sum":
                    parts.sum = value
                else:
                    parts.buckets[labels.get("le", "")] = value

    def _new_series(self, labels: _Labels) -> _Series:
        for key, values in self._said.items():
            if key in labels:
                values.add(labels[key])
        series = frozenset(item for item in labels.items() if item[0] != "le")
        self._series[id(labels)] = series
        return series

    def reading(self) -> EngineReading:
        gauges: dict[str, float] = {}
        counters: dict[str, float] = {}
        gauges_by: dict[str, dict[str, float]] = {}
        counters_by: dict[str, dict[str, float]] = {}
        infos: dict[str, tuple[_Labels, ...]] = {}
        for name, ages in self._values.items():
            metric, series = METRICS[name], ages[min(ages)]
            match metric.kind:
                case Kind.INFO:
                    infos[name] = tuple(labels for labels, _ in sorted(series, key=_value, reverse=True))
                case Kind.GAUGE:
                    sound = [(labels, value) for labels, value in series if math.isfinite(value)]
                    if metric.by:
                        gauges_by[name] = _split(metric, sound)
                    elif sound:
                        gauges[name] = _joined(metric, [value for _, value in sound])
                case _:
                    sound = [(labels, value) for labels, value in series if 0 <= value < math.inf]
                    if len(sound) < len(series):
                        self._refuse(name, "a counter is negative or not finite")
                    elif metric.by:
                        counters_by[name] = _split(metric, sound)
                        counters[name] = math.fsum(value for _, value in sound)
                    else:
                        counters[name] = math.fsum(value for _, value in sound)
        histograms = dict(self._histograms())
        return EngineReading(
            gauges=gauges,
            counters=counters,
            histograms=histograms,
            gauges_by=gauges_by,
            counters_by=counters_by,
            infos=infos,
            model_names=tuple(sorted(self._said["model_name"])),
            ranks=len(self._said["engine"]),
            skipped=self._skipped,
            problems=tuple(self._problems),
        )

    def _histograms(self) -> Iterator[tuple[str, Histogram]]:
        for name, age in sorted(self._parts):
            if age and (name, age - 1) in self._parts:
                continue
            try:
                yield name, _added(parts.histogram() for parts in self._parts[name, age].values())
            except ValueError as problem:  # also a bound that is no number
                self._refuse(name, str(problem))

    def _refuse(self, name: str, why: str) -> None:
        self._skipped += 1
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(f"{name}: {why}")


def _value(sample: tuple[_Labels, float]) -> float:
    return sample[1] if not math.isnan(sample[1]) else -math.inf


def _joined(metric: Metric, values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if metric.together is Together.MEAN else math.fsum(values)


def _split(metric: Metric, series: Iterable[tuple[_Labels, float]]) -> dict[str, float]:
    """One number for each value of the label that the metric is told apart by."""
    values: dict[str, list[float]] = {}
    for labels, value in series:
        values.setdefault(labels.get(metric.by, ""), []).append(value)
    return {key: _joined(metric, some) for key, some in values.items()}


def _added(histograms: Iterable[Histogram]) -> Histogram:
    total: Histogram | None = None
    for histogram in histograms:
        total = histogram if total is None else add(total, histogram)
    if total is None:
        raise BadHistogram("there are no samples")
    return total
