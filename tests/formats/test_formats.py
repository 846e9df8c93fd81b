"""Old files must load forever: a store and an export of every version of the format, with what is in them."""

import json
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.formats.make_store import FOLDER, KEY, _content, _shown, make, ring
from tests.formats.page import Record, Store, read_export
from tests.stores import everything, make_records, make_session
from vllm_state_persistence.store import schema
from vllm_state_persistence.store.store import StateStore
from vllm_state_persistence.store.transfer import import_
from vllm_state_persistence.store.verifying import verify

pytestmark = pytest.mark.anyio

_PASSPHRASE = KEY.removeprefix("passphrase:").encode()
VERSIONS = range(1, schema.FORMAT + 1)


def _expected(version: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"expected-v{version}.json").read_text())
    return found


async def _found(store: StateStore) -> dict[str, Any]:
    found = {info.state_id: _shown(info) for info in (await store.states(limit=100)).items}
    for state_id, parts in (await everything(store)).items():
        found[state_id]["content"] = _content(parts)
    # As JSON has it: tuples are lists.
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_store_of_this_format_is_read_and_goes_on(tmp_path: Path, version: int) -> None:
    path = tmp_path / "state.db"
    shutil.copy(FOLDER / f"store-v{version}.db", path)
    async with await StateStore.open(path, ring()) as store:
        assert await _found(store) == _expected(version)
        assert (await verify(store)).sound
        await store.save(make_session(make_records(61)), at=200)
        assert _expected(version).items() <= (await _found(store)).items()


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_export_of_this_format_is_imported(tmp_path: Path, version: int) -> None:
    async with await StateStore.open(tmp_path / "state.db", ring()) as store:
        saved = await import_(store, FOLDER / f"export-v{version}.vsx")
        found = (await _found(store))[saved.state_id]
        assert found == _expected(version)[saved.state_id]


async def test_the_script_still_makes_such_files(tmp_path: Path) -> None:
    await make(tmp_path, schema.FORMAT)
    made = json.loads((tmp_path / f"expected-v{schema.FORMAT}.json").read_text())
    assert list(made.values()) == list(_expected(schema.FORMAT).values())


def _as_expected(facts: dict[str, Any], parts: Sequence[bytes | None], records: Sequence[Record]) -> dict[str, Any]:
    texts = [None if part is None else part.decode() for part in parts]
    rows = [[kind, key, role, sha256(content).hexdigest()] for kind, key, role, content in records]
    told: dict[str, Any] = {
        name: facts[name] for name in ("session_id", "title", "at", "description", "tags") if name in facts
    }
    return {**told, "records": len(records), "content": {"parts": texts, "records": rows}}


def _without_sums(expected: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in expected.items() if name not in ("messages", "logical_bytes")}


def test_the_page_alone_is_enough_to_read_a_store() -> None:
    found = {}
    for facts, parts, records in Store(FOLDER / f"store-v{schema.FORMAT}.db", _PASSPHRASE).snapshots():
        found[facts["state_id"]] = _as_expected(facts, parts, records)
    assert found == {name: _without_sums(one) for name, one in _expected(schema.FORMAT).items()}


def test_the_page_alone_is_enough_to_read_an_export() -> None:
    head, parts, records = read_export(FOLDER / f"export-v{schema.FORMAT}.vsx", _PASSPHRASE)
    found = _as_expected({**head, **head["ref"]}, parts, records)
    assert found == _without_sums(_expected(schema.FORMAT)[head["state_id"]])
