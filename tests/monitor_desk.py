"""The monitor's server on a test's hub, which looks often, and what it serves by hand."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message

from tests.desk import Desk
from tests.hubs import HubSite, wish
from vllm_performance_monitor.server import build_server

LIMIT_S = 60.0
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


@contextmanager
def served(site: HubSite, command: str, *words: str, **variables: str) -> Iterator[str]:
    """The address at which a running `exporter` or `dashboard` says it listens."""
    line = [sys.executable, "-m", "vllm_performance_monitor", command, "--port", "0", *words]
    with subprocess.Popen(line, env=site.env | QUICK | variables, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert "listens on http://" in said, said
            yield said.rpartition(" ")[2].strip()
        finally:
            process.terminate()
            assert process.wait(LIMIT_S) == -signal.SIGTERM  # as uvicorn ends


def got(address: str, **headers: str) -> tuple[int, str, Message]:
    """Status, text and headers."""
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers
