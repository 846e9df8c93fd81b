"""load-model through a real hub: ready, pending, planned, joined, refused, failed, cancelled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.hubs import HubSite, wait_for

pytestmark = pytest.mark.anyio


async def test_a_load_waits_reports_its_progress_and_explains_itself(desk: Any, site: HubSite) -> None:
    site.set_knobs(load_s=0.6)
    loaded = await desk.call("load-model", model_id="org/llama", max_model_len=512, max_num_seqs=4)
    assert (loaded["status"], loaded["model_id"], loaded["joined"]) == ("loaded", "org/llama", False)
    assert loaded["endpoint"].startswith("unix:")
    assert loaded["memory_required_mb"] > 0
    assert loaded["memory_basis"]
    assert "--max-model-len" in loaded["argv"]
    assert loaded["reasons"]
    assert loaded["load_time_seconds"] > 0
    done = [value for value, _, _ in desk.progress]
    assert done == sorted(set(done)), "progress rises"
    assert all(total is not None and value <= total for value, total, _ in desk.progress)
    assert any("org/llama: " in (message or "") for _, _, message in desk.progress)


async def test_a_load_that_is_not_awaited_goes_on(desk: Any, site: HubSite) -> None:
    site.set_knobs(load_s=1.0)
    pending = await desk.call("load-model", model_id="org/llama", wait_seconds=0)
    assert pending["status"] == "loading"
    assert (await desk.rows())["org/llama"]["status"] == "loading"
    row = await desk.until("org/llama", "loaded")
    assert row["engine_id"] == pending["engine_id"]


async def test_a_dry_run_starts_nothing(desk: Any, site: HubSite) -> None:
    planned = await desk.call("load-model", model_id="org/llama", dry_run=True)
    assert (planned["status"], planned["engine_id"]) == ("planned", None)
    assert planned["argv"][:3] == ["vllm", "serve", "org/llama"]
    assert site.living() == []


async def test_a_second_load_joins_and_says_what_it_did_not_get(desk: Any) -> None:
    first = await desk.call("load-model", model_id="org/llama", max_num_seqs=4)
    second = await desk.call("load-model", model_id="org/llama", max_num_seqs=8)
    assert second["engine_id"] == first["engine_id"]
    assert second["joined"]
    assert any("max_num_seqs=8 was not applied" in reason for reason in second["reasons"])
    dry = await desk.call("load-model", model_id="org/llama", max_num_seqs=8, dry_run=True)
    assert any("max_num_seqs=8 was not applied" in reason for reason in dry["reasons"])


async def test_a_sleeping_model_is_woken_by_a_load(modern: Any) -> None:
    await modern.call("load-model", model_id="org/llama")
    await modern.call("sleep-model", model_id="org/llama", verify=False)
    again = await modern.call("load-model", model_id="org/llama")
    assert (again["status"], again["joined"]) == ("loaded", True)


async def test_defaults_of_the_settings_are_applied_and_named(new_desk: Callable[..., Any]) -> None:
    variables = {"VLLM_MAX_MODEL_LEN": "256", "UNLOAD_IDLE_MODELS_MINUTES": "30"}
    async with new_desk().open(variables=variables) as desk:
        planned = await desk.call("load-model", model_id="org/llama", dry_run=True)
        assert "256" in planned["argv"]
        assert any("VLLM_MAX_MODEL_LEN" in reason for reason in planned["reasons"])
        await desk.call("load-model", model_id="org/llama")
        info = await desk.call("get-model-info", model_id="org/llama")
    assert info["config"]["ttl_seconds"] == 1800


async def test_pin_and_ttl_are_kept(modern: Any) -> None:
    await modern.call("load-model", model_id="org/llama", pin=True)
    await modern.call("load-model", model_id="org/second", ttl_minutes=5)
    assert (await modern.call("get-model-info", model_id="org/llama"))["config"]["pin"] is True
    assert (await modern.call("get-model-info", model_id="org/second"))["config"]["ttl_seconds"] == 300


async def test_make_room_unloads_the_idle_one_and_says_so(modern: Any) -> None:
    for model in ("org/llama", "org/second"):
        await modern.call("load-model", model_id=model)
    await modern.fail("load-model", "GPU_MEMORY_INSUFFICIENT", model_id="org/third")
    loaded = await modern.call("load-model", model_id="org/third", make_room=True)
    assert len(loaded["evicted"]) == 1
    assert (await modern.until("org/llama", "unloaded"))["engine_id"] is None


async def test_a_local_folder_in_the_project_is_served(modern: Any, site: HubSite) -> None:
    snapshot = Path(site.env["HF_HOME"]) / "hub/models--org--llama/snapshots/c0ffee"
    folder = modern.project / "mine"
    folder.mkdir()
    for file in snapshot.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    loaded = await modern.call("load-model", model_id=str(folder), served_model_name="mine")
    assert (loaded["model_id"], loaded["served_name"]) == (str(folder), "mine")
    assert (await modern.call("generate-text", prompt="x", model_id="mine"))["text"]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"model_id": "org/lama"}, "MODEL_NOT_FOUND", "org/llama"),
    ({"model_id": "no/such"}, "MODEL_NOT_FOUND", "HF_HUB_OFFLINE"),
    ({"model_id": "org/llama", "revision": "v9"}, "MODEL_NOT_FOUND", "v9"),
    ({"model_id": "org/../etc"}, "INVALID_ARGUMENT", "org/name"),
    ({"model_id": "/etc"}, "PATH_NOT_ALLOWED", "/etc"),
    ({"model_id": "org/partial"}, "BAD_CHECKPOINT", "1 of 2 weight files are missing"),
    ({"model_id": "org/lora"}, "INVALID_ARGUMENT", "load-lora"),
    ({"model_id": "org/llama", "modle_id": "x"}, "UNKNOWN_ARGUMENT", "model_id"),
    ({}, "INVALID_ARGUMENT", "model_id"),
    ({"model_id": "org/llama", "gpu_memory_utilization": 1.5}, "INVALID_ARGUMENT", "1.5"),
    ({"model_id": "org/llama", "tensor_parallel_size": 0}, "INVALID_ARGUMENT", "0"),
    ({"model_id": "org/llama", "wait_seconds": -1}, "INVALID_ARGUMENT", "wait_seconds"),
    ({"model_id": "org/llama", "dtype": "int3"}, "INVALID_ARGUMENT", "bfloat16"),
    ({"model_id": "org/llama", "extra_args": "--x"}, "INVALID_ARGUMENT", "a list"),
    ({"model_id": "org/llama", "pin": True, "ttl_minutes": 5}, "CONFLICTING_FLAGS", "ttl_minutes"),
    (
        {"model_id": "org/llama", "enforce_eager": True, "extra_args": ["--enforce-eager"]},
        "CONFLICTING_FLAGS",
        "--enforce-eager",
    ),
    ({"model_id": "org/llama", "quantization": "awq"}, "BAD_QUANTIZATION", "awq"),
    ({"model_id": "org/llama", "tensor_parallel_size": 3}, "PARALLEL_SIZE_INVALID", "4 attention heads"),
    ({"model_id": "org/llama", "tensor_parallel_size": 4}, "TOO_FEW_DEVICES", "4"),
    ({"model_id": "org/llama", "gpu_ids": [7]}, "NO_SUCH_GPU", "7"),
    ({"model_id": "org/llama", "max_model_len": 4096}, "CONTEXT_TOO_LONG", "1024"),
    ({"model_id": "org/llama", "extra_args": ["--middleware", "os.system"]}, "FLAG_NOT_ALLOWED", "--middleware"),
    ({"model_id": "org/llama", "extra_args": ["--host", "0.0.0.0"]}, "FLAG_NOT_ALLOWED", "--host"),
    ({"model_id": "org/llama", "extra_args": ["--swap-space", "4"]}, "FLAG_NOT_SUPPORTED", "--swap-space"),
]


@pytest.mark.parametrize(("arguments", "code", "mentions"), BAD, ids=lambda value: str(value)[:50])
async def test_bad_input_is_named_and_nothing_is_started(
    modern: Any, site: HubSite, arguments: dict[str, Any], code: str, mentions: str
) -> None:
    error = await modern.fail("load-model", code, **arguments)
    assert mentions in str(error)
    assert site.living() == []
    assert (await modern.call("list-models", filter_by_status="loading"))["models"] == []


async def test_a_failed_start_tells_the_cause_the_next_step_and_the_log(desk: Any, site: HubSite) -> None:
    site.set_knobs(oom=True)
    error = await desk.fail("load-model", "ENGINE_OUT_OF_MEMORY", model_id="org/llama")
    assert error["details"]["engine_id"].startswith("e")
    assert 0 < len(error["details"]["log_tail"]) <= 4000
    row = (await desk.rows())["org/llama"]
    assert row["status"] == "error"
    assert row["error"].startswith("ENGINE_OUT_OF_MEMORY")
    log = await desk.call("get-model-logs", model_id="org/llama", tail=20)
    assert log["error_code"] == "ENGINE_OUT_OF_MEMORY"
    assert "Next: " in log["diagnosis"]
    assert log["lines"]


async def test_after_out_of_memory_it_is_tried_smaller_when_that_was_allowed(modern: Any, site: HubSite) -> None:
    site.set_knobs(oom_unless_max_model_len=600)
    loaded = await modern.call("load-model", model_id="org/llama", allow_smaller=True)
    assert loaded["status"] == "loaded"


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_cancelling_stops_the_engine_that_this_call_started(modern: Any, site: HubSite, mode: str) -> None:
    site.set_knobs(load_s=30)
    other = type(modern)(site, mode, modern.project)
    async with other.open():
        with anyio.move_on_after(1.5) as scope:
            await other.call("load-model", model_id="org/llama")
        assert scope.cancelled_caught
        await modern.until("org/llama", "unloaded")
    wait_for(lambda: site.living() == [], "nothing of the cancelled load runs")


async def test_cancelling_a_joined_load_leaves_the_engine_to_its_owner(modern: Any, site: HubSite) -> None:
    site.set_knobs(load_s=2)
    first = await modern.call("load-model", model_id="org/llama", wait_seconds=0)
    with anyio.move_on_after(0.5) as scope:
        await modern.call("load-model", model_id="org/llama")
    assert scope.cancelled_caught
    row = await modern.until("org/llama", "loaded", "unloaded")
    assert (row["status"], row["engine_id"]) == ("loaded", first["engine_id"])


async def test_a_load_that_somebody_else_ends_says_so(modern: Any, site: HubSite) -> None:
    site.set_knobs(load_s=30)
    outcome: dict[str, Any] = {}

    async def load() -> None:
        outcome.update(await modern.fail("load-model", "MODEL_NOT_LOADED", model_id="org/llama"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load)
        await modern.until("org/llama", "loading")
        async with site.client() as hub:
            [view] = [v for v in (await hub.state()).engines if v.status != "stopped"]
            await hub.stop(view.id, force=True)
    assert "unloaded by somebody else" in outcome["message"]
