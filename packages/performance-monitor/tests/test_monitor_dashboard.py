"""What the live page is told: values, and the process on a real hub. The page itself is in tests/interop."""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hubs import HubSite, wait_for
from tests.monitor_desk import QUICK, MonitorDesk, got, served
from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.model import Device, EngineStatus, EngineView, Phase, PhaseTime, StartFacts
from vllm_mcp_protocol.monitoring import EngineWatch, GaugeStat, MonitoringWindow, Series, SubjectWindow
from vllm_performance_monitor.core.dashboard.charts import (
    MOST_LINES,
    RANGES,
    charts_of,
    questions,
    subjects_of,
)
from vllm_performance_monitor.core.dashboard.engines import engine_rows, in_total, shown_engines, start_rows
from vllm_performance_monitor.core.dashboard.hardware import gpu_rows, host_row

pytestmark = pytest.mark.anyio

LIMIT_S = 30.0


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


def subject(name: str, **gauges: float) -> SubjectWindow:
    told = {key: gauge(value) for key, value in gauges.items()}
    counters = {"generation_tokens": 500.0} if name.startswith("engine:") else {}
    return SubjectWindow(subject=name, begin_s=940, end_s=998, looks=12, covered_s=50, gauges=told, counters=counters)


def window(*subjects: SubjectWindow, engines: Sequence[EngineWatch] = ()) -> MonitoringWindow:
    return MonitoringWindow(at_s=1000, duration_s=60, interval_s=5, engines=tuple(engines), subjects=subjects)


def view(name: str, status: EngineStatus = EngineStatus.READY, created_at: float = 0.0, **more: Any) -> EngineView:
    made = EngineView(
        id=f"e-{name}-{created_at:.0f}", model_id=name, served_name=name, status=status, epoch=1, created_at=created_at
    )
    return made.model_copy(update=more)


def watch(of: EngineView, **more: Any) -> EngineWatch:
    return EngineWatch(engine_id=of.id, **{"name": of.served_name, "answers": True, **more})


DIED = ErrorInfo(code="ENGINE_DIED", message="it died", details={"suggestion": "load it again"})


def test_what_is_there_is_shown_and_of_what_ended_the_last_of_its_name_if_it_fell_over() -> None:
    over = EngineStatus.STOPPED
    crashed, again = view("b", over, 1.0, failure=DIED), view("b", over, 2.0, failure=DIED)
    unloaded = [view("a", over, 4.0, failure=DIED), view("a", over, 5.0)]
    both = [view("d", created_at=1.0), view("d", EngineStatus.UNREACHABLE, 2.0, remote=True)]
    views = [view("c", over, failure=DIED), view("c", created_at=3.0), crashed, again, *unloaded, *both]
    assert [one.id for one in shown_engines(views)] == [again.id, "e-c-3", "e-d-1", "e-d-2"]


def test_two_engines_of_one_name_are_told_apart() -> None:
    own, other = view("a", created_at=1.0, measured_bytes=7), view("a", EngineStatus.UNREACHABLE, 2.0)
    seen = window(engines=[watch(other, answers=False), watch(own, name="a (2)")])
    rows = engine_rows(seen, [own, other])
    assert [(one.name, one.state, one.memory_bytes) for one in rows] == [
        ("a (2)", "ready", 7),
        ("a", "does not answer", None),
    ]


def test_figures_are_those_of_engines_that_answer() -> None:
    good, dead, new = view("a"), view("b"), view("c", EngineStatus.STARTING, phase=Phase.WEIGHTS)
    seen = window(
        subject("engine:a", num_requests_running=3.0),
        subject("engine:b", num_requests_running=4.0),
        engines=[watch(good), watch(dead, answers=False, trouble="no route")],
    )
    rows = engine_rows(seen, [good, dead, new])
    assert [(one.name, one.state, one.level, one.trouble) for one in rows] == [
        ("a", "ready", "good", ""),
        ("b", "does not answer", "bad", "no route"),
        ("c", "starting: weights", "moving", ""),
    ]
    assert rows[0].figures is not None
    assert (rows[0].figures.requests.running, rows[0].figures.throughput.generation_tokens_per_second) == (3, 10)
    assert rows[0].figures.latency.ttft.p99_ms is None
    assert rows[1].figures is rows[2].figures is None
    total = in_total(seen)
    assert total is not None
    assert total.requests.running == 3
    assert in_total(window(subject("engine:b"), engines=[watch(dead, answers=False)])) is None


