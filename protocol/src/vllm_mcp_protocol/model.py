"""The domain as values: what a load asks for, what an engine is, what a device holds. Pure; no IO.

These are also the wire format between the hub and its clients (JSON by pydantic).
Bytes are bytes, seconds are seconds; `*_at` are wall-clock unix seconds for people, never used for decisions.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr, SerializationInfo

from vllm_mcp_protocol.errors import ErrorInfo

ModelId = Annotated[str, Field(min_length=1, max_length=400)]
DeviceId = str
"""A GPU's NVML index as text ("0"), or "cpu" on a machine without GPUs."""

CPU: DeviceId = "cpu"


REVEAL = {"reveal": True}
"""Serialization context under which secrets are written out: only for the hub's socket and 0600 files."""


def _secret(value: SecretStr | None, info: SerializationInfo) -> str | None:
    if value is None:
        return None
    return value.get_secret_value() if (info.context or {}).get("reveal") else "**********"


Secret = Annotated[SecretStr, PlainSerializer(_secret)]


class Value(BaseModel):
    """Immutable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineStatus(StrEnum):
    """Where an engine is in its life; the transitions are in the hub's `core/lifecycle.py`."""

    QUEUED = "queued"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    SUSPENDING = "suspending"
    SLEEPING = "sleeping"
    WAKE_QUEUED = "wake_queued"
    WAKING = "waking"
    STOPPING = "stopping"
    STOPPED = "stopped"
    UNREACHABLE = "unreachable"
    """A remote engine that does not answer now."""


class Phase(StrEnum):
    """Parts of a start, in their usual order; read from vLLM's log."""

    LAUNCH = "launch"
    DOWNLOAD = "download"
    CONFIG = "config"
    WEIGHTS = "weights"
    PROFILE = "profile"
    GRAPHS = "graphs"
    SERVER = "server"
    READY = "ready"


class LoadOptions(Value):
    """vLLM's options that a load may set. None means: vLLM's (or the suite's stated) default."""

    tensor_parallel_size: int | None = Field(default=None, ge=1, le=64)
    pipeline_parallel_size: int | None = Field(default=None, ge=1, le=64)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    max_model_len: int | None = Field(default=None, ge=1, le=100_000_000)
    quantization: str | None = Field(default=None, max_length=40, pattern=r"^[\w.-]+$")
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] | None = None
    enforce_eager: bool | None = None
    enable_prefix_caching: bool | None = None
    max_num_seqs: int | None = Field(default=None, ge=1, le=100_000)
    max_num_batched_tokens: int | None = Field(default=None, ge=1, le=100_000_000)
    kv_cache_dtype: str | None = Field(default=None, max_length=40, pattern=r"^[\w.-]+$")
    served_model_name: str | None = Field(default=None, min_length=1, max_length=200)
    revision: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[\w./-]+$")
    trust_remote_code: bool = False
    enable_lora: bool | None = None
    profile: Literal["balanced", "interactivity", "throughput"] | None = None
    extra_args: tuple[str, ...] = Field(default=(), max_length=100)
    port: int | None = Field(default=None, ge=1024, le=65535)
    """Listen on 127.0.0.1:port for other programs; None: on a unix socket that only this user reaches."""


class ModelFacts(Value):
    """What the files of a model say, without running it. `None` = the files do not say."""

    model_id: ModelId
    path: str | None = None
    """Snapshot folder, or the local folder that was named."""
    revision: str | None = None
    complete: bool = True
    """False when weight files of the index are missing or still `.incomplete`."""
    weights_bytes: int | None = Field(default=None, ge=0, le=2**60)
    """Real size of the weight files on disk, each blob once."""
    architectures: tuple[str, ...] = ()
    model_type: str | None = None
    dtype: str | None = None
    context_window: int | None = Field(default=None, ge=1, le=2**60)
    attention_heads: int | None = Field(default=None, ge=1, le=2**60)
    kv_bytes_per_token: int | None = Field(default=None, ge=1, le=2**60)
    """All layers, K and V, at the checkpoint's dtype, before tensor-parallel splitting."""
    quantization: str | None = None
    """`quantization_config.quant_method` of config.json."""
    is_adapter: bool = False
    has_chat_template: bool = False


