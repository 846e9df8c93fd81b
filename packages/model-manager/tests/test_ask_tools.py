"""generate-text, load-lora and unload-lora through a real hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.hubs import HubSite
from vllm_model_manager.core.generation import TEXT_LIMIT_BYTES

pytestmark = pytest.mark.anyio

USER = [{"role": "user", "content": "hello there"}]


async def test_a_prompt_is_answered_and_measured(desk: Any) -> None:
    await desk.call("load-model", model_id="org/llama")
    answer = await desk.call("generate-text", prompt="hello")
    assert answer["text"]
    assert answer["model_id"] == "org/llama"
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["ttft_ms"] > 0
    assert answer["finish_reason"] == "stop"
    assert answer["truncated"] is False


async def test_messages_and_sampling_are_passed_on(desk: Any) -> None:
    await desk.call("load-model", model_id="org/llama")
    answer = await desk.call(
        "generate-text", messages=USER, model_id="org/llama", max_tokens=2, temperature=0, seed=1, top_p=0.9
    )
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


async def test_request_defaults_apply_and_limit(modern: Any) -> None:
    await modern.call("load-model", model_id="org/llama")
    await modern.call("set-model-config", model_id="org/llama", max_tokens=3, system_prompt="Long instructions. " * 20)
    plain = await modern.call("generate-text", prompt="hello", max_tokens=500)
    assert plain["usage"]["completion_tokens"] == 3
    await modern.call("set-model-config", model_id="org/llama", reset=True)
    without = await modern.call("generate-text", prompt="hello", max_tokens=2)
    assert without["usage"]["prompt_tokens"] < plain["usage"]["prompt_tokens"]


async def test_a_model_without_a_template_completes(modern: Any) -> None:
    await modern.call("load-model", model_id="org/plain")
    assert (await modern.call("generate-text", prompt="Once upon"))["text"]
    await modern.fail("generate-text", "INVALID_ARGUMENT", messages=USER)


async def test_a_sleeping_model_is_woken_by_a_question(modern: Any) -> None:
    await modern.call("load-model", model_id="org/llama")
    await modern.call("sleep-model", model_id="org/llama")
    assert (await modern.call("generate-text", prompt="x"))["text"]
    assert (await modern.rows())["org/llama"]["status"] == "loaded"


async def test_a_read_only_server_does_not_wake_a_sleeping_model(modern: Any, new_desk: Callable[..., Any]) -> None:
    await modern.call("load-model", model_id="org/llama")
    async with new_desk().open(variables={"VLLM_MCP_READ_ONLY": "true"}) as reader:
        assert (await reader.call("generate-text", prompt="x"))["text"]
        await modern.call("sleep-model", model_id="org/llama", verify=False)
        error = await reader.fail("generate-text", "TOOL_NOT_ALLOWED", prompt="x")
        assert "VLLM_MCP_READ_ONLY" in error["message"]
        assert (await reader.rows())["org/llama"]["status"] == "sleeping"


async def test_a_long_answer_is_cut_and_says_so(modern: Any, site: HubSite) -> None:
    site.set_knobs(answer_tokens=6000)
    await modern.call("load-model", model_id="org/long", max_model_len=8192)
    words = 4000
    answer = await modern.call("generate-text", prompt="x", max_tokens=words)
    assert answer["usage"]["completion_tokens"] == words, "the model's answer itself was not cut"
    assert answer["truncated"] is True
    assert TEXT_LIMIT_BYTES - 4 < len(answer["text"].encode()) <= TEXT_LIMIT_BYTES
    assert len(json.dumps(answer)) < 20_000


async def test_slow_answers_report_tokens_as_they_come(modern: Any, site: HubSite) -> None:
    site.set_knobs(slow_stream_s=0.3)
    await modern.call("load-model", model_id="org/llama")
    modern.progress.clear()
    await modern.call("generate-text", prompt="x", max_tokens=5)
    assert any((message or "").endswith("tokens") for _, _, message in modern.progress)


async def test_a_cancelled_question_frees_the_engine(modern: Any, site: HubSite) -> None:
    site.set_knobs(slow_stream_s=0.5, answer_tokens=1000)
    await modern.call("load-model", model_id="org/llama")
    with anyio.move_on_after(1.5) as scope:
        await modern.call("generate-text", prompt="x")
    assert scope.cancelled_caught
    with anyio.fail_after(60):
        while (await modern.call("get-model-info", model_id="org/llama"))["performance"]["requests_in_flight"]:
            await anyio.sleep(0.05)


async def test_an_engine_that_dies_on_a_question_is_an_error(modern: Any, site: HubSite) -> None:
    site.set_knobs(die_on_first_request="SIGILL")
    await modern.call("load-model", model_id="org/llama")
    failed, payload = await modern.answer("generate-text", prompt="x")
    assert failed
    assert payload["error"]["code"] in ("ENGINE_REQUEST_FAILED", "ENGINE_UNREACHABLE")
    await modern.until("org/llama", "error")


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": "a", "messages": USER}, "both"),
    ({"messages": []}, "at least one message"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "robot"),
    ({"messages": ["hello"]}, "messages"),
    ({"prompt": "a", "tools": [{"name": "f"}]}, "function"),
    ({"prompt": "a", "temperature": 9}, "temperature"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "stop": [""]}, "stop"),
    ({"prompt": ""}, "prompt"),
]


@pytest.mark.parametrize(("arguments", "mentions"), BAD, ids=lambda value: str(value)[:40])
async def test_malformed_questions_are_refused(modern: Any, arguments: dict[str, Any], mentions: str) -> None:
    error = await modern.fail("generate-text", "INVALID_ARGUMENT", **arguments)
    assert mentions in str(error)


async def test_who_is_asked_must_be_clear(modern: Any) -> None:
    await modern.fail("generate-text", "MODEL_NOT_LOADED", prompt="x")
    for model in ("org/llama", "org/bert"):
        await modern.call("load-model", model_id=model)
    error = await modern.fail("generate-text", "INVALID_ARGUMENT", prompt="x")
    assert "org/bert" in error["message"]
    await modern.fail("generate-text", "MODEL_NOT_LOADED", prompt="x", model_id="org/second")
    await modern.fail("generate-text", "NOT_SUPPORTED", prompt="x", model_id="org/bert")


async def test_what_the_engine_refuses_is_told_in_its_words(modern: Any) -> None:
    await modern.call("load-model", model_id="org/llama", max_model_len=64)
    error = await modern.fail("generate-text", "ENGINE_REQUEST_FAILED", prompt="word " * 500)
    assert "64" in error["message"]


# -- adapters


def adapter(folder: Path, *, base: str = "org/llama", rank: int = 8) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    return folder


async def test_an_adapter_of_the_cache_is_served_asked_and_unloaded(desk: Any) -> None:
    await desk.call("load-model", model_id="org/llama", enable_lora=True)
    served = await desk.call("load-lora", model_id="org/llama", lora_name="poet", lora_path="org/lora")
    assert served["adapters"] == ["poet"]
    assert (await desk.rows())["org/llama"]["loras"] == ["poet"]
    answer = await desk.call("generate-text", prompt="x", model_id="poet")
    assert answer["model_id"] == "poet"
    error = await desk.fail("unload-model", "INVALID_ARGUMENT", model_id="poet")
    assert "unload-lora" in error["details"]["suggestion"]
    gone = await desk.call("unload-lora", model_id="org/llama", lora_name="poet")
    assert gone["adapters"] == []
    await desk.fail("unload-lora", "LORA_NOT_FOUND", model_id="org/llama", lora_name="poet")


async def test_an_adapter_in_the_project_may_be_named_relatively(modern: Any) -> None:
    adapter(modern.project / "out" / "lora")
    await modern.call("load-model", model_id="org/llama", enable_lora=True)
    for number, path in enumerate(("./out/lora", "out/lora", str(modern.project / "out/lora"))):
        served = await modern.call("load-lora", model_id="org/llama", lora_name=f"l{number}", lora_path=path)
        assert served["lora_path"] == str(modern.project / "out/lora")


@pytest.mark.parametrize(
    "path", ["/etc", "../../../../etc", "~root", "out/../../../..", "./escape", "./inner", "/proc/self"]
)
async def test_paths_lead_nowhere_else(modern: Any, path: str) -> None:
    (modern.project / "out").mkdir()
    (modern.project / "escape").symlink_to("/etc")
    inner = adapter(modern.project / "inner")
    (inner / "adapter_model.bin").symlink_to("/etc/passwd")
    await modern.call("load-model", model_id="org/llama", enable_lora=True)
    error = await modern.fail("load-lora", "PATH_NOT_ALLOWED", model_id="org/llama", lora_name="x", lora_path=path)
    assert error["details"]["parameter"] == "lora_path"
    assert (await modern.rows())["org/llama"]["loras"] == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("./empty", "BAD_CHECKPOINT"),
        ("./broken", "BAD_CHECKPOINT"),
        ("./nowhere", "LORA_NOT_FOUND"),
        ("no/such", "LORA_NOT_FOUND"),
        ("org/second", "INVALID_ARGUMENT"),
        ("./strange", "INVALID_ARGUMENT"),
        ("./big", "INVALID_ARGUMENT"),
    ],
)
async def test_what_is_no_fitting_adapter_is_refused(modern: Any, path: str, code: str) -> None:
    (modern.project / "empty").mkdir()
    (adapter(modern.project / "broken") / "adapter_config.json").write_text("{")
    adapter(modern.project / "strange", base="org/other")
    adapter(modern.project / "big", rank=128)
    await modern.call("load-model", model_id="org/llama", enable_lora=True)
    await modern.fail("load-lora", code, model_id="org/llama", lora_name="x", lora_path=path)


async def test_an_adapter_of_another_base_needs_force(modern: Any) -> None:
    adapter(modern.project / "strange", base="org/other")
    await modern.call("load-model", model_id="org/llama", enable_lora=True)
    arguments = {"model_id": "org/llama", "lora_name": "x", "lora_path": "./strange"}
    served = await modern.call("load-lora", **arguments, force=True)
    assert any("org/other" in note for note in served["notes"])


async def test_adapters_need_an_engine_that_takes_them(modern: Any) -> None:
    await modern.fail("load-lora", "MODEL_NOT_LOADED", model_id="org/llama", lora_name="x", lora_path="org/lora")
    await modern.call("load-model", model_id="org/llama")
    error = await modern.fail("load-lora", "NOT_SUPPORTED", model_id="org/llama", lora_name="x", lora_path="org/lora")
    assert "enable_lora=true" in error["details"]["suggestion"]
    await modern.call("sleep-model", model_id="org/llama", verify=False)
    await modern.fail("load-lora", "NOT_SUPPORTED", model_id="org/llama", lora_name="x", lora_path="org/lora")
    await modern.fail("unload-lora", "NOT_SUPPORTED", model_id="org/llama", lora_name="x")
