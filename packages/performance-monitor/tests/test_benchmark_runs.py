"""Whole runs: on the fake vLLM, a real process with bad habits, and with stand-ins where only the course matters."""

import os
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from tests.engine.engines import RunningEngine, started, wait_healthy
from tests.fakes.fakes import make_fake_vllm
from vllm_mcp_protocol.model import Endpoint
from vllm_performance_monitor.benchmarking.benchmark import OnStep, Order, Step, Target, benchmark
from vllm_performance_monitor.benchmarking.client import Client, Limits, clock
from vllm_performance_monitor.benchmarking.jobs import Jobs
from vllm_performance_monitor.benchmarking.runner import Plan, Progress, Run, learn_cost, run
from vllm_performance_monitor.core.benchmarks.arrivals import ClosedLoop, OpenLoop
from vllm_performance_monitor.core.benchmarks.outcomes import Failure, Outcome
from vllm_performance_monitor.core.benchmarks.report import Report
from vllm_performance_monitor.core.benchmarks.workload import Question, Workload

pytestmark = pytest.mark.anyio
SHORT = Workload.of("short", input_tokens=20, output_tokens=4)
FOUR = ClosedLoop(concurrency=4)


@contextmanager
def fake(folder: Path, *flags: str, key: str | None = None, **knobs: Any) -> Iterator[RunningEngine]:
    with started(make_fake_vllm(folder, **knobs), "m", flags=flags, api_key=key) as engine:
        wait_healthy(engine)
        yield engine


def endpoint(engine: RunningEngine, name: str = "m", key: str | None = None) -> Endpoint:
    secret = None if key is None else SecretStr(key)
    return Endpoint(url="http://localhost", uds=str(engine.folder / "s"), served_name=name, api_key=secret)


async def measured(
    where: Endpoint,
    plan: Plan,
    *,
    limits: Limits | None = None,
    on_progress: Callable[[Progress], Any] | None = None,
    cancel: anyio.Event | None = None,
) -> Run:
    client = Client(where, at_once=plan.load.at_once, limits=limits)
    try:
        return await run(plan, client, on_progress, cancel)
    finally:
        await client.aclose()
        assert client.open_connections == 0


async def test_a_closed_loop_asks_what_the_plan_says(tmp_path: Path) -> None:
    said: list[Progress] = []

    async def on_progress(progress: Progress) -> None:
        said.append(progress)

    with fake(tmp_path, slow_stream_s=0.002) as engine:
        done = await measured(endpoint(engine), Plan(workload=SHORT, load=FOUR, requests=40), on_progress=on_progress)
        asked = engine.client.get("/fake/requests").json()["requests"]
    summary = done.summary
    assert (summary.requests, summary.failures, done.ended_by) == (40, {}, "requests")
    assert (summary.output_tokens, summary.counted_by) == (160, "usage")
    assert summary.ttft_ms is not None
    assert summary.itl_ms is not None
    assert (summary.ttft_ms.count, summary.itl_ms.count) == (40, 120)
    assert summary.itl_ms.p50 >= 2
    assert 2 < summary.mean_in_flight <= 4.001
    assert len(asked) == 44, "four to warm up"
    assert len({request["body"]["messages"][0]["content"] for request in asked}) == 44
    assert all(request["body"]["ignore_eos"] for request in asked)
    assert [(p.phase, p.done, p.total) for p in said][-1] == ("measuring", 40, 40)
    assert done.notes == ()


async def test_an_open_loop_keeps_to_its_times(tmp_path: Path) -> None:
    load = OpenLoop(per_second=100, pattern="constant")
    with fake(tmp_path) as engine:
        done = await measured(endpoint(engine), Plan(workload=SHORT, load=load, requests=30, warm_up=1))
    assert done.summary.succeeded == 30
    assert done.summary.duration_s >= 0.29
    assert done.summary.late_ms is not None


