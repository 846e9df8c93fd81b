"""Benchmarks that outlast the call that began them: a tool waits a while, answers, and is asked again by id.

They belong to the server's process and end with it: what was measured by then is lost, unless each row is saved as it
comes (`benchmark(on_row=…)`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

import anyio

from vllm_performance_monitor.benchmarking.benchmark import OnStep, Step, new_id
from vllm_performance_monitor.core.benchmarks.report import Report

Work = Callable[[str, OnStep, anyio.Event], Awaitable[Report]]
"""A benchmark to be done: the id of its report, whom to tell of its progress, and what ends it early."""

KEPT = 20
"""Finished ones that can still be asked about; their reports are files."""


@dataclass(eq=False)
class Job:
    """One benchmark, running or done."""

    id: str
    step: Step | None = None
    report: Report | None = None
    error: Exception | None = None
    cancel: anyio.Event = field(default_factory=anyio.Event)
    """Set it to end the benchmark with what was measured."""
    done: anyio.Event = field(default_factory=anyio.Event)

    @property
    def status(self) -> Literal["running", "done", "failed", "cancelled"]:
        if not self.done.is_set():
            return "running"
        if self.report is None:
            return "failed"
        return "cancelled" if self.cancel.is_set() else "done"

    async def wait(self, seconds: float, on_step: OnStep | None = None, every_s: float = 0.5) -> bool:
        """Up to so many seconds for its end, telling of progress meanwhile; is it done? Raises what it failed with."""
        told: Step | None = None
        with anyio.move_on_after(seconds):
            while not self.done.is_set():
                with anyio.move_on_after(every_s):
                    await self.done.wait()
                if on_step is not None and self.step is not None and self.step is not told:
                    told = self.step
                    await on_step(told)
        if self.error is not None:
            raise self.error
        return self.done.is_set()


class Jobs:
    """The benchmarks of one server; one runs at a time, because two would measure each other."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.status == "running"), None)

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def start(self, work: Work) -> Job:
        """Begin; look at `running` before. Raises RuntimeError while another one runs."""
        if self.running is not None:
            raise RuntimeError("a benchmark is running")
        job = Job(new_id())
        self._jobs[job.id] = job
        for old in list(self._jobs)[:-KEPT]:
            del self._jobs[old]
        task = asyncio.get_running_loop().create_task(_do(job, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def aclose(self) -> None:
        """End what runs; no request is left."""
        for job in self._jobs.values():
            job.cancel.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _do(job: Job, work: Work) -> None:
    async def on_step(step: Step) -> None:
        job.step = step

    try:
        job.report = await work(job.id, on_step, job.cancel)
    except Exception as error:
        job.error = error  # raised to whoever waits
    finally:
        job.done.set()
