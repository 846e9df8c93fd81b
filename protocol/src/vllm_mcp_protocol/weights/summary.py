"""What the weights of a checkpoint are, by the headers of its files: parameters, types, quantization. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vllm_mcp_protocol.weights.counts import count_parameters
from vllm_mcp_protocol.weights.gguf import GgufHeader, GgufValue, file_type
from vllm_mcp_protocol.weights.headers import Tensor, unique_tensors

_TEXT_LIMIT_CHARS = 200


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a GGUF file says about its model. None or an empty text: the file does not say."""

    architecture: str | None
    """llama.cpp's name: `llama`, `qwen3moe`."""
    name: str | None
    license: str | None
    context_window: int | None
    """Tokens."""
    layers: int | None
    hidden_size: int | None
    attention_heads: int | None
    """Where they differ by layer: the most."""
    kv_heads: int | None
    experts: int | None
    vocabulary: int | None
    tokenizer: str | None
    """`tokenizer.ggml.model`: `gpt2` (BPE), `llama` (SentencePiece), …"""
    chat_template: str | None
    """The Jinja template itself."""
    parts: int
    """Files that the checkpoint was split into; 1 = not split."""


@dataclass(frozen=True, slots=True)
class WeightSummary:
    """The weights of one checkpoint, from headers alone."""

    format: str
    """`safetensors` or `gguf`."""
    tensors: int
    parameters: int
    parameters_note: str
    """How packed tensors were counted, and what was not counted; empty when every element is a parameter."""
    bytes_by_dtype: tuple[tuple[str, int], ...]
    """Type as stored and bytes of all tensors of it, the largest first."""
    quantization: str | None
    """As stored: `Q4_K_M`, `FP8`, `GPTQ 4-bit`, `bitsandbytes 4-bit`, `MXFP4`, …; None: not quantized."""
    gguf: GgufFacts | None = None

    @property
    def size_bytes(self) -> int:
        """All tensors."""
        return sum(size for _, size in self.bytes_by_dtype)


def summarize_safetensors(files: Iterable[Iterable[Tensor]], packed_bits: int | None = None) -> WeightSummary:
    """Of the tensors of all files of a checkpoint; `packed_bits` as in `count_parameters`."""
    tensors = unique_tensors(files)
    count = count_parameters(tensors, packed_bits)
    return WeightSummary(
        format="safetensors",
        tensors=len(tensors),
        parameters=count.parameters,
        parameters_note=count.note,
        bytes_by_dtype=_bytes_by_dtype(tensors),
        quantization=count.quantization,
    )


def summarize_gguf(headers: Sequence[GgufHeader]) -> WeightSummary:
    """Of one file, or of all parts of a split checkpoint in order: the first part has the facts."""
    tensors = unique_tensors(header.tensors for header in headers)
    by_dtype = _bytes_by_dtype(tensors)
    first = headers[0]
    return WeightSummary(
        format="gguf",
        tensors=len(tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        parameters_note="",
        bytes_by_dtype=by_dtype,
        quantization=_gguf_quantization(first.values, by_dtype),
        gguf=_gguf_facts(first),
    )


def _gguf_quantization(values: Mapping[str, GgufValue], by_dtype: tuple[tuple[str, int], ...]) -> str | None:
    stated = file_type(values) or (by_dtype[0][0] if by_dtype else None)
    return None if stated in ("F32", "F16", "BF16", "F64") else stated


def _gguf_facts(header: GgufHeader) -> GgufFacts:
    values = header.values
    architecture = _text(values.get("general.architecture"))

    def of_model(key: str) -> int | None:
        return _whole(values.get(f"{architecture}.{key}"))

    return GgufFacts(
        architecture=architecture,
        name=_text(values.get("general.name")),
        license=_text(values.get("general.license")),
        context_window=of_model("context_length"),
        layers=of_model("block_count"),
        hidden_size=of_model("embedding_length"),
        attention_heads=of_model("attention.head_count"),
        kv_heads=of_model("attention.head_count_kv") or of_model("attention.head_count"),
        experts=of_model("expert_count"),
        vocabulary=header.lengths.get("tokenizer.ggml.tokens") or of_model("vocab_size"),
        tokenizer=_text(values.get("tokenizer.ggml.model")),
        chat_template=_template(values.get("tokenizer.chat_template")),
        parts=_whole(values.get("split.count")) or 1,
    )


def _whole(value: GgufValue | None) -> int | None:
    """A positive whole number; of several, the largest."""
    found = max((entry for entry in value if type(entry) is int), default=0) if isinstance(value, tuple) else value
    return found if type(found) is int and 0 < found < 2**53 else None


def _text(value: GgufValue | None) -> str | None:
    return value[:_TEXT_LIMIT_CHARS] if isinstance(value, str) and value else None


def _template(value: GgufValue | None) -> str | None:
    return value if isinstance(value, str) and value else None


def _bytes_by_dtype(tensors: Iterable[Tensor]) -> tuple[tuple[str, int], ...]:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    return tuple(sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0])))
