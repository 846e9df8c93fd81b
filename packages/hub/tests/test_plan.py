"""What an engine is promised. The oracle adds the parts up by itself, in whole bytes."""

import contextlib
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from vllm_mcp_hub.core.extra_args import parse_flags
from vllm_mcp_hub.core.plan import plan_start
from vllm_mcp_hub.core.plan_gpu import ASLEEP_BYTES
from vllm_mcp_protocol.errors import (
    BadInput,
    ConflictingFlags,
    ContextTooLong,
    GpuMemoryInsufficient,
    NoRoom,
    NoSuchGpu,
    ParallelSizeInvalid,
    SuiteError,
    TooFewDevices,
)
from vllm_mcp_protocol.memory_needs import CPU_OVERHEAD_BYTES, GPU_OVERHEAD_BYTES
from vllm_mcp_protocol.model import Device, LoadOptions, LoadRequest, ModelFacts, StartPlan, StartRecord
from vllm_mcp_protocol.units import GIB, MIB

CPU_DEVICE = Device(id="cpu", kind="cpu", name="CPU", total_bytes=15 * GIB, free_bytes=12 * GIB)
TINY = ModelFacts(
    model_id="org/tiny",
    weights_bytes=MIB,
    architectures=("LlamaForCausalLM",),
    dtype="bfloat16",
    context_window=2048,
    attention_heads=8,
    kv_bytes_per_token=512,
)


def gpus(count: int, total_gib: int = 80) -> list[Device]:
    return [
        Device(id=str(index), kind="cuda", name="GPU", total_bytes=total_gib * GIB, free_bytes=total_gib * GIB)
        for index in range(count)
    ]


def request(
    *extra_args: str, facts: ModelFacts | None = TINY, gpu_ids: tuple[int, ...] = (), **given: Any
) -> LoadRequest:
    options = LoadOptions(extra_args=extra_args, **given)
    return LoadRequest(model_id="org/tiny", options=options, facts=facts, gpu_ids=gpu_ids)


def on_cpu(asked: LoadRequest, device: Device = CPU_DEVICE, *, cpu_count: int = 4, **more: Any) -> StartPlan:
    return plan_start(asked, [device], cpu_count=cpu_count, **more)


def flag(plan: StartPlan, name: str) -> str | None:
    values = parse_flags(plan.flags).get(name)
    return None if values is None else " ".join(values)


def refusal(asked: LoadRequest, devices: list[Device], cpu_count: int = 4) -> SuiteError:
    with pytest.raises(SuiteError) as caught:
        plan_start(asked, devices, cpu_count=cpu_count)
    assert caught.value.info.suggestion
    return caught.value


# -- the CPU device


def test_the_cpu_engine_is_given_a_pool_threads_and_a_sum() -> None:
    plan = on_cpu(request())
    assert flag(plan, "--kv-cache-memory-bytes") == str(17 * MIB)
    assert flag(plan, "--enforce-eager") == ""
    assert flag(plan, "--max-model-len") is None
    assert flag(plan, "--gpu-memory-utilization") is None
    assert plan.env == {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "3"}
    assert plan.need.device_bytes == math.ceil(1.2 * MIB) + 17 * MIB + CPU_OVERHEAD_BYTES
    assert plan.need.basis.startswith("weights 1.0 MiB on disk + KV pool 17.0 MiB + 1.6 GiB measured overhead")
    assert (plan.device_count, plan.asleep_bytes, plan.estimated_start_s) == (1, None, 20.0)
    assert any("a guess" in reason for reason in plan.reasons)


