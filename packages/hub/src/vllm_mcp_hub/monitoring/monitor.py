"""The sampler: looks at every engine, GPU and the host at each interval, and keeps what it saw.

A look that is still under way when the next one is due is left out, so that an engine that hangs costs nothing but its
own points. Trouble with the history file stops no look: what runs now is more important than what was.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_mcp_hub.core.alerting.evaluation import LONGEST_STEP_S
from vllm_mcp_hub.core.monitoring.following import MOST_STRETCH_S, Following
from vllm_mcp_hub.core.monitoring.keeping import Ages, HistoryTrouble, Kept
from vllm_mcp_hub.core.monitoring.observing import Moving
from vllm_mcp_hub.core.monitoring.points import Point, make_point
from vllm_mcp_hub.core.monitoring.timeline import QUARTER, TIERS, Finished, Tier, Timeline, continued
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import EngineRequestFailed
from vllm_mcp_protocol.metrics.arrangement import EngineReading
from vllm_mcp_protocol.metrics.reading import EngineReader
from vllm_mcp_protocol.model import Endpoint
from vllm_mcp_protocol.state_lock import try_lock

if TYPE_CHECKING:
    from vllm_mcp_hub.monitoring.history import History

log = logging.getLogger(__name__)

LOOK_LIMIT_S = 4.0
"""An engine under full load answers /metrics in some tenths of a second."""
LOOKS_AT_ONCE = 16
FORGET_EVERY_S = 600.0
_SUBJECTS_MOST = 500
_UNWRITTEN_MOST = 5000


@dataclass(frozen=True, slots=True)
class Watched:
    """An engine that is to be looked at."""

    id: str
    name: str
    """What it serves, told apart from others that serve the same: its history goes on under this name when it is
    started anew."""
    endpoint: Endpoint

    @property
    def subject(self) -> str:
        return f"engine:{self.name}"


@dataclass(slots=True)
class Seen:
    """What is remembered of a watched engine between looks."""

    watched: Watched
    http: EngineHttp | None = None
    """Made at the first look."""
    reader: EngineReader = field(default_factory=EngineReader)
    following: Following = field(default_factory=Following)
    moving: Moving = field(default_factory=Moving)
    answers: bool = True
    last: EngineReading | None = None
    trouble: str = ""


Gauges = Mapping[str, Mapping[str, float]]
"""By subject: `gpu:0`, `host`."""


class Monitor:
    """Samples of everything that this hub can see."""

    def __init__(
        self, watched: Callable[[], Sequence[Watched]], read_gauges: Callable[[], Gauges], interval_s: float
    ) -> None:
        """`read_gauges` blocks; it is called in a thread."""
        self.interval_s = interval_s
        self.timelines: dict[str, Timeline] = {}
        self.engines: dict[str, Seen] = {}
        self.rounds = 0
        self.said: str | None = None
        """What was set aside, or why nothing is kept, in words."""
        self.recalled = asyncio.Event()
        """Set when the history was read, or cannot be."""
        self.after_round: Callable[[], None] = _nothing
        """Called after each round, before what was seen is written down."""
        self.own_path: Path | None = None
        """Where nobody else keeps anything."""
        self._watched = watched
        self._read_gauges = read_gauges
        self._history: History | None = None
        self._lock: int | None = None
        self._path: Path | None = None
        self._moving: Path | None = None
        self._ages = Ages.of_retention(168)
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._silent_slots = asyncio.Semaphore(LOOKS_AT_ONCE)
        """For engines that did not answer last time: those that hang hold up each other alone."""
        self._hastened = asyncio.Event()
        """Set when the interval changes: the next look may be due at once."""
        self._finished: list[Kept] = []
        self._writing: asyncio.Task[None] | None = None

    async def open(self, path: Path) -> None:
        """Begin to keep a history, and recall what it has. One that another hub keeps is left alone."""
        from vllm_mcp_hub.monitoring.history import History  # SQLAlchemy takes a fifth of a second to import

        self._path = path
        await self._let_go()
        try:
            self._lock = _locked(path)
            self._history, self.said = await History.open(path, own=path == self.own_path)
            await self._recall(self._history, time.time())
        except HistoryTrouble as error:
            self.said = f"no history of metrics is kept in {path}: {error}"
            log.warning("%s", self.said)
        finally:
            self.recalled.set()

    async def _let_go(self) -> None:
        """Of the history."""
        await self.written()
        history, self._history = self._history, None
        if history is not None:
            await history.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def move_to(self, path: Path) -> None:
        """Keep the history there from the next round on."""
        if path != self._path:
            self._moving = path

    async def _recall(self, history: "History", now_s: float) -> None:
        for subject in history.subjects()[-_SUBJECTS_MOST:]:
            written = {tier: await history.read(subject, tier, now_s - tier.remembered_s, now_s) for tier in TIERS}
            timeline = continued(written, self.timelines.get(subject))
            if timeline.last is not None or timeline.window(now_s - QUARTER.remembered_s, now_s) is not None:
                self.timelines[subject] = timeline

    def look_every(self, interval_s: float) -> None:
        """From now on, also where a look of a long interval is still far away."""
        if interval_s != self.interval_s:
            self.interval_s = interval_s
            self._hastened.set()

    async def run(self) -> None:
        """Look for ever, at even steps of the clock that does not jump."""
        due_s = time.monotonic()
        forgotten_s = due_s
        while True:
            await self.round()
            if due_s - forgotten_s >= FORGET_EVERY_S:
                forgotten_s = due_s
                await self._forget()
            began_s, due_s = due_s, max(due_s + self.interval_s, time.monotonic())
            while not await self._slept(due_s - time.monotonic()):
                due_s = max(began_s + self.interval_s, time.monotonic())

    async def _slept(self, seconds: float) -> bool:
        """False: the interval changed meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._hastened.wait()
        except TimeoutError:
            return True
        self._hastened.clear()
        return False

    async def round(self) -> None:
        """One look at everything, which takes no longer than the interval or than one engine may take; then
        what is complete begins to be written down."""
        self.rounds += 1
        if self._moving is not None:
            path, self._moving = self._moving, None
            await self.open(path)
        self._meet(self._watched())
        self._begin("gauges", self._look_at_gauges)
        for seen in list(self.engines.values()):
            self._begin(seen.watched.id, partial(self._look_at, seen))
        if self._looking:
            await asyncio.wait(self._looking.values(), timeout=max(0.05, min(self.interval_s * 0.9, LOOK_LIMIT_S)))
        self.after_round()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._guarded("the history", self._write))

    def keep_for(self, hours: int) -> None:
        """How long the history goes back from now on."""
        self._ages = Ages.of_retention(hours)

    def _begin(self, name: str, look: Callable[[], Awaitable[None]]) -> None:
        task = self._looking.get(name)
        if task is not None and not task.done():
            return
        self._looking[name] = asyncio.get_running_loop().create_task(self._guarded(name, look))

    async def _guarded(self, name: str, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
        except Exception:  # one bad look stops no other
            log.exception("looking at %s failed", name)

    def _meet(self, watched: Iterable[Watched]) -> None:
        """Take up engines that are new, and let go of those that are not there any more."""
        now = {one.id: one for one in watched}
        for seen in list(self.engines.values()):
            engine_id = seen.watched.id
            if now.get(engine_id) != seen.watched:  # it is gone, or serves something else, or somewhere else
                del self.engines[engine_id]
                if seen.http is not None:
                    closing = asyncio.get_running_loop().create_task(seen.http.aclose())
                    self._looking[f"closing {engine_id}"] = closing
        for engine_id, one in now.items():
            self.engines.setdefault(engine_id, Seen(one))
        for name in [name for name, task in self._looking.items() if task.done() and name not in now]:
            del self._looking[name]

    async def _look_at(self, seen: Seen) -> None:
        async with self._slots if seen.answers else self._silent_slots:
            await self._ask(seen)

    async def _ask(self, seen: Seen) -> None:
        try:
            if seen.http is None:
                seen.http = EngineHttp(seen.watched.endpoint, timeout_s=LOOK_LIMIT_S)
            async with asyncio.timeout(LOOK_LIMIT_S):
                text = await seen.http.metrics()
        except (EngineRequestFailed, TimeoutError, ValueError) as error:  # ValueError: of an address that is none
            seen.answers, seen.trouble = False, str(error) or "it did not answer in time"
            return
        reading = seen.reader.read(text)
        at_s = time.time()
        seen.answers, seen.trouble, seen.last = True, "", reading
        seen.moving.look(at_s, reading, max(LONGEST_STEP_S, self.interval_s))
        point = seen.following.look(at_s, reading, max(MOST_STRETCH_S, 3 * self.interval_s))
        self._add(seen.watched.subject, point)

    async def _look_at_gauges(self) -> None:
        found = await asyncio.to_thread(self._read_gauges)
        at_s = time.time()
        for subject, gauges in found.items():
            self._add(subject, make_point(at_s, at_s, gauges))

    def _add(self, subject: str, point: Point) -> None:
        timeline = self.timelines.get(subject)
        if timeline is None:
            if len(self.timelines) >= _SUBJECTS_MOST:
                self._drop_oldest()
            timeline = self.timelines[subject] = Timeline()
        self._keep(subject, timeline.add(point))

    def _drop_oldest(self) -> None:
        ends = {name: one.last.end_s if one.last else 0.0 for name, one in self.timelines.items()}
        del self.timelines[min(ends, key=lambda name: ends[name])]

    def _keep(self, subject: str, finished: Iterable[Finished]) -> None:
        if self._history is not None:
            self._finished += (Kept(subject, one) for one in finished)

    async def written(self) -> None:
        """Wait for what is being written down; a locked file takes its time."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        if self._history is None or not self._finished:
            return
        kept, self._finished = self._finished, []
        try:
            await self._history.write(kept)
            if self.said and self.said.startswith("metrics are not written"):
                self.said = None
        except HistoryTrouble as error:
            self._finished = (kept + self._finished)[-_UNWRITTEN_MOST:]
            self.said = f"metrics are not written down: {error}"

    async def _forget(self) -> None:
        if self._history is None and self._path is not None:
            await self.open(self._path)  # a full disk, or another hub, may have been in the way
        if self._history is not None:
            with suppress(HistoryTrouble):
                await self._history.forget(self._ages, time.time())

    async def close(self) -> None:
        """Write what is not complete, and let go."""
        for task in self._looking.values():
            task.cancel()
        await asyncio.gather(*self._looking.values(), return_exceptions=True)
        for subject, timeline in self.timelines.items():
            self._keep(subject, timeline.close())
        await self.written()
        await self._write()
        await self._let_go()
        for seen in self.engines.values():
            if seen.http is not None:
                await seen.http.aclose()

    # -- questions --------------------------------------------------------------------------------------------------

    def window(self, subject: str, begin_s: float, end_s: float) -> Point | None:
        """What this time adds up to; a day back at the most."""
        timeline = self.timelines.get(subject)
        return None if timeline is None else timeline.window(begin_s, end_s)

    async def series(self, subject: str, begin_s: float, end_s: float, tier: Tier) -> list[Point]:
        """The points of a stretch of time: from memory where they are, else as they were written down."""
        timeline = self.timelines.get(subject)
        points = [] if timeline is None else timeline.series(begin_s, end_s, tier)
        first_s = points[0].begin_s if points else end_s
        if self._history is None or first_s - begin_s <= 2 * max(tier.length_s, self.interval_s):
            return points
        with suppress(HistoryTrouble):
            older = await self._history.read(subject, tier, begin_s, first_s)
            return [*(one for one in older if one.end_s <= first_s), *points]
        return points


def _locked(path: Path) -> int:
    """The lock of the history at `path`, held as long as this descriptor is open. Raises HistoryTrouble."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = try_lock(path.with_name(f"{path.name}.lock"), inheritable=False)
    except OSError as error:
        raise HistoryTrouble(str(error)) from error
    if lock is None:
        raise HistoryTrouble("another hub keeps its history there")
    return lock


def _nothing() -> None:
    """After a round nothing is to be done."""
