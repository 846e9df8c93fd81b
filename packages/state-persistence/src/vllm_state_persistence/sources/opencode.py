"""opencode: one SQLite database for all projects of a user."""

import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from vllm_mcp_protocol.errors import SourceUnreadable, SuiteError
from vllm_mcp_protocol.reading import printable
from vllm_state_persistence.core.previews import preview_of, shown_text
from vllm_state_persistence.core.rows import Row, as_time, cell_text, decode_row, encode_row
from vllm_state_persistence.core.session import Known, Record, SessionContent, SessionRef, SourceName
from vllm_state_persistence.core.values import decode, encode
from vllm_state_persistence.sources import table_writing, tables
from vllm_state_persistence.sources.base import (
    Found,
    IsKnown,
    Outcome,
    Places,
    Target,
    Written,
    check_whole,
    force_required,
    newest_first,
    same_folder,
    sessions_of,
    write_each,
)

LAYOUT = tables.Layout(
    client="opencode",
    versions="opencode 1.18, whose tables are session, message and part",
    sessions="session",
    needed=("id", "project_id", "parent_id", "directory", "title", "time_created", "time_updated"),
    tables=(
        tables.Table("message", "message", "id", "time_created", "time_updated", needed=("data",)),
        tables.Table("part", "part", "id", "time_created", "time_updated", needed=("message_id", "data")),
        tables.Table("session_message", "session-message", "id", "time_created", "time_updated", optional=True),
        tables.Table("todo", "todo", "position", "time_created", "time_updated", optional=True, volatile=True),
    ),
)
GLOBAL_PROJECT = "global"
"""Project of folders that are in no git repository."""

_ID = re.compile(r'"((?:msg|prt|ses|evt)_[0-9A-Za-z]{8,40})"')
_FRESH = 8
"""Characters of an id that are drawn anew (47 bits); those before them are its time, by which opencode sorts."""
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ROLE = re.compile(r'"role"\s*:\s*"([a-z]{1,20})"')


class OpencodeSource:
    """Conversations of opencode. Sessions of its sub-agents are sessions of their own."""

    name: SourceName = "opencode"

    def __init__(self, places: Places) -> None:
        self._folder = places.opencode
        self._path = places.opencode_database or places.opencode / "opencode.db"

    def look(self, project: Path | None, known: IsKnown | None = None) -> Found:
        if not self._path.exists():
            return Found(problems=[self._older()] if (self._folder / "storage" / "session").is_dir() else [])
        try:
            with tables.reading(self._path, LAYOUT) as database:
                rows = tables.session_rows(database)
                wanted = same_folder(project) if project is not None else None
                chosen = [row for row in rows if wanted is None or row["directory"] in wanted]
                found = [_ref(row, self._path, _marker(database, row)) for row in chosen]
        except SuiteError as error:
            return Found(problems=[error])
        return Found(newest_first(found))

    def sessions(self, project: Path | None) -> list[SessionRef]:
        return sessions_of(self.look(project))

    def read(self, ref: SessionRef, known: Known | None) -> SessionContent:
        with tables.reading_session(ref, LAYOUT) as (database, row):
            project = _project_row(database, row["project_id"])
            taken = tables.take(database, encode_row(row), ref.session_id, known, _role_of)
        fresh = _ref(row, Path(ref.location), taken.marker)
        return SessionContent(fresh, encode({"session": row, "project": project}), taken.records, taken.kept)

    def write(self, content: SessionContent, target: Target) -> Written:
        check_whole(content)
        if not self._path.exists():
            raise tables.unreadable(LAYOUT, self._path, "there is none yet")
        with table_writing.writing(self._path, LAYOUT) as database:
            session, count, notes = _write(database, content, target, str(self._path))
        return Written(self.name, str(session["id"]), str(session["directory"]), str(self._path), count, tuple(notes))

    def write_many(self, contents: Iterable[SessionContent], target: Target) -> list[Outcome]:
        return write_each(self.write, contents, target)

    def _older(self) -> SourceUnreadable:
        return SourceUnreadable(
            f"{printable(str(self._folder))} holds sessions as JSON files, as older versions of opencode wrote them.",
            suggestion="run `opencode session list` of a current opencode once: it moves them into its database",
            path=printable(str(self._folder)),
        )


def _marker(database: tables.Database, row: Row) -> str:
    return tables.marker(database, encode_row(row), str(row["id"]))


def _ref(row: Row, path: Path, marker: str) -> SessionRef:
    return SessionRef(
        source="opencode",
        session_id=str(row["id"]),
        project=str(row["directory"]),
        title=shown_text(str(row["title"])),
        updated_at=as_time(row["time_updated"]) / 1000,
        location=str(path),
        marker=marker,
    )