@given(
    weights_bytes=st.integers(0, 20 * GIB),
    per_token=st.integers(64, 2 * MIB),
    context=st.integers(1, 200_000),
    total_bytes=st.integers(0, 64 * GIB),
    fraction=st.none() | st.floats(0.05, 1.0),
    seqs=st.none() | st.integers(1, 64),
    asked_len=st.none() | st.integers(1, 200_000),
    tensor=st.sampled_from([1, 2, 4]),
)
def test_what_is_promised_on_the_cpu_device_fits_and_suffices(
    weights_bytes: int,
    per_token: int,
    context: int,
    total_bytes: int,
    fraction: float | None,
    seqs: int | None,
    asked_len: int | None,
    tensor: int,
) -> None:
    assume(asked_len is None or asked_len <= context)
    update = {"weights_bytes": weights_bytes, "kv_bytes_per_token": per_token, "context_window": context}
    asked = request(
        facts=TINY.model_copy(update=update), gpu_memory_utilization=fraction, max_num_seqs=seqs,
        max_model_len=asked_len, tensor_parallel_size=tensor,
    )  # fmt: skip
    device = CPU_DEVICE.model_copy(update={"total_bytes": total_bytes})
    bound = math.floor((0.9 if fraction is None else fraction) * total_bytes)
    fixed = math.ceil(weights_bytes * 1.2) + CPU_OVERHEAD_BYTES * tensor
    try:
        plan = on_cpu(asked, device)
    except (NoRoom, ContextTooLong):
        wanted = asked_len or min(context, 256)
        smallest = max(16 * MIB, (wanted + 2 * 128) * per_token / tensor) * tensor
        assert fixed + smallest > bound - MIB * tensor
        return
    pool = int(flag(plan, "--kv-cache-memory-bytes") or 0) * tensor
    served = int(flag(plan, "--max-model-len") or asked_len or context)
    assert plan.need.device_bytes == fixed + pool
    assert plan.need.device_bytes <= bound
    assert served * per_token <= pool
    assert served <= context
    assert asked_len is None or served == asked_len
    assert served == (asked_len or context) or any(f"max_model_len={served}" in reason for reason in plan.reasons)


def test_a_context_that_does_not_fit_is_cut_and_said() -> None:
    facts = TINY.model_copy(update={"kv_bytes_per_token": MIB, "context_window": 100_000})
    plan = on_cpu(request(facts=facts))
    length = int(flag(plan, "--max-model-len") or 0)
    assert 0 < length < 15 * 1024
    assert length % 128 == 0
    assert any(f"max_model_len={length} instead of 100000" in reason for reason in plan.reasons)


def test_a_context_that_was_asked_for_is_not_cut() -> None:
    facts = TINY.model_copy(update={"kv_bytes_per_token": MIB, "context_window": 100_000})
    error = refusal(request(facts=facts, max_model_len=50_000), [CPU_DEVICE])
    assert isinstance(error, ContextTooLong)
    limit = error.info.details["limit"]
    assert flag(on_cpu(request(facts=facts, max_model_len=limit)), "--max-model-len") == str(limit)
    assert f"max_model_len={limit}" in error.info.suggestion


def test_a_model_that_does_not_fit_is_refused_with_numbers() -> None:
    error = refusal(request(facts=TINY.model_copy(update={"weights_bytes": 20 * GIB})), [CPU_DEVICE])
    assert isinstance(error, GpuMemoryInsufficient)
    assert error.info.details["required_mb"] == 16
    assert error.info.details["available_mb"] == 0


def test_the_users_own_pool_is_taken() -> None:
    plan = on_cpu(request("--kv-cache-memory-bytes", "1G"))
    assert [word for word in plan.flags if "kv-cache" in word] == ["--kv-cache-memory-bytes=1G"]
    assert plan.need.device_bytes == math.ceil(1.2 * MIB) + GIB + CPU_OVERHEAD_BYTES
    assert isinstance(refusal(request("--kv-cache-memory-bytes=100G"), [CPU_DEVICE]), GpuMemoryInsufficient)
    small = on_cpu(request("--kv-cache-memory-bytes", "512K"))
    assert flag(small, "--max-model-len") == "896"
    assert isinstance(
        refusal(request("--kv-cache-memory-bytes=512K", max_model_len=2048), [CPU_DEVICE]), ContextTooLong
    )


def test_a_larger_dtype_needs_more() -> None:
    facts = TINY.model_copy(update={"weights_bytes": GIB})
    half, full = on_cpu(request(facts=facts)), on_cpu(request(facts=facts, dtype="float32"))
    assert int(flag(full, "--kv-cache-memory-bytes") or 0) == 2 * int(flag(half, "--kv-cache-memory-bytes") or 0)
    assert full.need.device_bytes > half.need.device_bytes + GIB


def test_what_is_not_known_is_guessed_and_said() -> None:
    plan = on_cpu(request(facts=None))
    assert flag(plan, "--kv-cache-memory-bytes") == str(GIB)
    assert plan.need.device_bytes == math.ceil(1.2 * GIB) + GIB + CPU_OVERHEAD_BYTES
    assert "not known" in plan.need.basis
    assert any("not known" in reason for reason in plan.reasons)
    assert any("not on this disk yet" in reason for reason in plan.reasons)


