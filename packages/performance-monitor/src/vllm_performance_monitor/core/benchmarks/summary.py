"""What many outcomes come to. The definitions are those of `vllm bench serve`, so that figures can be held together.

TTFT: from sending a request to its first token. TPOT: from the first token to the last, by the tokens after the first.
ITL: between two pieces of an answer as they arrive. E2E: from sending to the last token. Failed requests count as
failed and nowhere else. Quantiles are linear between two values (numpy's default).
"""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from vllm_mcp_protocol.model import Value
from vllm_performance_monitor.core.benchmarks.outcomes import Failure, Outcome
from vllm_performance_monitor.core.benchmarks.samples import Distribution, Sample, Slice, Slices

Positive = Annotated[float, Field(gt=0)]


class Goal(Value):
    """Limits that a request must keep to count as good, ms."""

    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    e2e_ms: Positive | None = None

    def met_by(self, outcome: Outcome) -> bool:
        """An answer of one token has no TPOT and keeps every limit of it."""
        pairs = ((self.ttft_ms, outcome.ttft_s), (self.tpot_ms, outcome.tpot_s), (self.e2e_ms, outcome.e2e_s))
        return all(limit is None or (value or 0.0) * 1000 <= limit for limit, value in pairs)


class Summary(Value):
    """The figures of one run."""

    requests: int
    succeeded: int
    failed: int
    failures: dict[Failure, int]
    """How many failed by each cause."""
    failure_words: dict[Failure, str]
    """What the server said to the first of each."""
    duration_s: float
    requests_per_second: float
    input_tokens: int
    output_tokens: int
    input_tokens_per_second: float
    output_tokens_per_second: float
    mean_in_flight: float
    """Answers under way at a time, on average."""
    tokens_per_piece: float | None
    """Well above 1: the server sends several tokens in one piece, and ITL is the time between pieces."""
    counted_by: Literal["usage", "pieces", "mixed"]
    """Output tokens as the server said, or pieces of the stream where it did not."""
    input_counted: bool
    """False: some server did not say how many input tokens there were, and these are missing."""
    ttft_ms: Distribution | None
    itl_ms: Distribution | None
    tpot_ms: Distribution | None
    e2e_ms: Distribution | None
    late_ms: Distribution | None
    """From when requests were due to when they were sent; of an open loop."""
    good_requests_per_second: float | None = None
    """Those within the goal."""

    @property
    def mean_input_tokens(self) -> float:
        return self.input_tokens / self.succeeded if self.succeeded else 0.0

    @property
    def mean_output_tokens(self) -> float:
        return self.output_tokens / self.succeeded if self.succeeded else 0.0


class Tally:
    """Outcomes as they come, added up; nothing of them is kept. Give them in the order in which they ended."""

    def __init__(self, goal: Goal | None = None, *, open_loop: bool = False) -> None:
        self._goal, self._open_loop = goal, open_loop
        self._ttft, self._itl, self._tpot, self._e2e, self._late = (Sample(seed=number) for number in range(5))
        self._failures: Counter[Failure] = Counter()
        self._words: dict[Failure, str] = {}
        self._by: Counter[str] = Counter()
        self._slices = Slices()
        self._input = self._output = self._good = self._uncounted = 0
        self._from_s = float("inf")
        self._to_s = float("-inf")
        self._slice_from_s: float | None = None

    @property
    def requests(self) -> int:
        return len(self._e2e) + self.failed

    @property
    def failed(self) -> int:
        return self._failures.total()

    @property
    def output_tokens(self) -> int:
        return self._output

    def add(self, outcome: Outcome) -> None:
        self._from_s = min(self._from_s, outcome.start_s)
        self._to_s = max(self._to_s, outcome.end_s)
        if self._open_loop:
            self._late.add(outcome.late_s)
        if outcome.failure is not None:
            self._failures[outcome.failure] += 1
            self._words.setdefault(outcome.failure, outcome.words)
            return
        self._by[outcome.counted_by] += 1
        self._input += outcome.input_tokens or 0
        self._uncounted += outcome.input_tokens is None
        self._output += outcome.output_tokens
        self._good += self._goal is not None and self._goal.met_by(outcome)
        self._measure(outcome)

    def _measure(self, outcome: Outcome) -> None:
        ttft_s, tpot_s = outcome.ttft_s or 0.0, outcome.tpot_s
        self._ttft.add(ttft_s)
        self._e2e.add(outcome.e2e_s)
        self._itl.extend(outcome.gaps_s)
        if tpot_s is not None:
            self._tpot.add(tpot_s)
        before_s = self._from_s if self._slice_from_s is None else self._slice_from_s
        self._slice_from_s = max(before_s, outcome.end_s)
        self._slices.add(
            Slice(
                requests=1,
                output_tokens=outcome.output_tokens,
                span_s=self._slice_from_s - before_s,
                ttft_s=ttft_s,
                tpot_s=tpot_s or 0.0,
                tpot_requests=int(tpot_s is not None),
                e2e_s=outcome.e2e_s,
            )
        )

    def slices(self) -> tuple[Slice, ...]:
        """The run in slices, to tell differences from noise."""
        return self._slices.whole()

    def summary(self) -> Summary:
        """From the first request that was sent to the last that ended."""
        succeeded = len(self._e2e)
        duration_s = max(0.0, self._to_s - self._from_s) if self.requests else 0.0
        pieces = len(self._itl) + succeeded
        counted: Literal["usage", "pieces", "mixed"] = "mixed" if len(self._by) > 1 else "usage"
        return Summary(
            requests=self.requests,
            succeeded=succeeded,
            failed=self.failed,
            failures=dict(self._failures),
            failure_words=self._words,
            duration_s=duration_s,
            requests_per_second=_per(succeeded, duration_s),
            input_tokens=self._input,
            output_tokens=self._output,
            input_tokens_per_second=_per(self._input, duration_s),
            output_tokens_per_second=_per(self._output, duration_s),
            mean_in_flight=_per(self._e2e.total, duration_s),
            tokens_per_piece=self._output / pieces if pieces else None,
            counted_by="pieces" if set(self._by) == {"pieces"} else counted,
            input_counted=not self._uncounted,
            ttft_ms=self._ttft.in_ms(),
            itl_ms=self._itl.in_ms(),
            tpot_ms=self._tpot.in_ms(),
            e2e_ms=self._e2e.in_ms(),
            late_ms=self._late.in_ms(),
            good_requests_per_second=None if self._goal is None else _per(self._good, duration_s),
        )


def summarize(outcomes: Iterable[Outcome], goal: Goal | None = None, *, open_loop: bool = False) -> Summary:
    """What these outcomes come to."""
    tally = Tally(goal, open_loop=open_loop)
    for outcome in outcomes:
        tally.add(outcome)
    return tally.summary()


def _per(amount: float, duration_s: float) -> float:
    return amount / duration_s if duration_s > 0 else 0.0
