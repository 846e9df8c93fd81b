"""How an engine would be started: its flags and environment, and how much memory it is promised. Pure.

On a GPU vLLM takes a fraction of each device, whatever the model needs: the promise is that fraction, and the flag
is always passed, so that promise and engine agree. On the CPU device vLLM takes what it allocates: weights, KV pool
and processes are added up, and the measured memory of earlier starts replaces the guess.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from vllm_mcp_hub.core.extra_args import Extras, check_extra_args, extra_int, parse_flags
from vllm_mcp_hub.core.flags import DeviceKind, vllm_flags
from vllm_mcp_hub.core.kv_pool import KvPool, dtype_scale, size_pool
from vllm_mcp_protocol.errors import BadInput, ConflictingFlags, GpuMemoryInsufficient, NoSuchGpu, TooFewDevices
from vllm_mcp_protocol.model import Device, LoadOptions, LoadRequest, ModelFacts, Need, StartPlan, StartRecord
from vllm_mcp_protocol.units import GIB, MIB, format_bytes, to_mib

DEFAULT_FRACTION = 0.9
"""vLLM's own default is 0.92; the rest is for the driver's context and for what other programs grow."""

CPU_OVERHEAD_BYTES = round(1.6 * GIB)
"""Measured on vLLM 0.32 for CPU, 2 cores: 1.6 GB with a 1 MB model (server, EngineCore and one worker)."""

WEIGHTS_FACTOR = 1.2
"""A margin: readers' buffers and repacked layers come on top of the weights, and the heap keeps them."""

GPU_OVERHEAD_BYTES = 3 * GIB
"""An assumption, not measured yet: CUDA context, NCCL, activations and CUDA graphs beside weights and KV cache."""

UNKNOWN_WEIGHTS_BYTES = GIB
MEASURED_FACTOR = 1.05
"""Over the largest measured start: the tiny model's engine grew by 0.5 % with its first two requests here."""

ASLEEP_BYTES = round(1.5 * GIB)
"""An assumption, not measured yet: the CUDA context and NCCL's buffers stay on the device while an engine sleeps."""

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
class _Layout:
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
class _Wish:
    """A request with what was read from it once."""

    request: LoadRequest
    facts: ModelFacts
    extras: Extras
    layout: _Layout
    flags: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def options(self) -> LoadOptions:
        return self.request.options


def plan_start(
    request: LoadRequest,
    devices: Sequence[Device],
    *,
    supported_flags: frozenset[str] = frozenset(),
    history: Sequence[StartRecord] = (),
    cpu_count: int = 1,
) -> StartPlan:
    """The plan of a start on these devices. Raises the errors of `vllm_flags`, NoSuchGpu, TooFewDevices,
    GpuMemoryInsufficient, ContextTooLong and BadInput; nothing is promised yet."""
    if not devices:
        raise NoSuchGpu("No device of this host can be read.", suggestion="Look at nvidia-smi and vllm-mcp doctor.")
    kind = devices[0].kind
    wish = _read(request, kind, supported_flags)
    if kind == "cpu":
        return _plan_cpu(wish, devices[0], history, cpu_count)
    return _plan_gpu(wish, devices, supported_flags, history)


def _read(request: LoadRequest, kind: DeviceKind, supported: frozenset[str]) -> _Wish:
    facts = request.facts or ModelFacts(model_id=request.model_id)
    _check_model(request.model_id, facts)
    options = request.options
    flags, reasons = vllm_flags(options, facts, kind, supported)
    extras = check_extra_args(options.extra_args, supported)
    replicas = extra_int(extras, "--data-parallel-size", 1) * extra_int(extras, "--prefill-context-parallel-size", 1)
    layout = _Layout(options.tensor_parallel_size or 1, options.pipeline_parallel_size or 1, max(1, replicas))
    return _Wish(request, facts, extras, layout, flags, reasons)


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


# -- GPUs


def _plan_gpu(
    wish: _Wish, devices: Sequence[Device], supported: frozenset[str], history: Sequence[StartRecord]
) -> StartPlan:
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
    seconds, start_reason = _start_time(wish, "cuda", history)
    return StartPlan(
        flags=tuple(flags),
        need=_gpu_need(wish, promise, device, flags, history),
        device_count=wish.layout.world,
        reasons=(*reasons, sleep_reason, start_reason),
        estimated_start_s=seconds,
        asleep_bytes=asleep_bytes,
    )