def record(plan: StartPlan, device_bytes: int | None, seconds: float = 9.0, **update: Any) -> StartRecord:
    made = StartRecord(
        model_id="org/tiny", flags=plan.flags, device_kind="cpu", vllm_version=None, seconds=seconds,
        device_bytes=device_bytes,
    )  # fmt: skip
    return made.model_copy(update=update)


def test_earlier_starts_replace_the_guess() -> None:
    first = on_cpu(request())
    history = [record(first, 1_000 * MIB, 8.0), record(first, 1_200 * MIB, 30.0), record(first, None, 10.0)]
    plan = on_cpu(request(), history=history)
    assert plan.need.device_bytes == math.ceil(1_200 * MIB * 1.05)
    assert plan.need.basis.endswith("2 earlier starts measured 1.2 GiB")
    assert plan.estimated_start_s == 10.0
    tiny = on_cpu(request(), history=[record(first, 1)])
    assert tiny.need.device_bytes == MIB + 17 * MIB


@pytest.mark.parametrize(
    "update",
    [{"model_id": "org/other"}, {"device_kind": "cuda"}, {"flags": ("--max-model-len", "8")}],
)
def test_other_starts_do_not(update: dict[str, Any]) -> None:
    first = on_cpu(request())
    assert on_cpu(request(), history=[record(first, 9 * GIB, **update)]).need == first.need


def test_flags_that_need_no_memory_do_not_separate_starts() -> None:
    first = on_cpu(request("--seed", "1"))
    plan = on_cpu(request("--seed", "2", "--enable-log-requests"), history=[record(first, GIB)])
    assert plan.need.device_bytes == math.ceil(GIB * 1.05)


@pytest.mark.parametrize(
    ("asked", "cpu_count", "kind"),
    [
        (request(tensor_parallel_size=4), 2, TooFewDevices),
        (request(pipeline_parallel_size=2), 8, TooFewDevices),
        (request("--data-parallel-size", "4"), 2, TooFewDevices),
        (request(tensor_parallel_size=3), 8, ParallelSizeInvalid),
        (request(gpu_ids=(0,)), 8, NoSuchGpu),
    ],
)
def test_layouts_that_the_cpu_device_lacks(asked: LoadRequest, cpu_count: int, kind: type[SuiteError]) -> None:
    assert isinstance(refusal(asked, [CPU_DEVICE], cpu_count), kind)


def test_tensor_parallel_on_the_cpu_device() -> None:
    plan = on_cpu(request(tensor_parallel_size=2), cpu_count=4)
    assert plan.device_count == 1
    assert plan.env["OMP_NUM_THREADS"] == "1"
    assert plan.need.device_bytes == math.ceil(1.2 * MIB) + 2 * 16 * MIB + 2 * CPU_OVERHEAD_BYTES


# -- GPUs


@given(
    total_gib=st.integers(8, 180),
    count=st.integers(1, 8),
    tensor=st.sampled_from([None, 1, 2, 4, 8]),
    pipeline=st.sampled_from([None, 1, 2]),
    fraction=st.none() | st.floats(0.05, 1.0),
    weights_gib=st.none() | st.integers(0, 400),
)
def test_a_gpu_is_promised_the_fraction_that_vllm_takes(
    total_gib: int,
    count: int,
    tensor: int | None,
    pipeline: int | None,
    fraction: float | None,
    weights_gib: int | None,
) -> None:
    weights = None if weights_gib is None else weights_gib * GIB
    asked = request(
        facts=TINY.model_copy(update={"weights_bytes": weights}), tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline, gpu_memory_utilization=fraction,
    )  # fmt: skip
    shards = (tensor or 1) * (pipeline or 1)
    promised = math.ceil((0.9 if fraction is None else fraction) * total_gib * GIB)
    try:
        plan = plan_start(asked, gpus(count, total_gib))
    except TooFewDevices:
        assert shards > count
        return
    except GpuMemoryInsufficient:
        assert weights is not None
        assert weights / shards > promised
        return
    assert plan.device_count == shards <= count
    assert plan.need.device_bytes == promised
    assert float(flag(plan, "--gpu-memory-utilization") or 0) == (0.9 if fraction is None else fraction)
    assert plan.flags.count("--gpu-memory-utilization") == 1
    assert weights is None or weights / shards <= promised
    assert plan.env == {}


