"""Old files must load forever: a store and an export of every version of the format, with what is in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.formats.make_store import FOLDER, _content, _shown, make, ring
from tests.stores import everything, make_records, make_session
from vllm_state_persistence.store import schema
from vllm_state_persistence.store.store import StateStore
from vllm_state_persistence.store.transfer import import_
from vllm_state_persistence.store.verifying import verify

pytestmark = pytest.mark.anyio

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
