"""Counters over time, through restarts and gaps. Pure.

A counter only grows while its process lives, and begins at zero with the next one: a value below the last one is what
the new process counted, and whatever the old one counted after the last look at it is lost. A look that failed is a
gap, not zero: what was counted meanwhile belongs to the whole stretch up to the next look.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Increase(NamedTuple):
    """How much a counter grew between two looks at it."""

    since_s: float
    until_s: float
    amount: float
    """At least this much where `restarted`."""
    restarted: bool

    @property
    def per_second(self) -> float:
        """The mean rate of that time."""
        return self.amount / (self.until_s - self.since_s)


def growth(before: float, after: float, *, restarted: bool = False) -> float:
    """How much a counter grew from one value to the next, when nobody knows of a restart or when one is known."""
    return after if restarted or after < before else after - before


def increases(looks: Iterable[tuple[float, float | None]], *, most_s: float = math.inf) -> Iterator[Increase]:
    """The increases between looks `(time in seconds, value)`, in their order.

    A value that is None, NaN or infinite is a missing one, and so is a look that is not later than the one before.
    The increase after a gap spans it; one that would span more than `most_s` is left out, for it says nothing about
    when within that time.
    """
    last: tuple[float, float] | None = None
    for at_s, value in looks:
        if value is None or not math.isfinite(value) or (last and at_s <= last[0]):
            continue
        if last and at_s - last[0] <= most_s:
            yield Increase(last[0], at_s, growth(last[1], value), value < last[1])
        last = at_s, value


def total(found: Iterable[Increase]) -> float | None:
    """All of it together; None where there was nothing to compare."""
    amounts = [one.amount for one in found]
    return math.fsum(amounts) if amounts else None
