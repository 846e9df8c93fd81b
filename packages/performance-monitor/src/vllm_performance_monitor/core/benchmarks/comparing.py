"""Do two runs differ, or is it noise?

Requests of one run are not independent: they share batches and queues, and a busy minute slows a hundred of them. A
rank test over single requests therefore finds "significant" differences between two runs of the same thing. So a run is
cut into slices of consecutive requests (batch means, as in simulation), each at least as long as there were requests
under way, and these are drawn again and again (bootstrap): that gives the interval in which the difference lies. A
difference is told only when the interval excludes none *and* it is larger than what two runs of one set-up differ by
for reasons outside of both.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from vllm_mcp_protocol.model import Value
from vllm_performance_monitor.core.benchmarks.dice import Dice
from vllm_performance_monitor.core.benchmarks.samples import Slice, quantile

DRAWS = 2000
CONFIDENCE = 0.99
"""Not 0.95: with a dozen slices a bootstrap interval is narrower than it should be, and four figures are compared."""

LEAST_SLICES = 8
FLOOR = 0.10
"""Smaller changes are never told. What lasts for a whole run (neighbours, clock speeds, placement in memory) is in no
interval: minutes apart and on two shared cores, throughput of one set-up differed by 5 % (an engine of even pace) and
by 10 % (`vllm bench serve` on the tiny model). Whoever has a quiet machine may give a smaller one."""

Verdict = Literal["better", "worse", "within noise", "too few requests"]


class Difference(Value):
    """One figure of two runs."""

    metric: str
    unit: str
    before: float
    after: float
    change: float
    """0.1: ten per cent more."""
    low: float | None
    high: float | None
    """The change lies between these with a probability of 99 %, as far as noise within the runs goes."""
    verdict: Verdict


_FIGURES: tuple[tuple[str, str, bool, Callable[[Slice], float]], ...] = (
    ("output_tokens_per_second", "tokens/s", True, lambda s: s.output_tokens / s.span_s if s.span_s > 0 else 0.0),
    ("ttft", "ms", False, lambda s: 1000 * s.ttft_s / s.requests if s.requests else 0.0),
    ("tpot", "ms", False, lambda s: 1000 * s.tpot_s / s.tpot_requests if s.tpot_requests else 0.0),
    ("e2e", "ms", False, lambda s: 1000 * s.e2e_s / s.requests if s.requests else 0.0),
)


def compare(
    before: Sequence[Slice], after: Sequence[Slice], *, at_once: int, seed: int = 0, floor: float = FLOOR
) -> tuple[Difference, ...]:
    """`after` beside `before`, figure by figure; `at_once` is how many requests were under way in either run."""
    old, new = widened(before, at_once), widened(after, at_once)
    if not old or not new:
        return ()
    enough = min(len(old), len(new)) >= LEAST_SLICES
    drawn = _draws(old, new, seed) if enough else []
    found = []
    for name, unit, more_is_better, of in _FIGURES:
        was, is_now = of(_added(old)), of(_added(new))
        if was <= 0:
            continue
        change = is_now / was - 1
        low, high = _interval([(of(a), of(b)) for a, b in drawn]) if enough else (None, None)
        verdict = _verdict(change, low, high, floor, more_is_better)
        found.append(
            Difference(
                metric=name, unit=unit, before=was, after=is_now, change=change, low=low, high=high, verdict=verdict
            )
        )
    return tuple(found)


def widened(slices: Sequence[Slice], at_once: int) -> list[Slice]:
    """Neighbours put together until each has as many requests as were under way: those answers influence each other.

    What is left over at the end is dropped.
    """
    made: list[Slice] = []
    held: Slice | None = None
    for one in slices:
        held = one if held is None else held.plus(one)
        if held.requests >= at_once:
            made.append(held)
            held = None
    return made


def _draws(old: Sequence[Slice], new: Sequence[Slice], seed: int) -> list[tuple[Slice, Slice]]:
    dice = Dice(seed)
    return [(_drawn(old, dice), _drawn(new, dice)) for _ in range(DRAWS)]


def _drawn(slices: Sequence[Slice], dice: Dice) -> Slice:
    return _added([slices[dice.below(len(slices))] for _ in slices])


def _added(slices: Sequence[Slice]) -> Slice:
    return Slice._make(sum(column) for column in zip(*slices, strict=True))


def _interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | tuple[None, None]:
    changes = sorted(after / before - 1 for before, after in pairs if before > 0)
    if not changes:
        return None, None
    tail = (1 - CONFIDENCE) / 2
    return quantile(changes, tail), quantile(changes, 1 - tail)


def _verdict(change: float, low: float | None, high: float | None, floor: float, more_is_better: bool) -> Verdict:
    if low is None or high is None:
        return "too few requests"
    if low <= 0 <= high or abs(change) < floor:
        return "within noise"
    return "better" if (change > 0) == more_is_better else "worse"