def _chosen(wish: _Wish, devices: Sequence[Device]) -> Sequence[Device]:
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
        raise _too_few(wish, len(devices), f"{len(devices)} GPUs" if len(devices) > 1 else "1 GPU")
    if ids and len(set(ids)) != world:
        raise ConflictingFlags(
            f"gpu_ids names {len(set(ids))} GPUs, {wish.layout.words} needs {world}.",
            suggestion=f"Give {world} gpu_ids, or set tensor_parallel_size={len(set(ids))}.",
            parameter="gpu_ids",
            value=list(ids),
            needed=world,
        )
    return [by_id[str(number)] for number in ids] or devices


def _measure_of(wish: _Wish, candidates: Sequence[Device]) -> Device:
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


def _gpu_promise(wish: _Wish, fraction: float, device: Device) -> _Promise:
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


def _each(wish: _Wish) -> str:
    return "each GPU" if wish.layout.world > 1 else "a GPU"


def _check_pool(wish: _Wish, pool: int, device: Device) -> None:
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
    wish: _Wish,
    promise: _Promise,
    device: Device,
    flags: Sequence[str],
    history: Sequence[StartRecord],
) -> Need:
    basis = promise.basis
    measured = max(_measured(wish, "cuda", flags, history), default=0)
    if measured > promise.bytes:
        basis = f"earlier starts held {format_bytes(measured)}, more than {basis}"
    return Need(device_bytes=min(max(promise.bytes, measured), device.total_bytes), basis=basis)


def _weights_share(wish: _Wish) -> float | None:
    """Bytes of weights on each GPU, as they are on disk; None where that is not known."""
    weights = _weights_bytes(wish)
    if weights is None:
        return None
    offloaded = float(str(wish.extras.get("--cpu-offload-gb", "0"))) * GIB
    return max(0.0, weights / wish.layout.shards - offloaded)


def _quantizes_while_loading(wish: _Wish) -> bool:
    """What stays of the weights is then not known beforehand, only that it is less."""
    return bool(wish.options.quantization) and wish.facts.quantization is None


