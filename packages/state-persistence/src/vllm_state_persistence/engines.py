"""The hub's engines, captured for a snapshot, and this host looked over for the plan of their return.

The plan is made in `core/engine_plan.py` and carried out by `restoring.py`.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio import to_thread

from vllm_mcp_protocol.asked_environment import asked_environment
from vllm_mcp_protocol.engine_env import facts_dir, find_executable, known_vllm_facts
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import PathNotAllowed, SuiteError
from vllm_mcp_protocol.hf.cache import ModelCatalog
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.hub_config import read_config
from vllm_mcp_protocol.model import EngineEnvironment, EngineStatus, EngineView, HubState, ModelFacts
from vllm_mcp_protocol.model_names import is_path
from vllm_mcp_protocol.paths import confine, model_cache_dirs, state_dir
from vllm_mcp_protocol.settings import Settings
from vllm_state_persistence.core.engine_capture import CapturedLora, EngineCapture, capture
from vllm_state_persistence.core.engine_plan import Here, Step, plan

logger = logging.getLogger(__name__)

S = EngineStatus

_ADAPTER_LIMIT_S = 10.0
"""For asking an engine what it serves; it answers in milliseconds."""


# -- capturing ------------------------------------------------------------------------------------------------------


class EngineObserver:
    """Captures the hub's engines, time and again. A server keeps one.

    The hub does not tell from which folder an adapter came, only the engine does, and asking counts as using it: so
    an engine is asked once after each change, or it would never be idle.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._asked: dict[str, tuple[tuple[float, int], Mapping[str, str]]] = {}
        """Engine id → (when it was made and its epoch, its adapters' folders)."""

    async def capture(self) -> EngineCapture:
        """What of the hub's engines a later restore needs. Raises HubTrouble."""
        state = await self._hub.state()
        own = [view for view in state.engines if view.loras and not view.remote]
        self._asked = {view.id: known for view in own if (known := self._asked.get(view.id)) is not None}
        for view in own:
            await self._look_at(view)
        return capture(state, {engine_id: folders for engine_id, (_, folders) in self._asked.items()})

    async def _look_at(self, view: EngineView) -> None:
        known = self._asked.get(view.id)
        mark = (view.created_at, view.epoch)
        if view.status is not S.READY or (known is not None and known[0] == mark):
            return  # a lease would wake a sleeping one: what was known of it before still holds
        try:
            self._asked[view.id] = (mark, await _adapter_folders(self._hub, view.id))
        except (SuiteError, TimeoutError) as error:
            logger.warning("%s did not say where its adapters are: %s", view.id, error)


async def _adapter_folders(hub: Hub, engine_id: str) -> dict[str, str]:
    with anyio.fail_after(_ADAPTER_LIMIT_S):
        async with hub.lease(engine_id) as endpoint, EngineHttp(endpoint, timeout_s=_ADAPTER_LIMIT_S) as http:
            models = await http.models()
    return {str(entry.get("id")): str(entry.get("root") or "") for entry in models if entry.get("parent")}


# -- planning -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """Where models and adapters may lie, and what is added to an engine's environment: a server's own settings."""

    settings: Settings
    project_dir: Path | None = None
    catalog: ModelCatalog = field(default_factory=ModelCatalog)

    @property
    def cache_dirs(self) -> tuple[Path, ...]:
        return model_cache_dirs(self.settings)

    @property
    def allowed_folders(self) -> tuple[Path, ...]:
        """Where a path of a snapshot may lead: it may come from another machine."""
        project = (self.project_dir,) if self.project_dir is not None else ()
        return (*self.cache_dirs, *project, state_dir(self.settings))

    def environment(self, facts: ModelFacts | None) -> EngineEnvironment:
        return asked_environment(self.settings, self.cache_dirs, facts)


async def make_plan(hub: Hub, site: Site, captured: EngineCapture, *, force: bool = False) -> tuple[Step, ...]:
    """What a restore would do here and now; nothing is touched. Raises HubTrouble."""
    state = await hub.state()
    return plan(captured, await to_thread.run_sync(look_around, site, captured, state, hub.folder), force=force)


def look_around(site: Site, captured: EngineCapture, state: HubState, hub_folder: Path) -> Here:
    """What this host has of what was captured. Blocking; never raises for what is not there."""
    models: dict[tuple[str, str], ModelFacts] = {}
    adapters: dict[CapturedLora, str] = {}
    obstacles: dict[str, str] = {}
    for engine in captured.engines:
        revision = str(engine.options.get("revision") or "")
        found = None
        if _may_use(site, engine.model_id, obstacles):
            found = site.catalog.find(engine.model_id, site.cache_dirs, revision or None)
        if found is not None:
            models[engine.model_id, revision] = found.facts
        for lora in engine.loras:
            folder = _folder_of(site, lora, obstacles)
            if folder is not None:
                adapters[lora] = folder
    return Here(state, models, adapters, obstacles, _known_flags(site.settings, hub_folder))


def _may_use(site: Site, name: str, obstacles: dict[str, str]) -> bool:
    """A repository, or a folder that the settings allow."""
    if not is_path(name):
        return True
    try:
        confine(name, site.allowed_folders, parameter="path")
    except PathNotAllowed as error:
        obstacles[name] = error.info.message
        return False
    return True


def _folder_of(site: Site, lora: CapturedLora, obstacles: dict[str, str]) -> str | None:
    """Where the adapter is on this host: the folder of before, else its repository in a cache of this host."""
    if lora.path is not None and _may_use(site, lora.path, obstacles) and _is_adapter(Path(lora.path)):
        return lora.path
    if lora.repo is None:
        return None
    found = site.catalog.find(lora.repo, site.cache_dirs, lora.revision)
    if found is None or not found.facts.is_adapter or found.facts.path is None:
        return None
    obstacles.pop(lora.path or "", None)
    return found.facts.path


def _is_adapter(folder: Path) -> bool:
    try:
        return folder.is_absolute() and (folder / "adapter_config.json").is_file()
    except OSError:
        return False


def _known_flags(settings: Settings, hub_folder: Path) -> frozenset[str]:
    """Flags of the vLLM that the hub would start; empty when it was never asked (that takes it some 10 s)."""
    with suppress(SuiteError):
        configured = read_config(hub_folder / "hub.toml").engine.executable
        executable = find_executable(settings, configured, {"PATH": os.environ.get("PATH", os.defpath)})
        facts = known_vllm_facts(executable, facts_dir(settings)) if executable else None
        return facts.flags if facts is not None else frozenset()
    return frozenset()
