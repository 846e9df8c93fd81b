"""How a data key of the store is locked with a key of the user: the stored form, and scrypt for passphrases.

A wrapped key is AES-256-GCM under a key derived from the user's; everything before the nonce (which key, how it was
made from a passphrase) is in the associated data. Layout in docs/state-format.md.
"""

import hashlib
import os
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vllm_mcp_protocol.errors import StoreDamaged

KEY_BYTES = 32
KEY_ID_BYTES = 8
SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Scrypt:
    """How a key was made from a passphrase. The costs are OWASP's for 32 MiB of memory: about 0.3 s for each try."""

    salt: bytes
    log2_n: int = 15
    r: int = 8
    p: int = 3

    def __post_init__(self) -> None:
        """Raises ValueError for costs of more than 256 MiB or some seconds: a file names them."""
        if not (len(self.salt) == SALT_BYTES and 1 <= self.log2_n <= 18 and 1 <= self.r <= 8 and 1 <= self.p <= 8):
            raise ValueError("parameters of scrypt that are out of bounds")

    def key(self, passphrase: bytes) -> bytes:
        """32 bytes. Takes its time: call it from a thread where others wait."""
        most_bytes = 128 * self.r * ((1 << self.log2_n) + self.p + 2) + 1024 * 1024
        return hashlib.scrypt(
            passphrase, salt=self.salt, n=1 << self.log2_n, r=self.r, p=self.p, maxmem=most_bytes, dklen=KEY_BYTES
        )


_HEADER = struct.Struct(">3sBB8sBBB16s")
_MAGIC, _FORMAT = b"VSK", 1
_NO_KDF, _SCRYPT = 0, 1
_NONCE_BYTES, _WRAPPED_BYTES = 12, KEY_BYTES + 16


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as it is stored: it opens with the key `key_id` alone. Nothing in it is secret."""

    key_id: bytes
    scrypt: Scrypt | None
    """None when the key was no passphrase."""
    nonce: bytes
    ciphertext: bytes

    @property
    def header(self) -> bytes:
        """What stands before the nonce; all of it is in the associated data."""
        made = self.scrypt
        costs = (_SCRYPT, self.key_id, made.log2_n, made.r, made.p, made.salt) if made else None
        return _HEADER.pack(_MAGIC, _FORMAT, *(costs or (_NO_KDF, self.key_id, 0, 0, 0, bytes(SALT_BYTES))))

    def to_bytes(self) -> bytes:
        """92 bytes, laid out as docs/state-format.md says."""
        return self.header + self.nonce + self.ciphertext

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises StoreDamaged for what `to_bytes` does not write."""
        if len(data) != _HEADER.size + _NONCE_BYTES + _WRAPPED_BYTES:
            raise _key_damaged(f"it has {len(data)} bytes")
        magic, version, kdf, key_id, log2_n, r, p, salt = _HEADER.unpack_from(data)
        try:
            scrypt = Scrypt(salt, log2_n, r, p) if kdf == _SCRYPT else None
        except ValueError as error:
            raise _key_damaged(str(error)) from None
        at = _HEADER.size + _NONCE_BYTES
        wrapped = cls(key_id, scrypt, data[_HEADER.size : at], data[at:])
        if (magic, version) != (_MAGIC, _FORMAT) or wrapped.to_bytes() != data:
            raise _key_damaged("its header is not one that is written")
        return wrapped


def lock(key: bytes, scrypt: Scrypt | None, data_key: bytes) -> WrappedKey:
    """`data_key` (32 bytes) locked with `key`, which `scrypt` made when that is given; a random nonce each time."""
    if len(data_key) != KEY_BYTES:
        raise ValueError(f"a data key has {KEY_BYTES} bytes, not {len(data_key)}")
    nonce = os.urandom(_NONCE_BYTES)
    header = WrappedKey(key_id(key), scrypt, nonce, b"").header
    return WrappedKey(key_id(key), scrypt, nonce, _cipher(key).encrypt(nonce, data_key, header))


def key_id(key: bytes) -> bytes:
    """8 bytes that name a key: a keyed hash of nothing, so nothing can be told from it."""
    return blake2b(digest_size=KEY_ID_BYTES, key=key, person=b"vllm-state-keyid").digest()


def _cipher(key: bytes) -> AESGCM:
    """Under a key of its own: the id and the wrapping share none."""
    return AESGCM(blake2b(digest_size=KEY_BYTES, key=key, person=b"vllm-state-wrap").digest())


def unlock(key: bytes, wrapped: WrappedKey) -> bytes:
    """The data key. Raises StoreDamaged when `key`, whose id it has, does not open it."""
    try:
        return _cipher(key).decrypt(wrapped.nonce, wrapped.ciphertext, wrapped.header)
    except InvalidTag:
        raise _key_damaged("the key is right, and does not open it") from None


def _key_damaged(why: str) -> StoreDamaged:
    return StoreDamaged(
        f"A stored data key is damaged: {why}.",
        suggestion="Run `vllm-state-persistence repair`, or import an export of the sessions.",
        place="data key",
        why=why,
    )
