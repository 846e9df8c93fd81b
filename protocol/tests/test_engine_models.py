"""Asking an installed vLLM for its models: its script on made-up vLLMs, and what is remembered of the answer."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.fakes import make_fake_vllm
from vllm_mcp_protocol.engine_models import known_models, parse_answer, read_models
from vllm_mcp_protocol.vllm_models import VllmModels

REGISTRY = """
_TEXT_GENERATION_MODELS = {"LlamaForCausalLM": ("llama", "LlamaForCausalLM"), "GoneForCausalLM": ("gone", "Gone")}
_EMBEDDING_MODELS = {"BertModel": ("bert", "BertEmbeddingModel"), "LlamaForCausalLM": ("llama", "LlamaForCausalLM")}
_CROSS_ENCODER_MODELS = {"BertForSequenceClassification": ("bert", "Missing")}
_MULTIMODAL_MODELS = {
    "LlavaForConditionalGeneration": ("llava", "LlavaForConditionalGeneration"),
    "EarForConditionalGeneration": ("vllm.models.ear", "EarForConditionalGeneration"),
}
_PREVIOUSLY_SUPPORTED_MODELS = {"OldForCausalLM": "0.10.2"}
_OOT_SUPPORTED_MODELS = {"BartModel": "https://example.org/bart"}

class ModelRegistry:
    extra = []
    @classmethod
    def get_supported_archs(cls):
        known = _TEXT_GENERATION_MODELS | _EMBEDDING_MODELS | _CROSS_ENCODER_MODELS | _MULTIMODAL_MODELS
        return {*known, *cls.extra} - {"GoneForCausalLM"}
"""
PLUGINS = """
def load_general_plugins():
    from vllm.model_executor.models.registry import ModelRegistry
    ModelRegistry.extra.append("PluginForCausalLM")
"""
LLAMA = """
class LlamaForCausalLM(
    nn.Module,  # comment, with SupportsNothing
    interfaces.SupportsLoRA,
    Generic[SupportsNothing],
    metaclass=SupportsNothing,
):
    pass
"""
BERT = """
import torch_that_is_not_there

class BertModel:
    pass

if TYPE_CHECKING:
    _BertBase = BertModel
else:
    _BertBase = as_embedding_model(BertModel)

class BertEmbeddingModel(_BertBase, SupportsQuant):
    pass
"""
LLAVA = """
class SupportsMultiModal(Protocol):
    supports_multimodal: bool = True

class LlavaProcessingInfo:
    def get_supported_mm_limits(self):
        return {"image": None, "audio": 1}

class _Llava(LlamaForCausalLM, SupportsMultiModal):
    pass

class LlavaForConditionalGeneration(_Llava):
    @classmethod
    def get_placeholder_str(cls, modality, i):
        if modality.startswith("image"):
            return "<image>"
        if modality.startswith('video'):
            return "<video>"
        raise ValueError("Only image or audio?")

    kind = "audio"
"""
EAR = """
class EarInfo:
    def get_supported_mm_limits(self):
        return {"audio": 1}

class EarForConditionalGeneration(SupportsMultiModal, SupportsTranscription):
    supports_transcription_only: ClassVar[Literal[True]] = True
"""
PARSERS = """
print("vLLM logs to the standard output")
class ToolParserManager:
    tool_parsers = {"hermes": object}
    lazy_parsers = {"mistral": ("module", "class"), "broken": ("module", "class")}
    @classmethod
    def get_tool_parser(cls, name):
        if name == "broken":
            raise ImportError("no such library")
