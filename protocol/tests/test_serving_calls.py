"""Calls through the SDK's own client, in both protocol eras: results, failures, progress, questions, permissions."""

import json
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import CallToolResult, ElicitResult, TextContent

from tests.fakes.toy_client import eventually
from tests.fakes.toy_tools import Toy, build_server
from vllm_mcp_protocol.settings import Settings

pytestmark = pytest.mark.anyio

QWEN = "Qwen/Qwen3-8B"
OF_2025 = pytest.mark.filterwarnings("ignore:resources/(un)?subscribe is removed")
"""The SDK's client deprecates what clients of 2025 do; they do it all the same."""

Connect = Callable[..., Client]


class World:
    """A toy server's state, and what it told the audit log."""

    def __init__(self) -> None:
        self.toy = Toy()
        self.audited: list[dict[str, Any]] = []

    def audit(self, event: str, fields: dict[str, Any]) -> None:
        json.dumps(fields)
        self.audited.append({"event": event, **fields})


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["legacy", "auto"])
def connect(request: pytest.FixtureRequest, world: World) -> Connect:
    def connect(settings: Settings | None = None, **options: Any) -> Client:
        server = build_server(settings or Settings(), audit=world.audit, toy=world.toy)
        return Client(server, mode=request.param, **options)

    return connect


def payload(result: CallToolResult) -> dict[str, Any]:
    """The one object of a result, after checking that text and structure are the same."""
    assert len(result.content) == 1
    block = result.content[0]
    assert isinstance(block, TextContent)
    assert json.loads(block.text) == result.structured_content
    assert ": " not in block.text[:20], "compact JSON"
    structure: dict[str, Any] = result.structured_content or {}
    assert next(iter(structure)) == "success"
    assert structure["success"] is not result.is_error
    return structure


def error(result: CallToolResult) -> dict[str, Any]:
    assert result.is_error
    found: dict[str, Any] = payload(result)["error"]
    assert set(found) == {"code", "message", "details"}
    return found


async def test_success_is_one_object_as_text_and_structure(connect: Connect) -> None:
    async with connect() as client:
        assert payload(await client.call_tool("list-models", {})) == {
            "success": True,
            "models": [],
            "total_count": 0,
        }
        loaded = payload(await client.call_tool("load-model", {"model_id": QWEN}))
        listed = payload(await client.call_tool("list-models", {}))
    assert loaded["options"] == {"tensor_parallel_size": None, "dtype": "auto", "gpu_ids": None}
    assert listed["models"][0] == {
        "id": QWEN,
        "status": "loaded",
        "engine_id": "e1",
        "memory_usage_mb": None,
        "error": None,
    }


async def test_foreseen_failures_carry_their_code_details_and_next_step(connect: Connect) -> None:
    async with connect() as client:
        failed = error(await client.call_tool("load-model", {"model_id": "too/large"}))
    assert failed["code"] == "GPU_MEMORY_INSUFFICIENT"
    assert failed["details"]["available_mb"] == 16384
    assert failed["details"]["suggestion"].startswith("unload-model e3")


async def test_unforeseen_failures_keep_their_text_to_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect() as client:
        result = await client.call_tool("crash-now", {})
        broken = await client.call_tool("wrong-result", {})
    assert error(result)["code"] == error(broken)["code"] == "INTERNAL_ERROR"
    assert "hunter2" not in json.dumps(error(result))
    assert "hunter2" in caplog.text
    assert "returned Models instead of Done" in caplog.text


async def test_unknown_arguments_are_refused_with_the_closest_name(connect: Connect) -> None:
    async with connect() as client:
        failed = error(await client.call_tool("list-models", {"limt": 3}))
        kebab = error(await client.call_tool("load-model", {"model-id": QWEN}))
        strange = error(await client.call_tool("list-models", {"zzzz": 3}))
    assert failed["code"] == "UNKNOWN_ARGUMENT"
    assert "Did you mean limit?" in failed["message"]
    assert failed["details"]["allowed"] == ["filter_by_status", "limit"]
    assert kebab["details"]["closest"] == "model_id"
    assert strange["details"]["closest"] is None


