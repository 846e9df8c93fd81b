"""Reads OpenMetrics text 1.0, which is stricter than the Prometheus text format: names, order and sums agree. Pure.

Source: OpenMetrics 1.0.0, sections "Text format" and "Metric types". Native histograms (an experiment) are refused.
Timestamps are seconds as floats, so those of one nanosecond apart may look the same.
"""

import math
import re
from collections.abc import Container, Mapping
from itertools import pairwise

from vllm_mcp_protocol.metrics.exposition import KINDS
from vllm_mcp_protocol.metrics.families import (
    UNREADABLE,
    Exemplar,
    Exposition,
    Family,
    Judge,
    Malformed,
    Sample,
    lines_of,
)
from vllm_mcp_protocol.metrics.labels import number, plain_name, read_block, read_name

END = "# EOF"

SUFFIXES = {
    "counter": ("_total", "_created"),
    "summary": ("", "_sum", "_count", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
    "info": ("_info",),
}
"""How a family's samples are named; those of other kinds are named like the family."""

MOST_EXEMPLAR_CHARS = 128
_METADATA = re.compile(r"# (HELP|TYPE|UNIT) ")
_HELP_ESCAPE = re.compile(r'\\([\\n"])')
_OF_A_COUNT = {"_total", "_sum", "_count", "_bucket", "_gcount"}
_DISTINGUISHING = {("histogram", "_bucket"): "le", ("gaugehistogram", "_bucket"): "le", ("summary", ""): "quantile"}
"""The label that tells samples of one metric apart, by kind and suffix."""

_Group = frozenset[tuple[str, str]]


def is_openmetrics(data: bytes) -> bool:
    """Does a text end as OpenMetrics does? (`# EOF` is only a comment in the other format.)"""
    return data[-8:].rstrip(b"\n").endswith(END.encode())


def parse_openmetrics(data: bytes, *, wanted: Container[str] | None = None, lenient: bool = False) -> Exposition:
    """The families of `data`; `wanted`, `lenient` and the errors are those of `parse_prometheus`.

    A family that contradicts itself (a count that is not its last bucket's) raises, too, or is left out and counted.
    """
    judge = Judge(wanted, lenient=lenient)
    return judge.read(_Reader(judge).read(lines_of(data, judge)))


class _Open:
    """The family whose lines come now."""

    def __init__(self, name: str, line_number: int) -> None:
        self.name = name
        self.line_number = line_number
        self.metadata: dict[str, str] = {}
        self.samples: list[Sample] = []
        self.members = frozenset((name,))
        self._group: _Group | None = None
        self._groups: set[_Group] = set()
        self._timestamp_s: float | None = None
        self._seen: set[tuple[str, _Group]] = set()

    @property
    def kind(self) -> str:
        return self.metadata.get("TYPE", "unknown")

    def describe(self, what: str, text: str) -> None:
        """Take a line of metadata. Raises Malformed."""
        if self.samples:
            raise Malformed("metadata behind samples")
        if what in self.metadata:
            raise Malformed(f"a second {what} of one metric")
        if what == "TYPE":
            if text not in KINDS or text == "untyped":
                raise Malformed(f"there is no type {text[:40]!r}")
            self.members = frozenset(self.name + suffix for suffix in SUFFIXES.get(text, ("",)))
        self.metadata[what] = text

    def add(self, sample: Sample) -> None:
        """Take a sample of this family. Raises Malformed."""
        suffix = sample.name[len(self.name) :]
        self._check(sample, suffix)
        if self._in_order(sample, suffix):
            self.samples.append(sample)

    def _check(self, sample: Sample, suffix: str) -> None:
        kind, value, labels = self.kind, sample.value, sample.labels
        if kind == "stateset" and (self.name not in labels or value not in (0, 1)):
            raise Malformed(f"a state needs a label {self.name[:40]} and the value 0 or 1")
        if kind == "info" and value != 1:
            raise Malformed("the value of an info is 1")
        if suffix == "_bucket" and not _canonical(labels.get("le", "NaN")):
            raise Malformed("a bucket needs a bound le")
        if kind == "summary" and not suffix:
            quantile = labels.get("quantile", "NaN")
            if not _canonical(quantile) or not 0 <= float(quantile) <= 1:
                raise Malformed("a quantile is between 0 and 1")
            if value < 0:
                raise Malformed("the value of a quantile is negative")
        if suffix in ("_bucket", "_count", "_gcount") and not value.is_integer():
            raise Malformed("a count is a whole number")
        if (suffix in _OF_A_COUNT and not value >= 0) or (suffix == "_gsum" and math.isnan(value)):
            raise Malformed(f"the value of {suffix} is {value:g}")
        if sample.exemplar and (kind, suffix) not in (
            ("histogram", "_bucket"),
            ("gaugehistogram", "_bucket"),
            ("counter", "_total"),
        ):
            raise Malformed("only buckets and counters have exemplars")

    def _in_order(self, sample: Sample, suffix: str) -> bool:
        """Does the sample stand with the others of its metric? False for one that is there already."""
        group = self.group_of(sample, suffix)
        if group == self._group:
            if (sample.timestamp_s is None) != (self._timestamp_s is None):
                raise Malformed("some samples of one metric have a timestamp, others none")
            if self.kind != "info" and (sample.timestamp_s or 0.0) < (self._timestamp_s or 0.0):
                raise Malformed("the timestamps of one metric go back")
        elif group in self._groups:
            raise Malformed("the samples of one metric do not stand together")
        if group != self._group or sample.timestamp_s != self._timestamp_s:
            self._seen = set()
        series = (sample.name, frozenset(sample.labels.items()))
        known = series in self._seen
        self._seen.add(series)
        self._groups.add(group)
        self._group, self._timestamp_s = group, sample.timestamp_s
        return not known

    def group_of(self, sample: Sample, suffix: str) -> _Group:
        """The labels of the metric that a sample belongs to."""
        if self.kind == "info":
            return frozenset()
        apart = self.name if self.kind == "stateset" else _DISTINGUISHING.get((self.kind, suffix))
        return frozenset(item for item in sample.labels.items() if item[0] != apart)

    def finish(self) -> Family:
        """The whole family. Raises Malformed."""
        unit = self.metadata.get("UNIT", "")
        if unit and not self.name.endswith(f"_{unit}"):
            raise Malformed(f"the name does not end in the unit {unit[:40]}")
        if unit and self.kind in ("info", "stateset"):
            raise Malformed(f"a metric of type {self.kind} has no unit")
        if self.kind in ("histogram", "gaugehistogram"):
            self._check_histograms()
        text = _HELP_ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], self.metadata.get("HELP", ""))
        return Family(self.name, self.kind, text, unit, self.samples)

    def _check_histograms(self) -> None:
        points: dict[tuple[_Group, float | None], dict[str, list[Sample]]] = {}
        for sample in self.samples:
            suffix = sample.name[len(self.name) :]
            point = points.setdefault((self.group_of(sample, suffix), sample.timestamp_s), {})
            point.setdefault(suffix, []).append(sample)
        for point in points.values():
            _check_histogram(point)


def _check_histogram(point: Mapping[str, list[Sample]]) -> None:
    """One histogram at one time, its samples by suffix. Raises Malformed."""
    buckets = [(float(sample.labels["le"]), sample.value) for sample in point.get("_bucket", ())]
    if not buckets or buckets[-1][0] != math.inf:
        raise Malformed("a histogram has no bucket +Inf")
    for (bound, count), (next_bound, next_count) in pairwise(buckets):
        if next_bound <= bound or next_count < count:
            raise Malformed("the buckets of a histogram do not rise")
    counts = point.get("_count", point.get("_gcount", []))
    sums = point.get("_sum", point.get("_gsum", []))
    if bool(counts) != bool(sums):
        raise Malformed("a histogram has only one of sum and count")
    if counts and counts[-1].value != buckets[-1][1]:
        raise Malformed("the count of a histogram is not that of its bucket +Inf")
    if buckets[0][0] < 0 and "_sum" in point:
        raise Malformed("a histogram with negative bounds has a sum")
    if buckets[0][0] >= 0 and any(sample.value < 0 for sample in point.get("_gsum", ())):
        raise Malformed("a histogram without negative bounds has a negative sum")


class _Reader:
    """Where the reading stands."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._families: list[Family] = []
        self._open: _Open | None = None
        self._skip: tuple[str, ...] = ()
        self._names: set[str] = set()
        self._ended = False

    def read(self, lines: list[str]) -> list[Family]:
        for line_number, line in enumerate(lines, 1):
            if line.startswith(self._skip) or line is UNREADABLE:
                continue
            metadata = _METADATA.match(line)
            subject = plain_name(line, metadata.end() if metadata else 0)
            try:
                self._take(line_number, line, metadata, subject)
            except Malformed as problem:
                self._judge.refuse_line(line_number, line, str(problem), subject)
        self._finish(len(lines))
        if not self._ended:
            self._judge.refuse(len(lines) + 1, "", "the text ends without # EOF")
        return self._families

    def _wants(self, name: str) -> bool:
        return self._judge.wanted is None or name in self._judge.wanted

    def _take(self, line_number: int, line: str, metadata: re.Match[str] | None, subject: str) -> None:
        if self._ended:
            raise Malformed("a line behind # EOF")
        if line == END:
            self._ended = True
        elif metadata:
            name, end = read_name(line, metadata.end())
            if not line.startswith(" ", end):
                raise Malformed("that is no name of a metric" if line[end:] else f"nothing behind {metadata[1]}")
            opened = self._begin(name, line_number)
            opened.describe(metadata[1], line[end + 1 :])
            self._skip = () if self._wants(name) else tuple(m + e for m in opened.members for e in "{ ")
        elif line.startswith("#"):
            raise Malformed("neither HELP, TYPE, UNIT nor EOF")
        elif not line:
            raise Malformed("an empty line")
        elif not subject or (self._open and subject in self._open.members) or self._wants(subject):
            self._take_sample(line_number, read_sample(line))

    def _take_sample(self, line_number: int, sample: Sample) -> None:
        if self._open is None or sample.name not in self._open.members:
            self._begin(sample.name, line_number, anew=True)
        if self._open is not None and self._wants(self._open.name):
            self._open.add(sample)
            self._open.line_number = line_number

    def _begin(self, name: str, line_number: int, *, anew: bool = False) -> _Open:
        if self._open is None or self._open.name != name or anew:
            self._finish(line_number - 1)
            self._open = _Open(name, line_number)
            self._skip = ()
        return self._open

    def _finish(self, line_number: int) -> None:
        opened, self._open = self._open, None
        if opened is None or not self._wants(opened.name):
            return
        try:
            family = opened.finish()
            names = {opened.name + suffix for suffix in (*SUFFIXES.get(opened.kind, ()), "")}
            if names & self._names:
                raise Malformed("two metrics would have the same names")
            self._names |= names
            self._families.append(family)
        except Malformed as problem:
            self._judge.refuse(line_number, opened.name, str(problem))


def _canonical(text: str) -> bool:
    """Is it a number, and infinity spelled `+Inf`?"""
    value = number(text)
    return not math.isnan(value) and (value != math.inf or text == "+Inf")


def read_sample(line: str) -> Sample:
    """One line `name{labels} value timestamp # {labels} value timestamp`. Raises Malformed."""
    name = plain_name(line)
    at, labels = len(name), dict[str, str]()
    if line.startswith("{", at):
        block = read_block(line, at + 1, loose=False)
        if name and block.name:
            raise Malformed("the metric has two names")
        name, labels, at = name or block.name, block.labels, block.end
    if not name:
        raise Malformed("the metric has no name")
    value_text, separator, exemplar_text = line[at:].partition(" # ")
    value, timestamp_s = _value_and_time(value_text)
    return Sample(name, labels, value, timestamp_s, _exemplar(exemplar_text) if separator else None)


def _value_and_time(text: str) -> tuple[float, float | None]:
    """` value` or ` value timestamp`."""
    before, *fields = text.split(" ", 3)
    if before or not fields or len(fields) > 2:
        raise Malformed(f"{text[:40]!r} where a space, a value and perhaps a timestamp belong")
    value, timestamp_s = number(fields[0]), number(fields[1]) if len(fields) == 2 else None
    if timestamp_s is not None and not math.isfinite(timestamp_s):
        raise Malformed(f"the timestamp is {fields[1][:40]}")
    return value, timestamp_s


def _exemplar(text: str) -> Exemplar:
    if not text.startswith("{"):
        raise Malformed("an exemplar begins with its labels")
    block = read_block(text, 1, loose=False)
    if block.name:
        raise Malformed("an exemplar has no name")
    if sum(len(key) + len(value) for key, value in block.labels.items()) > MOST_EXEMPLAR_CHARS:
        raise Malformed(f"the labels of an exemplar have more than {MOST_EXEMPLAR_CHARS} characters")
    return Exemplar(block.labels, *_value_and_time(text[block.end :]))
