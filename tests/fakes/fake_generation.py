"""Answers of the fake vLLM to generation requests, in the recorded shapes. No IO."""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
FINGERPRINT = "vllm-0.32.0-fake0000"
WORDS = (" engine", " reads", " a", " request", " and", " writes", " tokens", " back")


class Refused(Exception):
    """An error answer: status and body."""

    def __init__(self, status: int, message: str, kind: str, param: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, kind, param)


def error_body(status: int, message: str, kind: str, param: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True)
class Rules:
    """What the server was started with, as far as answers depend on it."""

    models: tuple[str, ...]
    max_model_len: int
    answer_tokens: int
    prompt_details: bool
    """--enable-prompt-tokens-details"""
    force_usage: bool
    """--enable-force-include-usage"""


@dataclass(frozen=True)
class Generation:
    """One accepted request."""

    chat: bool
    model: str
    prompt_tokens: int
    tokens: tuple[str, ...]
    finish: str
    stream: bool
    final_usage: bool
    each_usage: bool
    details: bool
    id: str
    created: int


def accept(body: Mapping[str, Any], chat: bool, rules: Rules) -> Generation:
    """Check a request as vLLM does. Raises Refused."""
    field = "messages" if chat else "prompt"
    if field not in body:
        raise _missing(field, len(body))
    _check(body, rules)
    prompt = _prompt_tokens(body[field])
    if prompt > rules.max_model_len:
        raise _too_long(_prompt_text(body[field]), rules.max_model_len)
    tokens, finish = _tokens(body, rules, prompt)
    options = body.get("stream_options") or {}
    stream = body.get("stream") is True
    prefix = "chatcmpl-" if chat else "cmpl-"
    return Generation(
        chat=chat,
        model=str(body.get("model") or rules.models[0]),
        prompt_tokens=prompt,
        tokens=tokens,
        finish=finish,
        stream=stream,
        final_usage=rules.force_usage or bool(options.get("include_usage")),
        each_usage=rules.force_usage or bool(options.get("continuous_usage_stats")),
        details=rules.prompt_details,
        id=prefix + uuid.uuid4().hex[:16],
        created=int(time.time()),
    )


def _missing(field: str, fields: int) -> Refused:
    problem = {"type": "missing", "loc": f"body.{field}", "msg": "Field required"}
    problem["input"] = f"<dict of {fields} items>"
    return Refused(400, f"1 validation error:\n  {problem}", "Bad Request", f"body.{field}")


def _check(body: Mapping[str, Any], rules: Rules) -> None:
    name = body.get("model")
    if name is not None and name not in rules.models:
        aliases = ", ".join(rules.models)
        message = f"The model `{name}` does not exist. Valid aliases: {aliases}."
        raise Refused(404, message, "NotFoundError", "model")
    temperature = body.get("temperature")
    if isinstance(temperature, int | float) and temperature < 0:
        value = float(temperature)
        message = f"temperature must be non-negative, got {value}. (parameter=temperature, value={value})"
        raise Refused(400, message, "BadRequestError", "temperature")
    budget = _budget(body)
    if budget is not None and budget > rules.max_model_len:
        message = (
            f"max_tokens={budget} cannot be greater than max_model_len={rules.max_model_len}. Please request "
            f"fewer output tokens. (parameter=max_tokens, value={budget})"
        )
        raise Refused(400, message, "BadRequestError", "max_tokens")


def _too_long(text: str, max_model_len: int) -> Refused:
    message = (
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
        f"{len(text)} characters (more than {13 * max_model_len} characters, which is the upper bound for "
        f"{max_model_len} input tokens). Please reduce the length of the input prompt. "
        f"(parameter=input_text, value={len(text)})"
    )
    return Refused(400, message, "BadRequestError", "input_text")


def _budget(body: Mapping[str, Any]) -> int | None:
    value = body.get("max_completion_tokens", body.get("max_tokens"))
    return value if isinstance(value, int) else None


