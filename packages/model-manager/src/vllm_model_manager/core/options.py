"""The options of a load: what was asked, filled up with the settings, each with its reason. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_mcp_protocol.errors import ConflictingFlags
from vllm_mcp_protocol.model import EngineView, LoadOptions, ModelFacts
from vllm_mcp_protocol.settings import Settings

_SETTINGS: Mapping[str, str] = {
    "tensor_parallel_size": "vllm_tensor_parallel_size",
    "pipeline_parallel_size": "vllm_pipeline_parallel_size",
    "gpu_memory_utilization": "vllm_gpu_memory_utilization",
    "max_model_len": "vllm_max_model_len",
    "quantization": "vllm_quantization",
    "dtype": "vllm_dtype",
    "enforce_eager": "vllm_enforce_eager",
    "enable_prefix_caching": "vllm_enable_prefix_caching",
}
"""Option → the setting that is its default."""


@dataclass(frozen=True)
class Filled:
    """The options to load with, and why each that nobody asked for has its value."""

    options: LoadOptions
    ttl_s: float | None = None
    reasons: tuple[str, ...] = ()


def fill(
    asked: LoadOptions,
    settings: Settings,
    facts: ModelFacts | None = None,
    *,
    gpu_count: int = 0,
    ttl_minutes: float | None = None,
    pin: bool = False,
) -> Filled:
    """`asked`, with the settings' defaults where they suit the model.

    A default never makes a load fail that would work without it: one that contradicts the checkpoint is left out,
    with the reason. Raises ConflictingFlags for a pinned engine with an idle limit.
    """
    values: dict[str, Any] = {}
    reasons: list[str] = []
    if asked.quantization == "none":
        values["quantization"] = None
    for option, setting in _SETTINGS.items():
        default = getattr(settings, setting)
        if getattr(asked, option) is not None or default is None:
            continue
        value, reason = _suited(option, default, setting.upper(), facts, gpu_count)
        reasons.append(reason)
        if value is not None:
            values[option] = value
    _spread(asked, values, reasons, gpu_count)
    ttl_s, ttl_reasons = _idle_limit(settings, ttl_minutes, pin)
    return Filled(asked.model_copy(update=values), ttl_s, (*reasons, *ttl_reasons))


def _suited(
    option: str, default: Any, variable: str, facts: ModelFacts | None, gpu_count: int
) -> tuple[Any | None, str]:
    """The default as far as it suits the model, with a sentence that says so."""
    own = facts.quantization if facts else None
    if option == "quantization" and own and own != default:
        return None, f"quantization: {variable}={default} is left out, the checkpoint is {own}"
    window = facts.context_window if facts else None
    if option == "max_model_len" and window and default > window:
        return None, f"max_model_len: {variable}={default} is left out, the model's context window is {window}"
    if option == "tensor_parallel_size" and gpu_count and gpu_count % default:
        return None, f"tensor_parallel_size: {variable}={default} is left out, gpu_ids names {gpu_count} GPUs"
    return default, f"{option}={default}: the default set by {variable}"


def _spread(asked: LoadOptions, values: dict[str, Any], reasons: list[str], gpu_count: int) -> None:
    """Several GPUs named and no parallel size: use all of them."""
    sizes = ("tensor_parallel_size", "pipeline_parallel_size")
    if gpu_count > 1 and not any(getattr(asked, size) or values.get(size) for size in sizes):
        values["tensor_parallel_size"] = gpu_count
        reasons.append(f"tensor_parallel_size={gpu_count}: gpu_ids names {gpu_count} GPUs")


def _idle_limit(settings: Settings, ttl_minutes: float | None, pin: bool) -> tuple[float | None, tuple[str, ...]]:
    if pin and ttl_minutes is not None:
        raise ConflictingFlags(
            f"pin=true keeps the model loaded, ttl_minutes={ttl_minutes:g} would unload it when idle.",
            parameters=["pin", "ttl_minutes"],
            suggestion="give one of pin and ttl_minutes",
        )
    if ttl_minutes is not None:
        return ttl_minutes * 60, ()
    default = settings.unload_idle_models_minutes
    if default is None or pin:
        return None, ()
    return default * 60, (f"ttl_minutes={default:g}: the default set by UNLOAD_IDLE_MODELS_MINUTES",)


def differences(asked: LoadOptions, running: EngineView) -> tuple[str, ...]:
    """What a caller asked for and does not get, because the engine was already there."""
    found = []
    for name, wanted in asked:
        if wanted in (None, False, ()) or name == "revision":
            continue
        actual: object = running.start_facts.max_model_len if name == "max_model_len" else None
        actual = getattr(running.options, name) if actual is None else actual
        if name == "served_model_name":
            actual = running.served_name
        if actual != wanted:
            shown = "vLLM's default" if actual in (None, ()) else actual
            found.append(
                f"{name}={wanted} was not applied: {running.id} already serves the model with {shown}; "
                f"unload-model {running.model_id} first to change it"
            )
    return tuple(found)
