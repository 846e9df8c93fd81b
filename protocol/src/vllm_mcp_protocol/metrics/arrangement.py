"""Which sample of a scrape is what of an engine: all that does not change while only its numbers do. Pure.

Data-parallel ranks and models are labels in vLLM: counters and histograms are added up over them, and so are gauges
that count something; shares, such as that of the KV cache, are averaged. Where an engine of a version between two
names gives both, today's name counts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import itemgetter
from typing import NamedTuple

from vllm_mcp_protocol.metrics.families import MOST_PROBLEMS, Sample
from vllm_mcp_protocol.metrics.histogram import BadHistogram, Histogram, add
from vllm_mcp_protocol.metrics.names import METRICS, Kind, Metric, Together

SAME_START_S = 1.0
"""Two values of process_start_time_seconds that are closer than this are one start: the kernel counts in ticks."""

_MOST = 1e100
"""A larger number is taken for none, as NaN is: no engine counts or measures so much, and sums of such overflow."""

_Labels = Mapping[str, str]
_Series = frozenset[tuple[str, str]]
"""The labels of a sample without its bound."""


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One scrape. A metric that the engine does not have, or that is NaN, is in none of these: all numbers are finite,
    and so are sums of many readings."""

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


_Pick = Callable[[Sequence[float]], Sequence[float]]
"""Some of the values of a text."""


class _Numbers:
    """The samples of one metric that are numbers by themselves, under one of its names."""

    def __init__(self) -> None:
        self.labels: list[_Labels] = []
        self.slots: list[int] = []
        self._pick: _Pick | None = None

    def of(self, values: Sequence[float]) -> Sequence[float]:
        if self._pick is None:
            self._pick = _picking(self.slots)
        return self._pick(values)


class _Ladder:
    """One cumulative histogram: that of one rank."""

    def __init__(self) -> None:
        self.buckets: dict[str, int] = {}
        self.sum: int | None = None
        self._bounds: tuple[float, ...] = ()
        self._heights: _Pick | None = None

    def histogram(self, values: Sequence[float]) -> Histogram:
        """Raises ValueError: BadHistogram, also for a bound that is no number."""
        if self._heights is None:
            rungs = sorted((float(bound), slot) for bound, slot in self.buckets.items())
            if not rungs or rungs[-1][0] != math.inf:
                raise BadHistogram("the bucket +Inf is missing")
            self._bounds = tuple(bound for bound, _ in rungs[:-1])
            self._heights = _picking([slot for _, slot in rungs])
        total, heights = math.nan if self.sum is None else values[self.sum], self._heights(values)
        # One observation of NaN makes a sum NaN for the rest of the engine's life.
        if not abs(total) <= _MOST:
            raise BadHistogram("the sum is missing, or no finite number")
        if not heights[-1] <= _MOST:
            raise BadHistogram("the count is no finite number")
        return Histogram.of_heights(self._bounds, heights, total)


def _picking(slots: Sequence[int]) -> _Pick:
    # Of one item, itemgetter makes no tuple.
    return itemgetter(*slots) if len(slots) > 1 else itemgetter(slice(slots[0], slots[0] + 1))


