"""What a model's `config.json` says, in vLLM's reading of it. Pure, and never raises on junk.

The rules follow vLLM 0.32: `ModelArchConfigConvertorBase` (heads, head size, layers) and
`_get_and_verify_max_len` (context window). A value of the wrong type counts as absent; one that is not there is filled
in from the model's class where `defaults` knows it. All facts at once: `facts`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vllm_mcp_protocol.checkpoint.defaults import CLASS_DEFAULTS
from vllm_mcp_protocol.checkpoint.layers import WITHOUT_KV, layer_kinds
from vllm_mcp_protocol.checkpoint.values import LARGEST, first_whole, model_type, number, part, short_text, whole

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
_ATTENTION_KEYS = ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads")
HIDDEN_KEYS = ("hidden_size", "n_embd", "n_embed", "d_model")
_HEAD_SIZE_KEYS = ("head_dim", "hidden_size_per_head", "attention_head_dim", "kv_channels")
_TEXT_KEYS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder", "transformer_layer_config")
_ROPE_ALREADY_SCALED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
"""Types whose factor is already in `max_position_embeddings` (vLLM 0.32, config/model.py)."""
_EXPANDED_LATENT = frozenset({"minicpm3"})
"""Compressed attention that vLLM caches expanded, as K and V of each head."""
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
_QUANTIZATION_KEYS = ("quantization_config", "compression_config")
_BITS_OF_METHOD = {
    **{"fp8": 8, "fbgemm_fp8": 8, "modelopt": 8, "modelopt_mxfp8": 8, "mxfp8": 8, "experts_int8": 8},
    **{"mxfp4": 4, "modelopt_fp4": 4},
}
_UNSTATED_DTYPE_BYTES = 2
"""A checkpoint that does not name its type is served in 16 bits."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about the language model: `config` itself, or what a multimodal model nests in it.

    With the defaults of its class where it leaves something out.
    """
    found = stated_text_config(config)
    defaults = CLASS_DEFAULTS.get(model_type(found))
    return {**defaults, **found} if defaults else found


def stated_text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same as the file has it."""
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
    for place in (config, stated_text_config(config)):
        for key in ("dtype", "torch_dtype"):
            if name := short_text(place.get(key)):
                return name.removeprefix("torch.")
    return None


def quantization(config: Mapping[str, Any]) -> str | None:
    """How the weights are quantized, by vLLM's name: `quant_method`, for ModelOpt also its algorithm."""
    described = quantization_config(config)
    method = short_text(described.get("quant_method"))
    algorithm = _modelopt_algorithm(described)
    if algorithm is not None and (method or "modelopt").startswith("modelopt"):
        return _modelopt_name(algorithm.upper())
    return method.lower().replace("compressed_tensors", "compressed-tensors") if method else None


