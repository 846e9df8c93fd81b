"""Send a restored conversation once through its engine, so that the next turn finds it in the prefix cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import EngineRequestFailed, SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineStatus, EngineView, HubState, JsonObject
from vllm_mcp_protocol.request_defaults import apply_model_config

_MOST_BYTES_PER_TOKEN = 64
"""Text has about 4. What has more than this for each token of the window is too long in any tokenizer, and is not
even sent; of the rest the engine itself says whether it fits."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """Whether the engine has read the conversation."""

    status: Literal["warm", "skipped"]
    reason: str
    model: str
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Of these, tokens that were in the cache already; None: the engine does not say."""
    seconds: float = 0.0


async def warm(
    hub: Hub,
    model: str,
    messages: Sequence[JsonObject],
    *,
    timeout_s: float,
    more: Mapping[str, Any] | None = None,
) -> Warmed:
    """Have `model` read `messages` (chat format) and write one token.

    `more` are the fields that the client's own requests carry before the messages in the prompt: `tools`,
    `chat_template_kwargs`. The model's request defaults apply, since the next turn has them too. Nothing is cut: a
    conversation that is longer than the context window is skipped, and so is everything that fails, with the reason.
    """
    began_s = anyio.current_time()
    try:
        state = await hub.state()
        why_not = _why_not(state, model, messages)
        if why_not:
            return Warmed("skipped", why_not, model)
        answer = await _ask(hub, state, model, {**(more or {}), "messages": list(messages)}, timeout_s)
    except EngineRequestFailed as error:
        words = str(error.info.details.get("words") or error.info.message)
        return Warmed("skipped", f"the engine did not read it: {words}", model)
    except SuiteError as error:
        return Warmed("skipped", error.info.message, model)
    return _warmed(model, answer, round(anyio.current_time() - began_s, 3))


def _why_not(state: HubState, model: str, messages: Sequence[JsonObject]) -> str:
    """What can be said without asking the engine; empty when nothing speaks against it."""
    view = state.serving(model)
    if view is None or view.status is EngineStatus.STOPPED:
        return f"{model} is not loaded"
    if view.status is not EngineStatus.READY:
        return f"{model} is {view.status}"  # asking a sleeping one would wake it
    if view.options.enable_prefix_caching is False:
        return f"{view.id} was loaded with enable_prefix_caching=false: there is nothing to warm"
    if not messages:
        return "the conversation has no messages"
    window, size = _window_tokens(view), sum(len(str(message.get("content") or "")) for message in messages)
    if window is not None and size > window * _MOST_BYTES_PER_TOKEN:
        return f"the conversation is too long: {size:,} characters, and the context window has {window:,} tokens"
    return ""


def _window_tokens(view: EngineView) -> int | None:
    known = view.facts.context_window if view.facts is not None else None
    return view.start_facts.max_model_len or view.options.max_model_len or known


async def _ask(hub: Hub, state: HubState, model: str, request: JsonObject, timeout_s: float) -> JsonObject:
    view = state.serving(model)
    config = state.model_configs.get(view.model_id if view is not None else model)
    payload = apply_model_config(config, {**request, "temperature": 0}) | {"max_tokens": 1}
    async with hub.lease(model) as endpoint, EngineHttp(endpoint, timeout_s=timeout_s) as http:
        return await http.chat({**payload, "model": endpoint.served_name})


def _warmed(model: str, answer: JsonObject, seconds: float) -> Warmed:
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Warmed(
        "warm",
        "the next turn finds the conversation in the prefix cache",
        model,
        prompt_tokens=_whole(usage.get("prompt_tokens")),
        cached_tokens=_whole(cached),
        seconds=seconds,
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
