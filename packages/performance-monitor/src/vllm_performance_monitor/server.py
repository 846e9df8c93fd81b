"""The server: settings and hub in, tools out. Reads no environment and keeps nothing outside of the object."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp.server import MCPServer

from vllm_mcp_protocol.audit import AuditLog
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.paths import state_dir
from vllm_mcp_protocol.serving.server import SuiteServer
from vllm_mcp_protocol.settings import Settings
from vllm_performance_monitor import __version__, resources
from vllm_performance_monitor.benchmarking.jobs import Jobs
from vllm_performance_monitor.description import DESCRIPTION
from vllm_performance_monitor.tools import alerts, benchmarks, hardware, metrics, trends
from vllm_performance_monitor.workplace import Workplace


def build_server(settings: Settings, hub: Hub | None = None, project_dir: Path | None = None) -> SuiteServer:
    """A server for one set of settings.

    `hub`: connected to at the first call that needs it; by default the one of `settings`. `project_dir`: as every
    server of the suite is given it; nothing here depends on it.
    """
    del project_dir
    work = Workplace(settings, hub if hub is not None else Hub(settings, client=DESCRIPTION.name))
    jobs = Jobs()
    log = AuditLog(state_dir(settings) / "audit.jsonl")

    @asynccontextmanager
    async def lifespan(_: MCPServer[Any]) -> AsyncIterator[None]:
        async with resources.kept_up_to_date(server, work):
            try:
                yield
            finally:
                await jobs.aclose()
                await work.hub.aclose()

    server = SuiteServer(
        DESCRIPTION,
        __version__,
        settings,
        audit=lambda event, fields: log.write(event, server=DESCRIPTION.name, **fields),
        lifespan=lifespan,
    )
    for module in (metrics, hardware, alerts, trends):
        module.register(server, work)
    benchmarks.register(server, work, jobs)
    resources.register(server, work)
    return server
