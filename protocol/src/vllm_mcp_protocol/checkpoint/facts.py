"""All facts that a model's JSON files state, as one value. Pure, and never raises on junk.

`None`, an empty text or an empty tuple: the files do not say. What each fact means is said at its field; the rules of
vLLM behind them are in `config` and `layers`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_mcp_protocol.checkpoint import config as reading
from vllm_mcp_protocol.checkpoint.defaults import CLASS_DEFAULTS, STANDARD_NAMES
from vllm_mcp_protocol.checkpoint.layers import layer_kinds, sliding_window
from vllm_mcp_protocol.checkpoint.values import first_whole, model_type, number, part, short_text, whole

_EXPERT_KEYS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
_EXPERTS_PER_TOKEN_KEYS = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k")
"""vLLM 0.32: `get_num_experts`, `get_num_experts_per_token`."""
_SHARED_EXPERT_KEYS = ("n_shared_experts", "num_shared_experts", "num_shared_expert")
_SHARED_SIZE_KEYS = ("shared_expert_intermediate_size", "shared_intermediate_size")
"""Qwen2-MoE and Granite give the size of their one shared expert, not the number."""
MTP_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
"""Those that vLLM 0.32 reads (config/speculative.py)."""

_MODALITY_KEYS = {
    "image": (
        *("vision_config", "visual", "vision_encoder", "vit_config", "vision_tower", "mm_vision_tower"),
        *("img_processor", "image_token_id", "image_token_index"),
    ),
    "audio": (
        *("audio_config", "audio_encoder_config", "audio_encoder", "audio_processor", "audio_model_id"),
        *("num_mel_bins", "audio_token_id", "audio_token_index"),
    ),
    "video": ("video_token_id", "video_token_index"),
}
"""Keys whose presence says that a model takes such input, the plainest first."""
_DRAFTS = (
    *(("eagle3", "eagle3"), ("eagle", "eagle"), ("medusa", "medusa"), ("mlp_speculator", "mlp_speculator")),
    *(("mlpspeculator", "mlp_speculator"), ("dflash", "dflash"), ("dspark", "dspark"), ("mtpmodel", "mtp")),
)
"""Part of a name (lower case) and vLLM's method of speculative decoding."""
_AUDIO_EXTRACTORS = ("whisper", "audio", "speech", "wav2vec", "seamless", "parakeet")
_MOST_NAMES = 16


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """generation_config.json: what vLLM uses where a request does not say."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    do_sample: bool | None = None
    eos_tokens: int = 0
    """Number of tokens that end an answer."""


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """What config.json and the files beside it state."""

    architectures: tuple[str, ...]
    model_type: str | None
    text_model_type: str | None
    """Of the language model, where that is nested; else the same."""
    context_window: int | None
    """Tokens, as vLLM sets it without `--max-model-len`."""
    context_limit: int | None
    """The most that `--max-model-len` may be."""
    rope_scaling: str | None
    """Kind of RoPE scaling: `yarn`, `llama3`, `longrope`, `linear`, …"""
    rope_factor: float | None
    layers: int | None
    hidden_size: int | None
    attention_heads: int | None
    kv_heads: int | None
    """None also without attention, and with MLA, which has no heads of keys and values."""
    head_size: int | None
    vocabulary: int | None
    attention: str | None
    """`mha`, `gqa`, `mqa`, `mla`; `none` for a model without attention."""
    sliding_window: int | None
    """Tokens that the layers of kind `sliding` see."""
    layer_kinds: tuple[tuple[str, int], ...]
    """Kind and number: `full`, `sliding`, `chunked`, `linear`, `mamba`, `conv`, `hybrid` (attention beside a state
    space in one layer), `mlp`, `moe`, …; the most frequent first."""
    kv_bytes_per_token: int | None
    experts: int | None
    """Routed experts of a layer."""
    experts_per_token: int | None
    shared_experts: int | None
    quantization: str | None
    quantization_bits: int | None
    dtype: str | None
    modalities: tuple[tuple[str, str], ...]
    """`image`, `audio`, `video` beside text, each with the file and key that says so."""
    encoder_decoder: bool
    tied_embeddings: bool | None
    custom_code: tuple[str, ...]
    """What the repository's own Python files would define (`auto_map`): `AutoConfig`, `AutoModelForCausalLM`. vLLM
    needs `--trust-remote-code` for them, unless it has the model built in."""
    draft: str | None
    """The method when this is a draft for speculative decoding: `eagle`, `eagle3`, `medusa`, `mlp_speculator`, …"""
    mtp_layers: int | None
    """Layers in this checkpoint that predict further tokens: vLLM's method `mtp` without another model."""
    tokenizer_class: str | None
    chat_templates: tuple[str, ...]
    """Names of the templates in tokenizer_config.json; `default` where there is one without a name."""
    generation: GenerationDefaults
    assumed: tuple[str, ...]
    """Facts that config.json leaves out and the model's class in transformers says."""


