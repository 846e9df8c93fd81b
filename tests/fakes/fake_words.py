"""What vLLM 0.32 writes to its log, for the fake: the lines of a start, and the words of failed ones.

Taken from recorded runs; CUDA lines from the messages in vLLM's source.
"""

import sys
import time
from collections.abc import Callable, Iterable

CORE_FAILED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
NO_ROOM_FOR_CONTEXT = (
    "ValueError: To serve at least one request with the model's max seq len ({asked}), (16.0 GiB KV cache is "
    "needed, which is larger than the available KV cache memory (7.3 GiB). Based on the available memory, the "
    "estimated maximum model length is {fits}. Try increasing `gpu_memory_utilization` (which also controls "
    "CPU memory on the CPU backend) or decreasing `max_model_len` when initializing the engine. See "
    "https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
)
_CUDA_OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of "
    "23.64 GiB of which 1.20 GiB is free. Including non-PyTorch memory, this process has 22.43 GiB memory in "
    "use. Of the allocated memory 22.01 GiB is allocated by PyTorch, and 12.44 MiB is reserved by PyTorch but "
    "unallocated."
)
_INPUT = "[type=value_error, input_value=ArgsKwargs((), {'model': ...nderer_num_workers': 1}), input_type=ArgsKwargs]"

CONFIG_ERRORS = {
    "bad_quantization": (
        "Unknown quantization method: foo. Must be one of ['awq', 'auto_awq', 'fp8', 'gptq', 'torchao']."
    ),
    "quantization_mismatch": "Cannot find the config file for awq",
    "unsupported_architecture": (
        "The checkpoint you are trying to load has model type `nope` but Transformers does not recognize this "
        "architecture. This could be because of an issue with the checkpoint, or because your version of "
        "Transformers is out of date."
    ),
    "context_too_long": (
        "User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json). To allow overriding "
        "this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
    ),
    "parallel_size": ("Total number of attention heads (4) must be divisible by tensor parallel size (3)."),
    "sleep_mode": "Sleep mode is not supported on current platform.",
    "no_config": "Invalid repository ID or local directory specified: '/models/empty'.",
}
"""Refused while vLLM reads the configuration: a pydantic error, its text on the next line."""

PLAIN_ERRORS = {
    "no_tokenizer": "ValueError: Couldn't instantiate the backend tokenizer from one of: ",
    "model_not_found": (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for "
        "the specified revision on the local disk and outgoing traffic has been disabled. To enable repo "
        "look-ups and downloads online, pass 'local_files_only=False' as input."
    ),
    "gated": (
        "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
        "https://huggingface.co/org/gated.\n401 Client Error. (Request ID: Root=1)\n\nCannot access gated repo "
        "for url https://huggingface.co/org/gated/resolve/main/config.json.\nAccess to model org/gated is "
        "restricted. You must have access to it and be authenticated to access it. Please log in."
    ),
}
"""A traceback of the API server that ends in this."""

CORE_ERRORS = {
    "oom": _CUDA_OUT_OF_MEMORY,
    "no_weights": "RuntimeError: Cannot find any model weights with `/models/no_weights`",
    "truncated_safetensors": (
        "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: invalid header length"
    ),
    "kv_space": (
        "ValueError: Available memory on node 0 (13.75/15.09 GiB) on kv cache allocation is less than requested "
        "memory for kv (100.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU "
        "memory used by other processes."
    ),
    "memory_held": (
        "ValueError: Free memory on device cuda:0 (1.2/23.64 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 21.75 GiB). Decrease GPU memory utilization or reduce GPU memory used by other "
        "processes."
    ),
}
"""The cause stands in a line of the engine core, above the API server's traceback."""

PORT_IN_USE = "OSError: [Errno 98] Address already in use"

Say = Callable[[str], None]


