"""The scrapes of an engine, read one after another, under canonical names (see `names`). Pure.

From one scrape to the next an engine writes the same lines with other numbers. So what the lines are about is worked
out once; after that only numbers that changed are read, and anything else is read from the start.
"""

from collections.abc import Iterable, Sequence
from itertools import compress, count
from operator import ne

from vllm_mcp_protocol.metrics.arrangement import WANTED, Arrangement, EngineReading
from vllm_mcp_protocol.metrics.exposition import parse_prometheus
from vllm_mcp_protocol.metrics.families import Exposition, Sample
from vllm_mcp_protocol.metrics.labels import plain_name, plain_number
from vllm_mcp_protocol.metrics.openmetrics import is_openmetrics, parse_openmetrics


def read_engine_metrics(text: bytes) -> EngineReading:
    """What an engine's answer at /metrics says, in either format. It never raises: what cannot be read is counted."""
    exposition = _parsed(text)
    samples = tuple(exposition.samples())
    return Arrangement.of(samples).reading(_values(samples), exposition.skipped, map(str, exposition.problems))


class EngineReader:
    """Reads the scrapes of one engine, each as `read_engine_metrics` does, but faster.

    It remembers the last text, and where the next one is the same but for its numbers, reads those that changed.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._form: _Form | None = None

    def read(self, text: bytes) -> EngineReading:
        """What this scrape says. It never raises."""
        before, self._lines = self._lines, text.decode(errors="replace").split("\n")
        if len(self._lines) != len(before):
            self._form = None  # of a text that is another one each time, no form is made
            return read_engine_metrics(text)
        if self._form is not None and self._form.take(self._lines, before):
            return self._form.reading()
        self._form = _form_of(text, self._lines)
        return self._form.reading() if self._form is not None else read_engine_metrics(text)


class _Form:
    """The lines of a text without their numbers, and the numbers."""

    def __init__(self, heads: Sequence[str], slots: Sequence[int | None], samples: Sequence[Sample]) -> None:
        self._heads, self._slots = heads, slots
        self._arrangement = Arrangement.of(samples)
        self._values = _values(samples)

    def take(self, lines: Sequence[str], before: Sequence[str]) -> bool:
        """Take the numbers that changed. False: more has changed, and this form is of no use any more."""
        heads, slots, values = self._heads, self._slots, self._values
        numbers: dict[str, float | None] = {}  # the upper buckets of a histogram mostly hold the same
        for at in compress(count(), map(ne, lines, before)):
            head, line = heads[at], lines[at]
            if not head or not line.startswith(head):
                return False
            text = line[len(head) :]
            value = numbers.get(text)
            if value is None:
                value = numbers[text] = plain_number(text)
                if value is None:
                    return False
            slot = slots[at]
            if slot is not None:
                values[slot] = value
        return True

    def reading(self) -> EngineReading:
        return self._arrangement.reading(self._values)


def _form_of(text: bytes, lines: Sequence[str]) -> _Form | None:
    """The form of a text, unless something in it is more than a plain line.

    Which sample comes from which line is told by the parser itself: it reads the text once more, with the number of
    its line in the place of each value.
    """
    exposition = _parsed(text)
    if exposition.skipped or is_openmetrics(text):
        return None
    heads = [_head(line) for line in lines]
    if not all(map(_plain, lines, heads)):
        return None  # a sample that keeps its value would be taken for that of the line with this number
    numbered = [f"{head}{at}" if head else line for at, (head, line) in enumerate(zip(heads, lines, strict=True))]
    slots: list[int | None] = [None] * len(lines)
    for slot, place in enumerate(_parsed("\n".join(numbered).encode()).samples()):
        if place.timestamp_s is not None or place.value not in range(len(lines)):
            return None
        at = int(place.value)
        if not heads[at] or slots[at] is not None:
            return None
        slots[at] = slot
    return _Form(heads, slots, tuple(exposition.samples()))


def _head(line: str) -> str:
    """A line up to its value; empty for one that is no plain sample."""
    head, space, value = line.rpartition(" ")
    return head + space if plain_name(line) and plain_number(value) is not None else ""


def _plain(line: str, head: str) -> bool:
    """Is a line either a plain sample, or none?"""
    return bool(head) or line.strip(" \t\r")[:1] in ("", "#")


def _parsed(text: bytes) -> Exposition:
    parse = parse_openmetrics if is_openmetrics(text) else parse_prometheus
    return parse(text, wanted=WANTED, lenient=True)


def _values(samples: Iterable[Sample]) -> list[float]:
    return [sample.value for sample in samples]
