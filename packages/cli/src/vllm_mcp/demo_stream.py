"""The demo's streamed answer: straight from the engine, printed as it arrives, and counted."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import anyio

from vllm_mcp.story import Story
from vllm_mcp_protocol.answers import Answer
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.hub_client import Hub

MAX_TOKENS = 64
_QUESTION = "Write two lines about a small boat and the sea."
_LIMIT_S = 300.0


async def stream_answer(story: Story, hub: Hub, model_id: str, *, endless: bool) -> dict[str, Any]:
    """One answer straight from the engine, token by token: the hub lends it, and counts it as busy meanwhile.

    `endless`: random weights end at random, often after three tokens; go on to MAX_TOKENS instead.
    """
    with story.step("Stream an answer from the engine itself") as facts:
        story.say(f"> {_QUESTION}", style="dim")
        answer, started_s = Answer(), anyio.current_time()
        async with hub.lease(model_id) as endpoint, EngineHttp(endpoint, timeout_s=_LIMIT_S) as http:
            request = {
                "model": endpoint.served_name,
                "messages": [{"role": "user", "content": _QUESTION}],
                "max_tokens": MAX_TOKENS,
                "ignore_eos": endless,
                "chat_template_kwargs": {"enable_thinking": False} if thinks(model_id) else {},
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            with story.words() as words:
                async with aclosing(http.stream_chat(request)) as chunks:
                    async for chunk in chunks:
                        words.write(answer.add(chunk, anyio.current_time()))
        told = _facts(answer, started_s)
        facts |= told
        story.say(f"{counts(answer.usage, told['ttft_ms'], told['tokens_per_second'])}, {answer.pieces} pieces")
    return told


def thinks(model_id: str) -> bool:
    """Qwen3 thinks aloud first, which would use up the few tokens of the demo."""
    return "qwen3" in model_id.lower()


def _facts(answer: Answer, started_s: float) -> dict[str, Any]:
    """For programs."""
    return {
        "text": "".join(answer.text),
        "pieces": answer.pieces,
        "prompt_tokens": answer.usage.get("prompt_tokens"),
        "completion_tokens": answer.usage.get("completion_tokens"),
        "ttft_ms": answer.ttft_ms(started_s),
        "tokens_per_second": answer.tokens_per_second(started_s),
    }


def counts(usage: Mapping[str, Any], ttft_ms: float | None, tokens_per_second: float | None) -> str:
    """Token counts and speed, in words."""
    parts = [f"{usage.get('prompt_tokens')} tokens in, {usage.get('completion_tokens')} out"]
    if ttft_ms is not None:
        parts.append(f"first after {ttft_ms:.0f} ms")
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:.0f} tokens/s")
    return ", ".join(parts)
