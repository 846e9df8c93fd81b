"""The server as clients meet it: every tool over MCP in both eras, on a cache with good, partial and corrupt models."""

import json
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp.server.subscriptions import ResourceUpdated
from mcp_types import ElicitResult

from tests.caches import MadeRepo
from tests.desk import Desk as BareDesk
from tests.fakes.fake_hf_site import FakeFile, HfSite
from tests.fakes.fake_providers import ollama, serving, vllm
from tests.hubs import HubSite
from vllm_auto_discovery.server import build_server
from vllm_mcp_protocol.model import EngineStatus, LoadOptions, LoadRequest

pytestmark = pytest.mark.anyio

COMMIT = "c0ffee" + "0" * 34
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "float16",
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "vocab_size": 1000,
}
HERMES = (
    "{% if tools %}<tools>{{ tools }}</tools> Answer with <tool_call>"
    '{"name": <name>, "arguments": <args-json-object>}</tool_call>{% endif %}{{ messages[0].content }}'
)
TABLES: dict[str, Any] = {
    "version": "0.32.0",
    "architectures": {"LlamaForCausalLM": ["generate"], "LlavaForConditionalGeneration": ["generate", "multimodal"]},
    "classes": {},
    "tool_call_parsers": ["hermes"],
    "reasoning_parsers": ["qwen3"],
    "tokenizer_modes": ["auto"],
    "unknown": {},
}
"""What the engine's Python answers when it is asked which models it has."""
CARD = "---\nlicense: apache-2.0\npipeline_tag: text-generation\n---\n# A model\n"


class Desk(BareDesk):
    """Discovery at work."""

    build = staticmethod(build_server)

    async def rows(self, **arguments: Any) -> dict[str, dict[str, Any]]:
        """`discover-models` by id."""
        return {row["id"]: row for row in (await self.call("discover-models", **arguments))["models"]}


