"""Engines captured from a real hub with fake engines, and brought back on another one."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.hubs import HubSite, wait_for, wish
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.hf.cache import find
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineStatus, EngineView, ModelConfig
from vllm_state_persistence.core.engine_capture import EngineCapture, read_capture
from vllm_state_persistence.engines import EngineObserver, Site, make_plan
from vllm_state_persistence.restoring import Outcome, restore
from vllm_state_persistence.warming import warm

pytestmark = pytest.mark.anyio
WAIT_S = 30.0
"""For tests that fail."""

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "float32",
    "max_position_embeddings": 1024,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}
ADAPTER = {"base_model_name_or_path": "org/llama", "r": 8, "peft_type": "LORA"}


def add_repo(site: HubSite, name: str, files: dict[str, str], commit: str = "c0ffee") -> Path:
    """A repository in the site's cache; its snapshot."""
    repo = Path(site.env["HF_HOME"]) / "hub" / ("models--" + name.replace("/", "--"))
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    for file, text in files.items():
        (snapshot / file).write_text(text)
    return snapshot


def furnish(site: HubSite) -> HubSite:
    for name in ("org/llama", "org/second"):
        add_repo(site, name, {"config.json": json.dumps(CONFIG), "model.safetensors": "\0" * 2048})
    add_repo(site, "org/style", {"adapter_config.json": json.dumps(ADAPTER), "adapter_model.safetensors": "\0"})
    return site


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[HubSite, HubSite]]:
    """Two hosts for all tests of the module: starting a hub takes half a second."""
    made = (furnish(HubSite(gpus=2)), furnish(HubSite(gpus=2)))
    yield made
    for site in made:
        site.close()


@pytest.fixture
async def first(sites: tuple[HubSite, HubSite]) -> AsyncIterator[HubSite]:
    """The host on which the snapshot is made."""
    yield sites[0]
    await empty(sites[0])


@pytest.fixture
async def second(sites: tuple[HubSite, HubSite]) -> AsyncIterator[HubSite]:
    """Another host, on which nothing runs."""
    yield sites[1]
    await empty(sites[1])


async def empty(site: HubSite) -> None:
    """No engines, no defaults, the fake's usual behaviour."""
    site.set_knobs()
    site.set_gpus(2)
    async with site.client() as hub:
        for model in (await hub.state()).model_configs:
            await hub.set_model_config(model, None)
        for view in (await live(hub)).values():
            await hub.stop(view.id, force=True)
        with anyio.fail_after(WAIT_S):
            while await live(hub):
                await anyio.sleep(0.02)


async def load(hub: Hub, site: HubSite, model: str, **more: Any) -> EngineView:
    """A ready engine."""
    facts = find(model, [Path(site.env["HF_HOME"]) / "hub"])
    grant = await hub.load(wish(model, facts=facts, **more))
    assert grant.engine is not None
    view = grant.engine
    with anyio.fail_after(WAIT_S):
        while view.status is not EngineStatus.READY:
            assert view.status is not EngineStatus.STOPPED, view.failure
            view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=WAIT_S)
    return view


async def put_to_sleep(hub: Hub, view: EngineView) -> None:
    view = await hub.sleep(view.id)
    with anyio.fail_after(WAIT_S):
        while view.status is not EngineStatus.SLEEPING:
            view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=WAIT_S)


def flags(view: EngineView) -> list[str]:
    """The command line without what differs from host to host: program, socket."""
    words = list(view.argv[1:])
    if "--uds" in words:
        del words[words.index("--uds") : words.index("--uds") + 2]
    return words


async def live(hub: Hub) -> dict[str, EngineView]:
    return {v.served_name: v for v in (await hub.state()).engines if v.status is not EngineStatus.STOPPED}


async def bring_back(site: HubSite, hub: Hub, captured: EngineCapture, **more: Any) -> dict[str, Outcome]:
    """Outcomes by subject; defaults of a model as `config of …`."""
    place = Site(site.settings())
    steps = await make_plan(hub, place, captured, force=more.pop("force", False))
    outcomes = await restore(hub, steps, site=place, **({"wait_s": WAIT_S} | more))
    assert [outcome.step for outcome in outcomes] == list(steps)
    return {(f"config of {o.step.subject}" if o.step.config else o.step.subject): o for o in outcomes}


