"""What a load asks for, read once, and what earlier starts say about it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from vllm_mcp_hub.core.extra_args import Extras, check_extra_args, extra_int, parse_flags
from vllm_mcp_hub.core.flags import DeviceKind, vllm_flags
from vllm_mcp_hub.core.kv_pool import dtype_scale
from vllm_mcp_protocol.errors import BadInput, TooFewDevices
from vllm_mcp_protocol.model import LoadOptions, LoadRequest, ModelFacts, StartRecord
from vllm_mcp_protocol.units import GIB

UNKNOWN_WEIGHTS_BYTES = GIB
GUESSED_START_S = 20.0
GUESSED_BYTES_PER_S = 1e9

_MEMORY_FLAGS = frozenset(
    f"--{name}"
    for name in (
        *("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "prefill-context-parallel-size"),
        *("max-model-len", "kv-cache-memory-bytes", "gpu-memory-utilization", "kv-cache-dtype", "block-size"),
        *("quantization", "dtype", "max-num-seqs", "max-num-batched-tokens", "enforce-eager", "no-enforce-eager"),
        *("enable-lora", "max-loras", "max-lora-rank", "speculative-config", "spec-model", "compilation-config"),
        *("cpu-offload-gb", "kv-offloading-size", "runner", "convert", "revision", "hf-overrides"),
    )
)
"""Two starts that agree in these need the same memory."""


@dataclass(frozen=True)
class Layout:
    """How many processes the engine is spread over."""

    tensor: int
    pipeline: int
    replicas: int

    @property
    def shards(self) -> int:
        return self.tensor * self.pipeline

    @property
    def world(self) -> int:
        return self.shards * self.replicas

    @property
    def words(self) -> str:
        return f"tensor_parallel_size {self.tensor} × pipeline_parallel_size {self.pipeline}" + (
            f" × {self.replicas} data-parallel replicas" if self.replicas > 1 else ""
        )


@dataclass(frozen=True)
class Wish:
    """A request with what was read from it once."""

    request: LoadRequest
    facts: ModelFacts
    extras: Extras
    layout: Layout
    flags: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def options(self) -> LoadOptions:
        return self.request.options


def read_wish(request: LoadRequest, kind: DeviceKind, supported: frozenset[str]) -> Wish:
    """The request with its flags. Raises BadInput and the errors of `vllm_flags` and `check_extra_args`."""
    facts = request.facts or ModelFacts(model_id=request.model_id)
    _check_model(request.model_id, facts)
    options = request.options
    flags, reasons = vllm_flags(options, facts, kind, supported)
    extras = check_extra_args(options.extra_args, supported)
    replicas = extra_int(extras, "--data-parallel-size", 1) * extra_int(extras, "--prefill-context-parallel-size", 1)
    layout = Layout(options.tensor_parallel_size or 1, options.pipeline_parallel_size or 1, max(1, replicas))
    return Wish(request, facts, extras, layout, flags, reasons)


def _check_model(model_id: str, facts: ModelFacts) -> None:
    if model_id.startswith("-") or not model_id.isprintable():
        raise BadInput(
            f"model_id={model_id[:80]!r} cannot begin with a dash or hold control characters.",
            suggestion="Give organization/name, or the absolute path of a folder.",
            parameter="model_id",
            value=model_id[:80],
        )
    if facts.is_adapter:
        raise BadInput(
            f"{model_id} is a LoRA adapter, not a model.",
            suggestion="load-model its base model with enable_lora=true, then load-lora.",
            parameter="model_id",
            value=model_id,
        )


def too_few_devices(wish: Wish, available: int, has: str) -> TooFewDevices:
    """The error for a layout that needs more devices than the host has."""
    return TooFewDevices(
        f"{wish.layout.words} asks for {wish.layout.world} devices, this host has {has}.",
        suggestion=f"load-model with sizes whose product is at most {available}"
        + (", and pipeline_parallel_size=1." if wish.layout.pipeline > 1 else "."),
        required=wish.layout.world,
        available=available,
    )


def weights_bytes(wish: Wish) -> float | None:
    """All weights in the type that they are loaded as; None where their size is not known."""
    if wish.facts.weights_bytes is None:
        return None
    quantized = wish.facts.quantization is not None
    return wish.facts.weights_bytes * (1.0 if quantized else dtype_scale(wish.options, wish.facts))


def measured_bytes(wish: Wish, kind: DeviceKind, flags: Sequence[str], history: Sequence[StartRecord]) -> list[int]:
    """Memory that earlier starts of the same model with the same memory flags held on one device."""
    relevant = _memory_flags(flags)
    return [
        record.device_bytes
        for record in history
        if record.device_bytes
        and record.model_id == wish.request.model_id
        and record.device_kind == kind
        and _memory_flags(record.flags) == relevant
    ]


def _memory_flags(flags: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {flag: values for flag, values in parse_flags(flags).items() if flag in _MEMORY_FLAGS}


def start_time(wish: Wish, kind: DeviceKind, history: Sequence[StartRecord]) -> tuple[float, str]:
    """Seconds that the start will take, and where that figure comes from."""
    took = [r.seconds for r in history if r.model_id == wish.request.model_id and r.device_kind == kind]
    if took:
        seconds = round(median(took), 1)
        return seconds, f"Start in about {seconds:g} s: the median of {len(took)} earlier."
    seconds = round(GUESSED_START_S + (wish.facts.weights_bytes or 0) / GUESSED_BYTES_PER_S, 1)
    download = "" if wish.facts.weights_bytes is not None and wish.facts.complete else ", without the download"
    return seconds, f"Start in about {seconds:g} s{download}: a guess from the size of the weights."
