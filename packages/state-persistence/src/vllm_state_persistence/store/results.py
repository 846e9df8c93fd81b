"""What the store answers with: values, no behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vllm_state_persistence.core.session import Known, SessionRef

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Saved:
    """A save, as it was committed."""

    state_id: str
    parent_state_id: str | None
    new_bytes: int
    """What the store holds more now, sealed; 0 when unchanged."""
    size_bytes: int
    """About what the snapshot takes, what it shares with others included."""
    logical_bytes: int
    """What its content is, uncompressed."""
    messages: int
    unchanged: bool
    """Nothing was new: `state_id` is the snapshot that was there."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest snapshot of a session: what a source needs, to read only what is new."""

    state_id: str
    marker: str
    records: int
    tail: bytes
    """SHA-256 of the last record's content; empty when there is none."""
    updated_at: float
    at: float

    @property
    def known(self) -> Known:
        return Known(self.records, self.tail)


@dataclass(frozen=True, slots=True)
class StateInfo:
    """A snapshot without its content."""

    state_id: str
    parent_state_id: str | None
    source: str
    session_id: str
    project: str
    title: str
    location: str
    marker: str
    updated_at: float
    at: float
    records: int
    messages: int
    logical_bytes: int
    size_bytes: int
    new_bytes: int
    description: str
    tags: tuple[str, ...]
    has_engines: bool
    has_metrics: bool
    lost_records: int
    """Records that a repair could not save."""

    @property
    def ref(self) -> SessionRef:
        """Where the session was when the snapshot was taken."""
        return SessionRef(
            source=self.source,  # type: ignore[arg-type] # what a source wrote
            session_id=self.session_id,
            project=self.project,
            title=self.title,
            updated_at=self.updated_at,
            location=self.location,
            marker=self.marker,
        )


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list."""

    items: Sequence[Item]
    cursor: str | None = None
    """Of the next part; None at the end."""
    damaged: tuple[str, ...] = ()
    """Ids of snapshots that would be here and cannot be read."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that cannot be read back, and whose it is."""

    state_id: str
    session_id: str
    what: str
    """`record`, `header`, `engines`, `metrics`, `snapshot`, `segment`, `pack`, `dictionary`, `key`, `list`, `file`."""
    name: str
    """Of a record its kind and key; of a segment which records; of a pack its number."""
    reason: str

    def __str__(self) -> str:
        whose = f" of snapshot {self.state_id} of session {self.session_id}" if self.state_id else ""
        return f"{self.what} {self.name}{whose}: {self.reason}".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look through the store found."""

    states: int
    packs: int
    values: int
    read_bytes: int
    """Content that was read and compared with its ids; 0 without `read_data`."""
    damaged: tuple[Damage, ...]
    more_damaged: int = 0
    """Found beyond those listed."""

    @property
    def sound(self) -> bool:
        return not self.damaged


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did."""

    lost: tuple[Damage, ...]
    """What could not be saved, and is in no snapshot any more."""
    states_rewritten: int
    states_removed: int
    packs_removed: int
    index_rows_mended: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune gave back."""

    states: int
    values: int
    packs: int
    packs_rewritten: int
    freed_bytes: int
    """By which the file became shorter."""
