"""Every environment variable of the suite, in one class. Read once, at the edge; never from inside.

A variable that is empty, or still an unexpanded `${X}`, is unset: clients pass both for a value the user left out.
"""

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from math import isfinite, nan
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from vllm_mcp_protocol.errors import SettingError
from vllm_mcp_protocol.redaction import redact_text

_UNEXPANDED = re.compile(r"^\$\{[^}]*\}$|^\$[A-Za-z_]\w*$")
_HOST_NAME = re.compile(r"[\w.-]+")


def _names(value: Any) -> Any:
    """A comma-separated list."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _none_is_unset(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _level(value: Any) -> Any:
    upper = value.strip().upper() if isinstance(value, str) else value
    return "WARNING" if upper == "WARN" else upper


def _host(value: str) -> str:
    """As it stands in a URL: an IPv6 address in brackets."""
    if _HOST_NAME.fullmatch(value):
        return value
    try:
        return f"[{IPv6Address(value.removeprefix('[').removesuffix(']'))}]"
    except ValueError:
        raise ValueError("not a host name or an IP address; VLLM_API_ENDPOINT takes whole URLs") from None


def _http_url(value: str) -> str:
    """An address that can be asked."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        good = good and _host(parts.hostname or "") and not re.search(r"\s", value)
    except ValueError:  # brackets that do not match, a port that is no number, or above 65535
        good = False
    if not good:
        raise ValueError(f"{redact_text(value)!r} is not a URL like http://127.0.0.1:8000")
    return value


def _engine_url(value: str) -> str:
    """The address of an engine, without the /v1 that guides put behind it."""
    return _http_url(value).rstrip("/").removesuffix("/v1")


def _metrics_url(value: str) -> str:
    """The address of an engine, without the /metrics that is asked of it. It is shown as the engine's name."""
    if "@" in urlsplit(value).netloc:
        raise ValueError("a name and a password have no place in an address that everybody is shown")
    return value.rstrip("/").removesuffix("/metrics")


