"""The history of samples in one SQLite file. One task writes; readers are never held up (WAL).

What was measured a moment ago may be lost in a power cut, and nothing else: `synchronous=NORMAL`. A history that cannot
be read is set aside with its date and a new one begun: it is worth less than the monitoring of what runs now. Whatever
else lies at its path stays as it is: a history is known by SQLite's `application_id`.
"""

import asyncio
import json
import logging
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from vllm_mcp_hub.core.monitoring.keeping import Ages, HistoryTrouble, Kept
from vllm_mcp_hub.core.monitoring.points import Layout, Point, decode_point, encode_point
from vllm_mcp_hub.core.monitoring.timeline import TIERS, Tier

log = logging.getLogger(__name__)

FORMAT = 1
APPLICATION = int.from_bytes(b"vMMh")
BUSY_S = 5.0
_NUMBERS = {tier: number for number, tier in enumerate(TIERS)}
_ROWS_AT_ONCE = 2000

_TABLES = (
    "CREATE TABLE IF NOT EXISTS subjects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE IF NOT EXISTS layouts (id INTEGER PRIMARY KEY, layout TEXT NOT NULL UNIQUE)",
    "CREATE TABLE IF NOT EXISTS points (tier INTEGER NOT NULL, subject INTEGER NOT NULL, at REAL NOT NULL, "
    "layout INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (tier, subject, at)) WITHOUT ROWID",
)


