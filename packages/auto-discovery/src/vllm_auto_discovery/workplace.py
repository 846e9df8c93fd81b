"""What the tools of one server share: its settings, the hub, the caches, vLLM's own tables. No globals."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import anyio
from anyio import to_thread

from vllm_auto_discovery.core.abilities.capabilities import capabilities
from vllm_auto_discovery.core.abilities.claims import Capability
from vllm_auto_discovery.core.engines.rows import live
from vllm_auto_discovery.enrichment import Enricher
from vllm_auto_discovery.inspection import Inspected, InspectedWeights, inspect, inspect_weights
from vllm_auto_discovery.probing import FoundEngine, probe_url
from vllm_mcp_protocol.engine_env import facts_dir, find_executable
from vllm_mcp_protocol.engine_models import known_models, read_models
from vllm_mcp_protocol.errors import BadInput, ModelNotFound, SuiteError
from vllm_mcp_protocol.hf.cache import Catalog, FoundModel, ModelCatalog
from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.hub_config import read_config
from vllm_mcp_protocol.model import EngineView, HubState
from vllm_mcp_protocol.model_names import check_model_id, closest, is_path
from vllm_mcp_protocol.paths import confine, hub_runs, model_cache_dirs, state_dir
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.state_lock import is_held
from vllm_mcp_protocol.vllm_models import VllmModels

_Value = TypeVar("_Value")

_MOST_REMEMBERED = 20_000
"""Models whose inspection is kept: a few kilobytes each."""


class Workplace:
    """The hub and the files that one server works with."""

    def __init__(self, settings: Settings, hub: Hub, project_dir: Path | None) -> None:
        self.settings = settings
        self.hub = hub
        self.project_dir = project_dir
        self.cache_dirs = model_cache_dirs(settings)
        self.enricher = Enricher(settings)
        self._inspect = partial(inspect, roots=self.allowed_folders)
        self.catalog = ModelCatalog()
        self._inspected = _Memory[Inspected]()
        self._weights = _Memory[InspectedWeights]()
        self._vllm: VllmModels | None = None
        self._asking_vllm = anyio.Lock()

    # -- the hub and engines ----------------------------------------------------------------------------------------

    async def hub_state(self) -> tuple[HubState | None, list[str]]:
        """The hub's state, and why there is none: discovery goes on without a hub."""
        try:
            return await self.hub.state(), []
        except SuiteError as error:
            return None, [f"engines of the suite are not shown: {error}"]

    def live_engines(self, state: HubState | None) -> list[EngineView]:
        """Engines of which something runs, of this hub and those that it watches."""
        return live(state.engines) if state is not None else []

    async def something_runs(self) -> bool:
        """Does a hub live, or an engine that outlived its hub? The kernel's answer, for when no hub gives one."""
        return await to_thread.run_sync(_something_runs, self.hub.folder)

    async def engines_mark(self) -> str:
        """Differs when the engines of the suite do; a hub that does not run is not started for it."""
        if not await to_thread.run_sync(hub_runs, self.hub.folder):
            return ""
        state, _ = await self.hub_state()
        return " ".join(f"{view.id}:{view.status}:{view.endpoint}" for view in self.live_engines(state))

    async def configured_engines(self) -> list[FoundEngine]:
        """What answers at the addresses that the settings name; each key goes to its own address only."""
        remotes = self.settings.remote_engines()
        found: dict[int, FoundEngine] = {}

        async def ask(number: int) -> None:
            found[number] = await probe_url(remotes[number].url, remotes[number].api_key)

        async with anyio.create_task_group() as group:
            for number in range(len(remotes)):
                group.start_soon(ask, number)
        return [found[number] for number in range(len(remotes))]

    # -- models on disk ---------------------------------------------------------------------------------------------

    async def scan(self, *, fresh: bool = False) -> Catalog:
        """Every model of the caches and folders; `fresh` forgets what was read before."""
        if fresh:
            self._inspected.clear()
            self._weights.clear()
        return await to_thread.run_sync(partial(self.catalog.scan, self.cache_dirs, fresh=fresh))

    async def require(self, model_id: str) -> FoundModel:
        """One model of the caches, or of a folder that may be looked into. Raises BadInput, PathNotAllowed,
        ModelNotFound with near misses."""
        check_model_id(model_id)
        if is_path(model_id):
            model_id = str(confine(model_id, self.allowed_folders, parameter="model_id"))
        found = await to_thread.run_sync(self.catalog.find, model_id, self.cache_dirs)
        if found is None:  # only a scan shows a repository of which nothing but unfinished blobs is there
            every = (await self.scan()).models
            found = next((model for model in every if model.facts.model_id == model_id), None)
        if found is None:
            raise await self._not_here(model_id)
        return found

    async def require_repo(self, model_id: str) -> CachedRepo:
        """A repository of one of the caches, whatever state it is in. Raises BadInput, ModelNotFound."""
        check_model_id(model_id)
        if is_path(model_id):
            raise BadInput(
                f"model_id={model_id[:200]!r} is a folder; only repositories of a Hugging Face cache are meant here.",
                parameter="model_id",
                value=model_id[:200],
                allowed="org/name",
                suggestion="discover-models shows what lies in the cache",
            )
        found = await self.scan()
        for repo in found.inventory.repos:
            if repo.repo_id == model_id and repo.kind == "model":
                return repo
        raise await self._not_here(model_id)

    @property
    def allowed_folders(self) -> tuple[Path, ...]:
        """Where paths that come from tools may lead."""
        project = (self.project_dir,) if self.project_dir is not None else ()
        return (*self.cache_dirs, *project)

    async def _not_here(self, model_id: str) -> ModelNotFound:
        names = [model.facts.model_id for model in (await self.scan()).models]
        close = closest(model_id, names)
        similar = f" Similar names there: {', '.join(close)}." if close else ""
        return ModelNotFound(
            f"{model_id} is not in {', '.join(map(str, self.cache_dirs))}.{similar}",
            model_id=model_id,
            cache_dirs=[str(folder) for folder in self.cache_dirs],
            similar=close,
            suggestion=f"use {close[0]}" if close else f"download-model {model_id}, or correct the name",
        )

    # -- what models are --------------------------------------------------------------------------------------------

    async def inspect(self, models: Sequence[FoundModel]) -> list[Inspected]:
        """Their small files, read in one go; those that did not change since are remembered."""
        return await to_thread.run_sync(lambda: [self._inspected.get(model, self._inspect) for model in models])

    async def inspect_weights(self, models: Sequence[FoundModel]) -> list[InspectedWeights]:
        """The headers of their weights."""

        def read(model: FoundModel) -> InspectedWeights:
            return inspect_weights(model, self._inspected.get(model, self._inspect).config.quantization_bits)

        return await to_thread.run_sync(lambda: [self._weights.get(model, read) for model in models])

    def blind_spots(self, wanted: str | None) -> list[str]:
        """Why a search by what models can do would find nothing, if it would."""
        if wanted is None or self.settings.enable_capability_detection:
            return []
        return [f"ENABLE_CAPABILITY_DETECTION is false, so no model is shown to have {wanted}"]

    async def claims(self, models: Sequence[FoundModel], *, ask_vllm: bool) -> list[tuple[Capability, ...]]:
        """What each can do. `ask_vllm`: the installed vLLM may be asked for its tables, once (about 10 s)."""
        if not self.settings.enable_capability_detection:
            return [() for _ in models]
        vllm = await self.vllm_models(ask=ask_vllm)
        return [capabilities(one.files, vllm) for one in await self.inspect(models)]

    async def vllm_models(self, *, ask: bool) -> VllmModels | None:
        """The tables of the installed vLLM; None: there is none, or it was not asked yet and `ask` is false."""
        async with self._asking_vllm:
            if self._vllm is None:
                self._vllm = await to_thread.run_sync(partial(self._read_vllm, ask=ask))
        return self._vllm

    def _read_vllm(self, *, ask: bool) -> VllmModels | None:
        try:
            configured = read_config(state_dir(self.settings) / "hub.toml").engine.executable
            executable = find_executable(self.settings, configured, _path_variable())
        except SuiteError:
            return None  # doctor explains it; here it is one more thing that is not known
        if executable is None:
            return None
        return (read_models if ask else known_models)(executable, facts_dir(self.settings))


def _something_runs(folder: Path) -> bool:
    try:
        return any(is_held(path) for path in (folder / "hub.lock", *(folder / "engines").glob("*/lock")))
    except OSError:
        return True  # what cannot be looked at may run


def _path_variable() -> Mapping[str, str]:
    """Where the hub would find a vllm command that nobody configured."""
    return {"PATH": os.environ["PATH"]} if "PATH" in os.environ else {}


class _Memory(Generic[_Value]):
    """What was made of a model, for as long as the scan gives the same object for its files."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, _Value]] = {}
        """By path: the `source` that it was made of, and the value."""

    def get(self, model: FoundModel, make: Callable[[FoundModel], _Value]) -> _Value:
        """The value of `model`, made when it is not known."""
        key = model.facts.path or model.facts.model_id
        known = self._made.get(key)
        if known is not None and known[0] is model.source:
            return known[1]
        if len(self._made) >= _MOST_REMEMBERED:
            self.clear()
        value = make(model)
        self._made[key] = (model.source, value)
        return value

    def clear(self) -> None:
        self._made.clear()
