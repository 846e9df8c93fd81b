"""opencode's database, in the schema that 1.18.33 makes; the client itself is driven in tests/interop."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_mcp_protocol.errors import ForceRequired, SessionNotFound, SourceUnreadable
from vllm_state_persistence.core.rows import decode_row
from vllm_state_persistence.core.session import SessionContent
from vllm_state_persistence.core.values import decode
from vllm_state_persistence.sources.base import Places, Target
from vllm_state_persistence.sources.opencode import OpencodeSource, preview

SCHEMA = """
CREATE TABLE project (id text PRIMARY KEY, worktree text NOT NULL, vcs text, time_created integer NOT NULL,
    time_updated integer NOT NULL, sandboxes text NOT NULL);
CREATE TABLE session (id text PRIMARY KEY, project_id text NOT NULL, workspace_id text, parent_id text,
    slug text NOT NULL, directory text NOT NULL, path text, title text NOT NULL, version text NOT NULL,
    share_url text, cost real DEFAULT 0 NOT NULL, revert text,
    time_created integer NOT NULL, time_updated integer NOT NULL);
CREATE TABLE message (id text PRIMARY KEY, session_id text NOT NULL, time_created integer NOT NULL,
    time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE part (id text PRIMARY KEY, message_id text NOT NULL, session_id text NOT NULL,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE todo (session_id text NOT NULL, content text NOT NULL, status text NOT NULL, priority text NOT NULL,
    position integer NOT NULL, time_created integer NOT NULL, time_updated integer NOT NULL,
    CONSTRAINT todo_pk PRIMARY KEY (session_id, position));
CREATE TABLE session_share (session_id text PRIMARY KEY, secret text NOT NULL);
"""
SESSION = "ses_decdc2be7ffeWo45JSmrg1rwBs"
ASKED, ANSWERED = "msg_21323d476001hqWxcgNK8e8Slq", "msg_21323d7e8001e2rWIsZpx5QTDy"
PART = "prt_21323db1c001rOzTNNuPWuks49"
QUOTED = f'see "{ASKED}"'


def source(home: Path) -> OpencodeSource:
    return OpencodeSource(Places.of({"HOME": str(home)}))


def run(home: Path, sql: str, *given: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(home / ".local/share/opencode/opencode.db", isolation_level=None)) as link:
        link.execute("PRAGMA synchronous = OFF")
        return link.execute(sql, given).fetchall()


def machine(home: Path) -> Path:
    """A user's empty database."""
    folder = home / ".local/share/opencode"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "opencode.db")) as link:
        link.executescript(f"PRAGMA journal_mode=WAL; {SCHEMA}")
    return home


def talked(home: Path, directory: str = "/home/me/x", worktree: str = "/") -> Path:
    """A question and its answer, in a project."""
    machine(home)
    run(home, "INSERT INTO project VALUES ('p1', ?, NULL, 1, 1, '[]')", worktree)
    columns = "id, project_id, slug, directory, path, title, version, share_url, revert, time_created, time_updated"
    revert = json.dumps({"messageID": ASKED})
    given = (SESSION, "p1", "s", directory, "x", "A talk", "1.18.33", "https://share", revert, 5_000, 9_000)
    run(home, f"INSERT INTO session ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", *given)  # noqa: S608
    put = "INSERT INTO message VALUES (?, ?, ?, ?, ?)"
    run(home, put, ASKED, SESSION, 5_000, 5_001, json.dumps({"role": "user"}))
    run(home, put, ANSWERED, SESSION, 6_000, 9_000, json.dumps({"role": "assistant", "parentID": ASKED}))
    text = json.dumps({"type": "text", "text": QUOTED})
    run(home, "INSERT INTO part VALUES (?, ?, ?, 5000, 5002, ?)", PART, ASKED, SESSION, text)
    run(home, "INSERT INTO todo VALUES (?, 'do it', 'pending', 'high', 0, 5, 5)", SESSION)
    run(home, "INSERT INTO session_share VALUES (?, 'secret-of-the-page')", SESSION)
    return home


def taken(home: Path) -> SessionContent:
    (ref,) = source(home).sessions(None)
    return source(home).read(ref, None)


def test_a_session_is_read_with_its_parts_and_not_with_its_secrets(tmp_path: Path) -> None:
    content = taken(talked(tmp_path))
    assert [(record.kind, record.key, record.role, preview(record)) for record in content.records] == [
        ("message", ASKED, "user", ""),
        ("part", PART, "", QUOTED),
        ("message", ANSWERED, "assistant", ""),
        ("todo", "0", "", "do it"),
    ]
    assert (content.ref.updated_at, content.ref.project, content.ref.title) == (9.0, "/home/me/x", "A talk")
    assert decode(content.header)["project"]["id"] == "p1"
    assert b"secret-of-the-page" not in content.header + b"".join(record.content for record in content.records)


