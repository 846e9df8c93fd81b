"""What an installed vLLM says it supports, as values. Asked by `engine_models`, judged by the servers. Pure."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

ArchitectureKind = Literal[
    "generate",
    "embed",
    "late_interaction",
    "reward",
    "token_classify",
    "classify",
    "multimodal",
    "speculative",
    "transformers",
]
"""A table of vLLM's model registry. `transformers`: run by the Transformers library inside vLLM."""


class VllmModels(BaseModel):
    """Models and parsers of one installed vLLM.

    Every part was asked by itself: None means that this version did not answer, and `unknown` says why. Names
    are vLLM's own, so that they can be held against a model's files and given to `vllm serve`.
    """

    model_config = ConfigDict(frozen=True)

    version: str | None = None
    """For example ``0.32.0``."""
    architectures: dict[str, frozenset[ArchitectureKind]] | None = None
    """Name as in config.json → the registry's tables that have it; empty for one that only a plugin knows."""
    interfaces: dict[str, frozenset[str]] | None = None
    """Architecture → what its class implements, as vLLM names it: ``SupportsLoRA``, ``SupportsMultiModal``, …"""
    inputs: dict[str, frozenset[str]] | None = None
    """Architecture → ``image``, ``video``, ``audio``, as its class names them; absent when it names none."""
    conversions: tuple[tuple[str, str, str], ...] | None = None
    """Ending of an architecture's name, runner and conversion that vLLM chooses by it; the first match wins."""
    retired: dict[str, str] | None = None
    """Architecture → the last version that had it."""
    plugins: dict[str, str] | None = None
    """Architecture → where the plugin is that brings it."""
    transformers_architectures: frozenset[str] | None = None
    """Model classes of the Transformers library beside it: vLLM tries them when it has no class of its own."""
    tool_call_parsers: frozenset[str] | None = None
    """Values of `--tool-call-parser`."""
    reasoning_parsers: frozenset[str] | None = None
    """Values of `--reasoning-parser`."""
    tokenizer_modes: frozenset[str] | None = None
    """Values of `--tokenizer-mode` that vLLM implements."""
    quantization_methods: frozenset[str] | None = None
    load_formats: frozenset[str] | None = None
    unknown: dict[str, str] = {}
    """Part → why it is None; ``vllm`` when nothing could be asked."""

    @property
    def label(self) -> str:
        """For sentences: ``vLLM 0.32.0``."""
        return f"vLLM {self.version}" if self.version else "this vLLM"
