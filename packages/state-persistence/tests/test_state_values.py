"""Canonical bytes of values: every JSON-like value comes back exactly, and equal values give equal bytes."""

import copy
import json
import math
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_state_persistence.core.numbers import read_number, write_number
from vllm_state_persistence.core.values import DEPTH_LIMIT, TEXT_DEPTH, decode, encode

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)  # lone surrogates included
HUGE = st.integers(1, 40_000).map(lambda bits: (1 << bits) - 1) | st.integers(2000, 2100).map(lambda bits: -(1 << bits))
LEAVES = st.none() | st.booleans() | st.integers() | HUGE | st.floats() | TEXTS | st.binary(max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))


def shape(value: Any) -> Any:
    """What makes two values the same to the bit: types, order of keys, bits of floats."""
    if isinstance(value, dict):
        return ("dict", [(key, shape(item)) for key, item in value.items()])
    if isinstance(value, list):
        return ("list", [shape(item) for item in value])
    if isinstance(value, float):
        return ("float", struct.pack(">d", value))
    return (type(value).__name__, value)


def read_tagged(data: Iterator[int]) -> Any:
    """The tagged form read once more, straight from docs/state-format.md and by recursion."""

    def number() -> int:
        low = next(data)
        return low if low < 128 else (low - 128) + 128 * number()

    def some(count: int) -> bytes:
        return bytes(next(data) for _ in range(count))

    tag = chr(next(data))
    match tag:
        case "n":
            return None
        case "t" | "f":
            return tag == "t"
        case "d":
            return struct.unpack(">d", some(8))[0]
        case "i":
            return int.from_bytes(some(number()), "big", signed=True)
        case "s":
            return some(number()).decode("utf-8", "surrogatepass")
        case "b":
            return some(number())
        case "l":
            return [read_tagged(data) for _ in range(number())]
        case "o":
            return {read_tagged(data): read_tagged(data) for _ in range(number())}
    raise AssertionError(tag)


def read_independently(data: bytes) -> Any:
    if data[0] == 1:
        rest = iter(data[1:])
        value = read_tagged(rest)
        assert next(rest, None) is None
        return value
    return json.loads(data.decode("utf-8", "surrogatepass"))


@given(VALUES)
@settings(max_examples=400)
def test_every_value_comes_back_exactly(value: Any) -> None:
    data = encode(value)
    assert shape(decode(data)) == shape(value) == shape(read_independently(data))
    assert encode(copy.deepcopy(value)) == data == encode(decode(data))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_an_ordinary_value_is_plain_json(value: Any) -> None:
    assert encode(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        math.nan,
        struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0],
        math.inf,
        -math.inf,
        5e-324,
        1e308,
        0.1 + 0.2,
        "\ud800",
        "\ud800\udc00",
        "\U00010000",
        "\udfff\ud800 \x00\x7f\u2028",
        {"\ud83d": 1, "": 2, "a": {}, "b": []},
        {"b": 1, "a": 2},
        [True, 1, 1.0, "1", False, 0, None],
        10**5000,
        -(10**5000),
        (1 << 2048) - 1,
        1 << 2048,
        -(1 << 2048),
        b"",
        {"blob": bytes(range(256)), "n": None},
        "",
        [],
        {},
    ],
    ids=lambda value: type(value).__name__,  # Python refuses to show the huge ones
)
def test_the_awkward_ones_come_back(value: Any) -> None:
    assert shape(decode(encode(value))) == shape(value)


def test_a_lower_limit_of_digits_changes_neither_bytes_nor_reading() -> None:
    """Python's limit is a setting of the process; a store is read by others."""
    numbers = [10**600, 10**700, 10**5000]
    before = encode(numbers[:1]), encode(numbers)
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(640)
        assert (encode(numbers[:1]), encode(numbers)) == before
        assert decode(before[1]) == numbers
        sys.set_int_max_str_digits(0)
        assert (encode(numbers[:1]), encode(numbers)) == before
    finally:
        sys.set_int_max_str_digits(limit)


def nested(levels: int) -> Any:
    value: Any = "leaf"
    for level in range(levels):
        value = [value] if level % 2 else {"in": value}
    return value


def depth_of(value: Any) -> int:
    levels = 0
    while value != "leaf":
        value = value["in"] if type(value) is dict else value[0]
        levels += 1
    return levels


@pytest.mark.parametrize("levels", [TEXT_DEPTH - 1, TEXT_DEPTH, TEXT_DEPTH + 1, 2000, DEPTH_LIMIT])
def test_depth_needs_no_recursion(levels: int) -> None:
    data = encode(nested(levels))
    assert (data[0] == 1) == (levels > TEXT_DEPTH)
    assert depth_of(decode(data)) == levels


def test_too_deep_is_refused_and_so_is_a_value_that_holds_itself() -> None:
    with pytest.raises(ValueError, match="10,000 levels"):
        encode(nested(DEPTH_LIMIT + 1))
    itself: list[Any] = []
    itself += [itself, itself]
    with pytest.raises(ValueError, match="10,000 levels"):
        encode(itself)
    with pytest.raises(ValueError, match="deep"):
        decode(b"\x01" + b"l\x01" * (DEPTH_LIMIT + 1) + b"n")
    with pytest.raises(ValueError, match="deep"):
        decode(b"[" * 100_000)


class Colour(IntEnum):
    RED = 1


class Word(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1: "a"},
        {None: 1},
        {True: 1},
        {b"k": 1},
        {"a": {1, 2}},
        [bytearray(b"x")],
        Colour.RED,
        [Word.RED],
        {Word.RED: 1},
        OrderedDict(a=1),
        object(),
        [math.nan, (1,)],
    ],
)
def test_what_would_come_back_as_something_else_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"JSON-like|keys"):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"{",
        b"\xff",
        b"nul",
        b"\x01x",
        b"\x01nn",
        b"\x01d123",
        b"\x01s\x05abc",
        b"\x01s\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x01l\x7f",
        b"\x01l\x80\x00",
        b"\x01l" + b"\x80" * 50 + b"\x01",
        b"\x01o\x01nn",
        b"\x01o\x02s\x01ans\x01an",
        b"\x01o\x02s\x01ans\x01ans\x01bn",
        b"\x01z\x00",
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's and our own words alike
        decode(data)


@given(VALUES, st.data())
def test_bytes_that_were_cut_short_never_read_as_the_value(value: Any, data: st.DataObject) -> None:
    whole = encode([value, math.nan])
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ValueError):  # noqa: PT011 - json's and our own words alike
        decode(cut)


@given(st.integers(0, 2**63 - 1), st.binary(max_size=3))
def test_numbers_come_back_and_say_where_they_end(number: int, after: bytes) -> None:
    written = write_number(number)
    assert len(written) == max(1, -(-number.bit_length() // 7))
    assert read_number(b"x" + written + after, 1) == (number, 1 + len(written))


@pytest.mark.parametrize("number", [-1, 2**63])
def test_numbers_out_of_bounds_are_not_written(number: int) -> None:
    with pytest.raises(ValueError, match="2\\^63"):
        write_number(number)
