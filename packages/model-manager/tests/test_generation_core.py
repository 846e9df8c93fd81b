"""A generation request is built from the parameters, and its answer from the stream."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import BadInput
from vllm_model_manager.core.generation import (
    Answer,
    Wish,
    build_request,
    check_wish,
    cut_text,
    with_output_limit,
)

USER = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def chunk(text: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {"content": text} if text is not None else {}
    return {"choices": [{"delta": delta | more, "finish_reason": None}]}


@pytest.mark.parametrize(
    ("wish", "parameter"),
    [
        (Wish(), "prompt"),
        (Wish(prompt="a", messages=USER), "prompt"),
        (Wish(messages=[]), "messages"),
        (Wish(messages=[{"content": "no role"}]), "messages[0].role"),
        (Wish(messages=[*USER, {"role": "robot"}]), "messages[1].role"),
        (Wish(prompt="a", tools=[{"name": "f"}]), "tools[0]"),
        (Wish(prompt="a", tools=[{"type": "function", "function": {}}]), "tools[0]"),
    ],
)
def test_a_malformed_wish_is_refused_with_the_place(wish: Wish, parameter: str) -> None:
    with pytest.raises(BadInput) as refused:
        check_wish(wish)
    assert refused.value.info.details["parameter"] == parameter
    assert refused.value.info.suggestion


def test_a_prompt_becomes_a_user_message_where_there_is_a_template() -> None:
    request = build_request(Wish(prompt="hi", sampling={"temperature": 0.0, "seed": None}), "m", chat=True)
    assert request["messages"] == [{"role": "user", "content": "hi"}]
    assert request["temperature"] == 0.0
    assert "seed" not in request


def test_without_a_template_a_prompt_is_completed() -> None:
    request = build_request(Wish(prompt="hi"), "m", chat=False)
    assert request["prompt"] == "hi"
    assert "messages" not in request


@pytest.mark.parametrize("wish", [Wish(messages=USER), Wish(prompt="a", tools=[TOOL])])
def test_without_a_template_messages_and_tools_are_refused(wish: Wish) -> None:
    with pytest.raises(BadInput, match="chat template"):
        build_request(wish, "m", chat=False)


@given(window=st.none() | st.integers(1, 10**6), asked=st.none() | st.integers(1, 10**6))
def test_an_answer_always_has_a_limit_that_leaves_room_for_the_prompt(window: int | None, asked: int | None) -> None:
    limit = with_output_limit({"max_tokens": asked}, window, asked=asked is not None)["max_tokens"]
    if asked is not None:
        assert limit == asked
    else:
        assert 1 <= limit <= 1024
        assert window is None or limit <= max(1, window // 2)


@given(window=st.integers(1, 10**6), default=st.integers(1, 10**6))
def test_a_default_limit_never_makes_vllm_refuse(window: int, default: int) -> None:
    limit = with_output_limit({"max_tokens": default}, window, asked=False)["max_tokens"]
    assert 1 <= limit <= default
    assert limit < window or window == 1


@given(pieces=st.lists(st.text(), max_size=20), wanted=st.integers(0, 60))
def test_text_is_cut_at_a_character(pieces: list[str], wanted: int) -> None:
    text = "".join(pieces)
    short, cut = cut_text(text, wanted)
    assert len(short.encode("utf-8", "replace")) <= wanted
    assert cut == (len(text.encode("utf-8", "replace")) > wanted)
    assert cut or short == text


@given(pieces=st.lists(st.text(), max_size=20))
def test_the_text_is_the_sum_of_its_pieces(pieces: list[str]) -> None:
    answer = Answer()
    for number, piece in enumerate(pieces):
        answer.add(chunk(piece), float(number))
    assert "".join(answer.text) == "".join(pieces)
    spoken = [number for number, piece in enumerate(pieces) if piece]
    assert answer.first_s == (spoken[0] if spoken else None)
    assert answer.last_s == (spoken[-1] if spoken else None)


def test_speed_is_of_the_whole_answer_by_the_engines_own_count() -> None:
    answer = Answer()
    answer.add(chunk(""), 0.5)
    answer.add(chunk("ab"), 1.0)
    answer.add(chunk("cd"), 3.0)
    answer.add({"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 2}}, 3.1)
    assert answer.first_s == 1.0
    assert answer.tokens_per_second(0.5) == 2.0


def test_one_burst_has_the_speed_of_its_wait_and_nothing_has_none() -> None:
    answer = Answer()
    assert answer.tokens_per_second(0.0) is None
    answer.add(chunk("all"), 2.0)
    assert answer.tokens_per_second(1.0) == 1.0


def test_tool_calls_are_put_together_by_their_index() -> None:
    answer = Answer()
    for index, function in [
        (0, {"name": "f"}),
        (1, {"name": "g"}),
        (0, {"arguments": '{"a"'}),
        (0, {"arguments": ":1}"}),
    ]:
        answer.add(chunk(tool_calls=[{"index": index, "id": f"c{index}", "function": function}]), 1.0)
    assert [(c["id"], c["name"], c["arguments"]) for c in answer.tool_calls.values()] == [
        ("c0", "f", '{"a":1}'),
        ("c1", "g", ""),
    ]


def test_a_plain_completions_chunks_are_understood_too() -> None:
    answer = Answer()
    answer.add({"choices": [{"index": 0, "text": "hi", "finish_reason": "length"}]}, 1.0)
    assert ("".join(answer.text), answer.finish_reason) == ("hi", "length")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_kept_apart(field: str) -> None:
    answer = Answer()
    answer.add(chunk(**{field: "hmm"}), 1.0)
    answer.add(chunk("yes"), 2.0)
    assert ("".join(answer.reasoning), "".join(answer.text)) == ("hmm", "yes")


@given(st.lists(st.floats(0, 100, allow_nan=False), min_size=2, max_size=10).map(sorted))
def test_speed_is_never_negative(times: list[float]) -> None:
    answer = Answer()
    for now_s in times:
        answer.add(chunk("x"), now_s)
    speed = answer.tokens_per_second(times[0])
    assert all(a <= b for a, b in pairwise(times))
    assert speed is None or speed >= 0
