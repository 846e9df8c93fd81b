"""Why engines fail, as a table: vLLM's words → stable code, numbers, next step. Pure.

The words are those of vLLM 0.32 and of the libraries it calls. A rule's numbers come from the named groups of its
pattern; its next step is filled in from them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_mcp_protocol import errors as e

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Cause:
    """One kind of failure. `step` may name the groups of `words` in braces, or be made from the numbers."""

    code: type[e.SuiteError]
    words: re.Pattern[str]
    step: str | Callable[[Numbers], str]
    derive: Callable[[Numbers], Numbers] | None = None
    """Further numbers from those that were printed."""

    def read(self, text: str) -> tuple[Numbers, str] | None:
        """(numbers, next step) when `text` has this cause."""
        found = self.words.search(text)
        if found is None:
            return None
        numbers = {name: _number(value) for name, value in found.groupdict().items() if value is not None}
        if self.derive is not None:
            numbers |= self.derive(numbers)
        return numbers, self.step.format_map(_Shown(numbers)) if isinstance(self.step, str) else self.step(numbers)


class _Shown(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return key.rpartition("_")[2]


def _number(text: str) -> Any:
    plain = text.replace(",", "")
    if re.fullmatch(r"-?\d+", plain):
        return int(plain)
    return float(plain) if re.fullmatch(r"-?\d+\.\d+", plain) else text.strip().rstrip(".")


def _when(words: str) -> re.Pattern[str]:
    r"""`[\d.]+` and `\d+` stand for a decimal and a whole number, no longer than arithmetic can take."""
    bounded = words.replace(r"[\d.]+", r"[0-9]{1,9}(?:\.[0-9]{1,9})?").replace(r"\d+", r"[0-9]{1,18}")
    return re.compile(bounded, re.IGNORECASE | re.DOTALL)


def _estimate(numbers: Numbers) -> Numbers:
    """vLLM's estimate of the context that fits, else one from the proportion, rounded down."""
    needed, available = float(numbers["needed_gib"]), float(numbers["available_gib"])
    if "estimated_max_model_len" in numbers or needed < 0.1 or available <= 0:
        return {}
    fits = int(numbers["max_model_len"] * 0.95 * available / needed) // 16 * 16
    return {"estimated_max_model_len": fits} if fits else {}


def _shorter_context(numbers: Numbers) -> str:
    other = "a larger gpu_memory_utilization, or a larger --kv-cache-memory-bytes in extra_args"
    fits = numbers.get("estimated_max_model_len")
    if fits:
        return f"load-model with max_model_len={fits}, {other}."
    return f"load-model with a smaller max_model_len, {other}."


def _fraction(numbers: Numbers) -> Numbers:
    """The share of the device that is free now, less 2 % for what changes meanwhile."""
    free_percent = float(numbers["free_gib"]) / max(float(numbers["total_gib"]), 1e-9) * 100
    return {"usable_fraction": min(100, max(1, int(free_percent - 2))) / 100}


def _in_gib(numbers: Numbers) -> Numbers:
    sizes: Numbers = {}
    for name in ("needed", "free"):
        if f"{name}_size" in numbers:
            size = float(numbers[f"{name}_size"])
            sizes[f"{name}_gib"] = round(size / 1024, 3) if numbers.get(f"{name}_unit") == "MiB" else size
    return sizes


def _divisors(numbers: Numbers) -> Numbers:
    heads = int(numbers["attention_heads"])
    return {"allowed": [size for size in range(1, min(heads, 64) + 1) if heads % size == 0]}


_OOM = e.EngineOutOfMemory
_GET = "download-model it first, or name a model that discover-models lists."

