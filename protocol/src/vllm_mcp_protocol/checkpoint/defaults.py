"""What config.json leaves out because the model's class says it. Pure data.

Configurations that are nested in another one (the text model of a vision model) are published without the values that
equal the defaults of their class. vLLM reads them through transformers, which fills those in; so do these tables, from
the configuration classes of transformers 5.19.
"""

from collections.abc import Mapping
from typing import Any


def _shape(context: int, layers: int, hidden: int, heads: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "max_position_embeddings": context,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        **more,
    }


_QWEN2_VL = _shape(32768, 80, 8192, 64, 152064, num_key_value_heads=8)

CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "falcon": {"max_position_embeddings": 2048},
    "gemma": _shape(8192, 28, 3072, 16, 256000, num_key_value_heads=16, head_dim=256),
    "gemma2": _shape(8192, 26, 2304, 8, 256000, num_key_value_heads=4, head_dim=256, sliding_window=4096),
    "gemma3_text": _shape(131072, 26, 2304, 8, 262208, num_key_value_heads=4, head_dim=256, sliding_window=4096),
    "gemma3n_text": _shape(32768, 35, 2048, 8, 262400, num_key_value_heads=2, head_dim=256, sliding_window=512),
    "llama": _shape(2048, 32, 4096, 32, 32000),
    "llama4_text": _shape(
        131072, 48, 5120, 40, 202048, num_key_value_heads=8, head_dim=128, num_local_experts=16, num_experts_per_tok=1
    ),
    "mistral": _shape(131072, 32, 4096, 32, 32000, num_key_value_heads=8, sliding_window=4096),
    "mixtral": _shape(131072, 32, 4096, 32, 32000, num_key_value_heads=8, num_local_experts=8, num_experts_per_tok=2),
    "nomic_bert": {"max_position_embeddings": 2048},  # longer than that only with RoPE scaling
    "opt": _shape(2048, 12, 768, 12, 50272),
    "phi3": _shape(4096, 32, 3072, 32, 32064),
    "qwen2": _shape(32768, 32, 4096, 32, 151936, num_key_value_heads=32),
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen2_5_omni_text": _shape(32768, 28, 3584, 28, 152064, num_key_value_heads=4),
    "qwen3": _shape(32768, 32, 4096, 32, 151936, num_key_value_heads=32, head_dim=128),
}
"""By `model_type`. A value that config.json gives, even as null, goes before these."""

STANDARD_NAMES: Mapping[str, str] = {
    "max_position_embeddings": "context_window",
    "num_hidden_layers": "layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "attention_heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_size",
    "vocab_size": "vocabulary",
    "sliding_window": "sliding_window",
    "num_local_experts": "experts",
    "num_experts_per_tok": "experts_per_token",
}
"""The fact that each of these values decides."""
