"""Claude Code's transcripts are kept byte for byte, read from their tail, and written where the client looks."""

import asyncio
import hashlib
import itertools
import json
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from anyio import to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stores import RING
from vllm_mcp_protocol.errors import (
    ForceRequired,
    NotSupported,
    SessionNotFound,
    SourceUnreadable,
    StateNotFound,
    StoreDamaged,
)
from vllm_state_persistence.core.session import Known, Record, SessionContent
from vllm_state_persistence.core.transcripts import munged
from vllm_state_persistence.core.values import encode
from vllm_state_persistence.sources.base import CURRENT, Outcome, Places, Previous, Target, Written, find_session
from vllm_state_persistence.sources.claude_code import ClaudeCodeSource, preview
from vllm_state_persistence.sources.inline import inline_content
from vllm_state_persistence.store.store import StateStore
from vllm_state_persistence.writing_back import write_back

SESSION = "021b9406-dfcf-4736-96a5-b947f7cb6e15"
OTHER = "7d0a2cbb-3d7c-4a1e-9a41-0f6f0a3d2b11"


def source(home: Path) -> ClaudeCodeSource:
    return ClaudeCodeSource(Places.of({"HOME": str(home)}))


def said(number: int, text: str, role: str = "user", **more: object) -> bytes:
    """A line as Claude Code 2.1 writes them."""
    message = {"role": role, "content": text if role == "user" else [{"type": "text", "text": text}]}
    line = {"parentUuid": None, "type": role, "message": message, "uuid": f"u{number}", "cwd": "/home/me/x"}
    return json.dumps({**line, "sessionId": SESSION, **more}, ensure_ascii=False, separators=(",", ":")).encode()


def transcript(home: Path, data: bytes, project: str = "/home/me/x", session_id: str = SESSION) -> Path:
    path = home / ".claude/projects" / munged(project) / f"{session_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def lines(*contents: bytes) -> bytes:
    return b"".join(content + b"\n" for content in contents)


def taken(home: Path, known: Known | None = None) -> SessionContent:
    (ref,) = source(home).sessions(Path("/home/me/x"))
    return source(home).read(ref, known)


def known_of(content: SessionContent, marked: bool) -> Known:
    """What a store knows of a snapshot."""
    count, last = content.kept + len(content.records), content.records[-1].content
    tail = hashlib.sha256(last).digest()
    return Previous(count, tail, content.ref.marker) if marked else Known(count, tail)


def test_each_line_is_a_record_with_its_role_and_a_glimpse(tmp_path: Path) -> None:
    result = [{"type": "tool_result", "content": "42 files", "tool_use_id": "t"}]
    transcript(
        tmp_path,
        lines(
            b'{"type":"queue-operation","operation":"enqueue"}',
            said(1, "hello ünï\n\tthere"),
            said(2, "yes?", "assistant"),
            said(3, "", message={"role": "user", "content": result}),
            b"\xff not json",
            b"",
        ),
    )
    content = taken(tmp_path)
    assert [(record.key, record.role, preview(record)) for record in content.records] == [
        ("line 0", "", ""),
        ("u1", "user", "hello ünï there"),
        ("u2", "assistant", "yes?"),
        ("u3", "tool", "42 files"),
        ("line 4", "", ""),
        ("line 5", "", ""),
    ]
    assert (content.ref.title, content.ref.project) == ("hello ünï there", "/home/me/x")


@pytest.mark.parametrize(
    ("extra", "title"),
    [
        (b'{"type":"custom-title","customTitle":"My \\"own\\"","sessionId":"x"}', 'My "own"'),
        (b'{"type":"summary","summary":"Talk of birds","leafUuid":"u"}', "Talk of birds"),
        (b'{"type":"other"}', "first words"),
    ],
)
def test_the_title_is_the_users_own_then_the_summary_then_what_was_said_first(
    tmp_path: Path, extra: bytes, title: str
) -> None:
    transcript(tmp_path, lines(said(0, "<command-name>/clear</command-name>"), said(1, "first words"), extra))
    (ref,) = source(tmp_path).sessions(Path("/home/me/x"))
    assert ref.title == title


