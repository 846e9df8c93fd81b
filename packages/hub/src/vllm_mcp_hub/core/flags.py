"""From the options of a load to vLLM's flags, refusing what cannot work before a process is started. Pure.

A bad flag costs vLLM 9 seconds until it says so, a method the checkpoint contradicts half a minute; the files of
the model and the table of flags say it at once, with what to do instead.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from vllm_mcp_hub.core.extra_args import Extras, check_extra_args, parse_flags, written_flags
from vllm_mcp_protocol.errors import (
    BadInput,
    BadQuantization,
    ConflictingFlags,
    ContextTooLong,
    FlagNotSupported,
    ParallelSizeInvalid,
)
from vllm_mcp_protocol.model import LoadOptions, ModelFacts

__all__ = ["DeviceKind", "check_extra_args", "vllm_flags"]

DeviceKind = Literal["cuda", "cpu"]

OPTION_FLAGS: dict[str, str] = {
    "revision": "--revision",
    "trust_remote_code": "--trust-remote-code",
    "tensor_parallel_size": "--tensor-parallel-size",
    "pipeline_parallel_size": "--pipeline-parallel-size",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "max_model_len": "--max-model-len",
    "quantization": "--quantization",
    "dtype": "--dtype",
    "kv_cache_dtype": "--kv-cache-dtype",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "enforce_eager": "--enforce-eager",
    "enable_prefix_caching": "--enable-prefix-caching",
    "enable_lora": "--enable-lora",
    "profile": "--performance-mode",
}
"""Option of a load → vLLM's flag, in the order of the command line. The served name belongs to the address."""

_ONLINE = """fp8 fp8_per_tensor fp8_per_block fp8_per_channel mxfp8 mxfp4 nvfp4_per_token
    int8_per_channel_weight_only experts_int8 bitsandbytes torchao"""
ONLINE_QUANTIZATION = frozenset(_ONLINE.split())
"""Methods that vLLM applies to unquantized weights while it loads them."""

_SAME_METHOD = (
    frozenset({"gptq", "gptq_marlin", "auto_gptq", "auto-round", "inc"}),
    frozenset({"awq", "awq_marlin", "auto_awq"}),
    frozenset({"fp8", "fbgemm_fp8"}),
    frozenset({"mxfp4", "gpt_oss_mxfp4"}),
    frozenset({"modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"}),
)
"""A checkpoint of one method of a family is run by the others."""

_NOT_ON_CPU = {
    "fp8": "vLLM's CPU engine has no kernel for it (static_scaled_fp8_quant fails while the model loads)",
    "fbgemm_fp8": "vLLM's CPU engine has no kernel for it",
    **dict.fromkeys(("fp8_per_tensor", "fp8_per_block", "fp8_per_channel"), "vLLM's CPU engine has no kernel for it"),
    "bitsandbytes": "vLLM's CPU engine does not know the method",
    "gptq_marlin": "Marlin kernels exist for GPUs only",
    "awq_marlin": "Marlin kernels exist for GPUs only",
}
_GRAPH_FLAGS = ("--compilation-config", "--cudagraph-capture-sizes", "--max-cudagraph-capture-size")
_LORA_FLAGS = ("--max-loras", "--max-lora-rank", "--max-cpu-loras", "--lora-dtype", "--lora-target-modules")


