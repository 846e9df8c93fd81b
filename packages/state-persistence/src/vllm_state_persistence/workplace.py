"""What the tools of one server share: its settings, the hub, the store, the clients' conversations. No globals."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
from anyio import to_thread
from pydantic import SecretStr

from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import Chore
from vllm_mcp_protocol.paths import hub_runs, state_dir
from vllm_mcp_protocol.settings import Settings
from vllm_state_persistence.core.engine_capture import EngineCapture
from vllm_state_persistence.core.session import SessionRef, SourceName
from vllm_state_persistence.engines import EngineObserver, Site
from vllm_state_persistence.keys import KeyRing
from vllm_state_persistence.sources.base import Places, Source, find_session
from vllm_state_persistence.sources.claude_code import ClaudeCodeSource
from vllm_state_persistence.sources.crush import CrushSource
from vllm_state_persistence.sources.opencode import OpencodeSource
from vllm_state_persistence.store.store import StateStore

CHORE = "snapshots"
_SETTINGS = (
    *("state_db_path", "encryption_key", "encrypt_sensitive_data", "enable_compression"),
    *("max_history_size", "max_session_age_days"),
)
_PLACES = ("HOME", "XDG_DATA_HOME", "CLAUDE_CONFIG_DIR", "CRUSH_GLOBAL_DATA", "OPENCODE_DB")
"""What the chore needs to find the same sessions as this server."""

METRICS_WINDOW_S = 900.0
"""What led up to a snapshot; the hub has every look of that time in memory."""


class Workplace:
    """The store, the hub and the clients' files that one server works with."""

    def __init__(self, settings: Settings, hub: Hub, project_dir: Path | None) -> None:
        self.settings = settings
        self.hub = hub
        self.project_dir = project_dir
        self.site = Site(settings, project_dir)
        self._store: StateStore | None = None
        self._opening = anyio.Lock()
        self._asked_for_chore: int | None = None
        self._observer = EngineObserver(hub)

    @property
    def project(self) -> Path:
        """The folder whose sessions are meant; the home folder where the server has none."""
        return self.project_dir or Path.home()

    async def store(self) -> StateStore:
        """The store, opened once. Raises KeyMissing, KeyWrong, StoreTooNew, StoreDamaged, StoreBusy, SettingError."""
        async with self._opening:
            if self._store is None:
                self._store = await open_store(self.settings)
        return self._store

    async def aclose(self) -> None:
        """Let go of the store and the hub."""
        if self._store is not None:
            await self._store.close()
        await self.hub.aclose()

    # -- conversations ----------------------------------------------------------------------------------------------

    def sources(self, name: str = "auto") -> list[Source]:
        """The clients whose conversations are looked at."""
        places = Places.of(os.environ)
        every: list[Source] = [CrushSource(places), ClaudeCodeSource(places), OpencodeSource(places)]
        return [source for source in every if name in ("auto", source.name)]

    async def find(self, session_id: str, source: str) -> tuple[Source, SessionRef]:
        """A session of a client. Raises SessionNotFound."""
        own = os.environ.get("CLAUDE_CODE_SESSION_ID", "") if source in ("auto", "claude-code") else ""
        return await to_thread.run_sync(find_session, self.sources(source), session_id, self.project, own)

    def source_named(self, name: SourceName) -> Source | None:
        """The client of that name; None for messages that were given here."""
        return next(iter(self.sources(name)), None)

    # -- the hub ----------------------------------------------------------------------------------------------------

    async def capture(self) -> tuple[EngineCapture | None, list[str]]:
        """The engines' set-up when a hub runs; saving starts none."""
        if not await to_thread.run_sync(hub_runs, self.hub.folder):
            return None, ["no hub runs, so there are no engines to save"]
        try:
            return await self._observer.capture(), []
        except SuiteError as error:
            return None, [f"the engines were not saved: {error}"]

    async def capture_metrics(self) -> tuple[bytes | None, list[str]]:
        """What the hub measured of late, as JSON of a MonitoringWindow: numbers, no words of anybody's requests."""
        if not await to_thread.run_sync(hub_runs, self.hub.folder):
            return None, ["no hub runs, so there are no metrics to save"]
        try:
            window = await self.hub.metrics(METRICS_WINDOW_S)
        except SuiteError as error:
            return None, [f"no metrics were saved: {error}"]
        return window.model_dump_json(exclude_defaults=True).encode(), []

    async def ask_for_snapshots(self) -> None:
        """Have a hub that runs save what changed every BACKUP_INTERVAL_SECONDS, once for all clients."""
        if self.settings.vllm_mcp_read_only or not await to_thread.run_sync(hub_runs, self.hub.folder):
            return
        if self._asked_for_chore is not None and self._asked_for_chore == self.hub.hub_pid:
            return
        await self.hub.set_chore(snapshot_chore(self.settings, os.environ))
        self._asked_for_chore = self.hub.hub_pid


async def open_store(settings: Settings) -> StateStore:
    """The store that the settings name, made where there is none."""
    keys = await to_thread.run_sync(KeyRing.from_settings, settings, state_dir(settings))
    return await StateStore.open(store_path(settings), keys, compression=settings.enable_compression)


def store_path(settings: Settings) -> Path:
    """STATE_DB_PATH, else `state.db` in the hub's state folder."""
    if settings.state_db_path:
        return Path(settings.state_db_path).expanduser().absolute()
    return state_dir(settings) / "state.db"


def snapshot_chore(settings: Settings, environment: Mapping[str, str]) -> Chore:
    """What the hub is asked to do: `vllm-state-persistence snapshot`, with this client's settings."""
    passed = {name: environment[name] for name in _PLACES if environment.get(name)}
    for field in _SETTINGS:
        value = getattr(settings, field)
        if value != Settings.model_fields[field].default:
            passed[field.upper()] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return Chore(
        name=CHORE,
        module="vllm_state_persistence",
        arguments=("snapshot",),
        every_s=float(max(1, min(86_400, settings.backup_interval_seconds))),
        environment={name: SecretStr(value) for name, value in passed.items()},
    )


def now() -> float:
    """Wall clock, unix seconds."""
    return time.time()
