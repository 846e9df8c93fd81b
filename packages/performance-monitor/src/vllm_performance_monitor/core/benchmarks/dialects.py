"""What each kind of server is asked, and what its stream says. Only counts and times are wanted; no text is kept."""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from vllm_mcp_protocol.model import JsonObject
from vllm_performance_monitor.core.benchmarks.outcomes import Failure
from vllm_performance_monitor.core.benchmarks.workload import Question

Api = Literal["chat", "completions", "anthropic"]


class NotAnAnswer(Exception):
    """An event that this kind of server does not send."""


class StreamError(Exception):
    """The server reported an error in its stream."""

    def __init__(self, failure: Failure, words: str) -> None:
        super().__init__(words)
        self.failure, self.words = failure, words


@dataclass(slots=True)
class Reading:
    """One stream as far as it came."""

    pieces: int = 0
    finish: str | None = None
    closed: bool = False
    """The server said that nothing more comes."""
    input_tokens: int | None = None
    output_tokens: int | None = None


Event = Literal["piece", "end", "other"]
"""A piece of the answer; the end of it, which vLLM may send in a piece of its own; or anything else."""


class Dialect(Protocol):
    """One kind of API."""

    path: str

    def headers(self, key: str) -> dict[str, str]: ...

    def body(self, model: str, question: Question, without: Collection[str]) -> JsonObject:
        """The request; the fields in `without` are those that this server does not know."""
        ...

    def read(self, data: str, into: Reading) -> Event:
        """Take in the data of one event. Raises NotAnAnswer or StreamError."""
        ...


OPTIONAL = ("ignore_eos", "stream_options", "temperature")
"""What not every server knows. One that refuses a request and names one of these is asked again without it."""

LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
"""OpenAI's newer models know only the second, other servers only the first."""


def unknown_field(words: str, sent: Collection[str]) -> str | None:
    """The field that a server's refusal names and that can be left out, or renamed."""
    if LIMIT in sent and NEW_LIMIT in words:
        return LIMIT
    return next((name for name in OPTIONAL if name in sent and name in words), None)


class _OpenAI(ABC):
    """What chat and completions share."""

    path = ""

    def headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"} if key else {}

    def _options(self, question: Question, without: Collection[str]) -> JsonObject:
        limit = NEW_LIMIT if LIMIT in without else LIMIT
        options = {"ignore_eos": True, "stream_options": {"include_usage": True}, "temperature": 0}
        kept = {name: value for name, value in options.items() if name not in without}
        return {limit: question.output_tokens, "stream": True, **kept}

    def read(self, data: str, into: Reading) -> Event:
        if data.strip() == "[DONE]":
            into.closed = True
            return "other"
        chunk = _object(data)
        if chunk.get("error"):
            raise _stream_error(chunk["error"])
        if usage := chunk.get("usage"):
            into.input_tokens = _count(usage, "prompt_tokens", into.input_tokens)
            into.output_tokens = _count(usage, "completion_tokens", into.output_tokens)
        event: Event = "other"
        for choice in _list(chunk, "choices"):
            if finish := choice.get("finish_reason"):
                into.finish = str(finish)
                event = "end" if event == "other" else event
            if self._generated(choice):
                into.pieces += 1
                event = "piece"
        return event

    @abstractmethod
    def _generated(self, choice: Mapping[str, Any]) -> bool:
        """Whether a piece of the answer is in it."""


class Chat(_OpenAI):
    """OpenAI's chat: vLLM, Ollama (/v1), LM Studio, llama.cpp, OpenAI and most others."""

    path = "/chat/completions"

    def body(self, model: str, question: Question, without: Collection[str]) -> JsonObject:
        messages = [{"role": "user", "content": question.text}]
        return {"model": model, "messages": messages, **self._options(question, without)}

    def _generated(self, choice: Mapping[str, Any]) -> bool:
        delta = _inner(choice, "delta")
        # `reasoning` in today’s vLLM and in Ollama, `reasoning_content` before and elsewhere.
        return any(delta.get(name) for name in ("content", "reasoning", "reasoning_content", "tool_calls"))


class Completions(_OpenAI):
    """OpenAI's completions: no chat template comes before the text."""

    path = "/completions"

    def body(self, model: str, question: Question, without: Collection[str]) -> JsonObject:
        return {"model": model, "prompt": question.text, **self._options(question, without)}

    def _generated(self, choice: Mapping[str, Any]) -> bool:
        return bool(choice.get("text"))


