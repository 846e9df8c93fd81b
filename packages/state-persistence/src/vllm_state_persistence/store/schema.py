"""Tables of the store, and its format version.

In clear are only: keyed ids, sizes, times, counts, key ids with what it takes to unwrap data keys. All else is sealed.
Numbers of packs and states are never used again (AUTOINCREMENT), so what a number meant once is all it ever means.
"""

from sqlalchemy import BLOB, Column, Float, Index, Integer, MetaData, Table, Text
from sqlalchemy.engine import Connection

FORMAT = 1
"""`PRAGMA user_version`. A store of a larger one is refused, a smaller one would be migrated when it is opened."""

APPLICATION_ID = 0x76535031
""""vSP1": tells the store from other SQLite files (`file` shows it)."""

_metadata = MetaData()

meta = Table(
    "meta",
    _metadata,
    Column("name", Text, primary_key=True),
    Column("value", BLOB, nullable=False),
    sqlite_with_rowid=False,
)
"""`store`: 16 random bytes, part of every seal. `census`: sealed; how many snapshots there are, and which."""

data_keys = Table(
    "data_keys",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("wrapped", BLOB, nullable=False),
)
"""Data keys, each wrapped by the user's key. The highest number seals what is written now; the first gives the ids."""

dictionaries = Table(
    "dictionaries",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("sealed", BLOB, nullable=False),
)
"""zstd dictionaries by their own id."""

packs = Table(
    "packs",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("entries", Integer, nullable=False),
    Column("raw_bytes", Integer, nullable=False),
    Column("sealed", BLOB, nullable=False),
    sqlite_autoincrement=True,
)

vals = Table(
    "vals",
    _metadata,
    Column("id", BLOB, primary_key=True),
    Column("pack", Integer, nullable=False),
    sqlite_with_rowid=False,
)
"""Which pack holds a value."""

states = Table(
    "states",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("state_id", BLOB, nullable=False, unique=True),
    Column("session", BLOB, nullable=False),
    Column("mark", BLOB, nullable=False),
    Column("at", Float, nullable=False),
    Column("new_bytes", Integer, nullable=False),
    Column("dropped", Integer, nullable=False, default=0),
    Column("sealed", BLOB, nullable=False),
    sqlite_autoincrement=True,
)
"""Snapshots. `session` and `mark` are keyed ids, of whose it is and of the session's marker; what `sealed` holds is
`core.snapshot`."""

Index("states_by_session", states.c.session, states.c.number)


def create_tables(connection: Connection) -> None:
    """In the transaction of `connection`, so that a store is there whole or not at all."""
    _metadata.create_all(connection, checkfirst=False)
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")