"""
WHOLE = {
    "__init__": "__version__ = '9.9.0'",
    "plugins": PLUGINS,
    "config/model": "def iter_architecture_defaults():\n    yield ('ForCausalLM', ('generate', 'none'))",
    "model_executor/models/registry": REGISTRY,
    "model_executor/models/llama": LLAMA,
    "model_executor/models/bert": BERT,
    "model_executor/models/llava": LLAVA,
    "models/ear/model": EAR,
    "tool_parsers/__init__": PARSERS,
    "reasoning/__init__": "class ReasoningParserManager:\n    reasoning_parsers = {'qwen3': 1}\n"
    "    get_reasoning_parser = print",
    "tokenizers/registry": "_VLLM_TOKENIZERS = {'mistral': 1, 'hf': 2}",
    "model_executor/layers/quantization/__init__": "QUANTIZATION_METHODS = ['awq', 'fp8']",
    "model_executor/model_loader/__init__": "from typing import Literal\nLoadFormats = Literal['auto', 'safetensors']",
}


def environment(folder: Path, sources: Mapping[str, str], python: str | None = None) -> Path:
    """An engine's environment whose `vllm` package is made of `sources`; its `vllm` command."""
    for name, source in sources.items():
        path = folder / "site/vllm" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        for package in path.relative_to(folder / "site").parents[:-1]:
            (folder / "site" / package / "__init__.py").touch()
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site/transformers.py").write_text("OptForCausalLM = OptPreTrainedModel = OptConfig = None")
    start = f"import sys, runpy; sys.path.insert(0, '{folder}/site'); runpy.run_path(sys.argv[1], run_name='__main__')"
    executable = make_fake_vllm(folder / "bin")
    launcher = folder / "bin/python"
    asked = f'[ "$1" = -I ] || exit 9; echo >> "{folder}/asked"'
    launcher.write_text(python or f'#!/bin/sh\n{asked}\nexec "{sys.executable}" -I -c "{start}" "$2"\n')
    launcher.chmod(0o755)
    return executable


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "facts"


def test_every_part_is_asked_of_the_installed_vllm(tmp_path: Path, cache: Path) -> None:
    models = read_models(environment(tmp_path, WHOLE), cache)
    assert models.label == "vLLM 9.9.0"
    assert models.model_copy(update={"interfaces": None, "inputs": None}) == VllmModels.model_validate(
        {
            "version": "9.9.0",
            "architectures": {
                "LlamaForCausalLM": ["generate", "embed"],
                "BertModel": ["embed"],
                "BertForSequenceClassification": ["classify"],
                "LlavaForConditionalGeneration": ["multimodal"],
                "EarForConditionalGeneration": ["multimodal"],
                "PluginForCausalLM": [],
            },
            "conversions": [["ForCausalLM", "generate", "none"]],
            "retired": {"OldForCausalLM": "0.10.2"},
            "plugins": {"BartModel": "https://example.org/bart"},
            "transformers_architectures": ["OptForCausalLM"],
            "tool_call_parsers": ["hermes", "mistral"],  # not `broken`: it cannot be loaded
            "reasoning_parsers": ["qwen3"],
            "tokenizer_modes": ["hf", "mistral"],
            "quantization_methods": ["awq", "fp8"],
            "load_formats": ["auto", "safetensors"],
        }
    )


def test_interfaces_and_inputs_are_read_from_sources_that_cannot_be_imported(tmp_path: Path, cache: Path) -> None:
    models = read_models(environment(tmp_path, WHOLE), cache)
    heard = {"SupportsMultiModal", "SupportsTranscription", "supports_transcription_only"}
    assert models.model_dump(include={"interfaces", "inputs"}) == {
        "interfaces": {
            "LlamaForCausalLM": {"SupportsLoRA"},
            "BertModel": {"SupportsQuant"},
            "LlavaForConditionalGeneration": {"SupportsLoRA", "SupportsMultiModal"},
            "EarForConditionalGeneration": heard,
        },
        "inputs": {"LlavaForConditionalGeneration": {"image", "video"}, "EarForConditionalGeneration": {"audio"}},
    }


def test_it_is_asked_once_per_installed_version(tmp_path: Path, cache: Path) -> None:
    executable = environment(tmp_path, WHOLE)
    assert known_models(executable, cache) is None
    assert not (tmp_path / "asked").exists()
    first = read_models(executable, cache)
    assert read_models(executable, cache) == known_models(executable, cache) == first
    assert (tmp_path / "asked").read_text() == "\n"
    os.utime(executable, ns=(1, 1))  # as when it is installed anew
    assert known_models(executable, cache) is None
    read_models(executable, cache)
    assert (tmp_path / "asked").read_text() == "\n\n"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"architectures": 7}', b"\xff" * 2_000_000])
