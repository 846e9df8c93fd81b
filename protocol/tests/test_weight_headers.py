"""Headers of weight files: what they say, what is refused, and that nothing but headers is read."""

import json
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mcp_protocol.units import GIB, MIB
from vllm_mcp_protocol.weights.counts import count_parameters
from vllm_mcp_protocol.weights.files import gguf_from, read_gguf, read_safetensors, safetensors_from
from vllm_mcp_protocol.weights.gguf import GgufHeader, NeedMore, parse_gguf
from vllm_mcp_protocol.weights.headers import (
    DTYPE_BITS,
    BadHeader,
    Tensor,
    json_size,
    parse_safetensors,
)
from vllm_mcp_protocol.weights.summary import summarize_gguf, summarize_safetensors

Spec = tuple[str, Sequence[int]]
"""dtype and shape."""


def described(tensors: dict[str, Spec]) -> tuple[dict[str, Any], int]:
    """The JSON of a safetensors header, and the bytes of its tensors."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    return header, end


def safetensors(path: Path, tensors: dict[str, Spec]) -> Path:
    """A file with holes instead of weights."""
    header, size = described(tensors)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    return path


def tensors_of(tensors: dict[str, Spec]) -> list[Tensor]:
    return [
        Tensor(name, dtype, tuple(shape), math.prod(shape) * DTYPE_BITS[dtype] // 8)
        for name, (dtype, shape) in tensors.items()
    ]


class Counted:
    """Reads a file and remembers how much."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        self.size_bytes = path.stat().st_size
        self.read_bytes = 0

    def __call__(self, size: int, offset: int, /) -> bytes:
        data = os.pread(self._handle, size, offset)
        self.read_bytes += len(data)
        return data


PLAIN: dict[str, Spec] = {"embed.weight": ("BF16", [100, 64]), "norm.weight": ("F32", [64]), "empty": ("F32", [0, 4])}


def test_a_safetensors_file_is_summed_up_from_its_header(tmp_path: Path) -> None:
    found = summarize_safetensors([read_safetensors(safetensors(tmp_path / "model.safetensors", PLAIN))])
    assert (found.format, found.tensors, found.parameters, found.parameters_note) == ("safetensors", 3, 6464, "")
    assert found.bytes_by_dtype == (("BF16", 12800), ("F32", 256))
    assert (found.size_bytes, found.quantization) == (13056, None)


def test_files_of_one_checkpoint_are_added_up_and_a_tensor_in_both_counts_once(tmp_path: Path) -> None:
    first = safetensors(tmp_path / "model-00001-of-00002.safetensors", PLAIN)
    second = safetensors(tmp_path / "model-00002-of-00002.safetensors", {**PLAIN, "head.weight": ("BF16", [10])})
    assert summarize_safetensors([read_safetensors(first), read_safetensors(second)]).parameters == 6474