def vllm_flags(
    options: LoadOptions, facts: ModelFacts | None, device_kind: DeviceKind, supported: frozenset[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(flags, reasons): the arguments after `vllm serve MODEL`, without address; one sentence per reason.

    `supported` are the flags that the installed vLLM knows; empty: not known. Raises ConflictingFlags,
    FlagNotAllowed, FlagNotSupported, BadQuantization, ParallelSizeInvalid, ContextTooLong, BadInput.
    """
    _check_repeats(options)
    extras = check_extra_args(options.extra_args, supported)
    _check_texts(options)
    _check_conflicts(options, extras)
    if facts is not None:
        check_facts(options, facts, device_kind, extras)
    flags = [token for name, flag in OPTION_FLAGS.items() for token in _option_tokens(name, flag, options)]
    _check_options_supported(flags, supported)
    eager, reasons = _default_eager(options, extras, device_kind)
    return (*flags, *eager, *written_flags(options.extra_args)), (*_asked_reasons(options), *reasons)


def check_facts(options: LoadOptions, facts: ModelFacts, device_kind: DeviceKind, extras: Extras) -> None:
    """Refuse options that the model's own files contradict. Raises BadQuantization, ParallelSizeInvalid,
    ContextTooLong."""
    _check_quantization(options.quantization, facts, device_kind)
    _check_heads(options.tensor_parallel_size or 1, facts)
    limit = facts.context_window
    if options.max_model_len and limit and options.max_model_len > limit and "--hf-overrides" not in extras:
        raise ContextTooLong(
            f"max_model_len={options.max_model_len} is above the {limit} tokens of {facts.model_id}.",
            suggestion=f"load-model with max_model_len={limit} or less, or give another rope "
            "scaling by --hf-overrides in extra_args.",
            parameter="max_model_len",
            value=options.max_model_len,
            limit=limit,
        )


def _check_repeats(options: LoadOptions) -> None:
    given = {re.sub(r"^--no-", "--", token.partition("=")[0].replace("_", "-")) for token in options.extra_args}
    for name, flag in OPTION_FLAGS.items():
        if flag in given and getattr(options, name) not in (None, False):
            raise ConflictingFlags(
                f"{flag} is given in extra_args and by the parameter {name}={getattr(options, name)}.",
                suggestion=f"Keep {name} and leave {flag} out of extra_args.",
                flag=flag,
                parameter=name,
            )


def _check_texts(options: LoadOptions) -> None:
    for name in ("served_model_name", "revision", "quantization", "kv_cache_dtype"):
        text = getattr(options, name) or ""
        if text.startswith("-") or not text.isprintable():
            raise BadInput(
                f"{name}={text!r} cannot begin with a dash or hold control characters.",
                suggestion=f"Give {name} another value, or leave it out.",
                parameter=name,
                value=text,
            )


def _check_conflicts(options: LoadOptions, extras: Extras) -> None:
    for problem, suggestion in _conflicts(options, extras):
        raise ConflictingFlags(problem, suggestion=suggestion)


def _conflicts(options: LoadOptions, extras: Extras) -> Iterator[tuple[str, str]]:
    batch, length, seqs = options.max_num_batched_tokens, options.max_model_len, options.max_num_seqs
    if extras.get("--enable-chunked-prefill") is False and batch and length and batch < length:
        problem = f"max_num_batched_tokens={batch} cannot hold a prompt of max_model_len={length} in one piece"
        yield (
            f"{problem}, and chunked prefill is off.",
            f"Set max_num_batched_tokens={length}, or leave chunked prefill on.",
        )
    if batch and seqs and batch < seqs:
        yield (
            f"max_num_batched_tokens={batch} is below max_num_seqs={seqs}.",
            f"Set max_num_batched_tokens={seqs} or more.",
        )
    if options.enforce_eager and (graph := next((flag for flag in _GRAPH_FLAGS if flag in extras), None)):
        yield (
            f"enforce_eager=true switches off what {graph} configures.",
            f"Leave out enforce_eager or {graph}.",
        )
    if not options.enable_lora and (lora := next((flag for flag in _LORA_FLAGS if flag in extras), None)):
        yield f"{lora} has no effect without enable_lora=true.", f"Set enable_lora=true, or leave out {lora}."
    if extras.get("--enable-auto-tool-choice") and "--tool-call-parser" not in extras:
        yield (
            "--enable-auto-tool-choice needs --tool-call-parser.",
            "Add --tool-call-parser with the model's parser.",
        )
    if "--speculative-config" in extras and {"--spec-model", "--spec-method", "--spec-tokens"} & extras.keys():
        yield (
            "--speculative-config and --spec-… say the same thing twice.",
            "Keep --speculative-config alone.",
        )


def _check_quantization(asked: str | None, facts: ModelFacts, device_kind: DeviceKind) -> None:
    own = facts.quantization
    method = asked or own
    if device_kind == "cpu" and method in _NOT_ON_CPU and (asked or method == "bitsandbytes"):
        raise _bad_quantization(
            f"quantization {method} does not run on this host's cpu device: {_NOT_ON_CPU[method]}.",
            "load-model without quantization, or an AWQ, GPTQ or compressed-tensors checkpoint."
            if asked
            else "Choose a checkpoint that is not quantized with bitsandbytes.",
            asked,
            facts,
        )
    if asked is None or asked == own or any({asked, own} <= family for family in _SAME_METHOD):
        return
    if own is not None:
        raise _bad_quantization(
            f"quantization={asked} contradicts {facts.model_id}, whose weights are quantized with {own}.",
            f"load-model without quantization: vLLM reads {own} from the model's config.",
            asked,
            facts,
        )
    if asked not in ONLINE_QUANTIZATION and not _config_unread(facts):
        raise _bad_quantization(
            f"quantization={asked} needs weights made with it; those of {facts.model_id} are not.",
            f"load-model a checkpoint made with {asked}, or one of {', '.join(sorted(ONLINE_QUANTIZATION))}, "
            "which quantize while loading.",
            asked,
            facts,
        )


def _config_unread(facts: ModelFacts) -> bool:
    return not facts.architectures and facts.model_type is None


def _bad_quantization(message: str, suggestion: str, asked: str | None, facts: ModelFacts) -> BadQuantization:
    return BadQuantization(
        message, suggestion=suggestion, parameter="quantization", value=asked, checkpoint=facts.quantization
    )


def _check_heads(tensor_parallel_size: int, facts: ModelFacts) -> None:
    heads = facts.attention_heads
    if not heads or heads % tensor_parallel_size == 0:
        return
    divisors = [size for size in range(1, min(heads, 64) + 1) if heads % size == 0]
    raise ParallelSizeInvalid(
        f"tensor_parallel_size={tensor_parallel_size} does not divide the {heads} attention heads of {facts.model_id}.",
        suggestion=f"load-model with tensor_parallel_size one of {', '.join(map(str, divisors))}.",
        parameter="tensor_parallel_size",
        value=tensor_parallel_size,
        attention_heads=heads,
        allowed=divisors,
    )


def _option_tokens(name: str, flag: str, options: LoadOptions) -> tuple[str, ...]:
    value = getattr(options, name)
    if value is None or (name == "trust_remote_code" and not value):
        return ()
    if isinstance(value, bool):
        return (flag,) if value else (f"--no-{flag[2:]}",)
    return (flag, str(value))


def _check_options_supported(flags: Sequence[str], supported: frozenset[str]) -> None:
    by_flag = {flag: name for name, flag in OPTION_FLAGS.items()}
    for flag in parse_flags(flags):
        if supported and flag not in supported:
            name = by_flag.get(flag.replace("--no-", "--", 1), "")
            raise FlagNotSupported(
                f"The installed vLLM has no flag {flag}, which {name} needs.",
                suggestion=f"load-model without {name}, or install a newer vLLM.",
                flag=flag,
                parameter=name,
            )


def _default_eager(
    options: LoadOptions, extras: Extras, device_kind: DeviceKind
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if device_kind != "cpu" or options.enforce_eager is not None or any(flag in extras for flag in _GRAPH_FLAGS):
        return (), ()
    return ("--enforce-eager",), (
        "enforce_eager: on the cpu device compiling makes a start 7 s longer (28 s against 21 s here); "
        "enforce_eager=false compiles.",
    )


def _asked_reasons(options: LoadOptions) -> tuple[str, ...]:
    asked = [f"{name}={getattr(options, name)}" for name in OPTION_FLAGS if getattr(options, name) not in (None, False)]
    asked += [" ".join(options.extra_args)] if options.extra_args else []
    return (f"Given: {', '.join(asked)}.",) if asked else ()