def test_a_dead_engine_says_why_and_a_stuck_one_for_how_long() -> None:
    dead = view("a", EngineStatus.STOPPED, failure=DIED, measured_bytes=7, devices=("0",))
    stuck = view("b")
    rows = engine_rows(window(engines=[watch(stuck, stuck_s=130.0)]), [dead, stuck])
    assert (rows[0].state, rows[0].level, rows[0].trouble) == ("failed", "bad", "it died")
    assert (rows[0].suggestion, rows[0].memory_bytes, rows[0].devices) == ("load it again", None, ())
    assert (rows[1].state, rows[1].level) == ("stuck for 130 s", "bad")


def test_an_address_that_is_watched_without_being_an_engine_has_a_row() -> None:
    other = EngineWatch(engine_id="endpoint", name="http://host:1/metrics", answers=True)
    (row,) = engine_rows(window(subject("engine:http://host:1/metrics"), engines=[other]), [])
    assert (row.name, row.state) == ("http://host:1/metrics", "answers")
    assert row.figures is not None


def phases(*times: tuple[Phase, float]) -> StartFacts:
    return StartFacts(phases=tuple(PhaseTime(phase=phase, seconds=seconds) for phase, seconds in times))


def test_a_start_tells_what_is_over_what_is_under_way_and_what_usually_follows() -> None:
    begun = phases((Phase.LAUNCH, 1.0), (Phase.CONFIG, 2.0), (Phase.DOWNLOAD, 3.0))
    loading = view(
        "a", EngineStatus.STARTING, phase=Phase.WEIGHTS, phase_detail="45% (3/7)", start_facts=begun, elapsed_s=9.0
    )
    ready = view("b", phase=Phase.READY, start_facts=phases((Phase.LAUNCH, 1.0), (Phase.SERVER, 2.0)), elapsed_s=3.0)
    waiting = view("c", EngineStatus.QUEUED)
    failed = view("d", EngineStatus.STOPPED, failure=DIED, phase=Phase.PROFILE, start_facts=phases((Phase.LAUNCH, 1.0)))
    died = view("e", EngineStatus.STOPPED, failure=DIED, start_facts=begun, ready_at=1.0)
    rows = start_rows([ready, loading, waiting, failed, died, view("remote", remote=True)])
    told = {one.name: [(phase.phase, phase.state, phase.seconds) for phase in one.phases] for one in rows}
    assert [(one.name, one.state) for one in rows] == [
        *(("a", "runs"), ("c", "waits")),
        *(("b", "done"), ("d", "failed")),
    ]
    assert told["a"] == [
        *(("launch", "done", 1.0), ("config", "done", 2.0), ("download", "done", 3.0), ("weights", "now", None)),
        *((name, "to come", None) for name in ("profile", "graphs", "server")),
    ]
    assert (rows[0].detail, rows[0].elapsed_s) == ("45% (3/7)", 9.0)
    assert told["b"] == [("launch", "done", 1.0), ("server", "done", 2.0)]
    assert [state for _, state, _ in told["c"]] == ["to come"] * 6
    assert told["d"] == [("launch", "done", 1.0), ("profile", "failed", None)]


def test_gpus_are_in_order_and_of_a_lost_one_only_that_is_told() -> None:
    devices = [Device(id=n, kind="cuda", name="H100", total_bytes=1, free_bytes=1) for n in ("2", "10")]
    seen = window(
        subject("gpu:10", gpu_lost=1.0, gpu_utilization_percent=50.0),
        subject("gpu:2", gpu_lost=0.0, gpu_power_watts=310.0, gpu_throttled=1.0, gpu_throttled_power=1.0),
    )
    gone = view("b", EngineStatus.STOPPED, devices=("2",))
    two, ten = gpu_rows(seen, devices, [view("a", devices=("2", "10")), gone])
    assert (two.id, two.name, two.lost, two.power_watts, two.utilization_percent) == ("2", "H100", False, 310.0, None)
    assert (two.throttled_by, two.engines) == ("power", ("a",))
    assert (ten.id, ten.lost, ten.utilization_percent) == ("10", True, None)
    assert host_row(seen) is None


def series(name: str, *points: tuple[float, float | None]) -> list[Series]:
    return [Series(subject="engine:a", name=name, resolution_s=10.0, points=points)]


