"""The monitor at work: a real hub with fake engines, asked through a real client."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.fakes.scripted_server import Request, scripted
from tests.hubs import HubSite
from tests.monitor_desk import LIMIT_S, QUICK, MonitorDesk
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.settings import Settings
from vllm_performance_monitor.server import build_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def site() -> Iterator[HubSite]:
    made = HubSite(gpus=2)
    yield made
    made.close()


@pytest.fixture
def new_desk(site: HubSite, tmp_path: Path) -> Callable[..., MonitorDesk]:
    return lambda mode="auto": MonitorDesk(site, mode, tmp_path)


@pytest.fixture
async def desk(new_desk: Callable[..., MonitorDesk]) -> AsyncIterator[MonitorDesk]:
    async with new_desk().open(variables=QUICK) as opened:
        yield opened


async def until(look: Callable[[], Any], what: str) -> Any:
    """What `look` gives as soon as it is true."""
    with anyio.fail_after(LIMIT_S):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(0.1)
    raise AssertionError(what)


async def ask(desk: MonitorDesk, model: str = "org/small", count: int = 3) -> None:
    async with desk.site.client() as hub, hub.lease(model) as endpoint, EngineHttp(endpoint) as http:
        for _ in range(count):
            await http.chat({"model": endpoint.served_name, "messages": [{"role": "user", "content": "hello"}]})


async def test_without_an_engine_the_hardware_is_told(desk: MonitorDesk) -> None:
    await desk.call("get-metrics")
    found = await until(lambda: _with(desk, "hardware"), "the GPUs are seen")
    assert [row["device"] for row in found["hardware"]] == ["gpu:0", "gpu:1"]
    assert (found["engines"], found["total"]) == ([], None)
    assert "no engine was seen" in " ".join(found["notes"])


async def _with(desk: MonitorDesk, part: str, **arguments: Any) -> dict[str, Any] | None:
    found = await desk.call("get-metrics", **arguments)
    return found if found[part] else None


async def test_requests_show_in_rates_latency_and_history(desk: MonitorDesk) -> None:
    await desk.loaded()
    await desk.call("get-metrics")
    await until(lambda: _with(desk, "engines"), "the engine is seen")
    await ask(desk, count=5)

    async def counted() -> dict[str, Any] | None:
        found = await desk.call("get-metrics", duration_seconds=30, model_id="org/small", metrics=None)
        (engine,) = found["engines"]
        return found if (engine["requests"]["total"] or 0) >= 5 else None

    found = await until(counted, "five requests were counted")
    (engine,) = found["engines"]
    assert (engine["engine"], engine["answers"], engine["requests"]["failed"]) == ("org/small", True, 0)
    assert engine["throughput"]["generation_tokens_per_second"] > 0
    assert found["total"]["requests"]["total"] == engine["requests"]["total"]
    more = await desk.call(
        "get-metrics", duration_seconds=30, metrics=["latency", "num_requests_running"], include_history=True
    )
    (engine,) = more["engines"]
    assert engine["throughput"] is None
    assert engine["custom"] == {"num_requests_running": 0}
    assert {row["metric"] for row in more["history"]} >= {"rate:generation_tokens", "num_requests_running"}
    assert all(row["times"] for row in more["history"])


async def test_a_model_that_nobody_serves_is_named_with_those_that_are(desk: MonitorDesk) -> None:
    await desk.loaded()
    await desk.call("get-metrics")
    await until(lambda: _with(desk, "engines"), "the engine is seen")
    error = await desk.fail("get-metrics", "MODEL_NOT_LOADED", model_id="org/smal")
    assert "give org/small" in error["details"]["suggestion"]


async def test_an_engine_that_is_killed_raises_one_alert_which_clears_on_recovery(desk: MonitorDesk) -> None:
    rule = await desk.call("set-alert-rule", rule="engine-down", for_seconds=0.5)
    assert rule["rule"]["metric"] == "answering"
    engine_id = await desk.loaded()
    await until(lambda: _with(desk, "engines"), "the engine is seen")
    for pid in desk.site.members(engine_id):
        os.kill(pid, signal.SIGKILL)

    async def active() -> list[dict[str, Any]]:
        return [one for one in (await desk.call("get-alerts"))["active"] if one["rule"] == "engine-down"]

    (alert,) = await until(active, "the alert is raised")
    assert alert["engine"] == "engine:org/small"
    assert alert["suggestion"]
    await desk.loaded()

    async def over() -> list[dict[str, Any]]:
        past = (await desk.call("get-alerts", active_only=False))["past"]
        return [one for one in past if one["rule"] == "engine-down" and one["kind"] == "cleared"]

    await desk.call("set-alert-rule", rule="engine-down", for_seconds=0.5)
    with anyio.fail_after(40):
        while not await over():
            await asyncio.sleep(0.2)
    past = (await desk.call("get-alerts", active_only=False))["past"]
    kinds = [one["kind"] for one in past if one["rule"] == "engine-down"]
    assert kinds == ["cleared", "raised"]
    assert not await active()


async def elsewhere(request: Request) -> None:
    """An engine of somebody else that serves the same model."""
    bodies = {"/v1/models": b'{"data": [{"id": "org/small"}]}', "/metrics": b"vllm:num_requests_running 1\n"}
    body = bodies.get(request.path)
    status = b"404 Not Found" if body is None else b"200 OK"
    await request.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body or b""), body or b""))


async def test_of_two_engines_that_serve_the_same_each_has_its_own_figures(desk: MonitorDesk) -> None:
    async with scripted(elsewhere) as server, desk.site.client() as hub:
        await hub.attach(f"http://127.0.0.1:{server.port}")
        engine_id = await desk.loaded()
        await desk.call("get-metrics")

        async def both() -> list[dict[str, Any]] | None:
            rows = (await desk.call("get-metrics"))["engines"]
            return rows if len(rows) == 2 else None

        rows = await until(both, "both are seen")
    assert [(row["engine"], row["engine_id"]) for row in rows] == [
        ("org/small", "r1"),
        ("org/small (2)", engine_id),
    ]
    assert [row["memory"]["promised_mb"] is not None for row in rows] == [False, True]


async def test_an_engine_that_was_unloaded_raises_nothing(desk: MonitorDesk) -> None:
    await desk.call("set-alert-rule", rule="engine-down", for_seconds=0.2)
    engine_id = await desk.loaded()
    await until(lambda: _with(desk, "engines"), "the engine is seen")
    async with desk.site.client() as hub:
        await hub.stop(engine_id)
    await asyncio.sleep(1.5)
    assert [one for one in (await desk.call("get-alerts", active_only=False))["past"] if "engine" in one["rule"]] == []


async def test_bad_rules_are_refused_and_change_nothing(desk: MonitorDesk) -> None:
    for bad, code in (
        ({"rule": "kv-pressure", "threshold": 50, "clear_threshold": 60}, "INVALID_ARGUMENT"),
        ({"rule": "mine"}, "INVALID_ARGUMENT"),
        ({"rule": "mine", "metric": "kv_usagee", "threshold": 1}, "INVALID_ARGUMENT"),
    ):
        await desk.fail("set-alert-rule", code, **bad)
    assert (await desk.call("get-alerts"))["notes"] == []


async def test_what_was_changed_of_a_rule_can_be_undone(desk: MonitorDesk) -> None:
    await desk.call("set-alert-rule", rule="mine", metric="kv_usage", threshold=70)
    await desk.call("set-alert-rule", rule="kv-pressure", threshold=80)
    assert (await desk.call("set-alert-rule", rule="mine", undo=True))["rule"] is None
    built_in = (await desk.call("set-alert-rule", rule="kv-pressure", undo=True))["rule"]
    assert (built_in["threshold"], built_in["origin"]) == (95, "built in")
    await desk.fail("set-alert-rule", "INVALID_ARGUMENT", rule="mine", undo=True)
    await desk.fail("set-alert-rule", "INVALID_ARGUMENT", rule="kv-pressure", undo=True, threshold=80)


async def test_gpus_and_memory_are_told(desk: MonitorDesk) -> None:
    await desk.loaded()
    found = await desk.call("get-gpu-stats", gpu_ids=["1"], include_processes=True)
    (gpu,) = found["gpus"]
    assert (gpu["id"], gpu["name"], gpu["throttle_reasons"]) == ("1", "Fake H100", [])
    assert "temperature" in gpu
    assert "temperature" not in (await desk.call("get-gpu-stats", include_temperature=False))["gpus"][0]
    await desk.fail("get-gpu-stats", "INVALID_ARGUMENT", gpu_ids=["9"])
    memory = await desk.call("get-memory-stats")
    assert [one["gpu"] for one in memory["gpu_memory"]] == ["0", "1"]
    assert memory["system_memory"]["total_mb"] > 0
    (model,) = memory["model_memory"]
    assert model["model"] == "org/small"
    assert set(model["how"]) >= {"weights_mb", "kv_cache_mb", "measured_mb", "promised_mb"}


async def test_a_machine_without_a_gpu_shows_its_host(new_desk: Callable[..., MonitorDesk], site: HubSite) -> None:
    site.set_gpus(0)
    async with new_desk().open(variables=QUICK) as desk:
        await desk.call("get-metrics")
        found = await until(lambda: _with(desk, "hardware"), "the host is seen")
        assert [row["device"] for row in found["hardware"]] == ["host"]
        stats = await desk.call("get-gpu-stats")
        assert (stats["gpus"], stats["host"]["memory"]["total_bytes"] > 0) == ([], True)


async def test_the_history_outlives_the_hub(desk: MonitorDesk) -> None:
    await desk.loaded()
    await ask(desk)
    await until(lambda: _with(desk, "engines", duration_seconds=600), "the engine is seen")
    await asyncio.sleep(0.6)
    desk.site.kill_hub()
    found = await desk.call("get-metrics", duration_seconds=600)
    assert [engine["covered_seconds"] > 0 for engine in found["engines"]] == [True], "at the first question"


async def test_trends_and_pictures(desk: MonitorDesk) -> None:
    await desk.loaded()
    await until(lambda: _with(desk, "engines"), "the engine is seen")
    await ask(desk)
    await asyncio.sleep(1)
    trend = await desk.call("get-trends", metric="running", duration_hours=0.1)
    assert trend["points"] > 0
    assert trend["in_words"]
    await desk.fail("get-trends", "INVALID_ARGUMENT", metric="speed")
    result = await desk.client.call_tool("plot-metrics", {"metrics": ["running", "gpu_memory"], "duration_seconds": 60})
    assert not result.is_error, result
    text, image = result.content
    assert (text.type, image.type) == ("text", "image")
    drawn = json.loads(text.text)  # type: ignore[union-attr]
    assert Path(drawn["path"]).read_bytes().startswith(b"\x89PNG")
    assert len(drawn["series"]) == 3


async def test_the_resources_tell_the_same(desk: MonitorDesk) -> None:
    await desk.loaded()
    await until(lambda: _with(desk, "engines"), "the engine is seen")
    for uri in ("metrics://current", "metrics://history/10m"):
        told = json.loads((await desk.client.read_resource(uri)).contents[0].text)  # type: ignore[union-attr]
        assert [one["engine"] for one in told["engines"]] == ["org/small"]
    assert json.loads((await desk.client.read_resource("alerts://active")).contents[0].text)["alerts"] == []  # type: ignore[union-attr]


async def test_settings_of_two_clients_change_the_hub_for_both_and_are_written_down(
    new_desk: Callable[..., MonitorDesk], site: HubSite
) -> None:
    thresholds = {"ALERT_THRESHOLD_KV_USAGE": "80"}, {"ALERT_THRESHOLD_GPU_UTIL": "70"}
    async with new_desk().open(variables={**thresholds[0], "MONITOR_INTERVAL_MS": "300"}) as desk:
        await desk.call("get-alerts")
    async with new_desk().open(variables={**thresholds[1], "ENABLE_ALERTS": "false"}) as desk:
        assert "alerts are off" in " ".join((await desk.call("get-alerts"))["notes"])
    async with site.client() as hub:
        assert {"kv_usage": 80, "gpu_util": 70}.items() <= {
            rule.metric: rule.threshold for rule in (await hub.alerts()).rules
        }.items()
        assert (await hub.metrics(60)).interval_s == 0.3
        refused = {**QUICK, "VLLM_MCP_READ_ONLY": "1"}
        async with new_desk().open(variables=refused) as desk:
            await desk.call("get-alerts")
        assert (await hub.metrics(60)).interval_s == 0.3, "who may only read changes nothing"
        async with new_desk().open(variables={"MONITOR_INTERVAL_MS": "5000", "ENABLE_ALERTS": "true"}) as desk:
            assert (await desk.call("get-alerts"))["notes"] == [], "a default can be asked for"
        assert (await hub.metrics(60)).interval_s == 5
    written = [json.loads(line) for line in (site.state / "audit.jsonl").read_text().splitlines()]
    assert [one["interval_ms"] for one in written if "interval_ms" in one] == [300, 5000]


def test_every_tool_is_named_in_the_instructions() -> None:
    from vllm_performance_monitor.description import DESCRIPTION

    tools = build_server(Settings.from_environment({})).registered_tools
    assert [name for name in tools if name not in DESCRIPTION.instructions] == []
