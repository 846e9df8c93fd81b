"""A whole benchmark: servers and loads one after the other, never two at once, and the report of it."""

import os
import platform
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import anyio

from vllm_mcp_protocol.model import Endpoint
from vllm_performance_monitor import __version__
from vllm_performance_monitor.benchmarking.client import Client, Limits, clock
from vllm_performance_monitor.benchmarking.runner import Plan, Progress, learn_cost, run
from vllm_performance_monitor.core.benchmarks.arrivals import ClosedLoop, OpenLoop
from vllm_performance_monitor.core.benchmarks.dialects import Api
from vllm_performance_monitor.core.benchmarks.report import HostFacts, Report, Row, Subject
from vllm_performance_monitor.core.benchmarks.summary import Goal, Summary
from vllm_performance_monitor.core.benchmarks.workload import WordCost, Workload


@dataclass(frozen=True, slots=True)
class Target:
    """One server, and how it is spoken to."""

    label: str
    endpoint: Endpoint
    api: Api = "chat"
    version: str | None = None

    @property
    def subject(self) -> Subject:
        parts = urlsplit(self.endpoint.url)  # a password may stand before the host, a key in the query
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        shown = self.endpoint.shown if self.endpoint.uds else address
        return Subject(
            label=self.label, model=self.endpoint.served_name, api=self.api, where=shown, version=self.version
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What a benchmark does with every target."""

    workload: Workload
    loads: tuple[ClosedLoop | OpenLoop, ...]
    requests: int = 100
    """For each load; fewer where `max_seconds` are over before."""
    max_seconds: float = 120.0
    warm_up: int | None = None
    goal: Goal | None = None
    salt: int | None = None
    """Given: the very texts of an earlier run. An engine that still keeps their prefixes will look faster."""


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of the whole: runs are its unit."""

    done: float
    total: float
    message: str


OnStep = Callable[[Step], Awaitable[None]]


async def benchmark(
    targets: Sequence[Target],
    order: Order,
    *,
    limits: Limits | None = None,
    gpus: Sequence[str] = (),
    on_step: OnStep | None = None,
    on_row: Callable[[Report], Awaitable[None]] | None = None,
    cancel: anyio.Event | None = None,
    report_id: str | None = None,
) -> Report:
    """Measure every target under every load.

    Failures of servers are figures. `on_row` gets the report as far as it is after each run, `cancel` ends it with
    what was measured by then. A `report_id` is one of `new_id`.
    """
    began_s, started = clock(), datetime.now(UTC)
    stop = cancel or anyio.Event()
    salt = secrets.randbits(62) if order.salt is None else order.salt
    report = Report(
        id=report_id or new_id(),
        started_at=started.isoformat(timespec="milliseconds"),
        seconds=0.0,
        workload=order.workload,
        salt=salt,
        requests=order.requests,
        goal=order.goal,
        host=host_facts(gpus),
        suite_version=__version__,
        rows=(),
    )
    total = len(targets) * len(order.loads)
    for place, target in enumerate(targets):
        # Other texts for each: two names may lead to one engine, which would know the second's questions.
        own_salt = salt + place
        cost: WordCost | None = None
        for number, load in enumerate(order.loads):
            if stop.is_set():
                return report
            client = Client(target.endpoint, api=target.api, at_once=load.at_once, limits=limits)
            try:
                cost = await _learned(client, order.workload, own_salt, stop) if cost is None else cost
                plan = _plan(order, load, number, own_salt, cost)
                said = _steps(on_step, len(report.rows), total, target, load)
                done = await run(plan, client, said, stop)
            finally:
                await client.aclose()
            notes = (*_about_requests(client, cost, done.summary, order.workload), *done.notes)
            row = Row(
                subject=target.subject,
                load=load,
                summary=done.summary,
                slices=done.slices,
                ended_by=done.ended_by,
                client_busy=done.client_busy,
                word_cost=cost,
                notes=notes,
            )
            report = report.model_copy(update={"rows": (*report.rows, row), "seconds": clock() - began_s})
            if on_row is not None:
                await on_row(report)
    return report


def new_id() -> str:
    """The id of a benchmark that begins now; ids are in the order of time."""
    return f"b-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


async def _learned(client: Client, workload: Workload, salt: int, stop: anyio.Event) -> WordCost:
    """What words cost, or the guess when somebody wants to stop."""
    cost = WordCost()
    async with anyio.create_task_group() as group:

        async def until_stopped() -> None:
            await stop.wait()
            group.cancel_scope.cancel()

        group.start_soon(until_stopped)
        cost = await learn_cost(client, workload, salt)
        group.cancel_scope.cancel()
    return cost


def _plan(order: Order, load: ClosedLoop | OpenLoop, number: int, salt: int, cost: WordCost) -> Plan:
    plan = Plan(
        workload=order.workload,
        load=load,
        requests=order.requests,
        max_seconds=order.max_seconds,
        warm_up=order.warm_up,
        salt=salt,
        cost=cost,
        goal=order.goal,
    )
    # Other questions for every load.
    return replace(plan, first_number=number * order.requests)


def _steps(
    on_step: OnStep | None, before: int, total: int, target: Target, load: ClosedLoop | OpenLoop
) -> Callable[[Progress], Awaitable[None]] | None:
    if on_step is None:
        return None

    async def say(progress: Progress) -> None:
        share = progress.done / progress.total if progress.total and progress.phase == "measuring" else 0.0
        failed = f", {progress.failed} failed" if progress.failed else ""
        words = f"{target.label}, load {load.shown}: {progress.phase} {progress.done}/{progress.total}{failed}"
        await on_step(Step(before + share, total, f"{words}, {progress.output_tokens_per_second:.0f} tokens/s"))

    return say


def _about_requests(client: Client, cost: WordCost, summary: Summary, workload: Workload) -> list[str]:
    notes = []
    if client.without:
        notes.append(f"the server does not know {', '.join(sorted(client.without))}; asked without")
    if summary.succeeded and not cost.measured and workload.kind != "texts":
        notes.append("what words cost could not be learned: questions have a word for each token asked for")
    return notes


def host_facts(gpus: Sequence[str] = ()) -> HostFacts:
    """Of this host."""
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory_bytes = None
    return HostFacts(
        name=platform.node(),
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=memory_bytes,
        gpus=tuple(gpus),
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.machine()
