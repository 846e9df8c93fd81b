"""Engines that run elsewhere: attached, not owned. Listed, slept, given adapters; never loaded or unloaded."""

import asyncio
import time
from dataclasses import dataclass

from pydantic import SecretStr

from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import EngineRequestFailed, RemoteEngine
from vllm_mcp_protocol.model import Endpoint, EngineStatus, EngineView, StartFacts

_PROBE_LIMIT_S = 3.0


@dataclass
class Remote:
    """One attached engine as it answered last."""

    id: str
    url: str
    api_key: SecretStr | None
    attached_at: float
    epoch: int
    status: EngineStatus = EngineStatus.UNREACHABLE
    model_id: str = ""
    loras: tuple[str, ...] = ()
    in_flight: int = 0
    max_model_len: int | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(url=self.url, api_key=self.api_key, served_name=self.model_id)

    def view(self) -> EngineView:
        """The engine as clients see it."""
        return EngineView(
            id=self.id,
            model_id=self.model_id or self.url,
            served_name=self.model_id or self.url,
            status=self.status,
            epoch=self.epoch,
            endpoint=self.endpoint.shown,
            remote=True,
            created_at=self.attached_at,
            in_flight=self.in_flight,
            loras=self.loras,
            start_facts=StartFacts(max_model_len=self.max_model_len),
        )

    def refusal(self, action: str) -> RemoteEngine:
        """The error of an action that only an engine's owner can do."""
        return RemoteEngine(
            f"{self.id} ({self.model_id or self.url}) runs at {self.url} and was not started by this hub: "
            f"it cannot be {action} from here.",
            engine_id=self.id,
            endpoint=self.url,
            suggestion="do it where that engine was started, or load the model here under another served_model_name",
        )

    async def refresh(self) -> bool:
        """Ask the engine what it serves; True when something changed."""
        before = (self.status, self.model_id, self.loras, self.max_model_len)
        try:
            async with asyncio.timeout(_PROBE_LIMIT_S), EngineHttp(self.endpoint, timeout_s=_PROBE_LIMIT_S) as http:
                await self._read(http)
        except (EngineRequestFailed, TimeoutError):
            self.status = EngineStatus.UNREACHABLE
        return before != (self.status, self.model_id, self.loras, self.max_model_len)

    async def _read(self, http: EngineHttp) -> None:
        models = await http.models()
        models = [m for m in models if isinstance(m.get("id"), str)]
        own = [m for m in models if not m.get("parent")]
        self.model_id = str(own[0]["id"]) if own else self.model_id
        self.loras = tuple(str(m["id"]) for m in models if m.get("parent"))
        self.max_model_len = next((n for m in own if isinstance(n := m.get("max_model_len"), int)), None)
        self.status = EngineStatus.SLEEPING if await _sleeps(http) else EngineStatus.READY
        self.in_flight = (await http.use()).in_flight


async def _sleeps(http: EngineHttp) -> bool:
    """Only an engine whose dev routes are on can sleep, and only that one answers."""
    try:
        return await http.is_sleeping()
    except EngineRequestFailed:
        return False


def new_remote(number: int, url: str, api_key: SecretStr | None, epoch: int) -> Remote:
    """A remote engine that was not asked anything yet."""
    return Remote(id=f"r{number}", url=url, api_key=api_key, attached_at=time.time(), epoch=epoch)
