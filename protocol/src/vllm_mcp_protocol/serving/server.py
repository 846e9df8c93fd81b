"""`SuiteServer`: an MCP server whose calls are strict, permitted, audited and answered in one form.

    server = SuiteServer(DESCRIPTION, __version__, settings, audit=log)

    @server.tool("list-models", title="List models", annotations=READ)
    async def list_models(limit: Annotated[int, Field(ge=1, description="Most models")] = 100) -> Models:
        '''Show the models that can be served, loaded or not.'''

Only public hooks of the SDK are overridden: `add_tool` (behind `.tool`), `remove_tool`, `list_tools`,
`call_tool`, `get_prompt`, `run_stdio_async`.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Protocol

from mcp.server import MCPServer, NotificationOptions
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, GetPromptResult, Icon, InputRequiredResult, ToolAnnotations
from mcp_types import Tool as ListedTool

from vllm_mcp_protocol.errors import Refused, SuiteError, ToolNotFound
from vllm_mcp_protocol.redaction import redacted
from vllm_mcp_protocol.serving.description import ServerDescription
from vllm_mcp_protocol.serving.naming import closest, did_you_mean
from vllm_mcp_protocol.serving.permissions import PermissionSettings, refusal
from vllm_mcp_protocol.serving.results import failure_payload
from vllm_mcp_protocol.serving.subscriptions import ResourceSubscriptions
from vllm_mcp_protocol.serving.tools import (
    DESTROY,
    READ,
    WRITE,
    OutputTooLong,
    SuiteTool,
    call_result,
    make_tool,
    open_world,
    success_result,
    too_long,
)

__all__ = ["DESTROY", "READ", "WRITE", "AuditSink", "ServingSettings", "SuiteServer", "ToolContext", "open_world"]

logger = logging.getLogger(__name__)

ToolContext = Context[Any, Any]
"""Annotation for the parameter through which a tool reaches its request. One class for all: each further
parametrization of the SDK's generic costs a pydantic model."""

AuditSink = Callable[[str, dict[str, Any]], None]
"""Takes an event's name and its fields, which are JSON values without secrets."""

Lifespan = Callable[[MCPServer[Any]], AbstractAsyncContextManager[Any]]

_FRESH: Mapping[CacheableMethod, CacheHint] = {
    # The tools of one process never change; an upgraded one is another process, hence minutes and not days.
    "tools/list": CacheHint(ttl_ms=300_000),
    "prompts/list": CacheHint(ttl_ms=300_000),
}


class ServingSettings(PermissionSettings, Protocol):
    """The part of `Settings` that serving reads."""

    @property
    def log_level(self) -> Any: ...


class SuiteServer(MCPServer[Any]):
    """One MCP server of the suite. Made from arguments alone; reads no environment, keeps no globals."""

    def __init__(
        self,
        description: ServerDescription,
        version: str,
        settings: ServingSettings,
        audit: AuditSink | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        self.suite_description = description
        self.refuse_long_output = False
        """Tests set it: a result that is too long is then an error instead of a line in the log."""
        self._permissions: PermissionSettings = settings
        self._audit = audit
        self._tools: dict[str, SuiteTool] = {}
        self.resource_subscriptions = ResourceSubscriptions()
        with _rich_left_alone():
            super().__init__(
                description.name,
                title=description.title,
                description=description.summary,
                instructions=description.instructions,
                version=version,
                lifespan=lifespan,
                log_level=settings.log_level,
                cache_hints=_FRESH,
                subscriptions=self.resource_subscriptions.bus,
            )
        self.resource_subscriptions.serve(self._lowlevel_server)

    def add_tool(
        self,
        fn: Callable[..., Any],
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
    ) -> None:
        """Register `fn`; `description` defaults to its docstring.

        Raises TypeError or ValueError when a rule of the suite is broken: no name, title, docstring or
        annotations, a schema that cannot be flat, a result that is not a `ToolResult`, a name that is taken.
        """
        if name is None or annotations is None:
            raise TypeError(f"{fn.__name__}: a tool has a name and one of READ, WRITE, DESTROY")
        if icons or meta or structured_output is False:
            raise TypeError(f"{name}: icons, meta and unstructured results are not part of the suite")
        if name in self._tools:
            raise ValueError(f"{name} is registered twice")
        text = description or _docstring(fn)
        self._tools[name] = make_tool(fn, name=name, title=title or "", description=text, annotations=annotations)

    def remove_tool(self, name: str) -> None:
        """Take a tool away. Raises ToolNotFound."""
        if name not in self._tools:
            raise self._no_such_tool(name)
        del self._tools[name]

    @property
    def registered_tools(self) -> Mapping[str, SuiteTool]:
        """All tools, also those that permissions hide."""
        return self._tools

    def permitted(self, name: str) -> bool:
        """May the registered tool `name` be used under this server's settings?"""
        return refusal(self._permissions, name, read_only=self._tools[name].read_only) is None

    async def list_tools(self) -> list[ListedTool]:
        """The tools that may be used."""
        return [tool.listed for name, tool in self._tools.items() if self.permitted(name)]

    async def run_stdio_async(self) -> None:
        """Serve stdin and stdout until EOF."""
        from vllm_mcp_protocol.serving.stdio import serve_stdio

        await serve_stdio(self)

    async def serve_connection(self, read: Any, write: Any) -> None:
        """Serve one client on a pair of message streams until the reading one ends; either protocol era."""
        # `MCPServer` offers no run(read, write), so this private name of the SDK is needed.
        options = self._lowlevel_server.create_initialization_options(
            NotificationOptions(tools_changed=True, resources_changed=True)
        )
        await self._lowlevel_server.run(read, write, options)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Run a tool. A failure is a result with `isError`; only protocol errors (`MCPError`) are raised."""
        call = _Call(name, arguments)
        try:
            tool = self._tool(name, call)
            result = await tool.run(arguments, context or Context(mcp_server=self))
            if isinstance(result, InputRequiredResult):
                call.outcome = "asked"
                return result
            answer = self._checked(success_result(tool, result))
            call.outcome = "done"
        except MCPError:
            call.outcome = "failed"
            raise
        except SuiteError as error:
            answer = call.failed(error)
        except ToolError as error:
            # Only the SDK raises it: a question to the user was declined or answered nonsensically.
            answer = call.failed(_as_refused(error))
        except Exception:
            logger.exception("Tool %r raised an unexpected exception", name)
            answer = call.failed(_internal_error(name))
        finally:
            self._record(call)
        return answer

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """A prompt's text. Raises MCPError for an unknown prompt and a missing argument (the SDK: a crash)."""
        prompts = {prompt.name: prompt for prompt in await self.list_prompts()}
        if name not in prompts:
            raise MCPError(INVALID_PARAMS, f"No prompt {name[:100]!r}; there are: {', '.join(prompts) or 'none'}")
        wanted = [argument.name for argument in prompts[name].arguments or () if argument.required]
        missing = [argument for argument in wanted if argument not in (arguments or {})]
        if missing:
            raise MCPError(INVALID_PARAMS, f"{name} needs: {', '.join(missing)}")
        return await super().get_prompt(name, arguments, context)

    def _tool(self, name: str, call: "_Call") -> SuiteTool:
        tool = self._tools.get(name)
        if tool is None:
            raise self._no_such_tool(name)
        call.mutates = not tool.read_only
        if (refused := refusal(self._permissions, name, read_only=tool.read_only)) is not None:
            raise refused
        return tool

    def _no_such_tool(self, name: str) -> ToolNotFound:
        known = [tool for tool in self._tools if self.permitted(tool)]
        close = closest(name.replace("_", "-").lower(), known, cutoff=0.4)
        return ToolNotFound(
            f"{self.suite_description.name} has no tool {name[:100]!r}.{did_you_mean(close)}",
            suggestion=f"call {close}" if close else "list the tools",
            tool=name[:100],
            closest=close,
            known=known,
        )

    def _checked(self, answer: CallToolResult) -> CallToolResult:
        problem = too_long(answer)
        if problem is not None:
            if self.refuse_long_output:
                raise OutputTooLong(problem)
            # The work is done and may not be repeatable: outside tests a long answer is better than none.
            logger.error("%s", problem)
        return answer

    def _record(self, call: "_Call") -> None:
        if self._audit is None or not call.recorded:
            return
        try:
            self._audit("tool", call.fields())
        except OSError:
            # What happened has happened; a full disk must not turn it into a failure for the caller.
            logger.exception("The audit log refused a line")


@contextmanager
def _rich_left_alone() -> Iterator[None]:
    """Keep the SDK's constructor from importing rich.

    Where rich is installed, the SDK imports it for a log handler that nobody sees, because logging is configured
    by then: 40 ms of each start. An ImportError is the case that it provides for.
    """
    if "rich.console" in sys.modules:
        yield
        return
    sys.modules["rich.console"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["rich.console"]


class _Call:
    """What the audit log will say about one call."""

    def __init__(self, tool: str, arguments: Mapping[str, Any]) -> None:
        self.tool = tool
        self.arguments = arguments
        self.mutates = False
        self.outcome = "cancelled"
        self.code: str | None = None
        self._started_s = time.monotonic()

    @property
    def recorded(self) -> bool:
        """Mutations and refused calls are; reads are not."""
        return self.mutates or self.outcome == "refused"

    def failed(self, error: SuiteError) -> CallToolResult:
        """Note the failure, and its wire form."""
        self.outcome = "refused" if isinstance(error, Refused) else "failed"
        self.code = error.info.code
        return call_result(failure_payload(error.info), is_error=True)

    def fields(self) -> dict[str, Any]:
        """The audit line's fields."""
        return {
            "tool": self.tool[:100],
            "outcome": self.outcome,
            "code": self.code,
            "duration_s": round(time.monotonic() - self._started_s, 3),
            "arguments": {name: redacted(name, value) for name, value in self.arguments.items()},
        }


def _docstring(fn: Callable[..., Any]) -> str:
    """The docstring with one line a paragraph: where the source breaks lines is nobody's business."""
    from inspect import getdoc

    paragraphs = (getdoc(fn) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _as_refused(error: ToolError) -> SuiteError:
    return Refused(
        f"The question to the user was not answered with yes: {error}.",
        suggestion="ask the user in your own words, then call again with force=true if they agree",
    )


def _internal_error(tool: str) -> SuiteError:
    return SuiteError(
        f"{tool} failed unexpectedly.",
        suggestion="the server's log (stderr) has the traceback; `vllm-mcp doctor` checks the installation",
        tool=tool,
    )