_NOTHING: Mapping[str, Any] = {}


def config_facts(
    config: Mapping[str, Any],
    *,
    generation: Mapping[str, Any] = _NOTHING,
    tokenizer: Mapping[str, Any] = _NOTHING,
    preprocessor: Mapping[str, Any] = _NOTHING,
    sentence: Mapping[str, Any] = _NOTHING,
    quantized: Mapping[str, Any] = _NOTHING,
) -> ConfigFacts:
    """The facts of config.json, generation_config.json, tokenizer_config.json, preprocessor_config.json.

    Also of sentence_bert_config.json (its `max_seq_length` goes before all else) and of hf_quant_config.json (older
    ModelOpt checkpoints; heeded where config.json has no quantization). Each as the object that the file holds.
    """
    if quantized and not isinstance(config.get("quantization_config"), dict):
        config = {**config, "quantization_config": quantized}
    text = reading.text_config(config)
    kinds = layer_kinds(text)
    heads, kv_heads = reading.attention_heads(config), reading.kv_heads(text)
    attention = _attention(text, set(kinds), heads, kv_heads)
    encoder_limit = whole(sentence.get("max_seq_length"))
    tokenizer_limit = tokenizer.get("model_max_length")
    rope = reading.rope_scaling(config)
    experts = _experts(text)
    return ConfigFacts(
        architectures=reading.architectures(config),
        model_type=model_type(config) or None,
        text_model_type=model_type(text) or None,
        context_window=encoder_limit or reading.context_window(config, tokenizer_limit),
        context_limit=encoder_limit or reading.context_limit(config, tokenizer_limit),
        rope_scaling=rope[0] if rope else None,
        rope_factor=rope[1] if rope else None,
        layers=sum(kinds.values()) or None,
        hidden_size=first_whole(text, reading.HIDDEN_KEYS),
        attention_heads=None if attention == "none" else heads,
        kv_heads=kv_heads if attention in ("mha", "gqa", "mqa") else None,
        head_size=None if attention == "none" else reading.head_size(text),
        vocabulary=first_whole(text, ("vocab_size", "padded_vocab_size")) or whole(config.get("vocab_size")),
        attention=attention,
        sliding_window=sliding_window(text),
        layer_kinds=tuple(kinds.most_common(_MOST_NAMES)),
        kv_bytes_per_token=reading.kv_bytes_per_token(config),
        experts=experts,
        experts_per_token=_experts_per_token(text) if experts else None,
        shared_experts=_shared_experts(text) if experts else None,
        quantization=reading.quantization(config),
        quantization_bits=reading.quantization_bits(config),
        dtype=reading.dtype(config),
        modalities=tuple(_modalities(config, preprocessor)),
        encoder_decoder=config.get("is_encoder_decoder") is True,
        tied_embeddings=_tied(config, text),
        custom_code=_custom_code(config, tokenizer),
        draft=_draft(config),
        mtp_layers=_mtp_layers(config, text),
        tokenizer_class=short_text(tokenizer.get("tokenizer_class")),
        chat_templates=_chat_templates(tokenizer),
        generation=_generation(generation),
        assumed=_assumed(config),
    )


def _attention(text: Mapping[str, Any], kinds: set[str], heads: int | None, kv_heads: int | None) -> str | None:
    if kinds and not kinds & {"full", "sliding", "chunked", "hybrid"}:
        return "none" if kinds <= {"mamba", "mlp", "moe"} else None
    if reading.latent_size(text):
        return "mla"
    if not heads or not kv_heads:
        return None
    if kv_heads == heads:
        return "mha"
    return "mqa" if kv_heads == 1 else "gqa"


def _experts(text: Mapping[str, Any]) -> int | None:
    """Several: Jamba's dense models state one."""
    places = (text, part(text, "ffn_config"))  # DBRX nests them
    found = (_largest(place.get(key)) for place in places for key in _EXPERT_KEYS)
    return next((experts for experts in found if experts and experts > 1), None)


