"""Make tiny models of real architectures, with real tokenizers and random weights, in a Hugging Face cache.

Run by the ENGINE environment's Python, because torch and transformers are only there:

    python make_tiny_models.py --hub <cache folder> --version <stamp> NAME ...

Nothing is downloaded, and the same versions of the libraries give the same bytes: seeds are fixed. The models
write fluent nonsense in printable ASCII, one visible piece a token, so that streams can be watched.
"""

# mypy: disable-error-code="import-not-found,import-untyped"
import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ORG = "tiny-org"
STAMP = "tiny-model.json"
VOCABULARY = 768
LAYERS, HIDDEN, HEADS, KV_HEADS = 2, 128, 4, 2
HEAD_SIZE = HIDDEN // HEADS
"""32, the smallest that vLLM's CPU attention takes."""
CONTEXT = 2048
LORA_RANK = 8
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<mask>", "<tool_call>", "</tool_call>")
END_OF_TEXT, START, END, PAD = range(4)

# ChatML, with tools the way Hermes models are prompted (`--tool-call-parser hermes`).
CHAT_TEMPLATE = """\
{%- macro open(role) %}{{ '<|im_start|>' + role + '\\n' }}{% endmacro -%}
{%- set has_system = messages[0].role == 'system' -%}
{%- set system = messages[0].content if has_system else '' -%}
{%- if tools or system -%}
{{ open('system') }}{{ system }}
{%- if tools -%}
{{ '\\n\\n# Tools\\n<tools>' }}{%- for tool in tools -%}{{ '\\n' + (tool | tojson) }}{%- endfor -%}
{{ '\\n</tools>\\nCall a tool as <tool_call>{"name": ..., "arguments": ...}</tool_call>' }}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
{{ open(message.role) }}{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
{{ '<tool_call>' + ((call.function or call) | tojson) + '</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ open('assistant') }}{%- endif -%}
"""

# What the tokenizer learns its pieces from: prose, code, JSON and digits.
CORPUS = """\
An engine is started, loads its weights, and serves requests until it is told to stop.
The hub keeps a promise of memory for every engine, and starts them one after the other.
Which models are loaded, how large is their context, and how much memory is still free?
A long answer streams token by token, so that a reader need not wait for its end.
Early in the morning the harbour is quiet; gulls stand on the wall and look at the boats.
She opened the window, heard the rain on the leaves, and went back to her book.
def mean(values):\n    total = sum(values)\n    return total / len(values)
for name, size in sorted(files.items()):\n    print(f"{name}: {size} bytes")
{"name": "list_models", "arguments": {"status": "loaded", "limit": 5}}
{"id": 42, "ready": true, "devices": ["gpu0", "gpu1"], "error": null}
Question: what is 17 plus 25? Answer: 17 plus 25 is 42. Question: and 8 times 9? Answer: 72.
Monday, Tuesday, Wednesday, Thursday and Friday are working days; the weekend is for walks.
Zebras quickly jump over five lazy dogs while vexed wizards mix green punch in big jugs.
"""


