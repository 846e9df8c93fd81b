"""What the store knows of a snapshot beside its content: the sealed part of a state's row. Pure."""

import json
import struct
from dataclasses import dataclass, fields
from typing import Any

from vllm_state_persistence.core.manifest import Manifest, decode_manifest, encode_manifest

FORMAT = 1
_HEAD = struct.Struct("<BI")


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a snapshot: whose it is, how the session was then, and what it is for."""

    state_id: str
    parent_state_id: str | None
    source: str
    session_id: str
    project: str
    title: str
    location: str
    marker: str
    updated_at: float
    """When the session last changed; unix seconds."""
    at: float
    """When the snapshot was taken; unix seconds."""
    size_bytes: int
    """About what its content takes in the store, what it shares with others included."""
    tail: str
    """SHA-256 of the last record's content, in hex; empty when there is none."""
    description: str = ""
    tags: tuple[str, ...] = ()
    lost: int = 0
    """Records that a repair could not save."""


_NAMES = tuple(field.name for field in fields(Facts))


@dataclass(frozen=True, slots=True)
class Snapshot:
    facts: Facts
    manifest: Manifest


def encode_snapshot(snapshot: Snapshot) -> bytes:
    facts = json.dumps({name: getattr(snapshot.facts, name) for name in _NAMES}, separators=(",", ":")).encode()
    return _HEAD.pack(FORMAT, len(facts)) + facts + encode_manifest(snapshot.manifest)


def decode_snapshot(data: bytes) -> Snapshot:
    """Raises ValueError for what is none."""
    if len(data) < _HEAD.size or data[0] != FORMAT:
        raise ValueError("no snapshot of a format that is known here")
    end = _HEAD.size + _HEAD.unpack_from(data)[1]
    facts: dict[str, Any] = json.loads(str(data[_HEAD.size : end], "utf-8"))
    try:
        return Snapshot(Facts(**{**facts, "tags": tuple(facts["tags"])}), decode_manifest(data[end:]))
    except (TypeError, KeyError) as error:
        raise ValueError("a snapshot with other facts than are known here") from error
