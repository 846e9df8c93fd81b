"""The suite on the real vLLM: one engine serves most tests; those that break it start their own."""

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hubs import HubSite, wait_for
from vllm_mcp_hub.host.processes import Seen, observe, session_of
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import ModelNotLoaded, NotSupported, PortInUse, SuiteError
from vllm_mcp_protocol.hf.cache import find
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineEnvironment, EngineStatus, EngineView, LoadOptions, LoadRequest, Phase

pytestmark = [pytest.mark.anyio, pytest.mark.engine]
LLAMA = "tiny-org/tiny-llama"
START_LIMIT_S = 300.0
"""A start takes 15-60 s on two cores; only a broken one takes longer."""


@pytest.fixture(scope="module")
def site(real_vllm: Path) -> Iterator[HubSite]:
    made = HubSite(gpus=0)
    (made.state / "hub.toml").write_text(f'[engine]\nexecutable = "{real_vllm}"\n')
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def hub(site: HubSite) -> AsyncIterator[Hub]:
    async with site.client() as client:
        yield client


def request(home: Path, model: str = LLAMA, **options: Any) -> LoadRequest:
    return LoadRequest(
        model_id=model,
        options=LoadOptions.model_validate(options),
        facts=find(model, [home / "hub"]),
        environment=EngineEnvironment(hf_home=str(home), hf_offline=True),
    )


async def settled(hub: Hub, view: EngineView) -> EngineView:
    """The engine when it is ready or has failed."""
    while view.status not in (EngineStatus.READY, EngineStatus.STOPPED):
        seen = view.epoch
        view = await hub.wait(view.id, seen_epoch=seen, timeout_s=START_LIMIT_S)
        assert view.epoch > seen, f"nothing happened for {START_LIMIT_S} s: {view}"
    return view


async def loaded(hub: Hub, home: Path, **options: Any) -> EngineView:
    """The shared engine: started by the first test that needs it, joined by the others."""
    grant = await hub.load(request(home, enable_lora=True, **options))
    assert grant.engine is not None
    view = await settled(hub, grant.engine)
    assert view.status is EngineStatus.READY, view.failure
    return view


async def test_a_load_says_what_it_took(hub: Hub, tiny_hf_home: Path) -> None:
    view = await loaded(hub, tiny_hf_home)
    assert view.start_facts.kv_cache_tokens
    assert view.start_facts.max_concurrency
    assert {Phase.WEIGHTS, Phase.PROFILE} <= {time.phase for time in view.start_facts.phases}
    assert view.measured_bytes
    assert view.devices == ("cpu",)
    key = (Path(view.log_path).parent / "api.key").read_text()
    assert key not in " ".join(view.argv), "the key is not in argv"
    assert key not in Path(view.log_path).read_text(errors="replace"), "nor in the log"


async def test_chat_and_a_streamed_answer_with_its_counts(hub: Hub, tiny_hf_home: Path) -> None:
    await loaded(hub, tiny_hf_home)
    ask = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0, "seed": 1}
    async with hub.lease(LLAMA) as endpoint, EngineHttp(endpoint, timeout_s=120) as engine:
        whole = await engine.chat({"model": endpoint.served_name, **ask})
        stream = engine.stream_chat({"model": endpoint.served_name, **ask, "stream_options": {"include_usage": True}})
        chunks = [chunk async for chunk in stream]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert text
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] <= 12


async def test_a_lease_counts_as_in_flight(hub: Hub, tiny_hf_home: Path) -> None:
    view = await loaded(hub, tiny_hf_home)
    async with hub.lease(LLAMA):
        assert (await hub.wait(view.id, seen_epoch=-1, timeout_s=0)).in_flight == 1


async def test_an_adapter_is_served_under_its_name(hub: Hub, tiny_hf_home: Path) -> None:
    view = await loaded(hub, tiny_hf_home)
    adapter = find("tiny-org/tiny-llama-lora", [tiny_hf_home / "hub"])
    assert adapter is not None
    assert adapter.path is not None
    ask = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
    await hub.load_lora(view.id, "style", adapter.path)
    async with hub.lease("style") as endpoint, EngineHttp(endpoint, timeout_s=120) as engine:
        assert endpoint.served_name == "style"
        styled = await engine.chat({"model": "style", **ask})
        plain = await engine.chat({"model": LLAMA, **ask})
    assert styled["model"] == "style"
    assert styled["choices"][0]["message"] != plain["choices"][0]["message"], "the adapter changes the answer"
    assert (await hub.unload_lora(view.id, "style")).loras == ()
    with pytest.raises(SuiteError):
        await hub.unload_lora(view.id, "style")


