"""Resources: what was saved, for clients that pick rather than call."""

from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from vllm_mcp_protocol.errors import NotThere, SuiteError
from vllm_mcp_protocol.serving.completion import complete_names
from vllm_mcp_protocol.serving.results import compact_json
from vllm_mcp_protocol.serving.server import SuiteServer
from vllm_state_persistence.tools.look import capture_of, newest, row_of
from vllm_state_persistence.tools.save import SESSIONS_URI
from vllm_state_persistence.workplace import Workplace

_MOST_SESSIONS = 40


def register(server: SuiteServer, work: Workplace) -> None:
    """Add all of them."""

    @server.resource(SESSIONS_URI, name="sessions", title="Saved sessions", mime_type="application/json")
    async def sessions() -> str:
        """The newest snapshot of each session."""
        try:
            page = await (await work.store()).sessions()
        except SuiteError as error:
            raise ResourceError(str(error)) from error
        rows = [row_of(info).model_dump(mode="json") for info in page.items[:_MOST_SESSIONS]]
        return compact_json({"sessions": rows, "not_shown": max(0, len(page.items) - _MOST_SESSIONS)})

    # {+…} lets an id contain slashes.
    @server.resource(
        "state://session/{+session_id}/summary",
        name="session-summary",
        title="A saved session",
        mime_type="application/json",
    )
    async def summary(session_id: str) -> str:
        """The newest snapshot of a session, and the engines that it holds."""
        try:
            info = await newest(work, session_id)
            capture = await capture_of(await (await work.store()).load(info.state_id))
        except NotThere as error:
            raise ResourceNotFoundError(str(error)) from error
        except SuiteError as error:
            raise ResourceError(str(error)) from error
        return compact_json(row_of(info, capture).model_dump(mode="json"))

    async def names() -> list[str]:
        try:
            return [info.session_id for info in (await (await work.store()).sessions()).items]
        except SuiteError:
            return []  # without a key there is nothing to choose from; the tools say why

    complete_names(server, ("session_id",), names)
