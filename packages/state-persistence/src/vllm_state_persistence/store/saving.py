"""One save: what is new goes into packs, the snapshot becomes spans over segments, its row follows the newest one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.manifest import (
    SEGMENT_RECORDS,
    Entry,
    Manifest,
    Span,
    common_ends,
    crowded,
    encode_segment,
    joined,
    slice_spans,
    span_of,
)
from vllm_state_persistence.core.session import Record, SessionContent
from vllm_state_persistence.store.reading import Reader, sized_batches
from vllm_state_persistence.store.states import StateRow
from vllm_state_persistence.store.writing import PACK_BYTES, Writer

_RECORDS_AT_ONCE = 500
_BATCH_BYTES = 512 * 1024
_SEGMENT_TEXT_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Extras:
    """What is saved beside the session."""

    engines: bytes | None = None
    metrics: bytes | None = None
    description: str = ""
    tags: tuple[str, ...] = ()


Identified = tuple[Record, bytes | None]
"""A record with the id of its content, where that is known."""


@dataclass(slots=True)
class Draft:
    """A snapshot whose values are written, before it has a row."""

    manifest: Manifest
    tail: str
    same_records: bool
    """As the snapshot that it builds on."""
    reused_bytes: int = 0


@dataclass(slots=True)
class Saving:
    """Writes one session's content. `base` is the snapshot that the content was read against."""

    reader: Reader
    writer: Writer
    base: StateRow | None
    _fresh: list[Entry] = field(default_factory=list)
    _fresh_bytes: int = 0
    _spans: list[Span] = field(default_factory=list)
    _last: bytes | None = None

    async def draft(self, content: SessionContent, extras: Extras, records: Iterable[Identified]) -> Draft:
        """`records` are those after the first `content.kept`. Raises StoreDamaged where the base is needed, and cannot
        be read."""
        if content.same_header:
            assert self.base is not None, "the store has looked for it"  # noqa: S101
            refs = [self.base.snapshot.manifest.header]
        else:
            refs = await self.writer.put([content.header])
        refs += await self.writer.put([part for part in (extras.engines, extras.metrics) if part is not None])
        kept, same = await self._records(content.kept, records)
        spans = await self._uncrowded(joined(self._spans))
        engines = refs[1] if extras.engines is not None else None
        metrics = refs[-1] if extras.metrics is not None else None
        manifest = Manifest(refs[0], engines, metrics, tuple(spans))
        return Draft(manifest, await self._tail(content.kept), same, kept)

    async def _records(self, kept: int, records: Iterable[Identified]) -> tuple[int, bool]:
        """Bring `_spans` to all records; the bytes of what the base has, and whether nothing else is there."""
        old = self.base.snapshot.manifest if self.base else None
        if old is None:
            await self._put_records(records, close=True)
            await self._close_segments()
            return 0, False
        if kept and kept == old.records:
            self._spans = list(old.spans)
            await self._put_records(records, close=True)
            await self._close_segments()
            return sum(span.size for span in old.spans), self._last is None
        return await self._aligned(old, kept, records)

    async def _aligned(self, old: Manifest, kept: int, records: Iterable[Identified]) -> tuple[int, bool]:
        """What is the same at both ends of the old records and the new ones is taken over."""
        try:
            known = await self.reader.all_entries(old.spans)
        except StoreDamaged:
            if kept:
                raise
            known = []
        await self._put_records(records, close=False)
        first, last = common_ends(known[kept:], self._fresh)
        first += kept
        taken = slice_spans(old.spans, 0, first, known)
        end = slice_spans(old.spans, len(known) - last, len(known), known)
        self._fresh = self._fresh[first - kept : len(self._fresh) - last]
        self._spans = taken
        same = not self._fresh and first + last == len(known) == old.records
        await self._close_segments()
        self._spans += end
        return sum(span.size for span in (*taken, *end)), same

    async def _put_records(self, records: Iterable[Identified], *, close: bool) -> None:
        """Content into packs, entries into `_fresh`; with `close` a segment follows the content that it names."""
        sized = ((one, len(one[0].content)) for one in records)
        for batch in sized_batches(sized, _RECORDS_AT_ONCE, _BATCH_BYTES):
            some, ids = zip(*batch, strict=True)
            kinds, keys, contents, roles = zip(*some, strict=True)
            refs = await self.writer.put(contents, ids)
            self._fresh += map(Entry, kinds, keys, roles, refs)
            self._fresh_bytes += sum(map(len, keys))
            self._last = contents[-1]
            full = len(self._fresh) >= SEGMENT_RECORDS or self._fresh_bytes >= _SEGMENT_TEXT_BYTES
            if close and (full or self.writer.pending_bytes >= PACK_BYTES - _BATCH_BYTES):
                await self._close_segment()

    async def _close_segments(self) -> None:
        while self._fresh:
            await self._close_segment()

    async def _close_segment(self) -> None:
        """Write the first of `_fresh` as a segment."""
        length = _segment_length(self._fresh)
        entries, self._fresh = self._fresh[:length], self._fresh[length:]
        self._fresh_bytes = 0
        self._spans.append(await self._segment(entries))

    async def _segment(self, entries: Sequence[Entry]) -> Span:
        return span_of(await self.writer.put_whole(encode_segment(entries)), entries)

    async def _uncrowded(self, spans: list[Span]) -> list[Span]:
        """With runs of small spans written anew, where there are too many of them."""
        runs = crowded(spans)
        if not runs:
            return spans
        await self.writer.flush()  # this save's own segments are read again
        found, at = list[Span](), 0
        for first, last in runs:
            found += spans[at:first]
            found += await self._rewritten(spans[first:last])
            at = last
        return found + spans[at:]

    async def _rewritten(self, spans: Sequence[Span]) -> list[Span]:
        entries = await self.reader.all_entries(spans)
        found = []
        while entries:
            length = _segment_length(entries)
            found.append(await self._segment(entries[:length]))
            entries = entries[length:]
        return found

    async def _tail(self, kept: int) -> str:
        if self._last is not None:
            return sha256(self._last).hexdigest()
        if not kept or self.base is None:
            return ""
        old = self.base.snapshot
        if kept == old.manifest.records:
            return old.facts.tail
        entries = await self.reader.all_entries(old.manifest.spans)
        return sha256(await self.reader.content(entries[kept - 1].content)).hexdigest()


def _segment_length(entries: Sequence[Entry]) -> int:
    """How many of these entries go into one segment; names of any length are allowed."""
    total = 0
    for count, entry in enumerate(entries[:SEGMENT_RECORDS], start=1):
        total += len(entry.key)
        if total >= _SEGMENT_TEXT_BYTES:
            return count
    return SEGMENT_RECORDS


def adds_nothing(draft: Draft, extras: Extras, head: StateRow) -> bool:
    """Whether a draft that builds on `head` says what `head` says."""
    facts, manifest = head.snapshot.facts, head.snapshot.manifest
    return (
        draft.same_records
        and draft.manifest.header == manifest.header
        and (extras.engines is None or draft.manifest.engines == manifest.engines)
        and (extras.metrics is None or draft.manifest.metrics == manifest.metrics)
        and extras.description in ("", facts.description)
        and set(extras.tags) <= set(facts.tags)
    )
