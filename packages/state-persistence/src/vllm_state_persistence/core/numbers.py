"""Whole numbers of few bytes, as the formats of the store write lengths and counts. Pure."""

_LONGEST_BYTES = 9


def write_number(value: int) -> bytes:
    """`value` (0 … 2^63 - 1), seven bits a byte, the lowest first; the top bit says that more follows."""
    if not 0 <= value < 1 << 7 * _LONGEST_BYTES:
        raise ValueError(f"a number of 0 to 2^63 - 1, not {value}")
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_number(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next thing begins.

    Raises ValueError when the bytes end early, or for what `write_number` does not write: more than nine bytes, or
    zeros at the end.
    """
    value = 0
    for index, byte in enumerate(data[at : at + _LONGEST_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte <= 0x7F:
            if byte == 0 and index:
                break
            return value, at + index + 1
    raise ValueError("a length that is not possible")
