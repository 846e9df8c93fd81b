"""The store's SQLite file: where it may lie, how it is opened, transactions, and what its errors mean.

WAL with `synchronous=FULL`: what was committed outlives power loss. Writers begin with BEGIN IMMEDIATE, since a plain
BEGIN that first reads cannot become a writer once another one has written (measured: 253 of 320 concurrent appends
failed). SQLAlchemy's driver would begin lazily; it is told to leave that to us.
"""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from vllm_mcp_protocol.errors import (
    DiskFull,
    PathNotAllowed,
    StateDirRefused,
    StateTrouble,
    StoreBusy,
    StoreDamaged,
    StoreTooNew,
)
from vllm_mcp_protocol.paths import network_file_system
from vllm_state_persistence.store import schema

BUSY_S = 30.0
"""A writer waits so long for others. A first snapshot of 200 MB holds the store for some seconds."""

WAL_LIMIT_BYTES = 16 * 1024 * 1024
"""The write-ahead log is cut back to this after a large save."""

_PRAGMAS = (
    "synchronous = FULL",
    f"journal_size_limit = {WAL_LIMIT_BYTES}",
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "secure_delete = FAST",
)

_SALVAGE = ("writable_schema = ON", "query_only = ON", "cell_size_check = ON")
"""SQLite refuses a file that is shorter than it says, unless one may write to the schema (lockBtree in its btree.c)."""

_WRITES = "vllm_state_writes"


class Database:
    """One open store file. Safe for several tasks, and for several processes at once."""

    def __init__(self, path: Path, engine: AsyncEngine) -> None:
        self.path = path
        self.engine = engine
        # SQLite makes writers poll for each other; those of one process need not.
        self._one_writer = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, *, busy_s: float = BUSY_S, salvage: bool = False) -> "Database":
        """Open the store, which is made where nothing is. Raises what `writing` raises, and StateDirRefused,
        PathNotAllowed, StoreTooNew."""
        prepare_file(path)
        database = cls(path, _engine(path, busy_s, _SALVAGE if salvage else _PRAGMAS))
        if salvage:
            return database
        try:
            await database._check(busy_s)
        except BaseException:
            await database.close()
            raise
        return database

    async def _check(self, busy_s: float) -> None:
        with explained(self.path):
            await self._become_wal(busy_s)
        async with self.reading() as connection:
            empty = await connection.run_sync(_is_empty)
        if empty:
            await self._create()
        async with self.reading() as connection:
            await connection.run_sync(_check_format, self.path)

    async def _create(self) -> None:
        async with self.writing() as connection:
            if await connection.run_sync(_is_empty):  # several may make it at once
                await connection.run_sync(schema.create_tables)

    async def _become_wal(self, busy_s: float) -> None:
        """SQLite does not wait for others where it changes the mode of a file."""
        tries = max(1, int(busy_s / 0.05))
        for left in reversed(range(tries)):
            try:
                async with self.plain() as connection:
                    await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                return
            except DBAPIError as error:
                if not left or not _is_busy(error.orig):
                    raise
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One consistent view, however long it takes; writers are not held up."""
        with explained(self.path):
            async with self.engine.connect() as connection:
                await connection.begin()
                try:
                    yield connection
                finally:
                    await connection.rollback()  # of a damaged file a commit fails, even of nothing

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that alone may write; committed when the block ends, undone when it raises.

        Raises StoreBusy, StoreDamaged, DiskFull.
        """
        async with self.one_connection() as connection, self.writing_on(connection):
            yield connection

    @asynccontextmanager
    async def one_connection(self) -> AsyncIterator[AsyncConnection]:
        """For several transactions that share temporary tables."""
        with explained(self.path):
            async with self.engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing_on(self, connection: AsyncConnection) -> AsyncIterator[None]:
        """`writing`, on a connection that is in no transaction."""
        async with self._one_writer:
            await connection.execution_options(**{_WRITES: True})
            async with connection.begin():
                yield
            await connection.execution_options(**{_WRITES: False})

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[AsyncConnection]:
        """Without a transaction: for what SQLite does in none."""
        async with self.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def checkpoint(self) -> None:
        """Bring the log into the file and empty it; readers that hold it up are left alone."""
        with explained(self.path):
            async with self.plain() as connection:
                await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    async def close(self) -> None:
        await self.engine.dispose()


def _engine(path: Path, busy_s: float, pragmas: Sequence[str]) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        connect_args={"timeout": busy_s, "isolation_level": None},
        hide_parameters=True,
        pool_reset_on_return="rollback",
    )
    event.listen(engine.sync_engine, "connect", partial(_configure, path, pragmas))
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _configure(path: Path, pragmas: Sequence[str], connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    if not path.stat().st_size:  # it counts only before the first page, and later would write to the file each time
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(_WRITES) else "BEGIN")