def test_only_the_header_of_a_large_file_is_read(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "big.safetensors", {"w": ("F16", [5 * GIB])})
    read = Counted(path)
    assert read.size_bytes > 10 * GIB
    assert safetensors_from(read, read.size_bytes)[0].elements == 5 * GIB
    assert read.read_bytes < 200


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(BadHeader, match=r"model\.safetensors: not a regular file"):
        read_safetensors(tmp_path / "model.safetensors")


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        ({"w": ONE | {"data_offsets": [-8, 0]}}, 8, "impossible data_offsets"),
        ({"w": ONE | {"data_offsets": [8, 0]}}, 8, "impossible data_offsets"),
        ({"w": ONE | {"data_offsets": [0]}}, 8, "impossible data_offsets"),
        ({"w": ONE | {"data_offsets": [0, 2**63]}}, 8, "impossible data_offsets"),
        ({"w": ONE, "v": ONE}, 8, "overlaps the tensor before it"),
        ({"w": ONE, "v": ONE | {"data_offsets": [16, 24]}}, 24, "leaves a gap"),
        ({"w": ONE}, 7, "describes 8 bytes of tensors, but the file has 7"),
        ({"w": ONE}, 9, "describes 8 bytes of tensors, but the file has 9"),
        ({"w": ONE | {"shape": [3]}}, 8, r"F32 \[3\] does not take the 8 bytes"),
        ({"w": ONE | {"shape": [-2]}}, 8, "impossible shape"),
        ({"w": ONE | {"shape": [2.0]}}, 8, "impossible shape"),
        ({"w": ONE | {"shape": [1] * 17}}, 8, "impossible shape"),
        ({"w": ONE | {"dtype": "I4"}}, 8, "unknown dtype 'I4'"),
        ({"w": ONE | {"dtype": ["F32"]}}, 8, "unknown dtype"),
        ({"w": [1]}, 8, "not described by an object"),
        ({"w" * 10_000: [1]}, 8, "not described by an object"),
        ({"__metadata__": {"format": 1}, "w": ONE}, 8, "__metadata__ is not"),
        ([], 0, "not a JSON object"),
    ],
)
def test_a_header_that_cannot_be_is_refused(header: Any, size: int, words: str) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(BadHeader, match=words) as refused:
        parse_safetensors(text, 8 + len(text) + size)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"w": {}, "w": {}}', "'w' is there twice"),
        (b'{"w": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"w": nothing}', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ('{"w": 1}'.encode("utf-16-le"), "not JSON"),
        (b'{"w": ' + b"9" * 5000 + b"}", "not JSON"),
        (b" {}", "not a JSON object"),
        (b'"{}"', "not a JSON object"),
    ],
)
def test_a_header_that_is_no_plain_json_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(BadHeader, match=words):
        parse_safetensors(text, 8 + len(text))


