"""The charts of the page: what is drawn, with its gaps, its vertical axis and its summary in words. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import NamedTuple

from vllm_mcp_protocol.monitoring import EngineWatch, Series, SubjectWindow
from vllm_performance_monitor.core import chart
from vllm_performance_monitor.core.named_series import NAMED, Named, Of
from vllm_performance_monitor.core.time_ticks import say_duration

MOST_LINES = chart.MOST_LINES
"""Subjects of one kind that are drawn: more cannot be told apart."""
_GAP_STEPS = 3.0
_MILLI = 1000.0
_DIGITS = 6


class Range(NamedTuple):
    """How far back charts go, and the time between two of their points. Each step is one that the hub has in memory
    or reads in few rows."""

    duration_s: int
    step_s: int


RANGES = {one.duration_s: one for one in (Range(900, 10), Range(3600, 60), Range(6 * 3600, 180), Range(24 * 3600, 900))}


class _Panel(NamedTuple):
    title: str
    lines: Mapping[str, str]
    """What a line is called beside its subject, and its course; the first is drawn solid."""
    in_seconds: bool = False
    """Rather than milliseconds."""

    @property
    def courses(self) -> list[Named]:
        return [NAMED[name] for name in self.lines.values()]

    @property
    def of(self) -> Of:
        return self.courses[0].of

    @property
    def unit(self) -> str:
        return "s" if self.in_seconds else self.courses[0].unit

    def scale(self, course: Named) -> float:
        """From the hub's figures to the unit."""
        return course.scale / _MILLI if self.in_seconds else course.scale


_PANELS = (
    _Panel("Generated tokens", {"": "throughput"}),
    _Panel("Requests", {"running": "running", "waiting": "waiting"}),
    _Panel("Time to first token", {"p50": "ttft_p50", "p99": "ttft_p99"}),
    _Panel("Time between tokens", {"p50": "inter_token_p50", "p99": "inter_token_p99"}),
    _Panel("Whole answer", {"p50": "latency_p50", "p99": "latency_p99"}, in_seconds=True),
    _Panel("KV cache in use", {"": "kv_usage"}),
    _Panel("GPU utilization", {"": "gpu_util"}),
    _Panel("GPU memory in use", {"": "gpu_memory"}),
    _Panel("Host processors", {"": "host_cpu"}),
    _Panel("Host memory in use", {"": "host_memory"}),
)


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """One line; NaN is a gap."""

    subject: str
    """`org/model`, `GPU 0`, `host`."""
    part: str
    """`p50`, `p99`, `running`; empty where its subject has one line only."""
    dashed: bool
    times: list[float]
    """Seconds after the chart's begin."""
    values: list[float]
    now: float | None
    """None when the line does not reach the end of the chart."""
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """One chart."""

    title: str
    unit: str
    axis: tuple[float, float]
    lines: list[DrawnLine]
    summary: str
    """For whom a picture tells nothing."""


@dataclass(frozen=True, slots=True)
class Course:
    """All charts of one stretch of time."""

    begin_s: float
    end_s: float
    charts: list[Drawn]
    left_out: int
    """Engines and GPUs that are not drawn."""


def subjects_of(seen: Sequence[SubjectWindow], watched: Sequence[EngineWatch]) -> tuple[list[str], int]:
    """What has lines, and how many have none for want of room. Engines that are there now come before those that were;
    the host is drawn where there is no GPU."""
    now = {f"engine:{one.name}" for one in watched}
    engines = sorted((one.subject for one in seen if one.subject.startswith("engine:")), key=lambda one: one not in now)
    gpus = sorted((one.subject for one in seen if one.subject.startswith("gpu:")), key=lambda one: (len(one), one))
    drawn = sorted(engines[:MOST_LINES]) + gpus[:MOST_LINES]
    left_out = max(0, len(engines) - MOST_LINES) + max(0, len(gpus) - MOST_LINES)
    return drawn + ([] if gpus else [one.subject for one in seen if one.subject == "host"]), left_out


def questions(subjects: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """What the hub is to be asked: subjects of one kind, and the names of their series."""
    return [
        (
            [subject for subject in subjects if _kind(subject) == kind],
            [course.series for panel in _PANELS if panel.of == kind for course in panel.courses],
        )
        for kind in dict.fromkeys(map(_kind, subjects))
    ]


def _kind(subject: str) -> str:
    return subject.partition(":")[0]


def charts_of(told: Sequence[Series], begin_s: float, end_s: float) -> list[Drawn]:
    """The charts, by what the hub told of all subjects; of a kind of which there is none, none."""
    found = ((panel, list(_lines(panel, told, begin_s, end_s))) for panel in _PANELS)
    return [_drawn(panel, lines, end_s - begin_s) for panel, lines in found if lines]


def _lines(
    panel: _Panel, told: Sequence[Series], begin_s: float, end_s: float
) -> Iterator[tuple[DrawnLine, chart.Line]]:
    by_name = {(one.subject, one.name): one for one in told}
    for subject in dict.fromkeys(one.subject for one in told if _kind(one.subject) == panel.of):
        for place, (part, name) in enumerate(panel.lines.items()):
            course = NAMED[name]
            if (one := by_name.get((subject, course.series))) is None:
                continue
            gap_s = _GAP_STEPS * one.resolution_s
            points = [(at_s, None if value is None else value * panel.scale(course)) for at_s, value in one.points]
            line = chart.line_of(chart.Series(name, panel.unit, points, gap_s), begin_s, end_s)
            values = [_short(value) for value in line.values]
            finite = [value for value in values if isfinite(value)]
            is_now = bool(finite) and isfinite(values[-1]) and end_s - line.times[-1] <= gap_s
            yield (
                DrawnLine(
                    subject=subject.replace("gpu:", "GPU ").removeprefix("engine:"),
                    part=part,
                    dashed=place > 0,
                    times=[round(at_s - begin_s, 1) for at_s in line.times],
                    values=values,
                    now=values[-1] if is_now else None,
                    low=min(finite, default=None),
                    high=max(finite, default=None),
                ),
                line,
            )


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if isfinite(value) else nan


def _drawn(panel: _Panel, lines: Sequence[tuple[DrawnLine, chart.Line]], duration_s: float) -> Drawn:
    drawn = [one for one, _ in lines]
    # Shares are shown on all of 0 to 100, also where they are small: charts beside each other are compared.
    axis = chart.value_range([line for _, line in lines], (100.0,) if panel.unit == "%" else (), panel.unit)
    return Drawn(panel.title, panel.unit, axis, drawn, _summary(panel.title, panel.unit, drawn, duration_s))


def _summary(title: str, unit: str, lines: Sequence[DrawnLine], duration_s: float) -> str:
    told = [f"{_name(one)}: {_in_words(one, unit)}" for one in lines if one.low is not None]
    words = "; ".join(told) or "nothing was measured"
    return f"{title}, the last {say_duration(duration_s)}. {words}."


def _name(line: DrawnLine) -> str:
    return f"{line.subject} {line.part}".rstrip()


def _in_words(line: DrawnLine, unit: str) -> str:
    now = "nothing now" if line.now is None else f"now {chart.say_number(line.now)} {unit}"
    if line.low is None or line.high is None:
        return now
    return f"{now}, from {chart.say_number(line.low)} to {chart.say_number(line.high)} {unit}"
