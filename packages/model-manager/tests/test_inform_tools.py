"""list-models, get-model-info, get-model-logs, set-model-config, resources, prompts and completion."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from tests.fakes.fakes import make_fake_vllm
from tests.hubs import HubSite
from vllm_model_manager.core.rows import ModelRow

pytestmark = pytest.mark.anyio

TOOLS = {
    *("list-models", "load-model", "unload-model", "switch-model", "get-model-info", "set-model-config"),
    *("sleep-model", "wake-model", "load-lora", "unload-lora", "get-model-logs", "generate-text"),
}


async def test_every_tool_of_the_interface_is_there_flat_and_described(desk: Any) -> None:
    tools = {tool.name: tool for tool in (await desk.client.list_tools()).tools}
    assert tools.keys() == TOOLS
    for tool in tools.values():
        assert tool.title
        assert tool.description
        assert tool.output_schema
        assert "$ref" not in json.dumps([tool.input_schema, tool.output_schema])
        assert "ctx" not in tool.input_schema["properties"]
        assert "answer" not in tool.input_schema["properties"]
        assert all(part.get("description") for part in tool.input_schema["properties"].values())
    assert tools["unload-model"].annotations.destructive_hint
    assert tools["list-models"].annotations.read_only_hint
    assert {name for name, tool in tools.items() if tool.annotations.open_world_hint} == {"load-model", "switch-model"}
    assert desk.client.instructions


async def test_the_cache_is_listed_without_adapters_and_with_what_is_wrong(desk: Any) -> None:
    listed = await desk.call("list-models")
    rows = {row["id"]: row for row in listed["models"]}
    assert rows["org/llama"]["capabilities"] == ["completion", "chat"]
    assert rows["org/bert"]["capabilities"] == ["embedding"]
    assert rows["org/partial"]["error"].startswith("incomplete")
    assert (listed["adapters"], listed["adapter_count"]) == (["org/lora"], 1)
    assert "org/lora" not in rows
    assert any("org/partial" in warning for warning in listed["warnings"])
    assert (listed["total_count"], listed["loaded_count"]) == (len(rows), 0)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("loaded", ["org/llama"]), ("sleeping", ["org/second"]), ("loading", []), ("error", [])],
)
async def test_the_filter_keeps_one_status(modern: Any, status: str, expected: list[str]) -> None:
    await modern.call("load-model", model_id="org/llama")
    await modern.call("load-model", model_id="org/second")
    await modern.call("sleep-model", model_id="org/second", verify=False)
    listed = await modern.call("list-models", filter_by_status=status)
    assert [row["id"] for row in listed["models"]] == expected
    assert listed["loaded_count"] == 1
    loaded_only = await modern.call("list-models", include_unloaded=False)
    assert {row["id"] for row in loaded_only["models"]} == {"org/llama", "org/second"}


async def test_pages_lead_to_the_end(modern: Any) -> None:
    seen: list[str] = []
    arguments: dict[str, Any] = {"limit": 2}
    for _ in range(10):
        listed = await modern.call("list-models", **arguments)
        assert len(listed["models"]) <= 2
        seen += [row["id"] for row in listed["models"]]
        if listed["next_cursor"] is None:
            break
        arguments["cursor"] = listed["next_cursor"]
    assert len(seen) == len(set(seen)) == listed["total_count"]
    await modern.fail("list-models", "INVALID_ARGUMENT", cursor="nowhere")
    await modern.fail("list-models", "INVALID_ARGUMENT", filter_by_status="busy")


async def test_a_model_is_described_running_and_not(desk: Any) -> None:
    before = await desk.call("get-model-info", model_id="org/llama")
    assert (before["status"], before["performance"]) == ("unloaded", None)
    assert before["metadata"]["architectures"] == ["LlamaForCausalLM"]
    await desk.call("load-model", model_id="org/llama", max_model_len=512, served_model_name="mine")
    for name in ("org/llama", "mine"):
        info = await desk.call("get-model-info", model_id=name)
        assert (info["model_id"], info["served_name"], info["status"]) == ("org/llama", "mine", "loaded")
        assert info["config"]["max_model_len"] == 512
        assert info["performance"]["kv_cache_tokens"] > 0
        assert info["performance"]["throughput_tokens_per_second"] is None
        assert "vllm-performance-monitor" in info["performance"]["note"]
        assert {phase["phase"] for phase in info["start_up"]} >= {"weights", "server"}
    brief = await desk.call("get-model-info", model_id="mine", include_performance=False)
    assert brief["performance"] is None
    error = await desk.fail("get-model-info", "MODEL_NOT_FOUND", model_id="org/lama")
    assert error["details"]["similar"][0] == "org/llama"


async def test_a_log_is_shown_by_its_end(desk: Any) -> None:
    await desk.call("load-model", model_id="org/llama")
    log = await desk.call("get-model-logs", model_id="org/llama", tail=3)
    assert len(log["lines"]) == 3
    assert log["truncated"]
    assert log["diagnosis"] is None
    await desk.fail("get-model-logs", "MODEL_NOT_LOADED", model_id="org/plain")
    await desk.fail("get-model-logs", "INVALID_ARGUMENT", model_id="org/llama", tail=0)
    await desk.fail("get-model-logs", "INVALID_ARGUMENT", model_id="org/llama", level="loud")


LOG = ("DEBUG detail", "INFO usual", "WARNING odd", "ERROR bad", "Traceback (most recent call last):", "  its frame")


@pytest.mark.parametrize(("level", "first"), [("debug", 0), ("info", 1), ("warning", 2), ("error", 3)])
async def test_a_log_is_shown_from_a_level_upwards(modern: Any, site: HubSite, level: str, first: int) -> None:
    loaded = await modern.call("load-model", model_id="org/llama")
    (site.engine(loaded["engine_id"]).path / "engine.log").write_text("".join(f"{line}\n" for line in LOG))
    log = await modern.call("get-model-logs", model_id="org/llama", level=level)
    assert tuple(log["lines"]) == LOG[first:]


async def test_a_long_log_stays_below_the_limit(modern: Any, site: HubSite) -> None:
    loaded = await modern.call("load-model", model_id="org/llama")
    log = site.engine(loaded["engine_id"]).path / "engine.log"
    log.write_text("".join(f"INFO line {n} {'x' * 200}\n" for n in range(1000)))
    shown = await modern.call("get-model-logs", model_id="org/llama", tail=1000)
    assert shown["truncated"]
    assert "line 999" in shown["lines"][-1]


async def test_request_defaults_are_merged_kept_shown_and_reset(desk: Any, new_desk: Callable[..., Any]) -> None:
    set_ = "set-model-config"
    first = await desk.call(set_, model_id="org/llama", temperature=0.5, stop=["END"])
    assert first["updated_config"] == {"temperature": 0.5, "stop": ["END"]}
    second = await desk.call(set_, model_id="org/llama", max_tokens=7, system_prompt="Be brief.", stop=[])
    assert second["updated_config"] == {"temperature": 0.5, "max_tokens": 7, "system_prompt": "Be brief."}
    async with new_desk().open() as other:
        info = await other.call("get-model-info", model_id="org/llama")
        assert info["config"]["requests"] == second["updated_config"]
    third = await desk.call(set_, model_id="org/llama", reset=True, top_k=5)
    assert third["updated_config"] == {"top_k": 5}
    assert (await desk.call(set_, model_id="org/llama", reset=True))["updated_config"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_id": "org/llama"},
        {"model_id": "org/llama", "temperature": 3},
        {"model_id": "org/llama", "top_p": 0},
        {"model_id": "org/llama", "max_tokens": 0},
        {"model_id": "org/llama", "stop": "END."},
        {"model_id": "org/llama", "stop": [""]},
    ],
)
async def test_bad_request_defaults_are_refused(modern: Any, arguments: dict[str, Any]) -> None:
    await modern.fail("set-model-config", "INVALID_ARGUMENT", **arguments)


async def test_request_defaults_of_an_unknown_model_are_refused(modern: Any) -> None:
    error = await modern.fail("set-model-config", "MODEL_NOT_FOUND", model_id="org/lama", temperature=1)
    assert error["details"]["similar"][0] == "org/llama"


async def test_a_system_prompt_of_the_greatest_length_is_kept_and_shown_cut(modern: Any) -> None:
    prompt = "x" * 200_000
    kept = await modern.call("set-model-config", model_id="org/llama", system_prompt=prompt)
    assert kept["updated_config"]["system_prompt"].endswith("… (200000 characters)")
    info = await modern.call("get-model-info", model_id="org/llama")
    assert info["config"]["requests"] == kept["updated_config"]
    async with modern.site.client() as hub:
        assert (await hub.state()).model_configs["org/llama"].system_prompt == prompt
    await modern.call("set-model-config", model_id="org/llama", reset=True)


async def test_resources_show_models_by_their_two_part_names(desk: Any) -> None:
    await desk.call("load-model", model_id="org/llama")
    config = json.loads(await text(desk, "model://org/llama/config"))
    assert (config["model_id"], config["status"]) == ("org/llama", "loaded")
    assert "Application startup complete" in await text(desk, "model://org/llama/logs")
    fleet = json.loads(await text(desk, "fleet://status"))
    assert [row["id"] for row in fleet["models"]] == ["org/llama"]
    assert len(fleet["devices"]) == 2


@pytest.mark.parametrize("uri", ["model://no/such/config", "model://no/such/logs", "nothing://here"])
async def test_a_resource_that_is_not_there(desk: Any, uri: str) -> None:
    with pytest.raises(MCPError) as missing:
        await text(desk, uri)
    assert missing.value.error.code == -32602


async def text(desk: Any, uri: str) -> str:
    [content] = (await desk.client.read_resource(uri)).contents
    return str(content.text)


async def test_prompts_name_the_model_and_the_tools(desk: Any) -> None:
    prompts = {prompt.name: prompt for prompt in (await desk.client.list_prompts()).prompts}
    assert prompts.keys() == {"switch-model", "diagnose-model"}
    assert all(prompt.description for prompt in prompts.values())
    got = await desk.client.get_prompt("switch-model", {"to_model_id": "org/a", "from_model_id": "org/b"})
    assert "to_model_id=org/a, from_model_id=org/b" in got.messages[0].content.text
    got = await desk.client.get_prompt("diagnose-model", {"model_id": "org/a"})
    assert "get-model-logs" in got.messages[0].content.text


async def test_model_names_are_completed(desk: Any) -> None:
    ref = PromptReference(name="diagnose-model")
    done = (await desk.client.complete(ref, {"name": "model_id", "value": "LLA"})).completion
    assert done.values == ["org/llama"]
    template = ResourceTemplateReference(uri="model://{+model_id}/config")
    done = (await desk.client.complete(template, {"name": "model_id", "value": ""})).completion
    assert "org/second" in done.values
    assert "org/lora" not in done.values


async def test_changes_are_audited_and_reads_are_not(modern: Any, site: HubSite) -> None:
    audit = site.state / "audit.jsonl"
    await modern.call("list-models")
    await modern.call("set-model-config", model_id="org/llama", temperature=1)
    await modern.call("set-model-config", model_id="org/llama", reset=True)
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    tools = [line["tool"] for line in lines if line["event"] == "tool" and line["server"] == "vllm-model-manager"]
    assert "list-models" not in tools
    assert tools[-2:] == ["set-model-config"] * 2


@pytest.mark.parametrize("tool", sorted(TOOLS - {"list-models", "get-model-info", "get-model-logs", "generate-text"}))
async def test_a_read_only_server_hides_and_refuses_what_changes(new_desk: Callable[..., Any], tool: str) -> None:
    async with new_desk().open(variables={"VLLM_MCP_READ_ONLY": "true"}) as desk:
        assert tool not in {listed.name for listed in (await desk.client.list_tools()).tools}
        await desk.fail(tool, "TOOL_NOT_ALLOWED", model_id="org/llama")


def test_a_row_of_the_longest_names_leaves_room_for_a_page() -> None:
    assert len(ModelRow(id="x" * 400, name="x" * 400, status="loaded").model_dump_json()) < 2000


# -- engines that run elsewhere


async def test_an_engine_elsewhere_is_listed_asked_and_never_unloaded(
    new_desk: Callable[..., Any], site: HubSite, unused_port: int, tmp_path: Path, remote: Callable[..., Any]
) -> None:
    address = remote(make_fake_vllm(tmp_path / "far"), "far/model", unused_port)
    async with new_desk().open(variables={"VLLM_API_ENDPOINT": address}) as desk:
        row = (await desk.rows())["far/model"]
        assert (row["status"], row["remote"]) == ("loaded", True)
        assert (await desk.call("generate-text", prompt="x", model_id="far/model"))["text"]
        for tool in ("unload-model", "load-model"):
            error = await desk.fail(tool, "REMOTE_ENGINE", model_id="far/model")
            assert error["details"]["endpoint"].startswith(address)


async def test_an_engine_elsewhere_that_does_not_answer_hides_nothing(
    new_desk: Callable[..., Any], unused_port: int
) -> None:
    variables = {"DISCOVERY_ENDPOINTS": f"http://127.0.0.1:{unused_port}"}
    async with new_desk().open(variables=variables) as desk:
        listed = await desk.call("list-models")
    assert any(row["id"] == "org/llama" for row in listed["models"])
    away = [row for row in listed["models"] if str(unused_port) in row["id"]]
    assert [row["status"] for row in away] == ["error"]
