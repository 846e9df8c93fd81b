"""The domain: where a session is, what it consists of, and what a source needs to know of the last snapshot. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

SourceName = Literal["crush", "claude-code", "opencode", "inline"]


@dataclass(frozen=True, slots=True)
class SessionRef:
    """Where a session is, told without reading it."""

    source: SourceName
    session_id: str
    project: str
    """Folder that it belongs to; empty where there is none."""
    title: str
    updated_at: float
    """Wall clock, unix seconds."""
    location: str
    """File, or database, that it lies in."""
    marker: str
    """Changes whenever the session does: an equal marker means that it need not be read."""


class Record(NamedTuple):
    """One message, row or line of a transcript, exactly as the source has it. (A tuple: a session may have 100,000.)"""

    kind: str
    """The source's own: `message`, `line`, `file`, `part`, …"""
    key: str
    """Its id within the session, unique per kind."""
    content: bytes
    """Canonical bytes (`values.encode`), or the line's own bytes."""
    role: str = ""
    """`user`, `assistant`, `tool`, `system`; empty where it is no message."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the last snapshot of a session holds, so that only the rest is read."""

    count: int
    """Records."""
    tail: bytes
    """SHA-256 of the content of the last record (32 bytes); empty when there is none."""


@dataclass(frozen=True, slots=True)
class SessionContent:
    """A session as it was read."""

    ref: SessionRef
    header: bytes
    """Canonical bytes of what is no record: the session's row, its settings."""
    records: Sequence[Record]
    """In order; without the first `kept`."""
    kept: int = 0
    """So many records at the beginning are those of the last snapshot, unchanged."""
    same_header: bool = False
    """The header is that of the last snapshot, and was not read: `header` is empty."""
