"""What the hub remembers of one engine beside the ledger's decisions: its folder, plan, process and figures."""

import asyncio
import subprocess
import time
from dataclasses import dataclass, field

from vllm_mcp_hub.core.ledger import Engine
from vllm_mcp_hub.core.startup import StartupLog
from vllm_mcp_hub.host.engine_dir import EngineDir
from vllm_mcp_protocol.errors import EngineFailed
from vllm_mcp_protocol.model import (
    DeviceId,
    Endpoint,
    EngineStatus,
    EngineView,
    LoadRequest,
    Phase,
    StartFacts,
    StartPlan,
)


@dataclass
class Record:
    """One engine of this hub. Times ending in `_s` are monotonic, `_at` wall clock."""

    id: str
    dir: EngineDir
    request: LoadRequest
    plan: StartPlan
    devices: tuple[DeviceId, ...]
    created_at: float
    created_s: float
    epoch: int
    executable: str = ""
    argv: tuple[str, ...] = ()
    endpoint: Endpoint | None = None
    child: "subprocess.Popen[bytes] | None" = None
    startup: StartupLog = field(default_factory=StartupLog)
    log_offset: int = 0
    attempt_offset: int = 0
    """Where this attempt's lines begin in the log."""
    log_rest: bytes = b""
    phase: Phase | None = None
    phase_detail: str = ""
    was_ready: bool = False
    ready_at: float | None = None
    ended_at: float | None = None
    start_took_s: float | None = None
    measured_bytes: int | None = None
    work_done: float | None = None
    """The engine's counter of finished requests and tokens when it was asked last."""
    launched: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a spawn has finished, well or badly; a stop waits for it."""
    adopted_facts: StartFacts | None = None
    """What vLLM said at its start, when another hub listened to it."""
    loras: dict[str, str] = field(default_factory=dict)
    """Adapter name → folder."""

    @property
    def name(self) -> str:
        return self.request.options.served_model_name or self.request.model_id

    def started_endpoint(self) -> Endpoint:
        """Where the engine listens. Raises EngineFailed before it was started."""
        if self.endpoint is None:
            raise EngineFailed(
                f"{self.id} was not started yet.", engine_id=self.id, suggestion="wait until it is ready"
            )
        return self.endpoint

    def spec(self) -> dict[str, object]:
        """What a later hub needs to adopt the engine; holds no secret."""
        return {
            "id": self.id,
            "request": self.request.model_dump(mode="json", exclude={"environment": {"hf_token"}}),
            "plan": self.plan.model_dump(mode="json"),
            "devices": list(self.devices),
            "created_at": self.created_at,
            "executable": self.executable,
            "argv": list(self.argv),
            "start": {
                "ready_at": self.ready_at,
                "took_s": self.start_took_s,
                "measured_bytes": self.measured_bytes,
                "facts": self.start_facts().model_dump(mode="json"),
            },
            "endpoint": None if self.endpoint is None else self.endpoint.model_dump(mode="json", exclude={"api_key"}),
        }

    def start_facts(self) -> StartFacts:
        """What vLLM has said so far."""
        return self.adopted_facts or self.startup.facts()

    def view(self, engine: Engine, *, now_s: float) -> EngineView:
        """The engine as clients see it."""
        waiting = engine.state in (EngineStatus.QUEUED, EngineStatus.STARTING)
        return EngineView(
            id=self.id,
            model_id=self.request.model_id,
            served_name=self.name,
            status=engine.state,
            epoch=self.epoch,
            devices=engine.devices,
            promised_bytes=sum(engine.holds_on(device) for device in engine.devices),
            measured_bytes=self.measured_bytes,
            need_basis=self.plan.need.basis,
            endpoint="" if self.endpoint is None else self.endpoint.shown,
            pinned=engine.pinned,
            ttl_s=engine.ttl_s,
            sleep_supported=engine.asleep_bytes is not None,
            phase=self.phase,
            phase_detail=self.phase_detail,
            elapsed_s=round(now_s - self.created_s, 3) if waiting else self.start_took_s,
            estimated_start_s=self.plan.estimated_start_s,
            created_at=self.created_at,
            ready_at=self.ready_at,
            ended_at=self.ended_at,
            last_used_at=time.time() - (now_s - engine.last_used_s),
            in_flight=max(engine.in_flight, len(engine.leases)),
            options=self.request.options,
            argv=self.argv,
            reasons=self.plan.reasons,
            start_facts=self.start_facts(),
            facts=self.request.facts,
            loras=tuple(self.loras),
            attempts=engine.attempts,
            exit_code=engine.exit_code,
            failure=engine.failure,
            log_path=str(self.dir.log_path),
        )
