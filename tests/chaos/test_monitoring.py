"""Monitoring by a hub that is asked by many, started twice and killed: looks, history, and news of alerts."""

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Callable

import anyio
import pytest

from tests.chaos.test_hub import CLIENT, answers
from tests.chaos.waiting import ready
from tests.fakes.scripted_server import Request, scripted
from tests.hubs import HubSite
from vllm_mcp_hub.core.monitoring.timeline import RAW, TIERS
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.monitoring import MonitoringWish

pytestmark = pytest.mark.anyio

LIMIT_S = 60.0
ASK_ON = CLIENT + (
    "async def act(hub):\n"
    "    found = []\n"
    "    for _ in range(15):\n"
    "        window = await hub.metrics(60)\n"
    "        found.append(sorted(one.name for one in window.engines))\n"
    "        await asyncio.sleep(0.2)\n"
    "    return found\n"
    "asyncio.run(main())"
)
HUB = "import runpy\nrunpy.run_module('vllm_mcp_hub', run_name='__main__')"


def configure(site: HubSite, **values: object) -> None:
    """Add to the hub's table [monitoring]."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    config = site.state / "hub.toml"
    config.write_text("\n".join([config.read_text(), "[monitoring]", *lines, ""]))


def looks(site: HubSite, subject: str) -> list[float]:
    """When it was looked at, as it was written down."""
    query = "SELECT at FROM points JOIN subjects ON id = subject WHERE tier = ? AND name = ? ORDER BY at"
    link = sqlite3.connect(f"file:{site.state / 'metrics.db'}?mode=ro", uri=True)
    try:
        return [at_s for (at_s,) in link.execute(query, (TIERS.index(RAW), subject))]
    finally:
        link.close()


async def test_each_look_is_made_once_whoever_asks_and_starts_hubs(site: HubSite) -> None:
    """A hub looks when it begins, and then once in an hour: any other look is one that somebody caused."""

    async def script(request: Request) -> None:
        text = b"vllm:num_requests_running 1\n"
        await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    async with scripted(script) as engine:
        url = f"http://127.0.0.1:{engine.port}"
        configure(site, interval_ms=3_600_000, endpoint=url)
        async with site.client() as hub:
            name = await looked_at(hub, 1)
            pid = hub.hub_pid
            asking = [site.run(ASK_ON) for _ in range(10)]
            rivals = [site.run(HUB) for _ in range(3)]
            assert await asyncio.to_thread(answers, asking) == [[[name]] * 15] * 10
            for rival in rivals:
                await asyncio.to_thread(rival.communicate, timeout=LIMIT_S)
                assert rival.returncode == 0, "it is not the hub, and leaves"
        assert site.hub_pids() == [pid]
        subjects = (f"engine:{name}", "gpu:0", "host")
        await until(lambda: all(looks(site, subject) for subject in subjects))  # they are written down meanwhile
        site.kill_hub()
        async with site.client() as hub:
            await looked_at(hub, 2)
            await until(lambda: all(len(looks(site, subject)) >= 2 for subject in subjects))
        assert [request.path for request in engine.requests] == ["/metrics"] * 2
    for subject in subjects:
        assert len(looks(site, subject)) == 2, "one of each hub"


async def looked_at(hub: Hub, times: int) -> str:
    """The one engine, when so many looks at it are known."""
    with anyio.fail_after(LIMIT_S):
        while True:
            window = await hub.metrics(3600)
            for watch in window.engines:
                if [one.looks for one in window.subjects if one.subject == f"engine:{watch.name}"] == [times]:
                    return watch.name
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "content", [b"[engine-down]\nthreshhold = 1\n", b"kv-pressure = 90", b"\xff\xfe", b"[[", b"#" * 2**21]
)
async def test_a_rules_file_that_cannot_be_used_is_told_and_holds_up_nobody(site: HubSite, content: bytes) -> None:
    configure(site, interval_ms=200)
    rules = site.state / "alert-rules.toml"
    rules.write_bytes(content)
    async with site.client() as hub:
        view = await hub.alerts()
        assert f"{rules} cannot be used" in view.note
        assert "kv-pressure" in [rule.name for rule in view.rules]
        rules.write_text("[kv-pressure]\nthreshold = 91\n")  # as it is then, without a word to the hub
        with anyio.fail_after(LIMIT_S):
            while [rule.threshold for rule in view.rules if rule.name == "kv-pressure"] != [91]:
                await asyncio.sleep(0.1)
                view = await hub.alerts()
        assert not view.note


class Receiver:
    """A webhook that is out of order at first."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.taken: list[dict[str, object]] = []

    async def __call__(self, request: Request) -> None:
        if self.refusals:
            self.refusals -= 1
            await request.refuse(503, "not now")
            return
        self.taken.append(request.body)
        await request.send(b"HTTP/1.1 204 No Content\r\n\r\n")


