"""The built-in rules, what may be given, and which layer wins."""

import tomllib
from collections import Counter
from typing import Any

import pytest

from vllm_mcp_hub.core.alerting.builtin import BUILT_IN
from vllm_mcp_hub.core.alerting.metrics import METRICS, read_threshold, say_value
from vllm_mcp_hub.core.alerting.rules import Rule, rule_with
from vllm_mcp_hub.core.alerting.ruleset import compose, rules_of_file, with_stored
from vllm_mcp_protocol.errors import BadInput, SettingError


def named(name: str, rules: tuple[Rule, ...]) -> Rule:
    return next(rule for rule in rules if rule.name == name)


def test_built_in_rules_are_unambiguous_and_helpful() -> None:
    assert max(Counter(rule.metric for rule in BUILT_IN).values()) == 1, "a threshold variable names one rule"
    assert len({rule.name for rule in BUILT_IN}) == len(BUILT_IN)
    assert all(rule.metric in METRICS and rule.suggestion for rule in BUILT_IN)
    assert all(rule.clear_threshold != rule.threshold for rule in BUILT_IN), "each has hysteresis"


@pytest.mark.parametrize(
    ("metric", "calm"),
    [
        *(("gpu_util", 97), ("memory_util", 93), ("kv_usage", 90), ("latency_p99", 30_000), ("ttft_p99", 3000)),
        *(("error_rate", 1), ("queue_growth", 5), ("preemptions", 3), ("restarts", 1), ("stuck_seconds", 60)),
    ],
)
def test_a_busy_server_that_is_well_is_no_alert(metric: str, calm: float) -> None:
    assert not any(rule.is_beyond(calm) for rule in BUILT_IN if rule.metric == metric and rule.enabled)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("threshold", float("nan"), "finite number"),
        ("threshold", "90", "finite number"),
        ("threshold", True, "finite number"),
        ("clear_threshold", 99, "at most the threshold, 90"),
        ("for_seconds", -1, "seconds from 0 to 604800"),
        ("clear_for_seconds", 1e9, "seconds from 0 to 604800"),
        ("severity", "bad", "info, warning, critical"),
        ("direction", "up", "above, below"),
        ("missing", "ignore", "keep, clear, alert"),
        ("enabled", "yes", "true or false"),
        ("metric", "GPU", "a metric's name"),
        ("subjects", "", "a glob"),
        ("suggestion", "x" * 501, "500 characters"),
        ("colour", "red", "one of the fields"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(field: str, value: Any, allowed: str) -> None:
    given = {"metric": "kv_usage", "threshold": 90, "clear_threshold": 80, field: value}
    with pytest.raises(SettingError) as caught:
        rule_with("mine", None, given, origin="test", kind=SettingError)
    details = caught.value.info.details
    assert (details["field"], details["value"]) == (field, str(value)[:200])
    assert allowed in details["allowed"]
    for part in ("'mine'", field, repr(str(value)[:200]), details["allowed"]):
        assert part in caught.value.info.message


@pytest.mark.parametrize("name", ["", "A", "with space", "x" * 65, "-x"])
def test_a_name_that_cannot_be_used_is_named(name: str) -> None:
    with pytest.raises(BadInput, match="1 to 64 small letters"):
        rule_with(name, None, {"metric": "kv_usage", "threshold": 90}, origin="test")


@pytest.mark.parametrize("given", [{}, {"metric": "kv_usage"}, {"threshold": 5}])
def test_a_new_rule_needs_metric_and_threshold(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="needs"):
        rule_with("mine", None, given, origin="test")


@pytest.mark.parametrize(
    ("metric", "written", "meant"),
    [
        ("gpu_util", 0.95, 95),
        ("gpu_util", 95, 95),
        ("gpu_util", 1, 100),
        ("memory_util", 0.5, 50),
        ("error_rate", 0.05, 5),
        ("error_rate", 1, 1),
        ("error_rate", 0, 0),
        ("latency_p99", 0.5, 0.5),
    ],
)
def test_percentages_may_be_written_as_shares(metric: str, written: float, meant: float) -> None:
    assert read_threshold(metric, written) == pytest.approx(meant)


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("gpu_util", 97.4, "97.4 %"),
        ("latency_p99", 950, "950 ms"),
        ("latency_p99", 2346, "2.35 s"),
        ("latency_p99", 95_000, "1 min 35 s"),
        ("stuck_seconds", 30, "30 s"),
        ("preemptions", 12, "12 per minute"),
        ("disk_free_gib", 1.25, "1.25 GiB"),
        ("answering", 0, "does not answer"),
        ("requests_waiting", 12_345, "12345"),
        ("anything", 0.00012, "0.00012"),
    ],
)
def test_values_are_said_with_their_unit(metric: str, value: float, said: str) -> None:
    assert say_value(metric, value) == said


def test_the_strongest_layer_wins_field_by_field() -> None:
    file = rules_of_file(tomllib.loads("[kv-pressure]\nthreshold = 80\nfor_seconds = 30\nseverity = 'critical'"))
    with_file = named("kv-pressure", compose(file=file))
    assert (with_file.threshold, with_file.for_seconds, with_file.origin) == (80, 30, "rules file")
    with_variable = named("kv-pressure", compose(file=file, thresholds={"kv_usage": 0.7}))
    assert (with_variable.threshold, with_variable.for_seconds) == (70, 30)
    assert with_variable.origin == "ALERT_THRESHOLD_KV_USAGE"
    stored = {"kv-pressure": {"threshold": 60}}
    everything = named("kv-pressure", compose(file=file, thresholds={"kv_usage": 0.7}, stored=stored))
    assert (everything.threshold, everything.severity, everything.origin) == (60, "critical", "set-alert-rule")


