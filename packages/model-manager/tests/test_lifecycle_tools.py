"""unload-model, sleep-model, wake-model and switch-model through a real hub."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp_types import ElicitResult

from tests.hubs import HubSite, wait_for

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def busy(desk: Any, model_id: str = "org/llama") -> AsyncIterator[dict[str, Any]]:
    """A request runs on the model while the block runs; what came of it is in the dictionary afterwards."""
    outcome: dict[str, Any] = {}

    async def ask() -> None:
        outcome["failed"], outcome["payload"] = await desk.answer("generate-text", prompt="x", model_id=model_id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        with anyio.fail_after(60):
            while not (await desk.call("get-model-info", model_id=model_id))["performance"]["requests_in_flight"]:
                await anyio.sleep(0.02)
        yield outcome


async def test_unloading_frees_the_memory_and_leaves_no_process(desk: Any, site: HubSite) -> None:
    await desk.call("load-model", model_id="org/llama")
    unloaded = await desk.call("unload-model", model_id="org/llama")
    assert unloaded["status"] == "unloaded"
    assert unloaded["memory_freed_mb"] > 0
    assert site.living() == []
    assert (await desk.rows())["org/llama"]["status"] == "unloaded"


async def test_unloading_what_is_not_loaded_names_what_is(desk: Any) -> None:
    await desk.call("load-model", model_id="org/llama")
    error = await desk.fail("unload-model", "MODEL_NOT_LOADED", model_id="org/second")
    assert error["details"]["loaded"] == ["org/llama"]
    await desk.fail("unload-model", "MODEL_NOT_LOADED", model_id="nonsense")


async def test_a_dry_run_unloads_nothing(modern: Any) -> None:
    await modern.call("load-model", model_id="org/llama")
    planned = await modern.call("unload-model", model_id="org/llama", dry_run=True)
    assert planned["status"] == "planned"
    assert planned["memory_freed_mb"] > 0
    assert (await modern.rows())["org/llama"]["status"] == "loaded"


async def test_a_busy_model_is_finished_first(desk: Any, site: HubSite) -> None:
    site.set_knobs(slow_stream_s=0.3)
    await desk.call("load-model", model_id="org/llama")
    async with busy(desk) as request:
        asked = await desk.call("unload-model", model_id="org/llama", wait_seconds=0)
        assert asked["status"] == "draining"
        assert asked["requests_in_flight"] == 1
        assert "force=true" in asked["note"]
    assert request["failed"] is False
    assert request["payload"]["finish_reason"] == "stop"
    wait_for(lambda: site.living() == [], "the drained engine ends")


async def test_force_drops_what_runs(modern: Any, site: HubSite) -> None:
    site.set_knobs(slow_stream_s=5, answer_tokens=100)
    await modern.call("load-model", model_id="org/llama")
    async with busy(modern) as request:
        unloaded = await modern.call("unload-model", model_id="org/llama", force=True)
        assert unloaded["status"] == "unloaded"
    assert request["failed"] or request["payload"]["finish_reason"] != "stop"


@pytest.mark.parametrize(
    ("action", "content", "status"),
    [
        ("accept", {"drop": True}, "unloaded"),
        ("accept", {"drop": False}, "draining"),
        ("decline", None, "kept"),
        ("cancel", None, "kept"),
    ],
)
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_that_can_is_asked_what_to_do_with_running_requests(
    new_desk: Callable[..., Any], site: HubSite, mode: str, action: Any, content: Any, status: str
) -> None:
    questions = []

    async def user(_context: object, params: Any) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action=action, content=content)

    site.set_knobs(slow_stream_s=0.4)
    async with new_desk(mode).open(elicitation_callback=user) as desk:
        await desk.call("load-model", model_id="org/llama")
        async with busy(desk):
            asked = await desk.call("unload-model", model_id="org/llama", wait_seconds=0)
            assert asked["status"] == status or (status == "unloaded" and asked["status"] == "unloading")
        assert len(questions) == 1
        assert "1 request(s)" in questions[0]


async def test_an_idle_model_is_unloaded_without_a_question(new_desk: Callable[..., Any]) -> None:
    async def user(_context: object, _params: Any) -> ElicitResult:
        raise AssertionError("nothing runs, so there is nothing to ask")

    async with new_desk().open(elicitation_callback=user) as desk:
        await desk.call("load-model", model_id="org/llama")
        assert (await desk.call("unload-model", model_id="org/llama"))["status"] == "unloaded"


async def test_a_start_can_be_unloaded(modern: Any, site: HubSite) -> None:
    site.set_knobs(load_s=30, swallow_first_sigterm=True)
    await modern.call("load-model", model_id="org/llama", wait_seconds=0)
    assert (await modern.call("unload-model", model_id="org/llama", force=True))["status"] == "unloaded"


async def test_sleep_frees_memory_and_wake_verifies_the_answer(desk: Any) -> None:
    await desk.call("load-model", model_id="org/llama")
    asleep = await desk.call("sleep-model", model_id="org/llama")
    assert asleep["status"] == "sleeping"
    assert asleep["freed_mb"] > 0
    assert (await desk.rows())["org/llama"]["status"] == "sleeping"
    assert (await desk.call("sleep-model", model_id="org/llama"))["status"] == "sleeping"
    awake = await desk.call("wake-model", model_id="org/llama")
    assert (awake["status"], awake["verified"]) == ("loaded", True)
    again = await desk.call("wake-model", model_id="org/llama")
    assert (again["verified"], again["reason"]) == (None, "it was awake already")


async def test_a_wait_of_no_seconds_answers_truthfully_and_the_work_goes_on(desk: Any) -> None:
    engine = (await desk.call("load-model", model_id="org/llama"))["engine_id"]
    going = await desk.call("sleep-model", model_id="org/llama", wait_seconds=0)
    assert (going["status"], going["engine_id"]) in {("going_to_sleep", engine), ("sleeping", engine)}
    await desk.until("org/llama", "sleeping")
    assert (await desk.call("sleep-model", model_id="org/llama"))["status"] == "sleeping"
    waking = await desk.call("wake-model", model_id="org/llama", wait_seconds=0)
    assert (waking["status"], waking["engine_id"]) in {("waking", engine), ("loaded", engine)}
    assert (waking["verified"] is True) == (waking["status"] == "loaded")
    await desk.until("org/llama", "loaded")
    later = await desk.call("wake-model", model_id="org/llama")
    assert later["verified"] is (True if waking["status"] == "waking" else None), later["reason"]


async def test_an_engine_that_cannot_be_woken_is_ended_and_said(modern: Any, site: HubSite) -> None:
    engine = (await modern.call("load-model", model_id="org/llama"))["engine_id"]
    await modern.call("sleep-model", model_id="org/llama", verify=False)
    (site.engine(engine).path / "api.sock").unlink()
    error = await modern.fail("wake-model", "ENGINE_UNREACHABLE", model_id="org/llama")
    assert error["details"]["engine_id"] == engine
    assert (await modern.until("org/llama", "error"))["engine_id"] == engine


async def test_without_an_answer_from_before_nothing_is_claimed(modern: Any) -> None:
    await modern.call("load-model", model_id="org/llama")
    await modern.call("sleep-model", model_id="org/llama", verify=False)
    awake = await modern.call("wake-model", model_id="org/llama")
    assert awake["verified"] is None
    assert "no answer from before" in awake["reason"]


async def test_a_sleep_that_is_a_lie_is_found_out(modern: Any, site: HubSite) -> None:
    site.set_knobs(sleep_is_a_lie=True)
    await modern.call("load-model", model_id="org/llama")
    await modern.fail("sleep-model", "ENGINE_SLEEP_FAILED", model_id="org/llama")
    assert (await modern.rows())["org/llama"]["status"] == "loaded"


async def test_a_busy_model_is_not_put_to_sleep(modern: Any, site: HubSite) -> None:
    site.set_knobs(slow_stream_s=1, answer_tokens=4)
    await modern.call("load-model", model_id="org/llama")
    async with busy(modern):
        await modern.fail("sleep-model", "MODEL_BUSY", model_id="org/llama", verify=False)


async def test_an_engine_with_a_port_of_its_own_cannot_sleep(modern: Any, unused_port: int) -> None:
    await modern.call("load-model", model_id="org/llama", port=unused_port)
    error = await modern.fail("sleep-model", "NOT_SUPPORTED", model_id="org/llama")
    assert "port" in error["message"]
    await modern.fail("wake-model", "NOT_SUPPORTED", model_id="org/llama")


@pytest.mark.parametrize("tool", ["sleep-model", "wake-model"])
async def test_what_is_not_loaded_neither_sleeps_nor_wakes(modern: Any, tool: str) -> None:
    await modern.fail(tool, "MODEL_NOT_LOADED", model_id="org/llama")


@pytest.mark.parametrize("level", [0, 3, "deep"])
async def test_sleep_has_two_levels(modern: Any, level: object) -> None:
    await modern.fail("sleep-model", "INVALID_ARGUMENT", model_id="org/llama", level=level)


# -- switching


def steps(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(step["action"], step["model_id"], step["result"]) for step in result["steps"]]


async def test_switching_puts_the_old_model_to_sleep_and_back_wakes_it(desk: Any, site: HubSite) -> None:
    await desk.call("load-model", model_id="org/llama")
    there = await desk.call("switch-model", to_model_id="org/second")
    assert steps(there) == [("sleep", "org/llama", "sleeping"), ("load", "org/second", "loaded")]
    assert all(step["seconds"] is not None for step in there["steps"])
    assert there["from_model_id"] == "org/llama"
    back = await desk.call("switch-model", to_model_id="org/llama", from_model_id="org/second", keep_asleep=False)
    assert steps(back) == [("unload", "org/second", "unloaded"), ("wake", "org/llama", "loaded")]
    assert [row["status"] for row in (await desk.rows()).values()].count("loaded") == 1


async def test_switching_to_what_is_loaded_only_puts_the_other_aside(modern: Any) -> None:
    for model in ("org/llama", "org/second"):
        await modern.call("load-model", model_id=model)
    result = await modern.call("switch-model", to_model_id="org/llama", from_model_id="org/second")
    assert [step["action"] for step in result["steps"]] == ["sleep", "none"]
    assert result["status"] == "loaded"


async def test_with_nothing_loaded_a_switch_is_a_load(modern: Any) -> None:
    result = await modern.call("switch-model", to_model_id="org/llama")
    assert steps(result) == [("load", "org/llama", "loaded")]


async def test_among_several_the_hub_makes_room(modern: Any) -> None:
    for model in ("org/llama", "org/second"):
        await modern.call("load-model", model_id=model)
    result = await modern.call("switch-model", to_model_id="org/third")
    assert [step["action"] for step in result["steps"]] == ["unload", "load"]
    assert result["from_model_id"] is None


async def test_a_dry_run_switches_nothing(modern: Any, site: HubSite) -> None:
    await modern.call("load-model", model_id="org/llama")
    planned = await modern.call("switch-model", to_model_id="org/second", dry_run=True)
    assert steps(planned) == [("sleep", "org/llama", "planned"), ("load", "org/second", "planned")]
    assert planned["status"] == "planned"
    assert (await modern.rows())["org/llama"]["status"] == "loaded"


@pytest.mark.parametrize("keep_asleep", [True, False])
async def test_when_the_new_model_fails_the_old_one_is_brought_back(
    modern: Any, site: HubSite, keep_asleep: bool
) -> None:
    site.set_knobs(oom_unless_max_model_len=600)
    await modern.call("load-model", model_id="org/llama", max_model_len=512)
    error = await modern.fail("switch-model", "ENGINE_OUT_OF_MEMORY", to_model_id="org/second", keep_asleep=keep_asleep)
    said = "was woken again and is loaded" if keep_asleep else "is being loaded again"
    assert f"org/llama {said}" in error["message"]
    assert error["details"]["steps"][0]["model_id"] == "org/llama"
    row = await modern.until("org/llama", "loaded")
    assert (row["engine_status"], row["context_window"]) == ("ready", 512)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"to_model_id": "no/such"}, "MODEL_NOT_FOUND"),
        ({"to_model_id": "org/second", "from_model_id": "org/third"}, "MODEL_NOT_LOADED"),
        ({"to_model_id": "org/llama", "from_model_id": "org/llama"}, "INVALID_ARGUMENT"),
        ({"to_model_id": "org/second", "tensor_parallel_size": 3}, "PARALLEL_SIZE_INVALID"),
        ({"to_model_id": "org/second", "extra_args": ["--host", "x"]}, "FLAG_NOT_ALLOWED"),
        ({"to_model_id": "org/second", "to": "x"}, "UNKNOWN_ARGUMENT"),
    ],
)
async def test_what_cannot_be_loaded_touches_nothing(modern: Any, arguments: dict[str, Any], code: str) -> None:
    await modern.call("load-model", model_id="org/llama")
    await modern.fail("switch-model", code, **arguments)
    assert (await modern.rows())["org/llama"]["engine_status"] == "ready"


async def test_a_model_that_stays_busy_is_left_alone(modern: Any, site: HubSite) -> None:
    site.set_knobs(slow_stream_s=1, answer_tokens=3)
    await modern.call("load-model", model_id="org/llama")
    async with busy(modern) as request:
        error = await modern.fail("switch-model", "MODEL_BUSY", to_model_id="org/second", wait_seconds=0)
        assert "nothing was changed" in error["message"]
    assert request["failed"] is False
    assert (await modern.rows())["org/llama"]["engine_status"] == "ready"
