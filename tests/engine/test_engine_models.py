"""What the real vLLM says that it supports, and what is claimed of the tiny models, held against real engines.

Vision is held against vLLM's registry only: LLaVA needs torchvision, which the CPU environment leaves out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.engine.engines import CPU_FLAGS, RunningEngine, started, wait_healthy
from vllm_auto_discovery.core.abilities.capabilities import capabilities
from vllm_auto_discovery.core.abilities.claims import Capability
from vllm_auto_discovery.core.abilities.model_files import ModelFiles
from vllm_auto_discovery.core.abilities.reasoning_formats import BUILT_IN_REASONING, REASONING_FORMATS
from vllm_auto_discovery.core.abilities.tool_formats import BUILT_IN_TOOLS, TOOL_FORMATS
from vllm_mcp.tiny_models import ensure_tiny_models
from vllm_mcp_protocol.engine_env import engine_python
from vllm_mcp_protocol.engine_models import known_models, read_models
from vllm_mcp_protocol.hf.cache import find
from vllm_mcp_protocol.vllm_models import VllmModels

pytestmark = pytest.mark.engine

LLAMA, ADAPTER, BERT = "tiny-org/tiny-llama", "tiny-org/tiny-llama-lora", "tiny-org/tiny-bert-embed"
FAST = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # 4 s less
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}

# module scope: vLLM is asked once, and one engine of each kind answers all that is claimed of its model


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("facts")


@pytest.fixture(scope="module")
def vllm(real_vllm: Path, facts: Path) -> VllmModels:
    return read_models(real_vllm, facts)


def snapshot(home: Path, model_id: str) -> Path:
    found = find(model_id, [home / "hub"])
    assert found is not None
    return Path(str(found.path))


def files_of(folder: Path) -> ModelFiles:
    def read(name: str) -> Any:
        return json.loads((folder / name).read_text()) if (folder / name).exists() else None

    template = folder / "chat_template.jinja"
    return ModelFiles(
        names=frozenset(str(path.relative_to(folder)) for path in folder.rglob("*")),
        config=read("config.json"),
        tokenizer_config=read("tokenizer_config.json"),
        chat_template=template.read_text() if template.exists() else None,
        modules=read("modules.json"),
        adapter=read("adapter_config.json"),
    )


def claims_of(files: ModelFiles, vllm: VllmModels) -> dict[str, Capability]:
    return {claim.name: claim for claim in capabilities(files, vllm)}


def claims(folder: Path, vllm: VllmModels) -> dict[str, Capability]:
    return claims_of(files_of(folder), vllm)


def values(said: dict[str, Capability], *names: str) -> dict[str, str]:
    return {name: said[name].value for name in names}


def test_the_installed_vllm_answers_every_part_and_is_asked_once(
    vllm: VllmModels, real_vllm: Path, facts: Path
) -> None:
    assert vllm.unknown == {}
    assert known_models(real_vllm, facts) == vllm
    kinds, interfaces, inputs = vllm.architectures or {}, vllm.interfaces or {}, vllm.inputs or {}
    assert "generate" in kinds["LlamaForCausalLM"]
    assert kinds["BertModel"] == frozenset({"embed"})
    assert kinds["LlavaForConditionalGeneration"] == frozenset({"multimodal"})
    assert "speculative" in kinds["EagleLlamaForCausalLM"]
    assert "SupportsLoRA" in interfaces["LlamaForCausalLM"]
    assert inputs["LlavaForConditionalGeneration"] == frozenset({"image"})
    assert inputs["Qwen2VLForConditionalGeneration"] == frozenset({"image", "video"})
    assert kinds.keys() == interfaces.keys()


def test_every_parser_that_can_be_proposed_is_there(vllm: VllmModels) -> None:
    tools = {parser for one in TOOL_FORMATS for parser in one.parsers} | set(BUILT_IN_TOOLS.values()) | {"hf"}
    thoughts = {parser for one in REASONING_FORMATS for parser in one.parsers} | set(BUILT_IN_REASONING.values())
    assert "hermes" in tools
    assert tools - (vllm.tool_call_parsers or frozenset()) == set()
    assert (thoughts | {"hf"}) - (vllm.reasoning_parsers or frozenset()) == set()
    assert set(BUILT_IN_TOOLS) - (vllm.tokenizer_modes or frozenset()) == set()


@pytest.fixture(scope="module")
def llama(real_vllm: Path, tiny_hf_home: Path, vllm: VllmModels) -> Iterator[RunningEngine]:
    """tiny-llama, started with the flags that are claimed to turn on tools and adapters."""
    said = claims(snapshot(tiny_hf_home, LLAMA), vllm)
    claimed = (*said["tools"].flags, *said["lora"].flags)
    adapter = ("--lora-modules", f"{ADAPTER}={snapshot(tiny_hf_home, ADAPTER)}")
    env = FAST | {"HF_HOME": str(tiny_hf_home)}
    with started(real_vllm, LLAMA, flags=(*CPU_FLAGS, *claimed, *adapter), env=env) as engine:
        wait_healthy(engine)
        yield engine


def chat(engine: RunningEngine, **body: Any) -> httpx2.Response:
    messages = [{"role": "user", "content": "hello"}]
    return engine.client.post("/v1/chat/completions", json={"model": LLAMA, "messages": messages} | body)


def test_what_is_claimed_of_a_chat_model_is_true(llama: RunningEngine, tiny_hf_home: Path, vllm: VllmModels) -> None:
    said = claims(snapshot(tiny_hf_home, LLAMA), vllm)
    asked = ("supported", "text", "chat", "tools", "structured_output", "lora")
    assert values(said, *asked) == dict.fromkeys(asked, "yes")
    assert chat(llama, max_tokens=5).json()["usage"]["completion_tokens"] >= 1
    chosen = chat(llama, structured_outputs={"choice": ["yes", "no"]}).json()
    assert chosen["choices"][0]["message"]["content"] in ("yes", "no")
    tools = [{"type": "function", "function": WEATHER}]
    assert said["tools"].parser == "hermes"
    assert chat(llama, tools=tools, tool_choice="auto", max_tokens=5).status_code == 200
    assert values(said, "embeddings", "vision", "reasoning") == dict.fromkeys(
        ("embeddings", "vision", "reasoning"), "no"
    )
    assert llama.client.post("/v1/embeddings", json={"model": LLAMA, "input": "hello"}).status_code in (400, 404)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert chat(llama, messages=[{"role": "user", "content": [image]}]).status_code == 400


def test_what_is_claimed_of_an_adapter_is_true(llama: RunningEngine, tiny_hf_home: Path, vllm: VllmModels) -> None:
    said = claims(snapshot(tiny_hf_home, ADAPTER), vllm)
    assert values(said, "adapter", "lora") == {"adapter": "yes", "lora": "no"}
    assert chat(llama, model=ADAPTER, max_tokens=5).json()["model"] == ADAPTER


def test_what_is_claimed_of_an_embedding_model_is_true(real_vllm: Path, tiny_hf_home: Path, vllm: VllmModels) -> None:
    ensure_tiny_models(engine_python(real_vllm), tiny_hf_home, ("tiny-bert-embed",))
    said = claims(snapshot(tiny_hf_home, BERT), vllm)
    assert values(said, "supported", "embeddings") == {"supported": "yes", "embeddings": "yes"}
    assert values(said, "text", "chat", "tools", "vision") == dict.fromkeys(("text", "chat", "tools", "vision"), "no")
    env = FAST | {"HF_HOME": str(tiny_hf_home)}
    with started(real_vllm, BERT, flags=(*CPU_FLAGS, *said["embeddings"].flags), env=env) as engine:
        wait_healthy(engine)
        answer = engine.client.post("/v1/embeddings", json={"model": BERT, "input": "hello"}).json()
        assert len(answer["data"][0]["embedding"]) == 128
        assert chat(engine, model=BERT).status_code in (400, 404)


def test_images_are_claimed_by_the_registry(vllm: VllmModels) -> None:
    config = {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {"hidden_size": 32}}
    said = claims_of(ModelFiles(config=config), vllm)
    assert values(said, "supported", "vision", "video") == {"supported": "yes", "vision": "yes", "video": "no"}
    assert "LlavaForConditionalGeneration takes image" in said["vision"].evidence
