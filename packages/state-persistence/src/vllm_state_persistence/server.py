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
from vllm_state_persistence import __version__, resources
from vllm_state_persistence.description import DESCRIPTION
from vllm_state_persistence.tools import keep, look, remove, restore, save
from vllm_state_persistence.workplace import Workplace


def build_server(settings: Settings, hub: Hub | None = None, project_dir: Path | None = None) -> SuiteServer:
    """A server for one set of settings.

    `hub`: connected to at the first call that needs it; by default the one of `settings`. `project_dir`: the folder
    whose sessions are meant; by default the working folder, unless that is `/`.
    """
    connection = hub if hub is not None else Hub(settings, client=DESCRIPTION.name)
    log = AuditLog(state_dir(settings) / "audit.jsonl")
    work = Workplace(settings, connection, project_dir or _working_folder())

    @asynccontextmanager
    async def lifespan(_: MCPServer[Any]) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await work.aclose()

    server = SuiteServer(
        DESCRIPTION,
        __version__,
        settings,
        audit=lambda event, fields: log.write(event, server=DESCRIPTION.name, **fields),
        lifespan=lifespan,
    )
    for module in (save, restore, remove, look, keep):
        module.register(server, work)
    resources.register(server, work)
    return server


def _working_folder() -> Path | None:
    folder = Path.cwd()
    return None if folder == Path(folder.anchor) else folder
