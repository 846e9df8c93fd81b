"""Asking the hub for many: one question at a time, whose answer holds."""

import asyncio
from typing import Any, cast

import pytest

from vllm_mcp_protocol.errors import HubUnavailable
from vllm_mcp_protocol.monitoring import MonitoringWindow
from vllm_performance_monitor.serving import Held, Untold, glance
from vllm_performance_monitor.workplace import Workplace

pytestmark = pytest.mark.anyio


class SlowHub:
    """Stands where the hub does, and counts."""

    def __init__(self) -> None:
        self.asked, self.fails, self.interval_s = 0, False, 5.0

    async def window(self, duration_s: float) -> MonitoringWindow:
        self.asked += 1
        await asyncio.sleep(0.05)
        if self.fails:
            raise HubUnavailable("no hub runs")
        return MonitoringWindow(at_s=1000, duration_s=duration_s, interval_s=self.interval_s)

    async def alerts(self) -> Any:
        return None

    async def state(self) -> Any:
        return None

    @property
    def hub(self) -> "SlowHub":
        return self


async def test_many_looks_are_one_question_for_a_second_also_when_it_fails() -> None:
    hub = SlowHub()
    held = Held(lambda: glance(cast(Workplace, hub)))
    answers = await asyncio.gather(*(held.now() for _ in range(20)))
    assert (hub.asked, {id(one) for one in answers}) == (1, {id(answers[0])})
    hub.fails = True
    await asyncio.sleep(1.1)
    failed = await asyncio.gather(*(held.now() for _ in range(20)), return_exceptions=True)
    assert hub.asked == 2
    assert all(isinstance(one, Untold) and "no hub runs" in str(one) for one in failed)


async def test_an_answer_holds_as_long_as_was_said_and_a_failure_for_a_second() -> None:
    hub = SlowHub()
    hub.fails = True
    held = Held(lambda: glance(cast(Workplace, hub)), holds_s=3600)
    with pytest.raises(Untold):
        await held.now()
    hub.fails = False
    await asyncio.sleep(1.1)
    await held.now()
    await asyncio.sleep(1.1)
    await held.now()
    assert hub.asked == 2


async def test_a_hub_that_looks_seldom_is_asked_for_more_than_a_minute() -> None:
    hub = SlowHub()
    hub.interval_s = 100.0
    assert (await glance(cast(Workplace, hub))).window.duration_s == 400