class Anthropic:
    """Anthropic's messages, which vLLM also speaks."""

    path = "/messages"

    def headers(self, key: str) -> dict[str, str]:
        return {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key else {})

    def body(self, model: str, question: Question, without: Collection[str]) -> JsonObject:
        options = {} if "temperature" in without else {"temperature": 0}
        messages = [{"role": "user", "content": question.text}]
        return {"model": model, LIMIT: question.output_tokens, "messages": messages, "stream": True, **options}

    def read(self, data: str, into: Reading) -> Event:
        if data.strip() == "[DONE]":  # vLLM ends this stream, too, as it ends OpenAI's
            into.closed = True
            return "other"
        event = _object(data)
        match event.get("type"):
            case "message_start":
                self._usage(_inner(event, "message").get("usage"), into)
            case "content_block_delta":
                delta = _inner(event, "delta")
                # A signature seals what was thought; it is no token.
                if any(delta.get(name) for name in ("text", "thinking", "partial_json")):
                    into.pieces += 1
                    return "piece"
            case "message_delta":
                self._usage(event.get("usage"), into)
                into.finish = str(_inner(event, "delta").get("stop_reason") or "") or into.finish
                return "end"
            case "message_stop":
                into.closed = True
            case "error":
                raise _stream_error(event.get("error"))
            case None:
                raise NotAnAnswer(f"an event without a type: {data[:80]!r}")
        return "other"

    def _usage(self, usage: Any, into: Reading) -> None:
        if not isinstance(usage, dict):
            return
        cached = ("cache_read_input_tokens", "cache_creation_input_tokens")
        if isinstance(usage.get("input_tokens"), int):
            more = sum(usage[name] for name in cached if isinstance(usage.get(name), int))
            into.input_tokens = max(into.input_tokens or 0, usage["input_tokens"] + more)
        into.output_tokens = _count(usage, "output_tokens", into.output_tokens)


DIALECTS: Mapping[Api, Dialect] = {"chat": Chat(), "completions": Completions(), "anthropic": Anthropic()}

_BY_STATUS = {
    401: Failure.UNAUTHORIZED,
    403: Failure.UNAUTHORIZED,
    404: Failure.NOT_FOUND,
    429: Failure.RATE_LIMITED,
    503: Failure.OVERLOADED,
    529: Failure.OVERLOADED,
}
_BY_KIND = {
    "authentication_error": Failure.UNAUTHORIZED,
    "permission_error": Failure.UNAUTHORIZED,
    "not_found_error": Failure.NOT_FOUND,
    "rate_limit_error": Failure.RATE_LIMITED,
    "rate_limit_exceeded": Failure.RATE_LIMITED,
    "overloaded_error": Failure.OVERLOADED,
}
"""Anthropic's and OpenAI's names of errors that may come within a stream."""


def failure_of_status(status: int) -> Failure:
    """The cause that a status other than 2xx stands for."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return Failure.SERVER_ERROR
    return Failure.REJECTED if status >= 400 else Failure.BAD_ANSWER


def words_of(body: bytes) -> str:
    """What a server says in the body of a refusal: its message where it has one, else the text."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace").strip()
    return _message(value.get("error", value) if isinstance(value, dict) else value)


def _message(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else json.dumps(error)


def _stream_error(error: Any) -> StreamError:
    code = error.get("code") if isinstance(error, dict) else None
    kind = str((error.get("type") if isinstance(error, dict) else None) or code or "")
    if isinstance(code, int) and 400 <= code < 600:
        return StreamError(failure_of_status(code), _message(error))
    return StreamError(_BY_KIND.get(kind, Failure.SERVER_ERROR), _message(error))


def _object(data: str) -> JsonObject:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotAnAnswer(f"an event is no JSON object: {data[:80]!r}")
    return value


def _inner(value: Mapping[str, Any], name: str) -> JsonObject:
    inner = value.get(name) or {}
    if not isinstance(inner, dict):
        raise NotAnAnswer(f"{name} is no object")
    return inner


def _list(chunk: Mapping[str, Any], name: str) -> list[JsonObject]:
    values = chunk.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise NotAnAnswer(f"{name} is no list of objects")
    return values


def _count(usage: Any, name: str, known: int | None) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else known
