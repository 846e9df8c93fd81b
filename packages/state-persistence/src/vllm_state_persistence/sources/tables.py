"""Sessions as rows of a client's SQLite database, read in one transaction and without a write."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from vllm_mcp_protocol.errors import SessionNotFound, SourceUnreadable
from vllm_mcp_protocol.reading import printable
from vllm_state_persistence.core.rows import (
    Cell,
    Row,
    RowMark,
    as_time,
    digest,
    encode_row,
    in_order,
    marker_of,
    proven,
    settled_count,
)
from vllm_state_persistence.core.session import Known, Record, SessionRef
from vllm_state_persistence.core.values import encode
from vllm_state_persistence.sources.base import Previous

BUSY_S = 10.0
"""Crush itself waits 30 s for its database; a writer holds it for milliseconds."""
UNREADABLE = "unreadable"
"""Kind of the record that stands for a row which the database could not give."""
_BATCH = 500
"""SQLite takes 32,766 parameters; batches keep what one damaged row costs small."""

RoleOf = Callable[[str, Row], str]
"""Role of a row, from its kind and content."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose rows belong to sessions."""

    name: str
    kind: str
    key: str
    created: str
    updated: str
    needed: tuple[str, ...] = ()
    """Columns without which it is not the table that is known here, beside those above."""
    optional: bool = False
    """Some versions have no such table."""
    volatile: bool = False
    """Rows are replaced in place: they go last, and are read every time."""

    @property
    def columns(self) -> set[str]:
        return {"session_id", self.key, self.created, self.updated, *self.needed}


@dataclass(frozen=True, slots=True)
class Layout:
    """How a client keeps its sessions."""

    client: str
    versions: str
    """Those that are known here, in words."""
    sessions: str
    """Name of the table with one row for each session."""
    needed: tuple[str, ...]
    tables: tuple[Table, ...]

    def table(self, kind: str) -> Table | None:
        """The table of records of that kind."""
        return next((table for table in self.tables if table.kind == kind), None)


@dataclass(frozen=True, slots=True)
class Database:
    """An open database whose tables were checked."""

    link: sqlite3.Connection
    layout: Layout
    columns: Mapping[str, Sequence[str]]
    """Of each table that is there."""

    def tables(self, *, volatile: bool) -> Iterator[tuple[int, Table]]:
        """The tables that this version has, with their places."""
        for place, table in enumerate(self.layout.tables):
            if table.volatile is volatile and table.name in self.columns:
                yield place, table


@dataclass(frozen=True, slots=True)
class Taken:
    """A session's rows as they are."""

    marker: str
    records: list[Record] = field(default_factory=list)
    kept: int = 0


# opening


@contextmanager
def reading(path: Path, layout: Layout) -> Iterator[Database]:
    """The database in one read transaction: its owner goes on writing, and none of that is seen.

    Raises SourceUnreadable for what is no such database, also when that shows only while it is read.
    """
    with opened(path, layout, "ro") as link:
        link.execute("BEGIN")
        yield Database(link, layout, checked(link, layout, path))


