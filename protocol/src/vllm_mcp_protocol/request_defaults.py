"""Request defaults of a model, applied to one request in vLLM's field names. Pure.

Everything that sends requests for other people applies these: `generate-text` now, the gateway later.
"""

from collections.abc import Mapping
from typing import Any

from vllm_mcp_protocol.model import JsonObject, ModelConfig

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens")
"""OpenAI renamed the first to the second; vLLM reads both."""

_SYSTEM_ROLES = ("system", "developer")


def apply_model_config(config: ModelConfig | None, request: Mapping[str, Any]) -> JsonObject:
    """`request` (the body of a completion or chat completion) with `config`'s values where it has none of its own.

    `max_tokens` is a default and an upper bound. `system_prompt` becomes the first message of a chat without a
    system message; a plain completion has no place for it. A field that is null counts as absent. The request given
    is not changed.
    """
    payload = dict(request)
    if config is None:
        return payload
    for name in _SAMPLING:
        _fill(payload, name, getattr(config, name))
    _fill(payload, "stop", None if config.stop is None else list(config.stop))
    _limit_output(payload, config.max_tokens)
    _insert_system_prompt(payload, config.system_prompt)
    return payload


def _fill(payload: JsonObject, name: str, value: Any) -> None:
    if value is not None and payload.get(name) is None:
        payload[name] = value


def _limit_output(payload: JsonObject, limit_tokens: int | None) -> None:
    if limit_tokens is None:
        return
    given = [name for name in _OUTPUT_LIMITS if payload.get(name) is not None]
    for name in given:
        if _is_number(payload[name]):  # anything else is for the engine to refuse
            payload[name] = min(payload[name], limit_tokens)
    if not given:
        payload["max_tokens"] = limit_tokens


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _insert_system_prompt(payload: JsonObject, text: str | None) -> None:
    messages = payload.get("messages")
    if text is None or not isinstance(messages, list):
        return
    if not any(isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES for message in messages):
        payload["messages"] = [{"role": "system", "content": text}, *messages]
