"""One run: questions sent as the plan says, answers timed and added up.

Nothing of an answer is kept but its figures; a run of ten thousand requests takes no more memory than one of a hundred
(but for the values of which quantiles are made, 2 MB each at most).
"""

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import anyio

from vllm_performance_monitor.benchmarking.client import clock
from vllm_performance_monitor.core.benchmarks.arrivals import ClosedLoop, OpenLoop, due_times
from vllm_performance_monitor.core.benchmarks.outcomes import Outcome
from vllm_performance_monitor.core.benchmarks.report import EndedBy
from vllm_performance_monitor.core.benchmarks.samples import Slice
from vllm_performance_monitor.core.benchmarks.summary import Goal, Summary, Tally
from vllm_performance_monitor.core.benchmarks.workload import (
    Question,
    WordCost,
    Workload,
    fit_cost,
    mean_output_tokens,
    plain_question,
    question,
)

MAX_REQUESTS = 1_000_000
REPORT_EVERY_S = 0.5
_WARM_UP_NUMBER = 1 << 40
"""Numbers of warm-up questions: none of the run's begins like one of them."""

_HOPELESS = 20
_BUSY = 0.7
"""Of one core, which is all that a load generator in Python can use."""

_LATE_S = 0.05


class Asker(Protocol):
    """Whatever can be asked: `Client`, or a stand-in."""

    async def ask(self, question: Question, due_s: float | None = None) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is. It ends after `requests`, or sends no more after `max_seconds`; what is under way is awaited."""

    workload: Workload
    load: ClosedLoop | OpenLoop
    requests: int = 100
    max_seconds: float = 120.0
    warm_up: int | None = None
    """Requests before the measured ones; None: as many as are under way at a time, 16 at most."""
    salt: int = 0
    cost: WordCost | None = None
    goal: Goal | None = None
    first_number: int = 0
    """So that several runs with one salt ask different questions."""

    def __post_init__(self) -> None:
        if not 1 <= self.requests <= MAX_REQUESTS:
            raise ValueError(f"requests={self.requests} is not from 1 to {MAX_REQUESTS}")
        if not 0 < self.max_seconds <= 86_400:
            raise ValueError(f"max_seconds={self.max_seconds} is not from 0 to 86400")

    @property
    def warm_up_requests(self) -> int:
        return min(self.load.at_once, 16) if self.warm_up is None else self.warm_up

    def question(self, number: int) -> Question:
        return question(self.workload, self.first_number + number, self.salt, self.cost)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    phase: Literal["warm-up", "measuring"]
    done: int
    total: int
    failed: int
    elapsed_s: float
    output_tokens_per_second: float


OnProgress = Callable[[Progress], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it."""

    summary: Summary
    slices: tuple[Slice, ...]
    ended_by: EndedBy
    client_busy: float
    notes: tuple[str, ...]


async def run(
    plan: Plan, client: Asker, on_progress: OnProgress | None = None, cancel: anyio.Event | None = None
) -> Run:
    """Warm up, then measure. Failures are counted, not raised.

    `cancel` ends it with what is measured so far; cancelling the caller's task ends it with nothing. Either way no
    request is left running.
    """
    stop = cancel or anyio.Event()
    warm_up = await _Course(plan, client, stop, warm_up=True).go(on_progress)
    with _no_long_pauses():
        measured = await _Course(plan, client, stop).go(on_progress)
    ended_by = measured.ended_by
    return Run(
        summary=measured.tally.summary(),
        slices=measured.tally.slices(),
        ended_by=ended_by,
        client_busy=measured.busy,
        notes=(*_notes(plan, measured), *_warm_up_notes(warm_up)),
    )


