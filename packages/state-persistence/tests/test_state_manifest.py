"""Manifests: spans over segments say exactly which records a snapshot has, whatever is appended, changed or cut."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_state_persistence.core.manifest import (
    SEGMENT_RECORDS,
    SPANS_CAP,
    Entry,
    Manifest,
    Ref,
    Span,
    common_ends,
    crowded,
    decode_chunks,
    decode_manifest,
    decode_refs,
    decode_segment,
    encode_chunks,
    encode_manifest,
    encode_segment,
    ids_in,
    joined,
    segments_needed,
    slice_spans,
    span_of,
    spans_cap,
)
from vllm_state_persistence.core.snapshot import Facts, Snapshot, decode_snapshot, encode_snapshot

_TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)
"""Lone surrogates included: sources have them."""
_IDS = st.binary(min_size=20, max_size=20)
_REFS = st.builds(Ref, _IDS, st.integers(0, 2**63), st.booleans())
_ENTRIES = st.lists(st.builds(Entry, _TEXTS, _TEXTS, _TEXTS, _REFS), max_size=30)
_SPANS = st.builds(Span, _IDS, *[st.integers(0, 2**32 - 1)] * 3, st.integers(0, 2**63))


def _entry(number: int, role: str = "user") -> Entry:
    return Entry("line", str(number), role, Ref(number.to_bytes(20, "big"), number, False))


@given(_ENTRIES)
def test_a_segment_reads_back_as_it_was(entries: list[Entry]) -> None:
    data = encode_segment(entries)
    assert decode_segment(data) == entries
    chunked, ids = decode_refs(data)
    assert [(one, bool(flag)) for one, flag in zip(ids_in(ids), chunked, strict=True)] == [
        (entry.content.value, entry.content.chunked) for entry in entries
    ]


@given(_REFS, st.none() | _REFS, st.none() | _REFS, st.lists(_SPANS, max_size=40))
def test_a_manifest_reads_back_as_it_was(
    header: Ref, engines: Ref | None, metrics: Ref | None, spans: list[Span]
) -> None:
    manifest = Manifest(header, engines, metrics, tuple(spans))
    assert decode_manifest(encode_manifest(manifest)) == manifest


@given(_TEXTS, st.lists(_TEXTS, max_size=3), st.floats(allow_nan=False))
def test_a_snapshot_reads_back_as_it_was(text: str, tags: list[str], at: float) -> None:
    facts = Facts("s-1", None, "crush", text, text, text, text, text, at, at, 7, "", text, tuple(tags))
    snapshot = Snapshot(facts, Manifest(Ref(bytes(20), 1, False), None, None, ()))
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


@given(st.lists(st.tuples(_IDS, st.integers(0, 2**32 - 1)), max_size=9))
def test_a_list_of_chunks_reads_back_as_it_was(chunks: list[tuple[bytes, int]]) -> None:
    assert decode_chunks(encode_chunks(chunks)) == chunks


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_and_never_crash(data: bytes) -> None:
    for decode in (decode_segment, decode_manifest, decode_snapshot):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
            decode(data)


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_segment_that_ends_early_or_late_is_refused(cut: int) -> None:
    data = encode_segment([_entry(1), _entry(2)])
    with pytest.raises(ValueError, match="early"):
        decode_segment(data[:-cut])
    with pytest.raises(ValueError, match="longer"):
        decode_segment(data + b"x" * cut)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_slices_of_spans_hold_the_records_that_slices_of_lists_do(lengths: list[int], data: st.DataObject) -> None:
    segments: dict[bytes, list[Entry]] = {}
    spans: list[Span] = []
    for number, length in enumerate(lengths):
        segment = number.to_bytes(20, "big")
        segments[segment] = [_entry(100 * number + at, "user" if at % 2 else "") for at in range(length + 2)]
        spans.append(span_of(segment, segments[segment][1 : length + 1])._replace(start=1))
    records = _records(spans, segments)
    start = data.draw(st.integers(0, len(records)))
    stop = data.draw(st.integers(start, len(records)))
    sliced = slice_spans(spans, start, stop, records)
    assert _records(sliced, segments) == records[start:stop]
    assert sum(span.records for span in sliced) == stop - start
    assert sum(span.messages for span in sliced) == sum(1 for entry in records[start:stop] if entry.role)
    assert sum(span.size for span in sliced) == sum(entry.content.size for entry in records[start:stop])
    halves = joined([*slice_spans(spans, 0, start, records), *slice_spans(spans, start, len(records), records)])
    assert halves == joined(spans)


def _records(spans: list[Span], segments: dict[bytes, list[Entry]]) -> list[Entry]:
    return [entry for span in spans for entry in segments[span.segment][span.start : span.start + span.records]]


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_common_ends_are_the_same_and_do_not_overlap(old: list[int], new: list[int]) -> None:
    first, last = common_ends([_entry(one) for one in old], [_entry(one) for one in new])
    assert old[:first] == new[:first]
    assert last == 0 or old[-last:] == new[-last:]
    assert first + last <= min(len(old), len(new))
    middle_old, middle_new = old[first : len(old) - last], new[first : len(new) - last]
    if middle_old and middle_new:
        assert middle_old[0] != middle_new[0]
        assert middle_old[-1] != middle_new[-1]


def _span(number: int, records: int) -> Span:
    return Span(number.to_bytes(20, "big"), 0, records, records, records)


@given(st.lists(st.integers(1, 40), max_size=300) | st.lists(st.integers(1, 3000), max_size=80))
@example([*range(200, 100, -1)])
@example([*[10] * 40, 1, 1])
def test_after_a_crowd_was_written_anew_the_cap_holds(lengths: list[int]) -> None:
    spans = [_span(number, length) for number, length in enumerate(lengths)]
    runs = crowded(spans)
    written = sum(segments_needed(sum(lengths[first:last])) for first, last in runs)
    left = len(spans) - sum(last - first for first, last in runs) + written
    assert left <= spans_cap(sum(lengths))
    assert all(last - first > 1 for first, last in runs)
    assert [*runs] == sorted(runs)


def test_appending_ten_thousand_messages_one_by_one_writes_each_entry_a_few_times() -> None:
    """Written in full after every 32 appends, it would be 156 times on average."""
    spans: list[Span] = []
    written = 0
    for number in range(10_000):
        spans.append(_span(number, 1))
        written += 1
        for first, last in reversed(crowded(spans)):
            count = sum(span.records for span in spans[first:last])
            pieces = [min(SEGMENT_RECORDS, count - at) for at in range(0, count, SEGMENT_RECORDS)]
            spans[first:last] = [_span(number, piece) for piece in pieces]
            written += count
        assert len(spans) <= SPANS_CAP + 2 * (number + 1) // SEGMENT_RECORDS
    assert written / 10_000 < 12
