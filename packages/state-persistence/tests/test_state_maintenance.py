"""Keeping a store: space given back, keys changed, damage named and repaired, snapshots taken elsewhere."""

import asyncio
import os
import random
import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.stores import (
    OTHER_RING,
    PLAIN_RING,
    RING,
    bytes_of,
    everything,
    make_record,
    make_records,
    make_ref,
    make_session,
    records_of,
)
from vllm_mcp_protocol.errors import BadInput, KeyMissing, KeyWrong, StateNotFound, StoreDamaged, SuiteError
from vllm_state_persistence.core.session import Record
from vllm_state_persistence.core.stream import Head, StreamReader, encode_head, encode_record
from vllm_state_persistence.store.maintenance import prune, rotate_key
from vllm_state_persistence.store.repairing import repair
from vllm_state_persistence.store.results import Damage
from vllm_state_persistence.store.store import SaveRequest, StateStore, once, save_all
from vllm_state_persistence.store.transfer import backup, export, import_, salvage
from vllm_state_persistence.store.verifying import verify

pytestmark = pytest.mark.anyio

# Space


async def test_dropped_snapshots_give_their_space_back_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    kept = [Record("file", str(number), os.urandom(2000)) for number in range(100)]
    async with await StateStore.open(path, RING) as store:
        first = await store.save(make_session(kept, session_id="kept"), at=1)
        noise = [Record("file", str(number), os.urandom(30_000)) for number in range(100)]
        gone = await store.save(make_session([*kept, *noise]), at=2)
        await store.desk.database.checkpoint()
        full = path.stat().st_size
        await store.drop([gone.state_id])
        pruned = await prune(store)
        assert pruned.states == 1
        assert pruned.freed_bytes > 2_900_000
        assert path.stat().st_size < full - 2_900_000
        assert await records_of(store, first.state_id) == kept
        assert (await verify(store)).sound
        assert (await prune(store)).values == 0


async def test_a_pack_that_is_mostly_unused_is_written_anew(tmp_path: Path) -> None:
    shared = Record("file", "shared", os.urandom(9000))
    noise = [Record("file", str(number), os.urandom(40_000)) for number in range(10)]
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        gone = await store.save(make_session([shared, *noise]), at=1)
        left = await store.save(make_session([shared], session_id="two"), at=2)
        await store.drop([gone.state_id])
        pruned = await prune(store)
        assert pruned.packs_rewritten == 1
        assert await records_of(store, left.state_id) == [shared]
        assert len(bytes_of(store.path)) < 150_000


