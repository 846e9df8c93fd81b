"""A trend as the answer of a tool: figures, and sentences that a person reads. Pure."""

from datetime import UTC, datetime
from typing import Any

from vllm_mcp_protocol.monitoring import AlertRuleView
from vllm_performance_monitor.core.named_series import Named
from vllm_performance_monitor.core.series import TooLittle
from vllm_performance_monitor.core.trends import Trend

_MOST = 10


def in_words(trend: Trend, named: Named, rule: AlertRuleView | None, now_s: float) -> dict[str, Any]:
    """The fields of the answer beside its name."""
    said: list[str] = []
    found: dict[str, Any] = {"in_words": said}
    unit = f" {named.unit}" if named.unit else ""
    if isinstance(trend.slope, TooLittle):
        said.append(f"Slope: {trend.slope.reason}.")
    else:
        low, high = trend.slope.low * 3600, trend.slope.high * 3600
        per_hour = trend.slope.per_second * 3600
        found |= {"slope_per_hour": _short(per_hour), "slope_low": _short(low), "slope_high": _short(high)}
        between = f"({low:.3g} to {high:.3g}{unit} per hour)"
        way = "Rising" if per_hour > 0 else "Falling"
        flat = low <= 0 <= high
        said.append(
            f"No slope that can be told from noise {between}."
            if flat
            else f"{way} by {abs(per_hour):.3g}{unit} per hour {between}."
        )
    if isinstance(trend.change_points, TooLittle):
        said.append(f"Changes of level: {trend.change_points.reason}.")
    else:
        found["changes"] = [
            {"at": _time(c.at), "before": _short(c.before), "after": _short(c.after)}
            for c in trend.change_points[-_MOST:]
        ]
        said += [
            f"At {_time(c.at)} its level changed from {c.before:.4g} to {c.after:.4g}{unit}."
            for c in trend.change_points[-3:]
        ]
    if isinstance(trend.anomalies, TooLittle):
        said.append(f"Unusual hours: {trend.anomalies.reason}.")
    else:
        found["anomalies"] = [
            {"at": _time(a.at), "value": _short(a.value), "expected": _short(a.expected), "days": a.days}
            for a in trend.anomalies[-_MOST:]
        ]
        said += [
            f"The hour of {_time(a.at)} had {a.value:.4g}{unit}; of {a.days} days before it was {a.expected:.4g}."
            for a in trend.anomalies[-3:]
        ]
    if trend.forecast is not None and rule is not None:
        cast = trend.forecast
        found["forecast"] = {
            "answer": cast.answer,
            "threshold": rule.threshold,
            "at": _maybe(cast.at),
            "earliest": _maybe(cast.earliest),
            "latest": _maybe(cast.latest),
            "reason": cast.reason,
        }
        said.append(f"Threshold {rule.threshold:g}{unit} of {rule.name}: {cast.reason}.")
    return found


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


def _maybe(at_s: float | None) -> str | None:
    return None if at_s is None else _time(at_s)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