async def test_a_slow_first_token_is_waited_for_or_counted(tmp_path: Path) -> None:
    plan = Plan(workload=SHORT, load=FOUR, requests=4, warm_up=0)
    with fake(tmp_path, slow_stream_s=0.3) as engine:
        patient = await measured(endpoint(engine), plan)
        hasty = await measured(endpoint(engine), plan, limits=Limits(connect_s=0.01, first_s=0.1))
    assert patient.summary.ttft_ms is not None
    assert patient.summary.ttft_ms.p50 >= 300
    assert hasty.summary.failures == {Failure.NO_FIRST_TOKEN: 4}


async def test_what_the_engine_refuses_is_counted_by_cause(tmp_path: Path) -> None:
    plan = Plan(workload=SHORT, load=FOUR, requests=5, warm_up=0)
    too_long = Plan(workload=Workload.of(input_tokens=100, output_tokens=4), load=FOUR, requests=5, warm_up=0)
    with fake(tmp_path, "--max-model-len", "64", key="right-key-of-the-engine") as engine:
        wrong = await measured(endpoint(engine, key="wrong-key"), plan)
        unknown = await measured(endpoint(engine, "nobody", "right-key-of-the-engine"), plan)
        long = await measured(endpoint(engine, key="right-key-of-the-engine"), too_long)
    assert wrong.summary.failures == {Failure.UNAUTHORIZED: 5}
    assert unknown.summary.failures == {Failure.NOT_FOUND: 5}
    assert "nobody" in unknown.summary.failure_words[Failure.NOT_FOUND]
    assert long.summary.failures == {Failure.REJECTED: 5}
    assert "64" in long.summary.failure_words[Failure.REJECTED]


async def test_an_engine_that_dies_is_given_up(tmp_path: Path) -> None:
    plan = Plan(workload=SHORT, load=FOUR, requests=5000, warm_up=0)
    with fake(tmp_path, die_after_requests=30, core_death_exit_s=0.2) as engine:
        done = await measured(endpoint(engine), plan)
    assert done.ended_by == "failures"
    assert 20 <= done.summary.succeeded < 1000  # some more are answered until it is gone
    assert {Failure.SERVER_ERROR, Failure.UNREACHABLE} & set(done.summary.failures)
    assert done.summary.requests < 5000
    assert any("given up" in note for note in done.notes)


@pytest.mark.parametrize(
    ("number", "causes"),
    [(signal.SIGTERM, {Failure.ABORTED}), (signal.SIGKILL, {Failure.CUT})],
)
async def test_streams_that_are_cut_or_aborted(tmp_path: Path, number: int, causes: set[Failure]) -> None:
    work = Workload.of(input_tokens=20, output_tokens=400)

    async def on_progress(progress: Progress) -> None:
        if progress.phase == "measuring" and engine.process.poll() is None:
            os.kill(engine.process.pid, number)

    with fake(tmp_path, slow_stream_s=0.01) as engine:
        plan = Plan(workload=work, load=FOUR, requests=8, warm_up=0)
        done = await measured(endpoint(engine), plan, on_progress=on_progress)
    assert causes <= set(done.summary.failures), done.summary
    assert done.summary.succeeded == 0


async def test_a_cancelled_run_leaves_no_request(tmp_path: Path) -> None:
    """By its event it gives what was measured, by its task nothing; the engine stops working either way."""
    plan = Plan(workload=Workload.of(input_tokens=20, output_tokens=1000), load=FOUR, requests=500, warm_up=0)
    stop, cancelled = anyio.Event(), anyio.Event()

    async def on_progress(progress: Progress) -> None:
        stop.set()

    async def on_progress_of_task(progress: Progress) -> None:
        group.cancel_scope.cancel()
        cancelled.set()

    with fake(tmp_path, slow_stream_s=0.01) as engine:
        done = await measured(endpoint(engine), plan, on_progress=on_progress, cancel=stop)
        assert done.ended_by == "cancelled"
        assert done.summary.requests == 0
        await nothing_runs(engine)
        async with anyio.create_task_group() as group:
            await measured(endpoint(engine), plan, on_progress=on_progress_of_task)
        assert cancelled.is_set()
        await nothing_runs(engine)


