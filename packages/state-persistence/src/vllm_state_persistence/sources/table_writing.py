"""Sessions written into a client's SQLite database: in one transaction, wholly or not at all."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_state_persistence.core.rows import Cell, Row
from vllm_state_persistence.sources.tables import Database, Layout, Table, checked, columns_of, opened, quoted


@contextmanager
def writing(path: Path, layout: Layout) -> Iterator[Database]:
    """The database in one write transaction: all is written when the block ends, nothing when it raises."""
    with opened(path, layout, "rw") as link:
        link.execute("BEGIN IMMEDIATE")
        try:
            yield Database(link, layout, checked(link, layout, path))
        except BaseException:
            link.execute("ROLLBACK")
            raise
        link.execute("COMMIT")


def exists(database: Database, table: str, key: str, value: Cell) -> bool:
    """Whether a row of that key is there."""
    asked = f"SELECT 1 FROM {quoted(table)} WHERE {quoted(key)} = ?"  # noqa: S608
    return database.link.execute(asked, (value,)).fetchone() is not None


def clear(database: Database, session_id: str) -> None:
    """Delete a session's rows. Foreign keys stay off, so that what is not ours to bring back is not deleted along."""
    for table in database.layout.tables:
        if table.name in database.columns:
            database.link.execute(f"DELETE FROM {quoted(table.name)} WHERE session_id = ?", (session_id,))  # noqa: S608
    database.link.execute(f"DELETE FROM {quoted(database.layout.sessions)} WHERE id = ?", (session_id,))  # noqa: S608


def insert(database: Database, table: str, row: Row) -> set[str]:
    """Insert one row; the columns of it that this version has no place for, where they held something."""
    there = database.columns.get(table) or columns_of(database.link, table)
    fitting = {name: cell for name, cell in row.items() if name in there}
    names = ", ".join(map(quoted, fitting))
    marks = ", ".join("CAST(? AS TEXT)" if _is_odd_text(cell) else "?" for cell in fitting.values())
    given = [_as_bytes(cell) if _is_odd_text(cell) else cell for cell in fitting.values()]
    database.link.execute(f"INSERT INTO {quoted(table)} ({names}) VALUES ({marks})", given)  # noqa: S608
    return {f"{table}.{name}" for name, cell in row.items() if name not in there and cell is not None}


def insert_records(database: Database, rows: Iterable[tuple[Table, Row]]) -> tuple[int, list[str]]:
    """Insert the rows of a session; how many, and what found no place, in words."""
    count, homeless = 0, set[str]()
    for table, row in rows:
        if table.name in database.columns:
            homeless |= insert(database, table.name, row)
            count += 1
        else:
            homeless.add(table.name)
    return count, _in_words(database, homeless)


def insert_session(database: Database, header: Row) -> list[str]:
    """Insert the session's own row; what found no place, in words."""
    return _in_words(database, insert(database, database.layout.sessions, header))


def _in_words(database: Database, homeless: Iterable[str]) -> list[str]:
    return [f"{name} is not known to this {database.layout.client}: left out" for name in sorted(homeless)]


def _is_odd_text(cell: Cell) -> bool:
    """Text whose bytes are not UTF-8, which Python's driver would refuse."""
    if not isinstance(cell, str):
        return False
    try:
        cell.encode()
    except UnicodeEncodeError:
        return True
    return False


def _as_bytes(cell: Cell) -> bytes:
    return str(cell).encode("utf-8", "surrogateescape")