@pytest.mark.parametrize(
    ("first", "file_bytes", "words"),
    [
        (b"", 0, "has 0 bytes"),
        (struct.pack("<Q", 1000), 500, "claims 1000 bytes, but the file has 500 B"),
        (struct.pack("<Q", 2**64 - 1), 10 * GIB, "but the file has"),
        (struct.pack("<Q", 100 * MIB), 10 * GIB, "claims 100 MiB; at most"),
        (struct.pack("<Q", 1), 500, "too short"),
    ],
)
def test_a_claimed_length_is_checked_before_anything_is_read(first: bytes, file_bytes: int, words: str) -> None:
    with pytest.raises(BadHeader, match=words):
        json_size(first, file_bytes)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_changes_nothing_but_names(data: st.DataObject) -> None:
    """The oracle: an accepted header still tiles the file exactly."""
    header, size = described(PLAIN)
    text = bytearray(json.dumps(header).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_safetensors(bytes(text), 8 + len(text) + size)
    except BadHeader:
        return
    assert sum(tensor.size_bytes for tensor in found) == size
    assert all(tensor.elements * DTYPE_BITS[tensor.dtype] == tensor.size_bytes * 8 for tensor in found)


# One linear layer of 256 outputs and 512 inputs in each of the formats, as their tools write it, beside a norm of 512.
IN, OUT = 512, 256
GPTQ: dict[str, Spec] = {
    "l.qweight": ("I32", [IN // 8, OUT]),
    "l.qzeros": ("I32", [IN // 128, OUT // 8]),
    "l.scales": ("F16", [IN // 128, OUT]),
}
BNB: dict[str, Spec] = {
    "l.weight": ("U8", [IN * OUT // 2, 1]),
    "l.weight.absmax": ("U8", [IN * OUT // 64]),
    "l.weight.nested_absmax": ("F32", [8]),
    "l.weight.quant_map": ("F32", [16]),
    "l.weight.nested_quant_map": ("F32", [256]),
    "l.weight.quant_state.bitsandbytes__nf4": ("U8", [91]),
}
NORM: dict[str, Spec] = {"norm.weight": ("F16", [512])}


@pytest.mark.parametrize(
    ("layer", "quantization"),
    [
        (GPTQ | {"l.g_idx": ("I32", [IN])}, "GPTQ 4-bit"),
        (GPTQ, "GPTQ 4-bit"),
        (GPTQ | {"l.qweight": ("I32", [IN // 4, OUT]), "l.g_idx": ("I32", [IN])}, "GPTQ 8-bit"),
        (GPTQ | {"l.qweight": ("I32", [IN * 3 // 32, OUT]), "l.g_idx": ("I32", [IN])}, "GPTQ 3-bit"),
        (GPTQ | {"l.qweight": ("I32", [IN, OUT // 8])}, "AWQ 4-bit"),
        (BNB, "bitsandbytes 4-bit"),
        ({"l.weight": ("I8", [OUT, IN]), "l.SCB": ("F32", [OUT])}, "bitsandbytes 8-bit"),
        ({"l.weight": ("I8", [OUT, IN]), "l.weight_scale": ("BF16", [OUT, 1])}, "INT8"),
        ({"l.weight": ("F8_E4M3", [OUT, IN]), "l.weight_scale_inv": ("F32", [2, 4])}, "FP8"),
        (
            {"l.weight": ("F8_E4M3", [OUT, IN]), "l.weight_scale": ("F32", []), "l.input_scale": ("F32", [])},
            "FP8",
        ),
        ({"l_blocks": ("U8", [OUT, IN // 32, 16]), "l_scales": ("U8", [OUT, IN // 32])}, "MXFP4"),
        (
            {
                "l.weight": ("U8", [OUT, IN // 2]),
                "l.weight_scale": ("F8_E4M3", [OUT, IN // 16]),
                "l.weight_scale_2": ("F32", []),
                "l.input_scale": ("F32", []),
            },
            "NVFP4",
        ),
        ({"l.weight": ("U8", [OUT, IN // 2]), "l.weight_scale": ("U8", [OUT, IN // 32])}, "MXFP4"),
        (
            {
                "l.weight_packed": ("U8", [OUT, IN // 2]),
                "l.weight_scale": ("F8_E4M3", [OUT, IN // 16]),
                "l.weight_global_scale": ("F32", [1]),
                "l.input_global_scale": ("F32", [1]),
            },
            "NVFP4",
        ),
        (
            {
                "l.weight_packed": ("I32", [OUT, IN // 8]),
                "l.weight_scale": ("BF16", [OUT, 4]),
                "l.weight_shape": ("I64", [2]),
            },
            "INT4",
        ),
        ({"l.weight": ("F4", [OUT, IN]), "l.weight_scale": ("F8_E8M0", [OUT, IN // 32])}, "FP4"),
    ],
)
def test_packed_weights_are_counted_as_what_they_hold(layer: dict[str, Spec], quantization: str) -> None:
    found = count_parameters(tensors_of(layer | NORM), packed_bits=4)
    assert (found.parameters, found.quantization) == (IN * OUT + 512, quantization)
    assert f"{len(layer) - 1} tensors of scales" in found.note


def test_what_cannot_be_told_is_counted_as_it_is_and_said() -> None:
    packed: dict[str, Spec] = {"l.weight_packed": ("I32", [OUT, IN // 8]), "l.weight_scale": ("BF16", [OUT, 4])}
    found = count_parameters(tensors_of(packed | NORM))
    assert (found.parameters, found.quantization) == (OUT * IN // 8 + 512, None)
    assert f"{OUT * IN // 8} elements of whole numbers counted as they are" in found.note


def test_positions_are_no_parameters_and_a_scale_that_is_learned_is_one() -> None:
    layer: dict[str, Spec] = {"embeddings.position_ids": ("I64", [1, 512]), "logit_scale": ("F32", []), **NORM}
    assert count_parameters(tensors_of(layer)).parameters == 513


U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
NUMBERS = {U8: "<B", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, entries = value
        return struct.pack("<IQ", inner, len(entries)) + b"".join(gguf_value(inner, entry) for entry in entries)
    return struct.pack(NUMBERS[kind], value)


F16, Q4_K = 1, 12
VALUES: list[tuple[str, int, Any]] = [
    ("general.architecture", STRING, "qwen3moe"),
    ("general.name", STRING, "Tiny"),
    ("general.license", STRING, "apache-2.0"),
    ("general.file_type", U32, 15),
    ("qwen3moe.context_length", U32, 40960),
    ("qwen3moe.block_count", U32, 2),
    ("qwen3moe.embedding_length", U32, 256),
    ("qwen3moe.attention.head_count", ARRAY, (I32, [8, 4])),
    ("qwen3moe.attention.head_count_kv", U32, 2),
    ("qwen3moe.rope.freq_base", F32, 1e6),
    ("qwen3moe.expert_count", U32, 128),
    ("tokenizer.ggml.model", STRING, "gpt2"),
    ("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "bc", ""])),
    ("tokenizer.ggml.token_type", ARRAY, (I32, [1] * 2000)),
    ("tokenizer.ggml.add_bos_token", BOOL, False),
    ("tokenizer.chat_template", STRING, "{{ messages }}"),
]
TENSORS = [("token_embd.weight", [256, 10], F16, 0), ("blk.0.weight", [256, 4], Q4_K, 5120), ("n", [7], 0, 5696)]
DATA_BYTES = 5120 + 4 * 144 + 28


def gguf(
    values: Sequence[tuple[str, int, Any]] = VALUES,
    tensors: Sequence[tuple[str, Sequence[int], int, int]] = TENSORS,
    version: int = 3,
) -> bytes:
    """A header, padded to where the data begins."""
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(values))]
    parts += [text(key) + struct.pack("<I", kind) + gguf_value(kind, value) for key, kind, value in values]
    for name, shape, kind, offset in tensors:
        parts.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
    whole = b"".join(parts)
    return whole + b"\0" * (-len(whole) % 32)


def gguf_file(path: Path, header: bytes, size: int = DATA_BYTES) -> Path:
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_gguf_file_is_summed_up_from_its_header(tmp_path: Path, version: int) -> None:
    found = summarize_gguf([read_gguf(gguf_file(tmp_path / "m.gguf", gguf(version=version)))])
    assert (found.format, found.tensors, found.parameters) == ("gguf", 3, 2560 + 1024 + 7)
    assert found.bytes_by_dtype == (("F16", 5120), ("Q4_K", 576), ("F32", 28))
    assert found.quantization == "Q4_K_M"
    facts = found.gguf
    assert facts is not None
    assert (facts.architecture, facts.name, facts.license) == ("qwen3moe", "Tiny", "apache-2.0")
    assert (facts.context_window, facts.layers, facts.hidden_size, facts.experts) == (40960, 2, 256, 128)
    assert (facts.attention_heads, facts.kv_heads, facts.vocabulary) == (8, 2, 3)
    assert (facts.tokenizer, facts.chat_template, facts.parts) == ("gpt2", "{{ messages }}", 1)


def test_parts_of_a_split_gguf_are_added_up_and_without_a_file_type_the_largest_type_counts(tmp_path: Path) -> None:
    second = gguf([("split.no", U32, 1)], [("blk.1.weight", [256, 4], Q4_K, 0)])
    first = gguf([("general.architecture", STRING, "llama"), ("split.count", U32, 2)], [("a", [256, 4], Q4_K, 0)])
    paths = [
        gguf_file(tmp_path / f"m-0000{number}-of-00002.gguf", header, 576)
        for number, header in ((1, first), (2, second))
    ]
    found = summarize_gguf([read_gguf(path) for path in paths])
    assert (found.parameters, found.quantization, found.gguf and found.gguf.parts) == (2048, "Q4_K", 2)


def test_a_gguf_of_plain_floats_is_not_quantized(tmp_path: Path) -> None:
    header = gguf([("general.file_type", U32, 1)], [("w", [4], F16, 0)])
    assert summarize_gguf([read_gguf(gguf_file(tmp_path / "m.gguf", header, 8))]).quantization is None


def test_only_as_much_of_a_large_gguf_is_read_as_its_header_needs(tmp_path: Path) -> None:
    tokens = [f"token {number}" for number in range(150_000)]
    header = gguf([*VALUES, ("big", ARRAY, (STRING, tokens))], [("w", [256, 40_000_000], F16, 0)])
    path = gguf_file(tmp_path / "big.gguf", header, 256 * 40_000_000 * 2)
    read = Counted(path)
    found = gguf_from(read, read.size_bytes)
    assert (found.lengths["big"], found.header_bytes, found.tensors[0].size_bytes) == (
        150_000,
        len(header),
        20480000000,
    )
    assert len(header) <= read.read_bytes <= 8 * MIB


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, len(gguf()) - 1))
def test_a_beginning_of_a_header_asks_for_more_and_a_file_cut_there_is_refused(cut: int) -> None:
    whole = gguf()
    end_of_info = len(whole.rstrip(b"\0")) + 1  # the last offset, 5696, ends in zeros that are not padding
    if cut < end_of_info - 8:
        with pytest.raises(NeedMore):
            parse_gguf(whole[:cut], len(whole) + DATA_BYTES)
    with pytest.raises(BadHeader):
        parse_gguf(whole[:cut], cut)


HEAD = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"GGML" + b"\0" * 20, "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (HEAD + struct.pack("<QQ", 0, 2**63), "claims 0 tensors and 9223372036854775808 keys"),
        (HEAD + struct.pack("<QQ", 2**63, 0), "claims 9223372036854775808 tensors"),
        (HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62), "ends beyond the file"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(""), "is empty or longer"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k" * 501), "is empty or longer"),
        (gguf([("k", STRING, "v"), ("k", U8, 1)], []), "'k' is there twice"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<I", 13), "'k' has the type 13"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IQ", STRING, 2**40), "the text of 'k' at byte"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", ARRAY, STRING, 2**60), "claims 115292"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", ARRAY, U64, 2**60), "the array 'k'"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1), "'k' has the type 9"),
        (
            HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQQ", ARRAY, STRING, 2, 2**64 - 1),
            "a text of 'k'",
        ),
        (gguf([], [("w", [1] * 5, 0, 0)]), "claims 5 dimensions"),
        (gguf([], [("w", [4], 99, 0)]), "unknown type 99"),
        (gguf([], [("w", [100], Q4_K, 0)]), "rows of 100 are not whole blocks of 256"),
        (gguf([], [("w", [], Q4_K, 0)]), "rows of 1 are not whole blocks"),
        (gguf([], [("w", [4], 0, 3)]), "starts at 3: not a multiple of 32"),
        (gguf([], [("w", [64], 0, 0), ("v", [4], 0, 32)]), "inside the tensor before it"),
        (gguf([], [("w", [4], 0, 0), ("w", [4], 0, 32)]), "'w' is there twice"),
        (gguf([], [("w", [2**63, 2**63], 0, 0)]), "but the file has"),
        (gguf([], [("w", [4], 0, 2**63)]), "but the file has"),
        (gguf([("general.alignment", U32, 0)], []), "alignment is 0"),
        (gguf([("general.alignment", STRING, "x")], []), "alignment is 'x'"),
    ],
)
def test_a_gguf_that_cannot_be_is_refused(start: bytes, words: str) -> None:
    with pytest.raises(BadHeader, match=words):
        parse_gguf(start, len(start) + 100)


def test_a_gguf_header_without_end_is_given_up(tmp_path: Path) -> None:
    header = HEAD + struct.pack("<QQ", 0, 9000) + text("k") + struct.pack("<IIQ", ARRAY, U8, 80 * MIB)
    with pytest.raises(BadHeader, match="more than 64"):
        read_gguf(gguf_file(tmp_path / "m.gguf", header, 100 * MIB))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_changed_bytes_of_a_gguf_never_raise_anything_else(data: st.DataObject) -> None:
    """The oracle: an accepted header's tensors still lie within the file, apart from each other."""
    raw = bytearray(gguf())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    size = len(raw) + DATA_BYTES
    try:
        found: GgufHeader = parse_gguf(bytes(raw), size)
    except (BadHeader, NeedMore):
        return
    assert sum(tensor.size_bytes for tensor in found.tensors) <= size - found.header_bytes


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=200))
def test_bytes_of_anything_are_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "m"
    path.write_bytes(raw)
    for read in (read_safetensors, read_gguf):
        with pytest.raises(BadHeader):
            read(path)
