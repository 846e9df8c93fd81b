"""A real hub with fake GPUs and fake engines, watched often, and the monitor with its clients."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.desk import Desk as BareDesk
from tests.hubs import HubSite, wish
from vllm_performance_monitor.server import build_server

LIMIT_S = 20.0
QUICK = {"MONITOR_INTERVAL_MS": "200"}


class Desk(BareDesk):
    """The monitor."""

    build = staticmethod(build_server)

    async def loaded(self, model: str = "org/small") -> str:
        """The id of an engine that serves."""
        async with self.site.client() as hub:
            view = (await hub.load(wish(model))).engine
            assert view is not None
            while view.status != "ready":
                view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=LIMIT_S)
            return view.id


@pytest.fixture
def site() -> Iterator[HubSite]:
    made = HubSite(gpus=2)
    yield made
    made.close()


@pytest.fixture
def new_desk(site: HubSite, tmp_path: Path) -> Callable[..., Desk]:
    return lambda mode="auto": Desk(site, mode, tmp_path)


@pytest.fixture
async def desk(new_desk: Callable[..., Desk]) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(new_desk().open(variables=QUICK))
