"""`hub.toml`: the few settings that belong to the host and not to any client. The hub reads it anew at every load."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_mcp_protocol.errors import SettingError
from vllm_mcp_protocol.settings import MetricsUrl

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


class EngineConfig(BaseModel):
    """Table `[engine]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    executable: str | None = None
    """Absolute path of the `vllm` command; written by `vllm-mcp engine install`."""
    env: dict[EnvironmentName, str] = Field(default_factory=dict)
    """Added to every engine's environment."""
    start_limit_s: float = Field(default=1800.0, gt=0)
    """A start that takes longer is stopped. Large models from a network disk need it."""


class MonitoringConfig(BaseModel):
    """Table `[monitoring]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval_ms: int = Field(default=5000, ge=100, le=3_600_000)
    """Between two looks at engines, GPUs and the host; a client's MONITOR_INTERVAL_MS changes it while the hub runs."""
    retention_hours: int = Field(default=168, ge=1, le=24 * 366)
    db_path: str | None = None
    """Of the history; `metrics.db` in the state folder where nothing is said."""
    gpus: bool = True
    alerts: bool = True
    endpoint: MetricsUrl | None = None
    """A /metrics address to look at beside the engines'."""
    webhook: str | None = Field(default=None, pattern=r"^https?://[!-~]+$")
    """Alerts are posted here as JSON."""
    command: list[str] = Field(default_factory=list, max_length=50)
    """A program, with its arguments, that is given each alert as JSON on its standard input."""


class HubConfig(BaseModel):
    """The whole file; all of it is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineConfig = EngineConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    idle_exit_s: float = Field(default=900.0, gt=0)
    """The hub ends so long after the last engine and the last client are gone."""
    host_reserve_mib: int = Field(default=1024, ge=0)
    """Host memory that is never promised, on a machine without GPUs."""
    log_limit_mib: int = Field(default=20, ge=1)
    """An engine's log is turned over at this size; one old file is kept."""
    keep_stopped: int = Field(default=20, ge=1)
    """Folders of stopped engines that are kept for their logs."""


def read_config(path: Path) -> HubConfig:
    """The settings in `path`; defaults when there is no such file.

    Raises SettingError naming the file, the key and what is allowed.
    """
    try:
        return HubConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return HubConfig()
    except OSError as error:
        raise _refusal(path, "the file", f"cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _refusal(path, "the file", f"not TOML ({error})") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise _refusal(path, ".".join(map(str, problem["loc"])), problem["msg"]) from None


def _refusal(path: Path, key: str, why: str) -> SettingError:
    return SettingError(f"{path}: {key}: {why}.", file=str(path), key=key, suggestion=f"correct {key} in {path}")
