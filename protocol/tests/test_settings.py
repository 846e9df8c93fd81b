"""Settings: what clients pass, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import SettingError
from vllm_mcp_protocol.settings import Settings, forget_unset, is_set

INTERFACE = [
    "VLLM_API_ENDPOINT",
    "VLLM_API_KEY",
    "VLLM_HOST",
    "VLLM_PORT",
    "VLLM_TIMEOUT",
    "VLLM_MAX_RETRIES",
    "VLLM_MODEL_CACHE_DIR",
    "VLLM_GPU_MEMORY_UTILIZATION",
    "VLLM_TENSOR_PARALLEL_SIZE",
    "VLLM_PIPELINE_PARALLEL_SIZE",
    "VLLM_MAX_MODEL_LEN",
    "VLLM_QUANTIZATION",
    "VLLM_DTYPE",
    "VLLM_ENFORCE_EAGER",
    "VLLM_ENABLE_PREFIX_CACHING",
    "VLLM_EXECUTABLE",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "STATE_DB_PATH",
    "ENCRYPTION_KEY",
    "ENCRYPT_SENSITIVE_DATA",
    "ENABLE_COMPRESSION",
    "MAX_HISTORY_SIZE",
    "BACKUP_INTERVAL_SECONDS",
    "MAX_SESSION_AGE_DAYS",
    "MONITOR_INTERVAL_MS",
    "METRICS_ENDPOINT",
    "METRICS_DB_PATH",
    "METRICS_RETENTION_HOURS",
    "ENABLE_GPU_MONITORING",
    "ENABLE_ALERTS",
    "DISCOVERY_ENDPOINTS",
    "DISCOVERY_INTERVAL_SECONDS",
    "ENABLE_MODEL_METADATA_ENRICHMENT",
    "METADATA_CACHE_TTL_HOURS",
    "ENABLE_CAPABILITY_DETECTION",
    "OPTIMIZATION_INTERVAL_SECONDS",
    "AUTO_SCALING_ENABLED",
    "MIN_GPU_UTILIZATION",
    "MAX_GPU_UTILIZATION",
    "ENABLE_PREDICTIVE_LOADING",
    "UNLOAD_IDLE_MODELS_MINUTES",
    "RESOURCE_PREDICTION_WINDOW_MINUTES",
    "LOG_LEVEL",
    "VLLM_HUB_DIR",
]
"""The published list; a variable that leaves it breaks somebody's configuration."""


def test_every_variable_of_the_interface_is_a_setting_with_a_description() -> None:
    for variable in INTERFACE:
        field = Settings.model_fields[variable.lower()]
        assert field.description, variable


@pytest.mark.parametrize("unset", ["", "  ", "${HF_TOKEN}", "$HF_TOKEN", "${VLLM_PORT:-}"])
def test_what_a_client_left_out_is_unset(unset: str) -> None:
    settings = Settings.from_environment({"HF_TOKEN": unset, "VLLM_PORT": unset, "VLLM_ENFORCE_EAGER": unset})
    assert (settings.hf_token, settings.vllm_port, settings.vllm_enforce_eager) == (None, None, None)