class EngineEnvironment(Value):
    """What the caller's settings add to an engine's environment; nothing else of a client reaches it."""

    executable: str | None = None
    """Absolute path of `vllm`; None: the one in hub.toml, else the managed environment."""
    hf_home: str | None = None
    hf_hub_cache: str | None = None
    hf_endpoint: str | None = None
    hf_offline: bool = False
    hf_token: Secret | None = None


class LoadRequest(Value):
    """One wish to have a model served."""

    model_id: ModelId
    options: LoadOptions = LoadOptions()
    facts: ModelFacts | None = None
    environment: EngineEnvironment = EngineEnvironment()
    gpu_ids: tuple[int, ...] = Field(default=(), max_length=64)
    make_room: bool = False
    """May idle, unpinned engines be unloaded for it?"""
    allow_smaller: bool = False
    """After an out-of-memory, may it be tried once more with a smaller context or KV pool?"""
    ttl_s: float | None = Field(default=None, gt=0)
    """Unload (or put to sleep) after this many idle seconds."""
    pin: bool = False
    """Never unload by TTL or make_room."""
    dry_run: bool = False


class Need(Value):
    """Memory that an engine is promised on each of its devices."""

    device_bytes: int = Field(ge=0)
    basis: str
    """Where the figure comes from, in words, e.g. "0.9 of each GPU's memory"."""


class StartPlan(Value):
    """How an engine would be started. Made before anything is promised or spawned."""

    flags: tuple[str, ...]
    """Arguments after `vllm serve MODEL`, without address, port or socket."""
    env: Mapping[str, str] = Field(default_factory=dict)
    need: Need
    device_count: int = Field(ge=1)
    reasons: tuple[str, ...] = ()
    """Why each value was chosen, one sentence each."""
    estimated_start_s: float | None = None
    asleep_bytes: int | None = None
    """Device memory that stays promised while it sleeps; None: this engine cannot sleep."""


class Endpoint(Value):
    """Where an engine is spoken to. Exactly one of `uds` and `url` is used for the connection."""

    url: str
    """`http://127.0.0.1:8000`; for a unix socket `http://localhost` (host header only)."""
    uds: str | None = None
    api_key: Secret | None = None
    served_name: str
    """The model name to send in requests."""

    @property
    def shown(self) -> str:
        """For people and logs: never with the key."""
        return f"unix:{self.uds}" if self.uds else f"{self.url}/v1"


class PhaseTime(Value):
    phase: Phase
    seconds: float


class StartFacts(Value):
    """What vLLM said about itself while it started; None = it did not say."""

    weights_bytes: int | None = None
    kv_cache_tokens: int | None = None
    max_concurrency: float | None = None
    kv_cache_bytes: int | None = None
    graph_bytes: int | None = None
    max_model_len: int | None = None
    phases: tuple[PhaseTime, ...] = ()


class StartRecord(Value):
    """One finished start, kept to estimate the next (`starts.jsonl`)."""

    model_id: str
    flags: tuple[str, ...]
    device_kind: str
    vllm_version: str | None
    seconds: float
    device_bytes: int | None
    """Most memory that the engine was seen to hold on one device."""
    facts: StartFacts = StartFacts()


