"""How an engine on the CPU device is started: weights, KV pool and processes are added up. Pure."""

import math
from collections.abc import Sequence

from vllm_mcp_hub.core.extra_args import extra_int
from vllm_mcp_hub.core.kv_pool import KvPool, size_pool
from vllm_mcp_hub.core.wish import (
    UNKNOWN_WEIGHTS_BYTES,
    Wish,
    measured_bytes,
    start_time,
    too_few_devices,
    weights_bytes,
)
from vllm_mcp_protocol.errors import NoSuchGpu
from vllm_mcp_protocol.memory_needs import CPU_OVERHEAD_BYTES, CPU_WEIGHTS_FACTOR, DEFAULT_FRACTION
from vllm_mcp_protocol.model import Device, Need, StartPlan, StartRecord
from vllm_mcp_protocol.units import format_bytes

MEASURED_FACTOR = 1.05
"""Over the largest measured start: the tiny model's engine grew by 0.5 % with its first two requests here."""


def plan_cpu(wish: Wish, device: Device, history: Sequence[StartRecord], cpu_count: int) -> StartPlan:
    """The plan. Raises NoSuchGpu, TooFewDevices, and the errors of `size_pool`."""
    _check_cpu_layout(wish, cpu_count)
    layout = wish.layout
    fraction = wish.options.gpu_memory_utilization or DEFAULT_FRACTION
    weights = weights_bytes(wish)
    fixed = math.ceil((UNKNOWN_WEIGHTS_BYTES if weights is None else weights) * CPU_WEIGHTS_FACTOR * layout.replicas)
    overhead = CPU_OVERHEAD_BYTES * layout.world
    room = (math.floor(fraction * device.total_bytes) - fixed - overhead) // layout.world
    given = extra_int(wish.extras, "--kv-cache-memory-bytes", 0) or None
    pool = size_pool(wish.options, wish.facts, room_bytes=room, given_bytes=given, tensor_parallel=layout.tensor)
    flags = (*wish.flags, *_pool_flags(pool, given))
    seconds, start_reason = start_time(wish, "cpu", history)
    threads = max(1, (cpu_count - 1) // layout.world)
    return StartPlan(
        flags=flags,
        env={"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)},
        need=_cpu_need(wish, fixed, pool.bytes * layout.world, overhead, flags, history),
        device_count=1,
        reasons=(*wish.reasons, pool.reason, *_cpu_reasons(wish, fraction, device, threads), start_reason),
        estimated_start_s=seconds,
    )


def _check_cpu_layout(wish: Wish, cpu_count: int) -> None:
    if wish.request.gpu_ids:
        raise NoSuchGpu(
            f"gpu_ids names {', '.join(map(str, wish.request.gpu_ids))}; this host has no GPU, only its cpu device.",
            suggestion="load-model without gpu_ids.",
            parameter="gpu_ids",
            value=list(wish.request.gpu_ids),
            allowed=[],
        )
    if wish.layout.pipeline > 1:
        raise too_few_devices(wish, 1, "1 (cpu), on which pipeline_parallel_size must be 1")
    if wish.layout.world > max(1, cpu_count):
        raise too_few_devices(wish, max(1, cpu_count), f"1 (cpu) with {cpu_count} cores, one for each worker")


def _pool_flags(pool: KvPool, given: int | None) -> tuple[str, ...]:
    flags: tuple[str, ...] = () if given else ("--kv-cache-memory-bytes", str(pool.bytes))
    return flags if pool.max_model_len is None else (*flags, "--max-model-len", str(pool.max_model_len))


def _cpu_need(
    wish: Wish, weights: int, kv: int, overhead: int, flags: Sequence[str], history: Sequence[StartRecord]
) -> Need:
    guessed = weights + kv + overhead
    known = wish.facts.weights_bytes
    parts = (
        f"weights {format_bytes(known)} on disk" if known is not None else "weights not known, counted as 1 GiB",
        f"KV pool {format_bytes(kv)}",
        f"{format_bytes(overhead)} measured overhead of the CPU engine",
    )
    measured = measured_bytes(wish, "cpu", flags, history)
    if not measured:
        return Need(device_bytes=guessed, basis=" + ".join(parts))
    # The pool is promised whole, also if an earlier start was measured before all of it was touched.
    size = max(math.ceil(max(measured) * MEASURED_FACTOR), (known or 0) + kv)
    starts = "1 earlier start" if len(measured) == 1 else f"{len(measured)} earlier starts"
    return Need(device_bytes=size, basis=f"{' + '.join(parts)}; {starts} measured {format_bytes(max(measured))}")


def _cpu_reasons(wish: Wish, fraction: float, device: Device, threads: int) -> tuple[str, ...]:
    unknown = wish.facts.weights_bytes is None
    return (
        f"gpu_memory_utilization {fraction:g} bounds the whole engine on the cpu device: at most "
        f"{format_bytes(fraction * device.total_bytes)} of {format_bytes(device.total_bytes)}.",
        f"OMP_NUM_THREADS={threads}, threads not bound: vLLM's own binding starves its API server.",
        *(("The weights are not on this disk yet, so their size is a guess.",) if unknown else ()),
    )
