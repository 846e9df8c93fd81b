"""A streamed answer is put together and measured."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.answers import Answer


def chunk(text: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {"content": text} if text is not None else {}
    return {"choices": [{"delta": delta | more, "finish_reason": None}]}


@given(pieces=st.lists(st.text(), max_size=20))
def test_the_text_is_the_sum_of_its_pieces(pieces: list[str]) -> None:
    answer = Answer()
    said = [answer.add(chunk(piece), float(number)) for number, piece in enumerate(pieces)]
    assert said == pieces
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
    assert (answer.ttft_ms(0.5), answer.tokens_per_second(0.5)) == (500.0, 2.0)


def test_one_burst_has_the_speed_of_its_wait_and_nothing_has_none() -> None:
    answer = Answer()
    assert (answer.ttft_ms(0.0), answer.tokens_per_second(0.0)) == (None, None)
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
    assert answer.add(chunk(**{field: "hmm"}), 1.0) == ""
    assert answer.add(chunk("yes"), 2.0) == "yes"
    assert ("".join(answer.reasoning), "".join(answer.text)) == ("hmm", "yes")


SECONDS = st.floats(0.01, 100, allow_nan=False)


@given(waits=st.lists(SECONDS, min_size=1, max_size=10), started_s=st.floats(0, 1e4), tokens=st.integers(1, 10**6))
def test_the_figures_are_those_of_a_stopwatch(waits: list[float], started_s: float, tokens: int) -> None:
    answer, now_s = Answer(), started_s
    for wait_s in waits:
        now_s += wait_s
        answer.add(chunk("x"), now_s)
    answer.add({"choices": [], "usage": {"completion_tokens": tokens}}, now_s + 5)
    assert answer.ttft_ms(started_s) == pytest.approx(waits[0] * 1000, abs=0.01)
    assert answer.tokens_per_second(started_s) == pytest.approx(tokens / sum(waits), abs=0.01)


@given(st.lists(SECONDS, min_size=1, max_size=10).map(sorted))
def test_before_the_engine_counts_each_piece_is_a_token(times: list[float]) -> None:
    answer = Answer()
    for now_s in times:
        answer.add(chunk("x"), now_s)
    assert answer.tokens_per_second(0.0) == pytest.approx(len(times) / times[-1], abs=0.01)
