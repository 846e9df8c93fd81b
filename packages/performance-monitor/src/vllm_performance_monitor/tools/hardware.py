"""GPUs, and what the memory is used for."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.gpu import GpuReading
from vllm_mcp_protocol.model import EngineView
from vllm_mcp_protocol.monitoring import GpusView
from vllm_mcp_protocol.serving.server import READ, SuiteServer
from vllm_mcp_protocol.units import to_mib
from vllm_performance_monitor.results import GpuStats, MemoryStats, ModelMemory
from vllm_performance_monitor.tools.metrics import ModelId
from vllm_performance_monitor.workplace import Workplace, not_sampled

_TEMPERATURE = ("temperature",)
_POWER = ("power",)
_MOST_GPUS = 16
_LIVE = ("ready", "draining", "sleeping", "suspending", "waking", "starting")


def register(server: SuiteServer, work: Workplace) -> None:
    """Add both."""

    @server.tool("get-gpu-stats", title="What the GPUs do", annotations=READ)
    async def get_gpu_stats(
        gpu_ids: Annotated[
            list[str] | None, Field(max_length=64, description="GPU numbers or UUIDs (default: all)")
        ] = None,
        include_temperature: Annotated[bool, Field(description="Also temperatures and their thresholds")] = True,
        include_power: Annotated[bool, Field(description="Also power and its limits")] = True,
        include_processes: Annotated[
            bool, Field(description="Also who holds memory: our engines and strangers")
        ] = False,
    ) -> GpuStats:
        """Show each GPU as NVML tells it: memory, utilization, clocks, throttling in words, PCIe, ECC, MIG. Without a
        GPU the host's processor and memory take the place.
        """
        hub = await work.ready()
        view = await hub.gpus()
        chosen = _chosen(view.gpus, gpu_ids)
        left_out = [*(() if include_temperature else _TEMPERATURE), *(() if include_power else _POWER)]
        rows = [_row(one, left_out, view.owners, processes=include_processes) for one in chosen[:_MOST_GPUS]]
        notes = [] if view.gpus else ["there is no GPU here, or its driver does not answer"]
        return GpuStats(gpus=rows, host=None if view.gpus else view.host.model_dump(mode="json"), notes=notes)

    @server.tool("get-memory-stats", title="What the memory is used for", annotations=READ)
    async def get_memory_stats(model_id: ModelId = None) -> MemoryStats:
        """Show GPU and host memory, and of each model what its weights, KV cache, activations and CUDA graphs take,
        with how each figure was obtained.
        """
        hub = await work.ready()
        view, state = await hub.gpus(), await hub.state()
        engines = [one for one in state.engines if not one.remote and one.status.value in _LIVE]
        if model_id is not None:
            known = [one.served_name for one in engines]
            engines = [one for one in engines if model_id in (one.served_name, one.model_id)]
            if not engines:
                raise not_sampled(model_id, known)
        return MemoryStats(
            gpu_memory=[_gpu_memory(one) for one in view.gpus],
            system_memory=_system_memory(view),
            model_memory=[model_memory(one) for one in engines[:20]],
            notes=[] if view.gpus else ["there is no GPU here: models are in the host's memory"],
        )


def _chosen(gpus: Sequence[GpuReading], wanted: Sequence[str] | None) -> list[GpuReading]:
    if not wanted:
        return list(gpus)
    known = {name: one for one in gpus for name in (one.id, one.uuid) if name}
    missing = [name for name in wanted if name not in known]
    if missing:
        shown = ", ".join(one.id for one in gpus) or "none"
        raise BadInput(
            f"gpu_ids={missing[0][:80]!r} is no GPU of this host; there are: {shown}.",
            parameter="gpu_ids",
            value=missing[0][:80],
            suggestion="leave gpu_ids out for all",
        )
    return list({known[name].id: known[name] for name in wanted}.values())


def _row(one: GpuReading, left_out: Sequence[str], owners: Mapping[int, str], *, processes: bool) -> dict[str, Any]:
    row = {name: value for name, value in one.model_dump(mode="json").items() if name not in (*left_out, "processes")}
    row["throttle_reasons"] = list(one.throttle_reasons)
    if processes:
        row["processes"] = [
            {**process.model_dump(mode="json"), "engine": owners.get(process.pid)}
            for process in (one.processes or ())[:20]
        ]
    return row


def _gpu_memory(one: GpuReading) -> dict[str, Any]:
    memory = one.memory
    return {
        "gpu": one.id,
        "name": one.name,
        "total_mb": None if memory is None else to_mib(memory.total_bytes),
        "used_mb": None if memory is None else to_mib(memory.used_bytes),
        "free_mb": None if memory is None else to_mib(memory.free_bytes),
    }


def _system_memory(view: GpusView) -> dict[str, Any]:
    memory = view.host.memory
    return {
        "total_mb": to_mib(memory.total_bytes),
        "used_mb": to_mib(memory.used_bytes),
        "available_mb": to_mib(memory.available_bytes),
        "swap_total_mb": to_mib(memory.swap_total_bytes),
        "swap_used_mb": to_mib(memory.swap_used_bytes),
    }


def model_memory(view: EngineView) -> ModelMemory:
    """What is known of one engine's memory."""
    facts, how = view.start_facts, dict[str, str]()
    parts: dict[str, int | None] = {}
    for name, size in (
        ("weights_mb", facts.weights_bytes),
        ("kv_cache_mb", facts.kv_cache_bytes),
        ("cuda_graph_mb", facts.graph_bytes),
    ):
        parts[name] = None if size is None else to_mib(size)
        how[name] = "vLLM did not tell" if size is None else "vLLM said so at its start"
    how["activations_mb"] = "vLLM does not tell; they are in other_mb"
    measured = None if view.measured_bytes is None else to_mib(view.measured_bytes)
    told = sum(value for value in parts.values() if value is not None)
    how["measured_mb"] = (
        "not measured yet" if measured is None else "memory of its processes on its devices, by the hub"
    )
    how["promised_mb"] = view.need_basis or "what the hub reserved for it"
    other = None if measured is None or parts["weights_mb"] is None else max(0, measured - told)
    how["other_mb"] = "not known" if other is None else "measured, less what vLLM told of"
    return ModelMemory(
        model=view.served_name,
        engine_id=view.id,
        measured_mb=measured,
        promised_mb=to_mib(view.promised_bytes) if view.promised_bytes else None,
        other_mb=other,
        how=how,
        **parts,
    )
