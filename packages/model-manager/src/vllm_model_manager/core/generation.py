"""A generation request, built from the tool's parameters, and the limits of its answer. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.model import JsonObject

TEXT_LIMIT_BYTES = 12_000
"""Text, reasoning and tool calls together, of the 20 KB that a result may have (JSON escapes cost some)."""

_DEFAULT_TOKENS = 1024
"""An answer's limit when nobody set one: without it a model may fill its whole context window."""

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Wish:
    """What the caller wants; None is "not said"."""

    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


def check_wish(wish: Wish) -> None:
    """Raises BadInput unless there is exactly one of prompt and messages, and messages and tools have their shape."""
    if (wish.prompt is None) == (wish.messages is None):
        given = "both" if wish.prompt is not None else "neither"
        raise BadInput(
            f"Give exactly one of prompt and messages; {given} was given.",
            parameter="prompt",
            allowed="prompt or messages",
            suggestion="call again with prompt only, or with messages only",
        )
    for index, message in enumerate(wish.messages or ()):
        if message.get("role") not in _ROLES:
            raise _bad_item(f"messages[{index}].role", message.get("role"), "one of " + ", ".join(_ROLES))
    for index, tool in enumerate(wish.tools or ()):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, Mapping) or not function.get("name"):
            raise _bad_item(f"tools[{index}]", tool, '{"type": "function", "function": {"name": …, "parameters": …}}')
    if wish.messages is not None and not wish.messages:
        raise _bad_item("messages", [], "at least one message")


def build_request(wish: Wish, served_name: str, *, chat: bool) -> JsonObject:
    """The body for /v1/chat/completions (`chat`) or /v1/completions, streamed, with usage at the end.

    Raises BadInput for messages or tools where the model has no chat template.
    """
    request: JsonObject = {"model": served_name}
    if chat:
        given = wish.messages
        request["messages"] = (
            [dict(m) for m in given] if given is not None else [{"role": "user", "content": wish.prompt}]
        )
    elif wish.prompt is None or wish.tools:
        raise BadInput(
            f"{served_name} has no chat template: messages and tools need one.",
            parameter="messages" if wish.prompt is None else "tools",
            allowed="prompt",
            suggestion="call again with prompt alone, or use a chat model",
        )
    else:
        request["prompt"] = wish.prompt
    if wish.tools:
        request["tools"] = [dict(tool) for tool in wish.tools]
    request |= {name: value for name, value in wish.sampling.items() if value is not None}
    return request | {"stream": True, "stream_options": {"include_usage": True}}


def with_output_limit(request: Mapping[str, Any], window: int | None, *, asked: bool) -> JsonObject:
    """`request` with a limit on its answer if it has none: half the context window, at most 1,024 tokens.

    A limit that the caller did not ask for (`asked`) is a default, and a default must not make vLLM refuse: it
    answers 400 to a limit above the context window.
    """
    limit = request.get("max_tokens")
    if limit is None:
        limit = min(_DEFAULT_TOKENS, max(1, window // 2)) if window else _DEFAULT_TOKENS
    elif not asked and window:
        limit = min(limit, max(1, window - 1))
    return {**request, "max_tokens": limit}


def cut_text(text: str, limit_bytes: int) -> tuple[str, bool]:
    """`text` within `limit_bytes` of UTF-8, at a character's boundary, and whether something was cut."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return text, False
    return encoded[: max(0, limit_bytes)].decode("utf-8", "ignore"), True


def _bad_item(parameter: str, value: Any, allowed: str) -> BadInput:
    return BadInput(
        f"{parameter}={str(value)[:200]!r} cannot be used: it must be {allowed}.",
        parameter=parameter,
        value=str(value)[:200],
        allowed=allowed,
        suggestion=f"call again with {parameter.partition('[')[0]} corrected",
    )
