"""Verify: is everything that the store says it has there, and (`read_data`) what it was? Changes nothing."""

from sqlalchemy.exc import DatabaseError

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.store.database import is_corrupt
from vllm_state_persistence.store.desk import Desk
from vllm_state_persistence.store.inspection import Inspection, damages, file_damage
from vllm_state_persistence.store.results import Damage, Verified
from vllm_state_persistence.store.schema import states
from vllm_state_persistence.store.states import (
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
    desk = store.desk
    async with desk.reading() as connection:
        inspection = Inspection(connection, desk, desk.reader(connection))
        found = await file_damage(connection)
        try:
            await look_at_values(inspection, read_data=read_data)
            found += _of_packs(inspection, desk)
            found += await list_damage(inspection)
            values = len(inspection.sound)
            count, of_states = await _of_states(inspection, session_id)
        finally:
            inspection.sound.close()
    found += of_states
    return Verified(
        states=count,
        packs=inspection.packs,
        values=values,
        read_bytes=inspection.read_bytes,
        damaged=tuple(found[:MOST_DAMAGES]),
        more_damaged=max(0, len(found) - MOST_DAMAGES),
    )


async def look_at_values(inspection: Inspection, *, read_data: bool) -> None:
    """Collect the values that can be read where the index says."""
    if not read_data:
        await inspection.look_at_index()
        return
    async for pack in inspection.read_packs():
        places = await inspection.reader.packs_of(list(pack.sound))
        inspection.sound.add(one for one, number in places.items() if number == pack.number)


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
    async for row in newest_first(inspection.connection, *conditions):
        count += 1
        try:
            state = read_row(cipher, row)
        except StoreDamaged as error:
            why = str(error.info.details.get("why", error.info.message))
            found.append(Damage(shown_id(row["state_id"]), "", "snapshot", "", why))
            continue
        found += damages(state, await inspection.losses(state))
    return count, found
