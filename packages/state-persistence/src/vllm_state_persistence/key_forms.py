"""How a key is written: its form is stated by a prefix, never guessed.

hex:<64 digits>   base64:<44 characters>   raw:<exactly 32 bytes>   passphrase:<8 characters or more>
"""

import base64
import binascii
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from vllm_mcp_protocol.errors import SettingError
from vllm_state_persistence.key_wrapping import KEY_BYTES, SALT_BYTES, Scrypt, WrappedKey, lock

FORMS = "hex:<64 digits>, base64:<44 characters>, raw:<exactly 32 bytes> or passphrase:<8 characters or more>"

_SHORTEST_PASSPHRASE = 8
"""NIST SP 800-63B's least length of what people choose."""


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A key or a passphrase that the user gave, and where. The secret never shows."""

    origin: str
    secret: bytes = field(repr=False)
    is_passphrase: bool = False
    _made: dict[Scrypt, bytes] = field(default_factory=dict, repr=False, compare=False)
    """Keys made from a passphrase: each takes 0.3 s."""

    def key_for(self, scrypt: Scrypt | None) -> bytes | None:
        """The wrapping key; None when what is wanted is a passphrase and this is none, or the other way round."""
        if self.is_passphrase != (scrypt is not None):
            return None
        return self.secret if scrypt is None else self._from_passphrase(scrypt)

    def lock(self, data_key: bytes) -> WrappedKey:
        """`data_key` (32 bytes), locked with this."""
        if not self.is_passphrase:
            return lock(self.secret, None, data_key)
        scrypt = self._next_scrypt()
        return lock(self._from_passphrase(scrypt), scrypt, data_key)

    def _from_passphrase(self, scrypt: Scrypt) -> bytes:
        if scrypt not in self._made:
            self._made[scrypt] = scrypt.key(self.secret)
        return self._made[scrypt]

    def _next_scrypt(self) -> Scrypt:
        """The salt that served before where its costs are today's: it may serve all data keys of one passphrase."""
        today = Scrypt(os.urandom(SALT_BYTES))
        costs = (today.log2_n, today.r, today.p)
        return next((made for made in self._made if (made.log2_n, made.r, made.p) == costs), today)


def parse_key(text: str, origin: str) -> GivenKey:
    """A key in one of the four forms. Raises SettingError naming `origin` and the forms, never the value."""
    form, _, value = text.partition(":")
    reader = _READERS.get(form)
    if reader is None or ":" not in text:
        raise _bad_key(origin, "it does not say how it is written")
    try:
        secret = reader(value)
    except ValueError as error:  # binascii.Error and UnicodeError are ValueErrors; their words may quote the value
        why = str(error) if type(error) is ValueError else f"not everything after {form}: belongs into that form"
        raise _bad_key(origin, why) from None
    return GivenKey(origin, secret, form == "passphrase")


def _of_32_bytes(secret: bytes) -> bytes:
    if len(secret) != KEY_BYTES:
        raise ValueError(f"it has {len(secret)} bytes, and a key has {KEY_BYTES}")
    return secret


def _hex(value: str) -> bytes:
    return _of_32_bytes(binascii.unhexlify(value))


def _base64(value: str) -> bytes:
    standard = value.translate(str.maketrans("-_", "+/")).rstrip("=")
    return _of_32_bytes(base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True))


def _raw(value: str) -> bytes:
    """Bytes that are no UTF-8 come through the environment as surrogates."""
    return _of_32_bytes(value.encode("utf-8", "surrogateescape"))


def _passphrase(value: str) -> bytes:
    """As NFC: the same words, typed on another system, are the same key."""
    if len(value) < _SHORTEST_PASSPHRASE:
        raise ValueError(f"a passphrase has {_SHORTEST_PASSPHRASE} characters or more")
    return unicodedata.normalize("NFC", value).encode("utf-8", "surrogateescape")


_READERS: dict[str, Callable[[str], bytes]] = {
    "hex": _hex,
    "base64": _base64,
    "raw": _raw,
    "passphrase": _passphrase,
}


def _bad_key(origin: str, why: str) -> SettingError:
    return SettingError(
        f"{origin} (hidden): {why}.",
        variable=origin,
        suggestion=f"Write it as {FORMS}; blanks at its ends do not count.",
    )


def new_key() -> str:
    """A random key, written as `hex:`."""
    return f"hex:{os.urandom(KEY_BYTES).hex()}"
