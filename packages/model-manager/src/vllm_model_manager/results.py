"""What each tool answers. Fields never disappear; what is not known is null."""

from typing import Any, Literal

from pydantic import Field

from vllm_mcp_protocol.serving.results import Part, ToolResult
from vllm_model_manager.core.rows import ModelRow


class ModelList(ToolResult):
    models: list[ModelRow]
    total_count: int = Field(description="Models that match, on all pages")
    loaded_count: int = Field(description="Models that answer now, whatever the filter")
    adapters: list[str] = Field(default=[], description="LoRA adapters in the cache, for load-lora; the first 20")
    adapter_count: int = Field(default=0, description="LoRA adapters in the cache, all of them")
    next_cursor: str | None = Field(default=None, description="Give it as cursor to see more")
    warnings: list[str] = []


class LoadResult(ToolResult):
    model_id: str
    engine_id: str | None = Field(description="Null for a dry run")
    status: Literal["loaded", "loading", "planned"]
    endpoint: str | None = None
    served_name: str = Field(description="Name to use in requests")
    estimated_load_time_seconds: float | None = None
    load_time_seconds: float | None = Field(default=None, description="What the start took, or has taken so far")
    phase: str | None = Field(default=None, description="Part of the start that runs now")
    memory_required_mb: int = Field(description="Memory promised to it, all devices together, MiB")
    memory_basis: str = Field(description="Where that figure comes from")
    devices: list[str] = []
    argv: list[str] = Field(description="The engine's command line")
    joined: bool = Field(default=False, description="True when the engine already existed")
    evicted: list[str] = Field(default=[], description="Engines unloaded to make room")
    reasons: list[str] = Field(default=[], description="Why each value was chosen")


class UnloadResult(ToolResult):
    model_id: str
    engine_id: str
    status: Literal["unloaded", "draining", "unloading", "planned", "kept"]
    memory_freed_mb: int = Field(description="Freed, or (draining, planned) to be freed, MiB")
    memory_basis: str = Field(description="measured, or promised where nothing was measured")
    requests_in_flight: int = Field(default=0, description="Requests that were running when it was asked")
    note: str = ""


class SwitchStep(Part):
    action: Literal["sleep", "unload", "wake", "load", "none"]
    model_id: str
    engine_id: str | None = None
    seconds: float | None = None
    result: str = Field(description="What came of it")


class SwitchResult(ToolResult):
    to_model_id: str
    from_model_id: str | None = None
    status: Literal["loaded", "loading", "planned"]
    engine_id: str | None = None
    endpoint: str | None = None
    steps: list[SwitchStep]
    total_seconds: float
    memory_required_mb: int | None = None
    memory_basis: str | None = None
    argv: list[str] = []
    reasons: list[str] = []


class Performance(Part):
    memory_usage_mb: int | None = Field(default=None, description="Device memory measured, MiB")
    memory_promised_mb: int | None = Field(default=None, description="Device memory reserved for it, MiB")
    throughput_tokens_per_second: float | None = None
    latency_ms: float | None = None
    gpu_utilization: float | None = None
    kv_cache_tokens: int | None = Field(default=None, description="Tokens that the KV cache holds")
    max_concurrency: float | None = Field(default=None, description="Requests of full context at once")
    requests_in_flight: int = 0
    note: str = ""


class PhaseSeconds(Part):
    phase: str
    seconds: float


class ModelInfo(ToolResult):
    model_id: str
    status: Literal["loaded", "unloaded", "loading", "sleeping", "error"]
    engine_id: str | None = None
    served_name: str | None = None
    endpoint: str | None = None
    config: dict[str, Any] = Field(description="Options of the engine, and `requests`: defaults of requests")
    performance: Performance | None = None
    capabilities: list[str] = []
    metadata: dict[str, Any] = {}
    start_up: list[PhaseSeconds] = Field(default=[], description="Phases of the start")
    argv: list[str] = []
    reasons: list[str] = []
    diagnosis: str | None = Field(default=None, description="Why the engine failed")


class ConfigResult(ToolResult):
    model_id: str
    updated_config: dict[str, Any] = Field(description="All request defaults now in force; empty after a reset")
    note: str = ""


class SleepResult(ToolResult):
    model_id: str
    engine_id: str
    status: Literal["sleeping", "going_to_sleep"]
    level: int
    freed_mb: int | None = Field(description="Device memory given back, MiB; null when it was not measured")
    memory_basis: str = ""
    seconds: float
    probe: str = Field(default="", description="What wake-model will be able to verify")


class WakeResult(ToolResult):
    model_id: str
    engine_id: str
    status: Literal["loaded", "waking"]
    seconds: float
    verified: bool | None = Field(description="True: a fixed probe gives the same tokens as before the sleep")
    reason: str


class LoraResult(ToolResult):
    model_id: str
    engine_id: str
    lora_name: str
    lora_path: str | None = None
    adapters: list[str] = Field(description="Adapters served now; use the name as model in requests")
    notes: list[str] = []


class LogResult(ToolResult):
    model_id: str
    engine_id: str
    status: str
    lines: list[str]
    truncated: bool = Field(description="True when the log has more lines than are shown")
    log_path: str | None = None
    diagnosis: str | None = Field(default=None, description="Cause and next step, when the engine failed")
    error_code: str | None = None


class Usage(Part):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class ToolCall(Part):
    id: str | None = None
    name: str
    arguments: str = Field(description="JSON, as the model wrote it")


class GenerateResult(ToolResult):
    model_id: str
    text: str
    reasoning: str | None = None
    tool_calls: list[ToolCall] = []
    finish_reason: str | None = None
    usage: Usage
    ttft_ms: float | None = Field(description="Time to the first token, ms")
    tokens_per_second: float | None = Field(description="Of the whole answer, the wait for its first token included")
    truncated: bool = Field(default=False, description="True when the text was cut to fit this answer")
