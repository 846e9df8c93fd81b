"""The envelope: only the right key and place open it, and every change of it is found and named."""

import struct
from hashlib import blake2b

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.core.ids import ID_BYTES, value_id, value_ids
from vllm_state_persistence.core.seal import OVERHEAD_BYTES, DataKey, is_encrypted, key_number, seal, unseal

KEY = DataKey(7, bytes(range(32)))
OTHER = DataKey(8, bytes(32))
KEYS = {7: KEY, 8: OTHER}
NONCE = b"twelve bytes"
SEALED = seal(b"my secret words", KEY, b"pack 41", NONCE)
PLAIN = seal(b"my secret words", None, b"pack 41", b"")


def opened(sealed: bytes, context: bytes = b"pack 41", *, allow_plain: bool = False) -> bytes:
    return unseal(sealed, KEYS.__getitem__, context, allow_plain=allow_plain)


@given(st.binary(), st.binary(max_size=40), st.binary(min_size=12, max_size=12), st.integers(1, 2**32 - 1))
def test_what_was_sealed_opens_again_also_for_another_reader(
    content: bytes, context: bytes, nonce: bytes, number: int
) -> None:
    key = DataKey(number, blake2b(nonce, digest_size=32).digest())
    sealed = seal(content, key, context, nonce)
    assert unseal(sealed, {number: key}.__getitem__, context) == content
    assert unseal(memoryview(sealed), {number: key}.__getitem__, context) == content
    assert len(sealed) == len(content) + OVERHEAD_BYTES

    header = b"VSE\x01\x01" + number.to_bytes(4, "big")  # as docs/state-format.md says
    assert sealed[:9] == header
    assert AESGCM(key.secret).decrypt(sealed[9:21], sealed[21:], header + context) == content


@given(st.binary(), st.binary(max_size=40))
def test_without_a_key_it_says_that_it_is_not_encrypted(content: bytes, context: bytes) -> None:
    envelope = seal(content, None, context, b"")
    assert unseal(envelope, KEYS.__getitem__, context, allow_plain=True) == content
    assert envelope.endswith(content)
    assert not is_encrypted(envelope)
    assert key_number(envelope) == 0

    header = b"VSE\x01\x00\x00\x00\x00\x00"
    covered = header + struct.pack(">Q", len(context)) + context + content
    public = b"vllm-state: this finds damage and stops no forger"
    assert envelope[:25] == header + blake2b(covered, digest_size=16, key=public).digest()


def test_an_envelope_says_with_which_key_it_is_sealed() -> None:
    assert is_encrypted(SEALED)
    assert key_number(SEALED) == 7
    assert key_number(b"VSE\x01\x01") == key_number(b"") == 0


@pytest.mark.parametrize("envelope", [SEALED, PLAIN], ids=["sealed", "plain"])
def test_every_flipped_bit_is_found(envelope: bytes) -> None:
    for place in range(len(envelope)):
        for bit in range(8):
            changed = bytearray(envelope)
            changed[place] ^= 1 << bit
            with pytest.raises(StoreDamaged) as error:
                opened(bytes(changed), allow_plain=True)
            assert "pack 41" in str(error.value)


@pytest.mark.parametrize("envelope", [SEALED, PLAIN], ids=["sealed", "plain"])
def test_every_truncation_and_every_addition_is_found(envelope: bytes) -> None:
    for length in range(len(envelope)):
        with pytest.raises(StoreDamaged):
            opened(envelope[:length], allow_plain=True)
    for more in (envelope + b"\0", b"\0" + envelope, envelope + envelope):
        with pytest.raises(StoreDamaged):
            opened(more, allow_plain=True)


@pytest.mark.parametrize("envelope", [SEALED, PLAIN], ids=["sealed", "plain"])
@pytest.mark.parametrize("context", [b"", b"pack 4", b"pack 411", b"pack 42", b"pack 41\0"])
def test_an_envelope_from_another_place_is_found(envelope: bytes, context: bytes) -> None:
    with pytest.raises(StoreDamaged, match="belongs to another place"):
        opened(envelope, context, allow_plain=True)


def test_bytes_cannot_move_from_the_context_into_the_content() -> None:
    """Context and content stand side by side in what is checked."""
    moved = seal(b"my secret words", None, b"pack 4", b"")
    assert moved[9:25] != seal(b"1my secret words", None, b"pack ", b"")[9:25]
    with pytest.raises(StoreDamaged):
        opened(PLAIN[:25] + b"1" + PLAIN[25:], b"pack 4", allow_plain=True)


def test_an_unencrypted_envelope_is_refused_where_everything_is_encrypted() -> None:
    with pytest.raises(StoreDamaged, match="not encrypted"):
        opened(PLAIN)


def test_another_key_does_not_open_it_even_under_the_same_number() -> None:
    with pytest.raises(StoreDamaged, match="changed"):
        unseal(SEALED, {7: DataKey(7, OTHER.secret)}.__getitem__, b"pack 41")
    with pytest.raises(StoreDamaged, match="key 7, which the store does not have"):
        unseal(SEALED, {8: OTHER}.__getitem__, b"pack 41")


def test_the_error_says_what_and_where_and_nothing_secret() -> None:
    with pytest.raises(StoreDamaged) as error:
        opened(SEALED, b"pack \xff42")
    details = error.value.info.details
    assert details["place"] == "pack \\xff42"
    assert "verify" in details["suggestion"]
    assert "secret words" not in str(error.value)
    assert error.value.__cause__ is None


def test_keys_do_not_show() -> None:
    assert repr(KEY) == str(KEY) == "DataKey(number=7)"


@pytest.mark.parametrize(("number", "length"), [(0, 32), (2**32, 32), (1, 31), (1, 33)])
def test_a_key_must_be_one(number: int, length: int) -> None:
    with pytest.raises(ValueError, match="key"):
        DataKey(number, bytes(length))


@pytest.mark.parametrize("length", [0, 11, 13])
def test_a_nonce_must_be_one(length: int) -> None:
    with pytest.raises(ValueError, match="nonce"):
        seal(b"", KEY, b"", bytes(length))


@given(st.binary(), st.binary())
def test_ids_depend_on_the_key_and_the_whole_content(one: bytes, two: bytes) -> None:
    key, other = bytes(32), bytes([1]) + bytes(31)
    assert (value_id(key, one) == value_id(key, two)) == (one == two)
    assert value_ids(key, [one, memoryview(two)]) == [value_id(key, one), value_id(key, two)]
    assert value_id(key, one) != value_id(other, one)
    assert len(value_id(key, one)) == ID_BYTES
    assert value_id(key, one) not in (
        blake2b(one, digest_size=20).digest(),
        blake2b(key + one, digest_size=20).digest(),
    )


def test_an_id_key_must_be_one() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        value_id(b"", b"")
