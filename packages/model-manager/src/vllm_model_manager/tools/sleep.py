"""sleep-model and wake-model."""

from typing import Annotated, Literal

from pydantic import Field

from vllm_mcp_protocol.serving.context import notify_resource_updated
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer, ToolContext
from vllm_model_manager import parameters as p
from vllm_model_manager.core.finding import require_base
from vllm_model_manager.results import SleepResult, WakeResult
from vllm_model_manager.sleeping import put_to_sleep, wake
from vllm_model_manager.workplace import Workplace


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tools."""

    @server.tool("sleep-model", title="Put a model to sleep", annotations=WRITE)
    async def sleep_model(
        ctx: ToolContext,
        model_id: p.LoadedName,
        level: Annotated[
            Literal[1, 2], Field(description="1: weights wait in host memory; 2: they are dropped and read again")
        ] = 1,
        verify: Annotated[bool, Field(description="Remember an answer, so that wake-model can compare")] = True,
        wait_seconds: p.WaitSeconds = 45,
    ) -> SleepResult:
        """Free most of a model's GPU memory and keep its engine, so that wake-model brings it back in seconds.
        Needs a GPU. A model that answers requests is not put to sleep. What verify remembers is kept by this server
        process only: after its restart wake-model answers verified=null.
        """
        view = require_base(await work.state(), model_id, "sleep-model")
        result = await put_to_sleep(work, ctx, view, level=level, verify=verify, wait_s=wait_seconds)
        await notify_resource_updated(ctx, "fleet://status")
        return result

    @server.tool("wake-model", title="Wake a model", annotations=WRITE)
    async def wake_model(
        ctx: ToolContext,
        model_id: p.LoadedName,
        verify: Annotated[bool, Field(description="Compare a fixed probe with its answer before the sleep")] = True,
        wait_seconds: p.WaitSeconds = 45,
    ) -> WakeResult:
        """Bring a sleeping model back. verified=true means that a fixed probe gives the same tokens as before; null
        that there is nothing to compare: only the server process that put it to sleep remembers the answer.
        """
        view = require_base(await work.state(), model_id, "wake-model")
        result = await wake(work, ctx, view, verify=verify, wait_s=wait_seconds)
        await notify_resource_updated(ctx, "fleet://status")
        return result
