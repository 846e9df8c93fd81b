"""A streamed answer, put together and measured from the chunks of vLLM's OpenAI routes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_mcp_protocol.model import JsonObject


@dataclass
class Answer:
    """A streamed answer as far as it came. Feed it every chunk with the time at which it arrived."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: dict[int, JsonObject] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    first_s: float | None = None
    last_s: float | None = None
    pieces: int = 0

    def add(self, chunk: Mapping[str, Any], now_s: float) -> str:
        """Take in one chunk of either route; the text that it adds, without reasoning."""
        known = len(self.text)
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if self._content(choice):
                self.first_s = now_s if self.first_s is None else self.first_s
                self.last_s = now_s
                self.pieces += 1
        return "".join(self.text[known:])

    def _content(self, choice: Mapping[str, Any]) -> bool:
        delta = choice.get("delta") or {}
        text = delta.get("content") or choice.get("text") or ""
        # vLLM 0.32 says `reasoning`; servers attached by address may be older.
        reasoning = delta.get("reasoning") or delta.get("reasoning_content") or ""
        calls = delta.get("tool_calls") or ()
        self.text += [text] if text else []
        self.reasoning += [reasoning] if reasoning else []
        for call in calls:
            self._tool_call(call)
        return bool(text or reasoning or calls)

    def _tool_call(self, piece: Mapping[str, Any]) -> None:
        call = self.tool_calls.setdefault(
            int(piece.get("index") or 0), {"id": None, "type": "function", "name": "", "arguments": ""}
        )
        function = piece.get("function") or {}
        call["id"] = piece.get("id") or call["id"]
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""

    @property
    def completion_tokens(self) -> int:
        """As the engine counts them; before it said so, pieces of the stream."""
        return int(self.usage.get("completion_tokens") or self.pieces)

    def ttft_ms(self, started_s: float) -> float | None:
        """Time from the request at `started_s` to the first piece, ms; None when nothing came."""
        return None if self.first_s is None else round((self.first_s - started_s) * 1000, 2)

    def tokens_per_second(self, started_s: float) -> float | None:
        """Of the whole answer since the request at `started_s`; None when nothing came.

        Not from the first token on: a busy machine hands over many tokens in one burst, and their distance is then
        the network's and not the engine's (seen: 17,000 tokens/s on two cores).
        """
        if self.last_s is None or self.last_s <= started_s:
            return None
        return round(self.completion_tokens / (self.last_s - started_s), 2)
