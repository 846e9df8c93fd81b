"""How many parameters the tensors of a checkpoint hold, also where they are packed. Pure.

A quantized checkpoint stores several parameters in one element and adds tensors that are none (scales, zero points).
What is packed how is told by the names and shapes that the tools write:

| tool | tensors of one layer | parameters |
|---|---|---|
| GPTQ | `qweight` I32 [in·bits/32, out], `qzeros`, `scales` [groups, out], `g_idx` [in] | in × out |
| AWQ | `qweight` I32 [in, out·bits/32], `qzeros`, `scales` [groups, out] | in × out |
| bitsandbytes 4 bit | `weight` U8 [n, 1], `weight.quant_state.bitsandbytes__nf4`, `weight.absmax`, … | 2 per byte |
| bitsandbytes 8 bit | `weight` I8, `SCB` | 1 per byte |
| FP8 | `weight` F8_E4M3, `weight_scale` or `weight_scale_inv` | 1 per byte |
| MXFP4 (gpt-oss) | `…_blocks` U8 [.., groups, 16], `…_scales` | 2 per byte |
| NVFP4, MXFP4 (ModelOpt, Quark) | `weight` U8, `weight_scale` for each 16 or 32 parameters | 2 per byte |
| NVFP4 (compressed-tensors) | `weight_packed` U8, `weight_scale` | 2 per byte |
| compressed-tensors INT | `weight_packed` I32, `weight_scale`, `weight_shape` | 32 / bits, by config.json |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_mcp_protocol.weights.headers import Tensor

_PLAIN = {"F64", "F32", "F16", "BF16", "C64"}
_FLOAT8 = {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
_ALWAYS_EXTRA = (
    *(".input_scale", ".input_scale_inv", ".output_scale", ".k_scale", ".v_scale", ".q_scale", ".activation_scale"),
    *(".input_global_scale", ".input_zero_point", ".g_idx", ".qzeros", ".weight_shape", ".weight_g_idx"),
    *(".weight_zero_point", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format"),
    *("position_ids", ".num_batches_tracked", ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"),
)
"""Endings of names of tensors that hold no parameters."""
_SCALE_ENDINGS = ("_scale_inv", "_scale_2", "_global_scale", "_scales", "_scale")
_FOUR_BIT_BLOCKS = (16, 32)
"""Parameters that share a scale: NVFP4, MXFP4."""


@dataclass(frozen=True, slots=True)
class Count:
    """Parameters of a checkpoint."""

    parameters: int
    note: str
    """What was counted, where it is not simply every element; empty when it is."""
    quantization: str | None
    """How most of the packed parameters are stored: `GPTQ 4-bit`, `FP8`, `NVFP4`, …; None: nothing is packed."""


@dataclass(slots=True)
class _Tally:
    packed: dict[str, int] = field(default_factory=dict)
    """Parameters by kind of packing."""
    plain: int = 0
    extra_tensors: int = 0
    unknown: int = 0
    """Elements of whole-number tensors of no known packing."""

    def add(self, kind: str, parameters: int) -> None:
        self.packed[kind] = self.packed.get(kind, 0) + parameters


def count_parameters(tensors: Sequence[Tensor], packed_bits: int | None = None) -> Count:
    """Parameters of all tensors of a checkpoint.

    `packed_bits` is the size of one parameter in `weight_packed` tensors, which only config.json tells.
    """
    tally = _Tally()
    if all(tensor.dtype in _PLAIN for tensor in tensors):
        return Count(sum(tensor.elements for tensor in tensors), "", None)
    by_name = {tensor.name: tensor for tensor in tensors}
    for tensor in tensors:
        _count(tensor, by_name, packed_bits, tally)
    kinds = sorted(tally.packed, key=lambda kind: -tally.packed[kind])
    parameters = tally.plain + tally.unknown + sum(tally.packed.values())
    return Count(parameters, _note(tally), kinds[0] if kinds else None)


def _count(tensor: Tensor, by_name: Mapping[str, Tensor], packed_bits: int | None, tally: _Tally) -> None:
    if _is_extra(tensor, by_name):
        tally.extra_tensors += 1
    elif tensor.dtype in _PLAIN:
        tally.plain += tensor.elements
    elif tensor.dtype in _FLOAT8:
        tally.add("FP8", tensor.elements)
    elif tensor.dtype == "F4":
        tally.add("FP4", tensor.elements)
    elif found := _packed(tensor, by_name, packed_bits):
        tally.add(*found)
    else:
        tally.unknown += tensor.elements


def _is_extra(tensor: Tensor, by_name: Mapping[str, Tensor]) -> bool:
    name = tensor.name
    if name.endswith(_ALWAYS_EXTRA):
        return True
    if name.endswith(".scales"):
        return f"{name.removesuffix('scales')}qweight" in by_name
    ending = next((ending for ending in _SCALE_ENDINGS if name.endswith(ending)), None)
    if ending is None:
        return False
    owner = name.removesuffix(ending)
    owners = (by_name.get(owner), by_name.get(f"{owner}_packed"), by_name.get(f"{owner}_blocks"))
    return any(found is not None and found.dtype not in _PLAIN for found in owners)


def _packed(tensor: Tensor, by_name: Mapping[str, Tensor], packed_bits: int | None) -> tuple[str, int] | None:
    """How a tensor of whole numbers is packed, and its parameters; None when it cannot be told."""
    name = tensor.name
    if name.endswith(".qweight"):
        return _packed_in_words(tensor, name.removesuffix("qweight"), by_name)
    if name.endswith("_packed") and tensor.dtype == "U8":
        return "NVFP4", 2 * tensor.elements
    if name.endswith("_packed") and packed_bits:
        return f"INT{packed_bits}", tensor.elements * (32 // packed_bits)
    if name.endswith("_blocks") and tensor.dtype == "U8" and tensor.shape[-1:] == (16,):
        return "MXFP4", 2 * tensor.elements
    return _packed_in_bytes(tensor, by_name)


def _packed_in_words(tensor: Tensor, owner: str, by_name: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """GPTQ packs along the rows, AWQ along the columns: the scales have the true number of columns."""
    scales, zeros, order = (by_name.get(owner + name) for name in ("scales", "qzeros", "g_idx"))
    if scales is None or len(tensor.shape) != 2 or len(scales.shape) != 2 or not all(tensor.shape + scales.shape):
        return None
    (rows, columns), outputs = tensor.shape, scales.shape[1]
    if columns != outputs:
        return f"AWQ {32 * columns // outputs}-bit", rows * outputs
    if order is not None and order.elements:
        return f"GPTQ {32 * rows // order.elements}-bit", order.elements * outputs
    bits = 32 * zeros.shape[1] // outputs if zeros is not None and len(zeros.shape) == 2 else 0
    return (f"GPTQ {bits}-bit", rows * 32 // bits * outputs) if bits else None


def _packed_in_bytes(tensor: Tensor, by_name: Mapping[str, Tensor]) -> tuple[str, int] | None:
    name, elements = tensor.name, tensor.elements
    if any(f"{name}.quant_state.bitsandbytes__{kind}" in by_name for kind in ("nf4", "fp4")):
        return "bitsandbytes 4-bit", 2 * elements
    if tensor.dtype == "I8" and f"{name.removesuffix('weight')}SCB" in by_name:
        return "bitsandbytes 8-bit", elements
    scale = by_name.get(f"{name}_scale")
    if tensor.dtype == "I8":
        return ("INT8", elements) if scale is not None else None
    if tensor.dtype == "U8" and scale is not None:
        for block in _FOUR_BIT_BLOCKS:
            if 2 * elements == block * scale.elements:
                return ("NVFP4" if block == _FOUR_BIT_BLOCKS[0] else "MXFP4"), 2 * elements
    return None


def _note(tally: _Tally) -> str:
    parts = [f"{kind} counted unpacked" for kind in sorted(tally.packed) if kind not in ("FP8", "INT8")]
    if tally.extra_tensors:
        parts.append(f"{tally.extra_tensors} tensors of scales, zero points and positions not counted")
    if tally.unknown:
        parts.append(f"{tally.unknown} elements of whole numbers counted as they are: how they are packed is not known")
    return "; ".join(parts)
