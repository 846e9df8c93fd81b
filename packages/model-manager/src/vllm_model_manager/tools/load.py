"""load-model."""

from vllm_mcp_protocol.model import LoadGrant
from vllm_mcp_protocol.serving.context import notify_resource_updated
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer, ToolContext, open_world
from vllm_mcp_protocol.units import to_mib
from vllm_model_manager import parameters as p
from vllm_model_manager.core.finding import refuse_remote
from vllm_model_manager.core.options import differences
from vllm_model_manager.loading import Loaded, Prepared, Wanted, load_and_wait, prepare, present
from vllm_model_manager.results import LoadResult
from vllm_model_manager.workplace import Workplace


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("load-model", title="Load a model", annotations=open_world(WRITE))
    async def load_model(
        ctx: ToolContext,
        model_id: p.ModelName,
        tensor_parallel_size: p.TensorParallel = None,
        pipeline_parallel_size: p.PipelineParallel = None,
        gpu_memory_utilization: p.MemoryUtilization = None,
        max_model_len: p.MaxModelLen = None,
        quantization: p.Quantization = None,
        dtype: p.Dtype = None,
        enforce_eager: p.EnforceEager = None,
        enable_prefix_caching: p.PrefixCaching = None,
        max_num_seqs: p.MaxNumSeqs = None,
        max_num_batched_tokens: p.MaxBatchedTokens = None,
        kv_cache_dtype: p.KvCacheDtype = None,
        gpu_ids: p.GpuIds = None,
        served_model_name: p.ServedName = None,
        revision: p.Revision = None,
        trust_remote_code: p.TrustRemoteCode = False,
        enable_lora: p.EnableLora = None,
        port: p.Port = None,
        extra_args: p.ExtraArgs = None,
        profile: p.Profile = None,
        make_room: p.MakeRoom = False,
        allow_smaller: p.AllowSmaller = False,
        ttl_minutes: p.TtlMinutes = None,
        pin: p.Pin = False,
        dry_run: p.DryRun = False,
        wait_seconds: p.WaitSeconds = 45,
    ) -> LoadResult:
        """Start a vLLM engine for a model and wait until it serves. A model that is already loaded is joined; one
        that sleeps is woken. Cancelling stops what this call started. dry_run shows command line, memory and reasons.
        """
        options = p.load_options(locals())
        wanted = Wanted(model_id, options, tuple(gpu_ids or ()), make_room, allow_smaller, ttl_minutes, pin)
        return await load(work, ctx, wanted, wait_s=wait_seconds, dry_run=dry_run)


async def load(work: Workplace, ctx: ToolContext, wanted: Wanted, *, wait_s: float, dry_run: bool) -> LoadResult:
    """Load and answer. Raises SuiteError."""
    running = await present(work, wanted)
    if running is not None:
        refuse_remote(running, "loaded again")
    prepared = await prepare(work, wanted, running)
    if dry_run:
        request = prepared.request.model_copy(update={"dry_run": True})
        return planned(await work.hub.load(request), wanted, prepared)
    loaded = await load_and_wait(work, ctx, wanted, prepared, wait_s)
    await notify_resource_updated(ctx, "fleet://status")
    return result_of(loaded)


def planned(grant: LoadGrant, wanted: Wanted, prepared: Prepared) -> LoadResult:
    """The result of a dry run."""
    plan, engine = grant.plan, grant.engine
    name = wanted.options.served_model_name or wanted.model_id
    joined = (f"would join {engine.id}", *differences(wanted.options, engine)) if grant.joined and engine else ()
    return LoadResult(
        model_id=prepared.request.model_id,
        engine_id=engine.id if engine else None,
        status="planned",
        served_name=engine.served_name if engine else name,
        estimated_load_time_seconds=0.0 if grant.joined else plan.estimated_start_s,
        memory_required_mb=to_mib(plan.need.device_bytes) * plan.device_count,
        memory_basis=plan.need.basis,
        devices=list(grant.devices),
        argv=list(engine.argv) if engine and engine.argv else ["vllm", "serve", prepared.request.model_id, *plan.flags],
        joined=grant.joined,
        evicted=list(grant.evicted),
        reasons=list(joined or (*prepared.reasons, *plan.reasons)),
    )


def result_of(loaded: Loaded) -> LoadResult:
    """The result of a load, ready or not."""
    view, plan = loaded.view, loaded.grant.plan
    return LoadResult(
        model_id=view.model_id,
        engine_id=view.id,
        status="loaded" if loaded.ready else "loading",
        endpoint=view.endpoint or None,
        served_name=view.served_name,
        estimated_load_time_seconds=view.estimated_start_s if view.estimated_start_s else plan.estimated_start_s,
        load_time_seconds=None if view.elapsed_s is None else round(view.elapsed_s, 2),
        phase=None if loaded.ready else view.phase or view.status,
        memory_required_mb=to_mib(plan.need.device_bytes) * plan.device_count,
        memory_basis=plan.need.basis,
        devices=list(view.devices),
        argv=list(view.argv),
        joined=loaded.grant.joined,
        evicted=list(loaded.grant.evicted),
        reasons=list(loaded.reasons),
    )
