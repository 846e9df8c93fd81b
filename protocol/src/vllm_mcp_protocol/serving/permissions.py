"""Which tools a copy of a server shows and runs. Pure."""

from fnmatch import fnmatchcase
from typing import Protocol

from vllm_mcp_protocol.errors import ToolNotAllowed


class PermissionSettings(Protocol):
    """The part of `Settings` that permissions are read from."""

    @property
    def vllm_mcp_read_only(self) -> bool: ...
    @property
    def vllm_mcp_allowed_tools(self) -> tuple[str, ...] | None: ...
    @property
    def vllm_mcp_denied_tools(self) -> tuple[str, ...]: ...


def refusal(settings: PermissionSettings, tool: str, *, read_only: bool) -> ToolNotAllowed | None:
    """Why `tool` may not be used, or None. Denied globs win over allowed ones."""
    if settings.vllm_mcp_read_only and not read_only:
        return _refused(tool, "VLLM_MCP_READ_ONLY", "true", "tools that change something are switched off")
    denied = settings.vllm_mcp_denied_tools
    if _matches(tool, denied):
        return _refused(tool, "VLLM_MCP_DENIED_TOOLS", ",".join(denied), "it is denied")
    allowed = settings.vllm_mcp_allowed_tools
    if allowed is not None and not _matches(tool, allowed):
        return _refused(tool, "VLLM_MCP_ALLOWED_TOOLS", ",".join(allowed), "it is not among the allowed tools")
    return None


def _matches(tool: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(tool, glob) for glob in globs)


def _refused(tool: str, setting: str, value: str, why: str) -> ToolNotAllowed:
    return ToolNotAllowed(
        f"{tool} may not be used here: {setting}={value}, so {why}.",
        suggestion=f"ask the user; whoever runs this server can change {setting} and restart it",
        tool=tool,
        setting=setting,
        value=value,
    )
