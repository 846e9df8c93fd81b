"""Engines that run elsewhere: attached, shown, used, and never ended from here."""

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chaos.waiting import ready
from tests.fakes.fakes import make_fake_vllm
from tests.hubs import HubSite, wait_for
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import RemoteEngine, SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineStatus, EngineView

pytestmark = pytest.mark.anyio


@dataclass
class Elsewhere:
    """A vLLM that somebody else started."""

    process: "subprocess.Popen[bytes]"
    url: str


@pytest.fixture
def elsewhere(site: HubSite) -> Iterator[Elsewhere]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    vllm = make_fake_vllm(site.folder / "elsewhere")
    command = [str(vllm), "serve", "org/remote", "--host", "127.0.0.1", "--port", str(port), "--enable-lora"]
    env = site.env | {"VLLM_API_KEY": "sk-remote", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: _listens(port), "the remote engine listens")
    try:
        yield Elsewhere(process, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def attached(hub: Hub, elsewhere: Elsewhere) -> EngineView:
    await hub.attach(elsewhere.url, "sk-remote")
    [view] = [e for e in (await hub.state()).engines if e.remote]
    return view


async def test_it_is_shown_once_and_used_like_any_other(site: HubSite, elsewhere: Elsewhere) -> None:
    async with site.client() as hub:
        await attached(hub, elsewhere)
        view = await attached(hub, elsewhere)
        assert (view.id, view.model_id, view.status) == ("r1", "org/remote", EngineStatus.READY)
        assert view.endpoint == f"{elsewhere.url}/v1"
        async with hub.lease("org/remote") as endpoint, EngineHttp(endpoint, timeout_s=10) as http:
            answer = await http.chat({"model": "org/remote", "messages": [{"role": "user", "content": "hello"}]})
        assert answer["choices"][0]["message"]["content"]


async def test_its_key_is_never_shown(site: HubSite, elsewhere: Elsewhere) -> None:
    async with site.client() as hub:
        view = await attached(hub, elsewhere)
        assert "sk-remote" not in view.model_dump_json()
        assert "sk-remote" not in (site.state / "hub.log").read_text()


async def test_its_base_model_is_not_ours_to_unload(site: HubSite, elsewhere: Elsewhere) -> None:
    async with site.client() as hub:
        view = await attached(hub, elsewhere)
        with pytest.raises(RemoteEngine, match="not started by this hub") as caught:
            await hub.stop(view.id, force=True)
        assert elsewhere.url in str(caught.value)
    assert elsewhere.process.poll() is None


async def test_adapters_are_given_to_it(site: HubSite, elsewhere: Elsewhere) -> None:
    adapter = site.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    async with site.client() as hub:
        view = await attached(hub, elsewhere)
        assert (await hub.load_lora(view.id, "style", str(adapter))).loras == ("style",)
        async with hub.lease("style") as endpoint:
            assert endpoint.served_name == "style"
        assert (await hub.unload_lora(view.id, "style")).loras == ()


async def test_one_that_is_gone_is_unreachable_and_disturbs_nobody(site: HubSite, elsewhere: Elsewhere) -> None:
    async with site.client() as hub:
        view = await attached(hub, elsewhere)
        elsewhere.process.terminate()
        elsewhere.process.wait(20)
        gone = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=20)
        assert gone.status is EngineStatus.UNREACHABLE
        await ready(hub, "own")


async def test_an_address_that_nobody_answers_is_shown_as_such(site: HubSite) -> None:
    async with site.client() as hub:
        await hub.attach("http://127.0.0.1:9", None)
        [view] = (await hub.state()).engines
        assert view.status is EngineStatus.UNREACHABLE
        with pytest.raises(SuiteError):
            await hub.attach("ftp://127.0.0.1", None)