async def set_up(site: HubSite, hub: Hub) -> EngineCapture:
    """One of everything: options, a pin, an idle limit, an adapter, another name, sleep, request defaults."""
    options = {"max_model_len": 512, "enable_lora": True, "max_num_seqs": 4, "extra_args": ("--seed", "7")}
    await load(hub, site, "org/llama", options=options | {"gpu_memory_utilization": 0.4}, gpu_ids=(1,), pin=True)
    await hub.load_lora((await live(hub))["org/llama"].id, "style", str(style_folder(site)))
    sleeper = {"served_model_name": "fast", "enable_lora": True, "gpu_memory_utilization": 0.9}
    asleep = await load(hub, site, "org/second", options=sleeper, gpu_ids=(0,), ttl_s=3600.0)
    await hub.load_lora(asleep.id, "tone", str(style_folder(site)))
    observer = EngineObserver(hub)
    await observer.capture()  # a sleeping engine is not asked for its adapters
    await put_to_sleep(hub, asleep)
    await load(
        hub, site, "org/second", options={"gpu_memory_utilization": 0.8, "served_model_name": "wide"}, gpu_ids=(0,)
    )
    await hub.set_model_config("org/llama", ModelConfig(temperature=0.25, stop=("END",), system_prompt="Be brief."))
    return await observer.capture()


async def test_the_same_engines_come_back_on_a_fresh_host() -> None:
    first, second = furnish(HubSite(gpus=2)), furnish(HubSite(gpus=2))
    try:
        await come_back(first, second)
    finally:
        first.close()
        second.close()


async def come_back(first: HubSite, second: HubSite) -> None:
    async with first.client() as hub:
        captured = read_capture((await set_up(first, hub)).to_bytes())
        before = await live(hub)
    first.kill_all()
    assert first.living() == []

    async with second.client() as hub:
        outcomes = await bring_back(second, hub, captured)
        after = await live(hub)
        assert {name: o.status for name, o in outcomes.items()} == {
            "config of org/llama": "done",
            "org/llama": "done",
            "fast": "done",
            "wide": "done",
        }, outcomes
        assert {name: flags(view) for name, view in after.items()} == {n: flags(v) for n, v in before.items()}
        for name, view in before.items():
            same = ("status", "devices", "pinned", "ttl_s", "loras", "options", "model_id")
            assert {k: getattr(after[name], k) for k in same} == {k: getattr(view, k) for k in same}
        state = await hub.state()
        assert state.model_configs == {
            "org/llama": ModelConfig(temperature=0.25, stop=("END",), system_prompt="Be brief.")
        }
        again = await EngineObserver(hub).capture()
        told = {engine.served_name: engine for engine in captured.engines}
        for engine in again.engines:
            assert engine.model_copy(update={"loras": ()}) == told[engine.served_name].model_copy(update={"loras": ()})
        assert {o.status for o in (await bring_back(second, hub, captured)).values()} == {"unchanged"}


async def styled(hub: Hub, site: HubSite) -> EngineView:
    """A ready engine with an adapter."""
    view = await load(hub, site, "org/llama", options={"enable_lora": True})
    return await hub.load_lora(view.id, "style", str(style_folder(site)))


def style_folder(site: HubSite) -> Path:
    return Path(site.env["HF_HOME"]) / "hub/models--org--style/snapshots/c0ffee"


async def test_an_adapter_is_found_in_the_cache_of_the_other_host(first: HubSite, second: HubSite) -> None:
    async with first.client() as hub:
        await styled(hub, first)
        await hub.set_model_config("org/llama", ModelConfig(temperature=0.25))
        captured = await EngineObserver(hub).capture()
    (lora,) = captured.engines[0].loras
    assert (lora.repo, lora.revision) == ("org/style", "c0ffee")
    async with second.client() as hub:
        steps = await make_plan(hub, Site(second.settings()), captured, force=True)
        assert [step.action for step in steps] == ["set-config", "load"]
        assert steps[1].adapters == (("style", str(style_folder(second))),)
        state = await hub.state()
        assert (await live(hub), state.model_configs) == ({}, {}), "a plan touches nothing"


async def test_capturing_again_asks_no_engine_that_did_not_change(first: HubSite) -> None:
    async with first.client() as hub:
        await styled(hub, first)
        observer = EngineObserver(hub)
        once = await observer.capture()
        used = (await live(hub))["org/llama"].last_used_at
        again = await observer.capture()
        assert again.to_bytes() == once.to_bytes()
        assert once.engines[0].loras[0].path == str(style_folder(first))
        later = (await live(hub))["org/llama"].last_used_at
        assert used is not None
        assert later == pytest.approx(used, abs=1e-3), "it would never become idle"