def _check_weights(wish: _Wish, promise: _Promise, device: Device, device_count: int) -> None:
    share = _weights_share(wish)
    if share is None or share <= promise.bytes or _quantizes_while_loading(wish):
        return
    raise GpuMemoryInsufficient(
        f"The weights of {wish.facts.model_id} take {format_bytes(share)} on each of {wish.layout.world} GPUs; "
        f"gpu_memory_utilization {promise.fraction:g} gives {format_bytes(promise.bytes)}.",
        suggestion=_roomier(_weights_bytes(wish) or 0.0, promise.bytes, promise.fraction, device, device_count),
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


def _sleep(wish: _Wish, supported: frozenset[str]) -> tuple[int | None, str]:
    if wish.options.port is not None:
        return None, "No sleep mode: its HTTP routes must not be open on a port."
    if supported and "--enable-sleep-mode" not in supported:
        return None, "No sleep mode: this vLLM does not have it."
    told = f"sleep mode: asleep it keeps about {format_bytes(ASLEEP_BYTES)} on each GPU (context, NCCL)."
    return ASLEEP_BYTES, told


# -- CPU


def _plan_cpu(wish: _Wish, device: Device, history: Sequence[StartRecord], cpu_count: int) -> StartPlan:
    _check_cpu_layout(wish, cpu_count)
    layout = wish.layout
    fraction = wish.options.gpu_memory_utilization or DEFAULT_FRACTION
    weights = _weights_bytes(wish)
    fixed = math.ceil((UNKNOWN_WEIGHTS_BYTES if weights is None else weights) * WEIGHTS_FACTOR * layout.replicas)
    overhead = CPU_OVERHEAD_BYTES * layout.world
    room = (math.floor(fraction * device.total_bytes) - fixed - overhead) // layout.world
    given = extra_int(wish.extras, "--kv-cache-memory-bytes", 0) or None
    pool = size_pool(wish.options, wish.facts, room_bytes=room, given_bytes=given, tensor_parallel=layout.tensor)
    flags = (*wish.flags, *_pool_flags(pool, given))
    seconds, start_reason = _start_time(wish, "cpu", history)
    threads = max(1, (cpu_count - 1) // layout.world)
    return StartPlan(
        flags=flags,
        env={"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)},
        need=_cpu_need(wish, fixed, pool.bytes * layout.world, overhead, flags, history),
        device_count=1,
        reasons=(*wish.reasons, pool.reason, *_cpu_reasons(wish, fraction, device, threads), start_reason),
        estimated_start_s=seconds,
    )


def _check_cpu_layout(wish: _Wish, cpu_count: int) -> None:
    if wish.request.gpu_ids:
        raise NoSuchGpu(
            f"gpu_ids names {', '.join(map(str, wish.request.gpu_ids))}; this host has no GPU, only its cpu device.",
            suggestion="load-model without gpu_ids.",
            parameter="gpu_ids",
            value=list(wish.request.gpu_ids),
            allowed=[],
        )
    if wish.layout.pipeline > 1:
        raise _too_few(wish, 1, "1 (cpu), on which pipeline_parallel_size must be 1")
    if wish.layout.world > max(1, cpu_count):
        raise _too_few(wish, max(1, cpu_count), f"1 (cpu) with {cpu_count} cores, one for each worker")


def _too_few(wish: _Wish, available: int, has: str) -> TooFewDevices:
    return TooFewDevices(
        f"{wish.layout.words} asks for {wish.layout.world} devices, this host has {has}.",
        suggestion=f"load-model with sizes whose product is at most {available}"
        + (", and pipeline_parallel_size=1." if wish.layout.pipeline > 1 else "."),
        required=wish.layout.world,
        available=available,
    )


def _pool_flags(pool: KvPool, given: int | None) -> tuple[str, ...]:
    flags: tuple[str, ...] = () if given else ("--kv-cache-memory-bytes", str(pool.bytes))
    return flags if pool.max_model_len is None else (*flags, "--max-model-len", str(pool.max_model_len))


def _cpu_need(
    wish: _Wish, weights: int, kv: int, overhead: int, flags: Sequence[str], history: Sequence[StartRecord]
) -> Need:
    guessed = weights + kv + overhead
    known = wish.facts.weights_bytes
    parts = (
        f"weights {format_bytes(known)} on disk" if known is not None else "weights not known, counted as 1 GiB",
        f"KV pool {format_bytes(kv)}",
        f"{format_bytes(overhead)} measured overhead of the CPU engine",
    )
    measured = _measured(wish, "cpu", flags, history)
    if not measured:
        return Need(device_bytes=guessed, basis=" + ".join(parts))
    # The pool is promised whole, also if an earlier start was measured before all of it was touched.
    size = max(math.ceil(max(measured) * MEASURED_FACTOR), (known or 0) + kv)
    starts = "1 earlier start" if len(measured) == 1 else f"{len(measured)} earlier starts"
    return Need(device_bytes=size, basis=f"{' + '.join(parts)}; {starts} measured {format_bytes(max(measured))}")


def _cpu_reasons(wish: _Wish, fraction: float, device: Device, threads: int) -> tuple[str, ...]:
    unknown = wish.facts.weights_bytes is None
    return (
        f"gpu_memory_utilization {fraction:g} bounds the whole engine on the cpu device: at most "
        f"{format_bytes(fraction * device.total_bytes)} of {format_bytes(device.total_bytes)}.",
        f"OMP_NUM_THREADS={threads}, threads not bound: vLLM's own binding starves its API server.",
        *(("The weights are not on this disk yet, so their size is a guess.",) if unknown else ()),
    )


# -- both


def _weights_bytes(wish: _Wish) -> float | None:
    if wish.facts.weights_bytes is None:
        return None
    quantized = wish.facts.quantization is not None
    return wish.facts.weights_bytes * (1.0 if quantized else dtype_scale(wish.options, wish.facts))


def _measured(wish: _Wish, kind: DeviceKind, flags: Sequence[str], history: Sequence[StartRecord]) -> list[int]:
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


def _start_time(wish: _Wish, kind: DeviceKind, history: Sequence[StartRecord]) -> tuple[float, str]:
    took = [r.seconds for r in history if r.model_id == wish.request.model_id and r.device_kind == kind]
    if took:
        seconds = round(median(took), 1)
        return seconds, f"Start in about {seconds:g} s: the median of {len(took)} earlier."
    seconds = round(GUESSED_START_S + (wish.facts.weights_bytes or 0) / GUESSED_BYTES_PER_S, 1)
    download = "" if wish.facts.weights_bytes is not None and wish.facts.complete else ", without the download"
    return seconds, f"Start in about {seconds:g} s{download}: a guess from the size of the weights."
