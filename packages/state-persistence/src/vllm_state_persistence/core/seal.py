"""The envelope around everything that a store writes: sealed, or checksummed where encryption is off. Pure.

Byte by byte (docs/state-format.md), integers big-endian:

    sealed        magic b"VSE" · format 1 · kind 1 · key number u32 · nonce 12 · ciphertext · tag 16
    unencrypted   magic b"VSE" · format 1 · kind 0 · key number 0   · checksum 16 · plaintext

Sealed is AES-256-GCM; its associated data are the nine bytes of the header, then the caller's context. So neither a
byte of the envelope nor the place where it lies can change unnoticed, and it cannot be read as if another key or
format had written it. The context names that place (`record 41`): it is not stored in the envelope, and it may be
shown in errors, so it must hold nothing secret.

The checksum is BLAKE2b of header, context and plaintext under a public key: it finds damage, it stops no forger. A
forger could also lay unencrypted envelopes into an encrypted store, so `unseal` refuses them unless told otherwise.

Nonces are 96 random bits from the caller. NIST SP 800-38D allows 2^32 seals per key with random nonces (a collision
then has a probability of 2^-33). A save makes a handful of seals.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vllm_mcp_protocol.errors import StoreDamaged

FORMAT = 1
SECRET_BYTES = 32
NONCE_BYTES = 12

_MAGIC = b"VSE"
_PLAIN, _AES_256_GCM = 0, 1
_HEADER = struct.Struct(">3sBBI")
_TAG_BYTES = 16
_CHECKSUM_BYTES = 16
_CHECKSUM_KEY = b"vllm-state: this finds damage and stops no forger"

OVERHEAD_BYTES = _HEADER.size + NONCE_BYTES + _TAG_BYTES
"""What sealing adds."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key that seals data, and its number in the store. The secret never shows."""

    number: int
    """1 … 2^32 - 1; 0 stands for no key."""
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.number < 2**32:
            raise ValueError(f"a key number is 1 to 2^32 - 1, not {self.number}")
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a data key has {SECRET_BYTES} bytes, not {len(self.secret)}")


def seal(plaintext: bytes | memoryview, key: DataKey | None, context: bytes, nonce: bytes) -> bytes:
    """`plaintext` in an envelope that only `key` and `context` open; without a key not encrypted, and saying so.

    `nonce`: `NONCE_BYTES` random bytes, never used before with this key (unused without one). Raises ValueError for
    another length.
    """
    if key is None:
        header = _HEADER.pack(_MAGIC, FORMAT, _PLAIN, 0)
        return b"".join((header, _checksum(header, context, plaintext), plaintext))
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    header = _HEADER.pack(_MAGIC, FORMAT, _AES_256_GCM, key.number)
    return b"".join((header, nonce, AESGCM(key.secret).encrypt(nonce, plaintext, header + context)))


def unseal(
    sealed: bytes | memoryview, keys: Callable[[int], DataKey], context: bytes, *, allow_plain: bool = False
) -> bytes:
    """What `seal` was given, when not a bit of envelope and context has changed.

    `keys` gives the key of a number, and raises KeyError for one that the store does not have. `allow_plain` takes
    unencrypted envelopes too: only in a store that was made without encryption, else who can write the file can lay
    in what he likes. Raises StoreDamaged naming the context and what is wrong.
    """
    kind, number = _kind_and_number(sealed, context)
    if kind == _PLAIN:
        if not allow_plain:
            raise _damaged(context, "it is not encrypted, in a store that is")
        return _checked(sealed, context)
    try:
        key = keys(number)
    except KeyError:
        raise _damaged(context, f"it is sealed with key {number}, which the store does not have") from None
    body = memoryview(sealed)[_HEADER.size :]
    try:
        aad = bytes(sealed[: _HEADER.size]) + context
        return AESGCM(key.secret).decrypt(bytes(body[:NONCE_BYTES]), body[NONCE_BYTES:], aad)
    except InvalidTag:
        raise _damaged(context, "it was changed, or belongs to another place") from None


def is_encrypted(sealed: bytes | memoryview) -> bool:
    """What an envelope says of itself; only `unseal` finds out whether that is so."""
    return bytes(sealed[:5]) == _HEADER.pack(_MAGIC, FORMAT, _AES_256_GCM, 0)[:5]


def key_number(sealed: bytes | memoryview) -> int:
    """The number of the key that an envelope says it is sealed with; 0 for none, or for what is no envelope."""
    return int.from_bytes(sealed[5:9], "big") if is_encrypted(sealed) and len(sealed) >= _HEADER.size else 0


def _kind_and_number(sealed: bytes | memoryview, context: bytes) -> tuple[int, int]:
    if len(sealed) < _HEADER.size:
        raise _damaged(context, f"it ends after {len(sealed)} bytes")
    magic, version, kind, number = _HEADER.unpack_from(sealed)
    if magic != _MAGIC:
        raise _damaged(context, "it does not begin like something that was saved")
    if version != FORMAT or kind not in (_PLAIN, _AES_256_GCM):
        raise _damaged(context, f"its header (format {version}, kind {kind}, key {number}) is not one that is written")
    least = OVERHEAD_BYTES if kind == _AES_256_GCM else _HEADER.size + _CHECKSUM_BYTES
    if len(sealed) < least:
        raise _damaged(context, f"it ends after {len(sealed)} bytes, and has {least} at least")
    return kind, number


def _checked(sealed: bytes | memoryview, context: bytes) -> bytes:
    header, rest = bytes(sealed[: _HEADER.size]), memoryview(sealed)[_HEADER.size :]
    plaintext = bytes(rest[_CHECKSUM_BYTES:])
    if _checksum(header, context, plaintext) != rest[:_CHECKSUM_BYTES]:
        raise _damaged(context, "its checksum does not fit: it was changed, or belongs to another place")
    return plaintext


def _checksum(header: bytes, context: bytes, plaintext: bytes | memoryview) -> bytes:
    digest = blake2b(header, digest_size=_CHECKSUM_BYTES, key=_CHECKSUM_KEY)
    digest.update(len(context).to_bytes(8, "big"))
    digest.update(context)
    digest.update(plaintext)
    return digest.digest()


def _damaged(context: bytes, why: str) -> StoreDamaged:
    place = context[:120].decode("utf-8", "backslashreplace")
    return StoreDamaged(
        f"Damage in the saved sessions at {place!r}: {why}.",
        suggestion="Run `vllm-state-persistence verify` to see what else is damaged; the rest stays readable.",
        place=place,
        why=why,
    )
