"""switch-model."""

from typing import Annotated

from pydantic import Field

from vllm_mcp_protocol.serving.context import notify_resource_updated
from vllm_mcp_protocol.serving.server import DESTROY, SuiteServer, ToolContext, open_world
from vllm_model_manager import parameters as p
from vllm_model_manager.loading import Wanted
from vllm_model_manager.results import SwitchResult
from vllm_model_manager.switching import Switch
from vllm_model_manager.workplace import Workplace


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("switch-model", title="Switch to another model", annotations=open_world(DESTROY))
    async def switch_model(
        ctx: ToolContext,
        to_model_id: p.ModelName,
        from_model_id: Annotated[
            str | None,
            Field(min_length=1, max_length=400, description="Model that gives way (default: the only loaded one)"),
        ] = None,
        keep_asleep: Annotated[
            bool, Field(description="Put the old model to sleep where it can; false: unload it")
        ] = True,
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
        allow_smaller: p.AllowSmaller = False,
        ttl_minutes: p.TtlMinutes = None,
        pin: p.Pin = False,
        force: p.Force = False,
        dry_run: p.DryRun = False,
        wait_seconds: p.WaitSeconds = 45,
    ) -> SwitchResult:
        """Put one model aside (asleep, or unloaded where it cannot sleep) and load another, or wake it if it sleeps.
        With several loaded and no from_model_id, idle unpinned ones are unloaded if room is needed, and no others.
        When the new model cannot be loaded the old one is brought back. A busy model is finished first; force=true
        drops its requests.
        """
        options = p.load_options(locals())
        wanted = Wanted(
            to_model_id,
            options,
            tuple(gpu_ids or ()),
            allow_smaller=allow_smaller,
            ttl_minutes=ttl_minutes,
            pin=pin,
        )
        switch = Switch(work, ctx, wanted, wait_s=wait_seconds, force=force)
        await switch.plan(from_model_id, keep_asleep=keep_asleep)
        if dry_run:
            return switch.planned()
        result = await switch.run()
        await notify_resource_updated(ctx, "fleet://status")
        return result