def test_a_new_threshold_keeps_the_hysteresis_in_proportion() -> None:
    assert named("latency-p99", compose(thresholds={"latency_p99": 2000})).clear_threshold == 1500
    assert named("disk-free", compose(thresholds={"disk_free_gib": 50})).clear_threshold == 80
    assert named("gpu-near-slowdown", compose(thresholds={"temperature_margin": -1})).clear_threshold == -1
    assert named("gpu-lost", compose(thresholds={"gpu_present": 0})).clear_threshold == 1
    file = {"disk-free": {"threshold": 50, "clear_threshold": 51}}
    assert named("disk-free", compose(file=file)).clear_threshold == 51


def test_a_threshold_switches_on_what_waits_for_one_but_not_what_was_switched_off() -> None:
    assert not named("gpu-temperature", compose()).enabled
    assert named("gpu-temperature", compose(thresholds={"temperature": 80})).enabled
    off = {"gpu-temperature": {"enabled": False}, "kv-pressure": {"enabled": False}}
    rules = compose(file=off, thresholds={"temperature": 80, "kv_usage": 80})
    assert not named("gpu-temperature", rules).enabled
    assert not named("kv-pressure", rules).enabled


def test_a_threshold_for_a_metric_without_a_rule_makes_one() -> None:
    rule = named("tokens_per_second", compose(thresholds={"tokens_per_second": 9000}, observed=["tokens_per_second"]))
    assert (rule.metric, rule.threshold, rule.clear_threshold) == ("tokens_per_second", 9000, 9000)


def test_a_metric_that_nobody_observes_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(SettingError, match=r"ALERT_THRESHOLD_GPU_UTILS.*did you mean gpu_util"):
        compose(thresholds={"gpu_utils": 90})
    with pytest.raises(BadInput, match="did you mean latency_p99"):
        with_stored({}, "mine", {"metric": "latency_p9", "threshold": 5})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rule = 3", "table"),
        ("[rules.kv-pressure]\nthreshold = 90", "rules"),
        ("[kv-pressure]\ntreshold = 90", "treshold"),
        ("[kv-pressure]\nthreshold = '90'", "finite number"),
        ("[mine]\nthreshold = 90", "needs metric"),
    ],
)
def test_a_rules_file_that_cannot_be_used_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        compose(file=rules_of_file(tomllib.loads(text)))


def test_a_new_rule_takes_silence_as_the_built_in_rule_of_its_metric_does() -> None:
    rules = {rule.name: rule for rule in compose(file={"mine": {"metric": "ttft_p99", "threshold": 5}})}
    assert rules["mine"].missing == "clear" == next(rule.missing for rule in BUILT_IN if rule.metric == "ttft_p99")
    kept = compose(file={"mine": {"metric": "ttft_p99", "threshold": 5, "missing": "keep"}})
    assert next(rule.missing for rule in kept if rule.name == "mine") == "keep"


def test_what_set_alert_rule_stores_adds_up_and_is_what_compose_makes_of_it() -> None:
    stored, first = with_stored({}, "kv-pressure", {"threshold": 80, "severity": None})
    assert (first.threshold, first.severity, stored) == (80, "warning", {"kv-pressure": {"threshold": 80}})
    stored, second = with_stored(stored, "kv-pressure", {"enabled": False})
    assert (second.threshold, second.enabled) == (80, False)
    assert named("kv-pressure", compose(stored=stored)) == second
    stored, third = with_stored(stored, "kv-pressure", {"threshold": 70})
    assert not third.enabled, "switched off is switched off"
    assert named("kv-pressure", compose(stored=stored)) == third


def test_a_new_rule_looks_in_the_direction_of_its_metric() -> None:
    _, rule = with_stored({}, "little-disk", {"metric": "disk_free_gib", "threshold": 1})
    assert (rule.direction, rule.is_beyond(68), rule.is_beyond(0.5)) == ("below", False, True)
    mine = {"mine": {"metric": "kv_usage", "threshold": 90}}
    _, rule = with_stored(mine, "mine", {"metric": "temperature_margin", "threshold": 3})
    assert rule.direction == "below"
    file = rules_of_file(tomllib.loads('[much-disk]\nmetric = "disk_free_gib"\nthreshold = 900\ndirection = "above"'))
    assert named("much-disk", compose(file=file)).direction == "above"


def test_a_stored_clear_threshold_stands_in_the_way_of_no_variable() -> None:
    stored, rule = with_stored({}, "kv-pressure", {"clear_threshold": 85})
    assert (rule.threshold, rule.clear_threshold) == (95, 85)
    rule = named("kv-pressure", compose(thresholds={"kv_usage": 80}, stored=stored))
    assert (rule.threshold, rule.clear_threshold) == (80, 80)
    stored, _ = with_stored({}, "disk-free", {"clear_threshold": 8})
    rule = named("disk-free", compose(thresholds={"disk_free_gib": 20}, stored=stored))
    assert (rule.threshold, rule.clear_threshold) == (20, 20)
    for name, clear, words in (("kv-pressure", 96, "at most the threshold, 95"), ("disk-free", 3, "at least")):
        with pytest.raises(BadInput, match=words):
            with_stored({}, name, {"clear_threshold": clear})


def test_rules_are_bounded_in_number() -> None:
    many = {f"rule-{number}": {"metric": "kv_usage", "threshold": number + 2} for number in range(200)}
    with pytest.raises(BadInput, match="at most 200"):
        compose(file=many)