def weights(shape: tuple[int, int] = (64, 64), *, lost_bytes: int = 0) -> bytes:
    """A safetensors file with one tensor of float16; `lost_bytes` are missing at its end."""
    size = 2 * shape[0] * shape[1]
    header = json.dumps({"w": {"dtype": "F16", "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * (size - lost_bytes)


def add(cache: Path, model_id: str, files: dict[str, bytes], commit: str = COMMIT) -> MadeRepo:
    """A repository with these files at `main`."""
    repo = MadeRepo(cache, model_id)
    for name, content in files.items():
        repo.add(commit, name, content)
    repo.ref("main", commit)
    return repo


def text_model(**config: Any) -> dict[str, bytes]:
    """The small files of a chat model with tools."""
    return {
        "config.json": json.dumps(LLAMA | config).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": HERMES}).encode(),
        "generation_config.json": json.dumps({"temperature": 0.6}).encode(),
        "README.md": CARD.encode(),
    }


def fill(cache: Path) -> None:
    """One model of every state."""
    add(cache, "org/good", text_model() | {"model.safetensors": weights()})
    add(cache, "org/corrupt", text_model() | {"model.safetensors": weights(lost_bytes=100)})
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    partly = add(
        cache,
        "org/partial",
        text_model()
        | {"model.safetensors.index.json": json.dumps(index).encode(), "model-00001-of-00002.safetensors": weights()},
    )
    (partly.path / "blobs" / ("ab" * 32 + ".incomplete")).write_bytes(b"\0" * 5000)
    add(cache, "org/lora", {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": weights()})
    seeing = text_model(architectures=["LlavaForConditionalGeneration"], vision_config={"hidden_size": 8})
    add(cache, "org/seeing", seeing | {"model.safetensors": weights(), "preprocessor_config.json": b"{}"})


@pytest.fixture(scope="module")
def shared_site() -> Iterator[HubSite]:
    site = HubSite(gpus=2)
    yield site
    site.close()


@pytest.fixture
def site(shared_site: HubSite, tmp_path: Path) -> HubSite:
    """The module's hub, and a cache of the test's own."""
    shared_site.env["HF_HOME"] = str(tmp_path / "hf")
    shared_site.env["VLLM_MCP_ENGINE_DIR"] = str(tmp_path / "engine")
    python = shared_site.vllm.parent / "python"
    python.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(TABLES)}\nEND\n")
    python.chmod(0o755)
    fill(tmp_path / "hf" / "hub")
    return shared_site


@pytest.fixture
def cache(site: HubSite) -> Path:
    return Path(site.env["HF_HOME"]) / "hub"


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_desk(site: HubSite, tmp_path: Path) -> Callable[..., Desk]:
    project = tmp_path / "project"
    project.mkdir()
    return lambda mode="auto": Desk(site, mode, project)


@pytest.fixture
async def desk(new_desk: Callable[..., Desk], mode: str) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(new_desk(mode).open())


@pytest.fixture
async def modern(new_desk: Callable[..., Desk]) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(new_desk().open())


# -- discover-models


async def test_one_call_tells_what_can_be_run_and_why_the_rest_cannot(desk: Desk) -> None:
    answer = await desk.call("discover-models")
    rows = {row["id"]: row for row in answer["models"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "org/good": "complete",
        "org/corrupt": "corrupt",
        "org/partial": "partial",
        "org/lora": "adapter",
        "org/seeing": "complete",
    }
    good = rows["org/good"]
    assert (good["parameters"], good["context_window"], good["formats"]) == (4096, 4096, ["safetensors"])
    assert {"text", "chat", "tools"} <= set(good["capabilities"])
    assert good["fits_on"] == ["0", "1"]
    assert "model-00002-of-00002.safetensors" in rows["org/partial"]["missing"]
    assert "download-model org/partial" in rows["org/partial"]["why_not"]
    assert "delete-cached-model" in rows["org/corrupt"]["why_not"]
    assert "load-lora" in rows["org/lora"]["why_not"]
    assert {device["id"] for device in answer["devices"]} == {"0", "1"}


async def test_what_it_says_to_load_is_what_the_hub_loads(modern: Desk, site: HubSite) -> None:
    load = (await modern.rows())["org/good"]["load"]
    assert load["extra_args"] == ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    options = LoadOptions(extra_args=tuple(load["extra_args"]))
    async with site.client() as hub:
        grant = await hub.load(LoadRequest(model_id=load["model_id"], options=options))
        assert grant.engine is not None
        view = await hub.wait(grant.engine.id, seen_epoch=-1, timeout_s=0)
        while view.status is not EngineStatus.READY:
            assert view.status is not EngineStatus.STOPPED, view.failure
            view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=5)
        row = (await modern.rows())["org/good"]
        assert row["served_by"] == [view.id]
        await modern.fail("delete-cached-model", "FILES_IN_USE", model_id="org/good", force=True)
        await hub.stop(view.id, force=True)


async def test_filters_and_pages(modern: Desk) -> None:
    assert set(await modern.rows(query="GOOD")) == {"org/good"}
    assert set(await modern.rows(capability="vision")) == {"org/seeing"}
    assert set(await modern.rows(capability="adapter")) == {"org/lora"}
    seen: list[str] = []
    cursor = None
    while True:
        answer = await modern.call("discover-models", limit=2, **({"cursor": cursor} if cursor else {}))
        seen += [row["id"] for row in answer["models"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(await modern.rows())
    await modern.fail("discover-models", "INVALID_ARGUMENT", cursor="nonsense")
    await modern.fail("discover-models", "INVALID_ARGUMENT", source="hub")
    await modern.fail("discover-models", "OFFLINE", source="hub", query="llama")


async def test_a_model_that_is_too_large_says_so(modern: Desk, cache: Path) -> None:
    repo = add(cache, "org/huge", text_model())
    blob = repo.path / "blobs" / ("cd" * 32)
    with blob.open("wb") as file:
        size = 400 * 1024**3
        header = json.dumps({"w": {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    repo.link(COMMIT, "model.safetensors", f"../../blobs/{blob.name}")
    row = (await modern.rows())["org/huge"]
    assert row["fits_on"] == []
    assert "does not fit" in row["why_not"]
    assert "org/huge" not in await modern.rows(fits=True)


async def test_a_folder_of_the_users_own_is_found(new_desk: Callable[..., Desk], tmp_path: Path) -> None:
    mine = tmp_path / "models" / "mine"
    mine.mkdir(parents=True)
    for name, content in (text_model() | {"model.safetensors": weights()}).items():
        (mine / name).write_bytes(content)
    async with new_desk().open(variables={"VLLM_MODEL_CACHE_DIR": str(tmp_path / "models")}) as desk:
        row = (await desk.rows())[str(mine)]
        assert (row["status"], row["load"]["model_id"]) == ("complete", str(mine))


async def test_without_a_hub_the_files_are_still_told(new_desk: Callable[..., Desk], tmp_path: Path) -> None:
    async with new_desk().open(hub=False, variables={"VLLM_HUB_DIR": "/dev/null/nowhere"}) as desk:
        answer = await desk.call("discover-models")
        assert len(answer["models"]) == 5
        assert any("engines of the suite are not shown" in warning for warning in answer["warnings"])


# -- one model


async def test_metadata_names_the_source_of_each_fact(desk: Desk) -> None:
    found = await desk.call("get-model-metadata", model_id="org/good")
    assert found["config"]["layers"] == 2
    assert found["weights"]["parameters"] == 4096
    assert found["generation"] == {"temperature": 0.6}
    assert found["card"]["license"] == "apache-2.0"
    assert found["chat_template"] == HERMES
    assert {source["name"] for source in found["sources"]} == {
        *("config", "generation", "card", "chat_template", "weights", "hub")
    }
    hub = next(source for source in found["sources"] if source["name"] == "hub")
    assert "HF_HUB_OFFLINE" in hub["note"]


async def test_capabilities_carry_evidence(desk: Desk) -> None:
    found = await desk.call("get-model-capabilities", model_id="org/good")
    claims = {claim["name"]: claim for claim in found["capabilities"]}
    assert claims["tools"]["value"] == "yes"
    assert found["tool_call_parser"] == "hermes"
    assert all(claim["evidence"] for claim in claims.values())
    assert found["supported"] == "yes"
    assert "vLLM 0.32.0" in found["supported_evidence"]


async def test_models_that_see(modern: Desk) -> None:
    found = await modern.call("get-multimodal-capabilities", modality="vision")
    assert [(row["id"], row["inputs"]) for row in found["models"]] == [("org/seeing", ["vision"])]
    assert (await modern.call("get-multimodal-capabilities", modality="audio"))["models"] == []


@pytest.mark.parametrize(
    "tool", ["get-model-metadata", "get-model-capabilities", "verify-cache", "delete-cached-model"]
)
async def test_a_model_that_is_not_here_is_named_with_near_misses(modern: Desk, tool: str) -> None:
    error = await modern.fail(tool, "MODEL_NOT_FOUND", model_id="org/goood")
    assert error["details"]["similar"][0] == "org/good"
    outside = "PATH_NOT_ALLOWED" if tool.startswith("get-") else "INVALID_ARGUMENT"
    await modern.fail(tool, outside, model_id="../../etc")


async def test_a_folder_outside_is_not_looked_into(modern: Desk) -> None:
    await modern.fail("get-model-metadata", "PATH_NOT_ALLOWED", model_id="/etc")


# -- files


async def test_verify_names_what_is_wrong(desk: Desk, cache: Path) -> None:
    assert (await desk.call("verify-cache", model_id="org/good"))["status"] == "ok"
    repo = cache / "models--org--good"
    blob = (repo / "snapshots" / COMMIT / "config.json").resolve()
    blob.write_bytes(blob.read_bytes().replace(b"4096", b"4097"))
    found = await desk.call("verify-cache", model_id="org/good")
    assert (found["status"], [one["file"] for one in found["corrupt"]]) == ("damaged", ["config.json"])
    assert "download-model" in found["suggestion"]
    assert [one["problem"] for one in (await desk.call("verify-cache", model_id="org/partial"))["partial"]] == [
        "partial"
    ]


async def test_deleting_is_shown_first_and_done_with_force(desk: Desk, cache: Path) -> None:
    repo = cache / "models--org--good"
    size = sum(path.stat().st_size for path in (repo / "blobs").iterdir())
    planned = await desk.call("delete-cached-model", model_id="org/good", dry_run=True)
    assert (planned["status"], planned["freed_bytes"]) == ("planned", size)
    error = await desk.fail("delete-cached-model", "FORCE_REQUIRED", model_id="org/good")
    assert error["details"]["revisions"] == [COMMIT]
    assert repo.exists()
    done = await desk.call("delete-cached-model", model_id="org/good", force=True)
    assert (done["status"], done["freed_bytes"]) == ("deleted", size)
    assert not repo.exists()
    assert "org/good" not in await desk.rows()


@pytest.mark.parametrize("agreed", [True, False])
async def test_a_client_that_can_ask_is_asked(new_desk: Callable[..., Desk], cache: Path, agreed: bool) -> None:
    questions: list[str] = []

    async def answer(_context: Any, params: Any) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action="accept", content={"delete": agreed})

    async with new_desk().open(elicitation_callback=answer) as desk:
        failed, _ = await desk.answer("delete-cached-model", model_id="org/lora")
    assert failed is not agreed
    assert (cache / "models--org--lora").exists() is not agreed
    assert "frees" in questions[0]


# -- the Hugging Face Hub


@pytest.fixture
def hf_site() -> Iterator[HfSite]:
    with HfSite() as site:
        files: dict[str, bytes | FakeFile] = {**text_model(), "model.safetensors": FakeFile(weights(), lfs=True)}
        site.add("org/new", files, more={"pipeline_tag": "text-generation", "downloads": 7})
        site.add("org/closed", dict(files), gated="manual")
        yield site


@pytest.fixture
async def online(new_desk: Callable[..., Desk], hf_site: HfSite, mode: str) -> AsyncIterator[Desk]:
    """A server that may ask the Hub; what stands in for it is on this machine."""
    async with AsyncExitStack() as stack:
        variables = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hf_site.url}
        yield await stack.enter_async_context(new_desk(mode).open(variables=variables))


async def test_a_model_is_searched_downloaded_and_then_ready_to_load(online: Desk, hf_site: HfSite) -> None:
    found = await online.call("discover-models", source="hub", query="NEW org")
    assert [(row["id"], row["status"], row["load"]) for row in found["models"]] == [
        ("org/new", "remote", {"model_id": "org/new"})
    ]
    done = await online.call("download-model", model_id="org/new")
    assert (done["status"], done["bytes_done"]) == ("complete", done["bytes_total"])
    assert Path(done["path"]).is_dir()
    assert online.progress[-1][0] == done["bytes_total"]
    assert (await online.rows())["org/new"]["status"] == "complete"
    verified = await online.call("verify-cache", model_id="org/new")
    assert (verified["status"], verified["compared_with"].startswith(hf_site.url)) == ("ok", True)
    hf_site.models["org/new"].files["model-00002-of-00002.safetensors"] = FakeFile(b"later", lfs=True)
    missed = await online.call("verify-cache", model_id="org/new")
    assert [one["file"] for one in missed["missing"]] == ["model-00002-of-00002.safetensors"]
    told = await online.call("get-model-metadata", model_id="org/new")
    assert (told["hub"]["downloads"], told["hub"]["pipeline_tag"]) == (7, "text-generation")


async def test_a_gated_model_names_page_and_variable(online: Desk, hf_site: HfSite) -> None:
    error = await online.fail("download-model", "GATED_REPOSITORY", model_id="org/closed")
    assert error["details"]["url"] == f"{hf_site.url}/org/closed"
    assert "HF_TOKEN" in error["details"]["suggestion"]
    rows = (await online.call("discover-models", source="hub", query="closed"))["models"]
    assert (rows[0]["load"], "gated" in rows[0]["why_not"]) == (None, True)
    await online.fail("download-model", "MODEL_NOT_FOUND", model_id="org/nothing")
    await online.fail("download-model", "REVISION_NOT_FOUND", model_id="org/new", revision="v9")


async def test_a_long_download_is_joined_and_its_files_are_in_use(online: Desk, hf_site: HfSite) -> None:
    big = FakeFile(weights((1024, 1024)), lfs=True)
    hf_site.add("org/big", {**text_model(), "model.safetensors": big})
    hf_site.hold_after = 500_000
    first = await online.call("download-model", model_id="org/big", wait_seconds=0)
    assert first["status"] == "downloading"
    assert await anyio.to_thread.run_sync(hf_site.held.wait, 20)
    again = await online.call("download-model", model_id="org/big", wait_seconds=0)
    assert (again["joined"], again["download_id"]) == (True, first["download_id"])
    await online.fail("delete-cached-model", "FILES_IN_USE", model_id="org/big", force=True)
    hf_site.hold_after = None
    hf_site.go_on.set()
    done = await online.call("download-model", model_id="org/big")
    assert done["status"] == "complete"


# -- engines, clients


async def test_engines_are_found_on_named_ports_only(desk: Desk) -> None:
    quiet = await desk.call("discover-engines")
    assert (quiet["engines"], quiet["probed"]) == ([], 0)
    with serving(ollama({"qwen3:8b": 8192})) as running:
        found = await desk.call("discover-engines", ports=[running.port])
    assert [(row["kind"], row["provider"]) for row in found["engines"]] == [("found", "ollama")]
    assert found["engines"][0]["models"]
    assert (await desk.call("discover-engines", ports=[running.port]))["silent"] == 1
    await desk.fail("discover-engines", "INVALID_ARGUMENT", ports=[1], hosts=["10.0.0.0/8"])


async def test_a_configured_engine_and_its_models_are_shown(new_desk: Callable[..., Desk]) -> None:
    with serving(vllm({"org/served": 8192})) as running:
        address = f"http://127.0.0.1:{running.port}"
        async with new_desk().open(variables={"DISCOVERY_ENDPOINTS": address}) as desk:
            (row,) = (await desk.call("discover-engines"))["engines"]
            assert (row["kind"], row["provider"], row["address"]) == ("configured", "vllm", address)
            served = [row for row in (await desk.call("discover-models"))["models"] if row["status"] == "served"]
            assert [row["where"] for row in served] == [address] * len(served)
            assert served


async def test_a_client_is_told_which_models_there_are(new_desk: Callable[..., Desk], tmp_path: Path) -> None:
    config = tmp_path / "project" / "crush.json"
    with serving(vllm({"org/served": 8192})) as running:
        async with new_desk().open(variables={"DISCOVERY_ENDPOINTS": f"http://127.0.0.1:{running.port}"}) as desk:
            before = '{\n  "options": {"debug": true}\n}\n'
            config.write_text(before)
            planned = await desk.call("sync-client-config", client="crush", dry_run=True)
            assert (planned["status"], config.read_text()) == ("planned", before)
            assert planned["models"]
            written = await desk.call("sync-client-config", client="crush")
            assert (written["status"], written["diff"]) == ("written", planned["diff"])
            providers = json.loads(config.read_text())["providers"]
            assert providers["vllm"]["base_url"] == f"http://127.0.0.1:{running.port}/v1"
            assert [model["id"] for model in providers["vllm"]["models"]] == [m["id"] for m in written["models"]]
            assert (await desk.call("sync-client-config", client="crush"))["status"] == "unchanged"
            assert (await desk.call("sync-client-config", client="crush", undo=True))["status"] == "undone"
            assert config.read_text() == before
            config.write_text("{ not json")
            await desk.fail("sync-client-config", "CLIENT_CONFIG_INVALID", client="crush")
            assert config.read_text() == "{ not json"
            await desk.fail("sync-client-config", "PATH_NOT_ALLOWED", client="crush", path="/etc/crush.json")


# -- resources


async def test_resources_tell_the_same(desk: Desk) -> None:
    models = json.loads((await desk.client.read_resource("discovery://models")).contents[0].text)  # type: ignore[union-attr]
    assert len(models["models"]) == 5
    one = json.loads((await desk.client.read_resource("discovery://models/org/good")).contents[0].text)  # type: ignore[union-attr]
    assert one["tool_call_parser"] == "hermes"
    engines = json.loads((await desk.client.read_resource("discovery://engines")).contents[0].text)  # type: ignore[union-attr]
    assert engines["engines"] == []


async def test_a_change_in_the_cache_reaches_subscribers(new_desk: Callable[..., Desk], cache: Path) -> None:
    async with (
        new_desk().open(variables={"DISCOVERY_INTERVAL_SECONDS": "1"}) as desk,
        desk.client.listen(resource_subscriptions=["discovery://models"]) as events,
        anyio.create_task_group() as group,
    ):
        heard = anyio.Event()

        async def listen() -> None:
            assert await anext(aiter(events)) == ResourceUpdated(uri="discovery://models")
            heard.set()

        group.start_soon(listen)
        with anyio.fail_after(60):
            for number in range(1000):  # until one falls after the first look
                if heard.is_set():
                    break
                add(cache, f"org/new{number}", text_model())
                await anyio.sleep(0.3)


def test_the_instructions_and_tools_are_complete() -> None:
    from vllm_auto_discovery.description import DESCRIPTION
    from vllm_mcp_protocol.settings import Settings

    tools = build_server(Settings.from_environment({})).registered_tools
    assert set(tools) == {
        *("discover-models", "get-model-metadata", "get-model-capabilities", "get-multimodal-capabilities"),
        *("discover-engines", "download-model", "delete-cached-model", "verify-cache", "sync-client-config"),
    }
    assert [name for name in tools if name not in DESCRIPTION.instructions] == ["get-multimodal-capabilities"]
