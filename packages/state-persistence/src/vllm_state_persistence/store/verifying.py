"""Verify: is everything that the store says it has there, and (`read_data`) what it was? Changes nothing."""

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.exc import DatabaseError

from vllm_mcp_protocol.collector import collector_paused
from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.store.database import is_corrupt
from vllm_state_persistence.store.desk import Desk
from vllm_state_persistence.store.inspection import Inspection, damages, file_damage
from vllm_state_persistence.store.reading import IDS_AT_ONCE
from vllm_state_persistence.store.results import Damage, Verified
from vllm_state_persistence.store.schema import states
from vllm_state_persistence.store.states import (
    StateRow,
    count_rows,
    newest_first,
    read_census,
    read_row,
    session_keys,
    shown_id,
    standing,
)
from vllm_state_persistence.store.store import StateStore

MOST_DAMAGES = 1000
"""Listed; the others are counted."""


async def verify(store: StateStore, *, read_data: bool = True, session_id: str | None = None) -> Verified:
    """Look through the store (or through the snapshots of one session): damage is named, and nothing is changed.

    Without `read_data` it sees what is missing, not what was changed.
    """
    with collector_paused():
        return await _verified(store.desk, read_data, session_id)


async def _verified(desk: Desk, read_data: bool, session_id: str | None) -> Verified:
    async with desk.reading() as connection:
        inspection = Inspection(connection, desk, desk.reader(connection))
        found = await file_damage(connection)
        try:
            await _look_at_values(inspection, read_data=read_data)
            found += _of_packs(inspection, desk)
            found += await list_damage(inspection)
            values = inspection.notes.sound
            count, of_states = await _of_states(inspection, session_id)
        finally:
            inspection.notes.close()
    found += of_states
    return Verified(
        states=count,
        packs=inspection.packs,
        values=values,
        read_bytes=inspection.read_bytes,
        damaged=tuple(found[:MOST_DAMAGES]),
        more_damaged=max(0, len(found) - MOST_DAMAGES),
    )


async def _look_at_values(inspection: Inspection, *, read_data: bool) -> None:
    """Collect the values that can be read where the index says."""
    if not read_data:
        await inspection.look_at_index()
        return
    async for packs in inspection.read_packs(await _segments(inspection)):
        inspection.notes.add_sound(await inspection.reader.in_their_place(packs))
        del packs  # before the next ones are read


async def _segments(inspection: Inspection) -> set[bytes]:
    found: set[bytes] = set()
    async for row in newest_first(inspection.connection, states.c.dropped == 0, at_once=IDS_AT_ONCE):
        with suppress(StoreDamaged):
            found.update(span.segment for span in read_row(inspection.desk.cipher, row).snapshot.manifest.spans)
    return found


def _of_packs(inspection: Inspection, desk: Desk) -> list[Damage]:
    packs = [Damage("", "", "pack", str(number), why) for number, why in inspection.damaged_packs.items()]
    others = [Damage("", "", "dictionary", str(number), why) for number, why in desk.damaged_dictionaries.items()]
    return packs + others


async def list_damage(inspection: Inspection) -> list[Damage]:
    """Snapshots that were taken away, or put back from an older file, by whoever cannot seal."""
    try:
        said = read_census(inspection.desk.cipher, (await standing(inspection.connection)).census)
        there = await count_rows(inspection.connection, inspection.desk.cipher)
    except StoreDamaged as error:
        return [Damage("", "", "list", "of snapshots", str(error.info.details.get("why", error)))]
    except DatabaseError as error:
        if not is_corrupt(error):
            raise
        return [Damage("", "", "list", "of snapshots", str(error.orig))]
    if said == there:
        return []
    why = f"{there.rows} are there, {said.rows} were saved" if said.rows != there.rows else "some are others"
    return [Damage("", "", "list", "of snapshots", f"it was changed from outside: {why}")]


async def _of_states(inspection: Inspection, session_id: str | None) -> tuple[int, list[Damage]]:
    cipher = inspection.desk.cipher
    conditions = [states.c.dropped == 0]
    if session_id is not None:
        conditions.append(states.c.session.in_(session_keys(cipher, session_id)))
    count, found = 0, list[Damage]()
    sound: list[StateRow] = []
    async for row in newest_first(inspection.connection, *conditions, at_once=IDS_AT_ONCE):
        count += 1
        try:
            sound.append(read_row(cipher, row))
        except StoreDamaged as error:
            why = str(error.info.details.get("why", error.info.message))
            found.append(Damage(shown_id(row["state_id"]), "", "snapshot", "", why))
        if len(sound) == IDS_AT_ONCE:
            found += await _losses(inspection, sound)
            sound.clear()
    return count, found + await _losses(inspection, sound)


async def _losses(inspection: Inspection, rows: Sequence[StateRow]) -> list[Damage]:
    losses = zip(rows, await inspection.losses(rows), strict=True)
    return [damage for row, lost in losses for damage in damages(row, lost)]
