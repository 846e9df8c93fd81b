"""What a model's `config.json` says, in vLLM's reading of it. Pure, and never raises on junk.

The rules follow vLLM 0.32: `ModelArchConfigConvertorBase` (heads, head size, layers) and
`_get_and_verify_max_len` (context window). A value of the wrong type counts as absent.
"""

from collections.abc import Iterator, Mapping
from typing import Any

LARGEST = 2**53
"""Beyond this a JSON number is not exact, and no model's."""

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_KV_HEAD_KEYS = (
    "n_head_kv",
    "num_kv_heads",
    "num_key_value_heads",
    "multi_query_group_num",
    "num_attention_groups",
)
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_ATTENTION_KEYS = ("num_attention_heads", "n_head", "n_heads")
_HIDDEN_KEYS = ("hidden_size", "n_embd", "d_model")
_TEXT_KEYS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")
_ROPE_ALREADY_SCALED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
"""Types whose factor is already in `max_position_embeddings` (vLLM 0.32, config/model.py)."""
_LAYERS_WITHOUT_KV = {"linear_attention", "mamba", "mamba2", "conv", "recurrent", "moe", "mlp"}
_DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "float": 4,
    "float16": 2,
    "half": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
}
_UNSTATED_DTYPE_BYTES = 2
"""A checkpoint that does not name its type is served in 16 bits."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about the language model: `config` itself, or what a multimodal model nests in it."""
    found = config
    for _ in range(3):  # Omni models nest twice: thinker_config → text_config
        nested = next((found[key] for key in _TEXT_KEYS if isinstance(found.get(key), dict)), None)
        if nested is None:
            break
        found = nested
    return found


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the model classes; at most 16."""
    named = config.get("architectures")
    names = named if isinstance(named, list) else []
    return tuple(text for name in names[:16] if (text := short_text(name)))


def dtype(config: Mapping[str, Any]) -> str | None:
    """Type of the weights as config.json names it (`dtype`, or the older `torch_dtype`)."""
    for part in (config, text_config(config)):
        for key in ("dtype", "torch_dtype"):
            if name := short_text(part.get(key)):
                return name.removeprefix("torch.")
    return None


def quantization(config: Mapping[str, Any]) -> str | None:
    """`quant_method` of `quantization_config` (or of the older `compression_config`)."""
    for part in (config, text_config(config)):
        for key in ("quantization_config", "compression_config"):
            described = part.get(key)
            if isinstance(described, dict) and (method := short_text(described.get("quant_method"))):
                return method.lower()
    return None


def attention_heads(config: Mapping[str, Any]) -> int | None:
    return _first(text_config(config), _ATTENTION_KEYS)


def context_window(config: Mapping[str, Any], tokenizer_limit: Any = None) -> int | None:
    """Longest context, tokens, as vLLM derives it; None when config.json has none of the keys.

    `tokenizer_limit` is `model_max_length` of tokenizer_config.json: vLLM heeds it for models with absolute
    positions only (encoders), where it can be lower than the table.
    """
    text = text_config(config)
    stated = [value for key in _CONTEXT_KEYS if (value := whole(text.get(key)))]
    if own := whole(text.get("model_max_length")):  # Command-R: replaces the others
        stated = [own]
    if not stated:
        return None
    window = min(stated)
    if text.get("position_embedding_type") == "absolute" and (limit := whole(tokenizer_limit)):
        window = min(window, limit)
    return _scaled(window, text)


def _scaled(window: int, text: Mapping[str, Any]) -> int:
    ropes = list(_ropes(text))
    kinds = [str(rope.get("rope_type", rope.get("type", "default"))) for rope in ropes]
    if "longrope" in kinds or "su" in kinds:
        original = whole(text.get("original_max_position_embeddings"))
        return original or window
    if "gemma3" in str(text.get("model_type")):
        return window
    factor = 1.0
    for rope, kind in zip(ropes, kinds, strict=True):
        if kind not in _ROPE_ALREADY_SCALED:
            factor = _factor(rope.get("factor"), factor)
    return int(window * factor)


def _factor(value: Any, otherwise: float) -> float:
    """A scaling factor; numbers that are none (NaN, zero, 1e300) are as good as absent."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e6
    return float(value) if usable else otherwise


def _ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rope settings: `rope_parameters`, or the older `rope_scaling`; one, or one per kind of layer."""
    for key in ("rope_parameters", "rope_scaling"):
        described = text.get(key)
        if not isinstance(described, dict):
            continue
        nested = [value for value in described.values() if isinstance(value, dict)]
        yield from nested or [described]
        return


def kv_bytes_per_token(config: Mapping[str, Any]) -> int | None:
    """Bytes that one token takes in the KV cache: all layers, at the checkpoint's type, before any splitting.

    Sliding-window layers count in full: it is the most that they take.
    """
    text = text_config(config)
    layers, width = _kv_layers(text), _kv_width(text)
    if not layers or not width:
        return None
    size = layers * width * _DTYPE_BYTES.get(dtype(config) or "", _UNSTATED_DTYPE_BYTES)
    return size if size <= LARGEST else None


def _kv_layers(text: Mapping[str, Any]) -> int | None:
    """Layers that keep keys and values: hybrid models name each layer's kind."""
    for key in ("layer_types", "layers_block_type"):
        kinds = text.get(key)
        if isinstance(kinds, list) and kinds and all(isinstance(kind, str) for kind in kinds):
            return sum(kind not in _LAYERS_WITHOUT_KV for kind in kinds)
    return _first(text, _LAYER_KEYS)


def _kv_width(text: Mapping[str, Any]) -> int | None:
    """Values per token and layer: MLA keeps one compressed vector, all others K and V of each KV head."""
    if rank := whole(text.get("kv_lora_rank")):
        return rank + (whole(text.get("qk_rope_head_dim")) or 0)
    heads, size = _kv_heads(text), _head_size(text)
    return 2 * heads * size if heads and size else None


def _kv_heads(text: Mapping[str, Any]) -> int | None:
    if text.get("multi_query") is True and text.get("new_decoder_architecture") is not True:
        return 1  # Falcon-7B, StarCoder
    return _first(text, _KV_HEAD_KEYS) or _first(text, _ATTENTION_KEYS)


def _head_size(text: Mapping[str, Any]) -> int | None:
    """`head_dim`, or the hidden size over the heads."""
    if stated := _first(text, ("head_dim", "hidden_size_per_head", "kv_channels")):
        return stated
    hidden, heads = _first(text, _HIDDEN_KEYS), _first(text, _ATTENTION_KEYS)
    return hidden // heads if hidden and heads else None


def _first(text: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((value for key in keys if (value := whole(text.get(key)))), None)


def whole(value: Any) -> int | None:
    """A positive whole number (`2048` or `2048.0`), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 1 <= value <= LARGEST and int(value) == value else None


def short_text(value: Any) -> str | None:
    """A non-empty text of at most 200 characters that can be written as UTF-8, else None."""
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        return None
    return None if any("\ud800" <= char <= "\udfff" for char in value) else value