def test_engines_on_a_private_socket_can_sleep() -> None:
    plan = plan_start(request(), gpus(1))
    assert flag(plan, "--enable-sleep-mode") == ""
    assert plan.asleep_bytes == ASLEEP_BYTES
    for closed in (
        plan_start(request(port=8000), gpus(1)),
        plan_start(request(), gpus(1), supported_flags=frozenset({"--gpu-memory-utilization"})),
    ):
        assert closed.asleep_bytes is None
        assert flag(closed, "--enable-sleep-mode") is None
        assert any("No sleep mode" in reason for reason in closed.reasons)


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        (request(gpu_ids=(7,)), NoSuchGpu, "0, 1"),
        (request(gpu_ids=(0, 1)), ConflictingFlags, "tensor_parallel_size=2"),
        (request(gpu_ids=(0,), tensor_parallel_size=2), ConflictingFlags, "Give 2 gpu_ids"),
        (request(gpu_ids=(0, 0), tensor_parallel_size=2), ConflictingFlags, "Give 2 gpu_ids"),
        (request(tensor_parallel_size=4), TooFewDevices, "at most 2"),
        (request("--data-parallel-size=2", tensor_parallel_size=2), TooFewDevices, "at most 2"),
    ],
)
def test_gpus_that_are_not_there(asked: LoadRequest, kind: type[SuiteError], words: str) -> None:
    error = refusal(asked, gpus(2))
    assert isinstance(error, kind)
    assert words in error.info.suggestion
    if kind is TooFewDevices:
        assert (error.info.details["required"], error.info.details["available"]) == (4, 2)


def test_chosen_gpus() -> None:
    assert plan_start(request(gpu_ids=(1,)), gpus(2)).device_count == 1
    assert plan_start(request(gpu_ids=(1, 0), tensor_parallel_size=2), gpus(2)).device_count == 2


def test_gpus_of_different_size_are_never_promised_too_little() -> None:
    mixed = [*gpus(1, 80), Device(id="1", kind="cuda", name="GPU", total_bytes=24 * GIB, free_bytes=24 * GIB)]
    assert plan_start(request(), mixed).need.device_bytes == math.ceil(0.9 * 80 * GIB)
    assert plan_start(request(gpu_ids=(1,)), mixed).need.device_bytes == math.ceil(0.9 * 24 * GIB)
    assert plan_start(request(tensor_parallel_size=2), mixed).need.device_bytes == math.ceil(0.9 * 24 * GIB)


def test_weights_that_do_not_fit_name_what_would() -> None:
    large = TINY.model_copy(update={"weights_bytes": 140 * GIB})
    error = refusal(request(facts=large), gpus(4))
    assert isinstance(error, GpuMemoryInsufficient)
    assert error.info.details["required_mb"] == 140 * 1024
    assert error.info.details["available_mb"] == 72 * 1024
    assert "tensor_parallel_size=4" in error.info.suggestion
    assert plan_start(request(facts=large, tensor_parallel_size=4), gpus(4)).device_count == 4
    assert "quantized" in refusal(request(facts=large), gpus(1)).info.suggestion
    low = refusal(
        request(facts=TINY.model_copy(update={"weights_bytes": 40 * GIB}), gpu_memory_utilization=0.3), gpus(1)
    )
    assert "gpu_memory_utilization=0.9" in low.info.suggestion
    for fits in (request("--cpu-offload-gb", "80", facts=large), request(facts=large, quantization="fp8")):
        assert plan_start(fits, gpus(1)).device_count == 1


def test_an_engine_that_took_more_is_promised_more() -> None:
    first = plan_start(request(gpu_memory_utilization=0.5), gpus(1))
    taken = record(first, 45 * GIB, device_kind="cuda")
    plan = plan_start(request(gpu_memory_utilization=0.5), gpus(1), history=[taken])
    assert plan.need.device_bytes == 45 * GIB
    assert "earlier starts held 45.0 GiB" in plan.need.basis


