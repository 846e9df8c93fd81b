"""What the small files of a model say: config.json, the index of its weights, the tokenizer's configuration.

Files are read by the names that a scan found, bounded in size; a damaged one becomes a warning.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_mcp_protocol.checkpoint import config as checkpoint_config
from vllm_mcp_protocol.checkpoint.values import short_text
from vllm_mcp_protocol.hf.inventory import CachedFile, CachedRevision, PlainModel
from vllm_mcp_protocol.hf.scan.plain import CONFIGS
from vllm_mcp_protocol.model import ModelFacts
from vllm_mcp_protocol.reading import printable, read_regular, reason
from vllm_mcp_protocol.units import MIB
from vllm_mcp_protocol.weights.names import INDEXES, indexed_names, missing_shards, weight_names

CONFIG_LIMIT_BYTES = 4 * MIB
INDEX_LIMIT_BYTES = 32 * MIB
"""The index of a 256-expert checkpoint names 90,000 tensors: 9 MB."""

_TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True, slots=True)
class ModelReading:
    """What the files of one model say."""

    facts: ModelFacts
    missing: tuple[str, ...]
    """Weight files that the model has by its index or by their numbers, and that are not there."""
    warnings: tuple[str, ...]
    """Without the model's name."""


def read_model(model_id: str, source: CachedRevision | PlainModel) -> ModelReading:
    """Facts of a snapshot, or of a folder. Never raises for what lies on disk."""
    files = _Files(source)
    config, tokenizer = files.read("config.json"), files.read("tokenizer_config.json")
    weights, missing = _weights(files)
    has_config = any(name in files.found for name in CONFIGS) or any(name.endswith(".gguf") for name in weights)
    facts = ModelFacts(
        model_id=model_id,
        path=printable(source.path),
        revision=source.commit if isinstance(source, CachedRevision) else None,
        complete=bool(weights) and not missing and has_config,
        weights_bytes=_total_bytes(files, weights),
        architectures=checkpoint_config.architectures(config),
        model_type=short_text(config.get("model_type")),
        dtype=checkpoint_config.dtype(config),
        context_window=checkpoint_config.context_window(config, tokenizer.get("model_max_length")),
        attention_heads=checkpoint_config.attention_heads(config),
        kv_bytes_per_token=checkpoint_config.kv_bytes_per_token(config),
        quantization=checkpoint_config.quantization(config),
        is_adapter=_is_adapter(files, weights),
        has_chat_template=any(name in files.found for name in _TEMPLATES) or bool(tokenizer.get("chat_template")),
    )
    return ModelReading(facts, missing, tuple(files.warnings))


@dataclass(slots=True)
class _Files:
    """The files of a model, and what is wrong with those that were read."""

    source: CachedRevision | PlainModel
    found: dict[str, CachedFile] = field(init=False)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.found = {file.name: file for file in self.source.files}

    def read(self, name: str, limit_bytes: int = CONFIG_LIMIT_BYTES) -> Mapping[str, Any]:
        """The JSON object in file `name`; empty, with a warning, when there is a file but no object."""
        if name not in self.found:
            return {}
        try:
            value = json.loads(read_regular(self.source.path_of(self.found[name]), limit_bytes))
        except (OSError, ValueError, RecursionError) as error:
            self.warnings.append(printable(f"{name} cannot be read: {reason(error)}"))
            return {}
        if not isinstance(value, dict):
            self.warnings.append(f"{name} is not a JSON object")
            return {}
        return value


def _weights(files: _Files) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the weight files that vLLM would load, and those of them that are not there."""
    for index in INDEXES:
        if index in files.found and (shards := indexed_names(files.read(index, INDEX_LIMIT_BYTES))):
            missing = tuple(name for name in shards if name not in files.found)
            if missing:
                files.warnings.append(f"{len(missing)} of {len(shards)} weight files are missing: {missing[0]}, …")
            return shards, missing
    found = weight_names(files.found)
    return found, missing_shards(found)


def _total_bytes(files: _Files, names: tuple[str, ...]) -> int | None:
    """Sum of the sizes, a blob with two names counted once; None without files."""
    there = [files.found[name] for name in names if name in files.found]
    sizes = {file.blob or file.name: file.size_bytes for file in there}
    return sum(sizes.values()) if sizes else None


def _is_adapter(files: _Files, weights: tuple[str, ...]) -> bool:
    """A repository of a whole model may hold an adapter too; that does not make it one."""
    if "adapter_config.json" not in files.found:
        return False
    return "config.json" not in files.found or all(name.startswith("adapter_model") for name in weights)