CAUSES: tuple[Cause, ...] = (
    # -- memory
    Cause(
        _OOM,
        _when(
            r"max seq len \((?P<max_model_len>\d+)\), \((?P<needed_gib>[\d.]+) GiB KV cache is needed, which is larger "
            r"than the available KV cache memory \((?P<available_gib>[\d.]+) GiB\)"
            r"(?:.*?estimated maximum model length is (?P<estimated_max_model_len>\d+))?"
        ),
        _shorter_context,
        _estimate,
    ),
    Cause(
        _OOM,
        _when(r"No available memory for the cache blocks"),
        "load-model with a larger gpu_memory_utilization, more tensor_parallel_size, or a smaller or quantized model.",
    ),
    Cause(
        e.GpuMemoryHeld,
        _when(
            r"(?:Free memory on device \S*|Available memory on node \S+)\s*"
            r"\((?P<free_gib>[\d.]+)/(?P<total_gib>[\d.]+) GiB\) "
            r"on startup is less than .*?\((?P<utilization>[\d.]+), (?P<needed_gib>[\d.]+) GiB\)"
        ),
        "load-model with gpu_memory_utilization={usable_fraction}, or end the processes that hold the memory.",
        _fraction,
    ),
    Cause(
        _OOM,
        _when(
            r"Available memory on node \S+ \((?P<free_gib>[\d.]+)/(?P<total_gib>[\d.]+) GiB\) "
            r"on kv cache allocation is less than requested memory for kv \((?P<needed_gib>[\d.]+)"
        ),
        "load-model with a smaller max_model_len or max_num_seqs, or with --kv-cache-memory-bytes in extra_args "
        "below {free_gib} GiB.",
    ),
    Cause(
        _OOM,
        _when(r"out of memory.* warming up sampler with (?P<max_num_seqs>\d+) dummy requests"),
        "load-model with a max_num_seqs below {max_num_seqs}, or a smaller gpu_memory_utilization.",
    ),
    Cause(
        _OOM,
        _when(
            r"(?:CUDA|HIP|XPU) (?:error: )?out of memory"
            r"(?:.*?Tried to allocate (?P<needed_size>[\d.]+) (?P<needed_unit>[GM]iB))?"
            r"(?:.*?total capacity of (?P<total_gib>[\d.]+) GiB)?"
            r"(?:.*?of which (?P<free_size>[\d.]+) (?P<free_unit>[GM]iB) is free)?"
        ),
        "load-model with a smaller max_model_len or max_num_seqs, more tensor_parallel_size, or a quantized model.",
        _in_gib,
    ),
    Cause(
        _OOM,
        _when(r"DefaultCPUAllocator: .*allocate|^MemoryError|Cannot allocate memory|std::bad_alloc"),
        "unload-model another engine, or load-model a smaller model or a smaller max_model_len.",
    ),
    # -- what the model is, against what was asked
    Cause(
        e.ContextTooLong,
        _when(
            r"User-specified max_model_len \((?P<max_model_len>\d+)\) is greater than the derived max_model_len "
            r"\(\w+=(?P<limit>\d+)"
        ),
        "load-model with max_model_len={limit} or less.",
    ),
    Cause(
        e.ParallelSizeInvalid,
        _when(
            r"attention heads \((?P<attention_heads>\d+)\) must be divisible by tensor parallel size "
            r"\((?P<tensor_parallel_size>\d+)\)"
        ),
        "load-model with a tensor_parallel_size of {allowed}.",
        _divisors,
    ),
    Cause(
        e.BadQuantization,
        _when(
            r"in the model config \((?P<checkpoint>[\w-]+)\) does not match the quantization method specified in the "
            r"`quantization` argument \((?P<asked>[\w-]+)\)"
        ),
        "load-model without quantization: vLLM reads {checkpoint} from the model's config.",
    ),
    Cause(
        e.BadQuantization,
        _when(r"Unknown quantization method: (?P<asked>[\w-]+)"),
        "load-model without quantization, or with a method that this vLLM knows for this device.",
    ),
    Cause(
        e.BadQuantization,
        _when(r"Cannot find the config file for (?P<asked>[\w-]+)"),
        "load-model without quantization, or a checkpoint that was made with {asked}.",
    ),
    Cause(
        e.BadQuantization,
        _when(r"(?:static_scaled_fp8_quant|fp8\w*)\(\) expected at most 0 argument"),
        "load-model without quantization: fp8 has no kernels on the cpu device.",
    ),
    Cause(
        e.BadQuantization,
        _when(
            r"quantization method (?P<asked>\S+) is not supported for the current GPU|"
            r"\b(?P<method>\w{1,60}) quantization is currently not supported"
        ),
        "load-model a checkpoint of another quantization, or use another GPU.",
    ),
    Cause(
        e.BadInput,
        _when(r"(?P<dtype>b?float16) is (?:only supported on|not supported for)"),
        "load-model with another dtype (float16 where bfloat16 is refused, and the other way round).",
    ),
    Cause(
        e.UnsupportedArchitecture,
        _when(r"model type `(?P<model_type>[\w.-]+)` but Transformers does not recognize"),
        "Update the engine (`vllm-mcp engine install`), or load-model a model of an architecture that it knows.",
    ),
    Cause(
        e.UnsupportedArchitecture,
        _when(
            r"(?:Model architectures \[(?P<architecture>[^\]]*)\] (?:are not supported|failed to be inspected))|"
            r"has no vLLM implementation|Cannot find model module"
        ),
        "Update the engine (`vllm-mcp engine install`), or load-model a model of an architecture that it knows.",
    ),
    Cause(
        e.EngineFailed,
        _when(r"custom code which must be executed|trust_remote_code=True|allow custom code to be run"),
        "If you trust the model's authors: load-model with trust_remote_code=true.",
    ),
    Cause(
        e.ConflictingFlags,
        _when(r"\b(?P<kind>\w{1,60}) models do not support `--runner (?P<runner>\w+)`"),
        "load-model without --runner in extra_args.",
    ),
    # -- where the model comes from
    Cause(
        e.ModelNotFound,
        _when(r"RepositoryNotFoundError|Repository Not Found|is not a valid model identifier"),
        "Check model_id with discover-models; a private repository needs HF_TOKEN.",
    ),
    Cause(
        e.GatedRepository,
        _when(r"GatedRepoError|gated repo|is restricted\.|\b40[13] Client Error"),
        "Accept the model's licence on its page on the Hugging Face Hub, set HF_TOKEN to a token of that account, "
        "then load-model again.",
    ),
    Cause(
        e.ModelNotFound,
        _when(r"RevisionNotFoundError|not a valid git identifier"),
        "load-model without revision, or with one that the repository has.",
    ),
    Cause(e.ModelNotFound, _when(r"outgoing traffic has been disabled|offline mode is enabled"), _GET),
    Cause(
        e.ModelNotFound,
        _when(r"couldn't connect to '(?P<hub>[^']+)'|trying to locate the file(?:s)? on the Hub"),
        f"Check the network (HF_ENDPOINT, proxy); or {_GET}",
    ),
    Cause(
        e.ModelNotFound,
        _when(r"Repo id must (?:be in the form|use alphanumeric)[^']*'[^']*'(?: or '[^']*')*: '?(?P<given>[^']+)'?"),
        "Give model_id as organization/name, or as the path of a folder that exists on this host.",
    ),
    # -- its files
    Cause(
        e.BadCheckpoint,
        _when(r"Invalid repository ID or local directory specified: '(?P<path>[^']+)'"),
        "The folder needs a config.json (Hugging Face) or params.json (Mistral): verify-cache, then download-model.",
    ),
    Cause(
        e.BadCheckpoint,
        _when(r"Couldn't instantiate the backend tokenizer|Can't load tokenizer|Unable to load vocabulary"),
        "The tokenizer's files are missing: verify-cache, then download-model; or name another with --tokenizer in "
        "extra_args.",
    ),
    Cause(
        e.BadCheckpoint,
        _when(r"Cannot find any model weights with `(?P<path>[^`]+)`"),
        "The weights are missing: verify-cache, then download-model.",
    ),
    Cause(
        e.BadCheckpoint,
        _when(
            r"SafetensorError|Error while deserializing header|PytorchStreamReader failed|file not fully covered|"
            r"is not a valid JSON file|JSONDecodeError|UnpicklingError"
        ),
        "A file is cut short or damaged: verify-cache, then download-model.",
    ),
    Cause(
        e.LoraNotFound,
        _when(r"No adapter found for (?P<path>\S+)|adapter_config\.json"),
        "Check lora_path: its folder must hold adapter_config.json.",
    ),
    # -- this host
    Cause(
        e.PortInUse,
        _when(r"Address already in use|error while attempting to bind"),
        "load-model with another port, or without one: the engine then listens on a private socket.",
    ),
    Cause(e.DiskFull, _when(r"No space left on device|Disk quota exceeded"), "Free disk space, then load-model again."),
    Cause(
        e.TooFewDevices,
        _when(r"Not enough allowed NUMA nodes to bind threads of (?P<workers>\d+) local"),
        "load-model with tensor_parallel_size=1 and pipeline_parallel_size=1, or let the hub set the thread binding.",
    ),
    Cause(
        e.NotSupported,
        _when(r"Sleep mode is not supported on current platform"),
        "Unload the model instead: sleep needs a GPU.",
    ),
    Cause(
        e.NotSupported,
        _when(
            r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|"
            r"driver version is insufficient|driver on your system is too old"
        ),
        "Run `vllm-mcp doctor`: the installed vLLM and this host's devices or driver do not match.",
    ),
    Cause(
        e.VllmNotInstalled,
        _when(r"^cannot run (?P<executable>\S+): |No module named 'vllm'|PackageNotFoundError.*vllm"),
        "Run `vllm-mcp engine install`, or point VLLM_EXECUTABLE to a vllm command.",
    ),
    # -- what was asked
    Cause(
        e.FlagNotSupported,
        _when(r"unrecognized arguments: (?P<flag>\S+)|ambiguous option: (?P<option>\S+)"),
        "Leave it out of extra_args; `vllm serve --help=all` of the installed vLLM lists what it knows.",
    ),
    Cause(
        e.BadInput,
        _when(r"argument (?P<flag>--[\w-]{1,80})(?![\w-])[^:]{0,200}: (?P<problem>.*)"),
        "load-model with a value that {flag} allows.",
    ),
    Cause(
        e.BadInput,
        _when(r"invalid (?P<what>tool call|reasoning) parser: (?P<value>[\w.-]+)"),
        "load-model with one of the parsers that the message lists.",
    ),
    Cause(e.BadInput, _when(r"^ValidationError: "), "load-model with a value that the message allows."),
)
"""In the order in which they are tried: the special before the general."""
