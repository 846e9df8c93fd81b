"""The exporter as Prometheus meets it: a process on a real hub with fake engines, and what dashboards ask it for."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from tests.hubs import ROOT, HubSite
from tests.monitor_desk import QUICK, MonitorDesk, got, served
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.metrics.exposition import parse_prometheus
from vllm_mcp_protocol.metrics.histogram import Histogram
from vllm_mcp_protocol.model import Device, EngineStatus, EngineView
from vllm_mcp_protocol.monitoring import (
    Alert,
    EngineWatch,
    GaugeStat,
    MonitoringWindow,
    SubjectWindow,
)
from vllm_performance_monitor.core import figures
from vllm_performance_monitor.core.exposition import Family, families
from vllm_performance_monitor.exporter import encoded

pytestmark = pytest.mark.anyio

LIMIT_S = 30.0
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.fixture
def site() -> Iterator[HubSite]:
    made = HubSite(gpus=2)
    yield made
    made.close()


@pytest.fixture
async def desk(site: HubSite, tmp_path: Path) -> AsyncIterator[MonitorDesk]:
    async with MonitorDesk(site, "auto", tmp_path).open(variables=QUICK) as opened:
        yield opened


# Values


def gauge(value: float) -> GaugeStat:
    return GaugeStat(mean=value, low=value, high=value, last=value)


def subject(name: str, gauges: Mapping[str, float] | None = None, **more: Any) -> SubjectWindow:
    told = {key: gauge(value) for key, value in (gauges or {}).items()}
    return SubjectWindow(subject=name, begin_s=940, end_s=998.5, looks=12, gauges=told, **{"covered_s": 50.0, **more})


def watch(name: str, **more: Any) -> EngineWatch:
    return EngineWatch(engine_id=f"e-{name}", name=name, **{"answers": True, **more})


def window(*subjects: SubjectWindow, engines: Sequence[EngineWatch] = ()) -> MonitoringWindow:
    return MonitoringWindow(at_s=1000, duration_s=60, interval_s=5, engines=tuple(engines), subjects=subjects)


def alert(rule: str, on: str) -> Alert:
    return Alert(
        rule=rule, severity="warning", subject=on, metric="m", value=1, threshold=0, since=900, message="it is so"
    )


BUSY = {"num_requests_running": 3.0, "num_requests_waiting": 2.0, "kv_cache_usage_perc": 0.25}
COUNTED = {"generation_tokens": 500.0, "prompt_tokens": 250.0, "request_success": 10.0, "request_success:error": 5.0}
SEEN = Histogram(bounds=(0.1, 0.2), counts=(0.0, 100.0, 0.0), sum=15.0)
GPU = {
    "gpu_lost": 0.0,
    "gpu_memory_used_bytes": 40e9,
    "gpu_memory_total_bytes": 80e9,
    "gpu_utilization_percent": 73.0,
    "gpu_temperature_celsius": 55.0,
    "gpu_power_watts": 310.5,
    "gpu_energy_joules": 9e6,
    "gpu_throttled": 0.0,
}
HOST = {"host_cpu_percent": 12.5, "host_memory_used_bytes": 6e9, "host_memory_total_bytes": 16e9}
H100 = Device(id="0", kind="cuda", name="H100", uuid="GPU-x", total_bytes=80, free_bytes=80)


def busy_engine(name: str = "org/m") -> SubjectWindow:
    return subject(f"engine:{name}", BUSY, counters=COUNTED, histograms=dict.fromkeys(figures.LATENCIES.values(), SEEN))


def values(told: Sequence[Family], name: str) -> dict[tuple[str, ...], float]:
    """The samples of one family by their labels' values."""
    return {tuple(one.labels.values()): one.value for family in told if family.name == name for one in family.samples}


def everything() -> list[Family]:
    """All that can be told, as no single machine tells it."""
    with_gpu = window(
        busy_engine(), subject("gpu:0", GPU), subject("host", HOST), engines=[watch("org/m", stuck_s=7.0)]
    )
    told = families(with_gpu, [alert("kv-pressure", "engine:org/m")], (), [H100])
    return [*told, *(one for one in families(window(subject("host", HOST))) if "_host_" in one.name)]


def test_values_are_in_base_units_and_their_labels_say_whose_they_are() -> None:
    told = everything()
    assert values(told, "vllm_mcp_engine_up") == {("org/m",): 1}
    assert values(told, "vllm_mcp_engine_kv_cache_usage_ratio") == {("org/m",): 0.25}
    assert values(told, "vllm_mcp_engine_generation_tokens_per_second") == {("org/m",): 10}
    assert values(told, "vllm_mcp_engine_requests_per_second") == {("org/m",): 0.2}
    assert values(told, "vllm_mcp_engine_failed_requests_per_second") == {("org/m",): 0.1}
    latency = values(told, "vllm_mcp_engine_latency_seconds")
    assert len(latency) == 18
    assert (latency["org/m", "ttft", "50"], latency["org/m", "e2e", "95"]) == pytest.approx((0.15, 0.195))
    assert values(told, "vllm_mcp_gpu_utilization_ratio") == {("0", "GPU-x", "H100"): 0.73}
    assert values(told, "vllm_mcp_gpu_power_watts") == {("0", "GPU-x", "H100"): 310.5}
    assert values(told, "vllm_mcp_host_cpu_utilization_ratio") == {(): 0.125}
    assert values(told, "vllm_mcp_last_sample_age_seconds")["gpu:0",] == 1.5
    assert values(told, "vllm_mcp_alert_active") == {("kv-pressure", "warning", "org/m", ""): 1}