def test_a_pool_that_the_user_fixed_is_promised_whole() -> None:
    """vLLM takes it beside the weights, whatever gpu_memory_utilization says."""
    facts = TINY.model_copy(update={"weights_bytes": 10 * GIB})
    asked = request("--kv-cache-memory-bytes", "40G", facts=facts, gpu_memory_utilization=0.1)
    plan = plan_start(asked, gpus(1))
    assert plan.need.device_bytes == 10 * GIB + 40 * GIB + GPU_OVERHEAD_BYTES
    assert "KV pool 40.0 GiB as asked" in plan.need.basis
    assert "assumed" in plan.need.basis
    split = request("--kv-cache-memory-bytes=40G", facts=facts, gpu_memory_utilization=0.1, tensor_parallel_size=2)
    assert plan_start(split, gpus(2)).need.device_bytes == 5 * GIB + 40 * GIB + GPU_OVERHEAD_BYTES
    unknown = request("--kv-cache-memory-bytes=40G", facts=None, gpu_memory_utilization=0.1)
    assert plan_start(unknown, gpus(1)).need.device_bytes == GIB + 40 * GIB + GPU_OVERHEAD_BYTES
    small = request("--kv-cache-memory-bytes=1G", facts=facts)
    assert plan_start(small, gpus(1)).need.device_bytes == math.ceil(0.9 * 80 * GIB)


def test_a_pool_beyond_the_gpu_is_refused() -> None:
    facts = TINY.model_copy(update={"weights_bytes": 10 * GIB})
    error = refusal(request("--kv-cache-memory-bytes", "71G", facts=facts), gpus(1))
    assert isinstance(error, GpuMemoryInsufficient)
    assert error.info.details["required_mb"] == 81 * 1024
    tight = plan_start(request("--kv-cache-memory-bytes", "69G", facts=facts), gpus(1))
    assert tight.need.device_bytes == 80 * GIB
    assert plan_start(request("--kv-cache-memory-bytes", "71G", facts=facts, quantization="fp8"), gpus(1))


HUGE = ("9" * 4000, "9" * 400 + ".5k", "999999999999999999T")


@pytest.mark.parametrize(
    "flag_name", ["--data-parallel-size", "--kv-cache-memory-bytes", "--prefill-context-parallel-size"]
)
@pytest.mark.parametrize("number", [*HUGE, "-1", "-5G", "0"])
@pytest.mark.parametrize("devices", [[CPU_DEVICE], gpus(2)], ids=["cpu", "cuda"])
def test_absurd_numbers_are_refused_by_name(flag_name: str, number: str, devices: list[Device]) -> None:
    refusal(request(flag_name, number), devices)


@pytest.mark.parametrize("number", ["9e999", "9" * 5000, "-1"])
def test_absurd_offloads_are_refused(number: str) -> None:
    assert isinstance(refusal(request("--cpu-offload-gb", number), gpus(1)), BadInput)


@pytest.mark.parametrize("field", ["weights_bytes", "context_window", "attention_heads", "kv_bytes_per_token"])
@pytest.mark.parametrize("number", [-1, 2**60 + 1, 10**400])
def test_facts_are_numbers_that_a_model_can_have(field: str, number: int) -> None:
    with pytest.raises(ValidationError):
        ModelFacts.model_validate({"model_id": "org/m", field: number})


@given(st.sampled_from(["weights_bytes", "context_window", "attention_heads", "kv_bytes_per_token"]))
def test_the_largest_facts_are_planned_or_refused(field: str) -> None:
    facts = TINY.model_copy(update={field: 2**60})
    for devices in ([CPU_DEVICE], gpus(2)):
        with contextlib.suppress(SuiteError):
            plan_start(request(facts=facts, dtype="float32"), devices)


# -- both


def test_no_device_at_all() -> None:
    assert isinstance(refusal(request(), []), NoSuchGpu)


@pytest.mark.parametrize("model_id", ["--middleware=x", "-h", "a\nb", "a\0b"])
def test_a_model_id_that_vllm_would_read_as_a_flag(model_id: str) -> None:
    error = refusal(LoadRequest(model_id=model_id), gpus(1))
    assert isinstance(error, BadInput)
    assert error.info.details["parameter"] == "model_id"


def test_an_adapter_is_no_model() -> None:
    error = refusal(request(facts=TINY.model_copy(update={"is_adapter": True})), gpus(1))
    assert "load-lora" in error.info.suggestion
