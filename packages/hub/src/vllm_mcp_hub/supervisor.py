"""The one writer: takes events from a queue, asks the ledger, carries out the effects.

Everything that takes time runs as a task of its own and comes back as an event. Nothing outside of `_handle` changes
the ledger. What is here is bookkeeping and wiring; decisions are in `core/`, system calls in `host/`.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mcp_hub import __version__
from vllm_mcp_hub.chores import Chores
from vllm_mcp_hub.core import events as ev
from vllm_mcp_hub.core.ledger import BrokenPromise, Engine, Ledger
from vllm_mcp_hub.core.lifecycle import step
from vllm_mcp_hub.host.devices import read_devices
from vllm_mcp_hub.host.engine_dir import EngineDir
from vllm_mcp_hub.host.processes import prune
from vllm_mcp_hub.monitoring.watching import Monitoring
from vllm_mcp_hub.record import Record
from vllm_mcp_hub.remotes import Remote
from vllm_mcp_hub.store import ModelConfigs, StartHistory
from vllm_mcp_protocol import PROTOCOL
from vllm_mcp_protocol.audit import AuditLog
from vllm_mcp_protocol.errors import EngineNotFound, SuiteError, error_from_info
from vllm_mcp_protocol.hub_config import HubConfig, read_config
from vllm_mcp_protocol.model import Device, EngineStatus, EngineView, HubState, LoadRequest, StartPlan
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import MIB

log = logging.getLogger(__name__)


@dataclass
class Order:
    """A load that was asked for and not granted yet."""

    request: LoadRequest
    plan: StartPlan
    executable: str


EngineEffect = ev.Spawn | ev.Kill | ev.Suspend | ev.Wake
"""What is done to an engine; grants and refusals are answers to clients."""

CarryOut = Callable[["Supervisor", EngineEffect], Coroutine[Any, Any, None]]


class Supervisor:
    """All engines of one user on one host."""

    def __init__(
        self, root: Path, settings: Settings, carry_out: CarryOut, *, protocol: int = PROTOCOL, crash: str = ""
    ) -> None:
        self._carry_out = carry_out
        self.root = root
        self.settings = settings
        self.protocol = protocol
        self.config: HubConfig = read_config(root / "hub.toml")
        self.devices: Sequence[Device] = read_devices(self.host_reserve_bytes)
        self.ledger = Ledger({device.id: device.total_bytes for device in self.devices})
        self.records: dict[str, Record] = {}
        self.past: dict[str, EngineView] = {}
        self.remotes: dict[str, Remote] = {}
        self.model_configs = ModelConfigs(root / "models.json")
        self.history = StartHistory(root / "starts.jsonl")
        self.audit = AuditLog(root / "audit.jsonl")
        self.chores = Chores(root)
        self.monitoring = Monitoring(self)
        # Above every epoch of an earlier hub, so that who waits for a change sees that there is a new one.
        self.epoch = time.time_ns() // 1_000_000
        self.started_s = time.monotonic()
        self.last_client_s = self.started_s
        self.retiring = asyncio.Event()
        self.files_lock = threading.Lock()
        """For files that are read, changed and written by several requests."""
        self.crash_point = crash
        self._queue: asyncio.Queue[tuple[ev.Event, asyncio.Future[None] | None]] = asyncio.Queue()
        self._orders: dict[str, Order] = {}
        self._answers: dict[str, asyncio.Future[ev.Granted]] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def host_reserve_bytes(self) -> int:
        """Host memory that is never promised."""
        return self.config.host_reserve_mib * MIB

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take events for ever. Ends only by cancellation or by a bug, which the log then shows."""
        while True:
            event, handled = await self._queue.get()
            self._handle(event)
            if handled is not None and not handled.done():
                handled.set_result(None)

    def tell(self, event: ev.Event) -> None:
        """Put an event on the queue."""
        self._queue.put_nowait((event, None))

    async def tell_and_wait(self, event: ev.Event) -> None:
        """Put an event on the queue and return when it was handled."""
        handled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((event, handled))
        await handled

    async def ask(
        self, make: Callable[[str], ev.Event], *, number: str = "", order: "Order | None" = None
    ) -> ev.Granted:
        """Put the event that `make` builds around a request's number on the queue, and await its answer.

        Raises the SuiteError of a refusal.
        """
        number = number or self.new_request()
        answer: asyncio.Future[ev.Granted] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        if order is not None:
            self._orders[number] = order
        self.tell(make(number))
        try:
            return await answer
        finally:
            self._answers.pop(number, None)

    def new_request(self) -> str:
        """An id that no other request of this hub has."""
        return f"q{next(self._numbers)}"

    def _handle(self, event: ev.Event) -> None:
        before = {engine.id: engine.state for engine in self.ledger.engines.values()}
        for effect in step(self.ledger, event):
            self._do(effect)
        self._check()
        for engine in list(self.ledger.engines.values()):
            if before.get(engine.id) is not engine.state:
                self._state_changed(engine)

    def _check(self) -> None:
        """A broken promise is a bug of ours; engines that serve are worth more than a clean end."""
        try:
            self.ledger.check()
        except BrokenPromise as broken:
            log.critical("the ledger contradicts itself: %s", broken)

    def _do(self, effect: ev.Effect) -> None:
        match effect:
            case ev.Granted(request):
                self._granted(effect)
                self._answer(request, effect)
            case ev.Refused(request, error):
                self._orders.pop(request, None)
                self._answer(request, error_from_info(error))
            case _:
                self._in_background(self._carry_out(self, effect))

    def _answer(self, request: str, answer: ev.Granted | SuiteError) -> None:
        future = self._answers.get(request)
        if future is None or future.done():
            return
        if isinstance(answer, SuiteError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def carry_out(self, effect: EngineEffect) -> None:
        """Do an effect that no event asked for: a new hub goes on where the last one stopped."""
        self._in_background(self._carry_out(self, effect))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the hub failed", exc_info=task.exception())

    def _state_changed(self, engine: Engine) -> None:
        record = self.records[engine.id]
        failure = engine.failure.code if engine.failure else None
        with contextlib.suppress(OSError):  # a full disk must not keep engines from being stopped
            self.audit.write("engine", engine=engine.id, model=record.name, state=str(engine.state), failure=failure)
        self.bump(record)
        if engine.state is EngineStatus.DRAINING:
            self._in_background(asyncio.to_thread(record.dir.mark_draining))
        if engine.state is EngineStatus.STOPPED:
            record.ended_at = time.time()
            self._retire_record(record, engine)

    def _retire_record(self, record: Record, engine: Engine) -> None:
        failure = None if engine.failure is None else engine.failure.model_dump(mode="json")
        view = record.view(engine, now_s=time.monotonic()).model_dump(mode="json")
        ended = {"code": engine.exit_code, "failure": failure, "view": view}
        self._in_background(asyncio.to_thread(self._tidy, record, ended))
        stopped = [e.id for e in self.ledger.engines.values() if e.state is EngineStatus.STOPPED]
        for engine_id in stopped[: -self.config.keep_stopped]:
            del self.ledger.engines[engine_id], self.records[engine_id]

    def _tidy(self, record: Record, ended: dict[str, Any]) -> None:
        """Write down how it ended and clean up. Trouble with files is logged: it must not disturb the living."""
        try:
            if record.dir.spec_path.exists():
                record.dir.write_exit(ended)
            record.dir.cleanup_tmp()
            for engine_id in prune(self.root / "engines", self.config.keep_stopped):
                self.past.pop(engine_id, None)
        except (OSError, SuiteError) as error:
            log.warning("tidying up after %s: %s", record.id, error)

    def bump(self, record: Record | Remote) -> None:
        """Something of the engine changed: wake everybody who waits for that."""
        self.epoch += 1
        record.epoch = self.epoch
        self._changed.set()
        self._changed = asyncio.Event()

    # -- effects ----------------------------------------------------------------------------------------------------

    def _granted(self, grant: ev.Granted) -> None:
        order = self._orders.pop(grant.request, None)
        if order is None or grant.joined or order.request.dry_run:
            return
        self.records[grant.engine] = Record(
            id=grant.engine,
            dir=EngineDir(self.root / "engines" / grant.engine),
            request=order.request,
            plan=order.plan,
            devices=grant.devices,
            created_at=time.time(),
            created_s=time.monotonic(),
            epoch=self.epoch,
            executable=order.executable,
        )
        try:
            self.records[grant.engine].dir.write_spec(self.records[grant.engine].spec())
        except (OSError, SuiteError) as error:
            log.warning("%s is granted but could not be written down: %s", grant.engine, error)

    # -- questions --------------------------------------------------------------------------------------------------

    async def state(self) -> HubState:
        """Everything the hub knows, now. Only the devices are asked in a thread: the rest changes under this loop."""
        await self.see_devices()
        return HubState(
            protocol=self.protocol,
            version=__version__,
            pid=os.getpid(),
            epoch=self.epoch,
            state_dir=str(self.root),
            uptime_s=round(time.monotonic() - self.started_s, 3),
            devices=tuple(self._with_promises(device) for device in self.devices),
            engines=tuple(self.views()),
            model_configs=self.model_configs.all(),
            chores=self.chores.views(),
        )

    async def see_devices(self) -> Sequence[Device]:
        """Read the devices anew, and let the ledger know."""
        self.devices = await asyncio.to_thread(read_devices, self.host_reserve_bytes)
        await self.tell_and_wait(ev.DevicesSeen({device.id: device.total_bytes for device in self.devices}))
        return self.devices

    async def refresh(self, remote: Remote) -> None:
        """Ask a remote engine what it serves now."""
        if await remote.refresh():
            self.bump(remote)

    def _with_promises(self, device: Device) -> Device:
        promised = self.ledger.promised(device.id) if device.id in self.ledger.capacity else 0
        return device.model_copy(update={"promised_bytes": promised})

    def views(self) -> list[EngineView]:
        """Past engines first, then this hub's, then remote ones."""
        now_s = time.monotonic()
        own = [self.records[engine.id].view(engine, now_s=now_s) for engine in self.ledger.engines.values()]
        return [*self.past.values(), *own, *(remote.view() for remote in self.remotes.values())]

    def view(self, engine_id: str) -> EngineView:
        """One engine. Raises EngineNotFound."""
        if engine_id in self.records:
            return self.records[engine_id].view(self.ledger.engines[engine_id], now_s=time.monotonic())
        if engine_id in self.remotes:
            return self.remotes[engine_id].view()
        if engine_id in self.past:
            return self.past[engine_id]
        raise EngineNotFound(
            f"There is no engine {engine_id}; there are {', '.join(v.id for v in self.views()) or 'none'}.",
            engine_id=engine_id,
            suggestion="list-models shows the engines",
        )

    def record(self, engine_id: str, action: str) -> Record:
        """An engine that this hub owns. Raises EngineNotFound, or RemoteEngine naming the `action`."""
        if engine_id in self.remotes:
            raise self.remotes[engine_id].refusal(action)
        if engine_id not in self.records:
            self.view(engine_id)
            raise EngineNotFound(f"Engine {engine_id} is not running any more.", engine_id=engine_id)
        return self.records[engine_id]

    async def changed(self) -> None:
        """Return at the next change of any engine."""
        await self._changed.wait()

    def state_of(self, engine_id: str) -> EngineStatus | None:
        """Where an engine of ours is; None when it is forgotten."""
        engine = self.ledger.engines.get(engine_id)
        return None if engine is None else engine.state

    async def wait(self, engine_id: str, *, seen_epoch: int, timeout_s: float) -> EngineView:
        """The engine as soon as its epoch is not `seen_epoch`, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.view(engine_id).epoch == seen_epoch:
                    await self.changed()
        return self.view(engine_id)

    def idle(self, now_s: float) -> bool:
        """Nothing lives and nobody has asked for a while: the hub may end."""
        return not any(self.ledger.live()) and now_s - self.last_client_s >= self.config.idle_exit_s
