"""A claim about a model, and what all claims about one model have in common. Pure."""

from dataclasses import dataclass
from typing import Literal

from vllm_auto_discovery.core.abilities.architecture import Answer, Support, Use
from vllm_auto_discovery.core.abilities.model_files import MISTRAL_FILES, ModelFiles
from vllm_mcp_protocol.vllm_models import VllmModels

CapabilityName = Literal[
    "supported",
    "text",
    "chat",
    "vision",
    "audio",
    "video",
    "transcription",
    "embeddings",
    "rerank",
    "classification",
    "tools",
    "reasoning",
    "structured_output",
    "lora",
    "adapter",
    "draft",
    "mtp",
]


@dataclass(frozen=True, slots=True)
class Capability:
    """One claim about a model on one vLLM."""

    name: CapabilityName
    value: Answer
    evidence: str
    parser: str | None = None
    """Value of `--tool-call-parser` or `--reasoning-parser`; only one that this vLLM has."""
    flags: tuple[str, ...] = ()
    """What `vllm serve` needs for it, beyond the model."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model on a vLLM, and what the claims have in common."""

    files: ModelFiles
    vllm: VllmModels | None
    support: Support
    use: Use

    @property
    def label(self) -> str:
        return self.vllm.label if self.vllm else "vLLM"

    @property
    def renderer(self) -> str | None:
        """The tokenizer mode in which vLLM writes this model's chats without a template."""
        mode = _RENDERERS.get(self.support.served_as or "")
        if any(name in self.files.names for name in MISTRAL_FILES):
            mode = "mistral"
        modes = self.vllm.tokenizer_modes if self.vllm else None
        return mode if mode and (modes is None or mode in modes) else None


_RENDERERS = {
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "DeepseekV4ForCausalLM": "deepseek_v4",
    "DeepseekV4ForConditionalGeneration": "deepseek_v4",
    "DeepseekV41ForCausalLM": "deepseek_v41",
    "KimiK3ForConditionalGeneration": "kimi_k3",
    "MoonshotKimiaForCausalLM": "kimi_audio",
    "InklingForCausalLM": "inkling",
    "InklingForConditionalGeneration": "inkling",
}
"""vLLM 0.32, config/model.py: "Set default tokenizer modes based on model architecture"."""
