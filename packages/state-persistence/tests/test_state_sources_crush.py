"""Crush's database is read exactly, without disturbing it, and written so that Crush's own triggers agree."""

import hashlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.crush_db import BEGAN, CrushDatabase
from vllm_mcp_protocol.errors import ForceRequired, SessionNotFound, SourceUnreadable
from vllm_state_persistence.core.rows import decode_row
from vllm_state_persistence.core.session import Known, SessionContent
from vllm_state_persistence.sources import showing
from vllm_state_persistence.sources.base import CURRENT, Places, Previous, Target, find_session
from vllm_state_persistence.sources.crush import CrushSource, preview


def source(home: Path) -> CrushSource:
    return CrushSource(Places.of({"HOME": str(home)}))


def talked(project: Path, texts: tuple[str, ...] = ("hello", "yes?", "more")) -> CrushDatabase:
    database = CrushDatabase(project)
    database.talk("s1", texts)
    return database


def taken(home: Path, session_id: str = "s1", known: Known | None = None) -> SessionContent:
    found = {ref.session_id: ref for ref in source(home).sessions(home)}
    return source(home).read(found[session_id], known)


def known_of(content: SessionContent, before: int = 0) -> Previous:
    """What a store knows of a snapshot: its records, the last one's digest, its marker."""
    tail = hashlib.sha256(content.records[-1].content).digest() if content.records else b""
    return Previous(before + len(content.records), tail, content.ref.marker)


def rows_in(database: CrushDatabase, session_id: str) -> dict[str, list[tuple[object, ...]]]:
    """The session as the database holds it."""
    asked = {
        "sessions": "SELECT * FROM sessions WHERE id = ?",
        "messages": "SELECT * FROM messages WHERE session_id = ? ORDER BY rowid",
        "files": "SELECT * FROM files WHERE session_id = ? ORDER BY rowid",
        "read_files": "SELECT * FROM read_files WHERE session_id = ? ORDER BY path",
    }
    return {table: database.run(sql, session_id) for table, sql in asked.items()}


def test_a_session_is_read_with_its_messages_files_and_what_was_read(tmp_path: Path) -> None:
    database = talked(tmp_path)
    database.keep_file("s1", "a.py", "print(1)", 0, BEGAN + 1)
    database.has_read("s1", "b.py", BEGAN + 1)
    content = taken(tmp_path)
    kinds = [(record.kind, record.key, record.role) for record in content.records]
    assert kinds == [
        ("message", "s1-m0", "user"),
        ("message", "s1-m1", "assistant"),
        ("file", "s1-a.py-0", ""),
        ("message", "s1-m2", "user"),
        ("read-file", "b.py", ""),
    ]
    assert [preview(record) for record in content.records] == ["hello", "yes?", "a.py", "more", "b.py"]
    assert (content.ref.title, content.ref.project, decode_row(content.header)["message_count"]) == (
        "A talk",
        str(tmp_path),
        3,
    )


def test_sessions_come_newest_first_and_sub_agents_are_their_own(tmp_path: Path) -> None:
    database = CrushDatabase(tmp_path)
    database.start("old", at=BEGAN)
    database.start("new", at=BEGAN + 9)
    database.start("new-m1$$call", parent="new", at=BEGAN + 5)
    assert [ref.session_id for ref in source(tmp_path).sessions(tmp_path)] == ["new", "new-m1$$call", "old"]
    _, ref = find_session([source(tmp_path)], CURRENT, tmp_path)
    assert ref.session_id == "new"