async def test_engines_with_another_configuration_stay_unless_forced(second: HubSite, first: HubSite) -> None:
    async with first.client() as hub:
        await load(hub, first, "org/llama", options={"max_model_len": 512})
        captured = await EngineObserver(hub).capture()
    async with second.client() as hub:
        view = await load(hub, second, "org/llama", options={"max_model_len": 256})
        await hub.set_model_config("org/llama", ModelConfig(top_p=0.5))
        kept = (await bring_back(second, hub, captured))["org/llama"]
        assert kept.status == "kept"
        assert "max_model_len was 512, is 256" in kept.reason
        assert (await live(hub))["org/llama"].id == view.id
        forced = (await bring_back(second, hub, captured, force=True))["org/llama"]
        assert (forced.status, forced.engine_id != view.id) == ("done", True)
        assert (await live(hub))["org/llama"].options.max_model_len == 512
        assert (await hub.state()).model_configs == {"org/llama": ModelConfig(top_p=0.5)}


async def test_what_is_there_is_woken_put_to_sleep_and_given_adapters(first: HubSite) -> None:
    async with first.client() as hub:
        view = await styled(hub, first)
        awake = await EngineObserver(hub).capture()
        await hub.unload_lora(view.id, "style")
        given = (await bring_back(first, hub, awake))["org/llama"]
        assert (given.step.action, given.status) == ("load-lora", "done")
        assert (await live(hub))["org/llama"].loras == ("style",)
        asleep_before = awake.model_copy(update={"engines": (awake.engines[0].model_copy(update={"asleep": True}),)})
        slept = (await bring_back(first, hub, asleep_before))["org/llama"]
        assert (slept.step.action, slept.status) == ("sleep", "done")
        assert (await live(hub))["org/llama"].status is EngineStatus.SLEEPING
        woken = (await bring_back(first, hub, awake))["org/llama"]
        assert (woken.step.action, woken.status) == ("wake", "done")
        assert (await live(hub))["org/llama"].status is EngineStatus.READY


async def test_one_failure_does_not_stop_the_others(first: HubSite, second: HubSite) -> None:
    async with first.client() as hub:
        await load(hub, first, "org/llama", options={"extra_args": ("--seed", "7")})
        await load(hub, first, "org/second")
        captured = await EngineObserver(hub).capture()
    third = captured.engines[0].model_copy(update={"model_id": "org/gone", "served_name": "org/gone"})
    odd = captured.engines[0].model_copy(
        update={"served_name": "odd", "options": {"served_model_name": "odd", "extra_args": ["--host", "0.0.0.0"]}}
    )
    captured = captured.model_copy(update={"engines": (third, odd, *captured.engines)})
    second.set_gpus(3)
    async with second.client() as hub:
        outcomes = await bring_back(second, hub, captured)
        assert {name: o.status for name, o in outcomes.items()} == {
            "org/gone": "blocked",
            "odd": "failed",
            "org/llama": "done",
            "org/second": "done",
        }, outcomes
        error = outcomes["odd"].error
        assert error is not None
        assert error.code == "FLAG_NOT_ALLOWED"
        assert outcomes["org/gone"].step.suggestion.startswith("download-model org/gone")


async def test_an_engine_that_dies_at_its_start_is_explained(first: HubSite, second: HubSite) -> None:
    async with first.client() as hub:
        await load(hub, first, "org/llama")
        captured = await EngineObserver(hub).capture()
    second.set_knobs(oom=True)
    async with second.client() as hub:
        outcome = (await bring_back(second, hub, captured))["org/llama"]
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "ENGINE_OUT_OF_MEMORY"
    assert outcome.engine_id


async def test_a_gpu_that_is_taken_gives_way_to_another(first: HubSite, second: HubSite) -> None:
    async with first.client() as hub:
        await load(hub, first, "org/llama", gpu_ids=(0,))
        captured = await EngineObserver(hub).capture()
    async with second.client() as hub:
        await load(hub, second, "org/second", gpu_ids=(0,))
        outcome = (await bring_back(second, hub, captured))["org/llama"]
        assert outcome.status == "done"
        assert "no room on GPU 0: it is on GPU 1" in outcome.reason


async def test_without_time_the_work_goes_on_and_the_next_restore_finishes_it(first: HubSite, second: HubSite) -> None:
    async with first.client() as hub:
        view = await load(hub, first, "org/llama")
        await put_to_sleep(hub, view)
        captured = await EngineObserver(hub).capture()
    second.set_knobs(load_s=1.0)
    async with second.client() as hub:
        pending = (await bring_back(second, hub, captured, wait_s=0))["org/llama"]
        assert pending.status == "pending"
        assert "for sleep load-state again" in pending.reason
        assert (await bring_back(second, hub, captured))["org/llama"].status == "done"
        assert (await live(hub))["org/llama"].status is EngineStatus.SLEEPING


