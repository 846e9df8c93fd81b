"""What servers send, cut anywhere: events, and what each kind of server says in them."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_performance_monitor.core.benchmarks.dialects import (
    DIALECTS,
    Api,
    Event,
    NotAnAnswer,
    Reading,
    StreamError,
    unknown_field,
    words_of,
)
from vllm_performance_monitor.core.benchmarks.outcomes import Failure
from vllm_performance_monitor.core.benchmarks.sse import MAX_EVENT_BYTES, EventReader, NotAnEventStream
from vllm_performance_monitor.core.benchmarks.workload import Question

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
NOISE = st.sampled_from([": keep-alive", ":", "event: message", "id: 7", "retry: 10", "datax: no", "unknown"])
EVENTS = st.lists(st.tuples(st.lists(LINE, min_size=1, max_size=3), st.lists(NOISE, max_size=2)), max_size=5)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


@given(EVENTS, ENDS, st.booleans(), st.lists(st.integers(0, 400), max_size=8))
def test_events_come_out_as_they_were_put_in(
    events: list[tuple[list[str], list[str]]], end: str, spaced: bool, places: list[int]
) -> None:
    """Wherever the bytes are cut: comments, other fields, several lines and every kind of line end."""
    colon = ": " if spaced else ":"
    lines: list[str] = []
    expected: list[str] = []
    for data, noise in events:
        shown = [line if spaced or not line.startswith(" ") else f"x{line}" for line in data]
        lines += [*noise, *(f"data{colon}{line}" for line in shown), ""]
        expected.append("\n".join(shown))
    wire = "".join(line + end for line in lines).encode()
    reader = EventReader()
    found = [event for part in cut(wire, places) for event in reader.feed(part)]
    assert [*found, *reader.finish()] == expected


def test_an_event_is_given_as_soon_as_it_is_whole() -> None:
    reader = EventReader()
    assert reader.feed(b"\xef\xbb\xbfdata: a\n") == []
    assert reader.feed(b"\ndata: b") == ["a"]
    assert reader.finish() == ["b"]
    assert EventReader().feed(b"data\n\n") == [""]


def test_an_endless_event_is_refused() -> None:
    reader = EventReader()
    line = b"data: " + b"x" * 2**20 + b"\n"
    for _ in range(MAX_EVENT_BYTES // 2**20 - 1):
        reader.feed(line)
    with pytest.raises(NotAnEventStream):
        reader.feed(line)


def read(api: Api, *events: Any) -> tuple[Reading, list[Event]]:
    reading = Reading()
    kinds = [DIALECTS[api].read(e if isinstance(e, str) else json.dumps(e), reading) for e in events]
    return reading, kinds


def chat(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def test_a_chat_is_counted_by_its_pieces_and_its_usage() -> None:
    reading, kinds = read(
        "chat",
        chat({"role": "assistant", "content": ""}),
        chat({"reasoning": "hm"}),
        chat({"reasoning_content": "hm"}),
        chat({"content": "a"}),
        chat({"tool_calls": [{"index": 0}]}),
        chat({}, "stop"),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
        "[DONE]",
    )
    assert kinds == ["other", "piece", "piece", "piece", "piece", "end", "other", "other"]
    assert reading == Reading(pieces=4, finish="stop", closed=True, input_tokens=9, output_tokens=4)


def test_completions_and_a_last_piece_with_its_reason() -> None:
    reading, kinds = read(
        "completions",
        {"choices": [{"text": "", "finish_reason": None}]},
        {"choices": [{"text": "a", "finish_reason": "length"}], "usage": None},
    )
    assert kinds == ["other", "piece"]
    assert (reading.finish, reading.closed, reading.output_tokens) == ("length", False, None)


def test_messages_of_anthropic() -> None:
    reading, kinds = read(
        "anthropic",
        {"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 3}}},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "x"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
    )
    assert kinds == ["other", "other", "other", "piece", "other", "piece", "end", "other"]
    assert reading == Reading(pieces=2, finish="end_turn", closed=True, input_tokens=8, output_tokens=12)


@pytest.mark.parametrize(
    ("api", "error", "failure"),
    [
        ("chat", {"message": "m", "code": 503}, Failure.OVERLOADED),
        ("chat", {"message": "m", "code": "rate_limit_exceeded"}, Failure.RATE_LIMITED),
        ("chat", "m", Failure.SERVER_ERROR),
        ("anthropic", {"type": "overloaded_error", "message": "m"}, Failure.OVERLOADED),
    ],
)
def test_an_error_within_a_stream_has_its_cause(api: Api, error: Any, failure: Failure) -> None:
    with pytest.raises(StreamError) as caught:
        read(api, {"type": "error", "error": error})
    assert (caught.value.failure, caught.value.words) == (failure, "m")


@pytest.mark.parametrize("data", ["{", "[]", '{"choices": 3}', '{"choices": [1]}', '{"choices": [{"delta": 1}]}'])
def test_what_is_no_chunk_is_refused(data: str) -> None:
    with pytest.raises(NotAnAnswer):
        DIALECTS["chat"].read(data, Reading())


NAMES = st.sampled_from(["choices", "delta", "usage", "type", "error", "message", "content"])
KINDS = st.sampled_from(["message_start", "content_block_delta", "message_delta", "error"])
ANY_JSON = st.recursive(
    st.none() | st.integers() | KINDS, lambda x: st.lists(x, max_size=2) | st.dictionaries(NAMES, x), max_leaves=12
)


@settings(max_examples=400)
@given(ANY_JSON)
def test_nothing_else_is_raised_for_any_json(value: Any) -> None:
    for dialect in DIALECTS.values():
        try:
            dialect.read(json.dumps(value), Reading())
        except (NotAnAnswer, StreamError):
            continue


def test_what_a_server_does_not_know_is_left_out() -> None:
    question = Question(0, "hello", 5)
    body = DIALECTS["chat"].body("m", question, ())
    assert (body["max_tokens"], body["ignore_eos"], body["stream"]) == (5, True, True)
    assert unknown_field("Unrecognized request argument supplied: ignore_eos", body) == "ignore_eos"
    words = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    assert unknown_field(words, body) == "max_tokens"
    assert unknown_field("max_tokens=9 is too large", body) is None
    new = DIALECTS["chat"].body("m", question, {"max_tokens", "ignore_eos"})
    assert (new["max_completion_tokens"], "max_tokens" in new, "ignore_eos" in new) == (5, False, False)
    assert unknown_field(words, new) is None


def test_words_of_a_refusal() -> None:
    assert words_of(b'{"error": {"message": "no such model"}}') == "no such model"
    assert words_of(b'{"detail": "Not Found"}') == "Not Found"
    assert words_of(b'{"error": "Unauthorized"}') == "Unauthorized"
    assert words_of(b"<html>") == "<html>"
