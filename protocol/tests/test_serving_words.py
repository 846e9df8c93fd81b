"""Words of a command line as arguments, and results as text for people."""

from typing import Any

import pytest

from tests.fakes.toy_tools import build_server
from vllm_mcp_protocol.errors import BadInput, ErrorInfo, UnknownArgument
from vllm_mcp_protocol.redaction import redacted, shown
from vllm_mcp_protocol.serving.arguments import allowed
from vllm_mcp_protocol.serving.calling import ToolAnswer, exit_code, parse_tool_arguments
from vllm_mcp_protocol.serving.rendering import render, render_error
from vllm_mcp_protocol.settings import Settings

TOOLS = build_server(Settings()).registered_tools
LOAD = TOOLS["load-model"].input_schema
ECHO = TOOLS["echo-values"].input_schema

PARSED: list[tuple[Any, list[str], dict[str, Any]]] = [
    (LOAD, ["--model-id", "a/b"], {"model_id": "a/b"}),
    (LOAD, ["--model_id", "a/b"], {"model_id": "a/b"}),
    (LOAD, ["--model-id=a=b"], {"model_id": "a=b"}),
    (LOAD, ["--tensor-parallel-size", "4"], {"tensor_parallel_size": 4}),
    (LOAD, ["--tensor-parallel-size", "four"], {"tensor_parallel_size": "four"}),
    (LOAD, ["--gpu-memory-utilization", "0.8"], {"gpu_memory_utilization": 0.8}),
    (LOAD, ["--revision", "1"], {"revision": "1"}),
    (LOAD, ["--pin"], {"pin": True}),
    (LOAD, ["--pin", "false"], {"pin": False}),
    (LOAD, ["--pin=yes"], {"pin": True}),
    (LOAD, ["--pin=maybe"], {"pin": "maybe"}),
    (LOAD, ["--no-pin"], {"pin": False}),
    (
        LOAD,
        ["--no-enable-prefix-caching", "--pin", "--model-id", "x"],
        {"enable_prefix_caching": False, "pin": True, "model_id": "x"},
    ),
    (LOAD, ["--gpu-ids", "0,1", "--gpu-ids", "2"], {"gpu_ids": [0, 1, 2]}),
    (LOAD, ["--gpu-ids", "[0, 1]"], {"gpu_ids": [0, 1]}),
    (LOAD, ["--gpu-ids", "x"], {"gpu_ids": ["x"]}),
    (LOAD, ["--extra-args", "--seed=1", "--extra-args", "--foo"], {"extra_args": ["--seed=1", "--foo"]}),
    (LOAD, ['{"model_id": "a/b", "pin": true}', "--no-pin"], {"model_id": "a/b", "pin": False}),
    (ECHO, ["--whole", "-3"], {"whole": -3}),
    (ECHO, ["--schema", '{"type": "object"}'], {"schema": {"type": "object"}}),
    (ECHO, ["--schema", "nonsense"], {"schema": "nonsense"}),
    (ECHO, ["--messages", '{"role": "user", "content": "a,b"}'], {"messages": [{"role": "user", "content": "a,b"}]}),
    (ECHO, ["--messages", '[{"role": '], {"messages": ['[{"role": ']}),
    (ECHO, ["--names", '["a,b"]', "--text", ""], {"names": ["a,b"], "text": ""}),
    (LOAD, [], {}),
]


@pytest.mark.parametrize(("schema", "words", "arguments"), PARSED)
def test_words_become_arguments(schema: Any, words: list[str], arguments: dict[str, Any]) -> None:
    assert parse_tool_arguments(schema, words) == arguments


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["--modl-id", "x"], UnknownArgument, "Did you mean --model-id"),
        (["--zzz"], UnknownArgument, "The parameters are: --model-id"),
        (["--no-model-id"], UnknownArgument, "no-model-id"),
        (["stray"], BadInput, "stands alone"),
        (["--"], BadInput, "stands alone"),
        (["--model-id"], BadInput, "needs a value"),
        (["--model-id", "--pin"], BadInput, "needs a value"),
        (["{broken"], BadInput, "not a JSON object"),
    ],
)
def test_words_that_are_no_arguments(words: list[str], error: type[BadInput], says: str) -> None:
    with pytest.raises(error, match=says):
        parse_tool_arguments(LOAD, words)


@pytest.mark.parametrize(
    ("code", "exits"),
    [
        ("GPU_MEMORY_INSUFFICIENT", 1),
        ("INTERNAL_ERROR", 1),
        ("INVALID_ARGUMENT", 2),
        ("UNKNOWN_ARGUMENT", 2),
        ("INVALID_SETTING", 2),
        ("HUB_UNAVAILABLE", 3),
    ],
)
def test_exit_codes_tell_kinds_of_failure(code: str, exits: int) -> None:
    info = ErrorInfo(code=code, message="m", details={"suggestion": "s"})
    assert exit_code(info) == exits
    assert ToolAnswer({"success": False, "error": info.model_dump()}, failed=True).exit_code == exits
    assert ToolAnswer({"success": True}, failed=False).exit_code == 0


def test_results_are_readable() -> None:
    payload = {
        "success": True,
        "models": [
            {"id": "a/b", "memory_mb": 12, "error": None, "tags": ["x", "y"]},
            {"id": "long/name", "memory_mb": None, "error": None, "tags": []},
        ],
        "total_count": 2,
        "share": 1 / 3,
        "ready": True,
        "nothing": None,
        "facts": {"engine_id": "e1", "argv": ["vllm", "serve"]},
        "text": "one\ntwo",
        "reasons": ["r" * 70],
    }
    assert render(payload).splitlines() == [
        "models:",
        "  id         memory mb  tags",
        "  a/b        12         x, y",
        "  long/name  -          -",
        "total count: 2",
        "share: 0.333333",
        "ready: yes",
        "facts:",
        "  engine id: e1",
        "  argv: vllm, serve",
        "text:",
        "  one",
        "  two",
        "reasons:",
        "  " + "r" * 70,
    ]
    assert render({"success": True}) == "done"


def test_errors_show_the_next_step() -> None:
    info = ErrorInfo(code="MODEL_BUSY", message="It is busy.", details={"suggestion": "wait"})
    assert render_error(info) == "error: It is busy. [MODEL_BUSY]\nnext: wait"


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("hf_token", True),
        ("api_key", True),
        ("api-key", True),
        ("encryption_key", True),
        ("password", True),
        ("max_tokens", False),
        ("input_tokens", False),
        ("kv_cache_dtype", False),
        ("keyboard", False),
    ],
)
def test_what_counts_as_a_secret(name: str, hidden: bool) -> None:
    assert (shown(name, "value") == "(hidden)") is hidden
    assert (redacted(name, "value") == "(hidden)") is hidden


def test_long_and_nested_values_are_cut_and_cleaned() -> None:
    cleaned = redacted("env", {"HF_TOKEN": "x", "list": list(range(30)), "note": "Bearer abcdef", "n": None})
    assert cleaned["HF_TOKEN"] == "(hidden)"
    assert cleaned["list"][-1] == "… (30 items)"
    assert "abcdef" not in cleaned["note"]
    assert len(shown("text", "x" * 10_000)) < 300


def test_every_parameter_can_be_described() -> None:
    texts = [allowed(part) for tool in TOOLS.values() for part in tool.input_schema["properties"].values()]
    assert all(texts)
    assert allowed({"type": "string", "minLength": 1, "pattern": "^a$"}) == "text of at least 1 characters matching ^a$"
    assert allowed({"type": "number", "exclusiveMinimum": 0, "maximum": 1}) == "a number above 0 up to 1"
