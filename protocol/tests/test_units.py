"""Bytes and seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.units import MIB, format_bytes, format_seconds, to_mib


@given(st.integers(0, 2**60))
def test_a_need_is_never_shown_smaller_than_it_is(size: int) -> None:
    assert to_mib(size) * MIB >= size > (to_mib(size) - 1) * MIB


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1717986918, "1.6 GiB"), (2**50, "1024.0 TiB")]
)
def test_sizes_are_written(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (125, "2 min 05 s"), (11_400, "3 h 10 min")])
def test_durations_are_written(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