def test_only_the_sessions_of_a_folder_are_its_own(tmp_path: Path) -> None:
    home = talked(tmp_path)
    assert len(source(home).sessions(Path("/home/me/x"))) == 1
    assert source(home).sessions(Path("/work")) == []


def test_a_new_session_has_ids_of_its_own_wherever_they_stand(tmp_path: Path) -> None:
    home = talked(tmp_path)
    written = source(home).write(taken(home), Target())
    new = {ref.session_id: ref for ref in source(home).sessions(None)}[written.session_id]
    asked, part, answered, todo = (decode_row(record.content) for record in source(home).read(new, None).records)
    assert {row["session_id"] for row in (asked, part, answered, todo)} == {written.session_id}
    assert part["message_id"] == asked["id"] != ASKED
    assert str(asked["id"])[:16] == ASKED[:16]
    assert json.loads(str(answered["data"])) == {"role": "assistant", "parentID": asked["id"]}
    assert json.loads(str(part["data"]))["text"] == QUOTED
    ((revert, share, times),) = run(
        home, "SELECT revert, share_url, time_updated FROM session WHERE id = ?", written.session_id
    )
    assert (json.loads(str(revert)), share, times) == ({"messageID": asked["id"]}, None, 9_000)
    assert written.session_id < SESSION  # the newest sorts first
    assert len(run(home, "SELECT 1 FROM message")) == 4


def test_the_same_session_comes_back_as_it_was_only_by_force(tmp_path: Path) -> None:
    home = talked(tmp_path)
    saved = taken(home)
    everything = "SELECT * FROM session UNION ALL SELECT *,1,2,3,4,5,6,7,8,9 FROM message"
    before = run(home, everything)
    run(home, "UPDATE message SET data = '{}'")
    with pytest.raises(ForceRequired, match=SESSION):
        source(home).write(saved, Target(same=True))
    source(home).write(saved, Target(same=True, force=True))
    assert run(home, everything) == before
    assert run(home, "SELECT secret FROM session_share") == [("secret-of-the-page",)]


@pytest.mark.parametrize(
    ("worktree", "directory", "known", "project", "path"),
    [
        ("/home/me/x", "/home/me/x/sub", [], "p1", "sub"),
        ("/home/me/x", "/home/me/x", [("there", "/home/me/x")], "there", ""),
        ("/home/me/x", "/else", [("there", "/home/me/x")], "global", "else"),
        ("/", "/home/me/x", [("global", "/")], "p1", "home/me/x"),
    ],
)
def test_on_another_machine_a_session_belongs_to_the_project_of_its_folder(
    tmp_path: Path, worktree: str, directory: str, known: list[tuple[str, str]], project: str, path: str
) -> None:
    saved = taken(talked(tmp_path / "one", worktree=worktree))
    other = machine(tmp_path / "other")
    for name, tree in known:
        run(other, "INSERT INTO project VALUES (?, ?, NULL, 1, 1, '[]')", name, tree)
    source(other).write(saved, Target(project=Path(directory)))
    assert run(other, "SELECT project_id, directory, path FROM session") == [(project, directory, path)]
    assert run(other, "SELECT count(*) FROM project WHERE id = ?", project) == [(1,)]


def test_a_damaged_part_does_not_take_the_others_along(tmp_path: Path) -> None:
    """Its stamps can be read, its content cannot: it stands where it stood, as one that is lost."""
    home = talked(tmp_path)
    run(home, "UPDATE part SET data = ?", "x" * 50_000)
    run(home, "PRAGMA wal_checkpoint(TRUNCATE)")
    path = home / ".local/share/opencode/opencode.db"
    data = bytearray(path.read_bytes())
    page = next(at for at in range(0, len(data), 4096) if data[at + 4 : at + 2004] == b"x" * 2_000)
    data[page : page + 4] = b"\x7f\xff\xff\xf0"  # the next page of the chain, which does not exist
    path.write_bytes(data)
    assert [record.kind for record in taken(home).records] == ["message", "unreadable", "message", "todo"]


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    assert source(tmp_path).sessions(None) == []
    (tmp_path / ".local/share/opencode/storage/session").mkdir(parents=True)
    with pytest.raises(SourceUnreadable, match="JSON files") as caught:
        source(tmp_path).sessions(None)
    assert "opencode session list" in caught.value.info.suggestion
    home = talked(tmp_path / "two")
    saved = taken(home)
    with pytest.raises(SessionNotFound):
        source(home).read(replace(saved.ref, session_id="ses_none"), None)
    with pytest.raises(SourceUnreadable, match="none yet"):
        source(tmp_path).write(saved, Target())
    run(home, "ALTER TABLE part DROP COLUMN data")
    with pytest.raises(SourceUnreadable, match=r"column part\.data"):
        source(home).sessions(None)
