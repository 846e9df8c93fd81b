"""The store: what is saved reads back exactly, once and for all, whoever else saves; nothing is legible in the file."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from hashlib import blake2b, sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from vllm_mcp_protocol.errors import (
    BadInput,
    KeyMissing,
    KeyWrong,
    PathNotAllowed,
    StateNotFound,
    StoreBusy,
    StoreDamaged,
    StoreTooNew,
)
from vllm_state_persistence.core.session import Record, SessionContent
from vllm_state_persistence.store.store import SaveRequest, StateStore, once

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]


async def test_a_session_comes_back_as_it_was(tmp_path: Path) -> None:
    records = make_records(40)
    async with await StateStore.open(tmp_path / "s" / "state.db", RING) as store:
        saved = await store.save(
            make_session(records), engines=b"[]", metrics=b"{1}", description="why", tags=["a", "b"], at=2.25
        )
    async with await StateStore.open(tmp_path / "s" / "state.db", RING) as store:
        loaded = await store.load(saved.state_id)
        assert loaded.ref == make_ref()
        assert await loaded.content() == make_session(records)
        assert (await loaded.engines(), await loaded.metrics()) == (b"[]", b"{1}")
        info = loaded.info
        assert (info.at, info.description, info.tags, info.records, info.messages) == (2.25, "why", ("a", "b"), 40, 40)
        assert info.logical_bytes == saved.logical_bytes == sum(len(one.content) for one in records) + 2 + 2 + 3
        assert [record async for record in loaded.records(start=37)] == records[37:]
        assert [entry.key async for entry in loaded.entries(start=38)] == ["id-38", "id-39"]


_RECORDS = st.lists(
    st.builds(
        Record,
        st.sampled_from(["line", "file"]),
        st.text(st.characters(exclude_categories=()), max_size=8),
        st.one_of(st.binary(max_size=60), st.binary(min_size=1, max_size=9).map(lambda one: one * 20_000)),
        st.sampled_from(["", "user", "tool"]),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_RECORDS, st.binary(max_size=5)), min_size=1, max_size=5), st.booleans(), st.booleans())
async def test_any_versions_of_a_session_come_back_each_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    versions: list[tuple[list[Record], bytes]],
    encrypts: bool,
    compression: bool,
) -> None:
    path = tmp_path_factory.mktemp("store") / "state.db"
    expected: dict[str, tuple[bytes, None, None, list[Record]]] = {}
    async with await StateStore.open(path, RING if encrypts else PLAIN_RING, compression=compression) as store:
        before: tuple[list[Record], bytes] | None = None
        for at, (records, header) in enumerate(versions):
            saved = await store.save(make_session(records, header=header), at=float(at))
            assert saved.unchanged == ((records, header) == before)
            before = (records, header)
            expected[saved.state_id] = (header, None, None, records)
            head = await store.head("claude-code", "one")
            assert head is not None
            assert (head.state_id, head.records) == (saved.state_id, len(records))
            assert head.tail == (sha256(records[-1].content).digest() if records else b"")
        assert await everything(store) == expected
        whole = [one async for group in store.contents(list(expected)) for one in group]
        contents = [(one.header, None, None, one.records) for one in whole if isinstance(one, SessionContent)]
        assert contents == list(expected.values())


async def test_many_are_read_in_the_order_asked_for_and_the_trouble_of_one_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    sessions = {name: [Record("line", name, os.urandom(900_000))] for name in "abcdefgh"}
    async with await StateStore.open(path, RING) as store:
        ids = [
            (await store.save(make_session(records, session_id=name), at=1)).state_id
            for name, records in sessions.items()
        ]
    with sqlite3.connect(path) as database:
        database.execute("UPDATE states SET sealed = x'00' WHERE number = 2")
        database.execute("UPDATE packs SET sealed = x'00' WHERE number = 3")
    async with await StateStore.open(path, RING) as store:
        groups = [group async for group in store.contents([*reversed(ids), "s-0000000000000000", "no id"])]
    found = [one for group in groups for one in group]
    assert len(groups) > 1
    whole = [one.ref.session_id if isinstance(one, SessionContent) else type(one).__name__ for one in found]
    assert whole == ["h", "g", "f", "e", "d", "StoreDamaged", "StoreDamaged", "a", "StateNotFound", "StateNotFound"]
    assert all(one.records == sessions[one.ref.session_id] for one in found if isinstance(one, SessionContent))
    assert {one.info.details["state_id"] for one in found if isinstance(one, StoreDamaged)} == {ids[1], ids[2]}


async def test_appended_messages_build_on_the_snapshot_that_was_read(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        saved = await store.save(make_session(make_records(100)), at=1)
        for number in range(100, 180):
            kept = make_session([make_record(number)], kept=number, marker=f"m{number}")
            after = await store.save(kept, base=saved.state_id, at=float(number))
            assert after.parent_state_id == saved.state_id
            saved = after
        assert await records_of(store, saved.state_id) == make_records(180)
        spans = (await store.load(saved.state_id)).manifest.spans
        assert len(spans) <= 32
        assert len((await store.states(limit=500)).items) == 81


async def test_fewer_kept_records_than_the_snapshot_has_means_that_the_rest_is_gone(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        first = await store.save(make_session(make_records(10)), at=1)
        changed = make_session([make_record(4, "otherwise"), *make_records(3, 20)], kept=4)
        second = await store.save(changed, base=first.state_id, at=2)
        assert await records_of(store, second.state_id) == [*make_records(4), *changed.records]
        cut = await store.save(make_session([], kept=2), base=second.state_id, at=3)
        assert await records_of(store, cut.state_id) == make_records(2)
        head = await store.head("claude-code", "one")
        assert head is not None
        assert head.known.tail == sha256(make_record(1).content).digest()


async def test_a_change_in_the_middle_costs_the_changed_message(tmp_path: Path) -> None:
    noise = [make_record(number, os.urandom(200).hex()) for number in range(3000)]
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        first = await store.save(make_session(noise), at=1)
        noise[1500] = make_record(1500, "now this")
        second = await store.save(make_session(noise), at=2)
        assert await records_of(store, second.state_id) == noise
    assert second.new_bytes < 2000 < first.new_bytes


async def test_an_unchanged_session_makes_no_snapshot_but_its_marker_is_remembered(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        first = await store.save(make_session(make_records(5)), engines=b"e", at=1)
        again = await store.save(make_session(make_records(5), marker="m2"), at=2)
        assert (again.state_id, again.unchanged, again.new_bytes) == (first.state_id, True, 0)
        head = await store.head("claude-code", "one")
        assert head is not None
        assert (head.marker, head.at) == ("m2", 1)
        kept = await store.save(make_session([], kept=5, marker="m3"), base=head.state_id, engines=b"e", at=3)
        assert kept.unchanged
        for other in (
            await store.save(make_session(make_records(5)), engines=b"f", at=4),
            await store.save(make_session(make_records(5)), description="new", at=5),
            await store.save(make_session(make_records(5)), tags=["t"], at=6),
            await store.save(make_session(make_records(5), header=b"[]"), at=7),
        ):
            assert not other.unchanged


async def test_what_two_sessions_share_is_stored_once(tmp_path: Path) -> None:
    noise = [make_record(number, os.urandom(500).hex()) for number in range(100)]
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        first = await store.save(make_session(noise), at=1)
        second = await store.save(make_session(noise, session_id="two"), at=2)
        assert await records_of(store, second.state_id) == noise
    assert second.new_bytes < 1000 < first.new_bytes
    assert second.parent_state_id is None


async def test_a_large_value_that_changes_a_little_is_stored_a_little(tmp_path: Path) -> None:
    large = os.urandom(3_000_000)
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        first = await store.save(make_session([Record("file", "a", large)]), at=1)
        changed = large[:1_000_000] + b"here" + large[1_000_000:]
        second = await store.save(make_session([Record("file", "a", changed)]), at=2)
        assert await records_of(store, first.state_id) == [Record("file", "a", large)]
        assert await records_of(store, second.state_id) == [Record("file", "a", changed)]
    assert first.new_bytes > 3_000_000
    assert second.new_bytes < 600_000


async def test_several_sessions_in_one_transaction(tmp_path: Path) -> None:
    sessions = {str(number): make_records(number, number * 100) for number in range(30)}
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        requests = [SaveRequest(make_session(some, session_id=name), 1.0) for name, some in sessions.items()]
        saved = await store.save_many(once(requests))
        assert len({one.state_id for one in saved}) == 30
        for name, one in zip(sessions, saved, strict=True):
            assert await records_of(store, one.state_id) == sessions[name]
        with pytest.raises(ValueError, match="twice"):
            await store.save_many(once([requests[0], requests[0]]))
        newest = await store.sessions()
        assert [info.session_id for info in newest.items] == list(reversed(sessions))


async def test_kept_records_need_a_snapshot_that_has_them(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        saved = await store.save(make_session(make_records(3)), at=1)
        with pytest.raises(ValueError, match="of which"):
            await store.save(make_session([], kept=3), at=2)
        with pytest.raises(ValueError, match="does not have them"):
            await store.save(make_session([], kept=4), base=saved.state_id, at=2)
        with pytest.raises(ValueError, match="does not have them"):
            await store.save(make_session([], kept=3, session_id="two"), base=saved.state_id, at=2)
        with pytest.raises(StateNotFound, match="s-0123456789abcdef"):
            await store.save(make_session([], kept=3), base="s-0123456789abcdef", at=2)
        assert len((await store.states()).items) == 1


# Several at once


async def test_a_session_read_before_another_save_keeps_what_was_read(tmp_path: Path) -> None:
    """Its records are those of the snapshot that it was read against; in the line it follows the newest one."""
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        base = await store.save(make_session(make_records(10)), at=1)
        rewritten = [make_record(number, "rewritten") for number in range(8)]
        between = await store.save(make_session(rewritten), at=2)
        late = await store.save(make_session([make_record(10)], kept=10), base=base.state_id, at=3)
        assert late.parent_state_id == between.state_id
        assert await records_of(store, late.state_id) == make_records(11)
        assert await records_of(store, between.state_id) == rewritten


async def test_a_session_read_before_another_save_that_has_all_of_it_adds_nothing(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        base = await store.save(make_session(make_records(10)), at=1)
        newer = await store.save(make_session(make_records(2, 10), kept=10), base=base.state_id, at=2)
        late = await store.save(make_session([make_record(10)], kept=10), base=base.state_id, at=3)
        assert (late.state_id, late.unchanged) == (newer.state_id, True)


_WRITER = """
import asyncio, sys
from pathlib import Path
from tests.stores import RING, make_record, make_session
from vllm_state_persistence.store.store import StateStore

