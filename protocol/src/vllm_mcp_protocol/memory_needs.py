"""What an engine needs beside its weights, and on which devices a model could be served at all. Pure.

The hub promises memory by these figures; discovery answers "does it fit?" by them before anybody asks for a load.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_mcp_protocol.model import Device, ModelFacts
from vllm_mcp_protocol.units import GIB, format_bytes

DEFAULT_FRACTION = 0.9
"""Of a device's memory. vLLM's own default is 0.92; the rest is for the driver's context and for what other programs
grow."""

CPU_OVERHEAD_BYTES = round(1.6 * GIB)
"""Measured on vLLM 0.32 for CPU, 2 cores: 1.6 GB with a 1 MB model (server, EngineCore and one worker)."""

CPU_WEIGHTS_FACTOR = 1.2
"""A margin: readers' buffers and repacked layers come on top of the weights, and the heap keeps them."""

GPU_OVERHEAD_BYTES = 3 * GIB
"""An assumption, not measured yet: CUDA context, NCCL, activations and CUDA graphs beside weights and KV cache."""

LEAST_CONTEXT_TOKENS = 2048
"""A model that cannot hold one conversation of this length is of no use, whatever its weights need."""

_PARALLEL_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Fit:
    """Where a model could be served when nothing else runs."""

    device_ids: tuple[str, ...]
    """Devices that can hold it, alone or as one of `tensor_parallel_size`."""
    tensor_parallel_size: int | None
    """Least number of devices that share it; None: it fits nowhere, or its size is not known."""
    reason: str
    """The sum behind the answer, in words."""


def where_it_fits(facts: ModelFacts, devices: Sequence[Device]) -> Fit:
    """The devices on which `facts` could be served with a context of at least LEAST_CONTEXT_TOKENS."""
    if facts.weights_bytes is None:
        return Fit((), None, "the size of its weights is not known")
    if not devices:
        return Fit((), None, "no device of this host can be read")
    for size in _PARALLEL_SIZES:
        need = _need_bytes(facts, devices[0].kind == "cpu", size)
        holding = tuple(device.id for device in devices if need <= _usable_bytes(device))
        if len(holding) >= size and _divides(facts, size):
            return Fit(holding, size, f"needs {_words(need, size)}")
    need = _need_bytes(facts, devices[0].kind == "cpu", 1)
    largest = max(_usable_bytes(device) for device in devices)
    return Fit((), None, f"needs {_words(need, 1)}; the largest device here has {format_bytes(largest)} to give")


def _need_bytes(facts: ModelFacts, cpu: bool, size: int) -> int:
    weights = (facts.weights_bytes or 0) * (CPU_WEIGHTS_FACTOR if cpu else 1.0)
    tokens = min(facts.context_window or LEAST_CONTEXT_TOKENS, LEAST_CONTEXT_TOKENS)
    kv = (facts.kv_bytes_per_token or 0) * tokens
    return round((weights + kv) / size) + (CPU_OVERHEAD_BYTES if cpu else GPU_OVERHEAD_BYTES)


def _usable_bytes(device: Device) -> float:
    return device.total_bytes * (1.0 if device.kind == "cpu" else DEFAULT_FRACTION)


def _divides(facts: ModelFacts, size: int) -> bool:
    """vLLM refuses a tensor-parallel size that does not divide the attention heads."""
    return facts.attention_heads is None or facts.attention_heads % size == 0


def _words(need_bytes: int, size: int) -> str:
    each = f" on each of {size} devices" if size > 1 else ""
    return f"about {format_bytes(need_bytes)}{each}: weights, {LEAST_CONTEXT_TOKENS} tokens of KV cache, the engine"
