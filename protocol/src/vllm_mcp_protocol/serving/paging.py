"""Long lists in pages that stay below the size limit of a tool's output. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from vllm_mcp_protocol.errors import BadInput

Item = TypeVar("Item")

PAGE_LIMIT_BYTES = 17_000
"""Of the 20 KB that a result may have; the rest is for what stands around the list."""


def page(
    items: Sequence[Item], *, limit: int, cursor: str | None, key: Callable[[Item], str], size: Callable[[Item], int]
) -> tuple[list[Item], str | None]:
    """At most `limit` items after the one whose key is `cursor`, and the cursor of the next page (None: the end).

    A page has at least one item, so that paging always ends. Raises BadInput for a cursor that names no item.
    """
    rest = items[_start(items, cursor, key) :]
    taken: list[Item] = []
    size_bytes = 0
    for item in rest[:limit]:
        size_bytes += size(item)
        if taken and size_bytes > PAGE_LIMIT_BYTES:
            break
        taken.append(item)
    return taken, (key(taken[-1]) if len(taken) < len(rest) else None)


def _start(items: Sequence[Item], cursor: str | None, key: Callable[[Item], str]) -> int:
    if cursor is None:
        return 0
    for index, item in enumerate(items):
        if key(item) == cursor:
            return index + 1
    raise BadInput(
        f"cursor={cursor!r} names nothing in the list; it changed since, or the cursor is from another call.",
        parameter="cursor",
        value=cursor,
        suggestion="call again without cursor",
    )
