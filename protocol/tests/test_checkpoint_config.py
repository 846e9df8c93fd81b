"""Facts of config.json, on the published shapes of the families that vLLM serves.

`data/configs/*.json` hold, of the models that they are named after, the fields that matter here. The numbers below are
worked out by hand from them; where a rule is not obvious, its source stands beside it. (With vLLM 0.32 and transformers
5.19 they were compared once, by reading these same files: layers, heads, sizes, experts, context, kinds of layers.)
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mcp_protocol.checkpoint.config import kv_bytes_per_token, quantization, quantization_bits
from vllm_mcp_protocol.checkpoint.facts import ConfigFacts, GenerationDefaults, config_facts
from vllm_mcp_protocol.checkpoint.layers import layer_kinds

CONFIGS = Path(__file__).parent / "data" / "configs"
MODEL = ("AutoConfig", "AutoModel")
CAUSAL = ("AutoConfig", "AutoModelForCausalLM")
BOTH = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
SHAPE = ("layers", "hidden_size", "attention_heads", "kv_heads", "head_size", "vocabulary")


def published(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return config


def image(key: str) -> tuple[tuple[str, str], ...]:
    return (("image", f"config.json: {key}"),)


ABSENT = (
    *("rope_scaling", "rope_factor", "sliding_window", "experts", "experts_per_token", "shared_experts"),
    *("quantization", "quantization_bits", "draft", "mtp_layers"),
)


def model(
    attention: str | None,
    shape: tuple[int | None, ...],
    context: int | None,
    dtype: str | None = "bfloat16",
    **more: Any,
) -> dict[str, Any]:
    """What is expected of a model; what is not given is expected to be absent."""
    expected: dict[str, Any] = dict(zip(SHAPE, shape, strict=True))
    expected |= {"attention": attention, "context_window": context, "context_limit": context, "dtype": dtype}
    expected |= {"layer_kinds": (("full", shape[0]),), "assumed": (), "modalities": (), "custom_code": ()}
    return expected | dict.fromkeys(ABSENT) | {"encoder_decoder": False} | more


def scaled(kind: str, factor: float | None) -> dict[str, Any]:
    return {"rope_scaling": kind, "rope_factor": factor}


def moe(experts: int, each: int, shared: int | None = None) -> dict[str, Any]:
    return {"experts": experts, "experts_per_token": each, "shared_experts": shared}


def quantized(method: str, bits: int) -> dict[str, Any]:
    return {"quantization": method, "quantization_bits": bits}


def kinds(**counts: int) -> dict[str, Any]:
    return {"layer_kinds": tuple(counts.items())}


LLAMA31 = (32, 4096, 32, 8, 128, 128256)
LLAMA3_ROPE = scaled("llama3", 8.0)
QWEN25 = (28, 3584, 28, 4, 128, 152064)
MLA_CODE: dict[str, Any] = {"custom_code": BOTH}

EXPECTED: dict[str, dict[str, Any]] = {
    "llama-2-7b": model("mha", (32, 4096, 32, 32, 128, 32000), 4096, "float16"),
    "llama-2-70b": model("gqa", (80, 8192, 64, 8, 128, 32000), 4096, "float16"),
    # llama3 scaling is in max_position_embeddings already (vLLM: _get_and_verify_max_len).
    "llama-3.1-8b-instruct": model("gqa", LLAMA31, 131072, **LLAMA3_ROPE),
    "llama-3.2-1b": model("gqa", (16, 2048, 32, 8, 64, 128256), 131072, **scaled("llama3", 32.0)),
    # Every fourth layer is without RoPE and sees everything, the others chunks of 8192 (Llama4TextConfig).
    "llama-4-scout": model(
        "gqa",
        (48, 5120, 40, 8, 128, 202048),
        10485760,
        **scaled("llama3", 16.0),
        **moe(16, 1),
        **kinds(chunked=36, full=12),
        modalities=image("vision_config"),
    ),
    "mistral-7b-v0.1": model("gqa", (32, 4096, 32, 8, 128, 32000), 32768, sliding_window=4096, **kinds(sliding=32)),
    "mistral-7b-v0.3": model("gqa", (32, 4096, 32, 8, 128, 32768), 32768),
    "mixtral-8x7b": model("gqa", (32, 4096, 32, 8, 128, 32000), 32768, **moe(8, 2)),
    "mistral-small-3.1-24b": model("gqa", (40, 5120, 32, 8, 128, 131072), 131072, modalities=image("vision_config")),
    # The nested configuration leaves out what MistralConfig has by itself: 32 heads, 8 of them for K and V.
    "pixtral-12b": model(
        "gqa",
        (40, 5120, 32, 8, 128, 131072),
        1024000,
        modalities=image("vision_config"),
        assumed=("attention_heads", "kv_heads"),
    ),
    # Qwen names a window and says that it is not used.
    "qwen2.5-0.5b-instruct": model("gqa", (24, 896, 14, 2, 64, 151936), 32768),
    "qwen2.5-7b-instruct-awq": model("gqa", QWEN25, 32768, "float16", **quantized("awq", 4)),
    "qwen2.5-7b-instruct-gptq-int4": model("gqa", QWEN25, 32768, "float16", **quantized("gptq", 4)),
    # mrope only lays out positions; it scales nothing.
    "qwen2.5-vl-7b": model(
        "gqa",
        (28, 3584, 28, 4, 128, 152064),
        128000,
        modalities=(*image("vision_config"), ("video", "config.json: video_token_id")),
    ),
    "qwen3-8b": model("gqa", (36, 4096, 32, 8, 128, 151936), 40960),
    # head_dim 128 is not 2048 / 32.
    "qwen3-30b-a3b": model("gqa", (48, 2048, 32, 4, 128, 151936), 40960, **moe(128, 8)),
    # full_attention_interval 4; the one shared expert is given by its size.
    "qwen3-next-80b-a3b": model(
        "gqa", (48, 2048, 16, 2, 256, 151936), 262144, **moe(512, 10, 1), **kinds(linear=36, full=12)
    ),
    "qwen3-embedding-0.6b": model("gqa", (28, 1024, 16, 8, 128, 151669), 32768),
    "qwen3-reranker-0.6b": model("gqa", (28, 1024, 16, 8, 128, 151669), 40960),
    # Qwen2Config's own: 32 layers, hidden size 4096, 32 heads, all with K and V.
    "qwen2-audio-7b-instruct": model(
        "mha",
        (32, 4096, 32, 32, 128, 156032),
        8192,
        modalities=(("audio", "config.json: audio_config"),),
        assumed=("layers", "hidden_size", "attention_heads", "kv_heads"),
    ),
    "qwen2.5-omni-7b": model(
        "gqa",
        (28, 3584, 28, 4, 128, 152064),
        32768,
        modalities=(
            ("image", "config.json: thinker_config.vision_config"),
            ("audio", "config.json: thinker_config.audio_config"),
            ("video", "config.json: thinker_config.video_token_index"),
        ),
    ),
    # Gemma 2 alternates, beginning with a window.
    "gemma-2-9b-it": model(
        "gqa", (42, 3584, 16, 8, 256, 256000), 8192, sliding_window=4096, **kinds(sliding=21, full=21)
    ),
    # Gemma 3: five windows, then one that sees all; 26 = 4 · 6 + 2.
    "gemma-3-1b-it": model(
        "mqa", (26, 1152, 4, 1, 256, 262144), 32768, sliding_window=512, **kinds(sliding=22, full=4)
    ),
    # 34 = 5 · 6 + 4. Gemma3TextConfig has 8 heads, 4 for K and V, of 256, and 131072 positions with the scaling in it.
    "gemma-3-4b-it": model(
        "gqa",
        (34, 2560, 8, 4, 256, 262208),
        131072,
        **scaled("linear", 8.0),
        sliding_window=1024,
        **kinds(sliding=29, full=5),
        modalities=image("vision_config"),
        assumed=("context_window", "attention_heads", "vocabulary", "kv_heads", "head_size"),
    ),
    # LongRoPE: vLLM serves the original 4096 unless told otherwise.
    "phi-3-mini-128k": model(
        "mha",
        (32, 3072, 32, 32, 96, 32064),
        4096,
        context_limit=131072,
        **scaled("longrope", None),
        sliding_window=262144,
        **kinds(sliding=32),
        custom_code=CAUSAL,
    ),
    "phi-4-multimodal": model(
        "gqa",
        (32, 3072, 24, 8, 128, 200064),
        4096,
        context_limit=131072,
        **scaled("longrope", None),
        sliding_window=262144,
        **kinds(sliding=32),
        modalities=(*image("embd_layer.image_embd_layer"), ("audio", "config.json: audio_processor")),
        custom_code=(*CAUSAL, "AutoTokenizer"),
    ),
    # MLA keeps 512 + 64 values of a token (vLLM: get_head_size); yarn is in max_position_embeddings already.
    "deepseek-v2-lite": model(
        "mla", (27, 2048, 16, None, 576, 102400), 163840, **scaled("yarn", 40.0), **moe(64, 6, 2), **MLA_CODE
    ),
    "deepseek-v3": model(
        "mla",
        (61, 7168, 128, None, 576, 129280),
        163840,
        **scaled("yarn", 40.0),
        **moe(256, 8, 1),
        **quantized("fp8", 8),
        mtp_layers=1,
        **MLA_CODE,
    ),
    "kimi-k2-instruct": model(
        "mla",
        (61, 7168, 64, None, 576, 163840),
        131072,
        **scaled("yarn", 32.0),
        **moe(384, 8, 1),
        **quantized("fp8", 8),
        **MLA_CODE,
    ),
    "glm-4-9b-0414": model("gqa", (40, 4096, 32, 2, 128, 151552), 32768),
    # 96 heads of 128 on a hidden size of 4096.
    "glm-4.5-air": model("gqa", (46, 4096, 96, 8, 128, 151552), 131072, **moe(128, 8, 1), mtp_layers=1),
    "gpt-oss-20b": model(
        "gqa",
        (24, 2880, 64, 8, 64, 201088),
        131072,
        None,
        **scaled("yarn", 32.0),
        **moe(32, 4),
        sliding_window=128,
        **kinds(sliding=12, full=12),
        **quantized("mxfp4", 4),
    ),
    # FalconConfig has 2048 positions; multi_query is one head for K and V in the old architecture only.
    "falcon-7b": model("mqa", (32, 4544, 71, 1, 64, 65024), 2048, assumed=("context_window",)),
    "falcon-40b": model("gqa", (60, 8192, 128, 8, 64, 65024), 2048, assumed=("context_window",)),
    # Attention beside Mamba in every layer (vLLM: falcon_h1.py).
    "falcon-h1-0.5b": model("gqa", (36, 1024, 8, 2, 64, 32784), 16384, **kinds(hybrid=36)),
    "falcon-mamba-7b": model("none", (64, 4096, None, None, None, 65024), None, **kinds(mamba=64)),
    "mamba-130m-hf": model("none", (24, 768, None, None, None, 50280), None, "float32", **kinds(mamba=24)),
    # Attention where i % 8 == 4.
    "jamba-v0.1": model(
        "gqa", (32, 4096, 32, 8, 128, 65536), 262144, **moe(16, 2), **kinds(mamba=28, full=4), custom_code=CAUSAL
    ),
    "bamba-9b": model("gqa", (32, 4096, 32, 8, 128, 128256), 262144, **kinds(mamba=29, full=3)),
    # hybrid_override_pattern: M = Mamba, - = MLP, * = attention.
    "nemotron-h-8b": model(
        "gqa", (52, 4096, 32, 8, 128, 131072), 8192, **kinds(mamba=24, mlp=24, full=4), custom_code=CAUSAL
    ),
    "granite-4.0-h-tiny": model(
        "gqa", (40, 1536, 12, 4, 128, 100352), 131072, **moe(64, 6, 1), **kinds(mamba=36, full=4)
    ),
    # attn_type_list: seven linear layers, then one with attention.
    "minimax-text-01": model(
        "gqa", (80, 6144, 64, 8, 128, 200064), 10240000, **moe(32, 2), **kinds(linear=70, full=10)
    ),
    "olmo-2-7b": model("mha", (32, 4096, 32, 32, 128, 100352), 4096, "float32"),
    "starcoder2-3b": model("gqa", (30, 3072, 24, 2, 128, 49152), 16384, None, sliding_window=4096, **kinds(sliding=30)),
    "gpt2": model("mha", (12, 768, 12, 12, 64, 50257), 1024, None),
    "gpt-j-6b": model("mha", (28, 4096, 16, 16, 256, 50400), 2048, None),
    "gpt-neox-20b": model("mha", (44, 6144, 64, 64, 96, 50432), 2048, "float16"),
    "starcoder": model("mqa", (40, 6144, 48, 1, 128, 49152), 8192, None),
    "opt-125m": model("mha", (12, 768, 12, 12, 64, 50272), 2048, "float16"),
    "bloom": model("mha", (70, 14336, 112, 112, 128, 250880), 2048, None),
    # multi_query_group_num: 2 heads for K and V.
    "chatglm3-6b": model("gqa", (28, 4096, 32, 2, 128, 65024), 8192, "float16", custom_code=BOTH),
    # Dynamic scaling stretches what max_position_embeddings says.
    "internlm2_5-7b-chat": model(
        "gqa", (32, 4096, 32, 8, 128, 92544), 65536, **scaled("dynamic", 2.0), custom_code=CAUSAL
    ),
    "internvl3_5-8b": model(
        "gqa", (36, 4096, 32, 8, 128, 151936), 40960, modalities=image("vision_config"), custom_code=MODEL
    ),
    # Vicuna's configuration nested in LLaVA's is nearly empty: the rest is LlamaConfig's own.
    "llava-1.5-7b-hf": model(
        "mha",
        (32, 4096, 32, 32, 128, 32064),
        4096,
        "float16",
        modalities=image("vision_config"),
        assumed=("layers", "hidden_size", "attention_heads"),
    ),
    "idefics3-8b-llama3": model(
        "gqa",
        (32, 4096, 32, 8, 128, 128259),
        131072,
        modalities=image("vision_config"),
        assumed=("layers", "hidden_size", "attention_heads"),
    ),
    "smolvlm-instruct": model("mha", (24, 2048, 32, 32, 64, 49155), 16384, modalities=image("vision_config")),
    # num_hidden_layers is the encoder's 32; the decoder has 4. The context is the decoder's.
    "whisper-large-v3-turbo": model(
        "mha",
        (4, 1280, 20, 20, 64, 51866),
        448,
        "float16",
        modalities=(("audio", "config.json: num_mel_bins"),),
        encoder_decoder=True,
    ),
    "bert-base-uncased": model("mha", (12, 768, 12, 12, 64, 30522), 512, None),
    "all-minilm-l6-v2": model("mha", (6, 384, 12, 12, 32, 30522), 512, None),
    "xlm-roberta-base": model("mha", (12, 768, 12, 12, 64, 250002), 514, None),
    # Layers 0, 3, … 21 see everything (global_attn_every_n_layers 3).
    "modernbert-base": model(
        "mha", (22, 768, 12, 12, 64, 50368), 8192, "float32", sliding_window=128, **kinds(sliding=14, full=8)
    ),
    # 8192 with RoPE scaling only, which is not on: NomicBertConfig has 2048 positions.
    "nomic-embed-text-v1.5": model(
        "mha",
        (12, 768, 12, 12, 64, 30528),
        2048,
        "float32",
        custom_code=(*MODEL, "AutoModelForMaskedLM"),
        assumed=("context_window",),
    ),
    "gte-qwen2-1.5b-instruct": model(
        "gqa",
        (28, 1536, 12, 2, 128, 151646),
        131072,
        "float32",
        custom_code=("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"),
    ),
    "bge-reranker-v2-m3": model("mha", (24, 1024, 16, 16, 64, 250002), 8194, "float32"),
    # model_max_length replaces max_position_embeddings (vLLM: derive_max_model_len_and_key).
    "command-r-v01": model("mha", (40, 8192, 64, 64, 128, 256000), 131072, "float16"),
    "command-r7b-12-2024": model(
        "gqa", (32, 4096, 32, 8, 128, 256000), 132096, sliding_window=4096, **kinds(sliding=24, full=8)
    ),
    # Heads for K and V in attn_config, experts in ffn_config.
    "dbrx-instruct": model("gqa", (40, 6144, 48, 8, 128, 100352), 32768, **moe(16, 4)),
    "grok-1": model("gqa", (64, 6144, 48, 8, 128, 131072), 8192, **moe(8, 2), custom_code=BOTH),
    "exaone-3.5-7.8b-instruct": model("gqa", (32, 4096, 32, 8, 128, 102400), 32768, **LLAMA3_ROPE, custom_code=CAUSAL),
    # 48 heads of 128 on a hidden size of 4096.
    "minitron-8b-base": model("gqa", (32, 4096, 48, 8, 128, 256000), 4096),
    "baichuan2-7b-chat": model("mha", (32, 4096, 32, 32, 128, 125696), 4096, custom_code=CAUSAL),
    "arctic-instruct": model("gqa", (35, 7168, 56, 8, 128, 32000), 4096, **moe(128, 2), custom_code=CAUSAL),
    "llama-3.1-8b-instruct-fp8": model("gqa", LLAMA31, 131072, **LLAMA3_ROPE, **quantized("compressed-tensors", 8)),
    "llama-3.1-8b-instruct-w4a16": model("gqa", LLAMA31, 131072, **LLAMA3_ROPE, **quantized("compressed-tensors", 4)),
    # quant_method is modelopt; vLLM picks modelopt_fp4 by quant_algo (override_quantization_method).
    "llama-3.1-8b-instruct-nvfp4": model("gqa", LLAMA31, 131072, **LLAMA3_ROPE, **quantized("modelopt_fp4", 4)),
    "llama-3-8b-bnb-4bit": model("gqa", (32, 4096, 32, 8, 128, 128256), 8192, **quantized("bitsandbytes", 4)),
    "eagle3-llama3.1-instruct-8b": model("gqa", (1, 4096, 32, 8, 128, 128256), 2048, "float16", draft="eagle3"),
    "medusa-vicuna-7b": model(None, (1, 4096, None, None, None, 32000), None, None, draft="medusa"),
}


def test_every_published_shape_has_its_expectation_and_there_are_many() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(EXPECTED)
    assert len(EXPECTED) >= 45


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_facts_of_a_published_model(name: str) -> None:
    config = published(name)
    found = dataclasses.asdict(config_facts(config))
    expected = EXPECTED[name]
    assert {key: found[key] for key in expected} == expected
    assert (found["architectures"], found["model_type"]) == (tuple(config["architectures"]), config["model_type"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-8b-instruct", 131_072),  # 128 KiB, by every account of it
        ("deepseek-v3", 70_272),  # "70.272 KB" in DeepSeek's paper on its hardware (arXiv 2505.09343, table 1)
        ("qwen3-next-80b-a3b", 12 * 2 * 2 * 256 * 2),  # a quarter of 48 layers
        ("jamba-v0.1", 4 * 2 * 8 * 128 * 2),
        ("nemotron-h-8b", 4 * 2 * 8 * 128 * 2),
        ("minimax-text-01", 10 * 2 * 8 * 128 * 2),
        ("falcon-h1-0.5b", 36 * 2 * 2 * 64 * 2),
        ("starcoder", 40 * 2 * 1 * 128 * 2),
        ("dbrx-instruct", 40 * 2 * 8 * 128 * 2),
        ("gemma-2-9b-it", 42 * 2 * 8 * 256 * 2),  # windows count in full
        ("whisper-large-v3-turbo", 4 * 2 * 20 * 64 * 2),
        ("olmo-2-7b", 32 * 2 * 32 * 128 * 4),
        ("mamba-130m-hf", None),
        ("medusa-vicuna-7b", None),
    ],
)
def test_bytes_of_a_token_in_the_kv_cache(name: str, expected: int | None) -> None:
    assert kv_bytes_per_token(published(name)) == expected
    assert config_facts(published(name)).kv_bytes_per_token == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama-3.2-1b", True), ("llama-3.1-8b-instruct", False), ("gemma-2-9b-it", None), ("smolvlm-instruct", False)],
)
def test_tied_embeddings_are_what_the_file_states(name: str, expected: bool | None) -> None:
    assert config_facts(published(name)).tied_embeddings is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"] * 2}, {"full": 2, "sliding": 2}),
        ({"layers_block_type": ["mamba", "hybrid", "mamba"]}, {"mamba": 2, "hybrid": 1}),  # Zamba 2
        ({"layer_types": ["conv", "full_attention"]}, {"conv": 1, "full": 1}),  # LFM2
        ({"layer_types": ["full_attention", 7], "num_hidden_layers": 2}, {"full": 2}),
        ({"attn_type_list": [0, 1, 1]}, {"linear": 1, "full": 2}),
        ({"attn_type_list": [0, 2], "num_hidden_layers": 2}, {"full": 2}),
        ({"hybrid_override_pattern": "ME*E-"}, {"mamba": 1, "moe": 2, "full": 1, "mlp": 1}),
        ({"hybrid_override_pattern": "M?", "num_hidden_layers": 2}, {"full": 2}),
        # Nemotron-NAS leaves attention out of some blocks.
        (
            {"block_configs": [{"attention": {"no_op": True}}, {"attention": {"n_heads_in_group": 8}}]},
            {"none": 1, "full": 1},
        ),
        ({"model_type": "lfm2", "num_hidden_layers": 4, "full_attn_idxs": [2]}, {"conv": 3, "full": 1}),
        # Kimi Linear counts from 1.
        (
            {"model_type": "kimi_linear", "num_hidden_layers": 4, "linear_attn_config": {"full_attn_layers": [4]}},
            {"linear": 3, "full": 1},
        ),
        ({"model_type": "bailing_moe_linear", "num_hidden_layers": 8, "layer_group_size": 4}, {"linear": 6, "full": 2}),
        ({"model_type": "longcat_flash", "num_layers": 28}, {"full": 56}),  # two attentions in a layer
        # Llama 4 may list the layers with RoPE.
        ({"model_type": "llama4_text", "num_hidden_layers": 2, "no_rope_layers": [0, 1]}, {"full": 1, "chunked": 1}),
        # Qwen2 with its window on: the layers from max_window_layers.
        (
            {
                "model_type": "qwen2",
                "num_hidden_layers": 4,
                "sliding_window": 32,
                "use_sliding_window": True,
                "max_window_layers": 3,
            },
            {"full": 3, "sliding": 1},
        ),
        ({"model_type": "qwen2", "num_hidden_layers": 4, "sliding_window": 32}, {"full": 4}),
        # EXAONE 4: the pattern, and the last layer sees everything.
        (
            {"model_type": "exaone4", "num_hidden_layers": 6, "sliding_window": 32, "sliding_window_pattern": "LLLG"},
            {"sliding": 4, "full": 2},
        ),
        ({"model_type": "exaone4", "num_hidden_layers": 6, "sliding_window": None}, {"full": 6}),
        ({"num_hidden_layers": 2**50}, {"full": 2**50}),
        ({}, {}),
    ],
)
def test_kinds_of_layers_by_the_rules_of_older_files(text: dict[str, Any], expected: dict[str, int]) -> None:
    assert layer_kinds(text) == expected


@pytest.mark.parametrize(
    ("described", "method", "bits"),
    [
        ({"quant_method": "compressed_tensors"}, "compressed-tensors", None),
        ({"quant_method": "GPTQ", "bits": 3}, "gptq", 3),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", 8),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt", 8),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "modelopt_fp4", 4),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "modelopt_mixed", None),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "modelopt_mxfp8", 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 8}}, "b": {"weights": {"num_bits": 4}}},
            },
            "compressed-tensors",
            None,
        ),
        ({"quant_method": "awq", "w_bit": 400}, "awq", None),
        ({}, None, None),
        ("awq", None, None),
    ],
)
def test_how_weights_are_quantized(described: Any, method: str | None, bits: int | None) -> None:
    config = {"quantization_config": described}
    assert (quantization(config), quantization_bits(config)) == (method, bits)
    nested = {"text_config": {"compression_config": described}}
    assert (quantization(nested), quantization_bits(nested)) == (method, bits)


def test_a_file_of_its_own_says_how_older_modelopt_checkpoints_are_quantized() -> None:
    own = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    assert config_facts(published("llama-3.1-8b-instruct"), quantized=own).quantization == "modelopt_fp4"
    assert config_facts(published("qwen2.5-7b-instruct-awq"), quantized=own).quantization == "awq"


def test_the_files_beside_config_json_are_heeded() -> None:
    # As Qwen2.5-0.5B-Instruct has them.
    found = config_facts(
        published("qwen2.5-0.5b-instruct"),
        generation={
            "do_sample": True,
            "eos_token_id": [151645, 151643],
            "pad_token_id": 151643,
            "repetition_penalty": 1.1,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
        },
        tokenizer={"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 131072, "chat_template": "{{ messages }}"},
    )
    assert found.generation == GenerationDefaults(0.7, 0.8, 20, None, 1.1, None, True, 2)
    assert (found.tokenizer_class, found.chat_templates) == ("Qwen2Tokenizer", ("default",))
    assert found.context_window == 32768  # the tokenizer's limit counts for absolute positions only


def test_encoders_heed_the_limits_of_tokenizer_and_sentence_transformers() -> None:
    # vLLM: _get_and_verify_max_len; the sentence transformer's own limit goes before all.
    assert config_facts(published("xlm-roberta-base"), tokenizer={"model_max_length": 512}).context_window == 512
    found = config_facts(
        published("all-minilm-l6-v2"), tokenizer={"model_max_length": 512}, sentence={"max_seq_length": 256}
    )
    assert (found.context_window, found.context_limit) == (256, 256)


def test_templates_with_names_and_a_tokenizers_own_code_are_told() -> None:
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, "junk"]
    found = config_facts({}, tokenizer={"chat_template": templates, "auto_map": {"AutoTokenizer": ["a.B", None]}})
    assert (found.chat_templates, found.custom_code) == (("default", "tool_use"), ("AutoTokenizer",))


@pytest.mark.parametrize(
    ("preprocessor", "expected"),
    [
        (
            {"image_processor_type": "SiglipImageProcessor"},
            (("image", "preprocessor_config.json: image_processor_type"),),
        ),
        (
            {"feature_extractor_type": "CLIPFeatureExtractor"},
            (("image", "preprocessor_config.json: feature_extractor_type"),),
        ),
        (
            {"feature_extractor_type": "WhisperFeatureExtractor"},
            (("audio", "preprocessor_config.json: feature_extractor_type"),),
        ),
        (
            {"video_processor_type": "SomeVideoProcessor"},
            (("video", "preprocessor_config.json: video_processor_type"),),
        ),
        ({"image_processor_type": 3}, ()),
    ],
)
def test_a_preprocessor_tells_a_modality(preprocessor: dict[str, Any], expected: tuple[tuple[str, str], ...]) -> None:
    assert config_facts({}, preprocessor=preprocessor).modalities == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "eagle", "architectures": ["EAGLEModel"]}, "eagle"),
        ({"model_type": "mlp_speculator", "architectures": ["MLPSpeculatorPreTrainedModel"]}, "mlp_speculator"),
        ({"speculators_model_type": "eagle3", "speculators_config": {"algorithm": "eagle3"}}, "eagle3"),
        ({"architectures": ["Eagle3Qwen3ForCausalLM"]}, "eagle3"),
        ({"architectures": ["DeepSeekMTPModel"]}, "mtp"),
        ({"speculators_config": {"algorithm": "new"}}, "speculators"),
        ({"architectures": ["LlamaForCausalLM"]}, None),
    ],
)
def test_drafts_for_speculative_decoding_are_marked(config: dict[str, Any], expected: str | None) -> None:
    assert config_facts(config).draft == expected


@pytest.mark.parametrize("key", ["num_nextn_predict_layers", "mtp_num_hidden_layers"])
def test_layers_that_predict_further_tokens_are_counted(key: str) -> None:
    assert config_facts({key: 3}).mtp_layers == config_facts({"text_config": {key: 3}}).mtp_layers == 3
    assert config_facts({key: 0}).mtp_layers is None


def test_a_default_of_the_class_does_not_replace_what_the_file_says_wrongly() -> None:
    found = config_facts({"model_type": "llama", "num_hidden_layers": None, "hidden_size": "4096"})
    assert (found.layers, found.hidden_size, found.attention_heads) == (None, None, 32)
    assert found.assumed == ("context_window", "attention_heads", "vocabulary")


def _keys_of(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(_keys_of, value.values()))


_KEYS = sorted(set().union(*(_keys_of(published(name)) for name in EXPECTED)))
_WORDS = sorted({config["model_type"] for config in map(published, EXPECTED)} | {"longrope", "LLLG", "M*-"})
_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(_WORDS)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=8),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(EXPECTED)), changes=st.dictionaries(st.sampled_from(_KEYS), _JUNK, max_size=6))
def test_junk_among_the_values_never_raises(name: str, changes: dict[str, Any]) -> None:
    config = {**published(name), **changes}
    if isinstance(nested := config.get("text_config"), dict):
        config["text_config"] = {**nested, **changes}
    found = config_facts(
        config, generation=changes, tokenizer=changes, preprocessor=changes, sentence=changes, quantized=changes
    )
    assert isinstance(found, ConfigFacts)
    json.dumps(dataclasses.asdict(found), allow_nan=False).encode()
    for number in (found.context_window, found.layers, found.hidden_size, found.experts, found.kv_bytes_per_token):
        assert number is None or number > 0