@dataclass(slots=True)
class Arrangement:
    """Where the samples of one text belong. A sample's slot is its number among them, from 0."""

    _numbers: dict[str, dict[int, _Numbers]] = field(default_factory=dict)
    """By metric and by the age of the name that they came under."""
    _ladders: dict[str, dict[int, dict[_Series, _Ladder]]] = field(default_factory=dict)
    _model_names: set[str] = field(default_factory=set)
    _ranks: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Arrangement":
        """Values of samples that are not wanted may come, and are looked at by nobody."""
        made = cls()
        # Families share their labels (see Sample), which the exposition keeps alive.
        known: dict[int, _Series] = {}
        for slot, (name, labels, _, _, _) in enumerate(samples):
            place = _PLACES.get(name)
            if place is None:
                continue
            series = known.get(id(labels))
            if series is None:
                series = known[id(labels)] = made._series(labels)
            made._take(slot, place, labels, series)
        return made

    def _series(self, labels: _Labels) -> _Series:
        for key, said in (("engine", self._ranks), ("model_name", self._model_names)):
            if key in labels:
                said.add(labels[key])
        return frozenset(item for item in labels.items() if item[0] != "le")

    def _take(self, slot: int, place: _Place, labels: _Labels, series: _Series) -> None:
        if not place.part:
            numbers = self._numbers.setdefault(place.metric.name, {}).setdefault(place.age, _Numbers())
            numbers.labels.append(labels)
            numbers.slots.append(slot)
        elif place.part != "count":  # which the bucket +Inf has, too
            ladders = self._ladders.setdefault(place.metric.name, {}).setdefault(place.age, {})
            ladder = ladders.get(series)
            if ladder is None:
                ladder = ladders[series] = _Ladder()
            if place.part == "sum":
                ladder.sum = slot
            else:
                ladder.buckets[labels.get("le", "")] = slot

    def reading(self, values: Sequence[float], skipped: int = 0, problems: Iterable[str] = ()) -> EngineReading:
        """What these values say, by slot. `skipped` and `problems` are those of the text."""
        refused: list[str] = []
        gauges: dict[str, float] = {}
        counters: dict[str, float] = {}
        gauges_by: dict[str, dict[str, float]] = {}
        counters_by: dict[str, dict[str, float]] = {}
        infos: dict[str, tuple[_Labels, ...]] = {}
        for name, ages in self._numbers.items():
            metric, numbers = METRICS[name], ages[min(ages)]
            some = numbers.of(values)
            match metric.kind:
                case Kind.INFO:
                    newest = sorted(zip(some, numbers.labels, strict=True), key=_value, reverse=True)
                    infos[name] = tuple(labels for _, labels in newest)
                case Kind.GAUGE if metric.by:
                    gauges_by[name] = _split(metric, numbers.labels, some)
                case Kind.GAUGE:
                    sound = [value for value in some if abs(value) <= _MOST]
                    if sound:
                        gauges[name] = _joined(metric, sound)
                case _:
                    if not all(0 <= value <= _MOST for value in some):
                        refused.append(f"{name}: a counter is negative or no finite number")
                        continue
                    if metric.by:
                        counters_by[name] = _split(metric, numbers.labels, some)
                    counters[name] = math.fsum(some)
        histograms: dict[str, Histogram] = {}
        for name, of_ages in self._ladders.items():
            ladders = of_ages[min(of_ages)].values()
            try:
                histograms[name] = reduce(add, (ladder.histogram(values) for ladder in ladders))
            except ValueError as problem:  # also a bound that is no number
                refused.append(f"{name}: {problem}")
        return EngineReading(
            gauges=gauges,
            counters=counters,
            histograms=histograms,
            gauges_by=gauges_by,
            counters_by=counters_by,
            infos=infos,
            model_names=tuple(sorted(self._model_names)),
            ranks=len(self._ranks),
            skipped=skipped + len(refused),
            problems=(*problems, *refused)[:MOST_PROBLEMS],
        )


def _value(sample: tuple[float, _Labels]) -> float:
    return sample[0] if not math.isnan(sample[0]) else -math.inf


def _joined(metric: Metric, values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if metric.together is Together.MEAN else math.fsum(values)


def _split(metric: Metric, labels: Iterable[_Labels], some: Iterable[float]) -> dict[str, float]:
    """One number for each value of the label that the metric is told apart by."""
    values: dict[str, list[float]] = {}
    for label, value in zip(labels, some, strict=True):
        if abs(value) <= _MOST:
            values.setdefault(label.get(metric.by, ""), []).append(value)
    return {key: _joined(metric, part) for key, part in values.items()}
