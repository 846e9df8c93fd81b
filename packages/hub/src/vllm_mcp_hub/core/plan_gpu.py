"""How an engine on GPUs is started. vLLM takes a fraction of each device, whatever the model needs. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_mcp_hub.core.extra_args import extra_int
from vllm_mcp_hub.core.wish import (
    UNKNOWN_WEIGHTS_BYTES,
    Wish,
    measured_bytes,
    start_time,
    too_few_devices,
    weights_bytes,
)
from vllm_mcp_protocol.errors import ConflictingFlags, GpuMemoryInsufficient, NoSuchGpu
from vllm_mcp_protocol.memory_needs import DEFAULT_FRACTION, GPU_OVERHEAD_BYTES
from vllm_mcp_protocol.model import Device, Need, StartPlan, StartRecord
from vllm_mcp_protocol.units import GIB, MIB, format_bytes, to_mib

ASLEEP_BYTES = round(1.5 * GIB)
"""An assumption, not measured yet: the CUDA context and NCCL's buffers stay on the device while an engine sleeps."""


def plan_gpu(
    wish: Wish, devices: Sequence[Device], supported: frozenset[str], history: Sequence[StartRecord]
) -> StartPlan:
    """The plan. Raises NoSuchGpu, TooFewDevices, ConflictingFlags, GpuMemoryInsufficient."""
    candidates = _chosen(wish, devices)
    fraction = wish.options.gpu_memory_utilization or DEFAULT_FRACTION
    device = _measure_of(wish, candidates)
    promise = _gpu_promise(wish, fraction, device)
    flags, reasons = list(wish.flags), list(wish.reasons)
    if wish.options.gpu_memory_utilization is None:
        flags += ["--gpu-memory-utilization", str(DEFAULT_FRACTION)]
        reasons.append(f"gpu_memory_utilization={DEFAULT_FRACTION}: the suite's default; vLLM takes it whole.")
    _check_weights(wish, promise, device, len(devices))
    asleep_bytes, sleep_reason = _sleep(wish, supported)
    if asleep_bytes is not None:
        flags.append("--enable-sleep-mode")
    seconds, start_reason = start_time(wish, "cuda", history)
    return StartPlan(
        flags=tuple(flags),
        need=_gpu_need(wish, promise, device, flags, history),
        device_count=wish.layout.world,
        reasons=(*reasons, sleep_reason, start_reason),
        estimated_start_s=seconds,
        asleep_bytes=asleep_bytes,
    )


def _chosen(wish: Wish, devices: Sequence[Device]) -> Sequence[Device]:
    ids, world = wish.request.gpu_ids, wish.layout.world
    by_id = {device.id: device for device in devices}
    unknown = [number for number in ids if str(number) not in by_id]
    if unknown:
        raise NoSuchGpu(
            f"gpu_ids names {', '.join(map(str, unknown))}; this host has GPUs {', '.join(by_id)}.",
            suggestion=f"load-model with gpu_ids from {', '.join(by_id)}, or without gpu_ids.",
            parameter="gpu_ids",
            value=list(ids),
            allowed=[int(device) for device in by_id],
        )
    if world > len(devices):
        raise too_few_devices(wish, len(devices), f"{len(devices)} GPUs" if len(devices) > 1 else "1 GPU")
    if ids and len(set(ids)) != world:
        raise ConflictingFlags(
            f"gpu_ids names {len(set(ids))} GPUs, {wish.layout.words} needs {world}.",
            suggestion=f"Give {world} gpu_ids, or set tensor_parallel_size={len(set(ids))}.",
            parameter="gpu_ids",
            value=list(ids),
            needed=world,
        )
    return [by_id[str(number)] for number in ids] or devices


def _measure_of(wish: Wish, candidates: Sequence[Device]) -> Device:
    """The device whose memory the fraction is of: the smallest, since vLLM sizes all alike.

    A single device that is still to be chosen may be the largest: then that one, so that none is promised too little.
    """
    pick = min if wish.request.gpu_ids or wish.layout.world > 1 else max
    return pick(candidates, key=lambda device: device.total_bytes)


@dataclass(frozen=True)
class _Promise:
    """What vLLM will take of each GPU, before earlier starts are looked at."""

    bytes: int
    fraction: float
    basis: str


