"""What a benchmark leaves behind: one row for each server and load, and where and with what it was measured."""

from typing import Annotated, Literal

from pydantic import Field

from vllm_mcp_protocol.model import Value
from vllm_performance_monitor.core.benchmarks.arrivals import ClosedLoop, Load
from vllm_performance_monitor.core.benchmarks.comparing import Difference, compare
from vllm_performance_monitor.core.benchmarks.dialects import Api
from vllm_performance_monitor.core.benchmarks.samples import Slice
from vllm_performance_monitor.core.benchmarks.summary import Goal, Summary
from vllm_performance_monitor.core.benchmarks.workload import WordCost, Workload

EndedBy = Literal["requests", "seconds", "cancelled", "failures"]


class Subject(Value):
    """Whom a row is about. Never with a key."""

    label: str
    model: str
    api: Api
    where: str
    version: str | None = None
    """Of the engine, where it says so."""


class HostFacts(Value):
    """Where the load came from; for an engine of this host also what it ran on."""

    name: str
    system: str
    processor: str
    cpus: int
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()


class Row(Value):
    """One run."""

    subject: Subject
    load: Load
    summary: Summary
    slices: tuple[Slice, ...] = ()
    ended_by: EndedBy
    client_busy: float
    """Processor time of the load generator per second, in cores."""
    word_cost: WordCost = WordCost()
    notes: tuple[str, ...] = ()


class Report(Value):
    """One benchmark."""

    format: Literal[1] = 1
    id: str
    started_at: str
    """ISO 8601, UTC."""
    seconds: float
    workload: Workload
    salt: int
    requests: int
    """Asked for, per row."""
    goal: Goal | None = None
    host: HostFacts
    suite_version: str
    rows: tuple[Row, ...]


class Comparison(Value):
    """A row beside an earlier one of the same model, workload and load."""

    before_id: str
    before_at: str
    differences: tuple[Difference, ...]
    changed: Annotated[tuple[str, ...], Field(default=())]
    """What else is not the same: host, versions."""


def same_question(old: Report, old_row: Row, report: Report, row: Row) -> bool:
    """Did both ask the same model for the same work in the same way? Host and versions may differ."""
    return (
        (old_row.subject.model, old_row.subject.api) == (row.subject.model, row.subject.api)
        and old_row.subject.label == row.subject.label
        and old.workload == report.workload
        and old_row.load == row.load
    )


def compare_rows(old: Report, old_row: Row, report: Report, row: Row) -> Comparison:
    """`row` beside `old_row`."""
    at_once = _under_way(old_row, row)
    pairs = (
        ("host", old.host.name, report.host.name),
        ("processor", old.host.processor, report.host.processor),
        ("GPUs", ", ".join(old.host.gpus), ", ".join(report.host.gpus)),
        ("engine version", old_row.subject.version or "?", row.subject.version or "?"),
        ("suite version", old.suite_version, report.suite_version),
    )
    return Comparison(
        before_id=old.id,
        before_at=old.started_at,
        differences=compare(old_row.slices, row.slices, at_once=at_once, seed=report.workload.seed),
        changed=tuple(f"{name}: {was or 'none'} → {now or 'none'}" for name, was, now in pairs if was != now),
    )


def _under_way(*rows: Row) -> int:
    """Of an open loop only the average is known."""
    return max(
        row.load.concurrency if isinstance(row.load, ClosedLoop) else round(row.summary.mean_in_flight) for row in rows
    )