@given(data=st.binary(max_size=300).map(lambda data: data.replace(b"\x01", b"\n").replace(b"\x02", b'"uuid":"u"')))
@settings(max_examples=150, deadline=None)
def test_any_bytes_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    home = tmp_path_factory.mktemp("claude")
    path = transcript(home, data)
    content = taken(home)
    keys = [(record.kind, record.key) for record in content.records]
    assert len(set(keys)) == len(keys)
    path.unlink()
    source(home).write(content, Target(same=True))
    assert path.read_bytes() == data


@pytest.mark.parametrize("marked", [True, False])
def test_of_a_longer_transcript_only_what_was_appended_is_read(tmp_path: Path, marked: bool) -> None:
    path = transcript(tmp_path, lines(*(said(number, f"text {number}") for number in range(30))))
    first = taken(tmp_path)
    assert (taken(tmp_path, known_of(first, marked)).kept, taken(tmp_path, known_of(first, marked)).records) == (30, [])
    with path.open("ab") as file:
        file.write(lines(said(30, "new"), b"junk"))
    second = taken(tmp_path, known_of(first, marked))
    assert (second.kept, [record.key for record in second.records]) == (30, ["u30", "line 31"])
    assert second.ref.marker != first.ref.marker


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_transcript_that_was_rewritten_is_never_taken_for_the_old_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """One line is deleted or changed, others come: what is kept and what is read is always the file as it is.

    Without the last marker only the last line is compared, by its number.
    """
    home = tmp_path_factory.mktemp("claude")
    words = st.lists(st.sampled_from([b"", b"a", b"bb", b"ccc"]), min_size=1, max_size=6)
    old = [b"%d %b" % pair for pair in enumerate(data.draw(words))]
    path = transcript(home, lines(*old))
    first = taken(home)
    new = list(old)
    new[data.draw(st.integers(0, len(old) - 1))] = data.draw(st.sampled_from([b"", b"0 longer than before"]))
    new += data.draw(words)
    end = data.draw(st.sampled_from([b"", b"\n"]))
    in_place, marked = data.draw(st.booleans()), data.draw(st.booleans())
    written = path if in_place else path.with_name("new")
    written.write_bytes(b"\n".join(new) + end)
    os.replace(written, path)
    second = taken(home, known_of(first, marked))
    kept = [record.content for record in first.records[: second.kept]]
    assert second.kept == 0 or kept[-1] == new[second.kept - 1]
    assert not marked or kept == new[: second.kept]
    assert [record.content for record in second.records] == (new if new[-1] or end else new[:-1])[second.kept :]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0 \n1 a\n", b"other\n1 a\n"),  # the last line stands where the old file's last byte was
        (b"0 \n1 a\n", b"00 \n1 a\n"),  # one byte further
        (b"0 \n1 a", b"0\n1 a\n"),
        (b"0 \n1 a\n", b"0 \n1 a"),
    ],
)
def test_a_file_that_was_changed_in_place_is_read_whole(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = transcript(tmp_path, old)
    first = taken(tmp_path)
    path.write_bytes(new)
    second = taken(tmp_path, known_of(first, marked=True))
    assert second.kept == 0 or first.records[: second.kept] == taken(tmp_path).records[: second.kept]
    path.write_bytes(new + b"\n2 b\n")
    third = taken(tmp_path, known_of(first, marked=True))
    assert [*first.records[: third.kept], *third.records] == list(taken(tmp_path).records)


def test_a_half_written_last_line_is_kept_and_read_again_when_it_is_whole(tmp_path: Path) -> None:
    whole = said(2, "a long answer", "assistant")
    path = transcript(tmp_path, lines(said(1, "hello")) + whole[:40])
    first = taken(tmp_path)
    assert first.records[-1].content == whole[:40]
    path.write_bytes(lines(said(1, "hello"), whole))
    for marked in (True, False):
        second = taken(tmp_path, known_of(first, marked))
        assert (second.kept, [record.content for record in second.records]) == (0, [said(1, "hello"), whole])


def test_a_new_session_carries_its_own_id_and_folder_and_quotes_stay(tmp_path: Path) -> None:
    quoting = said(2, f'{{"sessionId":"{SESSION}","cwd":"/home/me/x"}}')
    transcript(tmp_path, lines(said(1, "hello"), quoting, b'{ "sessionId" : "' + SESSION.encode() + b'" }'))
    written = source(tmp_path).write(taken(tmp_path), Target(project=tmp_path / "some where"))
    path = Path(written.location)
    assert path.parent.name == munged(str(tmp_path / "some where"))
    assert path.name == f"{written.session_id}.jsonl" != f"{SESSION}.jsonl"
    one, two, three = path.read_text().splitlines()
    fields = [(json.loads(line)["sessionId"], json.loads(line).get("cwd")) for line in (one, two, three)]
    here = str(tmp_path / "some where")
    assert fields == [(written.session_id, here), (written.session_id, here), (written.session_id, None)]
    assert json.loads(two)["message"] == json.loads(quoting)["message"]
    (ref,) = source(tmp_path).sessions(tmp_path / "some where")
    assert (ref.session_id, ref.title, ref.project) == (written.session_id, "hello", here)


def test_a_session_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = transcript(tmp_path, lines(said(1, "hello")))
    saved = taken(tmp_path)
    path.write_bytes(lines(said(1, "hello"), said(2, "more")))
    with pytest.raises(ForceRequired, match=SESSION):
        source(tmp_path).write(saved, Target(same=True))
    assert source(tmp_path).write(saved, Target(same=True, force=True)).session_id == SESSION
    assert path.read_bytes() == lines(said(1, "hello"))


def test_of_many_that_are_written_the_trouble_of_one_is_its_own(tmp_path: Path) -> None:
    transcript(tmp_path, lines(said(1, "hello")))
    saved = taken(tmp_path)
    names = [f"0000000{number}{SESSION[8:]}" for number in range(5)]
    many = [replace(saved, ref=replace(saved.ref, session_id=name)) for name in names]
    (there, in_the_way) = (tmp_path / ".claude/projects/-home-me-x" / f"{names[number]}.jsonl" for number in (1, 3))
    there.write_bytes(b"mine")
    (in_the_way / "x").mkdir(parents=True)
    first = source(tmp_path).write_many(many, Target(same=True))
    assert [type(one) for one in first] == [Written, ForceRequired, Written, ForceRequired, Written]
    again = source(tmp_path).write_many(many, Target(same=True, force=True))
    assert [type(one) for one in again] == [Written, Written, Written, IsADirectoryError, Written]
    texts = [(in_the_way.parent / f"{names[number]}.jsonl").read_bytes() for number in (0, 1, 2, 4)]
    assert texts == [lines(said(1, "hello"))] * 4
    assert not list(in_the_way.parent.glob(".*"))
    with pytest.raises(ValueError, match="twice"):
        source(tmp_path).write_many([saved, saved], Target(same=True, force=True))


@pytest.mark.anyio
async def test_saved_sessions_are_written_back_each_to_its_client(tmp_path: Path) -> None:
    path = transcript(tmp_path, lines(said(1, "hello")))
    saved = taken(tmp_path)
    inline = inline_content([{"role": "user", "content": "hi"}], "given", "", 1.0)
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        ids = [(await store.save(content, at=1)).state_id for content in (saved, inline)]
        path.unlink()
        done = await write_back(store, {"claude-code": source(tmp_path)}, ["s-none", *ids], Target(same=True))
        broken = sqlite3.connect(tmp_path / "state.db")
        broken.execute("DROP TABLE vals")
        broken.close()
        with pytest.raises(StoreDamaged):
            await write_back(store, {}, ids, Target())
    assert [type(done[one]) for one in ("s-none", *ids)] == [StateNotFound, Written, NotSupported]
    assert path.read_bytes() == lines(said(1, "hello"))


@pytest.mark.anyio
@pytest.mark.parametrize("ends", ["cancelled", "trouble", "bug"])
async def test_sessions_that_do_not_all_come_leave_no_transcript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Whatever its thread does at that moment: it must not wait for more for ever."""
    transcript(tmp_path, lines(said(1, "hello")))
    saved = taken(tmp_path)
    writes, given_up = threading.Event(), threading.Event()

    class Slow(ClaudeCodeSource):
        def write_many(self, contents: Iterable[SessionContent], target: Target) -> list[Outcome]:
            if ends == "bug":
                raise ValueError("a bug")
            contents = iter(contents)
            first = next(contents)
            writes.set()
            assert given_up.wait(30)
            return super().write_many(itertools.chain([first], contents), target)

    async def contents(_: list[str]) -> AsyncIterator[list[SessionContent]]:
        yield [saved]
        await to_thread.run_sync(writes.wait, 0.5)
        if ends == "trouble":
            given_up.set()
            raise StoreDamaged("x", suggestion="y")
        yield [saved]
        await asyncio.sleep(30)

    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        monkeypatch.setattr(store, "contents", contents)
        source = Slow(Places.of({"HOME": str(tmp_path / "new")}))
        work = asyncio.create_task(write_back(store, {"claude-code": source}, ["s-1", "s-2"], Target()))
        await asyncio.sleep(0.1)
        if ends == "cancelled":
            work.cancel()
            await asyncio.sleep(0.05)
            given_up.set()
        await asyncio.wait([work], timeout=10)
        assert work.done()
        with pytest.raises({"cancelled": asyncio.CancelledError, "trouble": StoreDamaged, "bug": ValueError}[ends]):
            await work
    assert not list((tmp_path / "new").rglob("*.jsonl"))


def test_what_a_killed_restore_left_is_removed_by_a_later_one(tmp_path: Path) -> None:
    path = transcript(tmp_path, lines(said(1, "hello")))
    left = [path.with_name(f".{OTHER}.jsonl.17-{number}-0-0.tmp") for number in (1, 2)]
    others = [path.with_name(name) for name in (".mine.tmp", f".{OTHER}.jsonl")]
    for file in (*left, *others):
        file.write_bytes(b"half")
        os.utime(file, (1, 1))
    left[1].touch()  # somebody may be writing it
    source(tmp_path).write(taken(tmp_path), Target())
    assert [file.exists() for file in (*left, *others)] == [False, True, True, True]


def test_a_project_that_no_path_can_name_is_restored_into_its_folder(tmp_path: Path) -> None:
    path = transcript(tmp_path, lines(said(1, "hello", cwd="/home/me/\0x")))
    (ref,) = source(tmp_path).look(None).sessions
    content = source(tmp_path).read(ref, None)
    path.unlink()
    assert Path(source(tmp_path).write(content, Target(same=True)).location) == path


def test_a_session_that_lies_in_two_folders_is_what_it_is_in_the_newer_one(tmp_path: Path) -> None:
    old = transcript(tmp_path, lines(said(1, "hello")))
    new = transcript(tmp_path, lines(said(1, "hello"), said(2, "more")), project="/home/me/a-copy")
    os.utime(old, (1, 1))
    (ref,) = source(tmp_path).look(None).sessions
    assert ref.location == str(new)
    found = source(tmp_path).look(None, lambda session_id, marker: marker == ref.marker)
    assert (found.sessions, found.unchanged) == ([], 1)
    (ref,) = source(tmp_path).look(Path("/home/me/x")).sessions
    assert ref.location == str(old)


def test_what_lies_beside_a_transcript_is_saved_and_restored_with_it(tmp_path: Path) -> None:
    path = transcript(tmp_path, lines(said(1, "hello")))
    (path.with_suffix("") / "subagents").mkdir(parents=True)
    agent = path.with_suffix("") / "subagents/agent-a.jsonl"
    agent.write_bytes(lines(said(7, "sub")))
    (path.with_suffix("") / "out.txt").write_bytes(b"\xff\0 long result")
    (path.with_suffix("") / "link").symlink_to("/etc/passwd")
    first = taken(tmp_path)
    assert [(record.kind, record.key) for record in first.records] == [
        ("file", "out.txt"),
        ("file", "subagents/agent-a.jsonl"),
        ("line", "u1"),
    ]
    written = source(tmp_path).write(first, Target())
    beside = Path(written.location).with_suffix("")
    assert (beside / "out.txt").read_bytes() == b"\xff\0 long result"
    assert json.loads((beside / "subagents/agent-a.jsonl").read_bytes())["sessionId"] == written.session_id
    Path(written.location).unlink()
    with path.open("ab") as file:
        file.write(lines(said(2, "more")))
    assert taken(tmp_path, known_of(first, marked=True)).kept == 3
    assert taken(tmp_path, known_of(first, marked=False)).kept == 0
    agent.write_bytes(lines(said(7, "sub"), said(8, "sub again")))
    again = taken(tmp_path, known_of(first, marked=True))
    assert (again.kept, len(again.records)) == (0, 4)


def test_a_damaged_snapshot_cannot_write_outside_of_the_clients_folder(tmp_path: Path) -> None:
    transcript(tmp_path, lines(said(1, "hello")))
    saved = taken(tmp_path)
    evil = [Record("file", name, b"x") for name in ("../../out", "/tmp/never-written-by-this-test", "a\0b")]
    header = encode({"folder": "../../..", "open_end": False})
    written = source(tmp_path).write(replace(saved, records=[*evil, *saved.records], header=header), Target())
    assert (len(written.notes), written.records) == (3, 1)
    assert Path(written.location).parent == tmp_path / ".claude/projects/-home-me-x"
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == sorted(
        [f"{SESSION}.jsonl", f"{written.session_id}.jsonl"]
    )
    wrong = replace(saved, ref=replace(saved.ref, session_id="../../x"))
    with pytest.raises(SourceUnreadable, match="no session id"):
        source(tmp_path).write(wrong, Target(same=True))


def test_current_is_the_clients_own_session_or_the_newest(tmp_path: Path) -> None:
    os.utime(transcript(tmp_path, lines(said(1, "old"))), (1, 1))
    transcript(tmp_path, lines(said(1, "new")), session_id=OTHER)
    sources, project = [source(tmp_path)], Path("/home/me/x")
    assert find_session(sources, CURRENT, project)[1].session_id == OTHER
    assert find_session(sources, CURRENT, project, client_session_id=SESSION)[1].title == "old"
    assert find_session(sources, SESSION, Path("/elsewhere"))[1].project == "/home/me/x"
    with pytest.raises(SessionNotFound, match="nope") as caught:
        find_session(sources, "nope", project)
    assert OTHER in caught.value.info.suggestion


def test_files_that_are_no_transcripts_lose_nothing(tmp_path: Path) -> None:
    path = transcript(tmp_path, lines(said(1, "hello")))
    (path.parent / "notes.txt").write_text("x")
    os.mkfifo(path.parent / f"{OTHER}.jsonl")
    (path.parent.parent / "a-file").write_text("x")
    found = source(tmp_path).look(None)
    assert [ref.session_id for ref in found.sessions] == [SESSION]
    assert len(found.problems) == 2  # the pipe, and the file among the folders
    path.unlink()
    with pytest.raises(SessionNotFound):
        source(tmp_path).read(found.sessions[0], None)
    with pytest.raises(SourceUnreadable, match="not a regular file"):
        source(tmp_path).sessions(Path("/home/me/x"))


def test_long_and_odd_folders_have_the_clients_own_names() -> None:
    """Seen with Claude Code 2.1.197."""
    assert munged("/tmp/s3/cc/proj.x_y") == "-tmp-s3-cc-proj-x-y"
    long = f"/tmp/s3/cc/ü long {'a' * 220}/b"
    assert munged(long) == f"{munged(long)[:200]}-vhqu1g"
    assert munged("/a/\U0001f600") == "-a---"