INVALID = [
    ({"whole": 11}, "whole", "11", "a whole number from -10 to 10"),
    ({"whole": 1.5}, "whole", "1.5", "a whole number"),
    ({"whole": True}, "whole", "True", "a whole number"),
    ({"whole": "four"}, "whole", "'four'", "a whole number"),
    ({"share": "NaN"}, "share", "'NaN'", "a number from 0 to 1"),
    ({"flag": "perhaps"}, "flag", "'perhaps'", "true or false"),
    ({"mode": "c"}, "mode", "'c'", 'one of "a", "b"'),
    ({"dtype": "int3"}, "dtype", "'int3'", '"bfloat16"'),
    ({"names": ["a"] * 6}, "names", "['a', 'a'", "a list of at most 5 items, each text"),
    ({"numbers": [1, "x"]}, "numbers[1]", "'x'", "a whole number"),
    ({"messages": [{"role": "cat", "content": "miau"}]}, "messages[0].role", "'cat'", '"assistant"'),
    ({"text": "x" * 200_001}, "text", "'xxx", "at most 100000 characters"),
    ({"schema": 5}, "schema", "5", "an object"),
]


@pytest.mark.parametrize(("arguments", "parameter", "value", "allowed"), INVALID)
async def test_invalid_arguments_are_explained(
    connect: Connect, arguments: dict[str, Any], parameter: str, value: str, allowed: str
) -> None:
    async with connect() as client:
        failed = error(await client.call_tool("echo-values", arguments))
    assert failed["code"] == "INVALID_ARGUMENT"
    assert failed["details"]["parameter"] == parameter
    assert failed["details"]["value"].startswith(value)
    assert allowed in failed["details"]["allowed"]
    assert parameter in failed["message"]
    assert len(failed["message"]) < 600


async def test_secrets_are_never_shown(connect: Connect) -> None:
    async with connect() as client:
        failed = await client.call_tool("echo-values", {"api_key": "supersecret"})
    assert error(failed)["details"]["value"] == "(hidden)"
    assert "supersecret" not in json.dumps(failed.structured_content)


async def test_missing_arguments_are_named(connect: Connect) -> None:
    async with connect() as client:
        failed = error(await client.call_tool("load-model", {"model_id": None, "max_model_len": 0}))
        absent = error(await client.call_tool("load-model", {}))
    assert {problem["parameter"] for problem in failed["details"]["problems"]} == {"model_id", "max_model_len"}
    assert "model_id is required" in absent["message"]


async def test_lossless_strings_nulls_and_json_text_are_taken(connect: Connect) -> None:
    given = {
        "whole": "4",
        "share": "0.25",
        "flag": "true",
        "text": None,
        "names": '["a","b"]',
        "numbers": [1, "2"],
        "mode": None,
        "messages": [{"role": "user", "content": "hi"}],
        "schema": '{"type": "object"}',
        "folder": "/tmp/x",
    }
    async with connect() as client:
        values = payload(await client.call_tool("echo-values", given))["values"]
    assert values == {
        "whole": 4,
        "share": 0.25,
        "flag": True,
        "text": None,
        "names": ["a", "b"],
        "numbers": [1, 2],
        "mode": "a",
        "dtype": "auto",
        "messages": [{"role": "user", "content": "hi"}],
        "schema": {"type": "object"},
        "folder": "/tmp/x",
        "api_key": None,
    }


async def test_an_unknown_tool_is_named_with_the_closest_one(connect: Connect) -> None:
    async with connect() as client:
        failed = error(await client.call_tool("load_model", {}))
    assert failed["details"]["closest"] == "load-model"


async def test_tools_are_listed_with_everything_clients_use(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert client.instructions
    assert len(tools) == 12
    for tool in tools.values():
        assert tool.title
        assert tool.description
        assert tool.output_schema
        assert tool.annotations is not None
        assert tool.annotations.open_world_hint is False
    assert tools["unload-model"].annotations is not None
    assert tools["unload-model"].annotations.destructive_hint is True


async def test_progress_rises_and_keeps_every_message(connect: Connect) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with connect() as client:
        await client.call_tool("load-model", {"model_id": QWEN}, progress_callback=on_progress)
        await client.call_tool("load-model", {"model_id": QWEN})
        await eventually(lambda: len(seen) == 5)
    values = [item[0] for item in seen]
    assert values == sorted(set(values))
    assert values[-1] == 3
    assert len(seen) == 5
    assert {item[1] for item in seen} == {3}


async def test_cancellation_stops_the_tool(connect: Connect, world: World) -> None:
    async with connect() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "sleep-model", {"seconds": 60})
            await eventually(lambda: world.toy.running)
            tasks.cancel_scope.cancel()
        await eventually(lambda: world.audited and not world.toy.running)
    assert world.audited[-1]["outcome"] == "cancelled"


