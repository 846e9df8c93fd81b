"""set-model-config."""

from typing import Annotated, Any

from pydantic import Field

from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.model import HubState, ModelConfig
from vllm_mcp_protocol.serving.context import notify_resource_updated
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer, ToolContext
from vllm_model_manager import parameters as p
from vllm_model_manager.core.finding import live_engine, loaded_names
from vllm_model_manager.core.rows import shown_config
from vllm_model_manager.repository import not_in_cache
from vllm_model_manager.results import ConfigResult
from vllm_model_manager.workplace import Workplace

_APPLIED = (
    "Applied to every request that passes through the suite; a value in the request wins, and max_tokens is also an "
    "upper bound. Programs that talk to the engine directly are not affected."
)


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("set-model-config", title="Set request defaults", annotations=WRITE)
    async def set_model_config(
        ctx: ToolContext,
        model_id: p.LoadedName,
        max_tokens: Annotated[
            int | None, Field(ge=1, le=10_000_000, description="Default and upper bound of an answer, tokens")
        ] = None,
        temperature: Annotated[float | None, Field(ge=0, le=2, description="0: greedy")] = None,
        top_p: Annotated[float | None, Field(gt=0, le=1, description="Nucleus sampling, share")] = None,
        top_k: Annotated[int | None, Field(ge=-1, le=1_000_000, description="Likeliest tokens; -1 or 0: all")] = None,
        min_p: Annotated[float | None, Field(ge=0, le=1, description="Least share of the likeliest token")] = None,
        repetition_penalty: Annotated[float | None, Field(gt=0, le=10, description="Above 1: repeat less")] = None,
        stop: Annotated[
            list[Annotated[str, Field(min_length=1, max_length=200)]] | None,
            Field(max_length=16, description="Texts at which an answer ends; []: none"),
        ] = None,
        system_prompt: Annotated[
            str | None, Field(max_length=200_000, description="System message of chats that have none; empty: none")
        ] = None,
        reset: Annotated[bool, Field(description="Forget all earlier values first")] = False,
    ) -> ConfigResult:
        """Set defaults for all requests to a model. Values not given stay as they were; reset=true forgets them."""
        given = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "stop": stop,
            "system_prompt": system_prompt,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        result = await configure(work, model_id, changes, reset=reset)
        await notify_resource_updated(ctx, f"model://{result.model_id}/config")
        return result


async def configure(work: Workplace, model_id: str, changes: dict[str, Any], *, reset: bool) -> ConfigResult:
    """Merge `changes` into the stored defaults and keep them. Raises BadInput, ModelNotFound."""
    if not changes and not reset:
        raise BadInput(
            "set-model-config was called without anything to set.",
            parameter="max_tokens",
            suggestion="give at least one value, or reset=true; get-model-info shows the present ones",
        )
    state = await work.state()
    view = live_engine(state, model_id)
    key = view.model_id if view is not None else model_id
    if view is None and key not in state.model_configs and not (reset and not changes):
        await _require_known(work, state, key)
    config = merged(None if reset else state.model_configs.get(key), changes)
    await work.hub.set_model_config(key, config)
    shown = shown_config(config)
    return ConfigResult(model_id=key, updated_config=shown, note=_APPLIED if shown else "No defaults are set.")


def merged(stored: ModelConfig | None, changes: dict[str, Any]) -> ModelConfig | None:
    """`stored` with `changes`; empty texts and lists take a value away. None: nothing is left."""
    values = {} if stored is None else stored.model_dump(exclude_none=True)
    values |= changes
    kept = {name: value for name, value in values.items() if value not in ("", [], ())}
    return ModelConfig.model_validate(kept) if kept else None


async def _require_known(work: Workplace, state: HubState, model_id: str) -> None:
    """A misspelt name would keep defaults that nothing ever uses."""
    if await work.find(model_id) is None:
        names = [facts.model_id for facts in (await work.scan()).models]
        raise not_in_cache(work, model_id, None, [*names, *loaded_names(state)], why="no engine serves it")
