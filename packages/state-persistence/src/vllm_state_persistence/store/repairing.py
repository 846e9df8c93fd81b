"""Repair: what can be read stays, what cannot is taken out of the snapshots and listed. One transaction.

The index of values is mended from the packs first, so only what no sound pack holds is lost. Values that cannot be
read leave the index: a session that is saved again then brings them back, where its client still has them.
"""

from dataclasses import replace

from sqlalchemy import bindparam, delete, insert
from sqlalchemy.engine import RowMapping

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.manifest import Manifest, Ref, Span, encode_segment, span_of
from vllm_state_persistence.core.snapshot import Snapshot
from vllm_state_persistence.store.desk import Work
from vllm_state_persistence.store.inspection import Inspection, Losses, LostEntries, damages
from vllm_state_persistence.store.reading import OpenedPack
from vllm_state_persistence.store.results import Damage, Repaired
from vllm_state_persistence.store.schema import dictionaries, packs, states, vals
from vllm_state_persistence.store.states import (
    StateRow,
    change_row,
    count_rows,
    newest_first,
    read_row,
    shown_id,
    write_census,
)
from vllm_state_persistence.store.store import StateStore


async def repair(store: StateStore) -> Repaired:
    """Take out what cannot be read. Raises StoreDamaged where the file itself cannot be read or written: `salvage`
    copies what is left into a new store."""
    async with store.desk.writing() as work:
        inspection = Inspection(work.connection, store.desk, work.reader)
        try:
            mended = await _mend_index(inspection)
            await _remove_packs(work, inspection)
            await _remove_dangling(inspection)
            lost, rewritten, removed = await _mend_states(work, inspection)
        finally:
            inspection.notes.close()
        await work.writer.flush()
        await write_census(work.connection, work.cipher, await count_rows(work.connection, work.cipher))
        for number in store.desk.damaged_dictionaries:
            await work.connection.execute(delete(dictionaries).where(dictionaries.c.number == number))
        await store.desk.read_dictionaries(work.connection)
    return Repaired(tuple(lost), rewritten, removed, len(inspection.damaged_packs), mended)


async def _mend_index(inspection: Inspection) -> int:
    mended = 0
    async for opened in inspection.read_packs():
        for pack in opened:
            mended += await _mend_of_pack(inspection, pack)
    return mended


async def _mend_of_pack(inspection: Inspection, pack: OpenedPack) -> int:
    """Point to this pack for values that are said to be in none that could be read before it."""
    here = set(await inspection.reader.in_their_place([pack]))
    elsewhere = await inspection.unsound(one for one in pack.values if one not in here)
    rows = [{"id": one, "pack": pack.number} for one in elsewhere]
    if rows:
        await inspection.connection.execute(insert(vals).prefix_with("OR REPLACE"), rows)
    inspection.notes.add_sound(here | set(elsewhere))
    return len(rows)


async def _remove_packs(work: Work, inspection: Inspection) -> None:
    for number in inspection.damaged_packs:
        await inspection.forget_values_of(number)
        await work.connection.execute(delete(vals).where(vals.c.pack == number))
        await work.connection.execute(delete(packs).where(packs.c.number == number))


async def _remove_dangling(inspection: Inspection) -> None:
    """What the index names and no pack holds would not be stored again when it is saved again."""
    async for ids in inspection.index_ids():
        rows = [{"gone": one} for one in inspection.notes.unsound(ids)]
        if rows:
            await inspection.connection.execute(delete(vals).where(vals.c.id == bindparam("gone")), rows)


async def _mend_states(work: Work, inspection: Inspection) -> tuple[list[Damage], int, int]:
    lost: list[Damage] = []
    rewritten = removed = 0
    async for row in newest_first(work.connection):
        try:
            state = read_row(work.cipher, row)
        except StoreDamaged as error:
            lost.append(await _remove_state(work, row, error))
            removed += 1
            continue
        (losses,) = await inspection.losses([state])
        if losses:
            lost += damages(state, losses)
            await change_row(work.connection, work.cipher, state.number, await _without(work, state, losses))
            rewritten += 1
    return lost, rewritten, removed


async def _remove_state(work: Work, row: RowMapping, error: StoreDamaged) -> Damage:
    await work.connection.execute(delete(states).where(states.c.number == row["number"]))
    why = str(error.info.details.get("why", error.info.message))
    return Damage(shown_id(row["state_id"]), "", "snapshot", "", why)


async def _without(work: Work, state: StateRow, losses: Losses) -> Snapshot:
    """The snapshot with what is left. Its marker and tail are empty: the next save reads the session in full."""
    old, facts = state.snapshot.manifest, state.snapshot.facts
    spans: list[Span] = []
    for span, lost in zip(old.spans, losses.spans, strict=True):
        spans += await _span_without(work, span, lost)
    manifest = Manifest(
        await _header_without(work, old.header, losses),
        None if "engines" in losses.parts else old.engines,
        None if "metrics" in losses.parts else old.metrics,
        tuple(spans),
    )
    gone = facts.lost + old.records - manifest.records
    return Snapshot(replace(facts, lost=gone, marker="", tail=""), manifest)


async def _header_without(work: Work, header: Ref, losses: Losses) -> Ref:
    if "header" not in losses.parts:
        return header
    (empty,) = await work.writer.put([b""])
    return empty


async def _span_without(work: Work, span: Span, lost: LostEntries) -> list[Span]:
    if lost.whole:
        return []
    if not lost.entries:
        return [span]
    gone = {at for at, _, _ in lost.entries}
    entries = (await work.reader.segment(span.segment))[span.start : span.start + span.records]
    left = [entry for at, entry in enumerate(entries) if at not in gone]
    return [span_of(await work.writer.put_whole(encode_segment(left)), left)] if left else []