def _project_row(database: tables.Database, project_id: object) -> Row | None:
    """The project that the session belongs to; a machine that has never seen it needs it."""
    rows = tables.rows_of(database, "project", "id = ?", str(project_id))
    return rows[0] if rows else None


def _role_of(kind: str, row: Row) -> str:
    data = row.get("data")
    role = _ROLE.search(data) if kind == "message" and isinstance(data, str) else None
    return role[1] if role else ""


def preview(record: Record) -> str:
    """A glimpse of what a record says: messages say nothing themselves, their parts do."""
    if record.kind == "todo":
        return shown_text(cell_text(record.content, "content"))
    return preview_of(cell_text(record.content, "data")) if record.kind == "part" else ""


# writing


def _write(
    database: tables.Database, content: SessionContent, target: Target, where: str
) -> tuple[Row, int, list[str]]:
    header = decode(content.header)
    session, project = _row(header["session"]), header.get("project")
    rows = [(table, decode_row(record.content)) for record in content.records if (table := LAYOUT.table(record.kind))]
    if target.same:
        if table_writing.exists(database, LAYOUT.sessions, "id", session["id"]) and not target.force:
            raise force_required("opencode", str(session["id"]), where)
        table_writing.clear(database, str(session["id"]))
    else:
        session, rows = _renamed(session, rows)
    if target.project is not None:
        session["directory"] = str(target.project)
    saved_project = _row(project) if isinstance(project, dict) else None
    if target.project is not None or saved_project is None or not _is_here(database, saved_project):
        session |= _belonging(database, session, saved_project)
    if session.get("parent_id") and not table_writing.exists(database, LAYOUT.sessions, "id", session["parent_id"]):
        session["parent_id"] = None  # else opencode would show it nowhere
    count, notes = table_writing.insert_records(database, rows)
    return session, count, [*notes, *table_writing.insert_session(database, session)]


def _is_here(database: tables.Database, project: Row) -> bool:
    """Whether the project that the session was saved in is known here, and lies in the same folder."""
    return bool(tables.rows_of(database, "project", "id = ? AND worktree = ?", project["id"], project["worktree"]))


def _row(value: object) -> Row:
    return decode_row(encode(value))


def _renamed(session: Row, rows: list[tuple[tables.Table, Row]]) -> tuple[Row, list[tuple[tables.Table, Row]]]:
    """The session under new ids, also where its rows name each other; its public page stays the old one's."""
    old = [session["id"], *(row["id"] for _, row in rows if "id" in row)]
    new = {name: _like(name) for name in old if isinstance(name, str)}
    new[str(session["id"])] = _session_id(time.time_ns() // 1_000_000)
    fresh = _with_ids(session, new) | {"share_url": None, "workspace_id": None}
    return fresh, [(table, _with_ids(row, new)) for table, row in rows]


def _with_ids(row: Row, new: Mapping[str, str]) -> Row:
    return {
        column: (new.get(cell) or _ID.sub(lambda found: f'"{new.get(found[1], found[1])}"', cell))
        if isinstance(cell, str)
        else cell
        for column, cell in row.items()
    }


def _like(name: str) -> str:
    """A new id that sorts as the old one does among the others."""
    return name[:-_FRESH] + _drawn(_FRESH)


def _session_id(now_ms: int) -> str:
    """A session's id, as opencode 1.18 makes them: the newest sorts first."""
    count = (now_ms * 0x1000 + 1) & ((1 << 48) - 1)
    return f"ses_{((1 << 48) - 1) ^ count:012x}{_drawn(14)}"


def _drawn(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _belonging(database: tables.Database, session: Row, project: Row | None) -> Row:
    """The project that the session's folder is in here, and the folder's path within it.

    One that is known here, else the one that was saved along when it is of that folder, else the one for all folders.
    """
    folder = Path(str(session["directory"]))
    known = tables.rows_of(database, "project")
    around = [row for row in known if row["worktree"] != "/" and folder.is_relative_to(str(row["worktree"]))]
    chosen = max(around, key=lambda row: len(str(row["worktree"])), default=None)
    if chosen is None and project is not None and folder.is_relative_to(str(project["worktree"])):
        chosen = next((row for row in known if row["id"] == project["id"]), None) or _added(database, project)
    if chosen is None:
        chosen = next((row for row in known if row["id"] == GLOBAL_PROJECT), None) or _added(database, _global(session))
    within = folder.relative_to(str(chosen["worktree"])) if folder.is_relative_to(str(chosen["worktree"])) else folder
    return {"project_id": chosen["id"], "path": "" if str(within) == "." else str(within)}


def _added(database: tables.Database, project: Row) -> Row:
    table_writing.insert(database, "project", project)
    return project


def _global(session: Row) -> Row:
    return {
        "id": GLOBAL_PROJECT,
        "worktree": "/",
        "time_created": session["time_created"],
        "time_updated": session["time_updated"],
        "sandboxes": json.dumps([]),
    }