class History:
    """What was sampled, for later."""

    def __init__(self, path: Path, engine: AsyncEngine) -> None:
        self.path = path
        self._engine = engine
        self._subjects: dict[str, int] = {}
        self._layouts: dict[Layout, int] = {}
        self._by_number: dict[int, Layout] = {}

    @classmethod
    async def open(cls, path: Path, *, own: bool = False) -> tuple["History", str | None]:
        """The history at `path`, made where there is none, and in words what was set aside for it. `own`: nobody else
        keeps anything at that path. Raises HistoryTrouble."""
        with _told():
            await asyncio.to_thread(_claim, path, own=own)
            return await cls._opened(path)

    @classmethod
    async def _opened(cls, path: Path) -> tuple["History", str | None]:
        try:
            return await cls._open(path), None
        except (DBAPIError, ValueError) as error:
            if _is_busy(error):
                raise
            aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
            for end in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
            await asyncio.to_thread(_claim, path, own=True)
            said = f"the history of metrics could not be read ({error}); it lies aside in {aside}"
            log.warning("%s", said)
            return await cls._open(path), said

    @classmethod
    async def _open(cls, path: Path) -> "History":
        history = cls(path, _engine(path))
        try:
            async with history._engine.begin() as connection:
                for table in _TABLES:
                    await connection.exec_driver_sql(table)
                await history._check(connection)
                await history._learn(connection)
        except BaseException:
            await history._engine.dispose()
            raise
        return history

    async def _check(self, connection: AsyncConnection) -> None:
        version = (await connection.exec_driver_sql("PRAGMA user_version")).scalar_one()
        if version not in (0, FORMAT):
            raise ValueError(f"its format is {version}, and {FORMAT} is known here")
        await connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")
        sound = (await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar_one()
        if sound != "ok":
            raise ValueError(f"SQLite says: {sound}")

    async def _learn(self, connection: AsyncConnection) -> None:
        for row in await connection.exec_driver_sql("SELECT id, name FROM subjects"):
            self._subjects[row.name] = row.id
        for row in await connection.exec_driver_sql("SELECT id, layout FROM layouts"):
            layout = Layout.of_json(json.loads(row.layout))
            self._layouts[layout], self._by_number[row.id] = row.id, layout

    async def close(self) -> None:
        await self._engine.dispose()

    async def write(self, kept: Sequence[Kept]) -> None:
        """Write points down, all or none. Raises HistoryTrouble."""
        with _told():
            try:
                async with self._engine.begin() as connection:
                    rows = [await self._row(connection, one) for one in kept]
                    await connection.exec_driver_sql("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?)", rows)
            except BaseException:
                self._subjects, self._layouts = {}, {}  # their numbers may have been undone
                raise

    async def _row(self, connection: AsyncConnection, one: Kept) -> tuple[int, int, float, int, bytes]:
        point = one.finished.point
        return (
            _NUMBERS[one.finished.tier],
            await self._subject(connection, one.subject),
            one.finished.slot_s,
            await self._layout(connection, point.layout),
            encode_point(point),
        )

    async def _subject(self, connection: AsyncConnection, name: str) -> int:
        if name not in self._subjects:
            await connection.exec_driver_sql("INSERT OR IGNORE INTO subjects (name) VALUES (?)", (name,))
            found = await connection.exec_driver_sql("SELECT id FROM subjects WHERE name = ?", (name,))
            self._subjects[name] = found.scalar_one()
        return self._subjects[name]

    async def _layout(self, connection: AsyncConnection, layout: Layout) -> int:
        if layout not in self._layouts:
            text = json.dumps(layout.to_json())
            await connection.exec_driver_sql("INSERT OR IGNORE INTO layouts (layout) VALUES (?)", (text,))
            found = await connection.exec_driver_sql("SELECT id FROM layouts WHERE layout = ?", (text,))
            number = found.scalar_one()
            self._layouts[layout], self._by_number[number] = number, layout
        return self._layouts[layout]

    def subjects(self) -> list[str]:
        """All that anything was kept of."""
        return list(self._subjects)

    async def read(self, subject: str, tier: Tier, begin_s: float, end_s: float) -> list[Point]:
        """Points of a tier whose slot begins in this time, the oldest first; damaged ones are left out. Raises
        HistoryTrouble."""
        with _told():
            async with self._engine.connect() as connection:
                rows = await connection.exec_driver_sql(
                    "SELECT layout, data FROM points WHERE tier = ? AND at >= ? AND at < ? AND subject = "
                    "(SELECT id FROM subjects WHERE name = ?) ORDER BY at",
                    (_NUMBERS[tier], begin_s, end_s, subject),
                )
                return list(self._points(rows))

    def _points(self, rows: Iterable[Sequence[object]]) -> Iterator[Point]:
        for layout, data in rows:
            known = self._by_number.get(layout) if isinstance(layout, int) else None
            if known is not None and isinstance(data, bytes):
                with suppress(ValueError):
                    yield decode_point(known, data)

    async def forget(self, ages: Ages, now_s: float) -> None:
        """Delete what is too old, a bounded number of rows at a time, and give space back. Raises HistoryTrouble."""
        with _told():
            await self._forget(ages, now_s)

    async def _forget(self, ages: Ages, now_s: float) -> None:
        for tier in TIERS:
            while True:
                async with self._engine.begin() as connection:
                    gone = await connection.exec_driver_sql(
                        "DELETE FROM points WHERE (tier, subject, at) IN "
                        "(SELECT tier, subject, at FROM points WHERE tier = ? AND at < ? LIMIT ?)",
                        (_NUMBERS[tier], now_s - ages.of(tier), _ROWS_AT_ONCE),
                    )
                if gone.rowcount < _ROWS_AT_ONCE:
                    break
        async with self._plain() as connection:
            (await connection.exec_driver_sql("PRAGMA incremental_vacuum(2000)")).close()

    @asynccontextmanager
    async def _plain(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise HistoryTrouble(str(getattr(error, "orig", error))) from error


def _claim(path: Path, *, own: bool) -> None:
    """Make a file that is known for a history where there is none. Raises HistoryTrouble for anything else there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileNotFoundError):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise HistoryTrouble("what lies there is no regular file")
        if found.st_size:
            if not own and _application(path) != APPLICATION:
                raise HistoryTrouble("what lies there is no history of metrics, and stays as it is; give another path")
            return
    path.touch(mode=0o600)
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as link:
        link.execute("PRAGMA auto_vacuum = INCREMENTAL")
        link.execute(f"PRAGMA application_id = {APPLICATION}")  # before WAL, so that the file itself says so at once


def _application(path: Path) -> int:
    """What the header of an SQLite file says; not asked of SQLite, which would take part in the file's locks."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(72)[68:])


def _engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)), connect_args={"timeout": BUSY_S}, hide_parameters=True
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _is_busy(error: Exception) -> bool:
    code = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return str(code).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_READONLY"))