async def test_a_missing_adapter_is_refused_in_vllms_words(hub: Hub, tiny_hf_home: Path) -> None:
    view = await loaded(hub, tiny_hf_home)
    with pytest.raises(SuiteError, match="nowhere"):
        await hub.load_lora(view.id, "ghost", "/nowhere")


async def test_sleep_is_refused_where_vllm_cannot(hub: Hub, tiny_hf_home: Path) -> None:
    view = await loaded(hub, tiny_hf_home)
    with pytest.raises(NotSupported):
        await hub.sleep(view.id)


async def test_the_hub_is_killed_and_the_engine_goes_on(hub: Hub, site: HubSite, tiny_hf_home: Path) -> None:
    view = await loaded(hub, tiny_hf_home)
    members = set(site.members(view.id))
    site.kill_hub()
    adopted = await loaded(hub, tiny_hf_home)
    assert adopted.id == view.id
    assert set(site.members(view.id)) == members
    async with hub.lease(LLAMA) as endpoint, EngineHttp(endpoint, timeout_s=120) as engine:
        assert await engine.models()


async def test_unload_leaves_no_process(hub: Hub, site: HubSite, tiny_hf_home: Path) -> None:
    view = await loaded(hub, tiny_hf_home)
    assert len(site.members(view.id)) >= 2, "vLLM is several processes"
    final = await settled(hub, await hub.stop(view.id))
    assert final.failure is None
    assert site.members(view.id) == []
    assert observe(site.engine(view.id)) is Seen.GONE
    wait_for(lambda: not (site.engine(view.id).path / "tmp").exists(), "its temporary files are removed")
    with pytest.raises(ModelNotLoaded):
        async with hub.lease(LLAMA):
            pass


async def test_a_killed_api_server_leaves_no_orphan(hub: Hub, site: HubSite, tiny_hf_home: Path) -> None:
    """vllm#55510: the engine core outlives it and holds the device. On a port of its own, with a key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    view = await loaded(hub, tiny_hf_home, port=port)
    assert view.endpoint == f"http://127.0.0.1:{port}/v1"
    with pytest.raises(PortInUse, match=str(port)):
        await hub.load(request(tiny_hf_home, served_model_name="other", port=port))
    leader = session_of(site.engine(view.id))
    assert leader is not None
    os.kill(leader, signal.SIGKILL)
    died = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=60)
    died = await settled(hub, died)
    assert died.failure is not None
    assert died.failure.code == "ENGINE_DIED"
    wait_for(lambda: not site.members(view.id), "the orphans are swept")


async def test_a_bad_model_fails_with_its_cause(hub: Hub, site: HubSite, tiny_hf_home: Path) -> None:
    broken = tiny_hf_home / "broken"
    whole = find(LLAMA, [tiny_hf_home / "hub"])
    assert whole is not None
    assert whole.path is not None
    broken.mkdir(exist_ok=True)
    for file in Path(whole.path).iterdir():
        with contextlib.suppress(FileExistsError):
            (broken / file.name).symlink_to(file.resolve())
    weights = broken / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[: len(data) // 2])
    grant = await hub.load(request(tiny_hf_home, str(broken)))
    assert grant.engine is not None
    view = await settled(hub, grant.engine)
    assert view.failure is not None
    assert view.failure.code == "BAD_CHECKPOINT", view.failure
    assert view.failure.suggestion
    assert site.members(view.id) == []


async def test_a_stop_while_it_starts_ends_it(hub: Hub, site: HubSite, tiny_hf_home: Path) -> None:
    """vLLM swallows the first SIGTERM while it starts."""
    grant = await hub.load(request(tiny_hf_home, served_model_name="cancelled"))
    assert grant.engine is not None
    view = grant.engine
    while view.phase not in (Phase.CONFIG, Phase.WEIGHTS, Phase.PROFILE):
        view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=60)
        assert view.status is not EngineStatus.STOPPED, view.failure
    final = await settled(hub, await hub.stop(view.id, force=True))
    assert final.failure is None
    assert site.members(view.id) == []
