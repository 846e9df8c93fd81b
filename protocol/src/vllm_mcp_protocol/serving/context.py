"""What a tool may do with its request besides answering: report progress, tell of changes, ask the user."""

from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from vllm_mcp_protocol.serving.server import SuiteServer, ToolContext

__all__ = ["Progress", "can_elicit", "client_is_gone", "notify_resource_updated", "notify_resources_changed"]


class Progress:
    """Progress notifications of one call: always rising, silent when the client did not ask for them."""

    _STEP = 1e-4
    """Share of the total by which a report without progress rises: the protocol demands that it does."""

    def __init__(self, ctx: ToolContext) -> None:
        self._ctx = ctx
        self._last = -1.0

    async def __call__(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report `done` of `total` (same unit). A value that does not rise is nudged, for its message."""
        value = max(float(done), 0.0)
        if value <= self._last:
            value = self._last + self._STEP * (total or 1.0)
        if total is not None:
            value = min(value, total)
        if value <= self._last or _outside(self._ctx):
            return
        self._last = value
        await self._ctx.report_progress(value, total, message)


async def notify_resource_updated(ctx: ToolContext, uri: str) -> None:
    """Tell every subscriber of `uri` that it changed, whichever client made it change."""
    if isinstance(ctx.mcp_server, SuiteServer):
        await ctx.mcp_server.resource_subscriptions.publish(uri)


async def notify_resources_changed(ctx: ToolContext) -> None:
    """Tell that resources appeared or vanished, in the way of the client's era."""
    if _outside(ctx):
        return
    await ctx.notify_resources_changed()
    if _is_handshake_era(ctx):
        await ctx.session.send_resource_list_changed()


def can_elicit(ctx: ToolContext) -> bool:
    """Can this client put a form before its user? (Crush cannot: fall back to `force`.)"""
    if _outside(ctx) or ctx.client_capabilities is None:
        return False
    asking = ctx.client_capabilities.elicitation
    # A bare `elicitation: {}` meant forms before modes existed.
    return asking is not None and (asking.form is not None or asking.url is None)


def client_is_gone(ctx: ToolContext) -> bool:
    """Is this cancellation only the end of the connection (EOF), and nobody's wish?

    Clients kill their stdio servers whenever they end or renew a session (Crush, Claude Code), and what they started
    is to go on. The SDK cancels a running call in both cases and does not say which; its dispatcher knows.
    """
    outbound = getattr(ctx.session, "_request_outbound", None)
    dispatcher = getattr(getattr(outbound, "_inner", outbound), "_dispatcher", None)
    return bool(getattr(dispatcher, "_closed", False))


def _outside(ctx: ToolContext) -> bool:
    """True when the tool was called directly, without a client."""
    return ctx.protocol_version is None


def _is_handshake_era(ctx: ToolContext) -> bool:
    return ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS
