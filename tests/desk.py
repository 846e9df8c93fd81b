"""One server and one client for a test: calls tools, and holds every answer against the rules of the interface."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from mcp import Client

from tests.hubs import HubSite
from vllm_mcp_protocol.serving.server import SuiteServer

BuildServer = Callable[..., SuiteServer]


class Desk:
    """A server on a site's hub. A subclass names the server's `build_server`."""

    build: ClassVar[BuildServer]

    def __init__(self, site: HubSite, mode: str, project: Path) -> None:
        self.site = site
        self.mode = mode
        self.project = project
        self.progress: list[tuple[float, float | None, str | None]] = []
        self.server: SuiteServer
        self.client: Client

    @asynccontextmanager
    async def open(
        self, *, hub: bool = True, variables: dict[str, str] | None = None, **more: Any
    ) -> AsyncIterator[Self]:
        """Serve and connect. `hub=False`: the server makes its own connection, as in real life."""
        settings = self.site.settings(**(variables or {}))
        self.server = type(self).build(settings, self.site.client() if hub else None, project_dir=self.project)
        self.server.refuse_long_output = True
        async with Client(self.server, mode=self.mode, **more) as self.client:
            yield self

    async def answer(self, tool: str, **arguments: Any) -> tuple[bool, dict[str, Any]]:
        """Whether it failed, and the object that it answered."""
        result = await self.client.call_tool(tool, arguments, progress_callback=self._note)
        payload = result.structured_content
        assert payload is not None
        assert [json.loads(block.text) for block in result.content if block.type == "text"] == [payload]
        assert payload["success"] is not result.is_error
        return bool(result.is_error), payload

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The result of a call that succeeds."""
        failed, payload = await self.answer(tool, **arguments)
        assert not failed, payload
        return payload

    async def fail(self, tool: str, code: str, **arguments: Any) -> dict[str, Any]:
        """The error of a call that fails with `code`; it always says what to do next."""
        failed, payload = await self.answer(tool, **arguments)
        assert failed, payload
        error: dict[str, Any] = payload["error"]
        assert error["code"] == code, error
        assert error["details"].get("suggestion"), error
        return error

    async def _note(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, total, message))