HttpUrl = Annotated[str, Field(pattern=r"^https?://[!-~]+$", max_length=2000), AfterValidator(_http_url)]
"""What it names need not be there, but whoever asks it gets an answer or a reason."""
MetricsUrl = Annotated[HttpUrl, AfterValidator(_metrics_url)]
EngineUrl = Annotated[str, AfterValidator(_engine_url)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
EngineUrls = Annotated[tuple[EngineUrl, ...], BeforeValidator(_names)]
_SECRET_TYPES = (SecretStr, SecretStr | None)


@dataclass(frozen=True)
class RemoteEndpoint:
    """An engine that runs elsewhere, as the settings name it."""

    url: str
    api_key: SecretStr | None = None

    @property
    def revealed_key(self) -> str | None:
        """The key in clear, for the one who asks the engine."""
        return None if self.api_key is None else self.api_key.get_secret_value()


class Settings(BaseModel):
    """The settings of one server, hub or command. Field names are the variables' names in lower case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # vLLM engines
    vllm_api_endpoint: EngineUrl | None = Field(
        default=None, description="A running vLLM to attach, e.g. http://127.0.0.1:8000"
    )
    vllm_api_key: SecretStr | None = Field(default=None, description="API key of VLLM_API_ENDPOINT")
    vllm_host: Annotated[str, AfterValidator(_host)] | None = Field(
        default=None, description="Host of a running vLLM to attach (with VLLM_PORT)"
    )
    vllm_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of a running vLLM to attach (with VLLM_HOST)",
    )
    vllm_timeout: int = Field(
        default=120_000, ge=100, le=86_400_000, description="Time limit of one request to an engine, ms"
    )
    vllm_max_retries: int = Field(
        default=2, ge=0, le=20, description="Repetitions of a request that the engine never received"
    )
    vllm_model_cache_dir: str | None = Field(
        default=None, description="Folder with models, in the Hugging Face cache layout"
    )
    vllm_gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="Default share of each GPU's memory per engine"
    )
    vllm_tensor_parallel_size: int | None = Field(default=None, ge=1, le=64, description="Default tensor-parallel size")
    vllm_pipeline_parallel_size: int | None = Field(
        default=None, ge=1, le=64, description="Default pipeline-parallel size"
    )
    vllm_max_model_len: int | None = Field(default=None, ge=1, description="Default context window, tokens")
    vllm_quantization: Annotated[str | None, BeforeValidator(_none_is_unset)] = Field(
        default=None, description="Default quantization method; none = unset"
    )
    vllm_dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] | None = Field(
        default=None, description="Default weight type"
    )
    vllm_enforce_eager: bool | None = Field(default=None, description="Default for enforce_eager")
    vllm_enable_prefix_caching: bool | None = Field(default=None, description="Default for enable_prefix_caching")
    vllm_executable: str | None = Field(default=None, description="Path of the vllm command")
    # Hugging Face
    hf_token: SecretStr | None = Field(default=None, description="Hugging Face token for gated models")
    hf_hub_offline: bool = Field(default=False, description="Never reach the Hugging Face Hub")
    hf_home: str | None = Field(default=None, description="Hugging Face home; the cache is its folder hub")
    hf_hub_cache: str | None = Field(default=None, description="Hugging Face cache folder")
    hf_endpoint: str | None = Field(default=None, pattern=r"^https?://", description="Mirror of the Hugging Face Hub")
    # state-persistence
    state_db_path: str | None = Field(default=None, description="SQLite file of saved sessions")
    encryption_key: SecretStr | None = Field(default=None, description="Key or passphrase of the saved sessions")
    encrypt_sensitive_data: bool = Field(default=True, description="Encrypt saved sessions")
    enable_compression: bool = Field(default=True, description="Compress saved sessions")
    max_history_size: int = Field(default=1000, ge=1, description="Most snapshots kept per session")
    backup_interval_seconds: int = Field(default=300, ge=1, description="Seconds between background snapshots")
    max_session_age_days: int = Field(default=30, ge=1, description="Days that saved sessions are kept")
    # performance-monitor
    monitor_interval_ms: int = Field(default=5000, ge=100, le=3_600_000, description="Time between samples, ms")
    metrics_endpoint: MetricsUrl | None = Field(
        default=None, description="A /metrics address to read beside the engines'"
    )
    metrics_db_path: str | None = Field(default=None, description="SQLite file of the metrics history")
    metrics_retention_hours: int = Field(default=168, ge=1, le=24 * 366, description="Hours of metrics history")
    enable_gpu_monitoring: bool = Field(default=True, description="Sample GPUs through NVML")
    enable_alerts: bool = Field(default=True, description="Evaluate alert rules")
    alert_thresholds: Mapping[str, float] = Field(
        default_factory=dict, description="ALERT_THRESHOLD_<METRIC>: value at which an alert starts"
    )
    openai_api_key: SecretStr | None = Field(default=None, description="API key of OpenAI, for benchmark-providers")
    anthropic_api_key: SecretStr | None = Field(
        default=None, description="API key of Anthropic, for benchmark-providers"
    )
    # auto-discovery
    discovery_endpoints: EngineUrls = Field(
        default=(), description="Further engines to attach, comma-separated addresses"
    )
    discovery_interval_seconds: int = Field(default=300, ge=1, description="Seconds between background scans")
    enable_model_metadata_enrichment: bool = Field(
        default=True, description="Ask the Hub for tags, licences and downloads"
    )
    metadata_cache_ttl_hours: int = Field(default=24, ge=0, description="Hours that the Hub's answers are kept")
    enable_capability_detection: bool = Field(default=True, description="Work out what models can do")
    # resource-optimizer
    optimization_interval_seconds: int = Field(default=60, ge=1, description="Seconds between optimizer rounds")
    auto_scaling_enabled: bool = Field(default=False, description="Let the optimizer act")
    min_gpu_utilization: float = Field(default=0.1, ge=0, le=1, description="Below this share an engine counts as idle")
    max_gpu_utilization: float = Field(default=0.9, ge=0, le=1, description="Above this share a GPU counts as full")
    enable_predictive_loading: bool = Field(default=False, description="Load models before they are asked for")
    unload_idle_models_minutes: float | None = Field(
        default=None, gt=0, description="Unload models that were idle for so long, minutes"
    )
    resource_prediction_window_minutes: int = Field(
        default=60, ge=1, description="Horizon of demand predictions, minutes"
    )
    # the suite
    log_level: LogLevel = Field(default="WARNING", description="What is written to stderr")
    vllm_hub_dir: str | None = Field(default=None, description="State folder of the hub")
    vllm_mcp_engine_dir: str | None = Field(default=None, description="Folder of the managed engine environments")
    vllm_mcp_read_only: bool = Field(default=False, description="Hide and refuse every tool that changes something")
    vllm_mcp_allowed_tools: Names | None = Field(default=None, description="Only these tools (globs, comma-separated)")
    vllm_mcp_denied_tools: Names = Field(default=(), description="Not these tools (globs, comma-separated)")
    vllm_mcp_token: SecretStr | None = Field(default=None, description="Bearer token for the HTTP transport")

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """Read the settings from `env`.

        Raises SettingError with the variable's name, the value (never a secret's) and what is allowed.
        """
        given = {name: value.strip() for name, value in env.items() if is_set(value)}
        values: dict[str, Any] = {
            field: given[field.upper()]
            for field in cls.model_fields
            if field.upper() in given and field != "alert_thresholds"
        }
        values["alert_thresholds"] = _thresholds(given)
        for old in _OLD_TOKEN_NAMES:
            if "hf_token" not in values and old in given:
                values["hf_token"] = given[old]
        try:
            return cls(**values)
        except ValidationError as error:
            raise _setting_error(error, given) from None

    def remote_engines(self) -> tuple[RemoteEndpoint, ...]:
        """Engines that run elsewhere and are to be attached, each once, in order.

        VLLM_API_KEY belongs to the one that VLLM_API_ENDPOINT (or VLLM_HOST) names, and is shown to no other.
        """
        named = self.vllm_api_endpoint
        if named is None and self.vllm_host is not None:
            named = f"http://{self.vllm_host}:{self.vllm_port or 8000}"
        own = () if named is None else (RemoteEndpoint(named, self.vllm_api_key),)
        return (*own, *(RemoteEndpoint(url) for url in dict.fromkeys(self.discovery_endpoints) if url != named))

    def remote_endpoints(self) -> tuple[str, ...]:
        """The addresses of `remote_engines`."""
        return tuple(engine.url for engine in self.remote_engines())


_OLD_TOKEN_NAMES = ("HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACE_API_TOKEN")
_THRESHOLD = "ALERT_THRESHOLD_"


def is_set(value: str | None) -> bool:
    """False for nothing, blanks, and a `${X}` that the client did not expand."""
    return bool(value and value.strip()) and not _UNEXPANDED.match((value or "").strip())


def forget_unset(env: MutableMapping[str, str]) -> None:
    """Take variables of ours that are empty or unexpanded out of `env`.

    Bundles pass every variable, set or not, and libraries that read the environment themselves take an empty
    HF_HOME for the working directory.
    """
    for name in [*(field.upper() for field in Settings.model_fields), *_OLD_TOKEN_NAMES]:
        if name in env and not is_set(env[name]):
            del env[name]


def _thresholds(given: Mapping[str, str]) -> dict[str, float]:
    found = {}
    for name, value in given.items():
        if name.startswith(_THRESHOLD):
            try:
                threshold = float(value)
            except ValueError:
                threshold = nan
            if not isfinite(threshold):
                raise _refusal(name, value, "a finite number")
            found[name.removeprefix(_THRESHOLD).lower()] = threshold
    return found


def _setting_error(error: ValidationError, given: Mapping[str, str]) -> SettingError:
    problem = error.errors()[0]
    field = str(problem["loc"][0])
    secret = Settings.model_fields[field].annotation in _SECRET_TYPES
    why = problem["msg"].removeprefix("Value error, ")
    return _refusal(field.upper(), "(hidden)" if secret else given.get(field.upper(), problem["input"]), why)


def _refusal(variable: str, value: object, allowed: str) -> SettingError:
    shown = redact_text(str(value))[:200]
    return SettingError(
        f"{variable}={shown!r}: {allowed}.",
        variable=variable,
        value=shown,
        suggestion=f"correct {variable} in the client's configuration, or remove it to use the default",
    )
