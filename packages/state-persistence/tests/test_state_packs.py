"""Packs hold any bytes and say how they are compressed; large values are cut where their content says so."""

import random
import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core import chunks, packs
from vllm_state_persistence.core.chunks import LARGE_BYTES, MAX_BYTES, MIN_BYTES, cut
from vllm_state_persistence.core.packs import (
    BLOCK_LIMIT_BYTES,
    Compressor,
    Decompressor,
    Dictionary,
    expand,
    pack,
    squeeze,
    train,
    unpack,
)

ENTRIES = st.dictionaries(st.binary(min_size=20, max_size=20), st.binary(max_size=300), max_size=8)
MESSAGES = [
    f'{{"role":"user","id":"{number:05}","parts":[{{"type":"text","text":"Look at file {number % 17}"}}]}}'.encode()
    for number in range(2000)
]


@given(ENTRIES, st.booleans())
def test_a_pack_gives_back_what_it_was_given_in_order(entries: dict[bytes, bytes], compressed: bool) -> None:
    compress = Compressor() if compressed else None
    packed = pack(list(entries.items()), compress)
    assert [(one, bytes(data)) for one, data in unpack(packed, Decompressor()).items()] == list(entries.items())
    assert unpack(memoryview(packed), Decompressor()) == entries


@given(ENTRIES)
def test_a_pack_lies_as_the_document_says(entries: dict[bytes, bytes]) -> None:
    lengths = b"".join(len(value).to_bytes(4, "big") for value in entries.values())
    content = len(entries).to_bytes(4, "big") + b"".join(entries) + lengths + b"".join(entries.values())
    assert pack(list(entries.items()), None) == struct.pack(">BIQ", 0, 0, len(content)) + content


def test_compression_shrinks_and_stays_out_where_it_does_not() -> None:
    text, noise = b"".join(MESSAGES), random.Random(1).randbytes(5000)
    assert len(squeeze(text, Compressor())) < len(text) / 10
    assert squeeze(text, Compressor())[0] == 1
    assert squeeze(noise, Compressor()) == squeeze(noise, None) == struct.pack(">BIQ", 0, 0, 5000) + noise
    assert expand(squeeze(text, Compressor()), Decompressor()) == text
    assert zstandard.decompress(squeeze(text, Compressor())[13:]) == text


def test_a_dictionary_helps_small_values_and_is_found_by_its_number() -> None:
    dictionary = train(MESSAGES, 3, size_bytes=4096)
    assert dictionary is not None
    one = MESSAGES[77]
    packed = squeeze(one, Compressor(dictionary))
    assert len(packed) < len(squeeze(one, Compressor()))
    assert struct.unpack_from(">BIQ", packed) == (1, 3, len(one))
    assert expand(packed, Decompressor({3: dictionary, 4: Dictionary(4, b"another" * 99)})) == one
    with pytest.raises(StoreDamaged, match="dictionary 3, which is not there"):
        expand(packed, Decompressor())
    with pytest.raises(StoreDamaged):
        expand(packed, Decompressor({3: Dictionary(3, b"another" * 99)}))


def test_a_dictionary_shows_only_its_number() -> None:
    assert repr(Dictionary(3, b"what people wrote")) == "Dictionary(number=3)"


@pytest.mark.parametrize("samples", [[], [b""], [b"one"], [b"x"] * 3])
def test_nothing_is_learnt_from_too_little(samples: list[bytes]) -> None:
    assert train(samples, 1) is None


def test_a_claim_is_checked_before_memory_is_taken_for_it() -> None:
    bomb = zstandard.compress(bytes(BLOCK_LIMIT_BYTES + 1))
    for claim in (BLOCK_LIMIT_BYTES + 1, BLOCK_LIMIT_BYTES, 10, 2**63):
        with pytest.raises(StoreDamaged):
            expand(struct.pack(">BIQ", 1, 0, claim) + bomb, Decompressor())
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(StoreDamaged, match="claims"):
        expand(struct.pack(">BIQ", 1, 0, 1000) + unsized, Decompressor())
    with pytest.raises(ValueError, match="at most"):
        squeeze(bytes(BLOCK_LIMIT_BYTES + 1), None)


@given(ENTRIES, st.data(), st.booleans())
@settings(max_examples=200)
def test_a_damaged_pack_is_refused_or_read_and_nothing_else(
    entries: dict[bytes, bytes], data: st.DataObject, compressed: bool
) -> None:
    """The seal finds damage; this shows that bytes without one cannot crash the reader."""
    packed = bytearray(pack(list(entries.items()), Compressor() if compressed else None))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = packed[: data.draw(st.integers(0, len(packed)))]
    try:
        unpack(bytes(damaged), Decompressor())
    except StoreDamaged as error:
        assert error.info.suggestion  # noqa: PT017


_ONE = b"\0\0\0\1" + bytes(20)


@pytest.mark.parametrize("content", [b"", b"\x01", _ONE, _ONE + b"\0\0\0\2a", _ONE + b"\0\0\0\0x", b"\xff" * 40])
def test_a_table_that_does_not_fit_is_damage(content: bytes) -> None:
    with pytest.raises(StoreDamaged, match="table"):
        unpack(struct.pack(">BIQ", 0, 0, len(content)) + content, None)


def test_ids_stand_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        pack([(bytes(20), b"1"), (bytes(20), b"2")], None)
    with pytest.raises(ValueError, match="20 bytes"):
        pack([(b"", b"1")], None)
    twice = b"\0\0\0\2" + bytes(40) + b"\0\0\0\1" * 2 + b"xy"
    with pytest.raises(StoreDamaged, match="table"):
        unpack(struct.pack(">BIQ", 0, 0, len(twice)) + twice, None)


