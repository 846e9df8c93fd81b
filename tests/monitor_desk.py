"""The monitor's server on a test's hub, which looks often."""

from tests.desk import Desk
from tests.hubs import wish
from vllm_performance_monitor.server import build_server

LIMIT_S = 20.0
QUICK = {"MONITOR_INTERVAL_MS": "200"}


class MonitorDesk(Desk):
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
