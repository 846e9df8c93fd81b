"""Reads the Prometheus text format (version 0.0.4, with the quoted names of Prometheus 3). Pure.

Source: "Exposition formats" in Prometheus' documentation. Values are floats, also those written as whole numbers.

    exposition = parse_prometheus(data, wanted={"vllm:num_requests_running"}, lenient=True)

What nobody wants is neither read nor checked, and that is where the speed comes from. Time and memory are linear in
the size of the text, which the caller bounds.
"""

import re
from collections.abc import Container, Iterable
from functools import partial

from vllm_mcp_protocol.metrics.families import UNREADABLE, Exposition, Family, Judge, Malformed, Sample, lines_of
from vllm_mcp_protocol.metrics.labels import SimpleLabels, number, plain_name, plain_number, read_block, read_name

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
"""How a family's samples are named; those of other kinds are named like the family."""

KINDS = {"counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown", "untyped"}

_sample = partial(tuple.__new__, Sample)
"""Sample's own constructor takes twice as long, and that is a tenth of all the time."""

_USUAL_METADATA = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*+) ([^ \t\r].*+(?<![ \t\r]))")
_METADATA = re.compile(r"#[ \t]++(HELP|TYPE)(?:[ \t]++|$)")
_HELP_ESCAPE = re.compile(r"\\([\\n])")
_FIELDS = re.compile(r"[ \t]++")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")


def parse_prometheus(data: bytes, *, wanted: Container[str] | None = None, lenient: bool = False) -> Exposition:
    """The families of `data`, in its order.

    `wanted` holds the names of families as their metadata writes them, and of samples that have no metadata; without
    it all are read. A malformed line raises ExpositionError with its number, unless it is about something unwanted.
    `lenient` skips and counts malformed lines instead: about what is wanted, or about what cannot be told.
    """
    judge = Judge(wanted, lenient=lenient)
    return judge.read(_Reader(judge).read(lines_of(data, judge)))


class _Reader:
    """Where the reading stands: the family whose samples come now, and those before it."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._families: list[Family] = []
        self._begin("")

    def _begin(self, name: str) -> None:
        """A family begins; without a name, none is open."""
        self._name, self._kind, self._help = name, "unknown", ""
        self._samples: list[Sample] = []
        self._members = {name: name} if name else {}
        self._skip = _skippable(self._members) if name and not self._wants(name) else ()

    def _wants(self, name: str) -> bool:
        return self._judge.wanted is None or name in self._judge.wanted

    def _finish(self) -> None:
        if self._name and self._wants(self._name):
            self._families.append(family_of(self._name, self._kind, self._help, self._samples))

    def read(self, lines: list[str]) -> list[Family]:
        # An engine's lines have few sets of labels and few values, for most of what it counts is 0.0.
        label_sets: dict[str, dict[str, str] | None] = {}
        values: dict[str, float | None] = {}
        read_labels = SimpleLabels().read
        members, samples, skip = self._members, self._samples, self._skip
        for at, line in enumerate(lines):
            if skip and line.startswith(skip):
                continue
            head, _, rest = line.partition("{")
            name = members.get(head)
            if name is not None and rest:
                # The usual line: `name{a="b"} 1.0`. Its labels are simple, so the brace before the value closes them.
                block, _, text = rest.rpartition("} ")
                labels = label_sets.get(block)
                if labels is None:
                    labels = label_sets[block] = read_labels(block)
                value = values.get(text)
                if value is None:
                    value = values[text] = plain_number(text)
                if labels is not None and value is not None:
                    samples.append(_sample((name, labels, value, None, None)))
                    continue
            if line is not UNREADABLE:
                self._read_carefully(at + 1, line)
                members, samples, skip = self._members, self._samples, self._skip
        self._finish()
        return self._families

    def _read_carefully(self, line_number: int, line: str) -> None:
        usual = _USUAL_METADATA.fullmatch(line)
        if usual and (usual[1] == "HELP" or usual[3] in KINDS):
            self._describe(*usual.groups())
            return
        line = line.strip(" \t\r")
        metadata = _METADATA.match(line)
        if not line or (line.startswith("#") and not metadata):
            return
        subject = plain_name(line, metadata.end() if metadata else 0)
        try:
            if metadata:
                self._take_metadata(metadata[1], line, metadata.end())
            elif not subject or subject in self._members or self._wants(subject):
                self._take_sample(read_sample(line))
        except Malformed as problem:
            self._judge.refuse_line(line_number, line, str(problem), subject)

    def _take_metadata(self, what: str, line: str, at: int) -> None:
        name, end = read_name(line, at)
        rest = line[end:]
        if rest and rest[0] not in " \t":
            raise Malformed("that is no name of a metric")
        text = rest.lstrip(" \t")
        if what == "TYPE" and text not in KINDS:
            raise Malformed(f"there is no type {text[:40]!r}" if text else "the type is missing")
        self._describe(what, name, text)

    def _describe(self, what: str, name: str, text: str) -> None:
        if name != self._name:
            self._finish()
            self._begin(name)
        if what == "HELP":
            self._help = _HELP_ESCAPE.sub(_meant, text) if "\\" in text else text
            return
        self._kind = "unknown" if text == "untyped" else text
        self._members = {member: member for member in (name + suffix for suffix in SUFFIXES.get(text, ("",)))}
        if self._skip:
            self._skip = _skippable(self._members)

    def _take_sample(self, sample: Sample) -> None:
        if sample.name in self._members:
            if self._wants(self._name):
                self._samples.append(sample)
            return
        self._finish()
        self._begin("")
        if self._wants(sample.name):
            self._families.append(family_of(sample.name, "unknown", "", [sample]))


def _meant(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else "\\"


def _skippable(members: Iterable[str]) -> tuple[str, ...]:
    return tuple(member + end for member in members for end in "{ ")


def family_of(name: str, kind: str, text: str, samples: list[Sample]) -> Family:
    """A family with a counter's names as OpenMetrics has them."""
    if kind != "counter":
        return Family(name, kind, text, "", samples)
    if name.endswith("_total"):
        return Family(name.removesuffix("_total"), kind, text, "", samples)
    return Family(name, kind, text, "", [sample._replace(name=f"{sample.name}_total") for sample in samples])


def read_sample(line: str) -> Sample:
    """One line `name{labels} value timestamp` of the text format, without space around it. Raises Malformed."""
    name = plain_name(line)
    at = len(name)
    brace = len(line) - len(line[at:].lstrip(" \t"))
    labels: dict[str, str] = {}
    if line.startswith("{", brace):
        block = read_block(line, brace + 1, loose=True)
        if name and block.name:
            raise Malformed("the metric has two names")
        name, labels, at = name or block.name, block.labels, block.end
    elif brace == at < len(line):
        raise Malformed("that is no name of a metric" if name else "neither a name nor a comment")
    if not name:
        raise Malformed("the metric has no name")
    fields = _FIELDS.split(line[at:].lstrip(" \t"))
    if len(fields) > 2:
        raise Malformed(f"{fields[2][:40]!r} behind value and timestamp")
    timestamp = fields[1] if len(fields) == 2 else None
    if timestamp is not None and _INTEGER.fullmatch(timestamp) is None:
        raise Malformed(f"the timestamp {timestamp[:40]!r} is no whole number of milliseconds")
    return Sample(name, labels, number(fields[0]), None if timestamp is None else int(timestamp) / 1000)