def test_a_compressed_block_needs_something_to_expand_it() -> None:
    with pytest.raises(ValueError, match="compressed"):
        expand(squeeze(bytes(100), Compressor()), None)
    for number, claim in [(0, 2), (0, 4), (1, 3)]:
        with pytest.raises(StoreDamaged, match="claims"):
            expand(struct.pack(">BIQ", 0, number, claim) + b"abc", Decompressor())
    with pytest.raises(StoreDamaged, match="method 2"):
        expand(struct.pack(">BIQ", 2, 0, 0), Decompressor())


# Chunks

KEY = bytes(range(32))


def sample(kind: str, length: int) -> bytes:
    chosen = random.Random(length)
    if kind == "noise":
        return chosen.randbytes(length)
    if kind == "zeros":
        return bytes(length)
    if kind == "two":
        return b"ab" * (length // 2)
    words = [chosen.randbytes(chosen.randint(2, 9)).hex() for _ in range(500)]
    return " ".join(chosen.choices(words, k=length // 6)).encode()[:length]


@pytest.mark.parametrize("kind", ["noise", "zeros", "two", "words"])
@pytest.mark.parametrize("length", [0, 1, LARGE_BYTES, LARGE_BYTES + 1, 1024 * 1024, 3_000_001])
def test_pieces_make_up_the_value_and_keep_their_bounds(kind: str, length: int) -> None:
    data = sample(kind, length)
    pieces = cut(data, KEY)
    assert b"".join(pieces) == data
    if len(data) <= LARGE_BYTES:
        assert len(pieces) == 1
    assert all(MIN_BYTES <= len(piece) <= MAX_BYTES for piece in pieces[:-1])
    assert len(data) == len(pieces[-1]) or len(pieces[-1]) > 0
    assert len(pieces[-1]) <= MAX_BYTES


@pytest.mark.parametrize("kind", ["noise", "words"])
def test_pieces_have_the_average_that_is_promised(kind: str) -> None:
    pieces = cut(sample(kind, 12_000_000), KEY)
    assert 52 * 1024 < 12_000_000 / len(pieces) < 80 * 1024


@pytest.mark.parametrize("kind", ["noise", "words"])
@pytest.mark.parametrize("place", [0, 1_500_000, 2_097_151, 4_999_999])
def test_an_edit_moves_few_pieces(kind: str, place: int) -> None:
    data = sample(kind, 5_000_000)
    before = {bytes(piece) for piece in cut(data, KEY)}
    for edited in (
        data[:place] + b"new" + data[place:],
        data[:place] + data[place + 1 :],
        data[:place] + b"?" + data[place + 1 :],
    ):
        after = [bytes(piece) for piece in cut(edited, KEY)]
        assert sum(piece not in before for piece in after) <= 4


def places_by_definition(data: bytes, key: bytes) -> list[int]:
    """The same places from one product of all the data, with the window's sum taken byte by byte."""
    factor = (int.from_bytes(chunks._derived(key, b"vllm-cut-factor"), "little") | 1).to_bytes(32, "little")
    pattern = chunks._pattern(chunks._derived(key, b"vllm-cut-pattern"))
    carry, hashed = 0, bytearray()
    for place in range(len(data)):
        window = data[max(0, place - 31) : place + 1][::-1]
        carry += sum(byte * weight for byte, weight in zip(window, factor, strict=False))
        hashed.append(carry & 0x3F)
        carry = (carry >> 8) if carry else 0
    return [place + 2 for place in range(len(hashed) - 1) if hashed[place : place + 2] == pattern]


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**32))
@settings(max_examples=15)
def test_places_are_what_the_definition_says_across_segments(key: bytes, seed: int) -> None:
    data = random.Random(seed).randbytes(20_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_SEGMENT_BYTES", 5)  # patterns across segments are then common
        chunks._full_mask.cache_clear()
        places = list(chunks._places(memoryview(data), key))
    chunks._full_mask.cache_clear()
    assert places == places_by_definition(data, key)


def test_cuts_depend_on_the_key() -> None:
    data = sample("words", 3_000_000)
    ends = [
        {sum(map(len, pieces[:n])) for n in range(1, len(pieces))} for pieces in (cut(data, KEY), cut(data, KEY[::-1]))
    ]
    assert len(ends[0] & ends[1]) <= 2
    assert cut(data, KEY) == cut(data, KEY)


def test_bytes_that_repeat_are_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a few bytes that repeat the pattern may stand everywhere, and every answer is the same."""
    monkeypatch.setattr(chunks, "_accepts", lambda judge, window: False)
    data = sample("noise", 2_000_000)
    assert {len(piece) for piece in cut(data, KEY)[:-1]} == {MAX_BYTES}
    monkeypatch.setattr(chunks, "_MOST_ASKED", 4)
    assert 50 < len(cut(data, KEY)) < 80  # 16 KiB, and four places 4 KiB apart


def test_cuts_never_change_between_versions() -> None:
    """What a store holds was cut by an older version; other cuts would store everything once more."""
    pieces = cut(sample("noise", 400_000), KEY)
    assert [len(piece) for piece in pieces] == PINNED


PINNED = [84480, 18057, 41642, 46592, 57135, 16945, 135149]


@pytest.mark.parametrize("length", [0, 15, 65])
def test_a_key_for_cutting_must_be_one(length: int) -> None:
    with pytest.raises(ValueError, match="16 to 64"):
        cut(b"", bytes(length))


def test_packs_of_chunks_need_no_copies_of_them() -> None:
    pieces = cut(sample("words", 200_000), KEY)
    packed = pack([(number.to_bytes(20, "big"), piece) for number, piece in enumerate(pieces)], packs.Compressor())
    assert b"".join(unpack(packed, Decompressor()).values()) == sample("words", 200_000)
