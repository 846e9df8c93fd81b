"""What a record says, for lists: computed from its content, and never stored."""

from collections.abc import Callable, Mapping

from vllm_mcp_protocol.reading import printable
from vllm_state_persistence.core.previews import SHOWN_CHARACTERS
from vllm_state_persistence.core.session import Record
from vllm_state_persistence.sources import claude_code, crush, inline, opencode
from vllm_state_persistence.sources.tables import UNREADABLE

_PREVIEWS: Mapping[str, Callable[[Record], str]] = {
    "claude-code": claude_code.preview,
    "crush": crush.preview,
    "inline": inline.preview,
    "opencode": opencode.preview,
}


def preview(source: str, record: Record) -> str:
    """At most 200 characters, of a record of which the beginning of its content is enough; empty where it says nothing.

    A file shows its name, what the source could not read says so.
    """
    if record.kind == UNREADABLE:
        return printable(f"could not be read: {record.key}")[:SHOWN_CHARACTERS]
    of_source = _PREVIEWS.get(source)
    return of_source(record) if of_source else ""
