"""Ids of values: a keyed hash of their content, so that equal values are stored once and an id tells nothing. Pure."""

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
    if len(key) != KEY_BYTES:
        raise ValueError(f"an id key has {KEY_BYTES} bytes, not {len(key)}")
    return blake2b(data, digest_size=ID_BYTES, key=key, person=_PURPOSE).digest()