def told(news: list[dict[str, object]], rule: str) -> list[object]:
    """The kinds of what was told of a rule, in order, repetitions (the same id) left out."""
    return list({one["id"]: one["kind"] for one in news if one["rule"] == rule}.values())


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.1)


async def test_news_reach_both_hooks_in_order_through_refusals_and_a_hub_that_dies(site: HubSite) -> None:
    heard = site.folder / "heard.jsonl"
    receiver = Receiver(refusals=1)
    (site.state / "alert-rules.toml").write_text(
        "[engine-down]\nfor_seconds = 0\nclear_for_seconds = 0\n"
        '[any-disk]\nmetric = "disk_used"\nthreshold = 0.001\nfor_seconds = 0\nseverity = "info"\n'
    )
    async with scripted(receiver) as server:
        keep = f"cat >> {heard}; echo >> {heard}"
        configure(
            site, interval_ms=200, webhook=f"http://127.0.0.1:{server.port}/alerts", command=["/bin/sh", "-c", keep]
        )

        def commanded() -> list[dict[str, object]]:
            return [json.loads(line) for line in heard.read_text().splitlines()] if heard.exists() else []

        async with site.client() as hub:
            engine = await ready(hub, "org/a")
            await until(lambda: told(receiver.taken, "any-disk") == ["raised"] == told(commanded(), "any-disk"))
            for pid in site.members(engine):
                os.kill(pid, signal.SIGKILL)
            await until(lambda: told(receiver.taken, "engine-down") == ["raised"])
        site.kill_hub()
        async with site.client() as hub:
            await ready(hub, "org/a")
            both = ["raised", "cleared"]
            await until(lambda: told(receiver.taken, "engine-down") == both == told(commanded(), "engine-down"))
            active = [(one.rule, one.subject) for one in (await hub.alerts()).active]
        assert active == [("any-disk", "host")], "the other is over, and this one was not raised again"
        assert told(receiver.taken, "any-disk") == ["raised"] == told(commanded(), "any-disk")
        assert receiver.taken[0]["message"]
        assert {"id", "kind", "rule", "severity", "subject", "value", "threshold"} <= receiver.taken[0].keys()


@pytest.mark.parametrize("seen", [True, False])
async def test_an_engine_that_died_is_missed_by_the_next_hub_too(site: HubSite, *, seen: bool) -> None:
    """Whether the hub saw it die, or died with it."""
    configure(site, interval_ms=200)
    (site.state / "alert-rules.toml").write_text("[engine-down]\nfor_seconds = 0\nclear_for_seconds = 0\n")
    async with site.client() as hub:
        engine = await ready(hub, "org/a")
    if not seen:
        site.kill_hub()
    for pid in site.members(engine):
        os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        async with site.client() as hub:
            with anyio.fail_after(LIMIT_S):
                while not (view := await hub.alerts()).active:
                    await asyncio.sleep(0.1)
            enough = len(looks(site, "host")) + 30  # for more than one evaluation
            with anyio.fail_after(LIMIT_S):
                while len(looks(site, "host")) < enough:
                    await asyncio.sleep(0.1)
            view = await hub.alerts()
            assert [(one.rule, one.subject) for one in view.active] == [("engine-down", "engine:org/a")]
        site.kill_hub()
    async with site.client() as hub:
        await ready(hub, "org/a")
        with anyio.fail_after(LIMIT_S):
            while (view := await hub.alerts()).active:
                await asyncio.sleep(0.1)
    assert [one["kind"] for one in view.changes if one["rule"] == "engine-down"] == ["raised", "cleared"]


async def test_an_audit_log_that_cannot_be_written_stops_no_alert(site: HubSite) -> None:
    configure(site, interval_ms=200)
    (site.state / "audit.jsonl").mkdir()
    (site.state / "alert-rules.toml").write_text(
        '[any-disk]\nmetric = "disk_used"\nthreshold = 0.001\nfor_seconds = 0\n'
    )
    async with site.client() as hub:
        with anyio.fail_after(LIMIT_S):
            while not (await hub.alerts()).active:
                await asyncio.sleep(0.1)
        pids, enough = site.hub_pids(), len(looks(site, "host")) + 3
        await hub.set_monitoring(MonitoringWish(interval_ms=300))
        await hub.set_alert_rule("any-disk", {"threshold": 0.002})
        await until(lambda: len(looks(site, "host")) > enough)
        assert site.hub_pids() == pids == [hub.hub_pid]
