"""Completion of names in prompts and resource templates: one rule for every server."""

from collections.abc import Awaitable, Callable, Collection

from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from vllm_mcp_protocol.serving.server import SuiteServer

MOST_COMPLETIONS = 100
"""The protocol's limit."""


def complete_names(server: SuiteServer, arguments: Collection[str], names: Callable[[], Awaitable[list[str]]]) -> None:
    """Complete `arguments` by those of `names` that hold what was typed so far; upper and lower case are alike."""

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        if argument.name not in arguments:
            return None
        found = [name for name in await names() if argument.value.lower() in name.lower()]
        return Completion(values=found[:MOST_COMPLETIONS], total=len(found), has_more=len(found) > MOST_COMPLETIONS)