def test_what_was_not_measured_has_no_sample() -> None:
    fresh = subject("engine:org/m", {"num_requests_running": 0.0}, covered_s=0.0)
    told = families(window(fresh, subject("gpu:0", {"gpu_lost": 0.0}), engines=[watch("org/m")]))
    assert {family.name.removeprefix("vllm_mcp_") for family in told} == {
        *("engine_up", "engine_recent_failures", "engine_requests_running", "gpu_lost"),
        *("last_sample_age_seconds", "sample_interval_seconds", "window_seconds"),
    }
    assert values(told, "vllm_mcp_gpu_lost") == {("0", "", ""): 0}


def test_what_does_not_answer_is_told_and_nothing_of_what_it_was() -> None:
    lost = subject("gpu:0", GPU | {"gpu_lost": 1.0})
    told = families(
        window(busy_engine("dead"), busy_engine("gone"), lost, engines=[watch("dead", answers=False, restarts=2)])
    )
    assert values(told, "vllm_mcp_engine_up") == {("dead",): 0}
    assert values(told, "vllm_mcp_engine_recent_failures") == {("dead",): 2}
    assert values(told, "vllm_mcp_gpu_lost") == {("0", "", ""): 1}
    assert {family.name for family in told if "running" in family.name or "memory" in family.name} == set()
    assert set(values(told, "vllm_mcp_last_sample_age_seconds")) == {("engine:dead",), ("gpu:0",)}


def test_an_engine_that_ended_by_itself_is_down_until_its_successor_serves() -> None:
    def view(status: EngineStatus, ready_at: float | None, **more: Any) -> EngineView:
        return EngineView(
            id=f"e-{ready_at}", model_id="m", served_name="m", status=status, epoch=1, created_at=0.0, ready_at=ready_at
        ).model_copy(update=more)

    crashed = view(EngineStatus.STOPPED, 10.0, failure=ErrorInfo(code="ENGINE_DIED", message="it died"))
    unloaded, starting = view(EngineStatus.STOPPED, 20.0), view(EngineStatus.STARTING, None)
    for engines, up in (
        ([crashed], {("m",): 0.0}),
        ([crashed, starting], {("m",): 0.0}),
        ([crashed, unloaded], {}),
        ([unloaded], {}),
        ([starting], {}),
    ):
        assert values(families(window(), engines=engines), "vllm_mcp_engine_up") == up
    assert values(families(window(engines=[watch("m")]), engines=[crashed]), "vllm_mcp_engine_up") == {("m",): 1}


def test_both_formats_tell_the_same() -> None:
    text, openmetrics = (encoded(everything(), accept)[0].decode() for accept in ("", OPENMETRICS))
    found = by_name(openmetrics_families(openmetrics))  # type: ignore[no-untyped-call]
    assert found.keys() == {family.name for family in everything()}
    assert found["vllm_mcp_gpu_energy_joules"].samples[0].name == "vllm_mcp_gpu_energy_joules_total"
    samples = {one for metric in text_string_to_metric_families(text) for one in map(plain, metric.samples)}
    assert samples == {one for metric in found.values() for one in map(plain, metric.samples)}


def plain(sample: Any) -> tuple[str, frozenset[tuple[str, str]], float]:
    return sample.name, frozenset(sample.labels.items()), sample.value


def test_alerts_on_two_gpus_and_hostile_labels_are_samples_of_their_own() -> None:
    name = 'a"b\\c\nd'
    told = families(
        window(engines=[watch(name)]), [alert("gpu-lost", "gpu:0"), alert("gpu-lost", "gpu:1"), alert("disk", "host")]
    )
    body, _ = encoded(told, "")
    found = {one.name: one.samples for one in text_string_to_metric_families(body.decode())}
    assert [sample.labels["gpu"] for sample in found["vllm_mcp_alert_active"]] == ["0", "1", ""]
    assert [sample.labels["engine"] for sample in found["vllm_mcp_engine_up"]] == [name]


# Dashboards and rules

_WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in a PromQL expression."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = _GROUPING.sub(" ", re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare))
    return set(re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*(?![\w:]|\s*\()", bare)) - _WORDS


def dashboard_expressions() -> list[str]:
    board = json.loads((ROOT / "docs/grafana/vllm-dashboard.json").read_text())
    assert board["schemaVersion"] >= 39
    assert board["templating"]["list"][0]["type"] == "datasource"
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in board["panels"])
    asked = [one["query"]["query"] for one in board["templating"]["list"][1:]]
    queries = [re.sub(r"^label_values\((\w+), \w+\)$", r"\1", one) for one in asked]
    return queries + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def rule_expressions() -> list[str]:
    text = (ROOT / "docs/grafana/alert-rules.yml").read_text()
    found = re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)
    assert len(found) == text.count("- alert: ")
    return found