async def test_many_packs_of_single_messages_become_few(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        saved = await store.save(make_session(make_records(3)), at=1)
        for number in range(3, 40):
            content = make_session([make_record(number)], kept=number)
            saved = await store.save(content, base=saved.state_id, at=float(number))
        before = await everything(store)
        assert (await prune(store)).packs_rewritten > 30
        assert await everything(store) == before
        verified = await verify(store)
        assert verified.sound
        assert verified.packs == 1


async def test_a_save_between_the_marks_and_the_sweep_of_a_prune_loses_nothing(tmp_path: Path) -> None:
    """A value may be out of use when the prune begins, and in use again when it deletes."""
    path = tmp_path / "state.db"
    records = [Record("file", str(number), os.urandom(3000)) for number in range(30)]
    async with await StateStore.open(path, RING) as store, await StateStore.open(path, RING) as other:
        gone = await store.save(make_session(records, session_id="gone"), at=1)
        await store.drop([gone.state_id])
        begun: list[str] = []
        engine = store.desk.database.engine.sync_engine
        event.listen(engine, "before_cursor_execute", lambda *arguments: begun.append(arguments[2]))
        async with other.desk.writing() as work:
            (again,) = await save_all(work, once([SaveRequest(make_session(records, session_id="again"), 2)]))
            pruning = asyncio.create_task(prune(store))
            async with asyncio.timeout(30):
                while "BEGIN IMMEDIATE" not in begun:  # it has marked, and waits to sweep
                    await asyncio.sleep(0.001)
        assert (await pruning).states == 1
        assert await records_of(store, again.state_id) == records
        assert (await verify(store)).sound


async def test_the_file_of_a_store_from_which_all_was_dropped_is_small(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING, compression=False) as store:
        noise = [Record("file", str(number), os.urandom(30_000)) for number in range(60)]
        saved = await store.save(make_session(noise), at=1)
        await store.drop([saved.state_id])
        await prune(store)
        assert len(bytes_of(store.path)) < 120_000


# Keys


async def test_after_a_rotation_only_the_new_key_opens_the_store(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        await store.save(make_session(make_records(5)), at=1)
        before = await everything(store)
        await rotate_key(store, OTHER_RING)
        saved = await store.save(make_session(make_records(6)), at=2)
        assert await everything(store) == {**before, saved.state_id: (b"{}", None, None, make_records(6))}
    with pytest.raises(KeyWrong):
        await StateStore.open(path, RING)
    async with await StateStore.open(path, OTHER_RING) as store:
        assert len(await everything(store)) == 2
        assert (await store.save(make_session(make_records(6)), at=3)).unchanged
        assert (await verify(store)).sound


async def test_old_wrapped_keys_are_gone_from_the_file(tmp_path: Path) -> None:
    """Whoever gets the old key later has nothing to open with it."""
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        await store.save(make_session(make_records(5)), at=1)
        await store.desk.database.checkpoint()
        with closing(sqlite3.connect(path)) as connection:
            (wrapped,) = connection.execute("SELECT wrapped FROM data_keys").fetchone()
        assert wrapped in bytes_of(path)
        await rotate_key(store, OTHER_RING)
        assert wrapped[-48:] not in bytes_of(path)


async def test_another_process_that_has_the_store_open_follows_a_rotation_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store, await StateStore.open(path, RING) as other:
        await store.save(make_session(make_records(5)), at=1)
        await rotate_key(store, RING)
        saved = await store.save(make_session(make_records(6)), at=2)
        assert await records_of(other, saved.state_id) == make_records(6)
        await rotate_key(store, OTHER_RING)
        with pytest.raises(KeyWrong):
            await other.save(make_session(make_records(7)), at=3)
        assert len((await store.states()).items) == 2


async def test_encryption_can_be_turned_on_and_prune_rewrites_what_was_legible(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, PLAIN_RING, compression=False) as store:
        await store.save(make_session([make_record(1, "the wombat at midnight")]), at=1)
        await rotate_key(store, RING)
        assert store.encrypts
        await store.save(make_session([make_record(2, "the second wombat")]), at=2)
        before = await everything(store)
        assert (await verify(store)).sound
        await prune(store)
        assert b"at midnight" not in bytes_of(path)
    async with await StateStore.open(path, RING) as store:
        assert await everything(store) == before
    with pytest.raises(KeyMissing):
        await StateStore.open(path, PLAIN_RING)


async def test_encryption_can_be_turned_off(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        await store.save(make_session(make_records(3)), at=1)
        before = await everything(store)
        await rotate_key(store, PLAIN_RING)
    async with await StateStore.open(path, PLAIN_RING) as store:
        assert not store.encrypts
        assert await everything(store) == before
        await store.save(make_session(make_records(4)), at=2)
        assert (await verify(store)).sound


async def test_unencrypted_content_laid_into_an_encrypted_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        saved = await store.save(make_session(make_records(3)), at=1)
        forged = replace(store.desk.cipher, encrypts=False).seal("pack", 1, b"forged")
        _change(path, "UPDATE packs SET sealed = ?", forged)
        with pytest.raises(StoreDamaged):
            await records_of(store, saved.state_id)
        assert "not encrypted" in str((await verify(store)).damaged)


# Damage


def _change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement, values)


def _rows(path: Path, query: str) -> list[tuple[bytes, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


async def _three_sessions(path: Path) -> dict[str, str]:
    """Each in packs of its own; the middle one in two snapshots."""
    async with await StateStore.open(path, RING) as store:
        for name in ("first", "middle", "last"):
            records = [Record("line", f"{name}-{number}", os.urandom(50)) for number in range(20)]
            await store.save(make_session(records, session_id=name, header=name.encode()), engines=name.encode(), at=1)
            if name == "middle":
                more = [*records, Record("line", "middle-20", os.urandom(50))]
                await store.save(make_session(more, session_id=name, header=b"middle"), engines=b"middle", at=2)
        return {info.state_id: info.session_id for info in (await store.states()).items}


async def _readable(path: Path) -> tuple[set[str], tuple[Damage, ...]]:
    """Snapshots that are read in full, and what verify names."""
    async with await StateStore.open(path, RING) as store:
        page = await store.states(limit=100)
        whole = set()
        for info in page.items:
            try:
                await (await store.load(info.state_id)).content()
            except StoreDamaged:
                continue
            whole.add(info.state_id)
        return whole, (await verify(store)).damaged


@pytest.mark.parametrize("where", [0, 3, 9, 25, -1])
@pytest.mark.parametrize("change", ["flip", "cut", "swap"])
async def test_a_damaged_pack_is_named_and_the_other_sessions_are_read(tmp_path: Path, change: str, where: int) -> None:
    path = tmp_path / "state.db"
    sessions = await _three_sessions(path)
    _, second, _, fourth = (sealed for (sealed,) in _rows(path, "SELECT sealed FROM packs ORDER BY number"))
    flipped = bytearray(second)
    flipped[where] ^= 1
    changed = {"flip": bytes(flipped), "cut": second[: 20 + where], "swap": fourth}[change]
    _change(path, "UPDATE packs SET sealed = ? WHERE number = 2", changed)
    whole, found = await _readable(path)
    assert {sessions[one] for one in whole} == {"first", "last"}
    assert {one.session_id for one in found if one.state_id} == {"middle"}
    assert any(one.what == "pack" and one.name == "2" for one in found)


async def test_a_size_that_became_text_hinders_nobody(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    sessions = await _three_sessions(path)
    _change(path, "UPDATE packs SET raw_bytes = 'x' || raw_bytes WHERE number = 2")
    async with await StateStore.open(path, RING) as store:
        await prune(store)
        await store.save(make_session(make_records(3), session_id="another"), at=9.0)
        assert len((await store.states(limit=10)).items) == len(sessions) + 1
    whole, _ = await _readable(path)
    assert set(sessions) <= whole


async def test_a_damaged_snapshot_row_is_named_and_the_session_goes_on_from_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    sessions = await _three_sessions(path)
    for change in (
        "UPDATE states SET sealed = (SELECT sealed FROM states WHERE number = 4) WHERE number = 3",
        "UPDATE states SET sealed = x'00' WHERE number = 3",
        "UPDATE states SET at = 7 WHERE number = 3",
        "UPDATE states SET session = (SELECT session FROM states WHERE number = 4) WHERE number = 3",
    ):
        copy = tmp_path / "copy.db"
        copy.write_bytes(path.read_bytes())
        _change(copy, change)
        whole, found = await _readable(copy)
        assert len(whole) == 3
        (lost,) = [one for one in sessions if one not in whole]
        assert [one.state_id for one in found if one.what == "snapshot"] == [lost]
        async with await StateStore.open(copy, RING) as store:
            assert (await store.states()).damaged == (lost,)
            head = await store.head("claude-code", "middle")
            assert head is not None
            assert head.records == 20
            content = make_session([make_record(1)], session_id="middle", kept=20)
            saved = await store.save(content, base=head.state_id, at=9)
            assert saved.parent_state_id == head.state_id


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM states WHERE number = 4",
        "UPDATE states SET dropped = 1 WHERE number = 4",
        "DELETE FROM meta WHERE name = 'census'",
        "UPDATE meta SET value = x'00' WHERE name = 'census'",
    ],
)
async def test_a_snapshot_that_was_taken_away_is_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "state.db"
    await _three_sessions(path)
    _change(path, change)
    _, found = await _readable(path)
    assert [one.what for one in found] == ["list"]


@pytest.mark.parametrize("table", ["states", "packs", "vals", "meta", "data_keys"])
async def test_a_table_put_back_from_an_older_file_is_noticed(tmp_path: Path, table: str) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        first = await store.save(make_session(make_records(5)), at=1)
        await store.desk.database.checkpoint()
        (tmp_path / "older.db").write_bytes(path.read_bytes())
        await store.save(make_session(make_records(9)), at=2)
        await store.drop([first.state_id])
        await prune(store)
        await rotate_key(store, RING)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS older", (str(tmp_path / "older.db"),))
        connection.execute(f"DELETE FROM main.{table}")  # noqa: S608
        connection.execute(f"INSERT INTO main.{table} SELECT * FROM older.{table}")  # noqa: S608
    try:
        store = await StateStore.open(path, RING)
    except StoreDamaged:
        return
    async with store:
        found = (await verify(store)).damaged
        assert found


@pytest.mark.parametrize("count", [3, 300])
async def test_an_index_that_points_to_the_wrong_packs_is_noticed_and_mended(tmp_path: Path, count: int) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        for name, first in (("one", 0), ("two", 1000)):
            await store.save(make_session(make_records(count, first), session_id=name), at=1)
        before = await everything(store)
        ((one,), (two,)) = _rows(store.path, "SELECT max(id) FROM vals GROUP BY pack ORDER BY pack")
        for identity, pack in ((one, 2), (two, 1)):
            _change(store.path, "UPDATE vals SET pack = ? WHERE id = ?", pack, identity)
        assert not (await verify(store)).sound
        assert (await repair(store)).index_rows_mended == 2
        assert (await verify(store)).sound
        assert await everything(store) == before


async def test_an_index_that_lost_rows_is_mended_from_the_packs(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await _three_sessions(path)
    async with await StateStore.open(path, RING) as store:
        before = await everything(store)
    _change(path, "DELETE FROM vals WHERE pack <= 2")
    _change(path, "UPDATE vals SET pack = 99 WHERE pack = 3")
    async with await StateStore.open(path, RING) as store:
        assert len((await verify(store)).damaged) > 0
        repaired = await repair(store)
        assert repaired.lost == ()
        assert repaired.index_rows_mended > 40
        assert await everything(store) == before
        assert (await verify(store)).sound


async def test_repair_keeps_what_can_be_read_and_lists_what_cannot(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    sessions = await _three_sessions(path)
    _change(path, "UPDATE packs SET sealed = x'00' WHERE number = 3")  # the appended message of the middle session
    async with await StateStore.open(path, RING) as store:
        before = (await verify(store)).damaged
        repaired = await repair(store)
        assert {str(one) for one in repaired.lost} == {str(one) for one in before if one.state_id}
        assert (repaired.states_rewritten, repaired.states_removed, repaired.packs_removed) == (1, 0, 1)
        assert (await verify(store)).sound
        for info in (await store.states()).items:
            assert len(await records_of(store, info.state_id)) == 20
        assert {info.session_id for info in (await store.states()).items} == set(sessions.values())
        head = await store.head("claude-code", "middle")
        assert head is not None
        assert (head.marker, head.tail) == ("", b"")


async def test_what_was_lost_comes_back_with_the_next_save_of_the_session(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        await store.save(make_session(make_records(30)), at=1)
    _change(path, "UPDATE packs SET sealed = x'00'")
    async with await StateStore.open(path, RING) as store:
        repaired = await repair(store)
        assert {one.what for one in repaired.lost} == {"header", "records"}
        saved = await store.save(make_session(make_records(30)), at=2)
        assert not saved.unchanged
        assert await records_of(store, saved.state_id) == make_records(30)
        assert (await verify(store)).sound


async def test_what_the_index_names_and_no_pack_holds_is_stored_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await _three_sessions(path)
    _change(path, "UPDATE vals SET pack = 1 WHERE pack = 2")
    _change(path, "DELETE FROM packs WHERE number = 2")
    records = [Record("line", f"middle-{number}", b"%d" % number) for number in range(20)]
    async with await StateStore.open(path, RING) as store:
        await store.save(make_session(records, session_id="other"), at=5)
        await repair(store)
        assert (await verify(store)).sound
        again = await store.save(make_session(records, session_id="middle", header=b"middle"), engines=b"middle", at=6)
        loaded = await store.load(again.state_id)
        assert (await loaded.content()).header == b"middle"
        assert await loaded.engines() == b"middle"
        assert (await verify(store)).sound


async def test_a_seal_is_bound_to_its_store_to_what_it_is_and_to_its_number(tmp_path: Path) -> None:
    async with (
        await StateStore.open(tmp_path / "one.db", RING) as store,
        await StateStore.open(tmp_path / "two.db", RING) as other,
    ):
        cipher = store.desk.cipher
        sealed = cipher.seal("pack", 1, b"data")
        assert cipher.unseal("pack", 1, sealed) == b"data"
        elsewhere = replace(cipher, store_id=other.desk.cipher.store_id)
        for reader, kind, number in ((cipher, "pack", 2), (cipher, "state", 1), (elsewhere, "pack", 1)):
            with pytest.raises(StoreDamaged):
                reader.unseal(kind, number, sealed)
        assert cipher.id_of(b"data") != other.desk.cipher.id_of(b"data")
        assert "secret" not in repr(cipher)


async def test_prune_deletes_nothing_while_a_snapshot_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await _three_sessions(path)
    _change(path, "UPDATE states SET sealed = x'00' WHERE number = 3")
    rows = _rows(path, "SELECT id FROM vals")
    async with await StateStore.open(path, RING) as store:
        with pytest.raises(StoreDamaged):
            await prune(store)
    assert _rows(path, "SELECT id FROM vals") == rows


async def test_verify_without_reading_sees_what_is_missing_not_what_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await _three_sessions(path)
    _change(path, "UPDATE packs SET sealed = zeroblob(100) WHERE number = 1")
    async with await StateStore.open(path, RING) as store:
        assert {one.session_id for one in (await verify(store, read_data=False)).damaged} == {"first"}
        assert {one.session_id for one in (await verify(store)).damaged} == {"", "first"}
        assert [one.what for one in (await verify(store, session_id="last")).damaged] == ["pack"]
    _change(path, "DELETE FROM packs WHERE number = 1")
    async with await StateStore.open(path, RING) as store:
        assert "first" in {one.session_id for one in (await verify(store, read_data=False)).damaged}


async def test_verify_knows_more_values_than_it_holds_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    await _three_sessions(path)
    async with await StateStore.open(path, RING) as store:
        in_memory = await verify(store)
        monkeypatch.setattr("vllm_state_persistence.store.inspection._IDS_IN_MEMORY", 7)
        assert await verify(store) == in_memory
    assert in_memory.sound
    assert in_memory.values == len(_rows(path, "SELECT id FROM vals")) > 7
    _change(path, "UPDATE vals SET pack = 2 WHERE pack = 1")
    async with await StateStore.open(path, RING) as store:
        assert {one.session_id for one in (await verify(store)).damaged} == {"first"}


async def test_bytes_flipped_anywhere_in_the_file_are_never_read_as_something_else(tmp_path: Path) -> None:
    """The structure of SQLite's pages included: what is read is what was saved, or is refused as damaged."""
    path = tmp_path / "state.db"
    await _three_sessions(path)
    async with await StateStore.open(path, RING) as store:
        before = await everything(store)
    original, chance = path.read_bytes(), random.Random(7)
    for _ in range(60):
        flipped = bytearray(original)
        for _ in range(3):
            flipped[chance.randrange(100, len(flipped))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            page, other = (4096 * chance.randrange(1, len(flipped) // 4096) for _ in range(2))
            flipped[page : page + 4096] = flipped[other : other + 4096]
        await _read_flipped(tmp_path / "flipped.db", bytes(flipped), before)


async def _read_flipped(path: Path, content: bytes, before: Mapping[str, tuple[object, ...]]) -> None:
    for name in (f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        store = await StateStore.open(path, RING)
    except SuiteError:
        return
    async with store:
        try:
            infos = (await store.states(limit=100)).items
        except SuiteError:
            return
        for info in infos:
            try:
                loaded = await store.load(info.state_id)
                parts = (await loaded.header(), await loaded.engines(), await loaded.metrics())
                read = (*parts, await records_of(store, info.state_id))
            except SuiteError:
                continue
            assert read == before[info.state_id]
        with suppress(StoreDamaged):
            assert not (await verify(store)).sound or set(before) == {info.state_id for info in infos}
            await repair(store)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
async def test_what_is_left_of_a_file_that_was_cut_is_saved_into_a_new_one(tmp_path: Path, share: float) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING, compression=False) as store:  # with no dictionary at its end
        for number in range(40):
            records = [Record("line", str(one), os.urandom(3000)) for one in range(8)]
            await store.save(make_session(records, session_id=f"s{number}"), at=float(number))
        before = await everything(store)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StoreDamaged, match=r"state\.db"):
        async with await StateStore.open(path, RING) as store:
            await everything(store)
    async with (
        await StateStore.open(path, RING, salvage=True) as damaged,
        await StateStore.open(tmp_path / "new.db", RING) as target,
    ):
        saved, lost = await salvage(damaged, target)
        after = await everything(target)
        assert lost
        assert saved
        whole = {state_id for state_id in after if after[state_id] == before[state_id]}
        assert len(whole) > 40 * (share - 0.25)
        assert {one.state_id for one in lost} >= after.keys() - whole
        assert (await verify(target)).sound


# Taking snapshots elsewhere


async def test_an_export_comes_back_on_another_machine_with_the_same_key(tmp_path: Path) -> None:
    large = Record("file", "large", os.urandom(3_500_000))
    content = make_session([*make_records(50), large, make_record(51)._replace(key="\ud800")])
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        saved = await store.save(content, engines=b"e", metrics=b"m", description="d", tags=["t"], at=4.5)
        size = await export(store, saved.state_id, tmp_path / "one.vsx")
        before = await everything(store)
    exported = tmp_path / "one.vsx"
    assert exported.stat().st_size == size
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    assert b"what was said" not in exported.read_bytes()
    async with await StateStore.open(tmp_path / "other" / "state.db", RING) as store:
        imported = await import_(store, exported)
        assert (imported.state_id, imported.unchanged) == (saved.state_id, False)
        assert await everything(store) == before
        loaded = await store.load(saved.state_id)
        assert loaded.ref == make_ref()
        assert (loaded.info.at, loaded.info.description, loaded.info.tags) == (4.5, "d", ("t",))
        assert (await import_(store, exported)).unchanged
        await store.drop([saved.state_id])
        assert (await import_(store, exported)).unchanged
        assert await everything(store) == before
        assert (await verify(store)).sound
    async with await StateStore.open(tmp_path / "third" / "state.db", OTHER_RING) as store:
        with pytest.raises(KeyWrong):
            await import_(store, exported)
        await import_(store, exported, ring=RING)
        assert await everything(store) == before


async def test_a_damaged_export_is_refused_whole(tmp_path: Path) -> None:
    path, chance = tmp_path / "one.vsx", random.Random(1)
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        noise = [Record("file", str(number), os.urandom(40_000)) for number in range(80)]
        saved = await store.save(make_session(noise), at=1)
        await export(store, saved.state_id, path)
    content = path.read_bytes()
    changed: list[bytes] = [content + b"x", b"", content[:20], content[:-1], content[: len(content) // 2]]
    for at in [*range(8, 40), *(chance.randrange(40, len(content)) for _ in range(20))]:
        flipped = bytearray(content)
        flipped[at] ^= 1
        changed.append(bytes(flipped))
    async with await StateStore.open(tmp_path / "other.db", RING) as store:
        for some in changed:
            path.write_bytes(some)
            with pytest.raises(SuiteError):
                await import_(store, path)
            assert (await store.states()).items == []
        path.write_bytes(content)
        await import_(store, path)
        assert (await verify(store)).sound


async def test_an_export_without_encryption_is_refused_where_encryption_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "one.vsx"
    async with await StateStore.open(tmp_path / "state.db", PLAIN_RING) as store:
        saved = await store.save(make_session(make_records(3)), at=1)
        await export(store, saved.state_id, path)
    async with await StateStore.open(tmp_path / "other.db", RING) as store:
        with pytest.raises(KeyWrong, match="not encrypted"):
            await import_(store, path)
        await import_(store, path, allow_plain=True)
        assert await records_of(store, saved.state_id) == make_records(3)


async def test_exports_and_backups_replace_nothing_unasked(tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("mine")
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        saved = await store.save(make_session(make_records(3)), at=1)
        for refused in (export(store, saved.state_id, path), backup(store, path)):
            with pytest.raises(BadInput, match="exists"):
                await refused
        with pytest.raises(BadInput, match="store itself"):
            await backup(store, store.path, replace=True)
        with pytest.raises(StateNotFound):
            await export(store, "s-0123456789abcdef", path, replace=True)
        with pytest.raises(BadInput, match="cannot be written"):
            await export(store, saved.state_id, tmp_path / "missing" / "one")
        with pytest.raises(BadInput, match="no export"):
            await import_(store, path)
        with pytest.raises(BadInput, match="cannot be read"):
            await import_(store, tmp_path / "missing")
    assert path.read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["state.db", "there"]


async def test_a_backup_of_a_store_in_use_is_the_store_at_one_moment(tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()

    async def save_on(store: StateStore) -> None:
        for number in range(30):
            await store.save(make_session(make_records(3, number), session_id=str(number)), at=float(number))

    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        await store.save(make_session(make_records(50), session_id="before"), at=0)
        _, size = await asyncio.gather(save_on(store), backup(store, copy))
        everything_there = await everything(store)
    assert (copy.stat().st_size, stat.S_IMODE(copy.stat().st_mode)) == (size, 0o600)
    async with await StateStore.open(copy, RING) as store:
        copied = await everything(store)
        assert copied
        assert all(copied[one] == everything_there[one] for one in copied)
        assert (await verify(store)).sound
        await store.save(make_session(make_records(4), session_id="after"), at=99)
    assert [one.name for one in copy.parent.iterdir()] == ["copy.db"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_reads_back_from_pieces_of_any_size(size: int) -> None:
    head = Head(make_ref(), "s-1", 1.5, 3, "d", ("t",), b"header", None, b"")
    records = [make_record(1), Record("k", "\ud800", b"", ""), Record("", "", b"x" * 5000)]
    data = encode_head(head) + b"".join(map(encode_record, records))
    reader = _reader(data, size)
    assert reader.head() == head
    assert list(reader.records(3)) == records
    for cut in (data[:-1], data[: len(data) // 2], data + b"x"):
        reader = _reader(cut, size)
        with pytest.raises(ValueError, match=r"early|follows|not possible"):
            [reader.head(), list(reader.records(3))]


def _reader(data: bytes, size: int) -> StreamReader:
    return StreamReader(data[at : at + size] for at in range(0, len(data), size))
