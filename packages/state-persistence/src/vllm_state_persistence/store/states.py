"""Rows of snapshots: written, found, read, and counted.

What stands in clear in a row (whose it is, when it was taken) is compared with what is sealed in it. The census is a
sealed count of the rows and a sum over their names: a row that was taken away, or put back from an older file, shows.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, RowMapping, bindparam, func, insert, select, text, update
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import StateNotFound, StoreDamaged
from vllm_state_persistence.core.ids import ID_BYTES
from vllm_state_persistence.core.session import SourceName
from vllm_state_persistence.core.snapshot import Snapshot, decode_snapshot, encode_snapshot
from vllm_state_persistence.store.cipher import Cipher
from vllm_state_persistence.store.database import in_one_step, is_corrupt
from vllm_state_persistence.store.reading import IDS_AT_ONCE, batches, one_of, survivors, unreadable
from vllm_state_persistence.store.results import StateInfo
from vllm_state_persistence.store.schema import meta, states

STATE_ID_BYTES = 8

_STANDING = (
    "SELECT (SELECT max(number) FROM data_keys) AS newest_key, (SELECT max(number) FROM dictionaries) AS dictionary, "
    # The larger one of both: somebody may have wound a sequence back.
    "max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'packs'), 0), "
    "coalesce((SELECT max(number) FROM packs), 0)) AS last_pack, "
    "max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'states'), 0), "
    "coalesce((SELECT max(number) FROM states), 0)) AS last_state, "
    "(SELECT value FROM meta WHERE name = 'census') AS census"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the store stands at the beginning of a transaction."""

    newest_key: int | None
    dictionary: int | None
    last_pack: int
    last_state: int
    census: bytes | None


async def standing(connection: AsyncConnection) -> Standing:
    (row,) = await in_one_step(connection, _STANDING, ())
    return Standing(*row)


@dataclass(frozen=True, slots=True)
class StateRow:
    """A row that was read and found to be sound."""

    number: int
    new_bytes: int
    dropped: bool
    snapshot: Snapshot

    @property
    def state_id(self) -> str:
        return self.snapshot.facts.state_id

    @property
    def info(self) -> StateInfo:
        facts, manifest = self.snapshot.facts, self.snapshot.manifest
        return StateInfo(
            state_id=facts.state_id,
            parent_state_id=facts.parent_state_id,
            source=facts.source,
            session_id=facts.session_id,
            project=facts.project,
            title=facts.title,
            location=facts.location,
            marker=facts.marker,
            updated_at=facts.updated_at,
            at=facts.at,
            records=manifest.records,
            messages=manifest.messages,
            logical_bytes=manifest.logical_bytes,
            size_bytes=facts.size_bytes,
            new_bytes=self.new_bytes,
            description=facts.description,
            tags=facts.tags,
            has_engines=manifest.engines is not None,
            has_metrics=manifest.metrics is not None,
            lost_records=facts.lost,
        )


def shown_id(state_id: object) -> str:
    """Damage may have made something else of it."""
    return f"s-{state_id.hex()}" if isinstance(state_id, bytes) else "s-?"


def stored_id(state_id: str) -> bytes:
    """Raises StateNotFound for what is no id."""
    found = _bytes_of(state_id)
    if not found:
        raise not_found(state_id)
    return found


def _bytes_of(state_id: str) -> bytes:
    """Empty for what is no id."""
    try:
        found = bytes.fromhex(state_id.removeprefix("s-"))
    except ValueError:
        return b""
    return found if len(found) == STATE_ID_BYTES and shown_id(found) == state_id else b""


def not_found(state_id: str) -> StateNotFound:
    return StateNotFound(
        f"There is no snapshot {state_id[:80]!r}.",
        suggestion="Call list-states for those that there are.",
        state_id=state_id[:80],
    )


def session_key(cipher: Cipher, source: str, session_id: str) -> bytes:
    return cipher.name_of("session", source, session_id)


