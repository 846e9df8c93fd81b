"""vLLM's own failures, recorded, and what each becomes: code, cause, numbers, next step."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bounded import must_end
from vllm_mcp_hub.core.causes import CAUSES
from vllm_mcp_hub.core.diagnosis import MAX_CAUSE_CHARS, diagnose
from vllm_mcp_hub.core.retry import smaller_request
from vllm_mcp_protocol.errors import ErrorInfo, error_classes
from vllm_mcp_protocol.model import LoadRequest, ModelFacts
from vllm_mcp_protocol.redaction import redact_text

RECORDED = Path(__file__).parent / "data" / "failures"


def found(log: str, *, exit_code: int | None = 1, signal: int | None = None, was_ready: bool = False) -> ErrorInfo:
    return diagnose(log, exit_code=exit_code, signal=signal, was_ready=was_ready, model_id="org/m")


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bad_dtype": ("INVALID_ARGUMENT", "invalid choice: 'int3'", {"flag": "--dtype"}),
    "bad_quantization_name": ("BAD_QUANTIZATION", "Unknown quantization method: foo", {"asked": "foo"}),
    "bad_tool_parser": ("INVALID_ARGUMENT", "invalid tool call parser: nope", {"value": "nope"}),
    "default_kv_space_first_full": (
        "GPU_MEMORY_HELD",
        "Available memory on node 0 (13.61/15.09 GiB)",
        {"free_gib": 13.61, "total_gib": 15.09, "needed_gib": 13.88, "usable_fraction": 0.88},
    ),
    "embedding_model_as_generate": ("CONFLICTING_FLAGS", "Embedding models do not support", {"runner": "generate"}),
    "gpu_mem_util_15": ("INVALID_ARGUMENT", "gpu_memory_utilization Input should be less than or equal to 1", {}),
    "kv_bytes_tiny": (
        "ENGINE_OUT_OF_MEMORY",
        "To serve at least one request",
        {"max_model_len": 1024, "needed_gib": 0.0, "available_gib": 0.0},
    ),
    "kv_default_gpu_mem_util_092": ("GPU_MEMORY_HELD", "desired CPU memory utilization", {"usable_fraction": 0.89}),
    "kv_space_100GiB": ("ENGINE_OUT_OF_MEMORY", "requested memory for kv", {"needed_gib": 100.0, "free_gib": 13.75}),
    "lora_missing": ("LORA_NOT_FOUND", "adapter_config.json", {}),
    "lora_rank_too_big": ("INVALID_ARGUMENT", "invalid choice: 7", {"flag": "--max-lora-rank"}),
    "max_model_len_too_big": (
        "CONTEXT_TOO_LONG",
        "User-specified max_model_len (100000)",
        {"max_model_len": 100000, "limit": 2048},
    ),
    "no_config_json": ("BAD_CHECKPOINT", "Invalid repository ID or local directory", {}),
    "no_tokenizer": ("BAD_CHECKPOINT", "Couldn't instantiate the backend tokenizer", {}),
    "no_weights": ("BAD_CHECKPOINT", "Cannot find any model weights", {}),
    "old_flags_disable_log_requests": (
        "FLAG_NOT_SUPPORTED",
        "unrecognized arguments",
        {"flag": "--disable-log-requests"},
    ),
    "old_flags_swap_space": ("FLAG_NOT_SUPPORTED", "unrecognized arguments", {"flag": "--swap-space"}),
    "port_in_use": ("PORT_IN_USE", "Address already in use", {}),
    "pp2_cpu": ("TOO_FEW_DEVICES", "Not enough allowed NUMA nodes", {"workers": 2}),
    "quantization_awq_unquantized": ("BAD_QUANTIZATION", "Cannot find the config file for awq", {"asked": "awq"}),
    "quantization_bnb": ("BAD_QUANTIZATION", "Unknown quantization method: bitsandbytes", {"asked": "bitsandbytes"}),
    "quantization_fp8_cpu": ("BAD_QUANTIZATION", "static_scaled_fp8_quant", {}),
    "sleep_mode": ("NOT_SUPPORTED", "Sleep mode is not supported", {}),
    "sleep_mode_on_cpu": ("NOT_SUPPORTED", "Sleep mode is not supported", {}),
    "tp2_cpu": ("TOO_FEW_DEVICES", "Not enough allowed NUMA nodes", {"workers": 2}),
    "tp3_not_divisible": (
        "PARALLEL_SIZE_INVALID",
        "must be divisible by tensor parallel size (3)",
        {"attention_heads": 4, "tensor_parallel_size": 3, "allowed": [1, 2, 4]},
    ),
    "truncated_safetensors": ("BAD_CHECKPOINT", "Error while deserializing header", {}),
    "unknown_architecture": ("UNSUPPORTED_ARCHITECTURE", "model type `nope`", {"model_type": "nope"}),
    "unknown_flag": ("FLAG_NOT_SUPPORTED", "unrecognized arguments: --no-such-flag", {"flag": "--no-such-flag"}),
    "unknown_local_path": ("MODEL_NOT_FOUND", "Repo id must be in the form", {"given": "/nonexistent/model"}),
    "unknown_model_offline": ("MODEL_NOT_FOUND", "outgoing traffic has been disabled", {}),
    "unknown_model_online_no_net": ("MODEL_NOT_FOUND", "couldn't connect", {"hub": "https://huggingface.co"}),
}


def test_every_recorded_failure_has_its_case() -> None:
    assert {path.stem for path in RECORDED.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_recorded_failures(name: str) -> None:
    code, words, numbers = CASES[name]
    info = found((RECORDED / f"{name}.txt").read_text())
    assert info.code == code
    assert words in info.details["cause"]
    assert info.message.startswith("org/m did not start: ")
    assert info.suggestion
    assert info.details.items() >= numbers.items()


OUT = "(EngineCore pid=9) ERROR 11-21 01:20:01 [core.py:1510] "
END = "\nRuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"

WORDS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 has a total capacity of 79.15 "
        "GiB of which 512.00 MiB is free. Process 1 has 78.6 GiB memory in use.",
        "ENGINE_OUT_OF_MEMORY",
        {"needed_gib": 0.875, "total_gib": 79.15, "free_gib": 0.5},
        "max_model_len",
    ),
    (
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try "
        "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine.",
        "ENGINE_OUT_OF_MEMORY",
        {"max_num_seqs": 1024},
        "max_num_seqs",
    ),
    ("RuntimeError: CUDA error: out of memory", "ENGINE_OUT_OF_MEMORY", {}, "max_model_len"),
    (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine.",
        "ENGINE_OUT_OF_MEMORY",
        {},
        "gpu_memory_utilization",
    ),
    (
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (5.20 GiB). Based on the available memory, the "
        "estimated maximum model length is 42592. Try increasing `gpu_memory_utilization`",
        "ENGINE_OUT_OF_MEMORY",
        {"estimated_max_model_len": 42592, "needed_gib": 16.0, "available_gib": 5.2, "max_model_len": 131072},
        "max_model_len=42592",
    ),
    (
        "ValueError: To serve at least one request with the model's max seq len (1000), (2.0 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (1.0 GiB). Try",
        "ENGINE_OUT_OF_MEMORY",
        {"estimated_max_model_len": 464},
        "max_model_len=464",
    ),
    (
        "ValueError: Free memory on device cuda:0 (20.50/79.15 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 71.24 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        "GPU_MEMORY_HELD",
        {"free_gib": 20.5, "total_gib": 79.15, "needed_gib": 71.24, "usable_fraction": 0.23},
        "gpu_memory_utilization=0.23",
    ),
    (
        "ValueError: Free memory on device (2.5/24.0 GiB) on startup is less than desired GPU memory utilization "
        "(0.9, 21.6 GiB).",
        "GPU_MEMORY_HELD",
        {"free_gib": 2.5},
        "gpu_memory_utilization=0.08",
    ),
    (
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: x) Cannot access gated repo for url "
        "https://huggingface.co/org/m. Access to model org/m is restricted.",
        "GATED_REPOSITORY",
        {},
        "HF_TOKEN",
    ),
    (
        "OSError: You are trying to access a gated repo. Make sure to have access to it. 403 Client Error.",
        "GATED_REPOSITORY",
        {},
        "HF_TOKEN",
    ),
    (
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. Repository Not Found for url: https://x",
        "MODEL_NOT_FOUND",
        {},
        "HF_TOKEN",
    ),
    (
        "ValueError: Quantization method specified in the model config (awq) does not match the quantization method "
        "specified in the `quantization` argument (gptq).",
        "BAD_QUANTIZATION",
        {"checkpoint": "awq", "asked": "gptq"},
        "without quantization",
    ),
    (
        "ValueError: Model architectures ['FooForCausalLM'] are not supported for now.",
        "UNSUPPORTED_ARCHITECTURE",
        {"architecture": "'FooForCausalLM'"},
        "engine install",
    ),
    ("OSError: [Errno 28] No space left on device", "DISK_FULL", {}, "disk"),
    ("RuntimeError: Failed to infer device type", "NOT_SUPPORTED", {}, "doctor"),
    ("ModuleNotFoundError: No module named 'vllm'", "VLLM_NOT_INSTALLED", {}, "engine install"),
    (
        "ValueError: The repository org/m contains custom code which must be executed to correctly load the model.",
        "ENGINE_START_FAILED",
        {},
        "trust_remote_code=true",
    ),
]


@pytest.mark.parametrize(("words", "code", "numbers", "step"), WORDS, ids=[words[:40] for words, *_ in WORDS])
def test_words_of_gpus_and_of_the_hub(words: str, code: str, numbers: dict[str, Any], step: str) -> None:
    info = found(f"{OUT}Traceback (most recent call last):\n{OUT}{words}{END}")
    assert info.code == code
    assert info.details.items() >= numbers.items()
    assert step in info.suggestion
    assert info.details["cause"].startswith(words.partition(":")[0].rpartition(".")[2])


def test_the_first_cause_wins_over_its_consequences() -> None:
    log = (
        "(Worker pid=3) ERROR 11-21 01:00:00 [x.py:1] OSError: [Errno 28] No space left on device\n"
        f"{OUT}RuntimeError: CUDA error: out of memory{END}"
    )
    assert found(log).code == "DISK_FULL"


def test_an_error_that_is_not_known_is_shown_as_it_is() -> None:
    log = (
        "(Worker pid=3) ERROR 11-21 01:00:00 [x.py:1] KeyError: 'low level'\n"
        "(Worker pid=3) ERROR 11-21 01:00:00 [x.py:1] ZeroDivisionError: a new one\n"
        f"{OUT}RuntimeError: something that follows{END}"
    )
    info = found(log)
    assert (info.code, info.details["cause"]) == ("ENGINE_START_FAILED", "ZeroDivisionError: a new one")


def test_a_calm_exit_is_a_death_when_nobody_asked() -> None:
    """vLLM exits 0 four seconds after EngineCore was killed."""
    log = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above)\n"
    info = found(log, exit_code=0, was_ready=True)
    assert info.code == "ENGINE_DIED"
    assert "exit code 0" in info.message
    assert found("", exit_code=0).code == "ENGINE_START_FAILED"
    assert found("", exit_code=None, was_ready=True).code == "ENGINE_DIED"


@pytest.mark.parametrize(
    ("log", "exit_code", "signal"),
    [
        ("ERROR Worker proc VllmWorker-0 died unexpectedly (exit code: -4), shutting down executor.", 0, None),
        ("", -4, None),
        ("", 132, None),
        ("", None, 4),
        ("Illegal instruction (core dumped)", 0, None),
    ],
)
def test_an_illegal_instruction_names_the_dtype_that_helps(log: str, exit_code: int | None, signal: int | None) -> None:
    info = found(log, exit_code=exit_code, signal=signal, was_ready=True)
    assert info.code == "ENGINE_DIED"
    assert info.details["signal"] == "SIGILL"
    assert "dtype=float16" in info.suggestion


def test_a_kill_names_the_out_of_memory_killer() -> None:
    info = found("", exit_code=-9)
    assert info.code == "ENGINE_START_FAILED"
    assert "out-of-memory killer" in info.suggestion


def test_errors_of_single_requests_are_not_why_an_engine_died() -> None:
    log = "(APIServer pid=1) ERROR 11-21 01:00:00 [x.py:1] ValueError: max seq len is wrong, No space left on device\n"
    assert found(log, exit_code=-9, was_ready=True).details["signal"] == "SIGKILL"


def test_out_of_memory_while_serving_keeps_its_code() -> None:
    info = found(f"{OUT}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", was_ready=True)
    assert info.code == "ENGINE_OUT_OF_MEMORY"
    assert info.message.startswith("org/m died: ")


@pytest.mark.parametrize("exit_code", [126, 127])
def test_a_command_that_cannot_be_run(exit_code: int) -> None:
    assert found("", exit_code=exit_code).code == "VLLM_NOT_INSTALLED"
    assert found("launch: cannot run /x/vllm: Permission denied").details["executable"] == "/x/vllm"


def test_a_diagnosis_can_be_tried_again_smaller() -> None:
    """The numbers have the names that the retry looks for."""
    info = found(f"{OUT}{WORDS[4][0]}{END}")
    request = LoadRequest(model_id="org/m", facts=ModelFacts(model_id="org/m", context_window=131072))
    smaller = smaller_request(request, info)
    assert smaller is not None
    assert smaller.options.max_model_len == 42592


SECRETS = ("hf_abcdefghijklmnopqrst", "sk-abcdefghijklmnop", "ghp_abcdefghijklmnop")


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_repeated(secret: str) -> None:
    for text in (f"ValueError: bad token {secret}!", f"OSError: header 'Authorization: Bearer {secret}' refused"):
        assert secret not in found(f"{OUT}{text}{END}").model_dump_json()
    assert "plain-key" not in redact_text("args: {'api_key': ['plain-key'], 'port': 1} Bearer plain-key")


LINES = st.text(st.characters(codec="utf-8"), max_size=200) | st.sampled_from(
    [f"{OUT}{words}" for words, *_ in WORDS] + ["pydantic_core._pydantic_core.ValidationError: 1 validation error"]
)


@given(st.lists(LINES, max_size=12), st.none() | st.integers(-64, 255), st.booleans())
def test_any_log_gives_a_bounded_answer_of_the_tree(lines: list[str], exit_code: int | None, was_ready: bool) -> None:
    info = found("\n".join(lines), exit_code=exit_code, was_ready=was_ready)
    assert info.code in {cls.code for cls in error_classes()}
    assert len(info.details["cause"]) <= MAX_CAUSE_CHARS
    assert info.suggestion
    info.model_dump_json()


HOSTILE = [
    "max seq len (1), (1.1.1 GiB KV cache is needed, which is larger than the available KV cache memory (. GiB)",
    f"max seq len ({'9' * 5000}), (1 GiB KV cache is needed, which is larger than the available KV cache memory (1)",
    "Free memory on device x (1/0 GiB) on startup is less than y (0.9, 1 GiB)",
    "Free memory on device x (999999999/0.1 GiB) on startup is less than y (0.9, 1 GiB)",
    f"attention heads ({'9' * 5000}) must be divisible by tensor parallel size (2)",
    "CUDA out of memory. Tried to allocate ... GiB",
    "CUDA out of memory Tried to allocate " * 60,
    "argument --a" * 170,
    "argument --" + "a" * 1900,
    "argument --a " * 150,
    "a" * 1900,
    "Available memory on node " * 80,
    "Repo id must be in the form '" * 60,
    "out of memory" * 150,
    "DefaultCPUAllocator: " * 90,
    "PackageNotFoundError" * 100,
    " " * 1900 + "x",
    "api_key=[ " * 200,
]


@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.parametrize("kind", ["ValueError", "pydantic_core._pydantic_core.ValidationError"])
def test_hostile_words_are_read_to_their_end(kind: str, words: str) -> None:
    with must_end():
        assert found(f"(EngineCore pid=1) {kind}: {words}\n{words}\nFor further information visit").code


def test_a_line_without_end_is_cut() -> None:
    with must_end():
        assert found("(EngineCore pid=1) ValueError: " + "CUDA out of memory Tried to allocate " * 5000).code


def test_a_workers_exit_code_may_be_anything() -> None:
    for number in ("-9", "9" * 5000, f"-{'9' * 9}"):
        assert found(f"Worker proc A died unexpectedly (exit code: {number})").code


def test_no_next_step_has_a_gap() -> None:
    for cause in CAUSES:
        if isinstance(cause.step, str):
            assert cause.step.endswith((".", "GiB.")), cause.step