def _gpu_promise(wish: Wish, fraction: float, device: Device) -> _Promise:
    """The fraction; where the user fixed the KV pool, which vLLM takes whatever the fraction, at least what adds up.

    The fraction stays the least: vLLM wants it free at the start even then. Raises as `_check_pool`.
    """
    share = math.ceil(fraction * device.total_bytes)
    basis = f"{fraction:g} of the {format_bytes(device.total_bytes)} of {_each(wish)}"
    pool = extra_int(wish.extras, "--kv-cache-memory-bytes", 0)
    if not pool:
        return _Promise(share, fraction, basis)
    _check_pool(wish, pool, device)
    weights = _weights_share(wish)
    known = weights if weights is not None else float(UNKNOWN_WEIGHTS_BYTES)
    total = min(math.ceil(known) + pool + GPU_OVERHEAD_BYTES, device.total_bytes)
    if total <= share:
        return _Promise(share, fraction, basis)
    parts = (
        f"weights {format_bytes(known)}" if weights is not None else "weights not known, counted as 1 GiB",
        f"KV pool {format_bytes(pool)} as asked",
        f"{format_bytes(GPU_OVERHEAD_BYTES)} assumed for all else",
    )
    return _Promise(total, fraction, f"{' + '.join(parts)}, more than {basis}")


def _each(wish: Wish) -> str:
    return "each GPU" if wish.layout.world > 1 else "a GPU"


def _check_pool(wish: Wish, pool: int, device: Device) -> None:
    """Raises GpuMemoryInsufficient when weights and pool alone are more than the device."""
    weights = 0 if _quantizes_while_loading(wish) else math.ceil(_weights_share(wish) or 0)
    if weights + pool <= device.total_bytes:
        return
    raise GpuMemoryInsufficient(
        f"--kv-cache-memory-bytes {format_bytes(pool)} and {format_bytes(weights)} of weights are more than the "
        f"{format_bytes(device.total_bytes)} of {_each(wish)}.",
        suggestion="load-model with a smaller --kv-cache-memory-bytes, or without it: the KV cache then gets what "
        "gpu_memory_utilization leaves.",
        required_mb=to_mib(weights + pool),
        available_mb=device.total_bytes // MIB,
        total_mb=device.total_bytes // MIB,
    )


def _gpu_need(
    wish: Wish,
    promise: _Promise,
    device: Device,
    flags: Sequence[str],
    history: Sequence[StartRecord],
) -> Need:
    basis = promise.basis
    measured = max(measured_bytes(wish, "cuda", flags, history), default=0)
    if measured > promise.bytes:
        basis = f"earlier starts held {format_bytes(measured)}, more than {basis}"
    return Need(device_bytes=min(max(promise.bytes, measured), device.total_bytes), basis=basis)


def _weights_share(wish: Wish) -> float | None:
    """Bytes of weights on each GPU, as they are on disk; None where that is not known."""
    weights = weights_bytes(wish)
    if weights is None:
        return None
    offloaded = float(str(wish.extras.get("--cpu-offload-gb", "0"))) * GIB
    return max(0.0, weights / wish.layout.shards - offloaded)


def _quantizes_while_loading(wish: Wish) -> bool:
    """What stays of the weights is then not known beforehand, only that it is less."""
    return bool(wish.options.quantization) and wish.facts.quantization is None


def _check_weights(wish: Wish, promise: _Promise, device: Device, device_count: int) -> None:
    share = _weights_share(wish)
    if share is None or share <= promise.bytes or _quantizes_while_loading(wish):
        return
    raise GpuMemoryInsufficient(
        f"The weights of {wish.facts.model_id} take {format_bytes(share)} on each of {wish.layout.world} GPUs; "
        f"gpu_memory_utilization {promise.fraction:g} gives {format_bytes(promise.bytes)}.",
        suggestion=_roomier(weights_bytes(wish) or 0.0, promise.bytes, promise.fraction, device, device_count),
        required_mb=to_mib(share),
        available_mb=promise.bytes // MIB,
        total_mb=device.total_bytes // MIB,
    )


def _roomier(weights: float, promised: int, fraction: float, device: Device, device_count: int) -> str:
    for size in (2, 4, 8, 16, 32):
        if size <= device_count and weights / size < 0.9 * promised:
            return f"load-model with tensor_parallel_size={size}."
    if fraction < DEFAULT_FRACTION and weights < 0.9 * DEFAULT_FRACTION * device.total_bytes:
        return f"load-model with gpu_memory_utilization={DEFAULT_FRACTION}."
    return "load-model a quantized checkpoint or a smaller model, or add --cpu-offload-gb to extra_args."


def _sleep(wish: Wish, supported: frozenset[str]) -> tuple[int | None, str]:
    if wish.options.port is not None:
        return None, "No sleep mode: its HTTP routes must not be open on a port."
    if supported and "--enable-sleep-mode" not in supported:
        return None, "No sleep mode: this vLLM does not have it."
    told = f"sleep mode: asleep it keeps about {format_bytes(ASLEEP_BYTES)} on each GPU (context, NCCL)."
    return ASLEEP_BYTES, told
