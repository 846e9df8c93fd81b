"""What a change says, for a person or a model that has nothing else to read. Pure."""

from datetime import UTC, datetime

from vllm_mcp_hub.core.alerting.metrics import metric_named, say_seconds, say_value
from vllm_mcp_hub.core.alerting.rules import Rule
from vllm_mcp_hub.core.alerting.states import AlertState

_KINDS = {"engine": "Engine", "gpu": "GPU"}


def raised_message(rule: Rule, state: AlertState) -> str:
    """`Engine llama: KV cache in use 97 % (alert from 95 % on) for 3 min 05 s, since 14:03:05 UTC.`"""
    held = f" for {say_seconds(state.held_s)}" if state.held_s else ""
    since = f"since {say_time(state.since)}"
    who, metric = say_subject(state.subject), metric_named(rule.metric)
    if state.value is None:
        return f"{who}: {metric.label} could not be told{held}, {since}."
    if metric.words is not None:
        return f"{who} {say_value(rule.metric, state.value)}{held}, {since}."
    limit = say_value(rule.metric, rule.threshold)
    end = f"{limit} and below" if rule.direction == "below" else f"from {limit} on"
    return f"{who}: {metric.label} {say_value(rule.metric, state.value)} (alert {end}){held}, {since}."


def recovered_message(rule: Rule, state: AlertState) -> str:
    """`Engine llama: KV cache in use is well again, 60 % (worst 99 %). It lasted 12 min 00 s.`"""
    metric = metric_named(rule.metric)
    lasted = f"It lasted {say_seconds(state.held_s)}."
    who = say_subject(state.subject)
    if metric.words is not None:
        return f"{who} {metric.words[rule.direction == 'below']} again. {lasted}"
    now = "" if state.value is None else f", {say_value(rule.metric, state.value)}"
    worst = "" if state.worst is None else f" (worst {say_value(rule.metric, state.worst)})"
    return f"{who}: {metric.label} is well again{now}{worst}. {lasted}"


def ended_message(state: AlertState, reason: str) -> str:
    """`Engine llama: the alert kv-pressure is over: the engine was unloaded.`"""
    return f"{say_subject(state.subject)}: the alert {state.rule} is over: {reason}."


def say_subject(subject: str) -> str:
    """`engine:llama` → `Engine llama`."""
    kind, _, name = subject.partition(":")
    if not name:
        return "This host" if subject == "host" else subject
    return f"{_KINDS.get(kind, kind)} {name}"


def say_time(at: float) -> str:
    """A clock reading in UTC; one that no calendar has stays a number."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{at:.0f}"