def test_a_chart_has_gaps_in_its_units_and_says_itself_in_words() -> None:
    told = series("p99:e2e_request_latency_seconds", (905, 1.0), (915, 2.0), (955, 4.0), (965, None), (995, 0.5))
    (drawn,) = charts_of(told, 900, 1000)
    (line,) = drawn.lines
    assert (drawn.title, drawn.unit) == ("Whole answer", "s")
    assert [value for value in line.values if math.isfinite(value)] == [1, 2, 4, 0.5]
    assert [at_s for at_s, value in zip(line.times, line.values, strict=True) if math.isfinite(value)] == [
        *(5, 15, 55, 95),
    ]
    assert not math.isfinite(line.values[line.times.index(55.0) - 1])  # 40 s without a look are a gap
    assert (line.now, line.low, line.high, line.part, line.dashed) == (0.5, 0.5, 4, "p99", True)
    assert drawn.axis[0] == 0 < 4 < drawn.axis[1]
    assert drawn.summary == "Whole answer, the last 1.7 min. a p99: now 0.5 s, from 0.5 to 4 s."


def test_what_was_not_measured_is_no_zero() -> None:
    told = series("rate:generation_tokens", (905, None), (995, None))
    (drawn,) = charts_of(told, 900, 1000)
    assert (drawn.lines[0].now, drawn.lines[0].low, drawn.lines[0].high) == (None, None, None)
    assert drawn.summary.endswith("nothing was measured.")
    assert charts_of([], 900, 1000) == []


def test_shares_are_drawn_on_all_of_their_range() -> None:
    (drawn,) = charts_of(series("kv_cache_usage_perc", (905, 0.0), (995, 0.004)), 900, 1000)
    assert (drawn.axis, drawn.lines[0].now) == ((0, 104), 0.4)


def test_a_line_that_ended_is_not_told_as_if_it_still_held() -> None:
    (drawn,) = charts_of(series("rate:generation_tokens", (905, 7.0), (915, 8.0)), 900, 1000)
    assert (drawn.lines[0].now, drawn.lines[0].high) == (None, 8)
    assert "nothing now, from 7 to 8 tokens/s" in drawn.summary


def test_engines_of_now_are_drawn_before_those_of_then_and_the_host_where_there_is_no_gpu() -> None:
    names = [f"engine:{n:02}" for n in range(MOST_LINES + 3)]
    seen = [subject(name) for name in (*names, "host")]
    last = [EngineWatch(engine_id="e", name=name.removeprefix("engine:"), answers=True) for name in names[-2:]]
    drawn, left_out = subjects_of(seen, last)
    assert drawn == [*names[: MOST_LINES - 2], *names[-2:], "host"]
    assert left_out == 3
    assert subjects_of([subject("gpu:10"), subject("gpu:9"), subject("host")], [])[0] == ["gpu:9", "gpu:10"]


@given(st.lists(st.tuples(st.floats(0, 100), st.none() | st.floats(-1e9, 1e9)), max_size=60))
def test_every_point_is_within_the_axis(points: list[tuple[float, float | None]]) -> None:
    in_order = sorted({round(at_s): value for at_s, value in points}.items())
    told = series("num_requests_running", *((900.0 + at_s, value) for at_s, value in in_order))
    (drawn,) = charts_of(told, 900, 1000)
    low, high = drawn.axis
    assert low < high
    assert all(low <= value <= high for line in drawn.lines for value in line.values if math.isfinite(value))


def test_all_of_a_kind_are_asked_for_in_one_question() -> None:
    """The hub answers 20 names of 20 subjects at most."""
    asked = questions(["engine:a", "engine:b", "gpu:0", "host"])
    assert [subjects for subjects, _ in asked] == [["engine:a", "engine:b"], ["gpu:0"], ["host"]]
    assert all(0 < len(names) == len(set(names)) <= 20 for _, names in asked)
    assert MOST_LINES <= 20


# The process


