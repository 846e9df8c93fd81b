"""How large the CPU engine's KV cache may be, and how long a context it holds. Pure.

vLLM's CPU engine, told nothing, takes 0.92 of the host's memory for it and then fails to start: the pool is
always given. It is sized per worker process: tensor-parallel workers hold a share of each token.
"""

import math
from dataclasses import dataclass

from vllm_mcp_protocol.errors import ContextTooLong, GpuMemoryInsufficient
from vllm_mcp_protocol.model import LoadOptions, ModelFacts
from vllm_mcp_protocol.units import GIB, MIB, format_bytes, to_mib

BLOCK_TOKENS = 128
"""vLLM's CPU engine hands out KV memory in blocks of 128 tokens, and keeps one block for itself."""

MIN_POOL_BYTES = 16 * MIB
UNKNOWN_POOL_BYTES = GIB
MAX_SEQUENCES = 16
SMALLEST_CONTEXT_TOKENS = 256
"""A context below this serves nobody; refusing is the better answer."""

_DTYPE_BYTES = {"half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}


@dataclass(frozen=True)
class KvPool:
    """The pool of one worker."""

    bytes: int
    max_model_len: int | None
    """The context to ask vLLM for, when the model's own does not fit."""
    reason: str


def size_pool(
    options: LoadOptions,
    facts: ModelFacts,
    *,
    room_bytes: int,
    given_bytes: int | None = None,
    tensor_parallel: int = 1,
) -> KvPool:
    """The pool of each worker, at most `room_bytes`; `given_bytes` when the user chose it.

    Raises GpuMemoryInsufficient or ContextTooLong when not even one sequence fits.
    """
    _check_room(options, facts, room_bytes, given_bytes)
    limit_bytes = room_bytes if given_bytes is None else given_bytes
    token_bytes = _token_bytes(options, facts, tensor_parallel)
    context = options.max_model_len or facts.context_window
    if token_bytes is None or context is None:
        size = min(UNKNOWN_POOL_BYTES, limit_bytes) if given_bytes is None else given_bytes
        return KvPool(size, None, f"KV pool {format_bytes(size)}: the model's size per token or context is not known.")
    sequence_bytes = math.ceil(_tokens_of(context) * token_bytes)
    if sequence_bytes > limit_bytes:
        return _shortened(options, facts, limit_bytes, token_bytes, sequence_bytes, context)
    if given_bytes is not None:
        return KvPool(given_bytes, None, f"KV pool {format_bytes(given_bytes)}: --kv-cache-memory-bytes, as given.")
    count = min(options.max_num_seqs or MAX_SEQUENCES, MAX_SEQUENCES)
    size = _whole_mib(max(MIN_POOL_BYTES, min(count * sequence_bytes, limit_bytes)), limit_bytes)
    return KvPool(size, None, _sized_reason(size, sequence_bytes, context, count))


def dtype_scale(options: LoadOptions, facts: ModelFacts) -> float:
    """Size of a value in the asked dtype, relative to the checkpoint's; 1 where one of them is not known."""
    asked, own = _DTYPE_BYTES.get(options.dtype or ""), _DTYPE_BYTES.get(facts.dtype or "")
    return asked / own if asked and own else 1.0


def _token_bytes(options: LoadOptions, facts: ModelFacts, tensor_parallel: int) -> float | None:
    if facts.kv_bytes_per_token is None:
        return None
    scale = dtype_scale(options, facts)
    if options.kv_cache_dtype and options.kv_cache_dtype.startswith(("fp8", "int8")):
        scale = 1 / _DTYPE_BYTES.get(facts.dtype or "", 2)
    return facts.kv_bytes_per_token * scale / tensor_parallel


def _tokens_of(context: int) -> int:
    return (math.ceil(context / BLOCK_TOKENS) + 1) * BLOCK_TOKENS


def _whole_mib(size_bytes: int, limit_bytes: int) -> int:
    rounded = -(-size_bytes // MIB) * MIB
    return rounded if rounded <= limit_bytes else limit_bytes // MIB * MIB


def _check_room(options: LoadOptions, facts: ModelFacts, room_bytes: int, given_bytes: int | None) -> None:
    wanted = MIN_POOL_BYTES if given_bytes is None else given_bytes
    if wanted > room_bytes:
        raise GpuMemoryInsufficient(
            f"{facts.model_id} leaves {format_bytes(max(0, room_bytes))} for the KV cache of each worker; "
            f"{format_bytes(wanted)} are needed.",
            suggestion="load-model a smaller model, a larger gpu_memory_utilization, or a smaller "
            "--kv-cache-memory-bytes in extra_args.",
            required_mb=to_mib(wanted),
            available_mb=max(0, room_bytes) // MIB,
        )


def _shortened(
    options: LoadOptions, facts: ModelFacts, limit_bytes: int, token_bytes: float, sequence_bytes: int, context: int
) -> KvPool:
    fits = (int(limit_bytes / token_bytes) // BLOCK_TOKENS - 1) * BLOCK_TOKENS
    told = (
        f"One sequence of {context} tokens needs {format_bytes(sequence_bytes)} of KV cache, "
        f"{format_bytes(limit_bytes)} are left"
    )
    if options.max_model_len is not None or fits < SMALLEST_CONTEXT_TOKENS:
        kind = ContextTooLong if fits >= SMALLEST_CONTEXT_TOKENS else GpuMemoryInsufficient
        raise kind(
            f"{facts.model_id}: {told}.",
            suggestion=f"load-model with max_model_len={fits}." if fits > 0 else "load-model a smaller model.",
            parameter="max_model_len",
            value=context,
            limit=max(0, fits),
            required_mb=to_mib(sequence_bytes),
            available_mb=limit_bytes // MIB,
        )
    return KvPool(limit_bytes // MIB * MIB or limit_bytes, fits, f"{told}: max_model_len={fits} instead of {context}.")


def _sized_reason(size: int, sequence_bytes: int, context: int, wanted: int) -> str:
    holds = f"{size / sequence_bytes:.1f}".removesuffix(".0")
    told = f"KV pool {format_bytes(size)}: {holds} sequences of {context} tokens"
    return f"{told}, all that fits ({wanted} wanted)." if size < wanted * sequence_bytes else f"{told}."
