"""What people see of a model: statuses, rows, capabilities, filters, pages."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import BadInput, EngineOutOfMemory
from vllm_mcp_protocol.model import (
    EngineStatus,
    EngineView,
    HubState,
    LoadOptions,
    ModelConfig,
    ModelFacts,
    StartFacts,
)
from vllm_mcp_protocol.serving.paging import PAGE_LIMIT_BYTES, page
from vllm_model_manager.core import rows

FAILURE = EngineOutOfMemory("No memory.\nAt all.", suggestion="use less").info


def view(number: int = 1, model: str = "org/a", status: EngineStatus = EngineStatus.READY, **more: Any) -> EngineView:
    values: dict[str, Any] = {"id": f"e{number}", "model_id": model, "served_name": model, "status": status}
    return EngineView(**(values | {"epoch": number, "created_at": 0.0} | more))


def state(*views: EngineView, configs: dict[str, ModelConfig] | None = None) -> HubState:
    return HubState(
        protocol=1,
        version="0",
        pid=1,
        epoch=9,
        state_dir="/s",
        uptime_s=1,
        devices=(),
        engines=views,
        model_configs=configs or {},
    )


def facts(model: str = "org/a", **more: Any) -> ModelFacts:
    return ModelFacts(model_id=model, **more)


@pytest.mark.parametrize("status", EngineStatus)
def test_every_state_of_an_engine_has_one_status(status: EngineStatus) -> None:
    allowed = get_args(rows.ModelStatus)
    assert rows.status_of(view(status=status)) in allowed
    assert rows.engine_row(view(status=status)).engine_status == status


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (EngineStatus.QUEUED, "loading"),
        (EngineStatus.STARTING, "loading"),
        (EngineStatus.READY, "loaded"),
        (EngineStatus.DRAINING, "loaded"),
        (EngineStatus.SLEEPING, "sleeping"),
        (EngineStatus.WAKING, "loading"),
        (EngineStatus.STOPPING, "unloaded"),
        (EngineStatus.STOPPED, "unloaded"),
        (EngineStatus.UNREACHABLE, "error"),
    ],
)
def test_the_statuses_that_people_rely_on(status: EngineStatus, shown: str) -> None:
    assert rows.status_of(view(status=status)) == shown


def test_an_engine_that_ended_with_a_failure_is_an_error_with_its_cause_on_one_line() -> None:
    row = rows.engine_row(view(status=EngineStatus.STOPPED, failure=FAILURE))
    assert row.status == "error"
    assert row.error == "ENGINE_OUT_OF_MEMORY: No memory. At all."


def test_a_row_tells_what_vllm_said_over_what_was_asked_over_what_the_files_say() -> None:
    known = facts(context_window=4096, dtype="bfloat16", quantization="awq", weights_bytes=2**20 + 1)
    asked = LoadOptions(max_model_len=2048, dtype="auto", tensor_parallel_size=2)
    row = rows.engine_row(
        view(facts=known, options=asked, start_facts=StartFacts(max_model_len=1024), measured_bytes=3 * 2**20),
        ModelConfig(max_tokens=5000),
    )
    assert (row.context_window, row.max_tokens, row.dtype, row.quantization) == (1024, 1024, "bfloat16", "awq")
    assert (row.memory_usage_mb, row.weights_mb) == (3, 2)
    assert (row.tensor_parallel_size, row.pipeline_parallel_size) == (2, 1)


def test_what_was_not_measured_is_null_and_not_a_promise() -> None:
    assert rows.engine_row(view(promised_bytes=2**30)).memory_usage_mb is None


@pytest.mark.parametrize(
    ("architecture", "template", "expected"),
    [
        ("LlamaForCausalLM", True, ["completion", "chat"]),
        ("LlamaForCausalLM", False, ["completion"]),
        ("GPT2LMHeadModel", False, ["completion"]),
        ("BertModel", False, ["embedding"]),
        ("BertForSequenceClassification", False, ["classification"]),
        ("SomethingNew", True, []),
    ],
)
def test_capabilities_come_from_the_files(architecture: str, template: bool, expected: list[str]) -> None:
    known = facts(architectures=(architecture,), has_chat_template=template)
    assert rows.capabilities(known, None) == expected


def test_capabilities_of_an_engine_and_of_an_adapter() -> None:
    able = view(options=LoadOptions(enable_lora=True), sleep_supported=True)
    assert rows.capabilities(None, able) == ["lora", "sleep"]
    assert rows.capabilities(facts(is_adapter=True), None) == ["adapter"]


def test_engines_come_first_then_what_only_lies_in_the_cache() -> None:
    cached = [facts("org/z"), facts("org/A"), facts("org/served"), facts("org/lora", is_adapter=True)]
    found = rows.fleet_rows(state(view(2, "org/served"), view(1, "org/b")), cached)
    assert [(row.id, row.status) for row in found] == [
        ("org/b", "loaded"),
        ("org/served", "loaded"),
        ("org/A", "unloaded"),
        ("org/z", "unloaded"),
    ]


def test_a_failure_is_shown_until_the_model_is_served_or_was_unloaded_since() -> None:
    failed = view(1, status=EngineStatus.STOPPED, failure=FAILURE)
    cached = [facts("org/a")]
    assert [row.status for row in rows.fleet_rows(state(failed), cached)] == ["error"]
    assert [row.status for row in rows.fleet_rows(state(failed, view(2)), cached)] == ["loaded"]
    ended = view(3, status=EngineStatus.STOPPED)
    assert [row.status for row in rows.fleet_rows(state(failed, ended), cached)] == ["unloaded"]


STATUSES = st.lists(st.sampled_from(list(EngineStatus)), max_size=8)


@given(statuses=STATUSES, wanted=st.sampled_from(get_args(rows.StatusFilter)), include=st.booleans())
def test_the_filters_partition_the_models(statuses: list[EngineStatus], wanted: Any, include: bool) -> None:
    views = [view(n, f"org/{n}", status) for n, status in enumerate(statuses)]
    every = rows.fleet_rows(state(*views), [facts(v.model_id) for v in views])
    assert sorted(row.id for row in every) == sorted(v.model_id for v in views), "each model has exactly one row"
    kept = rows.matching(every, wanted, include_unloaded=include)
    expected = [
        row for row in every if (row.status == wanted if wanted != "all" else include or row.status != "unloaded")
    ]
    assert kept == expected


@given(sizes=st.lists(st.integers(1, PAGE_LIMIT_BYTES * 2), max_size=40), limit=st.integers(1, 10))
def test_pages_hold_everything_once_in_order_and_below_the_limits(sizes: list[int], limit: int) -> None:
    items = list(enumerate(sizes))
    seen: list[tuple[int, int]] = []
    cursor: str | None = None
    for _ in range(len(items) + 1):
        got, cursor = page(items, limit=limit, cursor=cursor, key=lambda i: str(i[0]), size=lambda i: i[1])
        seen += got
        assert len(got) <= limit
        assert len(got) == 1 or sum(size for _, size in got) <= PAGE_LIMIT_BYTES
        if cursor is None:
            break
    assert seen == items


def test_a_cursor_of_another_list_is_named() -> None:
    with pytest.raises(BadInput, match="cursor='gone'"):
        page(["a"], limit=1, cursor="gone", key=str, size=len)


@pytest.mark.parametrize(("unix_s", "shown"), [(None, None), (0, "1970-01-01T00:00:00+00:00")])
def test_times_are_utc(unix_s: float | None, shown: str | None) -> None:
    assert rows.iso_time(unix_s) == shown