class EngineView(Value):
    """One engine as the hub shows it."""

    id: str
    model_id: str
    served_name: str
    status: EngineStatus
    epoch: int
    """Hub epoch of its last change; pass it to `Hub.wait` to learn of the next one."""
    devices: tuple[DeviceId, ...] = ()
    promised_bytes: int = 0
    measured_bytes: int | None = None
    """Memory seen in use, summed over its devices; None when not measured yet."""
    need_basis: str = ""
    endpoint: str = ""
    remote: bool = False
    pinned: bool = False
    ttl_s: float | None = None
    sleep_supported: bool = False
    phase: Phase | None = None
    phase_detail: str = ""
    elapsed_s: float | None = None
    """Seconds since the start was asked for (while starting) or that the start took (afterwards)."""
    estimated_start_s: float | None = None
    created_at: float
    ready_at: float | None = None
    ended_at: float | None = None
    """When it was seen to be stopped."""
    last_used_at: float | None = None
    in_flight: int = 0
    """Requests running or waiting, and leases held, whichever is more."""
    options: LoadOptions = LoadOptions()
    argv: tuple[str, ...] = ()
    """The command line as started; holds no secret."""
    reasons: tuple[str, ...] = ()
    start_facts: StartFacts = StartFacts()
    facts: ModelFacts | None = None
    loras: tuple[str, ...] = ()
    attempts: int = 1
    exit_code: int | None = None
    failure: ErrorInfo | None = None
    log_path: str = ""


class Holder(Value):
    """A process that is not ours and holds device memory."""

    pid: int
    name: str
    bytes: int | None = None


class Device(Value):
    """A GPU, or the host's memory where there is none."""

    id: DeviceId
    kind: Literal["cuda", "cpu"]
    name: str
    uuid: str | None = None
    total_bytes: int
    """What may be promised at most."""
    free_bytes: int
    promised_bytes: int = 0
    foreign: tuple[Holder, ...] = ()


class ModelConfig(Value):
    """Request defaults of one model; applied to every request that passes through the suite.

    A value that the request itself sets wins; `max_tokens` is also an upper bound.
    """

    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1_000_000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    stop: tuple[str, ...] | None = Field(default=None, max_length=16)
    system_prompt: str | None = Field(default=None, max_length=200_000)


class LoadGrant(Value):
    """The hub's answer to a load: the engine that serves, or will serve, the model."""

    engine: EngineView | None = None
    """None for a dry run."""
    joined: bool = False
    """True when the engine already existed."""
    plan: StartPlan
    devices: tuple[DeviceId, ...] = ()
    evicted: tuple[str, ...] = ()
    """Engines that were (dry run: would be) unloaded to make room."""


class Chore(Value):
    """Work that the hub has done from time to time, once, however many clients asked for it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")
    """The same name again replaces what was asked before."""
    module: str = Field(pattern=r"^vllm_[a-z_]+(\.[a-z_]+)*$", max_length=100)
    """Started as `python -m MODULE ARGUMENTS`, in a process and session of its own."""
    arguments: tuple[str, ...] = Field(default=(), max_length=20)
    every_s: float = Field(ge=1, le=86_400)
    """From the end of one run to the beginning of the next."""
    limit_s: float = Field(default=600.0, ge=1, le=86_400)
    """A run that takes longer is ended."""
    environment: Mapping[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,99}$")], Secret] = Field(default_factory=dict)
    """Added to the environment that a hub has; kept in memory only."""


class ChoreView(Value):
    """A chore as the hub shows it."""

    name: str
    every_s: float
    running: bool = False
    runs: int = 0
    last_exit_code: int | None = None
    last_ended_at: float | None = None
    last_words: str = ""
    """The end of what the last run printed, without secrets; only of one that failed."""


class HubState(Value):
    """Everything the hub knows, at one moment."""

    protocol: int
    version: str
    pid: int
    epoch: int
    state_dir: str
    uptime_s: float
    devices: tuple[Device, ...]
    engines: tuple[EngineView, ...]
    model_configs: Mapping[str, ModelConfig] = Field(default_factory=dict)
    chores: tuple[ChoreView, ...] = ()

    def serving(self, model_id: str) -> EngineView | None:
        """The engine that holds, or is getting, `model_id` (its id, served name, engine or adapter).

        A stopped one only when nothing else answers to that name; None when nothing does.
        """
        found = [e for e in self.engines if model_id in (e.model_id, e.served_name, e.id) or model_id in e.loras]
        live = [e for e in found if e.status is not EngineStatus.STOPPED]
        candidates = live or found
        return candidates[-1] if candidates else None


class LogTail(Value):
    """The end of an engine's log."""

    engine_id: str
    lines: tuple[str, ...]
    truncated: bool


JsonObject = dict[str, Any]
