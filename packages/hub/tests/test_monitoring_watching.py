"""Under which names engines are watched, by values and by a hub with engines that run elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.fakes.scripted_server import Request, scripted
from tests.hubs import HubSite
from vllm_mcp_hub.core.monitoring.naming import Served, told_apart
from vllm_mcp_protocol.monitoring import MonitoringWish

pytestmark = pytest.mark.anyio

A, B, C = (Served(engine_id, "m/a") for engine_id in ("e1", "e2", "e3"))


def test_an_engine_keeps_its_name_and_a_free_one_goes_to_the_next() -> None:
    names = told_apart({}, [A, B], {A, B})
    assert names == {A: "m/a", B: "m/a (2)"}
    names = told_apart(names, [B], {A, B})
    assert names == {A: "m/a", B: "m/a (2)"}, "the dead one is still told by its name"
    names = told_apart(names, [B, C], {A, B, C})
    assert names == {A: "m/a", B: "m/a (2)", C: "m/a"}, "what is started anew goes on where the dead one was"
    assert told_apart(names, [B], {B}) == {B: "m/a (2)"}


def test_an_engine_that_serves_something_else_has_another_name() -> None:
    names = told_apart({}, [A], {A})
    changed = Served(A.id, "m/b")
    assert told_apart(names, [changed], {changed}) == {changed: "m/b"}


@asynccontextmanager
async def engine(model: str, running: int) -> AsyncIterator[str]:
    """Somebody who looks like vLLM from outside: its address."""
    answers = {
        "/health": b"",
        "/v1/models": json.dumps({"object": "list", "data": [{"id": model, "object": "model"}]}).encode(),
        "/metrics": f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running {running}\n".encode(),
    }

    async def script(request: Request) -> None:
        body = answers.get(request.path)
        if body is None:
            await request.refuse(404, "nothing")
        else:
            await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with scripted(script) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture
def site() -> Iterator[HubSite]:
    made = HubSite(gpus=0)
    yield made
    made.close()


async def test_two_engines_that_serve_the_same_are_told_apart(site: HubSite) -> None:
    async with engine("m/a", 4) as one, engine("m/a", 8) as other, site.client() as hub:
        await hub.set_monitoring(MonitoringWish(interval_ms=200))
        await hub.attach(one)
        await hub.attach(other)
        found: dict[str, float] = {}
        try:
            with anyio.fail_after(60):
                while len(found) < 2:
                    window = await hub.metrics(60)
                    found = {
                        subject.subject: subject.gauges["num_requests_running"].last
                        for subject in window.subjects
                        if subject.subject.startswith("engine:")
                    }
                    await asyncio.sleep(0.1)
        finally:
            site.kill_hub()  # the engines end when nobody holds a connection to them
        assert found == {"engine:m/a": 4.0, "engine:m/a (2)": 8.0}
        assert [watch.name for watch in window.engines] == ["m/a", "m/a (2)"]