def write_tokenizer(folder: Path, **settings: Any) -> Any:
    """Train a byte-level BPE tokenizer on the corpus; its files, and the tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([line + "\n" for line in CORPUS.splitlines()] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    defaults = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": SPECIALS[END],
        "pad_token": SPECIALS[PAD],
        "unk_token": None,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", defaults | settings)
    return tokenizer


def write_decoder(folder: Path, config: Any, model_class: Any, end_bias: float) -> None:
    """A causal language model with its chat template and sampling defaults."""
    tokenizer = write_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    model = model_class(config)
    speak_printable(model, tokenizer, end_bias)
    save_half(model, folder)
    write_json(
        folder / "generation_config.json",
        {
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.9,
            "eos_token_id": [END, END_OF_TEXT],
            "pad_token_id": PAD,
        },
    )


def decoder_settings() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }


def speak_printable(model: Any, tokenizer: Any, end_bias: float) -> None:
    """Let a random model prefer tokens that are visible ASCII, and end after some tens of tokens.

    Hidden value 0 is made a constant that no layer writes to, so that column 0 of the head works as a bias.
    Without this most chunks of a stream are empty: vLLM holds back bytes that are not yet a character.
    """
    import torch

    head = model.lm_head.weight
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.5
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        head.mul_(10)  # random weights are nearly uniform; sharpen them
        for token in range(head.shape[0]):
            head[token, 0] = 0.0 if is_visible(tokenizer, token) else -2.0
        head[END] = 0
        head[END, 0] = end_bias


def is_visible(tokenizer: Any, token: int) -> bool:
    text = tokenizer.decode([token], skip_special_tokens=False)
    return token >= len(SPECIALS) and text.isascii() and text.isprintable() and bool(text.strip())


def save_half(model: Any, folder: Path) -> None:
    """float16, not bfloat16: that kills the worker by SIGILL on virtual machines with unusable AMX."""
    import torch

    model.to(torch.float16).save_pretrained(folder, safe_serialization=True)


def tiny_llama(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    write_decoder(folder, LlamaConfig(**decoder_settings()), LlamaForCausalLM, end_bias=0.6)


def tiny_qwen2(folder: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    write_decoder(folder, Qwen2Config(**decoder_settings()), Qwen2ForCausalLM, end_bias=1.0)


def tiny_bert_embed(folder: Path) -> None:
    """An embedding model in the layout of sentence-transformers: mean pooling, then normalized."""
    from transformers import BertConfig, BertModel

    names = {"cls_token": SPECIALS[START], "sep_token": SPECIALS[END], "mask_token": "<mask>"}
    write_tokenizer(folder, model_max_length=512, **names)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=512,
        pad_token_id=PAD,
    )
    save_half(BertModel(config), folder)
    steps = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(steps)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling/config.json", pooling | {"pooling_mode_cls_token": False})


def tiny_llama_lora(folder: Path) -> None:
    """A PEFT adapter of tiny-llama whose B is not zero, so that it changes the answers."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for layer in range(LAYERS):
        for module, width in (("q_proj", HIDDEN), ("v_proj", KV_HEADS * HEAD_SIZE)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            for part, shape in (("A", (LORA_RANK, HIDDEN)), ("B", (width, LORA_RANK))):
                tensors[f"{name}.lora_{part}.weight"] = torch.randn(*shape, generator=generator) * 0.05
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": f"{ORG}/tiny-llama",
            "r": LORA_RANK,
            "lora_alpha": 2 * LORA_RANK,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": ["q_proj", "v_proj"],
            "inference_mode": True,
            "fan_in_fan_out": False,
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        },
    )


MODELS: dict[str, Callable[[Path], None]] = {
    "tiny-llama": tiny_llama,
    "tiny-qwen2": tiny_qwen2,
    "tiny-bert-embed": tiny_bert_embed,
    "tiny-llama-lora": tiny_llama_lora,
}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_card(folder: Path, name: str, version: str) -> None:
    """Say what it is where people look."""
    (folder / "README.md").write_text(
        f"# {ORG}/{name}\n\nMade on this machine by the vLLM MCP suite to try engines without a download: a "
        "real architecture and a real tokenizer with random weights. What it writes has no meaning.\n"
    )
    write_json(folder / STAMP, {"version": version, "random_weights": True})


def into_cache(source: Path, hub: Path, name: str) -> Path:
    """Put the files of `source` into the cache as one snapshot; the snapshot's folder.

    The repository appears complete, in one step: a reader never sees half of it.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    blobs = {path.relative_to(source): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    listing = "".join(f"{name} {digest}\n" for name, digest in blobs.items())
    commit = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
    repo = hub / f"models--{ORG}--{name}"
    staged = Path(tempfile.mkdtemp(dir=hub, prefix=".tiny-"))
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (staged / folder).mkdir(parents=True)
    (staged / "refs/main").write_text(commit)
    for relative, digest in blobs.items():
        shutil.copyfile(source / relative, staged / "blobs" / digest)
        link = staged / "snapshots" / commit / relative
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(staged / "blobs" / digest, link.parent))
    staged.chmod(0o755)
    shutil.rmtree(repo, ignore_errors=True)
    staged.rename(repo)
    return repo / "snapshots" / commit


def main() -> None:
    parser = argparse.ArgumentParser(description="Make tiny models with random weights in a model cache.")
    parser.add_argument("--hub", type=Path, required=True, help="cache folder, e.g. ~/.cache/huggingface/hub")
    parser.add_argument("--version", required=True, help="stamp written into each model")
    parser.add_argument("names", nargs="+", choices=list(MODELS))
    given = parser.parse_args()
    import torch

    given.hub.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as scratch:
            MODELS[name](Path(scratch))
            write_card(Path(scratch), name, given.version)
            print(into_cache(Path(scratch), given.hub, name), flush=True)


if __name__ == "__main__":
    main()
