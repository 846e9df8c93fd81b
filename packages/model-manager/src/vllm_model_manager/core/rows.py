"""What people see of a model: one row per engine, and one per model that only lies in the cache. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.model import EngineStatus, EngineView, HubState, ModelConfig, ModelFacts
from vllm_mcp_protocol.units import to_mib

ModelStatus = Literal["loaded", "unloaded", "loading", "sleeping", "error"]
StatusFilter = Literal["all", "loaded", "unloaded", "loading", "sleeping", "error"]

S = EngineStatus
STATUS: Mapping[EngineStatus, ModelStatus] = {
    S.QUEUED: "loading",
    S.STARTING: "loading",
    S.READY: "loaded",
    S.DRAINING: "loaded",  # it still finishes requests
    S.SUSPENDING: "sleeping",
    S.SLEEPING: "sleeping",
    S.WAKE_QUEUED: "loading",
    S.WAKING: "loading",
    S.STOPPING: "unloaded",
    S.STOPPED: "unloaded",
    S.UNREACHABLE: "error",
}

ANSWERING = frozenset({S.READY, S.SLEEPING, S.SUSPENDING, S.WAKE_QUEUED, S.WAKING})
"""States in which a request is answered, if need be after waking."""

_ERROR_LIMIT_CHARS = 300
_SHOWN_PROMPT_CHARS = 2000
"""A tool's output has 20 KB; a stored prompt may have 200,000 characters."""

_EMBEDDING_ENDINGS = ("Model", "ForMaskedLM", "ForTextEncoding", "EmbeddingModel")
_GENERATING_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_CLASSIFYING_ENDINGS = ("ForSequenceClassification", "ForTokenClassification", "ForRewardModel", "RewardModel")


class ModelRow(BaseModel):
    """One model as `list-models` shows it."""

    model_config = ConfigDict(defer_build=True)

    id: str
    name: str = Field(description="Name to use in requests")
    status: ModelStatus
    engine_status: str | None = Field(default=None, description="The exact state of the engine")
    engine_id: str | None = None
    endpoint: str | None = None
    memory_usage_mb: int | None = Field(default=None, description="Device memory measured, MiB")
    weights_mb: int | None = Field(default=None, description="Weight files on disk, MiB")
    context_window: int | None = Field(default=None, description="Tokens")
    max_tokens: int | None = Field(default=None, description="Most tokens of one answer")
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    quantization: str | None = None
    dtype: str | None = None
    capabilities: list[str] = []
    loras: list[str] = []
    last_used: str | None = Field(default=None, description="ISO 8601, UTC")
    remote: bool = False
    error: str | None = None


def row_bytes(row: ModelRow) -> int:
    """What the row takes in a list of JSON."""
    return len(row.model_dump_json().encode()) + 1


def status_of(view: EngineView) -> ModelStatus:
    """The five-valued status of an engine; one that ended with a failure is an error."""
    if view.status is S.STOPPED and view.failure is not None:
        return "error"
    return STATUS[view.status]


def is_live(view: EngineView) -> bool:
    """True while something of the engine may hold memory or answer."""
    return view.status is not S.STOPPED


def engine_row(view: EngineView, config: ModelConfig | None = None) -> ModelRow:
    """The row of one engine."""
    facts, options = view.facts, view.options
    return ModelRow(
        id=view.model_id,
        name=view.served_name,
        status=status_of(view),
        engine_status=view.status,
        engine_id=view.id,
        endpoint=view.endpoint or None,
        memory_usage_mb=None if view.measured_bytes is None else to_mib(view.measured_bytes),
        weights_mb=_weights_mb(facts),
        context_window=context_window(view),
        max_tokens=_max_tokens(config, context_window(view)),
        tensor_parallel_size=options.tensor_parallel_size or (None if view.remote else 1),
        pipeline_parallel_size=options.pipeline_parallel_size or (None if view.remote else 1),
        quantization=options.quantization or (facts.quantization if facts else None),
        dtype=_dtype(view),
        capabilities=capabilities(facts, view),
        loras=list(view.loras),
        last_used=iso_time(view.last_used_at),
        remote=view.remote,
        error=error_text(view),
    )


def cached_row(facts: ModelFacts, config: ModelConfig | None = None) -> ModelRow:
    """The row of a model that lies in the cache and that nothing serves."""
    return ModelRow(
        id=facts.model_id,
        name=facts.model_id,
        status="unloaded",
        weights_mb=_weights_mb(facts),
        context_window=facts.context_window,
        max_tokens=_max_tokens(config, facts.context_window),
        quantization=facts.quantization,
        dtype=facts.dtype,
        capabilities=capabilities(facts, None),
        error=None if facts.complete else "incomplete: the download has not finished",
    )


