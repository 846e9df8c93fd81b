"""What a text of metrics says, as values, and how a reader of such a text refuses a line. Pure."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MOST_PROBLEMS = 20
"""Problems that are kept; all are counted. A broken collector repeats one mistake a thousand times."""

MOST_SHOWN_CHARS = 80


class Exemplar(NamedTuple):
    """One observation that stands for the others of its sample, such as a trace id."""

    labels: Mapping[str, str]
    value: float
    timestamp_s: float | None = None


class Sample(NamedTuple):
    """One line. Samples with the same labels may share `labels`: never change it."""

    name: str
    labels: Mapping[str, str]
    value: float
    timestamp_s: float | None = None
    """Unix time, when the text gives one."""
    exemplar: Exemplar | None = None


class Family(NamedTuple):
    """Samples that stand together under one name.

    A counter's name has no `_total` and its samples have one, whichever of the two formats they come from and however
    its metadata was written. A sample without metadata is a family of its own, of kind `unknown`.
    """

    name: str
    kind: str
    """`counter`, `gauge`, `histogram`, `gaugehistogram`, `summary`, `info`, `stateset`, `unknown`."""
    help: str
    unit: str
    samples: Sequence[Sample]


class Problem(NamedTuple):
    """A line that is not what the format asks for."""

    line: int
    """From 1; of a family that contradicts itself, its last line."""
    reason: str
    text: str
    """The line, or its beginning."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}: {self.text!r}"


class ExpositionError(ValueError):
    """A text of metrics has a malformed line; the message says which and why, and so does `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Exposition:
    """What was read of one text."""

    families: Sequence[Family]
    """In the text's order; a name that comes back after another one is there twice."""
    skipped: int = 0
    """Lines, and families that contradict themselves, that a lenient reader left out."""
    problems: Sequence[Problem] = ()
    """The first `MOST_PROBLEMS` of them."""

    def samples(self) -> Iterator[Sample]:
        """All samples, family by family."""
        for family in self.families:
            yield from family.samples


class Malformed(Exception):
    """What is wrong with a line, in words; readers turn it into a problem."""


class Judge:
    """Decides what becomes of a malformed line.

    A lenient reader counts and skips it. A strict one raises ExpositionError; but where only some names are wanted,
    a line that is not about one of them is nobody's concern.
    """

    def __init__(self, wanted: Container[str] | None, *, lenient: bool) -> None:
        self.wanted = wanted
        self.lenient = lenient
        self.skipped = 0
        self.problems: list[Problem] = []

    def refuse_line(self, number: int, line: str, reason: str, name: str) -> None:
        """`line` cannot be read; `name` is what it seems to be about. Raises ExpositionError when strict."""
        if self.lenient or self.wanted is None or name in self.wanted:
            self.refuse(number, line, reason)

    def refuse(self, number: int, line: str, reason: str) -> None:
        """Count, or raise ExpositionError when strict."""
        problem = Problem(number, reason, line[:MOST_SHOWN_CHARS])
        if not self.lenient:
            raise ExpositionError(problem)
        self.skipped += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)

    def read(self, families: Sequence[Family]) -> Exposition:
        """The whole answer."""
        return Exposition(families, self.skipped, tuple(self.problems))


UNREADABLE = "\0 unreadable"
"""Stands for a line that was refused before anybody read it; compared by identity."""


def lines_of(data: bytes, judge: Judge) -> list[str]:
    """The lines of a text in UTF-8, without their ends; a line of other bytes is refused and becomes UNREADABLE."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        lines = [_readable(number, line, judge) for number, line in enumerate(data.split(b"\n"), 1)]
    if not lines[-1]:
        lines.pop()
    return lines


def _readable(number: int, line: bytes, judge: Judge) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        text = line.decode(errors="replace")
        judge.refuse_line(number, text, "not UTF-8", text.partition("{")[0].partition(" ")[0])
        return UNREADABLE
