"""Stores of snapshots for tests: keys, sessions, and what a store holds, all of it, as values."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from vllm_state_persistence.core.session import Record, SessionContent, SessionRef
from vllm_state_persistence.key_forms import parse_key
from vllm_state_persistence.keys import KeyRing
from vllm_state_persistence.store.store import StateStore

RING = KeyRing([parse_key("hex:" + "11" * 32, "a test")])
OTHER_RING = KeyRing([parse_key("hex:" + "22" * 32, "a test")])
PLAIN_RING = KeyRing([], encrypts=False)


def make_ref(
    session_id: str = "one", *, marker: str = "m1", title: str = "A title", updated_at: float = 1.5
) -> SessionRef:
    return SessionRef("claude-code", session_id, "/project", title, updated_at, f"/home/{session_id}.jsonl", marker)


def make_record(number: int, text: str = "") -> Record:
    content = json.dumps({"number": number, "text": text or f"what was said {number}"}).encode()
    return Record("line", f"id-{number}", content, "user" if number % 2 else "assistant")


def make_records(count: int, first: int = 0) -> list[Record]:
    return [make_record(number) for number in range(first, first + count)]


def make_session(
    records: Sequence[Record], *, session_id: str = "one", kept: int = 0, marker: str = "m1", header: bytes = b"{}"
) -> SessionContent:
    return SessionContent(make_ref(session_id, marker=marker), header, records, kept)


async def records_of(store: StateStore, state_id: str) -> list[Record]:
    return [record async for record in (await store.load(state_id)).records()]


async def everything(store: StateStore) -> dict[str, tuple[bytes, bytes | None, bytes | None, list[Record]]]:
    """Every snapshot: header, engines, metrics, records."""
    found = {}
    for info in (await store.states(limit=100_000)).items:
        loaded = await store.load(info.state_id)
        parts = (await loaded.header(), await loaded.engines(), await loaded.metrics())
        found[info.state_id] = (*parts, await records_of(store, info.state_id))
    return found


def bytes_of(path: Path) -> bytes:
    """All that is on disk of a store."""
    return b"".join(_existing(path.with_name(path.name + end) for end in ("", "-wal", "-shm")))


def _existing(paths: Iterable[Path]) -> Iterable[bytes]:
    return (path.read_bytes() for path in paths if path.exists())