def say(line: str) -> None:
    """One line of the log; vLLM writes both streams to the same place under the suite."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _line(process: str, pid: int, level: str, source: str, text: str) -> None:
    stamp = time.strftime("%m-%d %H:%M:%S")
    say(f"({process} pid={pid}) {level} {stamp} [{source}] {text}")


def api_line(pid: int, source: str, text: str, level: str = "INFO") -> None:
    _line("APIServer", pid, level, source, text)


def core_line(pid: int, source: str, text: str, level: str = "INFO") -> None:
    _line("EngineCore", pid, level, source, text)


def traceback_ending_in(last: str) -> None:
    say("Traceback (most recent call last):")
    say('  File "/env/bin/vllm", line 10, in <module>')
    say("    sys.exit(main())")
    say("             ^^^^^^")
    say(last)


def config_error(text: str) -> None:
    traceback_ending_in("pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig")
    say(f"  Value error, {text} {_INPUT}")
    say("    For further information visit https://errors.pydantic.dev/2.14/v/value_error")


def core_error(pid: int, text: str) -> None:
    core_line(pid, "core.py:1510", "EngineCore failed to start.", "ERROR")
    core_line(pid, "core.py:1510", "Traceback (most recent call last):", "ERROR")
    for line in text.splitlines():
        core_line(pid, "core.py:1510", line, "ERROR")
    traceback_ending_in(CORE_FAILED)


def usage_error(text: str) -> None:
    say("usage: vllm [-h] [-v]")
    say(f"vllm: error: {text}")


def banner(pid: int, model: str, version: str, max_model_len: int) -> None:
    api_line(pid, "api_utils.py:347", f"       version {version}")
    api_line(pid, "api_utils.py:347", f"       model   {model}")
    api_line(pid, "model.py:733", "Resolved architecture: LlamaForCausalLM")
    api_line(pid, "model.py:2152", f"Using max model len {max_model_len}")


def loading_steps(core: int, version: str, model: str) -> Iterable[Callable[[], None]]:
    """The lines between the engine core's birth and its weights being there, one step each."""
    yield lambda: core_line(
        core, "core.py:133", f"Initializing a V1 LLM engine (v{version}) with config: model='{model}'"
    )
    yield lambda: core_line(core, "cpu_model_runner.py:68", f"Starting to load model {model}...")
    yield lambda: say("Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00, 117.26it/s]")
    yield lambda: core_line(core, "default_loader.py:501", "Loading weights took 0.01 seconds")


def cuda_steps(core: int) -> Iterable[Callable[[], None]]:
    yield lambda: core_line(
        core, "gpu_model_runner.py:5150", "Model loading took 14.99 GiB memory and 4.212345 seconds"
    )
    yield lambda: core_line(core, "gpu_worker.py:760", "Available KV cache memory: 3.21 GiB")
    yield lambda: core_line(core, "gpu_model_runner.py:6582", "Graph capturing finished in 12 secs, took 0.55 GiB")


def warmed_up(core: int, device: str, tokens: int, max_model_len: int) -> None:
    times = tokens / max_model_len
    core_line(
        core,
        "kv_cache_utils.py:2327",
        f"{device} KV cache size: {tokens:,} tokens, Maximum concurrency for {max_model_len:,} tokens per "
        f"request: {times:.2f}x",
    )
    core_line(core, "core.py:402", "init engine (profile, create kv cache, warmup model) took 0.45 s")


def serving(pid: int, address: str) -> None:
    api_line(pid, "entry.py:136", "Supported tasks: ['generate']")
    api_line(pid, "entry.py:140", f"Starting vLLM server on {address}")
    api_line(pid, "launcher.py:186", "Available routes are:")
    say(f"INFO:     Started server process [{pid}]")
    say("INFO:     Waiting for application startup.")
    say("INFO:     Application startup complete.")


def shut_down(pid: int) -> None:
    api_line(pid, "launcher.py:279", "[shutdown] API server: engine client stopped")
    api_line(pid, "launcher.py:304", "[shutdown] API server: shutting down FastAPI HTTP server")
    for line in ("Shutting down", "Waiting for application shutdown.", "Application shutdown complete."):
        say(f"INFO:     {line}")
