"""The server: settings and hub in, tools out. Reads no environment and keeps nothing outside of the object."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer

from vllm_auto_discovery import __version__, resources
from vllm_auto_discovery.description import DESCRIPTION
from vllm_auto_discovery.tools import delete, describe, discover, download, engines, sync, verify
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.audit import AuditLog
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.paths import state_dir
from vllm_mcp_protocol.serving.server import SuiteServer
from vllm_mcp_protocol.settings import Settings


def build_server(settings: Settings, hub: Hub | None = None, project_dir: Path | None = None) -> SuiteServer:
    """A server for one set of settings.

    `hub`: connected to at the first call that needs it; by default the one of `settings`. `project_dir`: the folder
    whose client configurations are written, and in which models may lie; by default the working folder, unless that
    is `/`, which confines nothing.
    """
    connection = hub if hub is not None else Hub(settings, client=DESCRIPTION.name)
    log = AuditLog(state_dir(settings) / "audit.jsonl")
    work = Workplace(settings, connection, project_dir or _working_folder())

    @asynccontextmanager
    async def lifespan(_: MCPServer[Any]) -> AsyncIterator[None]:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(resources.refresh_for_ever, server, work)
                yield
                group.cancel_scope.cancel()
        finally:
            await connection.aclose()

    server = SuiteServer(
        DESCRIPTION,
        __version__,
        settings,
        audit=lambda event, fields: log.write(event, server=DESCRIPTION.name, **fields),
        lifespan=lifespan,
    )
    for module in (discover, describe, engines, download, verify, delete, sync):
        module.register(server, work)
    resources.register(server, work)
    return server


def _working_folder() -> Path | None:
    folder = Path.cwd()
    return None if folder == Path(folder.anchor) else folder