@given(st.text(max_size=30))
def test_a_value_with_any_other_character_is_kept(text: str) -> None:
    kept = f"x{text}"
    assert is_set(kept)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("VLLM_GPU_MEMORY_UTILIZATION", "1.4"),
        ("VLLM_PORT", "http"),
        ("VLLM_PORT", "70000"),
        ("VLLM_API_ENDPOINT", "localhost:8000"),
        ("VLLM_API_ENDPOINT", "http://gpu1:70000"),
        ("VLLM_API_ENDPOINT", "http://:8000"),
        ("VLLM_API_ENDPOINT", "http://gpu 1:8000"),
        ("VLLM_HOST", "http://gpu1"),
        ("VLLM_HOST", "gpu1:8000"),
        ("DISCOVERY_ENDPOINTS", "http://a:1, b:2"),
        ("DISCOVERY_ENDPOINTS", "ftp://a:1"),
        ("METRICS_ENDPOINT", "http://127.0.0.1:99999/metrics"),
        ("METRICS_ENDPOINT", "http://[::1/metrics"),
        ("LOG_LEVEL", "loud"),
        ("HF_HUB_OFFLINE", "maybe"),
        ("ALERT_THRESHOLD_GPU_UTIL", "high"),
        ("ALERT_THRESHOLD_GPU_UTIL", "nan"),
        ("METRICS_RETENTION_HOURS", "100000"),
        ("VLLM_DTYPE", "int3"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_environment({variable: value})
    assert variable in str(caught.value)
    assert value in str(caught.value)
    assert caught.value.info.details["variable"] == variable
    assert variable in caught.value.info.suggestion


def test_secrets_are_never_shown() -> None:
    settings = Settings.from_environment({"HF_TOKEN": "hf_secret", "VLLM_API_KEY": "sk-secret"})
    assert "secret" not in repr(settings)
    assert "secret" not in settings.model_dump_json()


@pytest.mark.parametrize("old", ["HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACE_API_TOKEN"])
def test_old_names_of_the_token_work_and_the_new_one_wins(old: str) -> None:
    assert Settings.from_environment({old: "old"}).hf_token.get_secret_value() == "old"  # type: ignore[union-attr]
    both = Settings.from_environment({old: "old", "HF_TOKEN": "new"})
    assert both.hf_token is not None
    assert both.hf_token.get_secret_value() == "new"


def test_thresholds_of_any_metric_and_lists() -> None:
    settings = Settings.from_environment(
        {
            "ALERT_THRESHOLD_QUEUE_LENGTH": "7.5",
            "DISCOVERY_ENDPOINTS": "http://a:1, http://b:2/v1,",
            "LOG_LEVEL": "warn",
        }
    )
    assert settings.alert_thresholds == {"queue_length": 7.5}
    assert settings.remote_endpoints() == ("http://a:1", "http://b:2")
    assert settings.log_level == "WARNING"


def test_a_running_vllm_is_named_by_address_or_by_host_and_port() -> None:
    assert Settings.from_environment({"VLLM_HOST": "gpu1", "VLLM_PORT": "9000"}).remote_endpoints() == (
        "http://gpu1:9000",
    )
    assert Settings.from_environment({"VLLM_PORT": "9000"}).remote_endpoints() == ()
    one = {"VLLM_API_ENDPOINT": "http://a:1/v1/", "DISCOVERY_ENDPOINTS": "http://a:1"}
    assert Settings.from_environment(one).remote_endpoints() == ("http://a:1",)


def test_the_key_is_for_the_engine_that_was_named_and_for_no_other() -> None:
    elsewhere = {"DISCOVERY_ENDPOINTS": "http://b:2,http://a:1,http://b:2", "VLLM_API_KEY": "sk-a"}
    for named in ({"VLLM_API_ENDPOINT": "http://a:1/v1"}, {"VLLM_HOST": "a", "VLLM_PORT": "1"}):
        found = Settings.from_environment(elsewhere | named).remote_engines()
        assert [(engine.url, engine.revealed_key) for engine in found] == [("http://a:1", "sk-a"), ("http://b:2", None)]
    unnamed = Settings.from_environment(elsewhere).remote_engines()
    assert [(engine.url, engine.revealed_key) for engine in unnamed] == [("http://b:2", None), ("http://a:1", None)]


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_gets_its_brackets(host: str) -> None:
    assert Settings.from_environment({"VLLM_HOST": host}).remote_endpoints() == ("http://[::1]:8000",)


def test_quantization_none_is_unset() -> None:
    assert Settings.from_environment({"VLLM_QUANTIZATION": "none"}).vllm_quantization is None


def test_variables_that_are_not_set_are_taken_out_of_the_environment() -> None:
    env = {"HF_HOME": "", "HF_TOKEN": "${HF_TOKEN}", "VLLM_PORT": "8000", "PATH": "", "HUGGING_FACE_HUB_TOKEN": " "}
    forget_unset(env)
    assert env == {"VLLM_PORT": "8000", "PATH": ""}
