"""Who wants to hear that a resource changed, and telling them: from a task of the server's own, in both protocol eras.

2026-07-28 has one stream for it (`subscriptions/listen`), which the SDK serves from a bus. Before, a client named each
resource by `resources/subscribe`; the SDK's MCPServer leaves that to its owner, so it is here.
"""

from typing import Any

from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated
from mcp_types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

MOST_URIS = 1000
"""Per client; more is a client that has gone mad, and its oldest wish is forgotten."""

_Request = ServerRequestContext[Any, Any]


class ResourceSubscriptions:
    """The subscribers of one server object."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self._wanted: dict[Connection, dict[str, None]] = {}

    def serve(self, server: Server[Any]) -> None:
        """Answer `resources/subscribe` and `resources/unsubscribe` of the eras before 2026-07-28."""
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)

    async def publish(self, uri: str) -> None:
        """Tell everybody who wants to know that the resource at `uri` changed. Never raises for one who is gone."""
        await self.bus.publish(ResourceUpdated(uri))
        for connection in [client for client, uris in self._wanted.items() if uri in uris]:
            await connection.send_resource_updated(uri)

    async def _subscribe(self, ctx: _Request, params: SubscribeRequestParams) -> EmptyResult:
        connection = _connection(ctx)
        if connection not in self._wanted:
            self._wanted[connection] = {}
            connection.exit_stack.callback(self._wanted.pop, connection, None)
        uris = self._wanted[connection]
        uris[str(params.uri)] = None
        if len(uris) > MOST_URIS:
            del uris[next(iter(uris))]
        return EmptyResult()

    async def _unsubscribe(self, ctx: _Request, params: UnsubscribeRequestParams) -> EmptyResult:
        self._wanted.get(_connection(ctx), {}).pop(str(params.uri), None)
        return EmptyResult()


def _connection(ctx: _Request) -> Connection:
    # The session is made anew for each request and keeps what lasts in this attribute alone.
    return ctx.session._connection
