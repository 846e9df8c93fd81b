"""A restored conversation is read once, and the next turn finds it in the prefix cache of the real vLLM."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx2
import pytest

from tests.hubs import HubSite
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.hf.cache import find
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineEnvironment, EngineStatus, LoadOptions, LoadRequest, ModelConfig
from vllm_state_persistence.warming import warm

pytestmark = [pytest.mark.anyio, pytest.mark.engine]
LLAMA = "tiny-org/tiny-llama"
START_LIMIT_S = 300.0
BLOCK_TOKENS = 128
"""Of the CPU engine's KV cache: what is cached is a multiple of it."""


@pytest.fixture(scope="module")
def site(real_vllm: Path) -> Iterator[HubSite]:
    made = HubSite(gpus=0)
    (made.state / "hub.toml").write_text(f'[engine]\nexecutable = "{real_vllm}"\n')
    try:
        yield made
    finally:
        made.close()


async def load(hub: Hub, home: Path) -> None:
    request = LoadRequest(
        model_id=LLAMA,
        options=LoadOptions(enforce_eager=True, max_num_seqs=4, enable_prefix_caching=True),
        facts=find(LLAMA, [home / "hub"]),
        environment=EngineEnvironment(hf_home=str(home), hf_offline=True),
    )
    view = (await hub.load(request)).engine
    assert view is not None
    with anyio.fail_after(START_LIMIT_S):
        while view.status is not EngineStatus.READY:
            assert view.status is not EngineStatus.STOPPED, view.failure
            view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=START_LIMIT_S)


async def cache_hits(hub: Hub) -> float:
    """Tokens that were found in the prefix cache since the engine's start."""
    async with hub.lease(LLAMA) as endpoint:
        transport = httpx2.AsyncHTTPTransport(uds=endpoint.uds)
        async with httpx2.AsyncClient(transport=transport, base_url=endpoint.url) as http:
            text = (await http.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("vllm:prefix_cache_hits_total")]
    assert lines
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_after_warming_the_next_turn_is_found_in_the_cache(site: HubSite, tiny_hf_home: Path) -> None:
    story = " ".join(f"The {number}th sentence of a long story." for number in range(12))
    restored = [{"role": "user", "content": story}, {"role": "assistant", "content": "I have read it."}]
    next_turn = [*restored, {"role": "user", "content": "Go on."}]
    async with site.client() as hub:
        await load(hub, tiny_hf_home)
        await hub.set_model_config(LLAMA, ModelConfig(system_prompt="You tell stories."))
        before = await cache_hits(hub)
        warmed = await warm(hub, LLAMA, restored, timeout_s=120)
        assert warmed.status == "warm", warmed.reason
        assert warmed.prompt_tokens is not None
        assert warmed.prompt_tokens > 2 * BLOCK_TOKENS
        assert await cache_hits(hub) == before, "it was not there before"

        async with hub.lease(LLAMA) as endpoint, EngineHttp(endpoint, timeout_s=120) as http:
            messages = [{"role": "system", "content": "You tell stories."}, *next_turn]
            await http.chat({"model": endpoint.served_name, "messages": messages, "max_tokens": 1})
        hits = await cache_hits(hub) - before
        whole_blocks = warmed.prompt_tokens // BLOCK_TOKENS - 1
        assert hits >= whole_blocks * BLOCK_TOKENS, f"{hits} of {warmed.prompt_tokens} tokens"

        again = await warm(hub, LLAMA, next_turn, timeout_s=120)
        assert again.status == "warm", again.reason
        too_long = await warm(hub, LLAMA, [{"role": "user", "content": story * 20}], timeout_s=120)
        assert too_long.status == "skipped"
        assert "maximum context length" in too_long.reason