def _experts_per_token(text: Mapping[str, Any]) -> int | None:
    places = (text, part(text, "ffn_config"))
    found = (_largest(place.get(key)) for place in places for key in _EXPERTS_PER_TOKEN_KEYS)
    return next((experts for experts in found if experts), None)


def _shared_experts(text: Mapping[str, Any]) -> int | None:
    if stated := next((count for key in _SHARED_EXPERT_KEYS if (count := _largest(text.get(key)))), None):
        return stated
    return 1 if first_whole(text, _SHARED_SIZE_KEYS) else None


def _largest(value: Any) -> int | None:
    """A number, or the largest of a list with one for each layer."""
    values = value[:10_000] if isinstance(value, list) else [value]
    return max((found for entry in values if (found := whole(entry))), default=None)


def _modalities(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    thinker = part(config, "thinker_config")
    for modality, keys in _MODALITY_KEYS.items():
        places = (("config.json: ", config), ("config.json: thinker_config.", thinker))
        names = [f"{where}{key}" for where, place in places for key in keys if _is_stated(place.get(key))]
        names += _embeds(config, modality)
        names += [f"preprocessor_config.json: {key}" for key in _preprocessor_keys(preprocessor, modality)]
        if names:
            yield modality, names[0]


def _is_stated(value: Any) -> bool:
    return bool(value) and (isinstance(value, dict | str) or (isinstance(value, int) and not isinstance(value, bool)))


def _embeds(config: Mapping[str, Any], modality: str) -> list[str]:
    """Phi-4-multimodal describes its encoders under `embd_layer`."""
    key = f"{modality}_embd_layer"
    return [f"config.json: embd_layer.{key}"] if _is_stated(part(config, "embd_layer").get(key)) else []


def _preprocessor_keys(preprocessor: Mapping[str, Any], modality: str) -> Iterator[str]:
    for key in ("image_processor_type", "feature_extractor_type", "video_processor_type"):
        kind = (short_text(preprocessor.get(key)) or "").lower()
        takes = "audio" if any(word in kind for word in _AUDIO_EXTRACTORS) else "image"
        if (
            kind
            and (key.startswith("video") or takes == modality)
            and (key.startswith("video") == (modality == "video"))
        ):
            yield key


def _tied(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool | None:
    stated = (place.get("tie_word_embeddings") for place in (text, config))
    return next((value for value in stated if isinstance(value, bool)), None)


def _custom_code(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    named = [*part(config, "auto_map"), *part(tokenizer, "auto_map")]
    return tuple(dict.fromkeys(text for name in named if (text := short_text(name))))[:_MOST_NAMES]


def _draft(config: Mapping[str, Any]) -> str | None:
    """By vLLM 0.32: `model_type`, the class, or what a speculators checkpoint names."""
    named = [config.get("speculators_model_type"), config.get("model_type"), *reading.architectures(config)]
    for name in named:
        spelled = (short_text(name) or "").lower()
        if method := next((method for mark, method in _DRAFTS if mark in spelled), None):
            return method
    return "speculators" if part(config, "speculators_config") else None


def _mtp_layers(config: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    places = (text, config, part(config, "mtp_config"))
    return next((count for place in places if (count := first_whole(place, MTP_KEYS))), None)


def _chat_templates(tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    stated = tokenizer.get("chat_template")
    if isinstance(stated, str):
        return ("default",) if stated else ()
    entries = stated if isinstance(stated, list) else []
    names = (short_text(entry.get("name")) for entry in entries if isinstance(entry, dict))
    return tuple(name for name in names if name)[:_MOST_NAMES]


def _generation(generation: Mapping[str, Any]) -> GenerationDefaults:
    sampled, ends = generation.get("do_sample"), generation.get("eos_token_id")
    return GenerationDefaults(
        temperature=number(generation.get("temperature"), 0.0, 100.0),
        top_p=number(generation.get("top_p"), 0.0, 1.0),
        top_k=whole(generation.get("top_k")),
        min_p=number(generation.get("min_p"), 0.0, 1.0),
        repetition_penalty=number(generation.get("repetition_penalty"), 0.0, 100.0),
        max_new_tokens=whole(generation.get("max_new_tokens")),
        do_sample=sampled if isinstance(sampled, bool) else None,
        eos_tokens=len({end for end in (ends if isinstance(ends, list) else [ends]) if type(end) is int}),
    )


def _assumed(config: Mapping[str, Any]) -> tuple[str, ...]:
    stated = reading.stated_text_config(config)
    defaults = CLASS_DEFAULTS.get(model_type(stated), {})
    return tuple(STANDARD_NAMES[key] for key in defaults if key not in stated)
