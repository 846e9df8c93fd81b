"""What the tools of one server share: its settings and the hub that samples. No globals."""

import os
from collections.abc import Sequence

from vllm_mcp_protocol.errors import ModelNotLoaded
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model_names import closest
from vllm_mcp_protocol.monitoring import MonitoringWindow, MonitoringWish, SubjectWindow
from vllm_mcp_protocol.settings import Settings

_WISHES = ("monitor_interval_ms", "metrics_retention_hours", "enable_gpu_monitoring", "enable_alerts")


class Workplace:
    """The hub, told once what this server's settings ask for."""

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self.settings = settings
        self.hub = hub
        self._told: int | None = None

    async def ready(self) -> Hub:
        """The hub, which samples as the settings say. Raises HubUnavailable, SettingError."""
        if self._told is None or self._told != self.hub.hub_pid:
            wish = wish_of(self.settings)
            if wish != MonitoringWish():
                await self.hub.set_monitoring(wish)
            elif self.hub.hub_pid is None:
                await self.hub.alerts()
            self._told = self.hub.hub_pid
        return self.hub

    async def window(self, duration_s: float) -> MonitoringWindow:
        """What the last seconds brought."""
        return await (await self.ready()).metrics(duration_s)


def wish_of(settings: Settings) -> MonitoringWish:
    """What was set, also to a default: a client that says nothing, or may change nothing, changes nothing for the
    others."""
    if settings.vllm_mcp_read_only:
        return MonitoringWish()
    said = {name: getattr(settings, name) for name in _WISHES if name in settings.model_fields_set}
    return MonitoringWish(
        interval_ms=said.get("monitor_interval_ms"),
        retention_hours=said.get("metrics_retention_hours"),
        db_path=None if settings.metrics_db_path is None else os.path.abspath(settings.metrics_db_path),
        gpus=said.get("enable_gpu_monitoring"),
        alerts=said.get("enable_alerts"),
        thresholds=dict(settings.alert_thresholds) or None,
        endpoint=settings.metrics_endpoint,
    )


def engines_of(window: MonitoringWindow, model_id: str | None) -> list[SubjectWindow]:
    """The engines' windows, or that of one model. Raises ModelNotLoaded naming those that there are."""
    found = [one for one in window.subjects if one.subject.startswith("engine:")]
    if model_id is None:
        return found
    chosen = [one for one in found if one.subject == f"engine:{model_id}"]
    if not chosen:
        raise not_sampled(model_id, [one.subject.removeprefix("engine:") for one in found])
    return chosen


def not_sampled(model_id: str, known: Sequence[str]) -> ModelNotLoaded:
    """No engine served that model in the time asked for."""
    close = next(iter(closest(model_id, known, 1)), None)
    shown = ", ".join(known[:10]) or "none"
    return ModelNotLoaded(
        f"No engine that serves {model_id[:200]!r} was seen in this time; there were: {shown}.",
        model_id=model_id[:200],
        known=list(known[:10]),
        suggestion=f"give {close}"
        if close
        else "list-models shows what is loaded; a longer duration_seconds looks back",
    )
