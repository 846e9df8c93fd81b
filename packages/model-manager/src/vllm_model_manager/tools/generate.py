"""generate-text."""

from contextlib import aclosing
from typing import Annotated, Any

import anyio
from pydantic import Field

from vllm_mcp_protocol.answers import Answer
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import EngineRequestFailed, NotSupported, ToolNotAllowed
from vllm_mcp_protocol.model import EngineStatus, EngineView, HubState, JsonObject
from vllm_mcp_protocol.request_defaults import apply_model_config
from vllm_mcp_protocol.serving.context import Progress
from vllm_mcp_protocol.serving.server import READ, SuiteServer, ToolContext
from vllm_model_manager.core.finding import only_engine, require_engine
from vllm_model_manager.core.generation import (
    TEXT_LIMIT_BYTES,
    Wish,
    build_request,
    check_wish,
    cut_text,
    with_output_limit,
)
from vllm_model_manager.core.rows import context_window, generates
from vllm_model_manager.results import GenerateResult, ToolCall, Usage
from vllm_model_manager.workplace import Workplace

_REPORT_EVERY_S = 0.5


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("generate-text", title="Ask a model", annotations=READ)
    async def generate_text(
        ctx: ToolContext,
        prompt: Annotated[str | None, Field(min_length=1, max_length=4_000_000, description="One user message")] = None,
        messages: Annotated[
            list[dict[str, Any]] | None,
            Field(max_length=2000, description='Chat instead of prompt: [{"role": "user", "content": "…"}, …]'),
        ] = None,
        model_id: Annotated[
            str | None,
            Field(min_length=1, max_length=400, description="Model or adapter (default: the only loaded one)"),
        ] = None,
        max_tokens: Annotated[int | None, Field(ge=1, le=10_000_000, description="Longest answer, tokens")] = None,
        temperature: Annotated[float | None, Field(ge=0, le=2, description="0: greedy")] = None,
        top_p: Annotated[float | None, Field(gt=0, le=1, description="Nucleus sampling, share")] = None,
        stop: Annotated[
            list[Annotated[str, Field(min_length=1, max_length=200)]] | None,
            Field(max_length=16, description="Texts at which the answer ends"),
        ] = None,
        seed: Annotated[int | None, Field(ge=0, le=2**63 - 1, description="Makes sampling repeatable")] = None,
        tools: Annotated[
            list[dict[str, Any]] | None,
            Field(max_length=128, description="Functions the model may call, in OpenAI's form"),
        ] = None,
    ) -> GenerateResult:
        """Ask a loaded model and measure it. Give prompt or messages. A sleeping model is woken (not by a read-only
        server); nothing is loaded.
        """
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "stop": stop, "seed": seed}
        wish = Wish(prompt, messages, tools, sampling)
        check_wish(wish)
        state = await work.state()
        view = only_engine(state) if model_id is None else require_engine(state, model_id)
        _require_awake(work, view)
        return await generate(work, ctx, state, view, model_id or view.served_name, wish)


def _require_awake(work: Workplace, view: EngineView) -> None:
    """Raises ToolNotAllowed when a read-only server would change something by asking: a question wakes a sleeper."""
    if not work.settings.vllm_mcp_read_only or view.status is EngineStatus.READY:
        return
    raise ToolNotAllowed(
        f"{view.model_id} ({view.id}) is {view.status}, and VLLM_MCP_READ_ONLY=true: only a model that is ready is "
        "asked here, because a question would wake one that sleeps.",
        engine_id=view.id,
        setting="VLLM_MCP_READ_ONLY",
        value="true",
        suggestion="ask a model that list-models shows as loaded, or have the user wake this one",
    )


async def generate(
    work: Workplace, ctx: ToolContext, state: HubState, view: EngineView, name: str, wish: Wish
) -> GenerateResult:
    """Ask `name`, which the engine of `view` serves. Raises NotSupported, BadInput, EngineRequestFailed."""
    if generates(view.facts) is False:
        raise NotSupported(
            f"{view.model_id} does not generate text; it makes embeddings or scores.",
            engine_id=view.id,
            suggestion="use a generating model; list-models shows the capabilities",
        )
    chat = view.facts is None or view.facts.has_chat_template
    retries = work.settings.vllm_max_retries
    async with (
        work.hub.lease(name) as endpoint,
        EngineHttp(endpoint, timeout_s=work.timeout_s, retries=retries) as http,
    ):
        request = build_request(wish, endpoint.served_name, chat=chat)
        config = state.model_configs.get(name) or state.model_configs.get(view.model_id)
        asked = wish.sampling.get("max_tokens") is not None
        request = with_output_limit(apply_model_config(config, request), context_window(view), asked=asked)
        started_s = anyio.current_time()
        try:
            answer = await _collect(http, request, ctx)
        except EngineRequestFailed as error:
            raise _with_next_step(error, view) from error
    return _result(endpoint.served_name, answer, started_s)


def _with_next_step(error: EngineRequestFailed, view: EngineView) -> EngineRequestFailed:
    """The engine says what is wrong, not always what to do."""
    info = error.info
    if info.suggestion:
        return error
    own_fault = str(info.details.get("status", "")).startswith("4")
    suggestion = (
        "change the request as the engine's words say"
        if own_fault
        else f"get-model-logs {view.model_id} with level=error shows the cause"
    )
    return error.with_details(engine_id=view.id, suggestion=suggestion)


async def _collect(http: EngineHttp, request: JsonObject, ctx: ToolContext) -> Answer:
    """Read the stream to its end, reporting tokens as they come."""
    answer, progress = Answer(), Progress(ctx)
    total = float(request["max_tokens"])
    reported_s = anyio.current_time()
    stream = http.stream_chat if "messages" in request else http.stream_completion
    async with aclosing(stream(request)) as chunks:
        async for chunk in chunks:
            now_s = anyio.current_time()
            answer.add(chunk, now_s)
            if now_s - reported_s >= _REPORT_EVERY_S:
                reported_s = now_s
                await progress(answer.pieces, max(total, answer.pieces), f"{answer.pieces} tokens")
    return answer


def _result(name: str, answer: Answer, started_s: float) -> GenerateResult:
    text, cut = cut_text("".join(answer.text), TEXT_LIMIT_BYTES)
    left = TEXT_LIMIT_BYTES - len(text.encode())
    calls = [ToolCall(id=c["id"], name=c["name"], arguments=c["arguments"]) for c in answer.tool_calls.values()]
    kept = _fitting(calls, left)
    left -= sum(len(call.arguments.encode()) for call in kept)
    reasoning, reasoning_cut = cut_text("".join(answer.reasoning), left)
    return GenerateResult(
        model_id=name,
        text=text,
        reasoning=reasoning or None,
        tool_calls=kept,
        finish_reason=answer.finish_reason,
        usage=Usage(**{field: answer.usage.get(field) for field in Usage.model_fields}),
        ttft_ms=answer.ttft_ms(started_s),
        tokens_per_second=answer.tokens_per_second(started_s),
        truncated=cut or reasoning_cut or len(kept) < len(calls),
    )


def _fitting(calls: list[ToolCall], limit_bytes: int) -> list[ToolCall]:
    """Whole tool calls only: half of a JSON argument is worse than none."""
    kept: list[ToolCall] = []
    for call in calls:
        limit_bytes -= len(call.arguments.encode()) + len(call.name.encode())
        if limit_bytes < 0:
            break
        kept.append(call)
    return kept
