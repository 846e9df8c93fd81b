"""Monitoring as part of the hub: which engines are looked at, what the alerts are told, and what clients may ask."""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_mcp_hub.core.alerting.states import Observation
from vllm_mcp_hub.core.monitoring.fleet import ASLEEP, Fleet, Member
from vllm_mcp_hub.core.monitoring.naming import Served, told_apart
from vllm_mcp_hub.core.monitoring.observing import engine_observations, gauge_observations
from vllm_mcp_hub.core.monitoring.points import Point
from vllm_mcp_hub.core.monitoring.series import in_steps, measure_of, series_of, tier_for
from vllm_mcp_hub.host.bounded import Silent
from vllm_mcp_hub.host.gpus import GpuReader
from vllm_mcp_hub.host.host_stats import HostReader
from vllm_mcp_hub.host.processes import pids_of
from vllm_mcp_hub.monitoring.alerts import Alerts
from vllm_mcp_hub.monitoring.monitor import Monitor, Seen, Watched
from vllm_mcp_protocol.gauges import gpu_gauges, host_gauges
from vllm_mcp_protocol.gpu import GpuReading
from vllm_mcp_protocol.model import Endpoint, EngineStatus
from vllm_mcp_protocol.monitoring import (
    Alert,
    AlertRuleView,
    AlertsView,
    EngineWatch,
    GpusView,
    MonitoringWindow,
    MonitoringWish,
    Series,
    SubjectWindow,
)

if TYPE_CHECKING:
    from vllm_mcp_hub.supervisor import Supervisor

log = logging.getLogger(__name__)

DATABASE = "metrics.db"
ALERTS_EVERY_S = 4.0
"""They look at windows of a minute and more; a hub that samples each second need not add these up each second."""
_RECALL_LIMIT_S = 10.0
"""A question waits so long for the history; a week of 16 engines takes a second."""
_RECALLING = "the history is still being read: what is older than this hub is missing"
_ALERTS_OFF = "alerts are off (ENABLE_ALERTS of a client, or alerts in [monitoring] of hub.toml)"
_SERVING = (EngineStatus.READY, EngineStatus.DRAINING)