@contextmanager
def opened(path: Path, layout: Layout, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection, `ro` or `rw`. Raises SourceUnreadable for whatever SQLite says inside of the block."""
    # Not `immutable`: that would miss the write-ahead log, and read pages while their owner changes them.
    address = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)) as link:
            link.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            yield link
    except sqlite3.Error as error:
        raise _sqlite_error(layout, path, error) from error


def checked(link: sqlite3.Connection, layout: Layout, path: Path) -> dict[str, list[str]]:
    """Columns of each known table. Raises SourceUnreadable naming what is missing."""
    columns = {layout.sessions: columns_of(link, layout.sessions)}
    missing = _missing(layout.sessions, layout.needed, columns[layout.sessions])
    for table in layout.tables:
        there = columns_of(link, table.name)
        if there:
            columns[table.name] = there
        if there or not table.optional:
            missing += _missing(table.name, sorted(table.columns), there)
    if missing:
        raise unreadable(layout, path, f"it has no {', no '.join(missing)}")
    return columns


def columns_of(link: sqlite3.Connection, table: str) -> list[str]:
    return [str(name) for (name,) in link.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _missing(table: str, needed: Iterable[str], there: Sequence[str]) -> list[str]:
    if not there:
        return [f"table {table}"]
    return [f"column {table}.{name}" for name in needed if name not in there]


def unreadable(layout: Layout, path: Path, why: str) -> SourceUnreadable:
    """The error for a database that cannot be used."""
    return SourceUnreadable(
        f"{printable(str(path))} cannot be used as a database of {layout.client}: {printable(why)}. Known here: "
        f"{layout.versions}.",
        suggestion=f"start {layout.client} once in that project so that it brings its database up to date; if it is "
        "newer than what is known here, upgrade vllm-state-persistence, or save the messages with source=inline",
        path=printable(str(path)),
    )


def _sqlite_error(layout: Layout, path: Path, error: sqlite3.Error) -> SourceUnreadable:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return unreadable(layout, path, str(error))
    return SourceUnreadable(
        f"{layout.client} has held {printable(str(path))} for longer than {BUSY_S:g} s: {error}.",
        suggestion=f"wait until {layout.client} is idle, then try again",
        path=printable(str(path)),
    )


# reading


def session_rows(database: Database, condition: str = "1", *given: Cell) -> list[Row]:
    """Rows of the table of sessions. `condition` is ours, never a user's."""
    return rows_of(database, database.layout.sessions, condition, *given)


@contextmanager
def reading_session(ref: SessionRef, layout: Layout) -> Iterator[tuple[Database, Row]]:
    """The database of a session, and the session's row. Raises SessionNotFound when it is gone, SourceUnreadable."""
    path = Path(ref.location)
    if not path.exists():
        raise _gone(ref, layout)
    with reading(path, layout) as database:
        rows = session_rows(database, "id = ?", ref.session_id)
        if not rows:
            raise _gone(ref, layout)
        yield database, rows[0]


def _gone(ref: SessionRef, layout: Layout) -> SessionNotFound:
    return SessionNotFound(
        f"{layout.client} has no session {ref.session_id} in {printable(ref.location)} any more.",
        suggestion="list-states shows what was saved of it",
        session_id=ref.session_id,
    )


def rows_of(database: Database, table: str, condition: str = "1", *given: Cell) -> list[Row]:
    """Whole rows of any table; none where the client has no such table."""
    if not columns_of(database.link, table):
        return []
    return _rows(database.link, table, condition, given)


def take(database: Database, header: bytes, session_id: str, known: Known | None, role_of: RoleOf) -> Taken:
    """All records of a session, or those after what `known` proves to be unchanged."""
    ordered, lost = _marks(database, session_id)
    kept = proven(ordered, known.marker) if isinstance(known, Previous) else 0
    kept = kept if known and kept <= known.count else 0
    settled = settled_count(ordered)
    contents = _contents(database, ordered[min(kept, settled) :])
    records = [_record(database, mark, contents, role_of) for mark in ordered[kept:]]
    volatile, lost_there = _volatile(database, session_id, role_of)
    marker = _marker(header, ordered, settled, contents, volatile)
    return Taken(marker, [*records, *volatile, *lost, *lost_there], kept)


def marker(database: Database, header: bytes, session_id: str) -> str:
    """The marker of a session: the one that `take` would give now."""
    ordered, _ = _marks(database, session_id)
    settled = settled_count(ordered)
    volatile, _ = _volatile(database, session_id, lambda _kind, _row: "")
    return _marker(header, ordered, settled, _contents(database, ordered[settled:]), volatile)


def _marker(
    header: bytes,
    ordered: Sequence[RowMark],
    settled: int,
    contents: Mapping[tuple[int, int], Row | None],
    volatile: Iterable[Record],
) -> str:
    fresh = (contents.get((mark.table, mark.rowid)) for mark in ordered[settled:])
    rest = [header, *(encode_row(row or {}) for row in fresh), *(record.content for record in volatile)]
    return marker_of(ordered, settled, digest(rest))


def _marks(database: Database, session_id: str) -> tuple[list[RowMark], list[Record]]:
    """What is known of the session's lasting rows, oldest first, and stand-ins for those that cannot be read."""
    marks: list[RowMark] = []
    lost: list[Record] = []
    for place, table in database.tables(volatile=False):
        try:
            marks += _table_marks(database.link, place, table, "session_id = ?", session_id)
        except sqlite3.DatabaseError:
            saved, gone = _surviving_marks(database, place, table, session_id)
            marks += saved
            lost += gone
    return in_order(marks), lost


def _table_marks(link: sqlite3.Connection, place: int, table: Table, condition: str, value: Cell) -> list[RowMark]:
    columns = ", ".join(map(quoted, (table.key, table.created, table.updated)))
    asked = f"SELECT {place:d}, rowid, {columns} FROM {quoted(table.name)} WHERE {condition}"  # noqa: S608
    return [RowMark._make(cells) for cells in link.execute(asked, (value,))]


def _surviving_marks(
    database: Database, place: int, table: Table, session_id: str
) -> tuple[list[RowMark], list[Record]]:
    """The same of a damaged table, row by row; and stand-ins for those that are lost."""
    marks: list[RowMark] = []
    lost: list[Record] = []
    for rowid in _rowids(database, table, session_id):
        try:
            marks += _table_marks(database.link, place, table, "rowid = ?", rowid)
        except sqlite3.DatabaseError:
            lost.append(_lost(table, rowid))
    return marks, lost


def _volatile(database: Database, session_id: str, role_of: RoleOf) -> tuple[list[Record], list[Record]]:
    records: list[Record] = []
    lost: list[Record] = []
    for _, table in database.tables(volatile=True):
        rows = _survivors(database.link, table.name, _rowids(database, table, session_id))
        lost += [_lost(table, rowid) for rowid, row in rows if row is None]
        whole = [(rowid, row) for rowid, row in rows if row is not None]
        whole.sort(key=lambda pair: (as_time(pair[1][table.created]), pair[0]))
        records += [_as_record(table, _key(row[table.key], rowid), row, role_of) for rowid, row in whole]
    return records, lost


def _rowids(database: Database, table: Table, session_id: str) -> list[int]:
    found = database.link.execute(f"SELECT rowid FROM {quoted(table.name)} WHERE session_id = ?", (session_id,))  # noqa: S608
    return [int(rowid) for (rowid,) in found]


def _contents(database: Database, marks: Sequence[RowMark]) -> dict[tuple[int, int], Row | None]:
    """The rows behind the marks, by table and row id; None for one that cannot be read."""
    contents: dict[tuple[int, int], Row | None] = {}
    for place, table in database.tables(volatile=False):
        rowids = [mark.rowid for mark in marks if mark.table == place]
        contents |= {(place, rowid): row for rowid, row in _survivors(database.link, table.name, rowids)}
    return contents


def _survivors(link: sqlite3.Connection, table: str, rowids: Sequence[int]) -> list[tuple[int, Row | None]]:
    """Each row, or None where the database is damaged: one bad page does not take the others along."""
    pairs: list[tuple[int, Row | None]] = []
    for start in range(0, len(rowids), _BATCH):
        batch = rowids[start : start + _BATCH]
        try:
            pairs += _batch(link, table, batch)
        except sqlite3.DatabaseError:
            pairs += [(rowid, _one(link, table, rowid)) for rowid in batch]
    return pairs


def _one(link: sqlite3.Connection, table: str, rowid: int) -> Row | None:
    with suppress(sqlite3.DatabaseError):
        for _, row in _batch(link, table, [rowid]):
            return row
    return None


def _batch(link: sqlite3.Connection, table: str, rowids: Sequence[int]) -> list[tuple[int, Row]]:
    marks = ",".join("?" * len(rowids))
    found = link.execute(f"SELECT rowid, * FROM {quoted(table)} WHERE rowid IN ({marks})", rowids)  # noqa: S608
    names = [str(column[0]) for column in found.description[1:]]
    return [(int(cells[0]), dict(zip(names, cells[1:], strict=True))) for cells in found]


def _rows(link: sqlite3.Connection, table: str, condition: str, given: Sequence[Cell]) -> list[Row]:
    found = link.execute(f"SELECT * FROM {quoted(table)} WHERE {condition}", given)  # noqa: S608
    names = [str(column[0]) for column in found.description]
    return [dict(zip(names, cells, strict=True)) for cells in found]


def _record(
    database: Database, mark: RowMark, contents: Mapping[tuple[int, int], Row | None], role_of: RoleOf
) -> Record:
    table = database.layout.tables[mark.table]
    row = contents.get((mark.table, mark.rowid))
    return _lost(table, mark.rowid) if row is None else _as_record(table, _key(mark.key, mark.rowid), row, role_of)


def _as_record(table: Table, key: str, row: Row, role_of: RoleOf) -> Record:
    return Record(table.kind, key, encode_row(row), role_of(table.kind, row))


def _lost(table: Table, rowid: int) -> Record:
    content = encode({"table": table.name, "rowid": rowid, "why": "the client's database is damaged there"})
    return Record(UNREADABLE, f"{table.name}:{rowid}", content)


def _key(cell: Cell, rowid: int) -> str:
    """SQLite lets the key of a table be NULL."""
    return f"row {rowid}" if cell is None else str(cell)


def quoted(text: str) -> str:
    """A name as SQL takes any."""
    return '"' + text.replace('"', '""') + '"'