async def nothing_runs(engine: RunningEngine) -> None:
    def running() -> float:
        lines = engine.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))

    with anyio.fail_after(60):
        while running():
            await anyio.sleep(0.02)


async def test_time_is_a_bound(tmp_path: Path) -> None:
    plan = Plan(workload=SHORT, load=FOUR, requests=100_000, max_seconds=0.3, warm_up=0)
    with fake(tmp_path) as engine:
        done = await measured(endpoint(engine), plan)
    assert done.ended_by == "seconds"
    assert 0 < done.summary.requests < 100_000
    assert done.summary.failures == {}


async def test_words_are_priced_by_the_servers_count(tmp_path: Path) -> None:
    """The fake counts words and a few for the template."""
    with fake(tmp_path) as engine:
        client = Client(endpoint(engine), at_once=1)
        cost = await learn_cost(client, Workload.of(input_tokens=200), 1)
        outcome = await client.ask(Question(0, " ".join(["word"] * cost.words(200)), 1))
        await client.aclose()
    assert cost.measured
    assert outcome.input_tokens == pytest.approx(200, abs=3)


class StandIn:
    """Answers at once."""

    def __init__(self, tokens: int = 4) -> None:
        self.asked = self.under_way = self.most = 0
        self._gaps = [0.001] * (tokens - 1)

    async def ask(self, question: Question, due_s: float | None = None) -> Outcome:
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        start_s = clock()
        await anyio.lowlevel.checkpoint()
        self.under_way -= 1
        tokens = len(self._gaps) + 1
        due_s = start_s if due_s is None else due_s
        return Outcome(question.number, due_s, start_s, clock(), start_s, list(self._gaps), 20, tokens)


async def test_ten_thousand_requests_take_hardly_more_memory_than_a_thousand() -> None:
    """80 bytes for the samples of a request of eight tokens, 250 more while they are sorted at the end; nothing that
    grows with texts (600 bytes each)."""
    work = Workload.of(input_tokens=120, output_tokens=8)

    async def peak_bytes(requests: int) -> int:
        tracemalloc.start()
        await run(Plan(workload=work, load=ClosedLoop(concurrency=50), requests=requests, warm_up=0), StandIn(8))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert await peak_bytes(10_000) - await peak_bytes(1000) < 9000 * 400


async def test_no_more_are_under_way_than_allowed() -> None:
    closed, opened = StandIn(), StandIn()
    await run(Plan(workload=SHORT, load=ClosedLoop(concurrency=7), requests=200), closed)
    assert closed.most == 7
    assert closed.asked == 207
    load = OpenLoop(per_second=100_000, at_once=5)
    done = await run(Plan(workload=SHORT, load=load, requests=200, warm_up=0), opened)
    assert opened.most <= 5
    assert done.summary.requests == 200
    more = ClosedLoop(concurrency=100)
    few = await run(Plan(workload=SHORT, load=more, requests=10, warm_up=0), StandIn())
    assert any("fewer than 5" in note for note in few.notes)


@pytest.mark.parametrize("change", [{"requests": 0}, {"requests": 10**7}, {"max_seconds": 0.0}])
async def test_a_plan_has_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Plan(workload=SHORT, load=FOUR, **change)


