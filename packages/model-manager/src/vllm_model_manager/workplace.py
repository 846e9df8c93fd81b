"""What the tools of one server share: its settings, the hub, the caches. One per server object, no globals."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
from anyio import to_thread

from vllm_mcp_protocol.asked_environment import asked_environment
from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.hf import cache as hf_cache
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineEnvironment, EngineView, HubState, ModelFacts
from vllm_mcp_protocol.paths import model_cache_dirs, state_dir
from vllm_mcp_protocol.settings import Settings

logger = logging.getLogger(__name__)

_POLL_S = 1.0
"""Longest silence between two progress reports, and longest delay of a cancellation. Changes arrive at once."""

Report = Callable[[EngineView], Awaitable[None]]


class Workplace:
    """The hub and the files that one server works with."""

    def __init__(self, settings: Settings, hub: Hub, project_dir: Path | None) -> None:
        self.settings = settings
        self.hub = hub
        self.project_dir = project_dir
        self.cache_dirs = model_cache_dirs(settings)
        self.probes: dict[str, str] = {}
        """Engine id → its answer to the probe before it went to sleep."""
        self._catalog = hf_cache.ModelCatalog()
        self._attached_to: int | None = None
        self._attach_warnings: list[str] = []
        self._attaching = anyio.Lock()

    @property
    def allowed_folders(self) -> tuple[Path, ...]:
        """Where paths that come from tools may lead."""
        project = (self.project_dir,) if self.project_dir is not None else ()
        return (*self.cache_dirs, *project, state_dir(self.settings))

    async def state(self) -> HubState:
        """The hub's state; engines that the settings name were attached before."""
        await self._attach_remotes()
        return await self.hub.state()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Remote engines that could not be attached."""
        return tuple(self._attach_warnings)

    async def _attach_remotes(self) -> None:
        """Once per hub: a hub that was restarted has to be told again."""
        remotes = self.settings.remote_engines()
        async with self._attaching:
            if not remotes or (self._attached_to is not None and self._attached_to == self.hub.hub_pid):
                return
            self._attach_warnings.clear()
            for remote in remotes:
                try:
                    await self.hub.attach(remote.url, remote.revealed_key)
                except SuiteError as error:
                    self._attach_warnings.append(f"{remote.url} could not be attached: {error}")
            self._attached_to = self.hub.hub_pid

    async def scan(self) -> hf_cache.CacheScan:
        """Every model of the caches."""
        return await to_thread.run_sync(hf_cache.scan, self.cache_dirs, self._catalog)

    async def find(self, model_id: str, revision: str | None = None) -> ModelFacts | None:
        """Facts of one model of the caches."""
        return await to_thread.run_sync(partial(hf_cache.find, model_id, self.cache_dirs, revision, self._catalog))

    def environment(self, facts: ModelFacts | None = None) -> EngineEnvironment:
        """What the settings add to the environment of an engine for the model of `facts`."""
        return asked_environment(self.settings, self.cache_dirs, facts)

    async def wait_until(
        self, view: EngineView, done: Callable[[EngineView], bool], wait_s: float, report: Report | None = None
    ) -> EngineView:
        """The engine as soon as it is `done`, or as it is after `wait_s`."""
        deadline_s = anyio.current_time() + wait_s
        while not done(view) and (left_s := deadline_s - anyio.current_time()) > 0:
            if report is not None:
                await report(view)
            # A cancellation waits for the answer: anyio 4.16 raises InvalidStateError in the event loop when a read
            # from a unix socket is cancelled in the moment its data arrives, and the connection would be lost.
            with anyio.CancelScope(shield=True):
                view = await self.hub.wait(view.id, seen_epoch=view.epoch, timeout_s=min(left_s, _POLL_S))
            await anyio.lowlevel.checkpoint()
        return view

    @property
    def timeout_s(self) -> float:
        """Time limit of one request to an engine."""
        return self.settings.vllm_timeout / 1000
