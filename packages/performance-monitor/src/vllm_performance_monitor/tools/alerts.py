"""Alerts: what is wrong, and from where on it is."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.monitoring import AlertRuleView
from vllm_mcp_protocol.serving.context import notify_resource_updated
from vllm_mcp_protocol.serving.server import READ, WRITE, SuiteServer, ToolContext
from vllm_performance_monitor.results import AlertsResult, RulePart, RuleResult
from vllm_performance_monitor.tools.metrics import alert_row, iso_time
from vllm_performance_monitor.workplace import Workplace

ALERTS_URI = "alerts://active"
_MOST_PAST = 30


def register(server: SuiteServer, work: Workplace) -> None:
    """Add both."""

    @server.tool("get-alerts", title="Alerts", annotations=READ)
    async def get_alerts(
        active_only: Annotated[bool, Field(description="false: also what is over")] = True,
        since: Annotated[
            str | None, Field(max_length=40, description="Only what was raised or cleared after this ISO 8601 time")
        ] = None,
    ) -> AlertsResult:
        """Show what is wrong now: each alert with its value, threshold, since when, and what to do about it."""
        begin_s = _time(since)
        hub = await work.ready()
        view = await hub.alerts()
        past = (
            [_past(one) for one in reversed(view.changes) if one.get("at", 0.0) >= begin_s] if not active_only else []
        )
        return AlertsResult(
            active=[alert_row(one) for one in view.active if one.since >= begin_s][:20],
            past=past[:_MOST_PAST],
            undelivered=view.undelivered,
            notes=[view.note[:300]] if view.note else [],
        )

    @server.tool("set-alert-rule", title="Change an alert rule", annotations=WRITE)
    async def set_alert_rule(
        ctx: ToolContext,
        rule: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="Name; a new one makes a rule")],
        metric: Annotated[
            str | None, Field(max_length=64, description="What it watches (a new rule needs it), such as latency_p99")
        ] = None,
        threshold: Annotated[float | None, Field(description="From here on it is an alert")] = None,
        for_seconds: Annotated[float | None, Field(ge=0, le=604_800, description="So long it must hold")] = None,
        clear_threshold: Annotated[float | None, Field(description="Back here it is over")] = None,
        severity: Annotated[Literal["info", "warning", "critical"] | None, Field(description="How bad it is")] = None,
        enabled: Annotated[bool | None, Field(description="false: not watched any more")] = None,
        undo: Annotated[
            bool, Field(description="Forget all that this tool changed of the rule; one that it made is gone")
        ] = False,
    ) -> RuleResult:
        """Change from where on something is an alert, for all clients of this host; what is not given stays."""
        given = {
            "metric": metric,
            "threshold": threshold,
            "for_seconds": for_seconds,
            "clear_threshold": clear_threshold,
            "severity": severity,
            "enabled": enabled,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        if undo and fields:
            raise BadInput(
                f"undo stands alone, and {', '.join(fields)} was given.",
                parameter="undo",
                suggestion="undo first, then give what is to hold",
            )
        hub = await work.ready()
        stored = await hub.forget_alert_rule(rule) if undo else await hub.set_alert_rule(rule, fields)
        await notify_resource_updated(ctx, ALERTS_URI)
        return RuleResult(rule=None if stored is None else _rule(stored))


def _rule(view: AlertRuleView) -> RulePart:
    return RulePart(
        rule=view.name,
        metric=view.metric,
        threshold=view.threshold,
        clear_threshold=view.clear_threshold,
        for_seconds=view.for_seconds,
        severity=view.severity,
        direction=view.direction,
        enabled=view.enabled,
        origin=view.origin,
        suggestion=view.suggestion,
    )


def _past(change: Any) -> dict[str, Any]:
    shown = {
        name: change.get(name) for name in ("kind", "rule", "severity", "subject", "value", "threshold", "message")
    }
    return {**shown, "at": iso_time(float(change.get("at", 0.0)))}


def _time(text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"since={text[:40]!r} is no ISO 8601 time.", parameter="since", suggestion="give 2026-11-25T18:00:00Z"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