def test_projects_that_crush_remembers_are_found_with_their_data_folders(tmp_path: Path) -> None:
    other = tmp_path / "other"
    database = talked(other)
    database.path.parent.rename(tmp_path / "elsewhere")
    remembered = tmp_path / ".local/share/crush"
    remembered.mkdir(parents=True)
    entry = f'{{"path": "{other}", "data_dir": "{tmp_path}/elsewhere"}}'
    (remembered / "projects.json").write_text(f'{{"projects": [7, {{"path": 1, "data_dir": 2}}, {entry}]}}')
    for project in (None, other):
        (ref,) = source(tmp_path).sessions(project)
        assert (ref.project, ref.location) == (str(other), str(tmp_path / "elsewhere/crush.db"))
    with pytest.raises(SessionNotFound, match="nobody"):
        find_session([source(tmp_path)], "nobody", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO messages (id, session_id, role, created_at, updated_at) VALUES ('x', 's1', 'user', 1, 1)",
        "UPDATE messages SET parts = '[]' WHERE id = 's1-m0'",
        "DELETE FROM messages WHERE id = 's1-m1'",
        "UPDATE sessions SET title = 'other' WHERE id = 's1'",
        "INSERT INTO files VALUES ('f', 's1', 'p', 'c', 0, 1, 1)",
        "INSERT INTO read_files VALUES ('s1', 'p', 1)",
    ],
)
def test_the_marker_changes_with_the_session_and_only_then(tmp_path: Path, change: str) -> None:
    database = talked(tmp_path)
    database.talk("s2", ["by itself"])
    (before,) = [ref.marker for ref in source(tmp_path).sessions(tmp_path) if ref.session_id == "s1"]
    database.say("s2", "s2-more", "not of s1", BEGAN + 50)
    (between,) = [ref.marker for ref in source(tmp_path).sessions(tmp_path) if ref.session_id == "s1"]
    database.run(change)
    (after,) = [ref.marker for ref in source(tmp_path).sessions(tmp_path) if ref.session_id == "s1"]
    assert before == between != after
    assert taken(tmp_path).ref.marker == after


def test_a_change_within_the_same_second_is_seen(tmp_path: Path) -> None:
    """Crush streams an answer into one row; its stamp has seconds."""
    database = talked(tmp_path)
    before = taken(tmp_path)
    database.run("DROP TRIGGER update_messages_updated_at")
    database.run("UPDATE messages SET parts = '[1]' WHERE id = 's1-m2'")
    after = taken(tmp_path, known=known_of(before))
    assert after.ref.marker != before.ref.marker
    assert decode_row(after.records[-1].content)["parts"] == "[1]"


def test_of_a_long_session_only_the_rest_is_read(tmp_path: Path) -> None:
    database = talked(tmp_path, tuple(f"text {number}" for number in range(50)))
    database.has_read("s1", "b.py", BEGAN + 1)
    first = taken(tmp_path)
    database.say("s1", "new", "one more", BEGAN + 60)
    second = taken(tmp_path, known=known_of(first))
    assert second.kept == 49  # the last one's second was not over
    assert [record.key for record in second.records] == ["s1-m49", "new", "b.py"]
    third = taken(tmp_path, known=known_of(second, second.kept))
    assert (third.kept, [record.key for record in third.records]) == (50, ["new", "b.py"])
    assert list(first.records[:49]) + list(second.records) == list(taken(tmp_path).records)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE messages SET parts = '[]' WHERE id = 's1-m3'",
        "DELETE FROM messages WHERE id = 's1-m3'",
        "INSERT INTO files VALUES ('f', 's1', 'p', 'c', 0, 1790000003, 1790000003)",
    ],
)
def test_a_change_in_the_middle_is_never_missed(tmp_path: Path, change: str) -> None:
    database = talked(tmp_path, tuple(f"text {number}" for number in range(9)))
    first = taken(tmp_path)
    database.run(change)
    second = taken(tmp_path, known=known_of(first))
    assert list(first.records[: second.kept]) + list(second.records) == list(taken(tmp_path).records)


def test_without_the_last_marker_everything_is_read(tmp_path: Path) -> None:
    talked(tmp_path)
    first = taken(tmp_path)
    assert taken(tmp_path, known=Known(len(first.records), known_of(first).tail)).kept == 0