def fleet_rows(state: HubState, cached: Iterable[ModelFacts]) -> list[ModelRow]:
    """All rows: engines first, then models of the cache that no engine serves; each part by name.

    Of the ended engines only the newest of a model is shown, and only when it failed and nothing serves the model.
    """
    live = [view for view in state.engines if is_live(view)]
    served = {name for view in live for name in (view.model_id, view.served_name)}
    ended = {view.model_id: view for view in state.engines if not is_live(view)}
    failed = [view for view in ended.values() if view.failure and view.model_id not in served]
    shown = served | {view.model_id for view in failed}
    engines = sorted((*live, *failed), key=lambda view: (view.model_id.lower(), view.id))
    unloaded = sorted(
        (facts for facts in cached if facts.model_id not in shown and not facts.is_adapter),
        key=lambda facts: facts.model_id.lower(),
    )
    configs = state.model_configs
    return [
        *(engine_row(view, configs.get(view.model_id)) for view in engines),
        *(cached_row(facts, configs.get(facts.model_id)) for facts in unloaded),
    ]


def matching(rows: Iterable[ModelRow], status: StatusFilter, *, include_unloaded: bool) -> list[ModelRow]:
    """The rows that a filter keeps; asking for unloaded ones shows them."""
    if status != "all":
        return [row for row in rows if row.status == status]
    return [row for row in rows if include_unloaded or row.status != "unloaded"]


def shown_config(config: ModelConfig | None) -> dict[str, Any]:
    """Request defaults as they are shown: without those that are not set, a long system prompt cut."""
    if config is None:
        return {}
    shown = config.model_dump(mode="json", exclude_none=True)
    prompt = config.system_prompt or ""
    if len(prompt) > _SHOWN_PROMPT_CHARS:
        shown["system_prompt"] = f"{prompt[:_SHOWN_PROMPT_CHARS]}… ({len(prompt)} characters)"
    return shown


def context_window(view: EngineView) -> int | None:
    """Tokens that prompt and answer may have together: what vLLM said, else what was asked, else the model's."""
    facts = view.facts
    return view.start_facts.max_model_len or view.options.max_model_len or (facts.context_window if facts else None)


def capabilities(facts: ModelFacts | None, view: EngineView | None) -> list[str]:
    """What the model's files and the engine's options allow; nothing is guessed from names."""
    found: list[str] = []
    if facts is not None and facts.is_adapter:
        return ["adapter"]
    if facts is not None and (does := generates(facts)) is not None:
        found += (["completion"] + (["chat"] if facts.has_chat_template else [])) if does else [_pooling(facts)]
    if view is not None:
        found += (["lora"] if view.options.enable_lora else []) + (["sleep"] if view.sleep_supported else [])
    return found


def generates(facts: ModelFacts | None) -> bool | None:
    """Does the model generate text? None when its files do not say."""
    names = facts.architectures if facts is not None else ()
    if any(name.endswith(_GENERATING_ENDINGS) for name in names):
        return True
    return False if any(name.endswith((*_EMBEDDING_ENDINGS, *_CLASSIFYING_ENDINGS)) for name in names) else None


def _pooling(facts: ModelFacts) -> str:
    classifies = any(name.endswith(_CLASSIFYING_ENDINGS) for name in facts.architectures)
    return "classification" if classifies else "embedding"


def error_text(view: EngineView) -> str | None:
    """Why an engine failed, on one bounded line."""
    if view.failure is None:
        return "the engine does not answer" if view.status is S.UNREACHABLE else None
    return short_error(view.failure)


def short_error(info: ErrorInfo) -> str:
    """An error on one bounded line: `CODE: message`."""
    text = " ".join(f"{info.code}: {info.message}".split())
    return text if len(text) <= _ERROR_LIMIT_CHARS else text[: _ERROR_LIMIT_CHARS - 1] + "…"


def iso_time(unix_s: float | None) -> str | None:
    """A wall-clock time for people, to the second."""
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def _dtype(view: EngineView) -> str | None:
    asked = view.options.dtype
    return asked if asked not in (None, "auto") else (view.facts.dtype if view.facts else None)


def _weights_mb(facts: ModelFacts | None) -> int | None:
    return None if facts is None or facts.weights_bytes is None else to_mib(facts.weights_bytes)


def _max_tokens(config: ModelConfig | None, window: int | None) -> int | None:
    limit = config.max_tokens if config is not None else None
    return min(limit, window) if limit and window else limit or window