def quantization_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`quantization_config` (or the older `compression_config`); empty when there is none."""
    places = (part(place, key) for place in (config, stated_text_config(config)) for key in _QUANTIZATION_KEYS)
    return next((described for described in places if described), {})


def _modelopt_algorithm(described: Mapping[str, Any]) -> str | None:
    """In hf_quant_config.json it is one level further down."""
    for place in (described, part(described, "quantization")):
        if algorithm := short_text(place.get("quant_algo")):
            return algorithm
    return None


def _modelopt_name(algorithm: str) -> str:
    """vLLM 0.32, layers/quantization/modelopt.py: `override_quantization_method` of each class."""
    if "MXFP8" in algorithm:
        return "modelopt_mxfp8"
    if algorithm == "MIXED_PRECISION":
        return "modelopt_mixed"
    return "modelopt_fp4" if "FP4" in algorithm else "modelopt"


def quantization_bits(config: Mapping[str, Any]) -> int | None:
    """Bits of a quantized weight; None when it is not quantized or config.json does not say."""
    described = quantization_config(config)
    if stated := whole(described.get("bits")) or whole(described.get("w_bit")):  # GPTQ, AWQ
        return stated if stated <= 32 else None
    for key, loaded_bits in (("load_in_4bit", 4), ("load_in_8bit", 8)):  # bitsandbytes
        if described.get(key) is True:
            return loaded_bits
    groups = [part(group, "weights") for group in part(described, "config_groups").values() if isinstance(group, dict)]
    if found := {bits for weights in groups if (bits := whole(weights.get("num_bits"))) and bits <= 32}:
        return found.pop() if len(found) == 1 else None  # compressed-tensors with several sizes
    return _BITS_OF_METHOD.get(quantization(config) or "")


def attention_heads(config: Mapping[str, Any]) -> int | None:
    return first_whole(text_config(config), _ATTENTION_KEYS)


def context_window(config: Mapping[str, Any], tokenizer_limit: Any = None) -> int | None:
    """Longest context, tokens, as vLLM derives it; None when config.json has none of the keys.

    `tokenizer_limit` is `model_max_length` of tokenizer_config.json: vLLM heeds it for models with absolute
    positions only (encoders), where it can be lower than the table.
    """
    text = text_config(config)
    if any(kind in ("longrope", "su") for kind in _rope_kinds(text)) and (limit := context_limit(config)):
        return whole(text.get("original_max_position_embeddings")) or limit
    return context_limit(config, tokenizer_limit)


def context_limit(config: Mapping[str, Any], tokenizer_limit: Any = None) -> int | None:
    """The largest `--max-model-len` that vLLM takes: beyond `context_window` for LongRoPE only (Phi-3)."""
    text = text_config(config)
    stated = [value for key in _CONTEXT_KEYS if (value := whole(text.get(key)))]
    if own := whole(text.get("model_max_length")):  # Command-R: replaces the others
        stated = [own]
    if not stated:
        return None
    window = min(stated)
    if text.get("position_embedding_type") == "absolute" and (limit := whole(tokenizer_limit)):
        window = min(window, limit)
    return int(window * _rope_factor(text))


def _rope_factor(text: Mapping[str, Any]) -> float:
    """By how much RoPE scaling stretches the context that config.json states."""
    factor = 1.0
    if "gemma3" in model_type(text):
        return factor
    for rope, kind in zip(_ropes(text), _rope_kinds(text), strict=True):
        if kind not in _ROPE_ALREADY_SCALED:
            factor = _factor(rope.get("factor"), factor)
    return factor


def rope_scaling(config: Mapping[str, Any]) -> tuple[str, float | None] | None:
    """Kind and factor of RoPE scaling: `("yarn", 4.0)`; None without one. Of several, the first."""
    text = text_config(config)
    for rope, kind in zip(_ropes(text), _rope_kinds(text), strict=True):
        if kind not in ("default", "mrope"):  # mrope lays out positions of images; it stretches nothing
            return kind, number(rope.get("factor"), 1e-6, 1e6)
    return None


def _rope_kinds(text: Mapping[str, Any]) -> list[str]:
    return [short_text(rope.get("rope_type", rope.get("type"))) or "default" for rope in _ropes(text)]


def _factor(value: Any, otherwise: float) -> float:
    """A scaling factor; numbers that are none (NaN, zero, 1e300) are as good as absent."""
    return number(value, 0.0, 1e6) or otherwise


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


def _kv_layers(text: Mapping[str, Any]) -> int:
    """Layers that keep keys and values."""
    return sum(count for kind, count in layer_kinds(text).items() if kind not in WITHOUT_KV)


def _kv_width(text: Mapping[str, Any]) -> int | None:
    """Values per token and layer: MLA keeps one compressed vector, all others K and V of each KV head."""
    size = head_size(text)
    if latent_size(text):
        return size
    heads = kv_heads(text)
    return 2 * heads * size if heads and size else None


def latent_size(text: Mapping[str, Any]) -> int | None:
    """Size of the compressed vector of multi-head latent attention; None for other attention."""
    return None if model_type(text) in _EXPANDED_LATENT else whole(text.get("kv_lora_rank"))


def kv_heads(text: Mapping[str, Any]) -> int | None:
    """Heads of keys and values, of the part about the language model."""
    if text.get("multi_query") is True and text.get("new_decoder_architecture") is not True:
        return 1  # Falcon-7B, StarCoder
    if (shared := _heads_in_group(text)) and (heads := first_whole(text, _ATTENTION_KEYS)):
        return heads // shared or None
    stated = first_whole(text, _KV_HEAD_KEYS) or whole(part(text, "attn_config").get("kv_n_heads"))  # DBRX
    return stated or first_whole(text, _ATTENTION_KEYS)


def _heads_in_group(text: Mapping[str, Any]) -> int | None:
    """Nemotron-NAS: by layer; vLLM takes the first that has attention."""
    blocks = text.get("block_configs")
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, dict) and (group := whole(part(block, "attention").get("n_heads_in_group"))):
            return group
    return None


def head_size(text: Mapping[str, Any]) -> int | None:
    """Size of a head, of the part about the language model: `head_dim`, or the hidden size over the heads.

    With MLA, of what is kept of a token: the compressed vector and its rotary part.
    """
    if rank := latent_size(text):
        return rank + (whole(text.get("qk_rope_head_dim")) or 0)
    if model_type(text) in _EXPANDED_LATENT:
        return sum(whole(text.get(key)) or 0 for key in ("qk_nope_head_dim", "qk_rope_head_dim")) or None
    if stated := first_whole(text, _HEAD_SIZE_KEYS):
        return stated
    hidden, heads = first_whole(text, HIDDEN_KEYS), first_whole(text, _ATTENTION_KEYS)
    return hidden // heads or None if hidden and heads else None