def _is_empty(connection: Connection) -> bool:
    return not connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()


def _check_format(connection: Connection, path: Path) -> None:
    application = connection.exec_driver_sql("PRAGMA application_id").scalar()
    version = connection.exec_driver_sql("PRAGMA user_version").scalar()
    if application != schema.APPLICATION_ID or not isinstance(version, int) or version < 1:
        raise _not_a_store(path)
    if version > schema.FORMAT:
        raise StoreTooNew(
            f"{path} has format {version}; this program knows formats up to {schema.FORMAT}.",
            suggestion="Upgrade vllm-state-persistence, or set STATE_DB_PATH to another file.",
            path=str(path),
            format=version,
        )


def _not_a_store(path: Path) -> StoreDamaged:
    return StoreDamaged(
        f"{path} is a database, and not a store of snapshots.",
        suggestion="Set STATE_DB_PATH to another file.",
        path=str(path),
    )


def prepare_file(path: Path) -> None:
    """Make the file (0600) and its folder (0700) where they are missing, and close the file to others.

    Raises StateDirRefused for a folder on a network file system or one that cannot be written, PathNotAllowed for what
    is no regular file of this user's.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if kind := network_file_system(path.parent):  # the log needs memory that all share: sqlite.org/wal.html
            raise _refused(path, f"it is on a network file system ({kind}), where SQLite cannot share a log")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _refused(path, f"{error.strerror or error}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise PathNotAllowed(f"{path} is no file of this user's.", suggestion="Set STATE_DB_PATH to another file.")
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)


def _refused(path: Path, why: str) -> StateDirRefused:
    return StateDirRefused(
        f"The store {path} cannot be used: {why}.",
        suggestion="Set STATE_DB_PATH to a file in a folder of yours on a local disk.",
        path=str(path),
    )


async def in_one_step(connection: AsyncConnection, statement: str, parameters: Sequence[Any]) -> list[Any]:
    """The rows that a statement gives, if any, in one step of the connection's thread. SQLAlchemy takes four, and each
    waits for the interpreter, which other threads hold for 5 ms at a time."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, aiosqlite.Connection), "the engine's URL says so"  # noqa: S101
    try:
        return list(await driver.execute_fetchall(statement, parameters))
    except sqlite3.DatabaseError as error:
        raise DatabaseError(statement, None, error) from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as the suite's: StoreBusy, StoreDamaged, DiskFull, StateTrouble."""
    try:
        yield
    except DBAPIError as error:
        raise _meaning(error.orig, path) from error
    except sqlite3.Error as error:
        raise _meaning(error, path) from error
    except UnicodeDecodeError as error:  # SQLite's own message quotes what is damaged
        raise _damaged(error, path) from error


def _is_busy(error: object) -> bool:
    return _code(error) in ("SQLITE_BUSY", "SQLITE_LOCKED")


def is_corrupt(error: DBAPIError) -> bool:
    """Whether a page of the file is damaged: others may still be read."""
    return _code(error.orig) == "SQLITE_CORRUPT" or _is_garbled(error.orig)


def _is_garbled(error: object) -> bool:
    """Damage that turned bytes into text; Python's module says so without a code of SQLite's."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode")


def _code(error: object) -> str:
    """`SQLITE_CORRUPT` also for `SQLITE_CORRUPT_VTAB`."""
    return "_".join(str(getattr(error, "sqlite_errorname", "")).split("_")[:2])


def _meaning(error: object, path: Path) -> StateTrouble | DiskFull:
    code, where = _code(error), {"path": str(path)}
    if _is_busy(error):
        return StoreBusy(
            f"Another process has been writing to {path} for a long time.",
            suggestion="Try again in a minute; `vllm-state-persistence verify` or `prune` may be running.",
            **where,
        )
    if code in ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_SCHEMA", "SQLITE_ERROR", "SQLITE_MISMATCH") or _is_garbled(
        error
    ):
        return _damaged(error, path)
    if code == "SQLITE_FULL":
        return DiskFull(f"No room to write {path}.", suggestion="Free space on its disk, then try again.", **where)
    return StateTrouble(f"{path} cannot be read or written: {error}.", suggestion="Check its disk.", **where)


def _damaged(error: object, path: Path) -> StoreDamaged:
    return StoreDamaged(
        f"{path} is damaged: {error}.",
        suggestion=f"Keep a copy of {path.name}, then run `vllm-state-persistence verify`, or use a backup.",
        path=str(path),
        why=str(error),
    )
