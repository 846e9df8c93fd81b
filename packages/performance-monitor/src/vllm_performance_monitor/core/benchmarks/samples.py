"""Many measured values in little memory, and their quantiles."""

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vllm_mcp_protocol.model import Value
from vllm_performance_monitor.core.benchmarks.dice import Dice

KEPT = 250_000
"""2 MB. Up to here every value is kept; a p99 of so many has a relative standard error far below 1 %."""


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the `ordered` values lie, linear between two of them.

    Numpy's default method (Hyndman and Fan's 7), which `vllm bench serve` uses.
    """
    position = share * (len(ordered) - 1)
    below = int(position)
    if below + 1 >= len(ordered):
        return ordered[-1]
    return ordered[below] + (ordered[below + 1] - ordered[below]) * (position - below)


class Distribution(Value):
    """How values lie, in milliseconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Sample:
    """Values as they come: all up to `keep`, from then on an even choice of them. Mean and maximum are exact."""

    def __init__(self, keep: int = KEPT, seed: int = 0) -> None:
        self._keep = keep
        self._dice = Dice(seed)
        self._values = array("d")
        self._count = 0
        self._sum = 0.0
        self._max = float("-inf")

    def add(self, value: float) -> None:
        self._count += 1
        self._sum += value
        self._max = max(self._max, value)
        if len(self._values) < self._keep:
            self._values.append(value)
        elif (place := self._dice.below(self._count)) < self._keep:  # reservoir: every value is kept equally likely
            self._values[place] = value

    def extend(self, values: Iterable[float]) -> None:
        for value in values:
            self.add(value)

    def __len__(self) -> int:
        return self._count

    @property
    def total(self) -> float:
        return self._sum

    def in_ms(self) -> Distribution | None:
        """Of values in seconds; None when there is none."""
        if not self._count:
            return None
        ordered = sorted(self._values)
        p50, p95, p99 = (quantile(ordered, share) * 1000 for share in (0.5, 0.95, 0.99))
        mean = self._sum / self._count * 1000
        return Distribution(count=self._count, mean=mean, p50=p50, p95=p95, p99=p99, max=self._max * 1000)


class Slice(NamedTuple):
    """What requests that ended one after the other come to; sums, so that slices can be added."""

    requests: int
    output_tokens: int
    span_s: float
    """From the end of the slice before to the end of this one."""
    ttft_s: float
    tpot_s: float
    tpot_requests: int
    e2e_s: float

    def plus(self, other: "Slice") -> "Slice":
        return Slice._make(a + b for a, b in zip(self, other, strict=True))


SLICES = 32


class Slices:
    """A run in `SLICES` to twice as many slices of equally many requests, however long it lasts."""

    def __init__(self) -> None:
        self._done: list[Slice] = []
        self._open: Slice | None = None
        self._size = 1

    def add(self, one: Slice) -> None:
        self._open = one if self._open is None else self._open.plus(one)
        if self._open.requests < self._size:
            return
        self._done.append(self._open)
        self._open = None
        if len(self._done) == 2 * SLICES:
            self._done = _in_pairs(self._done)
            self._size *= 2

    def whole(self) -> tuple[Slice, ...]:
        """Those that are full."""
        return tuple(self._done)


def _in_pairs(slices: Sequence[Slice]) -> list[Slice]:
    return [a.plus(b) for a, b in zip(slices[::2], slices[1::2], strict=True)]
