"""Which kinds of layers a model has: attention over everything, over a window, linear, state space, … Pure.

Newer configurations list the kinds (`layer_types`); older ones have a rule of their own, which is in the
configuration class of transformers or in vLLM's model file. Each rule below names where it is from.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vllm_mcp_protocol.checkpoint.values import first_whole, model_type, part, short_text, whole

LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
WITHOUT_KV = frozenset({"linear", "mamba", "conv", "recurrent", "moe", "mlp", "none"})
"""Kinds that keep no keys and values of each token."""

_MOST_LAYERS = 10_000
"""The deepest models have some hundreds; a rule is not worked out for more."""
_KINDS = {
    **{"full_attention": "full", "attention": "full", "deepseek_sparse_attention": "full"},
    **{"indexed_attention": "full", "qwen_sparse_attention": "full"},
    **{"sliding_attention": "sliding", "chunked_attention": "chunked"},
    **{"linear_attention": "linear", "mamba": "mamba", "mamba2": "mamba"},
}
"""Names in `layer_types` and `layers_block_type`; others (`conv`, `moe`, `hybrid`, …) stay as they are."""
_PATTERN = {"M": "mamba", "*": "full", "-": "mlp", "E": "moe"}
"""Letters of `hybrid_override_pattern` (Nemotron-H)."""
_WINDOW_PERIODS = {"gemma2": 2, "gpt_oss": 2, "cohere2": 4, "exaone4": 4, "gemma3_text": 6}
"""Every n-th layer sees everything, the others a window, unless `sliding_window_pattern` says otherwise."""

Rule = Callable[[int], str]


def sliding_window(text: Mapping[str, Any]) -> int | None:
    """Tokens that a layer with a window sees; None without a window. (ModernBERT: `local_attention`.)"""
    used_unless_said = not model_type(text).startswith("qwen")
    if text.get("use_sliding_window", used_unless_said) is False:  # Qwen names a window that it does not use
        return None
    return first_whole(text, ("sliding_window", "local_attention"))


def layer_kinds(text: Mapping[str, Any]) -> Counter[str]:
    """Number of layers of each kind; empty when config.json does not say how many layers there are."""
    if listed := Counter(_listed(text)):
        return listed
    layers = _layers(text)
    if not layers or layers > _MOST_LAYERS:
        return Counter({"full": layers}) if layers else Counter()
    rule = _hybrid_rule(text) or _window_rule(text, layers)
    return Counter(map(rule, range(layers)))


def _layers(text: Mapping[str, Any]) -> int | None:
    if text.get("is_encoder_decoder") is True and (decoder := whole(text.get("decoder_layers"))):
        return decoder  # Whisper: num_hidden_layers is the encoder's
    layers = first_whole(text, LAYER_KEYS)
    # LongCat's decoder layers have two attentions each (vLLM: LongCatFlashModelArchConfigConvertor).
    return 2 * layers if layers and model_type(text) == "longcat_flash" else layers


def _listed(text: Mapping[str, Any]) -> Iterable[str]:
    """The kinds where config.json names that of every layer."""
    for key in ("layer_types", "layers_block_type"):
        kinds = text.get(key)
        kinds = kinds if isinstance(kinds, list) else []
        names = [name for kind in kinds if (name := short_text(kind))]
        if names and len(names) == len(kinds):
            return [_KINDS.get(name, name) for name in names]
    numbers = text.get("attn_type_list")  # MiniMax
    if isinstance(numbers, list) and numbers and all(kind in (0, 1) for kind in numbers):
        return ["full" if kind == 1 else "linear" for kind in numbers]
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str) and 0 < len(pattern) <= _MOST_LAYERS and set(pattern) <= set(_PATTERN):
        return [_PATTERN[letter] for letter in pattern]
    blocks = text.get("block_configs")  # Nemotron-NAS (DeciLM)
    if isinstance(blocks, list) and blocks and all(isinstance(block, dict) for block in blocks):
        return [_block_kind(block) for block in blocks]
    return ()


def _block_kind(block: Mapping[str, Any]) -> str:
    if kind := short_text(block.get("block_type")):
        return _KINDS.get(kind, kind)
    return "none" if part(block, "attention").get("no_op") is True else "full"


def _hybrid_rule(text: Mapping[str, Any]) -> Rule | None:
    """The kind of layer number i where some layers have no attention."""
    named = model_type(text)
    if named in ("falcon_h1", "falcon_mamba", "mamba", "mamba2"):
        return lambda _: "hybrid" if named == "falcon_h1" else "mamba"
    if named in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):  # their classes: every 4th by default
        return _every(whole(text.get("full_attention_interval")) or 4, "linear")
    if named == "jamba" and (period := whole(text.get("attn_layer_period"))):
        offset = whole(text.get("attn_layer_offset")) or 0
        return lambda i: "full" if i % period == offset else "mamba"
    if named == "bamba":
        return _among(text.get("attn_layer_indices"), "mamba")
    if named == "lfm2" and text.get("full_attn_idxs") is not None:
        return _among(text.get("full_attn_idxs"), "conv")
    if named == "kimi_linear":  # counts its layers from 1
        return _among(part(text, "linear_attn_config").get("full_attn_layers"), "linear", first=1)
    if (group := whole(text.get("layer_group_size"))) and "bailing" in named:
        return _every(group, "linear") if group > 1 else None
    return None


def _every(period: int, other: str) -> Rule:
    """Every n-th layer sees everything: Qwen3-Next's is the last of each group."""
    return lambda i: other if (i + 1) % period else "full"


def _among(listed: Any, other: str, *, first: int = 0) -> Rule:
    numbers = {number for number in listed if type(number) is int} if isinstance(listed, list) else set()
    return lambda i: "full" if i + first in numbers else other


def _window_rule(text: Mapping[str, Any], layers: int) -> Rule:
    """The kind of layer number i where all layers have attention."""
    if model_type(text) == "llama4_text" and text.get("attention_chunk_size", 1) is not None:
        return _llama4_rule(text)
    if sliding_window(text) is None:
        return lambda _: "full"
    if whole(text.get("global_attn_every_n_layers")):  # ModernBERT: the first of each group
        period = whole(text.get("global_attn_every_n_layers")) or 1
        return lambda i: "sliding" if i % period else "full"
    if (from_layer := text.get("max_window_layers")) is not None and text.get("use_sliding_window") is True:
        return lambda i: "sliding" if i >= (whole(from_layer) or 0) else "full"  # Qwen2, Qwen3
    return _period_rule(text, layers)


def _period_rule(text: Mapping[str, Any], layers: int) -> Rule:
    pattern = text.get("sliding_window_pattern", text.get("_sliding_window_pattern"))
    if isinstance(pattern, str) and 0 < len(pattern) <= _MOST_LAYERS:  # EXAONE 4: LLLG, and the last layer sees all
        return lambda i: "sliding" if pattern[i % len(pattern)] == "L" and i != layers - 1 else "full"
    period = whole(pattern) or _WINDOW_PERIODS.get(model_type(text))
    return _every(period, "sliding") if period else lambda _: "sliding"


def _llama4_rule(text: Mapping[str, Any]) -> Rule:
    """Layers with RoPE see a chunk, those without see everything (transformers: Llama4TextConfig)."""
    flags = text.get("no_rope_layers")
    if isinstance(flags, list) and flags:
        return lambda i: "full" if i < len(flags) and flags[i] == 0 else "chunked"
    return _every(whole(text.get("no_rope_layer_interval")) or 4, "chunked")