def test_a_damaged_memory_is_asked_anew(tmp_path: Path, cache: Path, content: bytes) -> None:
    executable = environment(tmp_path, WHOLE)
    models = read_models(executable, cache)
    (record,) = cache.iterdir()
    record.write_bytes(content)
    assert known_models(executable, cache) is None
    assert read_models(executable, cache) == models


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("model_executor/models/registry", "architectures"),
        ("config/model", "conversions"),
        ("tool_parsers/__init__", "tool_call_parsers"),
        ("reasoning/__init__", "reasoning_parsers"),
        ("tokenizers/registry", "tokenizer_modes"),
        ("model_executor/layers/quantization/__init__", "quantization_methods"),
        ("model_executor/model_loader/__init__", "load_formats"),
    ],
)
@pytest.mark.parametrize("change", ["renamed = 1", "raise SystemExit(3)", "import libcuda_is_missing"])
def test_a_part_that_another_version_keeps_elsewhere_is_unknown_with_its_reason(
    tmp_path: Path, cache: Path, source: str, part: str, change: str
) -> None:
    models = read_models(environment(tmp_path, WHOLE | {source: change}), cache)
    assert getattr(models, part) is None
    assert models.unknown[part]
    assert models.version == "9.9.0"
    others = {"quantization_methods", "load_formats"} - {part}
    assert all(getattr(models, other) is not None for other in others)


def test_the_names_of_older_versions_are_known(tmp_path: Path, cache: Path) -> None:
    moved = {name: text for name, text in WHOLE.items() if name != "tool_parsers/__init__"}
    moved["entrypoints/openai/tool_parsers/__init__"] = PARSERS
    models = read_models(environment(tmp_path, moved), cache)
    assert models.tool_call_parsers == frozenset({"hermes", "mistral"})


def test_a_plugin_that_fails_costs_only_itself(tmp_path: Path, cache: Path) -> None:
    models = read_models(environment(tmp_path, WHOLE | {"plugins": "1 / 0"}), cache)
    assert models.architectures is not None
    assert "LlamaForCausalLM" in models.architectures


def test_an_environment_without_a_python_is_unknown_not_an_error(tmp_path: Path, cache: Path) -> None:
    models = read_models(make_fake_vllm(tmp_path / "bin"), cache)
    assert (models.architectures, models.tool_call_parsers, models.version) == (None, None, None)
    assert "does not exist" in models.unknown["vllm"]
    assert models.label == "this vLLM"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'ImportError: libpython' >&2; exit 1", "ImportError: libpython"),
        ("echo hello", "hello"),
        ("echo '[]'", "not an answer"),
        ("exit 0", "not JSON"),
    ],
)
def test_a_python_that_cannot_answer_is_unknown_and_not_remembered(
    tmp_path: Path, cache: Path, script: str, words: str
) -> None:
    executable = environment(tmp_path, WHOLE, python=f"#!/bin/sh\n{script}\n")
    assert words in read_models(executable, cache).unknown["vllm"]
    assert known_models(executable, cache) is None


def test_a_memory_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_models(environment(tmp_path, WHOLE), tmp_path / "file/facts").version == "9.9.0"


@pytest.mark.parametrize(
    ("said", "unknown"),
    [
        ({"architectures": 7}, {"architectures"}),
        ({"architectures": {"A": ["a kind of the future"]}}, {"architectures"}),
        ({"classes": 7}, set()),
        ({"classes": {"A": 7, "B": {"interfaces": 7}}}, {"interfaces"}),
        ({"tool_call_parsers": [1], "load_formats": ["auto"]}, {"tool_call_parsers"}),
        ({"unknown": {"classes": "no sources"}}, {"interfaces", "inputs"}),
        ({"unknown": {"version": 7}, "version": 7}, {"version", "unknown"}),
    ],
)
def test_an_answer_of_another_form_is_unknown_part_by_part(said: dict[str, Any], unknown: set[str]) -> None:
    models = parse_answer(json.dumps({"unknown": {}} | said))
    assert models.unknown.keys() == unknown
    assert all(getattr(models, part) is None for part in unknown - {"unknown"})


def test_nothing_known_is_a_value() -> None:
    assert parse_answer('{"unknown": {}}') == VllmModels()