@pytest.mark.parametrize("same", [False, True])
def test_a_restored_session_is_the_one_that_was_saved(tmp_path: Path, same: bool) -> None:
    database = talked(tmp_path)
    database.keep_file("s1", "a.py", "print(1)", 0, BEGAN + 1)
    database.has_read("s1", "b.py", BEGAN + 1)
    database.run("UPDATE sessions SET summary_message_id = 's1-m1' WHERE id = 's1'")
    saved, rows = taken(tmp_path), rows_in(database, "s1")
    database.run("UPDATE messages SET parts = 'spoilt'")
    database.say("s1", "later", "to be gone", BEGAN + 99)
    written = source(tmp_path).write(saved, Target(same=same, force=same))
    restored = rows_in(database, written.session_id)
    assert (written.session_id == "s1", written.records, written.notes) == (same, 5, ())
    if same:
        assert restored == rows
    else:
        again = taken(tmp_path, written.session_id)
        assert without_ids(again) == without_ids(saved)
        assert decode_row(again.header)["summary_message_id"] == again.records[1].key
        assert len(rows_in(database, "s1")["messages"]) == 4
    assert restored["sessions"][0][3] == 3


def without_ids(content: SessionContent) -> list[dict[str, object]]:
    rows = [decode_row(content.header), *(decode_row(record.content) for record in content.records)]
    return [{k: v for k, v in row.items() if k not in ("id", "session_id", "summary_message_id")} for row in rows]


def test_a_session_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    database = talked(tmp_path)
    saved = taken(tmp_path)
    with pytest.raises(ForceRequired, match="s1"):
        source(tmp_path).write(saved, Target(same=True))
    database.run("DELETE FROM sessions WHERE id = 's1'")
    assert source(tmp_path).write(saved, Target(same=True)).session_id == "s1"


def test_another_project_gets_it_when_crush_has_been_there(tmp_path: Path) -> None:
    talked(tmp_path)
    saved = taken(tmp_path)
    with pytest.raises(SourceUnreadable, match="none yet"):
        source(tmp_path).write(saved, Target(project=tmp_path / "other"))
    CrushDatabase(tmp_path / "other")
    written = source(tmp_path).write(saved, Target(project=tmp_path / "other"))
    (ref,) = source(tmp_path).sessions(tmp_path / "other")
    assert (ref.session_id, ref.updated_at, written.project) == (
        written.session_id,
        saved.ref.updated_at,
        str(tmp_path / "other"),
    )


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = talked(tmp_path)
    saved = taken(tmp_path)
    before = rows_in(database, "s1")
    twice = replace(saved, records=[*saved.records, saved.records[0]])
    with pytest.raises(SourceUnreadable, match="UNIQUE"):
        source(tmp_path).write(twice, Target(same=True, force=True))
    assert rows_in(database, "s1") == before


def test_what_a_newer_crush_had_is_named_when_an_older_one_has_no_place(tmp_path: Path) -> None:
    database = talked(tmp_path)
    database.run("ALTER TABLE messages ADD COLUMN mood TEXT DEFAULT 'fine'")
    database.has_read("s1", "b.py", BEGAN)
    saved = taken(tmp_path)
    older = CrushDatabase(tmp_path / "older")
    older.run("DROP TABLE read_files")
    written = source(tmp_path).write(saved, Target(project=tmp_path / "older"))
    assert written.notes == (
        "messages.mood is not known to this Crush: left out",
        "read_files is not known to this Crush: left out",
    )


CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)


@given(cells=st.lists(CELLS, min_size=4, max_size=4))
@settings(max_examples=30, deadline=None)
def test_any_cell_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, cells: list[object]) -> None:
    home = tmp_path_factory.mktemp("crush")
    database = talked(home)
    database.run("ALTER TABLE messages ADD COLUMN extra")
    for number, cell in enumerate(cells[:3]):
        database.run("UPDATE messages SET extra = ? WHERE id = ?", cell, f"s1-m{number}")
    asked = "SELECT typeof(extra), extra FROM messages WHERE session_id = ? ORDER BY created_at"
    before = database.run(asked, "s1")
    written = source(home).write(taken(home), Target())
    assert repr(database.run(asked, written.session_id)) == repr(before)