def _tokens(body: Mapping[str, Any], rules: Rules, prompt: int) -> tuple[tuple[str, ...], str]:
    budget = _budget(body)
    room = max(1, rules.max_model_len - prompt)
    wanted = min(room if budget is None else budget, room)
    natural = wanted if body.get("ignore_eos") else rules.answer_tokens
    count = min(wanted, natural)
    tokens = tuple(WORDS[number % len(WORDS)] for number in range(count))
    return tokens, "length" if wanted <= natural else "stop"


def count_tokens(value: Any) -> int:
    """Tokens of a prompt or of messages: words, and a few for each message's frame."""
    return _prompt_tokens(value)


def _prompt_tokens(value: Any) -> int:
    if isinstance(value, list) and value and isinstance(value[0], int):
        return len(value)
    return max(1, len(_prompt_text(value).split())) + (4 * len(value) if isinstance(value, list) else 0)


def _prompt_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_prompt_text(item) for item in value)
    if isinstance(value, dict):
        return _prompt_text(value.get("content", value.get("text", "")))
    return value if isinstance(value, str) else ""


def whole_answer(made: Generation) -> Json:
    """The answer without streaming."""
    common: Json = {"index": 0, "logprobs": None, "finish_reason": made.finish, "stop_reason": None}
    common |= {"token_ids": None, "routed_experts": None}
    text = "".join(made.tokens)
    if made.chat:
        names = ("refusal", "annotations", "audio", "function_call", "reasoning")
        common["message"] = {"role": "assistant", "content": text} | dict.fromkeys(names)
    else:
        common |= {"text": text, "prompt_logprobs": None, "prompt_token_ids": None}
    extra = ("prompt_logprobs", "prompt_token_ids", "prompt_text") if made.chat else ()
    return {
        "id": made.id,
        "object": "chat.completion" if made.chat else "text_completion",
        "created": made.created,
        "model": made.model,
        "choices": [common],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": _usage(made, len(made.tokens))
        | {"prompt_tokens_details": _details(made, whole=True), "completion_tokens_details": None},
    } | dict.fromkeys((*extra, "kv_transfer_params", "ec_transfer_params", "metrics"))


def _usage(made: Generation, done: int) -> Json:
    total = made.prompt_tokens + done
    return {"prompt_tokens": made.prompt_tokens, "total_tokens": total, "completion_tokens": done}


def _details(made: Generation, *, whole: bool) -> Json | None:
    if not made.details:
        return None
    created = {"created_cache_tokens": 0} if made.chat or whole else {}
    return {"cached_tokens": 0} | created | ({"multimodal_tokens": None} if whole else {})


def chunks(made: Generation) -> Iterator[Json]:
    """The events of a streamed answer, without the closing `[DONE]`."""
    if made.chat:
        role = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        yield _chunk(made, role, 0) | {"prompt_token_ids": None, "prompt_text": None}
    for number, token in enumerate(made.tokens, 1):
        yield token_chunk(made, token, number, made.finish if number == len(made.tokens) else None)
    if made.final_usage:
        yield usage_chunk(made, len(made.tokens))


def token_chunk(made: Generation, token: str, number: int, finish: str | None) -> Json:
    choice: Json = {"delta": {"content": token}} if made.chat else {"text": token}
    choice |= {"logprobs": None, "finish_reason": finish, "token_ids": None}
    if finish or not made.chat:
        choice["stop_reason"] = None
    if not made.chat:
        choice["prompt_token_ids"] = None
    last = {"system_fingerprint": FINGERPRINT} if finish and not made.final_usage else {}
    return _chunk(made, choice, number) | last


def usage_chunk(made: Generation, done: int) -> Json:
    details = _details(made, whole=False)
    usage = _usage(made, done) | ({"prompt_tokens_details": details} if details else {})
    return _head(made) | {"choices": [], "usage": usage, "system_fingerprint": FINGERPRINT}


def _head(made: Generation) -> Json:
    kind = "chat.completion.chunk" if made.chat else "text_completion"
    return {"id": made.id, "object": kind, "created": made.created, "model": made.model}


def _chunk(made: Generation, choice: Json, done: int) -> Json:
    chunk = _head(made) | {"choices": [{"index": 0} | choice]}
    if made.each_usage:
        chunk["usage"] = _usage(made, done) | ({"completion_tokens_details": None} if made.chat else {})
    return chunk