async def test_calls_run_side_by_side(connect: Connect, world: World) -> None:
    results: list[CallToolResult] = []

    async def call(arguments: dict[str, Any]) -> None:
        results.append(await client.call_tool("echo-values", arguments))

    async with connect() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.call_tool, "sleep-model", {"seconds": 60})
        with anyio.fail_after(60):
            async with anyio.create_task_group() as quick:
                for number in range(10):
                    quick.start_soon(call, {"whole": number})
        tasks.cancel_scope.cancel()
    assert sorted(payload(result)["values"]["whole"] for result in results) == list(range(10))


@pytest.mark.parametrize(
    ("action", "content", "status"),
    [("accept", {"proceed": True}, "unloaded"), ("accept", {"proceed": False}, "kept"), ("decline", None, "kept")],
)
async def test_a_destructive_tool_asks_the_user(
    connect: Connect, world: World, action: Any, content: Any, status: str
) -> None:
    async def answer(_context: object, params: Any) -> ElicitResult:
        assert "3 requests" in params.message
        return ElicitResult(action=action, content=content)

    world.toy.loaded[QWEN] = 3
    async with connect(elicitation_callback=answer) as client:
        result = await client.call_tool("unload-model", {"model_id": QWEN})
    assert payload(result)["status"] == status
    assert (QWEN in world.toy.loaded) is (status == "kept")


async def test_a_client_that_cannot_ask_gets_force(connect: Connect, world: World) -> None:
    world.toy.loaded[QWEN] = 3
    async with connect() as client:
        refused = error(await client.call_tool("unload-model", {"model_id": QWEN}))
        forced = payload(await client.call_tool("unload-model", {"model_id": QWEN, "force": True}))
        gone = error(await client.call_tool("unload-model", {"model_id": QWEN}))
    assert refused["code"] == "FORCE_REQUIRED"
    assert "force=true" in refused["details"]["suggestion"]
    assert forced["status"] == "unloaded"
    assert gone["code"] == "MODEL_NOT_LOADED"


PERMISSIONS = [
    ({"VLLM_MCP_READ_ONLY": "true"}, "load-model", "list-models"),
    ({"VLLM_MCP_DENIED_TOOLS": "load-*, unload-*"}, "load-model", "sleep-model"),
    ({"VLLM_MCP_ALLOWED_TOOLS": "list-*,echo-values"}, "load-model", "list-models"),
    ({"VLLM_MCP_ALLOWED_TOOLS": "*", "VLLM_MCP_DENIED_TOOLS": "load-model"}, "load-model", "unload-model"),
]


@pytest.mark.parametrize(("env", "hidden", "shown"), PERMISSIONS)
async def test_permissions_hide_and_refuse(
    connect: Connect, world: World, env: dict[str, str], hidden: str, shown: str
) -> None:
    async with connect(Settings.from_environment(env)) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        refused = error(await client.call_tool(hidden, {"model_id": QWEN}))
    assert hidden not in names
    assert shown in names
    assert refused["code"] == "TOOL_NOT_ALLOWED"
    assert refused["details"]["setting"] in env
    assert not world.toy.loaded
    assert [(line["tool"], line["outcome"], line["code"]) for line in world.audited] == [
        (hidden, "refused", "TOOL_NOT_ALLOWED")
    ]


async def test_mutations_are_audited_and_reads_are_not(connect: Connect, world: World) -> None:
    async with connect() as client:
        await client.call_tool("list-models", {})
        await client.call_tool("load-model", {"model_id": QWEN, "gpu_ids": [0, 1]})
        await client.call_tool("load-model", {"model_id": QWEN, "max_model_len": -1})
        await client.call_tool("save-secret", {"hf_token": "hf_abcdefghijklmnopqrst", "note": "n" * 999})
        await client.call_tool("save-secret", {"hf_token": "x", "note": "see hf_abcdefghijklmnopqrst"})
        await client.call_tool("crash-now", {})
    lines = [(line["tool"], line["outcome"], line["code"]) for line in world.audited]
    assert lines == [
        ("load-model", "done", None),
        ("load-model", "failed", "INVALID_ARGUMENT"),
        ("save-secret", "done", None),
        ("save-secret", "done", None),
        ("crash-now", "failed", "INTERNAL_ERROR"),
    ]
    assert world.audited[0]["arguments"] == {"model_id": QWEN, "gpu_ids": [0, 1]}
    assert world.audited[0]["duration_s"] >= 0
    assert "hf_abc" not in json.dumps(world.audited)
    assert len(world.audited[2]["arguments"]["note"]) < 300