def test_text_that_is_no_unicode_comes_back_exactly(tmp_path: Path) -> None:
    database = talked(tmp_path)
    database.run("UPDATE messages SET parts = CAST(x'ff00eda080' AS TEXT) WHERE id = 's1-m1'")
    written = source(tmp_path).write(taken(tmp_path), Target())
    asked = "SELECT typeof(parts), hex(parts) FROM messages WHERE session_id = ? AND created_at = ?"
    assert database.run(asked, written.session_id, BEGAN + 1) == [("text", "FF00EDA080")]


def test_what_is_only_in_the_write_ahead_log_is_read_and_the_owner_is_not_disturbed(tmp_path: Path) -> None:
    database = CrushDatabase(tmp_path)
    with closing(database.connect()) as owner:
        owner.execute("BEGIN IMMEDIATE")
        owner.execute("INSERT INTO sessions (id, title, updated_at, created_at) VALUES ('half', 't', 1, 1)")
        assert source(tmp_path).sessions(tmp_path) == []
        owner.execute("COMMIT")
        assert database.path.with_name("crush.db-wal").stat().st_size > 0
        main = database.path.read_bytes()
        (ref,) = source(tmp_path).sessions(tmp_path)
        source(tmp_path).read(ref, None)
        assert database.path.read_bytes() == main
        owner.execute("UPDATE sessions SET title = 'goes on'")
    assert [ref.title for ref in source(tmp_path).sessions(tmp_path)] == ["goes on"]


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("ALTER TABLE messages DROP COLUMN parts", "column messages.parts"),
        ("DROP TABLE files", "table files"),
        ("ALTER TABLE sessions RENAME TO talks", "table sessions"),
    ],
)
def test_a_version_that_is_not_known_is_named_with_what_is_missing(tmp_path: Path, sql: str, named: str) -> None:
    database = CrushDatabase(tmp_path)
    triggers = database.run("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in triggers:
        database.run(f"DROP TRIGGER {name}")
    database.run(sql)
    with pytest.raises(SourceUnreadable, match=named) as caught:
        source(tmp_path).sessions(tmp_path)
    assert "0.90" in caught.value.info.message


def test_a_file_that_is_no_database_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / ".crush/crush.db"
    path.parent.mkdir()
    for data in (b"not a database at all, but long enough to be looked at" * 40, b"", b"SQLite format 3\0"):
        path.write_bytes(data)
        with pytest.raises(SourceUnreadable, match=r"crush\.db"):
            source(tmp_path).sessions(tmp_path)


def test_a_damaged_row_does_not_take_the_others_along(tmp_path: Path) -> None:
    database = talked(tmp_path, ("before", "x" * 50_000, "after"))
    database.run("PRAGMA wal_checkpoint(TRUNCATE)")
    cut_overflow_chain(database.path, b"x" * 2_000)
    content = taken(tmp_path)
    assert [(record.kind, showing.preview("crush", record)) for record in content.records] == [
        ("message", "before"),
        ("message", "after"),
        ("unreadable", "could not be read: messages:2"),
    ]
    fresh = CrushDatabase(tmp_path / "fresh")
    written = source(tmp_path).write(content, Target(project=tmp_path / "fresh"))
    assert fresh.run("SELECT message_count FROM sessions WHERE id = ?", written.session_id) == [(2,)]


def cut_overflow_chain(path: Path, filling: bytes) -> None:
    """Let the first overflow page that holds `filling` name a next page that does not exist."""
    data = bytearray(path.read_bytes())
    for start in range(0, len(data), 4096):
        if data[start + 4 : start + 4 + len(filling)] == filling:
            data[start : start + 4] = b"\x7f\xff\xff\xf0"
            path.write_bytes(data)
            return
    raise AssertionError("no such page")


def test_a_session_that_is_gone_says_so(tmp_path: Path) -> None:
    database = talked(tmp_path)
    (ref,) = source(tmp_path).sessions(tmp_path)
    database.run("DELETE FROM sessions")
    with pytest.raises(SessionNotFound, match="s1"):
        source(tmp_path).read(ref, None)
    with pytest.raises(SessionNotFound):
        source(tmp_path).read(replace(ref, location=str(tmp_path / "none.db")), None)