def mark_of(cipher: Cipher, session: bytes, marker: str) -> bytes:
    """Tells whether a session is as it was, of a row that is not opened."""
    return cipher.name_of("mark", session.hex(), marker)


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of the newest snapshots, by session; no row was opened for them, and a forged one only hides a
    change."""

    cipher: Cipher
    newest: Mapping[bytes, bytes]

    def knows(self, source: str, session_id: str) -> bool:
        """Whether there is a snapshot."""
        return session_key(self.cipher, source, session_id) in self.newest

    def has(self, source: str, session_id: str, marker: str) -> bool:
        """Whether the newest snapshot was taken when the session had this marker."""
        session = session_key(self.cipher, source, session_id)
        mark = self.newest.get(session)
        return mark is not None and mark == mark_of(self.cipher, session, marker)


async def read_marks(connection: AsyncConnection, cipher: Cipher) -> Marks:
    newest = select(func.max(states.c.number)).where(states.c.dropped == 0).group_by(states.c.session)
    rows = await connection.execute(select(states.c.session, states.c.mark).where(states.c.number.in_(newest)))
    return Marks(cipher, {session: mark for session, mark in rows})


def session_keys(cipher: Cipher, session_id: str) -> list[bytes]:
    """Of sessions with this id, whatever client they are of."""
    return [session_key(cipher, source, session_id) for source in get_args(SourceName)]


def read_row(cipher: Cipher, row: RowMapping | Mapping[str, Any]) -> StateRow:
    """Raises StoreDamaged naming the snapshot."""
    number, name = row["number"], shown_id(row["state_id"])
    try:
        snapshot = decode_snapshot(cipher.unseal("state", number, row["sealed"]))
    except StoreDamaged as error:
        raise error.with_details(f"Snapshot {name} cannot be read: {_why(error)}.", state_id=name) from error
    except ValueError as error:
        raise unreadable(f"snapshot {name}", str(error)).with_details(state_id=name) from error
    facts = snapshot.facts
    session = session_key(cipher, facts.source, facts.session_id)
    in_clear = (row["state_id"], row["session"], row["mark"], row["at"])
    if in_clear != (stored_id(facts.state_id), session, mark_of(cipher, session, facts.marker), facts.at):
        raise unreadable(f"snapshot {name}", "its row was changed").with_details(state_id=name)
    return StateRow(number, row["new_bytes"], bool(row["dropped"]), snapshot)


def _why(error: StoreDamaged) -> str:
    return str(error.info.details.get("why", error.info.message))


async def newest_first(
    connection: AsyncConnection, *conditions: ColumnElement[bool], at_once: int = 50
) -> AsyncIterator[RowMapping]:
    """Rows of snapshots, few at a time; where pages of the file are damaged, those that are not on them."""
    before: int | None = None
    while True:
        query = select(states).where(*conditions).order_by(states.c.number.desc()).limit(at_once)
        if before is not None:
            query = query.where(states.c.number < before)
        try:
            rows = (await connection.execute(query)).mappings().all()
        except DatabaseError as error:
            if not is_corrupt(error):
                raise
            break
        for row in rows:
            yield row
        if len(rows) < at_once:
            return
        before = rows[-1]["number"]
    last = await last_number(connection, "states") if before is None else before - 1
    query = select(states).where(*conditions).where(states.c.number.in_(bindparam("numbers", expanding=True)))
    for row in await survivors(connection, query, "numbers", range(last, 0, -1)):
        yield row


async def last_number(connection: AsyncConnection, table: Literal["states", "packs"]) -> int:
    """Of a damaged file: each place that tells it may be on pages that are gone, so they are not asked in one query."""
    found = [0]
    for query in (f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'", f"SELECT max(number) FROM {table}"):  # noqa: S608
        try:
            found.append(int((await connection.execute(text(query))).scalar() or 0))
        except DatabaseError as error:
            if not is_corrupt(error):
                raise
    return max(found)


async def newest(connection: AsyncConnection, cipher: Cipher, session: bytes) -> StateRow | None:
    """The newest snapshot of a session that can be read."""
    async for row in newest_first(connection, states.c.session == session, states.c.dropped == 0, at_once=1):
        try:
            return read_row(cipher, row)
        except StoreDamaged:
            continue
    return None


async def newest_of(connection: AsyncConnection, cipher: Cipher, sessions: Sequence[bytes]) -> dict[bytes, StateRow]:
    """The newest snapshots of these sessions that can be read."""
    numbers = select(func.max(states.c.number)).where(states.c.dropped == 0).group_by(states.c.session)
    found: dict[bytes, StateRow] = {}
    for some in batches(sessions, IDS_AT_ONCE):
        saved = await _saved_before(connection, some)
        if not saved:
            continue
        wanted = states.c.number.in_(numbers.where(states.c.session.in_(saved)))
        async for row in newest_first(connection, wanted):
            try:
                found[row["session"]] = read_row(cipher, row)
            except StoreDamaged:
                before = await newest(connection, cipher, row["session"])
                if before is not None:
                    found[row["session"]] = before
    return found


async def _saved_before(connection: AsyncConnection, sessions: Sequence[bytes]) -> Sequence[bytes]:
    """Those that have snapshots; all where pages of the file are damaged. In a first save none has, and the query for
    the newest ones costs much more."""
    marks, parameters = one_of(sessions)
    query = f"SELECT DISTINCT session FROM states WHERE session IN {marks}"  # noqa: S608
    try:
        return [session for (session,) in await in_one_step(connection, query, parameters)]
    except DatabaseError as error:
        if not is_corrupt(error):
            raise
        return sessions


async def by_id(connection: AsyncConnection, cipher: Cipher, state_id: str, *, dropped: bool = False) -> StateRow:
    """A snapshot, with `dropped` also one that waits for a prune. Raises StateNotFound, StoreDamaged."""
    wanted = select(states).where(states.c.state_id == stored_id(state_id), states.c.dropped <= int(dropped))
    row = (await connection.execute(wanted)).mappings().one_or_none()
    if row is None:
        raise not_found(state_id)
    return read_row(cipher, row)


async def by_ids(
    connection: AsyncConnection, cipher: Cipher, state_ids: Sequence[str]
) -> list[StateRow | StateNotFound | StoreDamaged]:
    """Snapshots that were not dropped, in this order; of one that cannot be read, why."""
    known = states.c.state_id.in_(bindparam("ids", expanding=True))
    query = select(states).where(known, states.c.dropped == 0)
    rows: dict[str, RowMapping] = {}
    for some in batches(state_ids, IDS_AT_ONCE):
        stored = [one for state_id in some if (one := _bytes_of(state_id))]
        rows.update((shown_id(row["state_id"]), row) for row in await survivors(connection, query, "ids", stored))
    return [_read_or_why(cipher, state_id, rows.get(state_id)) for state_id in state_ids]


def _read_or_why(cipher: Cipher, state_id: str, row: RowMapping | None) -> StateRow | StateNotFound | StoreDamaged:
    if row is None:
        return not_found(state_id)
    try:
        return read_row(cipher, row)
    except StoreDamaged as error:
        return error


def new_row(cipher: Cipher, snapshot: Snapshot, number: int, pack_bytes: int) -> dict[str, Any]:
    """The row of a snapshot; its `new_bytes` are what the store holds more, `pack_bytes` of packs included."""
    sealed = cipher.seal("state", number, encode_snapshot(snapshot))
    facts = snapshot.facts
    session = session_key(cipher, facts.source, facts.session_id)
    return {
        "number": number,
        "state_id": stored_id(facts.state_id),
        "session": session,
        "mark": mark_of(cipher, session, facts.marker),
        "at": facts.at,
        "new_bytes": pack_bytes + len(sealed),
        "dropped": 0,
        "sealed": sealed,
    }


async def change_row(connection: AsyncConnection, cipher: Cipher, number: int, snapshot: Snapshot) -> None:
    """Seal a snapshot anew, in its place."""
    sealed, facts = cipher.seal("state", number, encode_snapshot(snapshot)), snapshot.facts
    mark = mark_of(cipher, session_key(cipher, facts.source, facts.session_id), facts.marker)
    await connection.execute(update(states).where(states.c.number == number).values(mark=mark, sealed=sealed))


# The census


@dataclass(frozen=True, slots=True)
class Census:
    """How many rows there are, and a sum (exclusive or) over their names."""

    rows: int = 0
    names: int = 0

    def with_row(self, cipher: Cipher, state_id: bytes, dropped: bool) -> "Census":
        return Census(self.rows + 1, self.names ^ _name(cipher, state_id, dropped))

    def without(self, cipher: Cipher, state_id: bytes, dropped: bool) -> "Census":
        return Census(self.rows - 1, self.names ^ _name(cipher, state_id, dropped))


def _name(cipher: Cipher, state_id: bytes, dropped: bool) -> int:
    return int.from_bytes(cipher.name_of("state", state_id.hex(), "dropped" if dropped else ""), "big")


def read_census(cipher: Cipher, sealed: bytes | None) -> Census:
    """Raises StoreDamaged."""
    if sealed is None:
        raise unreadable("the census of snapshots", "it is not there")
    found = json.loads(cipher.unseal("census", "of all", sealed))
    return Census(found["rows"], int(found["names"], 16))


async def write_census(connection: AsyncConnection, cipher: Cipher, census: Census) -> None:
    data = json.dumps({"rows": census.rows, "names": f"{census.names:0{2 * ID_BYTES}x}"}).encode()
    row = {"name": "census", "value": cipher.seal("census", "of all", data)}
    await connection.execute(insert(meta).prefix_with("OR REPLACE"), row)


async def count_rows(connection: AsyncConnection, cipher: Cipher) -> Census:
    """The census that the rows themselves give."""
    census = Census()
    for state_id, dropped in await connection.execute(select(states.c.state_id, states.c.dropped)):
        if isinstance(state_id, bytes):
            census = census.with_row(cipher, state_id, bool(dropped))
    return census
