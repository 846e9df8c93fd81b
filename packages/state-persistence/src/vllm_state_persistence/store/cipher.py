"""The store's keys, and every seal that it sets.

The user's key (`keys.KeyRing`) only wraps: what seals data are random data keys of the store, which lie wrapped in the
table `data_keys`. Of each, HKDF makes the key that seals; of the first one also the key of the values' ids. So the
user's key can change without a byte of data being written anew, and ids stay what they were.

A seal is bound to the store (16 random bytes), to what it is, and to its number: bytes moved to another row, or into
another store, do not open. In a store that is encrypted, unencrypted envelopes are refused. One that was not encrypted
before keeps, sealed, the numbers up to which they are from that time.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vllm_mcp_protocol.errors import KeyWrong, StoreDamaged
from vllm_state_persistence.core.ids import value_id, value_ids
from vllm_state_persistence.core.seal import NONCE_BYTES, DataKey, is_encrypted, key_number, seal, unseal
from vllm_state_persistence.key_wrapping import WrappedKey
from vllm_state_persistence.keys import KeyRing

STORE_ID_BYTES = 16
SECRET_BYTES = 32


@dataclass(frozen=True)
class Cipher:
    """Seals and opens for one store. Holds secrets: never shown."""

    store_id: bytes
    keys: Mapping[int, DataKey]
    """By number; the highest seals."""
    id_key: bytes
    encrypts: bool
    plain_until: Mapping[str, int]
    """Highest numbers of each kind that may be unencrypted, in a store that is encrypted."""

    def __repr__(self) -> str:
        return f"Cipher(store {self.store_id.hex()}, keys {sorted(self.keys)})"

    @property
    def newest(self) -> int:
        return max(self.keys)

    def seal(self, kind: str, number: int | str, data: bytes) -> bytes:
        key = self.keys[self.newest] if self.encrypts else None
        return seal(data, key, self._context(kind, number), os.urandom(NONCE_BYTES))

    def unseal(self, kind: str, number: int | str, sealed: bytes) -> bytes:
        """Raises StoreDamaged."""
        if not isinstance(sealed, bytes):  # SQLite keeps the type beside the value, where damage may change it
            raise _damaged(f"{kind} {number} is not of bytes")
        return unseal(
            sealed, self.keys.__getitem__, self._context(kind, number), allow_plain=self._may_be_plain(kind, number)
        )

    def knows(self, sealed: bytes) -> bool:
        """Whether this holds the key that `sealed` names: another process may have added one."""
        return not is_encrypted(sealed) or key_number(sealed) in self.keys

    def id_of(self, data: bytes | memoryview) -> bytes:
        return value_id(self.id_key, data)

    def ids_of(self, contents: Iterable[bytes | memoryview]) -> list[bytes]:
        return value_ids(self.id_key, contents)

    def name_of(self, *parts: str) -> bytes:
        """Keyed id of a name; no value has it, since no value begins so."""
        text = "\0".join(("", "name", *(f"{len(part)}:{part}" for part in parts)))
        return value_id(self.id_key, text.encode("utf-8", "surrogatepass"))

    def _may_be_plain(self, kind: str, number: int | str) -> bool:
        if not self.encrypts:
            return True
        return isinstance(number, int) and number <= self.plain_until.get(kind, 0)

    def _context(self, kind: str, number: int | str) -> bytes:
        return f"{kind} {number} of store {self.store_id.hex()}".encode()


def new_secret() -> bytes:
    return os.urandom(SECRET_BYTES)


def make_cipher(
    store_id: bytes,
    wrapped: Sequence[tuple[int, bytes]],
    ring: KeyRing,
    plain_sealed: bytes | None,
    *,
    allow_plain: bool = False,
) -> Cipher:
    """Unwrap a store's data keys. Raises KeyMissing, KeyWrong, StoreDamaged.

    A store without encryption is refused where the settings ask for it, unless `allow_plain`.
    """
    if not wrapped:
        raise _damaged("it has no data keys")
    if any(not isinstance(blob, bytes) for _, blob in wrapped):
        raise _damaged("a data key is not of bytes")
    encrypts = not is_plain(wrapped[0][1])
    if any(is_plain(blob) == encrypts for _, blob in wrapped):  # a rotation writes all of them in one way
        raise _damaged("some of its data keys are wrapped and some are not: a row was put in from outside")
    secrets = {number: unwrap(blob, ring) for number, blob in wrapped}
    if ring.encrypts and not encrypts and not allow_plain:
        raise _not_encrypted()
    keys = {number: DataKey(number, _derived(secret, store_id, b"seal")) for number, secret in secrets.items()}
    id_key = _derived(secrets[min(secrets)], store_id, b"ids")
    cipher = Cipher(store_id, keys, id_key, encrypts, {})
    if plain_sealed is None or not encrypts:
        return cipher
    return Cipher(store_id, keys, id_key, True, _numbers(cipher.unseal("plain", "until", plain_sealed)))


def _numbers(data: bytes) -> dict[str, int]:
    found: dict[str, int] = json.loads(data)
    return found


def encode_plain_until(numbers: Mapping[str, int]) -> bytes:
    return json.dumps(dict(numbers)).encode()


def _not_encrypted() -> KeyWrong:
    """Somebody who can write the file must not get one without encryption past one who expects it."""
    return KeyWrong(
        "The store of snapshots is not encrypted, and the settings ask for encryption.",
        suggestion="Run `vllm-state-persistence rotate-key`, which encrypts it from now on, "
        "or set ENCRYPT_SENSITIVE_DATA=false.",
    )


def _derived(secret: bytes, store_id: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=store_id, info=b"vllm-state " + purpose).derive(secret)


_PLAIN = b"plain:"


def wrap(secret: bytes, ring: KeyRing, encrypts: bool) -> bytes:
    """A data key as it is stored; in clear where nothing is encrypted."""
    return ring.wrap(secret).to_bytes() if encrypts else _PLAIN + secret


def is_plain(blob: bytes) -> bool:
    return blob.startswith(_PLAIN)


def unwrap(blob: bytes, ring: KeyRing) -> bytes:
    """Raises KeyMissing, KeyWrong, StoreDamaged."""
    secret = blob[len(_PLAIN) :] if is_plain(blob) else ring.unwrap(WrappedKey.from_bytes(blob))
    if len(secret) != SECRET_BYTES:
        raise _damaged(f"a data key has {len(secret)} bytes")
    return secret


def _damaged(why: str) -> StoreDamaged:
    return StoreDamaged(f"The store of snapshots is damaged: {why}.", suggestion="Use a backup of the store.", why=why)
