"""Crush: `<project>/.crush/crush.db`, one SQLite database for each project."""

import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.reading import read_regular
from vllm_state_persistence.core.previews import preview_of, shown_text
from vllm_state_persistence.core.rows import Row, as_time, cell_text, decode_row, encode_row
from vllm_state_persistence.core.session import Known, Record, SessionContent, SessionRef, SourceName
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

DATABASE = "crush.db"
_PROJECTS_BYTES = 4 << 20
"""A project takes about 150 bytes of projects.json."""

LAYOUT = tables.Layout(
    client="Crush",
    versions="Crush up to 0.90, whose tables are sessions, messages, files and read_files",
    sessions="sessions",
    needed=("id", "parent_session_id", "title", "message_count", "updated_at", "created_at"),
    tables=(
        tables.Table("messages", "message", "id", "created_at", "updated_at", needed=("role", "parts")),
        tables.Table("files", "file", "id", "created_at", "updated_at", needed=("path", "content", "version")),
        # Reading a file again replaces its row, and its time with it.
        tables.Table("read_files", "read-file", "path", "read_at", "read_at", optional=True, volatile=True),
    ),
)


class CrushSource:
    """Conversations of Crush. Sessions of its sub-agents are sessions of their own."""

    name: SourceName = "crush"

    def __init__(self, places: Places) -> None:
        self._places = places

    def look(self, project: Path | None, known: IsKnown | None = None) -> Found:
        found = Found()
        for folder, path in self._databases(project):
            try:
                found.sessions.extend(_listed(folder, path))
            except SuiteError as error:
                found.problems.append(error)
        return Found(newest_first(found.sessions), found.problems)

    def sessions(self, project: Path | None) -> list[SessionRef]:
        return sessions_of(self.look(project))

    def read(self, ref: SessionRef, known: Known | None) -> SessionContent:
        with tables.reading_session(ref, LAYOUT) as (database, row):
            header = encode_row(row)
            taken = tables.take(database, header, ref.session_id, known, _role_of)
        fresh = _ref(row, ref.project, Path(ref.location), taken.marker)
        return SessionContent(fresh, header, taken.records, taken.kept)

    def write(self, content: SessionContent, target: Target) -> Written:
        check_whole(content)
        project = str(target.project or content.ref.project)
        path = self._database_of(Path(project))
        if not path.exists():
            raise tables.unreadable(LAYOUT, path, "there is none yet")
        with table_writing.writing(path, LAYOUT) as database:
            session_id, records, notes = _write(database, content, target, str(path))
        return Written(self.name, session_id, project, str(path), records, tuple(notes))

    def write_many(self, contents: Iterable[SessionContent], target: Target) -> list[Outcome]:
        return write_each(self.write, contents, target)

    def _databases(self, project: Path | None) -> Iterator[tuple[str, Path]]:
        """Each project's folder and database; of all projects that Crush remembers, or of the one."""
        if project is not None:
            path = self._database_of(project)
            yield from [(str(project), path)] if path.exists() else []
            return
        for folder, data in self._remembered().items():
            if (Path(data) / DATABASE).exists():
                yield folder, Path(data) / DATABASE

    def _database_of(self, project: Path) -> Path:
        remembered = self._remembered()
        data = next((remembered[name] for name in same_folder(project) if name in remembered), "")
        return Path(data or project / ".crush") / DATABASE

    def _remembered(self) -> dict[str, str]:
        """Folders of projects and where their data is, from Crush's own list; empty when that cannot be read."""
        try:
            known = json.loads(read_regular(self._places.crush / "projects.json", _PROJECTS_BYTES))
            entries = known["projects"]
            pairs = [(entry["path"], entry["data_dir"]) for entry in entries if isinstance(entry, dict)]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        return {path: str(Path(path) / data) for path, data in pairs if isinstance(path, str) and isinstance(data, str)}


def _listed(project: str, path: Path) -> list[SessionRef]:
    with tables.reading(path, LAYOUT) as database:
        return [
            _ref(row, project, path, tables.marker(database, encode_row(row), str(row["id"])))
            for row in tables.session_rows(database)
        ]


def _ref(row: Row, project: str, path: Path, marker: str) -> SessionRef:
    return SessionRef(
        source="crush",
        session_id=str(row["id"]),
        project=project,
        title=shown_text(str(row["title"])),
        updated_at=as_time(row["updated_at"]),
        location=str(path),
        marker=marker,
    )


def _role_of(kind: str, row: Row) -> str:
    return str(row["role"]) if kind == "message" else ""


def preview(record: Record) -> str:
    """A glimpse of what a record says."""
    if record.kind == "message":
        return preview_of(cell_text(record.content, "parts"))
    return shown_text(cell_text(record.content, "path"))


def _write(
    database: tables.Database, content: SessionContent, target: Target, where: str
) -> tuple[str, int, list[str]]:
    header = decode_row(content.header)
    rows = [(table, decode_row(record.content)) for record in content.records if (table := LAYOUT.table(record.kind))]
    session_id = content.ref.session_id
    if target.same:
        if table_writing.exists(database, LAYOUT.sessions, "id", session_id) and not target.force:
            raise force_required("Crush", session_id, where)
        table_writing.clear(database, session_id)
    else:
        header = _renamed(header, rows, session_id := str(uuid.uuid4()))
    if header.get("parent_session_id") and not table_writing.exists(
        database, LAYOUT.sessions, "id", header["parent_session_id"]
    ):
        header["parent_session_id"] = None  # else Crush would show it nowhere
    # The session comes last: Crush's triggers would count its messages and set its time to now.
    count, notes = table_writing.insert_records(database, rows)
    header["message_count"] = sum(table.kind == "message" for table, _ in rows)
    return session_id, count, [*notes, *table_writing.insert_session(database, header)]


def _renamed(header: Row, rows: list[tuple[tables.Table, Row]], session_id: str) -> Row:
    """The header of the new session; its rows are given ids of their own in place."""
    new_ids: dict[object, str] = {}
    for _, row in rows:
        row["session_id"] = session_id
        if row.get("id") is not None:
            new_ids[row["id"]] = row["id"] = str(uuid.uuid4())
    summary = header.get("summary_message_id")
    return header | {"id": session_id, "summary_message_id": new_ids.get(summary, summary)}
