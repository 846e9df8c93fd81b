"""Request defaults: what the request says wins, `max_tokens` also limits, the system prompt comes first."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.model import ModelConfig
from vllm_mcp_protocol.request_defaults import apply_model_config

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

configs = st.builds(
    ModelConfig,
    max_tokens=st.none() | st.integers(1, 1000),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.01, 1),
    top_k=st.none() | st.integers(-1, 100),
    min_p=st.none() | st.floats(0, 1),
    repetition_penalty=st.none() | st.floats(0.1, 10),
    stop=st.none() | st.lists(st.text(min_size=1), max_size=3).map(tuple),
    system_prompt=st.none() | st.text(),
)
roles = st.sampled_from(["system", "developer", "user", "assistant"])
messages = st.lists(st.fixed_dictionaries({"role": roles, "content": st.text()}), max_size=4)
requests = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "messages": messages,
        "prompt": st.text(),
        "max_tokens": st.none() | st.integers(1, 2000),
        "max_completion_tokens": st.none() | st.integers(1, 2000),
        "temperature": st.none() | st.floats(0, 2),
        "top_p": st.none() | st.floats(0.01, 1),
        "top_k": st.none() | st.integers(-1, 100),
        "stop": st.none() | st.just(["x"]),
        "unknown": st.text(),
    },
)


@given(config=configs, request=requests)
def test_what_the_request_says_wins(config: ModelConfig, request: dict[str, Any]) -> None:
    applied = apply_model_config(config, request)
    for name in (*SAMPLING, "stop"):
        if request.get(name) is not None:
            assert applied[name] == request[name]
        elif getattr(config, name) is not None:
            wanted = getattr(config, name)
            assert applied[name] == (list(wanted) if name == "stop" else wanted)
        else:
            assert applied.get(name) is None


@given(config=configs, request=requests)
def test_no_answer_may_be_longer_than_the_limit(config: ModelConfig, request: dict[str, Any]) -> None:
    applied = apply_model_config(config, request)
    asked = [request[n] for n in ("max_tokens", "max_completion_tokens") if request.get(n) is not None]
    allowed = [applied[n] for n in ("max_tokens", "max_completion_tokens") if applied.get(n) is not None]
    if config.max_tokens is not None:
        assert allowed
        assert max(allowed) <= config.max_tokens
        assert allowed == [min(value, config.max_tokens) for value in asked or [config.max_tokens]]
    else:
        assert allowed == asked


@given(config=configs, request=requests)
def test_the_system_prompt_is_first_unless_there_is_one(config: ModelConfig, request: dict[str, Any]) -> None:
    applied = apply_model_config(config, request)
    given_messages = request.get("messages")
    if given_messages is None:
        assert "messages" not in applied
    elif config.system_prompt is None or any(m["role"] in ("system", "developer") for m in given_messages):
        assert applied["messages"] == given_messages
    else:
        assert applied["messages"] == [{"role": "system", "content": config.system_prompt}, *given_messages]


@given(config=configs, request=requests)
def test_applying_twice_is_applying_once_and_nothing_is_lost(config: ModelConfig, request: dict[str, Any]) -> None:
    before = repr(request)
    once = apply_model_config(config, request)
    assert repr(request) == before, "the request of the caller was changed"
    assert apply_model_config(config, once) == once
    assert once.keys() >= request.keys()


@given(request=requests)
def test_without_a_config_nothing_changes(request: dict[str, Any]) -> None:
    assert apply_model_config(None, request) == request
    assert apply_model_config(ModelConfig(), request) == request


@pytest.mark.parametrize("value", ["many", True, [5]])
def test_a_limit_that_is_no_number_is_left_to_the_engine(value: object) -> None:
    applied = apply_model_config(ModelConfig(max_tokens=10), {"max_tokens": value})
    assert applied["max_tokens"] == value


@pytest.mark.parametrize("messages", ["text", [{"content": "no role"}], ["text"], {}])
def test_malformed_messages_are_left_to_the_engine(messages: Any) -> None:
    applied = apply_model_config(ModelConfig(system_prompt="Be brief."), {"messages": messages})
    assert applied["messages"] in (messages, [{"role": "system", "content": "Be brief."}, *messages])
