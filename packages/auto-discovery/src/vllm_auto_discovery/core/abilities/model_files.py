"""What a model's own files say, as plain values that were read elsewhere. Pure; junk counts as absent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_mcp_protocol.checkpoint import config as checkpoint_config
from vllm_mcp_protocol.checkpoint import values as checkpoint_values
from vllm_mcp_protocol.checkpoint.config import text_config
from vllm_mcp_protocol.checkpoint.facts import MTP_KEYS
from vllm_mcp_protocol.checkpoint.values import short_text, whole

CONFIG, TOKENIZER_CONFIG, TEMPLATE_FILE = "config.json", "tokenizer_config.json", "chat_template.jinja"
MISTRAL_FILES = ("tekken.json", "tokenizer.model.v3", "tokenizer.model.v2", "tokenizer.model.v1")
"""Tokenizers of mistral-common, which brings its own chat format."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model's files. None: the file is not there, or could not be read; see `names`."""

    names: frozenset[str] = frozenset()
    """Paths within the repository or folder, with slashes."""
    config: Mapping[str, Any] | None = None
    """config.json"""
    tokenizer_config: Mapping[str, Any] | None = None
    """tokenizer_config.json"""
    chat_template: str | None = None
    """chat_template.jinja (or the template of chat_template.json), when it is a file of its own."""
    chat_template_file: str = TEMPLATE_FILE
    modules: Any = None
    """modules.json of sentence-transformers."""
    preprocessor: Mapping[str, Any] | None = None
    """preprocessor_config.json, else processor_config.json."""
    adapter: Mapping[str, Any] | None = None
    """adapter_config.json: then these are the files of an adapter."""
    pipeline_tag: str | None = None
    """Of the card (README.md), or of the Hub."""

    @property
    def architectures(self) -> tuple[str, ...]:
        return checkpoint_config.architectures(self.config or {})

    @property
    def model_type(self) -> str:
        return checkpoint_values.model_type(self.config or {})

    @property
    def template(self) -> tuple[str, str] | None:
        """The chat template and the file that it is in; for tools, where a model has one of its own for them."""
        if self.chat_template:
            return self.chat_template, self.chat_template_file
        written = (self.tokenizer_config or {}).get("chat_template")
        if isinstance(written, str) and written:
            return written, TOKENIZER_CONFIG
        named = _named_templates(written)
        chosen = named.get("tool_use") or named.get("default")
        return (chosen, TOKENIZER_CONFIG) if chosen else None

    @property
    def config_parts(self) -> tuple[Mapping[str, Any], ...]:
        """config.json and what it nests about the model as a whole (Omni models: `thinker_config`)."""
        config = self.config or {}
        nested = config.get("thinker_config")
        return (config, nested) if isinstance(nested, dict) else (config,)

    @property
    def pools(self) -> str | None:
        """The evidence that sentence-transformers pools this model, else None."""
        steps = self.modules if isinstance(self.modules, list) else []
        kinds = [short_text(step.get("type")) or "" for step in steps[:32] if isinstance(step, dict)]
        pooling = next((kind for kind in kinds if kind.endswith(".Pooling")), None)
        if pooling:
            return f"modules.json: {pooling}"
        return "1_Pooling/config.json is there" if "1_Pooling/config.json" in self.names else None

    @property
    def label_count(self) -> int | None:
        """How many classes a classifier tells apart."""
        config = self.config or {}
        labels = config.get("id2label")
        return len(labels) if isinstance(labels, dict) and labels else whole(config.get("num_labels"))

    @property
    def mtp_field(self) -> str | None:
        """The field of config.json that counts layers for multi-token prediction, when there are any."""
        parts = (*self.config_parts, text_config(self.config or {}))
        return next((key for key in MTP_KEYS for part in parts if whole(part.get(key))), None)


def _named_templates(written: Any) -> dict[str, str]:
    """Older files hold several: `[{"name": "tool_use", "template": "…"}, …]`."""
    entries = written[:16] if isinstance(written, list) else []
    pairs = [(entry.get("name"), entry.get("template")) for entry in entries if isinstance(entry, dict)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str) and text}
