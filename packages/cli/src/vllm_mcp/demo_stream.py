"""The demo's streamed answer: straight from the engine, printed as it arrives, and counted."""

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio

from vllm_mcp.story import Story
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
        tally = Tally(anyio.current_time())
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
                        words.write(tally.add(chunk, anyio.current_time()))
        facts |= tally.facts()
        story.say(f"{counts(tally.usage, tally.ttft_ms, tally.tokens_per_second)}, {tally.pieces} pieces")
    return tally.facts()


def thinks(model_id: str) -> bool:
    """Qwen3 thinks aloud first, which would use up the few tokens of the demo."""
    return "qwen3" in model_id.lower()


@dataclass
class Tally:
    """What a streamed answer amounts to."""

    began_s: float
    first_s: float | None = None
    last_s: float = 0.0
    pieces: int = 0
    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    def add(self, chunk: Mapping[str, Any], now_s: float) -> str:
        """Take one chunk of the stream; the text in it."""
        self.usage = chunk.get("usage") or self.usage
        piece = "".join((choice["delta"].get("content") or "") for choice in chunk.get("choices", ()))
        if piece:
            self.pieces += 1
            self.text += piece
            self.first_s = now_s if self.first_s is None else self.first_s
            self.last_s = now_s
        return piece

    @property
    def ttft_ms(self) -> float | None:
        """Time to the first piece, ms."""
        return None if self.first_s is None else (self.first_s - self.began_s) * 1000

    @property
    def tokens_per_second(self) -> float | None:
        """Of the whole answer, the wait for its first token included; None when there was no token.

        Not from the first token on: a busy machine hands over many tokens in one burst, and their distance is
        then the network's and not the engine's (seen: 17,000 tokens/s on two cores).
        """
        tokens = self.usage.get("completion_tokens") or 0
        took_s = self.last_s - self.began_s
        return tokens / took_s if tokens and took_s > 0 else None

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "text": self.text,
            "pieces": self.pieces,
            "prompt_tokens": self.usage.get("prompt_tokens"),
            "completion_tokens": self.usage.get("completion_tokens"),
            "ttft_ms": self.ttft_ms,
            "tokens_per_second": self.tokens_per_second,
        }


def counts(usage: Mapping[str, Any], ttft_ms: float | None, tokens_per_second: float | None) -> str:
    """Token counts and speed, in words."""
    parts = [f"{usage.get('prompt_tokens')} tokens in, {usage.get('completion_tokens')} out"]
    if ttft_ms is not None:
        parts.append(f"first after {ttft_ms:.0f} ms")
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:.0f} tokens/s")
    return ", ".join(parts)
