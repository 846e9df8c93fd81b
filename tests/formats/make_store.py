"""Makes the files of this folder: a store and an export of the current format, and what is in them as JSON.

    python -m tests.formats.make_store        (at the root of the repository)

Run it once when the format gets a new version, and never again for an old one: these files must load forever.
"""

import asyncio
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.stores import everything, make_record, make_records, make_session
from vllm_state_persistence.core import packs
from vllm_state_persistence.core.session import Record
from vllm_state_persistence.key_forms import parse_key
from vllm_state_persistence.keys import KeyRing
from vllm_state_persistence.store import schema
from vllm_state_persistence.store.maintenance import rotate_key
from vllm_state_persistence.store.store import StateStore
from vllm_state_persistence.store.transfer import export

FOLDER = Path(__file__).parent
KEY = "passphrase:these files must load forever"


def ring() -> KeyRing:
    return KeyRing([parse_key(KEY, "tests/formats")])


async def make(folder: Path, version: int) -> None:
    """A store that was not encrypted at first, with all that a store can hold."""
    path = folder / f"store-v{version}.db"
    path.unlink(missing_ok=True)
    async with await StateStore.open(path, KeyRing([], encrypts=False)) as store:
        await store.save(make_session(make_records(20)), description="before encryption", at=1.25)
        await rotate_key(store, ring())
        samples = [make_record(number).content for number in range(400)]
        dictionary = await asyncio.to_thread(packs.train, samples, 1, 2048)
        assert dictionary is not None
        await store.desk._add_dictionary(dictionary)
        await _save_some(store)
        found = await store.states(limit=100)
        await export(store, found.items[0].state_id, folder / f"export-v{version}.vsx", replace=True)
        expected = {info.state_id: _shown(info) for info in found.items}
        for state_id, parts in (await everything(store)).items():
            expected[state_id]["content"] = _content(parts)
    (folder / f"expected-v{version}.json").write_text(json.dumps(expected) + "\n")


async def _save_some(store: StateStore) -> None:
    records = make_records(20)
    head = await store.head("claude-code", "one")
    assert head is not None
    for number in range(20, 60):
        content = make_session([make_record(number)], kept=number, marker=f"m{number}")
        head_id = (await store.save(content, base=head.state_id, at=float(number))).state_id
        head = await store.head("claude-code", "one")
        assert head is not None
        assert head.state_id == head_id
        records.append(make_record(number))
    records[5] = make_record(5, "changed in the middle")
    large = Record("file", "large", b"".join(b"line %d\n" % number for number in range(30_000)))
    odd = Record("line", "\ud800", b"", "tool")
    content = make_session([*records, large, odd], header=b'{"title":"t"}')
    await store.save(content, engines=b'[{"model":"m"}]', metrics=b"{}", tags=["a", "b"], at=100.5)
    gone = await store.save(make_session(make_records(3, 900), session_id="dropped"), at=101)
    await store.drop([gone.state_id])
    keep = [info.state_id for info in (await store.states(limit=100)).items if 21 < info.at < 58]
    await store.drop(keep)


def _shown(info: Any) -> dict[str, Any]:
    names = ("session_id", "title", "at", "description", "tags", "records", "messages", "logical_bytes")
    return {name: getattr(info, name) for name in names}


def _content(parts: tuple[bytes, bytes | None, bytes | None, list[Record]]) -> dict[str, Any]:
    """As JSON; of contents their SHA-256."""
    header, engines, metrics, records = parts
    texts = [None if part is None else part.decode() for part in (header, engines, metrics)]
    rows = [[one.kind, one.key, one.role, sha256(one.content).hexdigest()] for one in records]
    return {"parts": texts, "records": rows}


if __name__ == "__main__":
    asyncio.run(make(FOLDER, schema.FORMAT))
    sys.stdout.write(f"{FOLDER}\n")