async def test_a_full_disk_does_not_turn_done_into_failed(caplog: pytest.LogCaptureFixture) -> None:
    def full(event: str, fields: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    async with Client(build_server(Settings(), audit=full), mode="auto") as client:
        result = await client.call_tool("load-model", {"model_id": QWEN})
    assert payload(result)["status"] == "loaded"
    assert "The audit log refused a line" in caplog.text


async def test_output_that_is_too_long_fails_tests_and_is_logged_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = build_server(Settings())
    async with Client(server, mode="auto") as client:
        with caplog.at_level(logging.ERROR):
            long = await client.call_tool("long-answer", {})
        assert len(payload(long)["text"]) == 30_000
        assert "page it or cut it" in caplog.text
        server.refuse_long_output = True
        assert error(await client.call_tool("long-answer", {}))["code"] == "INTERNAL_ERROR"
        assert payload(await client.call_tool("long-answer", {"size_bytes": 19_000}))


async def test_resources_and_prompts_are_served(connect: Connect) -> None:
    async with connect() as client:
        await client.call_tool("load-model", {"model_id": QWEN})
        fleet = await client.read_resource("fleet://status")
        prompts = (await client.list_prompts()).prompts
        with pytest.raises(MCPError, match=r"No prompt 'nope'; there are: diagnose-model"):
            await client.get_prompt("nope")
        with pytest.raises(MCPError, match="diagnose-model needs: model_id"):
            await client.get_prompt("diagnose-model")
        assert QWEN in str((await client.get_prompt("diagnose-model", {"model_id": QWEN})).messages)
    assert QWEN in str(fleet.contents[0])
    assert prompts[0].description


async def test_changes_reach_subscribers_of_2026(world: World) -> None:
    seen: list[object] = []
    uri = f"model://{QWEN}/config"
    async with (
        Client(build_server(Settings(), toy=world.toy), mode="auto") as client,
        client.listen(resources_list_changed=True, resource_subscriptions=[uri]) as events,
    ):
        await client.call_tool("load-model", {"model_id": QWEN})
        with anyio.fail_after(60):
            async for event in events:
                seen.append(event)
                if len(seen) == 2:
                    break
    assert seen == [ResourceUpdated(uri=uri), ResourcesListChanged()]


@OF_2025
async def test_changes_reach_subscribers_of_2025(world: World) -> None:
    seen: list[str] = []
    uri = f"model://{QWEN}/config"

    async def on_message(message: Any) -> None:
        seen.append(type(message).__name__)

    server = build_server(Settings(), toy=world.toy)
    async with Client(server, mode="legacy", message_handler=on_message) as client:
        await client.subscribe_resource(uri)
        await client.call_tool("load-model", {"model_id": QWEN})
        await eventually(lambda: len(seen) == 2)
        await client.unsubscribe_resource(uri)
        await client.call_tool("load-model", {"model_id": QWEN})
        await eventually(lambda: len(seen) == 3)
    assert seen == ["ResourceUpdatedNotification", *["ResourceListChangedNotification"] * 2]
    await server.resource_subscriptions.publish(uri)  # to a client that has gone


@OF_2025
async def test_a_servers_own_task_reaches_every_subscriber(world: World) -> None:
    """As a background scan does: there is no request whose answer could carry it."""
    seen: list[str] = []

    async def on_message(message: Any) -> None:
        seen.append(message.params.uri)

    server = build_server(Settings(), toy=world.toy)
    async with (
        Client(server, mode="legacy", message_handler=on_message) as old,
        Client(server, mode="legacy", message_handler=on_message) as silent,
        Client(server, mode="auto") as new,
        new.listen(resource_subscriptions=["fleet://status"]) as events,
    ):
        await silent.list_tools()
        await old.subscribe_resource("fleet://status")
        await server.resource_subscriptions.publish("fleet://status")
        await server.resource_subscriptions.publish("model://other/config")
        with anyio.fail_after(60):
            assert await anext(aiter(events)) == ResourceUpdated(uri="fleet://status")
        await eventually(lambda: bool(seen))
    assert seen == ["fleet://status"]


async def test_helpers_are_silent_without_a_client(world: World) -> None:
    server = build_server(Settings(), toy=world.toy)
    world.toy.loaded[QWEN] = 1
    loaded = await server.call_tool("load-model", {"model_id": QWEN})
    assert isinstance(loaded, CallToolResult)
    assert payload(loaded)["success"]
    world.toy.loaded[QWEN] = 1
    refused = await server.call_tool("unload-model", {"model_id": QWEN})
    assert isinstance(refused, CallToolResult)
    assert error(refused)["code"] == "FORCE_REQUIRED"