async def main(path: Path, me: int, rounds: int) -> None:
    async with await StateStore.open(path, RING) as store:
        for number in range(rounds):
            head = await store.head("claude-code", "shared")
            kept, base = (head.records, head.state_id) if head else (0, None)
            record = make_record(1000 * me + number)
            content = make_session([record], session_id="shared", kept=kept, marker=f"{me}-{number}")
            saved = await store.save(content, base=base, at=float(number))
            await store.save(make_session([record], session_id=f"own-{me}-{number}"), at=float(number))
            print(saved.state_id, flush=True)

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
"""


def _start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


async def test_eight_processes_that_save_at_once_make_one_complete_line(tmp_path: Path) -> None:
    """Also the file is made by all of them at once."""
    path, rounds = tmp_path / "s" / "state.db", 5
    writers = [_start(_WRITER, path, me, rounds) for me in range(8)]
    printed = [writer.communicate(timeout=120)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8
    async with await StateStore.open(path, RING) as store:
        infos = (await store.states(session_id="shared", limit=1000)).items
        assert [info.parent_state_id for info in infos] == [*(info.state_id for info in infos[1:]), None]
        assert {info.state_id for info in infos} == {one for some in printed for one in some}
        assert len(infos) == 8 * rounds
        own = [info for info in (await store.states(limit=1000)).items if info.session_id.startswith("own-")]
        assert len(own) == 8 * rounds
        for info in infos:
            assert len(await records_of(store, info.state_id)) == info.records


async def test_tasks_of_one_process_may_save_at_once(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        saves = [store.save(make_session(make_records(3), session_id=str(one)), at=1) for one in range(20)]
        saved = await asyncio.gather(*saves)
        assert len({one.state_id for one in saved}) == 20
        assert len((await store.states()).items) == 20


async def test_a_writer_that_does_not_end_is_named_after_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING, busy_s=0.05) as store:
        await store.save(make_session(make_records(1)), at=1)
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match=r"state\.db"):
            await store.save(make_session(make_records(2)), at=2)
        assert (await store.head("claude-code", "one")) is not None
        other.rollback()
        other.close()
        await store.save(make_session(make_records(2)), at=2)


# Finding


async def test_snapshots_are_found_by_session_tag_and_time_page_by_page(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        for number in range(25):
            tags = ["even"] if number % 2 == 0 else []
            content = make_session(make_records(number), session_id=f"s{number % 3}")
            await store.save(content, tags=tags, at=float(number))
        found, cursor = list[float](), None
        while True:
            page = await store.states(limit=4, cursor=cursor)
            found += (info.at for info in page.items)
            cursor = page.cursor
            if cursor is None:
                break
        assert found == [float(number) for number in reversed(range(25))]
        assert [info.at for info in (await store.states(session_id="s1")).items] == list(range(22, 0, -3))
        assert [info.at for info in (await store.states(tag="even", since=20)).items] == [24, 22, 20]
        assert (await store.states(session_id="nobody's")).items == []
        for wrong in ("x", "-1", "9" * 30):
            with pytest.raises(BadInput, match="cursor"):
                await store.states(cursor=wrong)


async def test_a_dropped_snapshot_is_gone_and_the_one_before_it_is_the_newest(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        first = await store.save(make_session(make_records(1)), at=1)
        second = await store.save(make_session(make_records(2)), at=2)
        with pytest.raises(StateNotFound, match="s-0123456789abcdef"):
            await store.drop([second.state_id, "s-0123456789abcdef"])
        await store.drop([second.state_id])
        head = await store.head("claude-code", "one")
        assert head is not None
        assert head.state_id == first.state_id
        with pytest.raises(StateNotFound):
            await store.load(second.state_id)
        with pytest.raises(StateNotFound):
            await store.drop([second.state_id])


@pytest.mark.parametrize("wrong", ["", "s-", "s-12", "s-0123456789ABCDEF", "0123456789abcdef", "s-" + "0" * 16, "é"])
async def test_an_id_that_is_none_is_not_found(tmp_path: Path, wrong: str) -> None:
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        with pytest.raises(StateNotFound):
            await store.load(wrong)


# What is on the disk

_SECRET_TEXT = "the wombat at midnight"


async def _store_with_secrets(path: Path) -> SessionContent:
    content = replace(
        make_session([make_record(1, _SECRET_TEXT)._replace(key=_SECRET_TEXT)]),
        ref=replace(make_ref(_SECRET_TEXT, title=_SECRET_TEXT, marker=_SECRET_TEXT), project=_SECRET_TEXT),
        header=_SECRET_TEXT.encode(),
    )
    async with await StateStore.open(path, RING, compression=False) as store:
        await store.save(content, engines=_SECRET_TEXT.encode(), description=_SECRET_TEXT, tags=[_SECRET_TEXT], at=1)
        on_disk = bytes_of(path)
    path.with_name("copy").write_bytes(on_disk)
    return content


async def test_nothing_of_a_session_its_hash_or_the_key_is_legible_in_the_file(tmp_path: Path) -> None:
    content = await _store_with_secrets(tmp_path / "state.db")
    on_disk = (tmp_path / "copy").read_bytes() + bytes_of(tmp_path / "state.db")
    value = content.records[0].content
    unkeyed = (sha256(value), blake2b(value, digest_size=20), blake2b(value, digest_size=32), blake2b(value))
    for secret in (b"wombat", b"midnight", b"claude-code", b"11" * 32, bytes.fromhex("11" * 32)):
        assert secret not in on_disk
    for digest in unkeyed:
        assert digest.digest() not in on_disk
        assert digest.hexdigest().encode() not in on_disk


async def test_without_encryption_it_is_legible_and_the_store_says_so(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", PLAIN_RING, compression=False) as store:
        await store.save(make_session([make_record(1, _SECRET_TEXT)]), at=1)
        assert not store.encrypts
        assert b"wombat" in bytes_of(tmp_path / "state.db")


async def test_errors_hold_nothing_of_what_was_saved(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", PLAIN_RING, compression=False) as store:
        async with store.desk.database.plain() as connection:
            await connection.exec_driver_sql("DROP TABLE vals")
        with pytest.raises(StoreDamaged) as failed:
            await store.save(make_session([make_record(1, _SECRET_TEXT)]), at=1)
    error: BaseException | None = failed.value
    while error is not None:
        assert "wombat" not in f"{error} {error!r}"
        error = error.__cause__


async def test_file_and_folder_are_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "made" / "state.db"
    previous = os.umask(0)
    try:
        async with await StateStore.open(path, RING) as store:
            await store.save(make_session(make_records(1)), at=1)
            modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in (path.parent, *path.parent.iterdir())}
    finally:
        os.umask(previous)
    assert modes.pop("made") == 0o700
    assert set(modes) == {"state.db", "state.db-wal", "state.db-shm"}
    assert set(modes.values()) == {0o600}


async def test_another_key_is_named_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        saved = await store.save(make_session(make_records(1)), at=1)
    before = path.read_bytes()
    with pytest.raises(KeyWrong):
        await StateStore.open(path, OTHER_RING)
    with pytest.raises(KeyMissing):
        await StateStore.open(path, PLAIN_RING)
    assert path.read_bytes() == before
    async with await StateStore.open(path, RING) as store:
        assert await records_of(store, saved.state_id) == make_records(1)


async def test_a_store_without_encryption_is_refused_where_encryption_is_expected(tmp_path: Path) -> None:
    async with await StateStore.open(tmp_path / "state.db", PLAIN_RING) as store:
        await store.save(make_session(make_records(1)), at=1)
    with pytest.raises(KeyWrong, match="not encrypted"):
        await StateStore.open(tmp_path / "state.db", RING)


async def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await StateStore.open(path, RING)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(StoreTooNew, match="format 2"):
        await StateStore.open(path, RING)


async def test_other_files_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    text = tmp_path / "text"
    text.write_text("no database, but long enough to be looked at" * 50)
    for path in (foreign, text):
        with pytest.raises(StoreDamaged):
            await StateStore.open(path, RING)
    assert text.read_text().startswith("no database")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PathNotAllowed):
        await StateStore.open(tmp_path / "pipe", RING)


async def test_a_dictionary_is_made_once_there_is_enough_to_learn_from(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        for number in range(40):
            records = make_records(300, 300 * number)
            some = [one._replace(content=one.content + b" and on it goes" * 8) for one in records]
            await store.save(make_session(some, session_id=str(number)), at=float(number))
        assert store.desk.dictionaries
        before = await everything(store)
    async with await StateStore.open(path, RING) as store:
        assert store.desk.dictionaries
        assert await everything(store) == before