@contextmanager
def _no_long_pauses() -> Iterator[None]:
    """What the process holds already is not searched for garbage meanwhile: that takes up to 100 ms at a time in a
    server with all its imports, and would be measured as the other side's."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def learn_cost(client: Asker, workload: Workload, salt: int) -> WordCost:
    """What this server counts for a word and for the frame around a question: two questions that differ in length.

    A server that does not count, or fails, leaves the guess: a token for each word.
    """
    if workload.kind == "texts":
        return WordCost()
    # Words differ in length: with fewer the guess is wrong by more than a twentieth.
    longer = max(128, min(workload.input_tokens, 512))
    counts = []
    for number, words in ((1, longer // 4), (2, longer)):
        outcome = await client.ask(plain_question(words, salt, number))
        if outcome.input_tokens is None:
            return WordCost()
        counts.append((words, outcome.input_tokens))
    return fit_cost(*counts)


@dataclass
class _Course:
    """The warm-up or the measured part of a run, while it lasts."""

    plan: Plan
    client: Asker
    stop: anyio.Event
    warm_up: bool = False
    ended_by: EndedBy = "requests"
    busy: float = 0.0
    most_late_s: float = 0.0
    _sent: int = 0
    _failed_in_a_row: int = 0
    _begin_s: float = 0.0
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally(self.plan.goal, open_loop=isinstance(self.plan.load, OpenLoop) and not self.warm_up)

    @property
    def total(self) -> int:
        return self.plan.warm_up_requests if self.warm_up else self.plan.requests

    async def go(self, on_progress: OnProgress | None) -> "_Course":
        self._begin_s, used_s = clock(), time.process_time()
        async with _beside(self._watch, on_progress) as scope:
            if self.stop.is_set():
                scope.cancel()
            load = self.plan.load
            if isinstance(load, OpenLoop) and not self.warm_up:
                await self._open(load)
            else:
                await self._closed(min(load.at_once, self.total))
        if scope.cancelled_caught or self.stop.is_set():
            self.ended_by = "cancelled"
        elapsed_s = clock() - self._begin_s
        self.busy = (time.process_time() - used_s) / elapsed_s if elapsed_s > 0 else 0.0
        if on_progress is not None and self.ended_by != "cancelled":
            await on_progress(self._progress())
        return self

    async def _closed(self, users: int) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(users):
                group.start_soon(self._user)

    async def _user(self) -> None:
        while (number := self._next()) is not None:
            await self._ask(number, None)

    async def _open(self, load: OpenLoop) -> None:
        gate = anyio.Semaphore(load.at_once)
        begin_s = clock()
        async with anyio.create_task_group() as group:
            for due_s in due_times(load):
                if due_s >= self.plan.max_seconds:
                    self.ended_by = "seconds" if self._sent < self.total else self.ended_by
                    return
                await anyio.sleep(max(0.0, begin_s + due_s - clock()))
                await gate.acquire()
                if (number := self._next()) is None:
                    return
                group.start_soon(self._ask_and_release, number, begin_s + due_s, gate)

    async def _ask_and_release(self, number: int, due_s: float, gate: anyio.Semaphore) -> None:
        try:
            await self._ask(number, due_s)
        finally:
            gate.release()

    def _next(self) -> int | None:
        """The number of the next question; None when no more are sent."""
        if self.ended_by == "failures" or self._sent >= self.total:
            return None
        if clock() - self._begin_s >= self.plan.max_seconds:
            self.ended_by = "seconds"
            return None
        self._sent += 1
        return self._sent - 1 + (_WARM_UP_NUMBER if self.warm_up else 0)

    async def _ask(self, number: int, due_s: float | None) -> None:
        outcome = await self.client.ask(self.plan.question(number), due_s)
        self.tally.add(outcome)
        self.most_late_s = max(self.most_late_s, outcome.late_s)
        self._failed_in_a_row = self._failed_in_a_row + 1 if outcome.failure else 0
        # Nothing works: a provider that refuses is not asked a thousand times more.
        if self._failed_in_a_row >= max(_HOPELESS, 2 * self.plan.load.at_once if self._closed_loop else 0):
            self.ended_by = "failures"

    @property
    def _closed_loop(self) -> bool:
        return isinstance(self.plan.load, ClosedLoop)

    def _progress(self) -> Progress:
        elapsed_s = clock() - self._begin_s
        return Progress(
            phase="warm-up" if self.warm_up else "measuring",
            done=self.tally.requests,
            total=self.total,
            failed=self.tally.failed,
            elapsed_s=elapsed_s,
            output_tokens_per_second=self.tally.output_tokens / elapsed_s if elapsed_s > 0 else 0.0,
        )

    async def _watch(self, on_progress: OnProgress | None, scope: anyio.CancelScope) -> None:
        """Report, and end everything when somebody says so."""
        while True:
            with anyio.move_on_after(REPORT_EVERY_S):
                await self.stop.wait()
                scope.cancel()
                return
            if on_progress is not None:
                await on_progress(self._progress())


Watch = Callable[[OnProgress | None, anyio.CancelScope], Coroutine[Any, Any, None]]


@asynccontextmanager
async def _beside(watch: Watch, on_progress: OnProgress | None) -> AsyncIterator[anyio.CancelScope]:
    """`watch` runs as long as the block does, and may cancel the block by its scope."""
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(watch, on_progress, scope)
            yield scope
        group.cancel_scope.cancel()


def _notes(plan: Plan, course: _Course) -> list[str]:
    notes = []
    load, summary = plan.load, course.tally.summary()
    if course.ended_by == "seconds":
        notes.append(f"ended after {plan.max_seconds:g} s with {summary.requests} of {plan.requests} requests")
    if course.ended_by == "failures":
        notes.append(f"given up after {summary.requests} of {plan.requests} requests: nothing but failures any more")
    if course.ended_by == "cancelled":
        notes.append(f"cancelled after {summary.requests} of {plan.requests} requests")
    if course.busy > _BUSY:
        notes.append(
            f"the load generator used {course.busy:.0%} of a core and may have been the limit: the server can do more"
        )
    if isinstance(load, ClosedLoop) and summary.succeeded < 5 * load.concurrency:
        notes.append(f"fewer than 5 requests for each of {load.concurrency} at a time: start and end weigh much")
    if isinstance(load, OpenLoop) and course.most_late_s > max(_LATE_S, 1 / load.per_second):
        notes.append(
            f"requests were sent up to {course.most_late_s:.2f} s late: "
            f"{load.at_once} were under way, or the load generator was busy"
        )
    if summary.counted_by != "usage" and summary.succeeded:
        notes.append("the server did not count output tokens everywhere; pieces of its streams were counted instead")
    if not summary.input_counted:
        notes.append("the server did not count input tokens")
    if summary.tokens_per_piece is not None and summary.tokens_per_piece > 1.1:
        notes.append(f"{summary.tokens_per_piece:.1f} tokens came in a piece: ITL is between pieces, not tokens")
    work = plan.workload
    if work.kind == "texts" and summary.requests > len(work.texts):
        notes.append("texts came more than once: an engine that keeps prefixes answers the second time faster")
    asked = mean_output_tokens(work, summary.requests, plan.first_number)
    if work.kind != "texts" and summary.succeeded and summary.mean_output_tokens < 0.9 * asked:
        notes.append(
            f"answers had {summary.mean_output_tokens:.0f} tokens on average, not {asked:.0f}: they ended early"
        )
    return notes


def _warm_up_notes(course: _Course) -> list[str]:
    if not course.tally.failed:
        return []
    return [f"{course.tally.failed} of {course.tally.requests} requests of the warm-up failed"]
