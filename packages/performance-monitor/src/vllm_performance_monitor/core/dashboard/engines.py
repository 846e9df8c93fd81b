"""Rows of engines, and how they start or started. Pure.

Of an engine that does not answer only that is told: what was seen before would look as if it still held.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vllm_mcp_protocol.model import EngineStatus, EngineView, Phase
from vllm_mcp_protocol.monitoring import EngineWatch, MonitoringWindow, SubjectWindow
from vllm_performance_monitor.core import figures

Level = Literal["good", "moving", "resting", "bad"]

_SERVING = (EngineStatus.READY, EngineStatus.DRAINING)
_RESTING = (EngineStatus.SLEEPING, EngineStatus.STOPPED)
_COMING = (EngineStatus.QUEUED, EngineStatus.STARTING)
_LONGEST = 400
"""Characters of a trouble that are shown."""


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """Of the window, of an engine that answers."""

    throughput: figures.Throughput
    requests: figures.Requests
    cache: figures.Cache
    latency: figures.Latencies


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine that runs, is to run, or fell over."""

    name: str
    engine_id: str
    state: str
    """`ready`, `loading weights`, `does not answer`."""
    level: Level
    trouble: str = ""
    suggestion: str = ""
    devices: tuple[str, ...] = ()
    memory_bytes: int | None = None
    figures: EngineFigures | None = None


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A part of a start."""

    phase: str
    state: Literal["done", "now", "failed", "to come"]
    seconds: float | None = None
    """That it took."""


@dataclass(frozen=True, slots=True)
class StartRow:
    """A start: one that is under way, that failed, or that the engine was started by."""

    name: str
    engine_id: str
    state: Literal["waits", "runs", "failed", "done"]
    phases: tuple[PhaseRow, ...]
    detail: str = ""
    """How far the phase is, as vLLM says."""
    elapsed_s: float | None = None
    """Since it was asked for; of one that is done, all that it took."""
    estimated_s: float | None = None


def shown_engines(views: Iterable[EngineView]) -> list[EngineView]:
    """All that are there, and of a name that none of them has the last engine, if it fell over."""
    last: dict[str, EngineView] = {}
    living: list[EngineView] = []
    for view in sorted(views, key=lambda one: one.created_at):
        last[view.served_name] = view
        if view.status is not EngineStatus.STOPPED:
            living.append(view)
    names = {view.served_name for view in living}
    fallen = [view for name, view in last.items() if name not in names and view.failure is not None]
    return sorted([*living, *fallen], key=lambda one: one.served_name.lower())


def engine_rows(window: MonitoringWindow, views: Sequence[EngineView]) -> list[EngineRow]:
    """A row of each shown engine, and of an endpoint that is watched without being one of them."""
    watches = {watch.engine_id: watch for watch in window.engines}
    subjects = {one.subject: one for one in window.subjects}
    rows = [_row(view, watches.get(view.id), subjects) for view in views]
    known = {view.id for view in views}
    rows += [_watched(watch, subjects) for watch in window.engines if watch.engine_id not in known]
    return rows


def _row(view: EngineView, watch: EngineWatch | None, subjects: Mapping[str, SubjectWindow]) -> EngineRow:
    told = _figures(watch, subjects)
    state, level = _state(view, watch)
    trouble, suggestion = _trouble(view, watch)
    is_over = view.status is EngineStatus.STOPPED
    return EngineRow(
        name=view.served_name if watch is None else watch.name,
        engine_id=view.id,
        state=state,
        level=level,
        trouble=trouble[:_LONGEST],
        suggestion=suggestion[:_LONGEST],
        devices=() if is_over else view.devices,
        memory_bytes=None if is_over else view.measured_bytes,
        figures=told,
    )


def _watched(watch: EngineWatch, subjects: Mapping[str, SubjectWindow]) -> EngineRow:
    return EngineRow(
        name=watch.name,
        engine_id=watch.engine_id,
        state="answers" if watch.answers else "does not answer",
        level="good" if watch.answers else "bad",
        trouble=watch.trouble[:_LONGEST],
        figures=_figures(watch, subjects),
    )


def _state(view: EngineView, watch: EngineWatch | None) -> tuple[str, Level]:
    if view.failure is not None and view.status is EngineStatus.STOPPED:
        return "failed", "bad"
    if watch is not None and not watch.answers:
        return "does not answer", "bad"
    if watch is not None and watch.stuck_s:
        return f"stuck for {watch.stuck_s:.0f} s", "bad"
    words = view.status.value.replace("_", " ")
    if view.status is EngineStatus.UNREACHABLE:
        return words, "bad"
    if view.status is EngineStatus.STARTING and view.phase is not None:
        return f"starting: {view.phase}", "moving"
    return words, "good" if view.status in _SERVING else "resting" if view.status in _RESTING else "moving"


def _trouble(view: EngineView, watch: EngineWatch | None) -> tuple[str, str]:
    if view.failure is not None and view.status is EngineStatus.STOPPED:
        return view.failure.message, str(view.failure.details.get("suggestion", ""))
    return (watch.trouble, "") if watch is not None and not watch.answers else ("", "")


def _figures(watch: EngineWatch | None, subjects: Mapping[str, SubjectWindow]) -> EngineFigures | None:
    seen = subjects.get(f"engine:{watch.name}") if watch is not None and watch.answers else None
    return None if seen is None else _told(seen)


def _told(seen: SubjectWindow) -> EngineFigures:
    return EngineFigures(figures.throughput(seen), figures.requests(seen), figures.cache(seen), figures.latencies(seen))


def in_total(window: MonitoringWindow) -> EngineFigures | None:
    """Of all engines that answer, as one."""
    answering = {f"engine:{watch.name}" for watch in window.engines if watch.answers}
    seen = [one for one in window.subjects if one.subject in answering]
    return _told(figures.in_total(seen)) if seen else None


def start_rows(views: Iterable[EngineView]) -> list[StartRow]:
    """The starts of these engines, those under way first."""
    rows = [_start(view) for view in views if view.status in _COMING or (view.start_facts.phases and not _died(view))]
    return sorted(rows, key=lambda one: one.state not in ("waits", "runs"))


def _died(view: EngineView) -> bool:
    """It served before it ended: how it started is no news any more."""
    return view.status is EngineStatus.STOPPED and view.ready_at is not None


def _start(view: EngineView) -> StartRow:
    under_way = view.status in _COMING
    failed = view.status is EngineStatus.STOPPED and view.ready_at is None
    state: Literal["waits", "runs", "failed", "done"] = "failed" if failed else "done"
    if under_way:
        state = "runs" if view.status is EngineStatus.STARTING else "waits"
    return StartRow(
        name=view.served_name,
        engine_id=view.id,
        state=state,
        phases=tuple(_phases(view, state)),
        detail=view.phase_detail if under_way else "",
        elapsed_s=view.elapsed_s,
        estimated_s=view.estimated_start_s if under_way else None,
    )


def _phases(view: EngineView, state: str) -> Iterator[PhaseRow]:
    """What is over, what is under way, and what usually follows. A download is told only where there is one."""
    over = {one.phase for one in view.start_facts.phases}
    for one in view.start_facts.phases:
        yield PhaseRow(one.phase, "done", one.seconds)
    if state == "done":
        return
    if view.phase is not None and view.phase not in over:
        yield PhaseRow(view.phase, "failed" if state == "failed" else "now")
    if state != "failed":
        order = list(Phase)
        reached = order.index(view.phase) if view.phase is not None else -1
        for phase in order[reached + 1 : -1]:
            if phase is not Phase.DOWNLOAD and phase not in over:
                yield PhaseRow(phase, "to come")
