"""Where a model fits: by a sum that is done by hand here, and by what must hold for any sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.memory_needs import CPU_OVERHEAD_BYTES, GPU_OVERHEAD_BYTES, where_it_fits
from vllm_mcp_protocol.model import Device, ModelFacts
from vllm_mcp_protocol.units import GIB


def gpu(number: int, gib: int) -> Device:
    return Device(id=str(number), kind="cuda", name="GPU", total_bytes=gib * GIB, free_bytes=gib * GIB)


def host(gib: int) -> Device:
    return Device(id="cpu", kind="cpu", name="host", total_bytes=gib * GIB, free_bytes=gib * GIB)


def model(gib: float | None, *, heads: int | None = 32, kv: int | None = None) -> ModelFacts:
    weights = None if gib is None else round(gib * GIB)
    return ModelFacts(model_id="org/m", weights_bytes=weights, attention_heads=heads, kv_bytes_per_token=kv)


def test_a_model_that_one_gpu_holds() -> None:
    fit = where_it_fits(model(14), [gpu(0, 24), gpu(1, 16)])
    assert (fit.device_ids, fit.tensor_parallel_size) == (("0",), 1)  # 14 + 3 <= 21.6, > 14.4
    assert "17.0 GiB" in fit.reason


def test_the_kv_cache_of_a_short_conversation_counts() -> None:
    per_token = GIB // 1024  # 2 GiB for 2048 tokens
    assert where_it_fits(model(18, kv=per_token), [gpu(0, 25)]).tensor_parallel_size is None  # 18 + 2 + 3 > 22.5
    assert where_it_fits(model(18), [gpu(0, 25)]).tensor_parallel_size == 1


def test_a_model_that_needs_four_gpus() -> None:
    fit = where_it_fits(model(140), [gpu(n, 80) for n in range(4)])
    assert (fit.device_ids, fit.tensor_parallel_size) == (("0", "1", "2", "3"), 4)  # 70 + 3 > 72, 35 + 3 fits


def test_a_size_that_does_not_divide_the_heads_is_no_answer() -> None:
    fit = where_it_fits(model(140, heads=42), [gpu(n, 80) for n in range(4)])
    assert fit.tensor_parallel_size is None
    assert "largest device here has 72.0 GiB" in fit.reason


def test_the_host_counts_its_own_way() -> None:
    assert where_it_fits(model(10), [host(14)]).device_ids == ("cpu",)  # 12 + 1.6
    assert where_it_fits(model(10), [host(13)]).device_ids == ()


@pytest.mark.parametrize(("facts", "devices"), [(model(None), [host(8)]), (model(1), [])])
def test_what_is_not_known_fits_nowhere_and_says_so(facts: ModelFacts, devices: list[Device]) -> None:
    fit = where_it_fits(facts, devices)
    assert fit.device_ids == ()
    assert fit.reason


@given(st.floats(0, 2000), st.lists(st.integers(1, 200), min_size=1, max_size=8), st.booleans())
def test_an_answer_never_promises_more_than_there_is(weights: float, sizes: list[int], cpu: bool) -> None:
    devices = [host(sizes[0])] if cpu else [gpu(n, size) for n, size in enumerate(sizes)]
    fit = where_it_fits(model(weights), devices)
    overhead = CPU_OVERHEAD_BYTES if cpu else GPU_OVERHEAD_BYTES
    for device in devices:
        if device.id in fit.device_ids:
            assert fit.tensor_parallel_size is not None
            assert round(weights * GIB) / fit.tensor_parallel_size + overhead <= device.total_bytes + 1
    assert fit.tensor_parallel_size is None or len(fit.device_ids) >= fit.tensor_parallel_size


@given(st.floats(0, 500), st.integers(1, 200))
def test_more_memory_never_fits_less(weights: float, size: int) -> None:
    smaller, larger = (where_it_fits(model(weights), [gpu(0, gib)]).device_ids for gib in (size, size + 1))
    assert set(smaller) <= set(larger)
