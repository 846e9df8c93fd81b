"""Defaults of the settings fill what was not asked, never against the model, and always with a reason."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import ConflictingFlags
from vllm_mcp_protocol.model import EngineStatus, EngineView, LoadOptions, ModelConfig, ModelFacts, StartFacts
from vllm_mcp_protocol.serving.schema import input_schema
from vllm_mcp_protocol.settings import Settings
from vllm_model_manager.core.options import differences, fill
from vllm_model_manager.parameters import load_options
from vllm_model_manager.server import build_server

DEFAULTS: dict[str, tuple[str, str, Any]] = {
    "tensor_parallel_size": ("VLLM_TENSOR_PARALLEL_SIZE", "2", 2),
    "pipeline_parallel_size": ("VLLM_PIPELINE_PARALLEL_SIZE", "3", 3),
    "gpu_memory_utilization": ("VLLM_GPU_MEMORY_UTILIZATION", "0.5", 0.5),
    "max_model_len": ("VLLM_MAX_MODEL_LEN", "512", 512),
    "quantization": ("VLLM_QUANTIZATION", "fp8", "fp8"),
    "dtype": ("VLLM_DTYPE", "float16", "float16"),
    "enforce_eager": ("VLLM_ENFORCE_EAGER", "false", False),
    "enable_prefix_caching": ("VLLM_ENABLE_PREFIX_CACHING", "true", True),
}


def settings(**variables: str) -> Settings:
    return Settings.from_environment(variables)


asked_options = st.builds(
    LoadOptions,
    tensor_parallel_size=st.none() | st.integers(1, 8),
    gpu_memory_utilization=st.none() | st.floats(0.1, 1),
    max_model_len=st.none() | st.integers(1, 4096),
    dtype=st.none() | st.sampled_from(["auto", "half"]),
    enforce_eager=st.none() | st.booleans(),
    max_num_seqs=st.none() | st.integers(1, 8),
)


@given(asked=asked_options, named=st.sets(st.sampled_from(sorted(DEFAULTS))))
def test_what_was_asked_stays_and_the_rest_is_filled_with_a_reason_each(asked: LoadOptions, named: set[str]) -> None:
    filled = fill(asked, settings(**{DEFAULTS[n][0]: DEFAULTS[n][1] for n in named}))
    applied = {name for name in named if getattr(asked, name) is None}
    for name, value in filled.options:
        expected = DEFAULTS[name][2] if name in applied else getattr(asked, name)
        assert value == expected, name
    assert len(filled.reasons) == len(applied)
    assert all(any(r.startswith(f"{n}=") and DEFAULTS[n][0] in r for r in filled.reasons) for n in applied)


@pytest.mark.parametrize(
    ("variables", "facts", "option"),
    [
        ({"VLLM_QUANTIZATION": "fp8"}, ModelFacts(model_id="m", quantization="awq"), "quantization"),
        ({"VLLM_MAX_MODEL_LEN": "9000"}, ModelFacts(model_id="m", context_window=2048), "max_model_len"),
    ],
)
def test_a_default_that_contradicts_the_model_is_left_out_and_said(
    variables: dict[str, str], facts: ModelFacts, option: str
) -> None:
    filled = fill(LoadOptions(), settings(**variables), facts)
    assert getattr(filled.options, option) is None
    assert len(filled.reasons) == 1
    assert filled.reasons[0].startswith(f"{option}: ")
    assert "left out" in filled.reasons[0]


def test_a_demand_that_contradicts_the_model_is_not_touched() -> None:
    asked = LoadOptions(quantization="fp8", max_model_len=9000)
    known = ModelFacts(model_id="m", quantization="awq", context_window=2048)
    assert fill(asked, settings(), known).options == asked, "refusing it is the hub's work"


@pytest.mark.parametrize(
    ("gpus", "variables", "size"),
    [(0, {}, None), (1, {}, None), (4, {}, 4), (4, {"VLLM_TENSOR_PARALLEL_SIZE": "2"}, 2)],
)
def test_several_gpus_are_all_used(gpus: int, variables: dict[str, str], size: int | None) -> None:
    assert fill(LoadOptions(), settings(**variables), gpu_count=gpus).options.tensor_parallel_size == size


def test_a_default_size_that_the_named_gpus_cannot_hold_is_left_out() -> None:
    filled = fill(LoadOptions(), settings(VLLM_TENSOR_PARALLEL_SIZE="4"), gpu_count=3)
    assert filled.options.tensor_parallel_size == 3
    assert "left out" in filled.reasons[0]


def test_quantization_none_means_the_checkpoints_own() -> None:
    assert fill(LoadOptions(quantization="none"), settings(VLLM_QUANTIZATION="fp8")).options.quantization is None


def test_the_idle_limit_comes_from_the_call_else_from_the_settings() -> None:
    own = settings(UNLOAD_IDLE_MODELS_MINUTES="30")
    assert fill(LoadOptions(), own, ttl_minutes=2).ttl_s == 120
    filled = fill(LoadOptions(), own)
    assert filled.ttl_s == 1800
    assert "UNLOAD_IDLE_MODELS_MINUTES" in filled.reasons[0]
    assert fill(LoadOptions(), own, pin=True).ttl_s is None
    assert fill(LoadOptions(), settings()).ttl_s is None


def test_pin_and_ttl_contradict_each_other() -> None:
    with pytest.raises(ConflictingFlags, match="ttl_minutes=5"):
        fill(LoadOptions(), settings(), ttl_minutes=5, pin=True)


def running(options: LoadOptions, **more: Any) -> EngineView:
    return EngineView(
        id="e1",
        model_id="m",
        served_name="m",
        status=EngineStatus.READY,
        epoch=1,
        created_at=0,
        options=options,
        **more,
    )


@given(asked=asked_options, present=asked_options)
def test_joining_says_exactly_what_was_asked_and_is_not_given(asked: LoadOptions, present: LoadOptions) -> None:
    said = {sentence.partition("=")[0] for sentence in differences(asked, running(present))}
    wanted = {name: value for name, value in asked if value not in (None, False, ())}
    assert said == {name for name, value in wanted.items() if getattr(present, name) != value}


def test_the_context_window_that_vllm_chose_counts_as_given() -> None:
    present = running(LoadOptions(), start_facts=StartFacts(max_model_len=1024))
    assert differences(LoadOptions(max_model_len=1024), present) == ()
    assert "with 1024" in differences(LoadOptions(max_model_len=2048), present)[0]


# -- the tools' parameters


def schema_of(tool: str) -> dict[str, Any]:
    built = build_server(Settings.from_environment({}))
    return dict(built.registered_tools[tool].input_schema["properties"])


def bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """What a parameter may be; the items of lists have closer bounds of their own in the tools."""
    return {name: value for name, value in schema.items() if name not in ("description", "default", "items")}


@pytest.mark.parametrize("tool", ["load-model", "switch-model"])
def test_a_load_has_every_option_with_the_bounds_of_the_model(tool: str) -> None:
    ours, model = schema_of(tool), input_schema(LoadOptions.model_fields)["properties"]
    assert {name: bounds(ours[name]) for name in model} == {name: bounds(part) for name, part in model.items()}


def test_request_defaults_have_the_bounds_of_the_model() -> None:
    ours, model = schema_of("set-model-config"), input_schema(ModelConfig.model_fields)["properties"]
    assert {name: bounds(ours[name]) for name in model} == {name: bounds(part) for name, part in model.items()}


@given(asked=asked_options)
def test_the_options_of_a_call_are_those_of_its_arguments(asked: LoadOptions) -> None:
    arguments = {**asked.model_dump(), "model_id": "m", "extra_args": None, "ctx": object()}
    assert load_options(arguments) == asked