@pytest.mark.parametrize("client_gone", [True, False])
async def test_a_cancelled_restore_stops_what_it_began(first: HubSite, second: HubSite, client_gone: bool) -> None:
    async with first.client() as hub:
        await load(hub, first, "org/llama")
        captured = await EngineObserver(hub).capture()
    second.set_knobs(load_s=20)
    async with second.client() as hub:
        with anyio.CancelScope() as scope:

            async def report(_done: int, _total: int, words: str) -> None:
                if "starting" in words or "launch" in words:
                    scope.cancel()

            await bring_back(second, hub, captured, report=report, keep_on_cancel=lambda: client_gone)
        assert scope.cancelled_caught
    if client_gone:
        assert second.living()
    else:
        wait_for(lambda: not second.living(), "the engine is stopped")


async def test_a_path_of_a_snapshot_leads_nowhere_it_should_not(first: HubSite, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    text = json.dumps(
        {
            "engines": [
                {"model_id": str(tmp_path), "served_name": "a"},
                {
                    "model_id": "org/llama",
                    "served_name": "org/llama",
                    "loras": [{"name": "x", "path": str(tmp_path)}, {"name": "y", "path": "relative"}],
                },
            ]
        }
    )
    async with first.client() as hub:
        steps = await make_plan(hub, Site(first.settings()), read_capture(text.encode()))
    by_name = {step.subject: step for step in steps}
    assert by_name["a"].action == "blocked"
    assert "outside of the allowed folders" in by_name["a"].reason
    assert by_name["org/llama"].adapters == ()
    assert "outside of the allowed folders" in by_name["org/llama"].lacking[0]


async def test_no_key_is_in_a_capture(first: HubSite) -> None:
    async with first.client() as hub:
        view = await load(hub, first, "org/llama")
        data = (await EngineObserver(hub).capture()).to_bytes()
    key = (first.engine(view.id).path / "api.key").read_bytes()
    assert key not in data
    assert not re.search(rb"token|api_key|sock", data)


# -- warming --------------------------------------------------------------------------------------------------------


async def requests_of(hub: Hub, model: str) -> list[dict[str, Any]]:
    async with hub.lease(model) as endpoint, EngineHttp(endpoint) as http:
        seen = json.loads(await http._ask("GET", "/fake/requests"))
    return [r["body"] for r in (seen if isinstance(seen, list) else seen["requests"]) if "messages" in r["body"]]


async def test_warming_sends_the_conversation_once_with_the_defaults(first: HubSite) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with first.client() as hub:
        await load(hub, first, "org/llama", options={"served_model_name": "fast"})
        await hub.set_model_config("org/llama", ModelConfig(system_prompt="Be brief.", temperature=1, max_tokens=50))
        warmed = await warm(hub, "org/llama", messages, timeout_s=10, more={"tools": tools})
        (sent,) = await requests_of(hub, "fast")
    assert (warmed.status, warmed.reason) == ("warm", "the next turn finds the conversation in the prefix cache")
    assert warmed.prompt_tokens
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, *messages]
    assert (sent["max_tokens"], sent["temperature"], sent["model"], sent["tools"]) == (1, 0, "fast", tools)


async def test_warming_is_skipped_with_a_reason(first: HubSite) -> None:
    long = [{"role": "user", "content": "word " * 400}]
    async with first.client() as hub:
        nothing = await warm(hub, "org/llama", long, timeout_s=10)
        assert (nothing.status, nothing.reason) == ("skipped", "org/llama is not loaded")
        view = await load(hub, first, "org/llama", options={"max_model_len": 256})
        refused = await warm(hub, "org/llama", long, timeout_s=10)
        assert refused.status == "skipped"
        assert "maximum context length is 256 tokens" in refused.reason
        never_sent = await warm(hub, "org/llama", [{"role": "user", "content": "x" * 20_000}], timeout_s=10)
        assert "20,000 characters, and the context window has 256 tokens" in never_sent.reason
        assert (await warm(hub, "org/llama", [], timeout_s=10)).reason == "the conversation has no messages"
        await put_to_sleep(hub, view)
        asleep = await warm(hub, "org/llama", long, timeout_s=10)
        assert (asleep.status, asleep.reason) == ("skipped", "org/llama is sleeping")
        assert (await live(hub))["org/llama"].status is EngineStatus.SLEEPING, "it is not woken for that"


async def test_there_is_nothing_to_warm_without_a_prefix_cache(first: HubSite) -> None:
    async with first.client() as hub:
        await load(hub, first, "org/llama", options={"enable_prefix_caching": False})
        skipped = await warm(hub, "org/llama", [{"role": "user", "content": "x"}], timeout_s=10)
    assert "enable_prefix_caching=false" in skipped.reason
