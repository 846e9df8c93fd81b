"""Models that are not in the cache: what the Hugging Face Hub says decides, before anything is started."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.fake_hf_site import FakeFile, HfSite
from tests.hubs import HubSite

pytestmark = pytest.mark.anyio

CONFIG = {"config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Hugging Face Hub on loopback, reached through HF_ENDPOINT."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read from the environment once, at its import
    files: dict[str, bytes | FakeFile] = {"model.safetensors": b"w" * 4096, "config.json": b"{}"}
    with HfSite() as hub:
        hub.add("far/open", files, more=CONFIG)
        hub.add("org/partial", files, more=CONFIG)
        hub.add("far/gated", files, more=CONFIG, gated="manual", allowed_token="agreed")
        hub.add("far/huge", {"model.safetensors": FakeFile(size=10**18, lfs=True)}, more=CONFIG)
        hub.answer("far/broken", 500)
        yield hub.url


def online(endpoint: str, **more: str) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint} | more


async def test_a_model_that_can_be_downloaded_is_planned_with_its_real_size(
    new_desk: Callable[..., Any], endpoint: str
) -> None:
    async with new_desk().open(variables=online(endpoint)) as desk:
        planned = await desk.call("load-model", model_id="far/open", dry_run=True)
    assert planned["status"] == "planned"
    assert any("downloaded first, 4.0 KiB of weights" in reason for reason in planned["reasons"])


async def test_a_partial_download_is_completed(new_desk: Callable[..., Any], endpoint: str) -> None:
    async with new_desk().open(variables=online(endpoint)) as desk:
        planned = await desk.call("load-model", model_id="org/partial", dry_run=True)
    assert any("the cache has a part of it" in reason for reason in planned["reasons"])


@pytest.mark.parametrize(
    ("arguments", "code", "mentions"),
    [
        ({"model_id": "far/none"}, "MODEL_NOT_FOUND", "neither in the cache nor at"),
        ({"model_id": "far/open", "revision": "v9"}, "MODEL_NOT_FOUND", "revision v9"),
        ({"model_id": "far/gated"}, "GATED_REPOSITORY", "HF_TOKEN is not set"),
        ({"model_id": "far/huge"}, "DISK_FULL", "far/huge"),
        ({"model_id": "far/broken"}, "MODEL_NOT_FOUND", "the Hub cannot be reached"),
    ],
)
async def test_what_cannot_be_downloaded_is_refused_at_once(
    new_desk: Callable[..., Any], site: HubSite, endpoint: str, arguments: dict[str, Any], code: str, mentions: str
) -> None:
    async with new_desk().open(variables=online(endpoint)) as desk:
        error = await desk.fail("load-model", code, **arguments)
    assert mentions in error["message"]
    assert site.living() == []


async def test_a_gated_model_tells_where_to_agree_and_never_the_token(
    new_desk: Callable[..., Any], endpoint: str
) -> None:
    async with new_desk().open(variables=online(endpoint, HF_TOKEN="hf_notyet")) as desk:
        error = await desk.fail("load-model", "GATED_REPOSITORY", model_id="far/gated")
    assert error["details"]["url"] == f"{endpoint}/far/gated"
    assert "no access yet" in error["message"]
    assert "hf_notyet" not in json.dumps(error)
    async with new_desk().open(variables=online(endpoint, HF_TOKEN="agreed")) as desk:
        assert (await desk.call("load-model", model_id="far/gated", dry_run=True))["status"] == "planned"


async def test_without_a_network_the_cache_is_all_there_is(new_desk: Callable[..., Any], unused_port: int) -> None:
    async with new_desk().open(variables=online(f"http://127.0.0.1:{unused_port}")) as desk:
        error = await desk.fail("load-model", "MODEL_NOT_FOUND", model_id="org/lama")
        assert "the Hub cannot be reached" in error["message"]
        assert error["details"]["similar"][0] == "org/llama"
        assert (await desk.call("load-model", model_id="org/llama", dry_run=True))["status"] == "planned"
