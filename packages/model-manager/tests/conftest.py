"""A real hub with fake GPUs and fake engines (real processes), a small model cache, and MCP clients of both eras."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.desk import Desk as BareDesk
from tests.hubs import HubSite, wait_for
from vllm_mcp_protocol.model import EngineStatus
from vllm_model_manager.server import build_server

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "float32",
    "max_position_embeddings": 1024,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}
BERT = LLAMA | {"architectures": ["BertModel"], "model_type": "bert"}


def add_model(
    cache: Path, model_id: str, config: dict[str, Any], *, template: bool = True, weights: bool = True
) -> Path:
    """Write a model repository into a Hugging Face cache; its snapshot."""
    repo = cache / ("models--" + model_id.replace("/", "--"))
    snapshot = repo / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("c0ffee")
    (snapshot / "config.json").write_text(json.dumps(config))
    tokenizer = {"chat_template": "{{ messages }}"} if template else {}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    if weights:
        (snapshot / "model.safetensors").write_bytes(b"\0" * 2048)
    else:
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
        (snapshot / "model-00001-of-00002.safetensors").write_bytes(b"\0")
    return snapshot


def add_adapter(folder: Path, *, base: str = "org/llama", rank: int = 8) -> Path:
    """Write a LoRA adapter into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"base_model_name_or_path": base, "r": rank, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    return folder


class Desk(BareDesk):
    """A model manager at work."""

    build = staticmethod(build_server)

    async def rows(self) -> dict[str, dict[str, Any]]:
        """`list-models` by model id."""
        return {row["id"]: row for row in (await self.call("list-models"))["models"]}

    async def until(self, model_id: str, *statuses: str) -> dict[str, Any]:
        """The model's row once it has one of `statuses`."""
        with anyio.fail_after(60):
            while (row := (await self.rows())[model_id])["status"] not in statuses:
                await anyio.sleep(0.05)
        return row


@pytest.fixture(scope="module")
def shared_site() -> Iterator[HubSite]:
    """One hub per test module: starting one takes half a second."""
    site = HubSite(gpus=2)
    cache = Path(site.env["HF_HOME"]) / "hub"
    for name in ("org/llama", "org/second", "org/third"):
        add_model(cache, name, LLAMA)
    add_model(cache, "org/long", LLAMA | {"max_position_embeddings": 8192})
    add_model(cache, "org/plain", LLAMA, template=False)
    add_model(cache, "org/bert", BERT, template=False)
    add_model(cache, "org/partial", LLAMA, weights=False)
    lora = cache / "models--org--lora" / "snapshots" / "c0ffee"
    add_adapter(lora)
    yield site
    site.close()


@pytest.fixture
async def site(shared_site: HubSite) -> AsyncIterator[HubSite]:
    """The module's hub, without engines from before and with the fake's usual behaviour."""
    shared_site.set_knobs()
    yield shared_site
    async with shared_site.client() as hub:
        for view in (await hub.state()).engines:
            if not view.remote and view.status is not EngineStatus.STOPPED:
                await hub.stop(view.id, force=True)
        with anyio.fail_after(60):
            while any(v.status is not EngineStatus.STOPPED for v in (await hub.state()).engines if not v.remote):
                await anyio.sleep(0.02)


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both protocol eras."""
    return str(request.param)


@pytest.fixture
def new_desk(site: HubSite, tmp_path: Path) -> Callable[..., Desk]:
    """Desks of the chosen era on the module's hub."""
    return lambda mode="auto": Desk(site, mode, tmp_path)


@pytest.fixture
async def desk(new_desk: Callable[..., Desk], mode: str) -> AsyncIterator[Desk]:
    """A connected desk, once per era."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(new_desk(mode).open())


@pytest.fixture
async def modern(new_desk: Callable[..., Desk]) -> AsyncIterator[Desk]:
    """A connected desk of the newer era, for what does not depend on it."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(new_desk().open())


@pytest.fixture
def unused_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def remote() -> Iterator[Callable[[Path, str, int], str]]:
    """Start a fake engine that no hub owns, on a port; its address."""
    started: list[subprocess.Popen[bytes]] = []

    def start(executable: Path, model: str, port: int) -> str:
        command = [str(executable), "serve", model, "--host", "127.0.0.1", "--port", str(port)]
        null = subprocess.DEVNULL
        started.append(subprocess.Popen(command, start_new_session=True, stdout=null, stderr=null))
        wait_for(lambda: _listens(port), f"{model} listens on {port}")
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
