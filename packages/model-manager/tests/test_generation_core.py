"""A generation request is built from the parameters, and its answer is cut at a character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import BadInput
from vllm_model_manager.core.generation import (
    Wish,
    build_request,
    check_wish,
    cut_text,
    with_output_limit,
)

USER = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


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
