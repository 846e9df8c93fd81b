"""Alerts of this host: the rules in force, where each stands, what is told to whom. Evaluated here, once for all.

What must outlive the hub lies in `alerts.json`: a restarted hub raises nothing twice and forgets no delivery.
"""

import asyncio
import json
import logging
import tomllib
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vllm_mcp_hub.core.alerting import hooks
from vllm_mcp_hub.core.alerting.evaluation import LONGEST_STEP_S, evaluate
from vllm_mcp_hub.core.alerting.rules import Rule
from vllm_mcp_hub.core.alerting.ruleset import RuleFields, compose, rules_of_file, with_stored, without_stored
from vllm_mcp_hub.core.alerting.states import (
    AlertState,
    Change,
    Key,
    Observation,
    firing,
    states_from_json,
    states_to_json,
    subjects,
)
from vllm_mcp_hub.monitoring import sending
from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.files import write_atomic
from vllm_mcp_protocol.reading import read_regular

log = logging.getLogger(__name__)

KEPT_CHANGES = 500
RULES_FILE = "alert-rules.toml"
_RULES_BYTES = 1024 * 1024
_POLICY = hooks.Policy()


class Alerts:
    """All that is to be said about this host."""

    def __init__(self, root: Path, interval_s: float) -> None:
        self.trouble: str | None = None
        """Why a rule that somebody gave does not hold, in words."""
        self.changes: deque[dict[str, Any]] = deque(maxlen=KEPT_CHANGES)
        self.webhook: str | None = None
        self.command: tuple[str, ...] = ()
        self.interval_s = interval_s
        """Between two looks."""
        self._root = root
        self._path = root / "alerts.json"
        self._thresholds: Mapping[str, float] = {}
        self._stored: dict[str, dict[str, Any]] = {}
        self._states: dict[Key, AlertState] = {}
        self._queue: hooks.Queue = ()
        self._written = ""
        self._observed: frozenset[str] = frozenset()
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._file: RuleFields = {}
        self._file_seen: tuple[int, int, int] | None = None
        self._recall()
        self._read_file()
        self.rules: tuple[Rule, ...] = self._composed()

    # -- rules ------------------------------------------------------------------------------------------------------

    def set_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Of ALERT_THRESHOLD_<METRIC>; those of other metrics stay. Raises SettingError, changing nothing."""
        together = {**self._thresholds, **thresholds}
        compose(file=self._file, thresholds=together, stored=self._stored, observed=self._observed)
        self._thresholds = together
        self.rules = self._composed()

    def set_rule(self, name: str, given: Mapping[str, Any]) -> Rule:
        """What set-alert-rule asks for. Raises BadInput, changing nothing."""
        stored, rule = with_stored(
            self._stored, name, given, file=self._file, thresholds=self._thresholds, observed=self._observed
        )
        self._stored = stored
        self.rules = self._composed()
        self._keep()
        return rule

    def forget_rule(self, name: str) -> Rule | None:
        """Undo what set-alert-rule did to it: the rule as it is without that, if there is one. Raises BadInput."""
        self._stored = without_stored(self._stored, name)
        self.rules = self._composed()
        self._keep()
        return next((rule for rule in self.rules if rule.name == name), None)

    def _composed(self) -> tuple[Rule, ...]:
        """The rules; where a layer cannot be used, those without it, and `trouble` says why."""
        layers: dict[str, Any] = {"thresholds": self._thresholds, "stored": self._stored}
        for without in ((), ("thresholds",), ("thresholds", "stored")):
            used = {name: layer for name, layer in layers.items() if name not in without}
            try:
                return compose(**used, file=self._file, observed=self._observed)
            except SuiteError as error:
                self.trouble = self.trouble or str(error)
        return compose(file=self._file)

    def _read_file(self) -> bool:
        """Read alert-rules.toml if it is another one than last time, and tell whether it is. One that cannot be used
        is as good as none, and `trouble` says why."""
        path = self._root / RULES_FILE
        try:
            found = path.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            seen = None
        if seen == self._file_seen:
            return False
        self._file_seen, self._file, self.trouble = seen, {}, None
        if seen is not None:
            try:
                rules = rules_of_file(tomllib.loads(read_regular(path, _RULES_BYTES).decode()))
                compose(file=rules, observed=self._observed)
                self._file = rules
            except (OSError, ValueError, SuiteError) as error:
                self.trouble = f"{path} cannot be used: {error}"
                log.warning("%s", self.trouble)
        return True

    # -- looking ----------------------------------------------------------------------------------------------------

    def look(self, observations: Iterable[Observation], gone: Mapping[str, str], now_s: float) -> list[Change]:
        """Take what was just seen; what was raised or cleared by it."""
        if self._read_file():
            self.rules = self._composed()
        seen = list(observations)
        self._observed |= {one.metric for one in seen}
        ended = {subject: gone[subject] for subject in subjects(self._states) if subject in gone}
        longest_s = max(LONGEST_STEP_S, 3 * self.interval_s)
        self._states, changes = evaluate(self.rules, self._states, seen, now_s, gone=ended, longest_step_s=longest_s)
        if changes:
            self.changes += [change.to_json() for change in changes]
            news = [hooks.Delivery(id=one.id, hook=hook, payload=one.to_json(), made_at=now_s)
                    for one in changes for hook in self._hooks()]  # fmt: skip
            self._queue, dropped = hooks.enqueue(self._queue, news, _POLICY)
            _tell(dropped)
        self._keep()
        self._send(now_s)
        return list(changes)

    @property
    def known_subjects(self) -> frozenset[str]:
        """Everything that an alert may be about now."""
        return subjects(self._states)

    def active(self) -> list[dict[str, Any]]:
        """The alerts that fire now, the oldest first."""
        raised = {(one["rule"], one["subject"]): one for one in self.changes if one["kind"] == "raised"}
        found = []
        for state in firing(self._states):
            told = raised.get(state.key, {})
            found.append(
                {
                    "rule": state.rule,
                    "severity": state.severity,
                    "subject": state.subject,
                    "metric": state.metric,
                    "value": state.value,
                    "worst": state.worst,
                    "threshold": state.threshold,
                    "since": state.since,
                    "message": told.get("message", f"{state.rule} of {state.subject}"),
                    "suggestion": told.get("suggestion", ""),
                }
            )
        return found

    # -- hooks ------------------------------------------------------------------------------------------------------

    def _hooks(self) -> list[str]:
        return [name for name, there in (("webhook", self.webhook), ("command", self.command)) if there]

    def _send(self, now_s: float) -> None:
        self._queue, removed = hooks.for_hooks(self._queue, self._hooks())
        self._queue, expired = hooks.expire(self._queue, now_s, _POLICY)
        _tell((*removed, *expired))
        for delivery in hooks.to_send(self._queue, now_s, _POLICY):
            self._queue = hooks.started(self._queue, delivery, now_s)
            work = self._deliver(delivery, now_s)
            self._sending[f"{delivery.hook} {delivery.id}"] = asyncio.get_running_loop().create_task(work)
        self._sending = {name: task for name, task in self._sending.items() if not task.done()}

    async def _deliver(self, delivery: hooks.Delivery, now_s: float) -> None:
        try:
            async with asyncio.timeout(sending.ATTEMPT_S):
                if delivery.hook == "webhook":
                    result = await sending.post(self.webhook or "", delivery.payload)
                else:
                    result = await sending.run(self.command, delivery.payload)
        except Exception as error:  # whatever a receiver does, it is tried again
            result = hooks.Result("failed", str(error)[: sending.WORDS_BYTES] or type(error).__name__)
        if result.outcome == "failed" and result.error != delivery.last_error:
            log.warning("the %s did not take the alert %s: %s", delivery.hook, delivery.id, result.error)
        self._queue, dropped = hooks.finished(self._queue, delivery, result, now_s, _POLICY)
        _tell(dropped)
        self._keep()

    @property
    def notes(self) -> list[str]:
        """What does not work, in words."""
        troubles = hooks.troubles(self._queue).items()
        silent = [f"the {hook} does not take alerts, and is tried again: {error}" for hook, error in troubles]
        return [*([self.trouble] if self.trouble else ()), *silent]

    @property
    def undelivered(self) -> int:
        """News that no hook has taken yet."""
        return len(self._queue)

    # -- the file ---------------------------------------------------------------------------------------------------

    def _recall(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._states = states_from_json(content["states"])
            self._queue = hooks.queue_from_json(content["queue"])
            self._stored = {name: dict(given) for name, given in content["rules"].items()}
            self.changes += [one for one in content["changes"] if isinstance(one, dict)]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SuiteError) as error:
            self.trouble = f"alerts.json cannot be read, and was begun anew: {error}"
            log.warning("%s", self.trouble)
            self._states, self._queue, self._stored = {}, (), {}
            self._path.replace(self._path.with_suffix(".unreadable"))

    def _keep(self) -> None:
        states, queue = states_to_json(self._states), hooks.queue_to_json(self._queue)
        # What only counts on (for how long something holds) need not be written at each look.
        phases = [(state["rule"], state["subject"], state["phase"]) for state in states]
        shown = json.dumps([phases, queue, self._stored, len(self.changes), list(self.changes)[-1:]])
        if shown == self._written:
            return
        content = {"states": states, "queue": queue, "rules": self._stored, "changes": list(self.changes)}
        try:
            write_atomic(self._path, json.dumps(content).encode())
            self._written = shown
        except (OSError, SuiteError) as error:
            log.warning("alerts.json cannot be written: %s", error)


def _tell(dropped: Iterable[hooks.Dropped]) -> None:
    for one in dropped:
        log.warning("the alert %s was not delivered to the %s: %s", one.delivery.id, one.delivery.hook, one.reason)
