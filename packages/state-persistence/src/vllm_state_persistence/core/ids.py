"""Ids of values: a keyed hash of their content, so that equal values are stored once and an id tells nothing. Pure."""

from collections.abc import Iterable
from hashlib import blake2b

ID_BYTES = 20
"""160 bits: among 2^40 values two ids agree by chance with a probability of 2^-81."""

KEY_BYTES = 32

_PURPOSE = b"vllm-state-value"


def value_id(key: bytes, data: bytes | memoryview) -> bytes:
    """Id of a value under a store's id key (32 secret bytes).

    BLAKE2b is a pseudo-random function: without the key nobody can tell whether a store holds a text that he knows.
    Raises ValueError for a key of another length.
    """
    return blake2b(data, digest_size=ID_BYTES, key=_checked(key), person=_PURPOSE).digest()


def value_ids(key: bytes, contents: Iterable[bytes | memoryview]) -> list[bytes]:
    """`value_id` of each, faster: the key is taken in once."""
    begun = blake2b(digest_size=ID_BYTES, key=_checked(key), person=_PURPOSE)
    found = []
    for content in contents:
        one = begun.copy()
        one.update(content)
        found.append(one.digest())
    return found


def _checked(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"an id key has {KEY_BYTES} bytes, not {len(key)}")
    return key
