"""The parameters that several tools share, each described once."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from vllm_mcp_protocol.model import LoadOptions

ModelName = Annotated[
    str,
    Field(min_length=1, max_length=400, description="Hugging Face id such as Qwen/Qwen3-0.6B, or a local folder"),
]
LoadedName = Annotated[
    str, Field(min_length=1, max_length=400, description="Model id, served name or engine id, as list-models shows")
]
WaitSeconds = Annotated[
    float, Field(ge=0, le=3600, description="Answer after so many seconds at the latest; the work goes on. 0: at once")
]
DryRun = Annotated[bool, Field(description="Only show what would be done")]

TensorParallel = Annotated[int | None, Field(ge=1, le=64, description="GPUs that share each layer")]
PipelineParallel = Annotated[int | None, Field(ge=1, le=64, description="Groups of layers, each on its own GPUs")]
MemoryUtilization = Annotated[
    float | None, Field(gt=0, le=1, description="Share of each GPU's memory that the engine may take")
]
MaxModelLen = Annotated[
    int | None, Field(ge=1, le=100_000_000, description="Context window, tokens (default: the model's own)")
]
Quantization = Annotated[
    str | None,
    Field(max_length=40, pattern=r"^[\w.-]+$", description="Method such as fp8 or awq (default: the checkpoint's)"),
]
Dtype = Annotated[
    Literal["auto", "half", "float16", "bfloat16", "float", "float32"] | None,
    Field(description="Type of weights and activations"),
]
EnforceEager = Annotated[bool | None, Field(description="No CUDA graphs: starts sooner, answers slower")]
PrefixCaching = Annotated[bool | None, Field(description="Reuse the KV cache of equal beginnings")]
MaxNumSeqs = Annotated[int | None, Field(ge=1, le=100_000, description="Most requests computed at once")]
MaxBatchedTokens = Annotated[int | None, Field(ge=1, le=100_000_000, description="Most tokens computed in one step")]
KvCacheDtype = Annotated[
    str | None, Field(max_length=40, pattern=r"^[\w.-]+$", description="Type of the KV cache, e.g. fp8")
]
GpuIds = Annotated[
    list[Annotated[int, Field(ge=0, le=1023)]] | None,
    Field(max_length=64, description="Exactly these GPUs, by NVML index (default: the emptiest)"),
]
ServedName = Annotated[
    str | None, Field(min_length=1, max_length=200, description="Name in requests (default: model_id)")
]
Revision = Annotated[
    str | None,
    Field(min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="Branch, tag or commit of the model"),
]
TrustRemoteCode = Annotated[bool, Field(description="Run Python code of the repository; only if the user agreed")]
ExtraArgs = Annotated[
    list[Annotated[str, Field(max_length=1000)]] | None,
    Field(max_length=100, description="More vLLM flags, e.g. ['--max-lora-rank', '64']; unsafe ones are refused"),
]
Profile = Annotated[Literal["balanced", "interactivity", "throughput"] | None, Field(description="vLLM's tuning goal")]
EnableLora = Annotated[bool | None, Field(description="Accept LoRA adapters later (load-lora)")]
Port = Annotated[
    int | None,
    Field(ge=1024, le=65535, description="Listen on 127.0.0.1:port for other programs (default: a private socket)"),
]
MakeRoom = Annotated[bool, Field(description="May idle, unpinned models be unloaded for it?")]
AllowSmaller = Annotated[
    bool, Field(description="After out of memory, try once more with a smaller context or KV cache")
]
TtlMinutes = Annotated[float | None, Field(gt=0, le=525_600, description="Unload after so many idle minutes")]
Pin = Annotated[bool, Field(description="Never unload when idle or for make_room")]
Force = Annotated[bool, Field(description="Drop running requests; only if the user agreed")]


def load_options(arguments: Mapping[str, Any]) -> LoadOptions:
    """The options among a tool's arguments (its `locals()`), which have the names of LoadOptions' fields.

    A test holds that the tools that load have every one of them, with the same bounds.
    """
    given = {name: arguments[name] for name in LoadOptions.model_fields}
    return LoadOptions(**{name: value for name, value in given.items() if value is not None})