class Monitoring:
    """Samples and alerts of one hub."""

    def __init__(self, hub: "Supervisor") -> None:
        config = hub.config.monitoring
        self._hub = hub
        self._fleet = Fleet()
        self._gpus, self._alerting = config.gpus, config.alerts
        self._retention_hours = config.retention_hours
        self._endpoint = config.endpoint
        self._gpu_reader = GpuReader()
        self._host_reader = HostReader(state_dir=hub.root)
        self.monitor = Monitor(self._watched, self._read_gauges, config.interval_ms / 1000)
        self.alerts = Alerts(hub.root, config.interval_ms / 1000)
        self.alerts.webhook, self.alerts.command = config.webhook, tuple(config.command)
        self.monitor.after_round = self._look
        self.monitor.own_path = hub.root / DATABASE
        self._was_ready: set[str] = set()
        self._names: dict[Served, str] = {}
        self._alerts_due_s = 0.0

    async def run(self) -> None:
        """Look for ever."""
        config = self._hub.config.monitoring
        path = Path(config.db_path) if config.db_path else self._hub.root / DATABASE
        self.monitor.keep_for(self._retention_hours)
        await self.monitor.open(path)
        try:
            await self.monitor.run()
        finally:
            await self.monitor.close()

    def wish(self, wish: MonitoringWish) -> None:
        """What a client's settings ask for; the last one counts. Raises SettingError, changing nothing of the rules."""
        if wish.thresholds is not None:
            self.alerts.set_thresholds(wish.thresholds)
        if wish.interval_ms is not None:
            self.alerts.interval_s = wish.interval_ms / 1000
            self.monitor.look_every(self.alerts.interval_s)
        if wish.retention_hours is not None:
            self.monitor.keep_for(wish.retention_hours)
        if wish.db_path is not None:
            self.monitor.move_to(Path(wish.db_path))
        self._gpus = self._gpus if wish.gpus is None else wish.gpus
        self._alerting = self._alerting if wish.alerts is None else wish.alerts
        self._endpoint = wish.endpoint or self._endpoint
        self._write_down("monitoring", **wish.model_dump(exclude_none=True))

    def _write_down(self, event: str, **fields: object) -> None:
        with suppress(OSError):  # a full disk must end neither the sampler nor a question
            self._hub.audit.write(event, **fields)

    # -- what is looked at ------------------------------------------------------------------------------------------

    def _watched(self) -> list[Watched]:
        hub = self._hub
        self._tell_apart()
        found = [
            Watched(record.id, self._name(record.id, record.name), record.started_endpoint())
            for record in (hub.records[engine.id] for engine in hub.ledger.live() if engine.state in _SERVING)
            if record.endpoint is not None
        ]
        for remote in hub.remotes.values():
            if remote.status in (*_SERVING, EngineStatus.UNREACHABLE) and remote.model_id:
                found.append(Watched(remote.id, self._name(remote.id, remote.model_id), remote.endpoint))
        if self._endpoint is not None:
            found.append(Watched("endpoint", self._endpoint, Endpoint(url=self._endpoint, served_name="")))
        return found

    def _tell_apart(self) -> None:
        hub = self._hub
        remotes = [Served(remote.id, remote.model_id) for remote in hub.remotes.values() if remote.model_id]
        engines = {Served(one.id, hub.records[one.id].name): one.state for one in hub.ledger.engines.values()}
        serving = [one for one, state in engines.items() if state in (*_SERVING, *ASLEEP)]
        self._names = told_apart(self._names, [*serving, *remotes], {*engines, *remotes})

    def _name(self, engine_id: str, model: str) -> str:
        """Of an engine that has not served yet: that of those before it."""
        return self._names.get(Served(engine_id, model), model)

    def _read_gauges(self) -> Mapping[str, Mapping[str, float]]:
        gauges = {f"gpu:{one.id}": gpu_gauges(one) for one in self._read_gpus()}
        return {**gauges, "host": host_gauges(self._host_reader.read())}

    def _read_gpus(self, *, thorough: bool = False) -> list[GpuReading]:
        """Nothing where the driver has never answered: then there is no GPU that anybody could use."""
        try:
            return self._gpu_reader.read(processes=thorough, thorough=thorough) if self._gpus else []
        except Silent:
            return []

    def _members(self) -> Iterator[Member]:
        hub = self._hub
        for view in hub.past.values():
            failed = view.failure is not None and view.ended_at is not None  # an older hub wrote no time
            yield Member(view.id, view.served_name, view.status, view.ready_at is not None, failed, view.ended_at)
        for engine in hub.ledger.engines.values():
            record = hub.records[engine.id]
            failed = engine.state is EngineStatus.STOPPED and engine.failure is not None
            name = self._name(engine.id, record.name)
            yield Member(engine.id, name, engine.state, record.was_ready, failed, record.ended_at)
        for remote in hub.remotes.values():
            if remote.status is EngineStatus.READY:
                self._was_ready.add(remote.id)
            if remote.model_id:
                name = self._name(remote.id, remote.model_id)
                yield Member(remote.id, name, remote.status, remote.id in self._was_ready, False)

    def _look(self) -> None:
        """After each round."""
        known = self._fleet.look(self._members(), time.time())
        if self._alerting and time.monotonic() >= self._alerts_due_s:
            self._alerts_due_s = time.monotonic() + ALERTS_EVERY_S
            self._look_for_alerts(known)

    def _look_for_alerts(self, known: Mapping[str, str | None]) -> None:
        """What was seen goes to the alerts. `known`: the names of all engines, and why those that are gone are gone."""
        now_s = time.time()
        seen = {one.watched.name: one for one in self.monitor.engines.values()}
        observations = list(self._observations(known, seen, now_s))
        named = {f"engine:{name}" for name in known}
        gone = {f"engine:{name}": reason for name, reason in known.items() if reason is not None}
        gone |= {
            subject: "the engine was unloaded"
            for subject in self.alerts.known_subjects
            if subject.startswith("engine:") and subject not in named
        }
        for change in self.alerts.look(observations, gone, now_s):
            log.info("alert %s: %s", change.kind, change.message)
            self._write_down("alert", alert=change.id, kind=change.kind, rule=change.rule)

    def _observations(
        self, known: Mapping[str, str | None], seen: Mapping[str, Seen], now_s: float
    ) -> Iterator[Observation]:
        for name, reason in known.items():
            if reason is not None:
                continue
            subject, one = f"engine:{name}", seen.get(name)
            restarts = self._fleet.restarts(name)
            if one is None or name in self._fleet.fallen:
                yield Observation(subject, "answering", 0.0, now_s)
                yield Observation(subject, "restarts", float(restarts), now_s)
                continue
            timeline = self.monitor.timelines.get(subject)
            if timeline is not None or not one.answers:
                yield from engine_observations(subject, timeline, one.moving, restarts, now_s, answers=one.answers)
        for subject, timeline in self.monitor.timelines.items():
            point = timeline.last
            if not subject.startswith("engine:") and point is not None and now_s - point.end_s < 60:
                yield from gauge_observations(subject, point, now_s)

    # -- questions --------------------------------------------------------------------------------------------------

    async def window(self, duration_s: float, subjects: Sequence[str] = ()) -> MonitoringWindow:
        """What the last `duration_s` seconds brought, of these subjects or of all."""
        recalled = await self._recalled()
        now_s = time.time()
        found = []
        for subject in subjects or sorted(self.monitor.timelines):
            point = self.monitor.window(subject, now_s - duration_s, now_s)
            if point is not None:
                found.append(_window(subject, point))
        return MonitoringWindow(
            at_s=now_s,
            duration_s=duration_s,
            interval_s=self.monitor.interval_s,
            note=self.monitor.said or ("" if recalled else _RECALLING),
            engines=tuple(self._watches()),
            subjects=tuple(found),
        )

    async def _recalled(self) -> bool:
        """Wait for the history, as long as that is bearable."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_RECALL_LIMIT_S):
                await self.monitor.recalled.wait()
        return self.monitor.recalled.is_set()

    def _watches(self) -> Iterator[EngineWatch]:
        for engine_id, seen in self.monitor.engines.items():
            yield EngineWatch(
                engine_id=engine_id,
                name=seen.watched.name,
                answers=seen.answers,
                trouble=seen.trouble,
                stuck_s=seen.moving.stuck_s if seen.answers else None,
                restarts=self._fleet.restarts(seen.watched.name),
            )

    async def series(
        self, subject: str, names: Iterable[str], begin_s: float, end_s: float, resolution_s: float | None
    ) -> list[Series]:
        """Numbers over time. Raises BadInput for a name that is none."""
        measures = {name: measure_of(name) for name in names}
        await self._recalled()
        tier = tier_for(end_s - begin_s, resolution_s)
        step_s = max(tier.length_s, resolution_s or 0.0)
        points = in_steps(await self.monitor.series(subject, begin_s, end_s, tier), step_s)
        longest_s = 3 * max(step_s, self.monitor.interval_s)
        return [
            Series(
                subject=subject,
                name=name,
                resolution_s=step_s or self.monitor.interval_s,
                points=tuple(series_of(points, measure, longest_s)),
            )
            for name, measure in measures.items()
        ]

    async def gpus(self) -> GpusView:
        """All that the GPUs tell, and the host, now."""
        readings = await asyncio.to_thread(self._read_gpus, thorough=True)
        host = await asyncio.to_thread(self._host_reader.read)
        folders = {record.id: record.dir for record in self._hub.records.values() if record.was_ready}
        owners = await asyncio.to_thread(lambda: {pid: name for name, at in folders.items() for pid in pids_of(at)})
        return GpusView(at_s=time.time(), gpus=tuple(readings), host=host, owners=owners)

    def set_rule(self, name: str, given: Mapping[str, object]) -> AlertRuleView:
        """What set-alert-rule asks for. Raises BadInput, changing nothing."""
        rule = self.alerts.set_rule(name, given)
        self._write_down("alert-rule", rule=name, given=dict(given))
        return AlertRuleView(**asdict(rule))

    def forget_rule(self, name: str) -> AlertRuleView | None:
        """Undo what set-alert-rule did. Raises BadInput where it did nothing."""
        rule = self.alerts.forget_rule(name)
        self._write_down("alert-rule", rule=name, given=None)
        return None if rule is None else AlertRuleView(**asdict(rule))

    def alerts_view(self) -> AlertsView:
        """The alerts, the rules, and what came of them."""
        return AlertsView(
            at_s=time.time(),
            active=tuple(Alert(**one) for one in self.alerts.active()),
            changes=tuple(self.alerts.changes),
            rules=tuple(AlertRuleView(**asdict(rule)) for rule in self.alerts.rules),
            undelivered=self.alerts.undelivered,
            note="; ".join((*(() if self._alerting else (_ALERTS_OFF,)), *self.alerts.notes)),
        )


def _window(subject: str, point: Point) -> SubjectWindow:
    return SubjectWindow(
        subject=subject,
        begin_s=point.begin_s,
        end_s=point.end_s,
        looks=point.looks,
        covered_s=point.covered_s,
        gauges=point.gauge_stats,
        counters=point.increases if point.covered_s else {},
        histograms=point.histograms,
    )