def test_dashboard_and_rules_ask_only_for_what_is_told() -> None:
    body, _ = encoded(everything(), "")
    exported = {one.name for metric in text_string_to_metric_families(body.decode()) for one in metric.samples}
    recorded = (ROOT / "protocol/tests/data/metrics/vllm-0.32-busy.prom").read_bytes()
    of_vllm = {sample.name for sample in parse_prometheus(recorded).samples()}
    asked = {name for one in (*dashboard_expressions(), *rule_expressions()) for name in metrics_in(one)}
    assert asked - exported - of_vllm == set()
    assert len(asked & exported) > 20
    assert metrics_in('sum by (a) (rate(x:y_total{b="c"}[5m])) / on (d) group_left () (2 * z > 0.5)') == {
        "x:y_total",
        "z",
    }


# The process


def by_name(found: Iterable[Metric]) -> dict[str, Metric]:
    return {one.name: one for one in found}


async def scraped_when(address: str, holds: Callable[[Mapping[str, set[float]]], bool]) -> dict[str, Metric]:
    """What a scrape tells as soon as `holds` is true of the values by their metric's name."""
    begun_s = time.monotonic()
    while True:
        status, text, _ = await asyncio.to_thread(got, address)
        found = by_name(text_string_to_metric_families(text)) if status == 200 else {}
        if holds({name: {one.value for one in metric.samples} for name, metric in found.items()}):
            return found
        assert time.monotonic() - begun_s < LIMIT_S, text
        await asyncio.sleep(0.2)


async def test_prometheus_scrapes_a_hub_and_is_told_in_words_when_it_is_gone(desk: MonitorDesk) -> None:
    engine_id = await desk.loaded()
    site = desk.site
    with served(site, "exporter") as address:
        await scraped_when(address, lambda told: told.get("vllm_mcp_engine_up") == {1})
        async with site.client() as hub, hub.lease("org/small") as endpoint, EngineHttp(endpoint) as http:
            for _ in range(5):
                await http.chat({"model": endpoint.served_name, "messages": [{"role": "user", "content": "hello"}]})
        found = await scraped_when(
            address, lambda told: max(told.get("vllm_mcp_engine_generation_tokens_per_second", {0})) > 0
        )
        assert {one.labels["engine"] for one in found["vllm_mcp_engine_up"].samples} == {"org/small"}
        assert {
            (one.labels["gpu"], one.labels["uuid"], one.labels["name"]) for one in found["vllm_mcp_gpu_lost"].samples
        } == {
            ("0", "GPU-0", "Fake H100"),
            ("1", "GPU-1", "Fake H100"),
        }
        assert {one.value for one in found["vllm_mcp_gpu_memory_total_bytes"].samples} == {80 * 1024**3}
        assert "vllm_mcp_host_memory_used_bytes" not in found
        assert "vllm_mcp_engine_latency_seconds" not in found  # the fake engine measures none

        _, text, headers = got(address, Accept=OPENMETRICS)
        assert headers["content-type"].startswith("application/openmetrics-text")
        told = by_name(openmetrics_families(text))  # type: ignore[no-untyped-call]
        assert told.keys() >= found.keys() - {"vllm_mcp_alert_active"}
        _, text, headers = got(address)
        assert headers["content-type"].startswith("text/plain")
        assert got(address, Host="evil.example:9400")[0] == 421
        assert got(address.removesuffix("metrics"))[0] == 404

        for pid in site.members(engine_id):
            os.kill(pid, signal.SIGKILL)
        found = await scraped_when(address, lambda told: told.get("vllm_mcp_engine_up") == {0})
        assert "vllm_mcp_engine_requests_running" not in found

        site.kill_hub()
        await asyncio.sleep(1.1)
        status, text, _ = got(address)
        assert (status, "no hub runs" in text) == (503, True)
        assert site.hub_pids() == []  # none was started for that
        async with site.client() as hub:
            await hub.state()
        await scraped_when(address, lambda told: "vllm_mcp_gpu_memory_total_bytes" in told)


def test_another_address_than_loopback_needs_a_token(site: HubSite) -> None:
    command = [sys.executable, "-m", "vllm_performance_monitor", "exporter", "--host", "0.0.0.0", "--port", "0"]
    refused = subprocess.run(command, env=site.env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (refused.returncode, "VLLM_MCP_TOKEN" in refused.stderr) == (1, True)
    with served(site, "exporter", "--host", "0.0.0.0", VLLM_MCP_TOKEN="a-token-of-the-tests") as address:
        here = address.replace("0.0.0.0", "127.0.0.1")
        assert got(here)[0] == 401
        assert got(here, Authorization="Bearer another")[0] == 401
        assert got(here, Authorization="Bearer a-token-of-the-tests")[0] == 503  # let in; no hub runs