async def told_when(address: str, holds: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """The figures as soon as `holds` is true of them."""
    begun_s = time.monotonic()
    while True:
        status, text, _ = await asyncio.to_thread(got, address)
        page: dict[str, Any] = json.loads(text) if status == 200 else {}
        if page and holds(page):
            return page
        assert time.monotonic() - begun_s < LIMIT_S, text
        await asyncio.sleep(0.2)


async def test_the_page_is_told_how_the_engines_are_and_that_the_hub_is_gone(desk: MonitorDesk) -> None:
    engine_id = await desk.loaded()
    site = desk.site
    with served(site, "dashboard") as address:
        page = await told_when(f"{address}figures", lambda told: told["engines"] and told["engines"][0]["figures"])
        assert [(one["name"], one["state"]) for one in page["engines"]] == [("org/small", "ready")]
        assert [(one["name"], one["state"]) for one in page["starts"]] == [("org/small", "done")]
        assert [(one["id"], one["name"], one["engines"]) for one in page["gpus"]] == [
            ("0", "Fake H100", ["org/small"]),
            ("1", "Fake H100", []),
        ]
        assert page["engines"][0]["figures"]["latency"]["ttft"]["p99_ms"] is None  # the fake engine measures none
        page = await told_when(f"{address}figures", lambda told: len(told["course"]["charts"]) == 8)
        for seconds in RANGES:
            assert got(f"{address}figures?seconds={seconds}")[0] == 200
        for wrong in ("1", "x", "٣", "9" * 30, "-900"):
            status, text, _ = got(f"{address}figures?seconds={urllib.parse.quote(wrong)}")
            assert (status, "is none of 900" in text) == (400, True)

        for pid in site.members(engine_id):
            os.kill(pid, signal.SIGKILL)
        page = await told_when(f"{address}figures", lambda told: told["engines"][0]["state"] == "failed")
        assert (page["engines"][0]["figures"], page["total"]) == (None, None)
        assert page["engines"][0]["trouble"]

        site.kill_hub()
        await asyncio.sleep(1.1)
        status, text, _ = got(f"{address}figures")
        assert (status, "no hub runs" in json.loads(text)["problem"]) == (503, True)
        assert site.hub_pids() == []  # none was started for that
        async with site.client() as hub:
            await hub.state()
        await told_when(f"{address}figures", lambda told: told["gpus"])


def test_its_files_may_do_nothing_but_show_the_figures_to_this_machine(site: HubSite) -> None:
    with served(site, "dashboard") as address:
        for path in ("", "dashboard.js", "dashboard.css", "icon.svg", "no-such-file"):
            _, _, headers = got(f"{address}{path}")
            policy = dict(one.strip().split(" ", 1) for one in headers["content-security-policy"].split(";"))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert headers["x-content-type-options"] == "nosniff"
            assert got(f"{address}{path}", Host="evil.example:9401")[0] == 421
        assert got(f"{address}figures", Host="evil.example:9401")[0] == 421
        assert got(f"{address}figures")[2]["cache-control"] == "no-store"
        for path in ("../exporter.py", "..%2fexporter.py", "%2e%2e/exporter.py"):
            assert got(f"{address}{path}")[0] == 404


def test_another_address_than_loopback_needs_a_token_for_the_figures(site: HubSite) -> None:
    command = [sys.executable, "-m", "vllm_performance_monitor", "dashboard", "--host", "0.0.0.0", "--port", "0"]
    refused = subprocess.run(command, env=site.env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (refused.returncode, "VLLM_MCP_TOKEN" in refused.stderr) == (1, True)
    with served(site, "dashboard", "--host", "0.0.0.0", VLLM_MCP_TOKEN="a-token-of-the-tests") as address:
        assert "a-token-of-the-tests" not in address
        here = address.replace("0.0.0.0", "127.0.0.1")
        assert got(f"{here}")[0] == 200  # the files hold nothing
        assert got(f"{here}figures")[0] == 401
        assert got(f"{here}figures?token=a-token-of-the-tests")[0] == 401
        assert got(f"{here}figures", Authorization="Bearer another")[0] == 401
        assert got(f"{here}figures", Authorization="Bearer a-token-of-the-tests")[0] == 503  # let in; no hub runs


def test_it_opens_a_browser_at_its_address_which_has_no_token(site: HubSite, tmp_path: Path) -> None:
    browser, asked = tmp_path / "browser", tmp_path / "asked"
    browser.write_text(f'#!/bin/sh\necho "$@" > {asked}.new && mv {asked}.new {asked}\n')
    browser.chmod(0o755)
    token = {"VLLM_MCP_TOKEN": "a-token-of-the-tests"}
    with served(site, "dashboard", "--open", BROWSER=f"{browser} %s", **token) as address:
        wait_for(asked.exists, "the browser was started")
        assert asked.read_text() == f"{address}\n"