async def test_a_benchmark_goes_through_servers_and_loads(tmp_path: Path) -> None:
    steps: list[Step] = []

    async def on_step(step: Step) -> None:
        steps.append(step)

    order = Order(SHORT, (ClosedLoop(concurrency=1), FOUR), requests=12)
    with ExitStack() as held:
        engines = [held.enter_context(fake(tmp_path / name)) for name in ("a", "b")]
        targets = [Target(name, endpoint(engine)) for name, engine in zip("ab", engines, strict=True)]
        targets.append(Target("nobody", Endpoint(url="http://127.0.0.1:1", served_name="m")))
        report = await benchmark(targets, order, on_step=on_step)
        texts = [
            request["body"]["messages"][0]["content"]
            for engine in engines
            for request in engine.client.get("/fake/requests").json()["requests"]
        ]
    assert [(row.subject.label, row.load.shown) for row in report.rows] == [
        ("a", "1"), ("a", "4"), ("b", "1"), ("b", "4"), ("nobody", "1"), ("nobody", "4"),
    ]  # fmt: skip
    assert all(row.summary.succeeded == 12 and row.word_cost.measured for row in report.rows[:4])
    assert all(row.summary.failures == {Failure.UNREACHABLE: 12} for row in report.rows[4:])
    assert len(set(texts)) == len(texts), "no question comes twice, so no prefix cache helps"
    assert steps[-1].done == steps[-1].total == 6
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    again = await benchmark(targets[2:], order, cancel=_set())
    assert again.rows == ()


def _set() -> anyio.Event:
    event = anyio.Event()
    event.set()
    return event


async def test_a_job_outlasts_the_call_that_began_it(tmp_path: Path) -> None:
    order = Order(Workload.of(input_tokens=20, output_tokens=200), (FOUR,), requests=500)
    jobs, steps = Jobs(), []

    async def on_step(step: Step) -> None:
        steps.append(step)

    with fake(tmp_path, slow_stream_s=0.01) as engine:
        target = Target("a", endpoint(engine))

        async def work(report_id: str, on_step: OnStep, cancel: anyio.Event) -> Report:
            return await benchmark([target], order, report_id=report_id, on_step=on_step, cancel=cancel)

        job = jobs.start(work)
        assert not await job.wait(0)
        assert (jobs.running, jobs.get(job.id)) == (job, job)
        with pytest.raises(RuntimeError, match="running"):
            jobs.start(work)
        while not steps:
            assert not await job.wait(1, on_step)
        job.cancel.set()
        assert await job.wait(10)
        assert job.status == "cancelled"
        assert job.report is not None
        assert (job.report.id, job.report.rows[0].ended_by) == (job.id, "cancelled")
        again = jobs.start(work)
        await again.wait(0.2)
        await jobs.aclose()
        assert again.status == "failed"
        await nothing_runs(engine)


async def test_a_job_that_fails_raises_where_it_is_waited_for() -> None:
    async def work(report_id: str, on_step: OnStep, cancel: anyio.Event) -> Report:
        raise ValueError(report_id)

    jobs = Jobs()
    job = jobs.start(work)
    with pytest.raises(ValueError, match=job.id):
        await job.wait(5)
    assert (job.status, jobs.running) == ("failed", None)


def test_an_address_is_shown_without_what_is_secret_in_it() -> None:
    target = Target("x", Endpoint(url="https://user:secret@host:8443/api/v1?key=secret", served_name="m"))
    assert target.subject.where == "https://host:8443/api/v1"


async def test_an_open_loop_does_not_wait_for_what_is_due_too_late() -> None:
    load = OpenLoop(per_second=0.01, pattern="constant")
    done = await run(Plan(workload=SHORT, load=load, requests=10, max_seconds=5, warm_up=0), StandIn())
    assert (done.ended_by, done.summary.requests) == ("seconds", 1)


async def test_texts_that_come_again_are_told() -> None:
    work = Workload.of("texts", texts=["a", "b"], output_tokens=4)
    done = await run(Plan(workload=work, load=FOUR, requests=30, warm_up=0), StandIn())
    assert any("more than once" in note for note in done.notes)
    early = await run(Plan(workload=Workload.of("mixed"), load=FOUR, requests=30, warm_up=0), StandIn())
    assert any("ended early" in note for note in early.notes)
