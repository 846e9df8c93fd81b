"""The keys at hand, and how they wrap the store's own data keys.

A store's data are sealed with random data keys; these lie in the store, each wrapped by a key that does not
(`WrappedKey`). So another key, or another passphrase, re-wraps a few bytes and rewrites no data.

Keys come from ENCRYPTION_KEY, from the key file `state.key` in the state folder (`key_places`), and, when there is
neither, from the system keyring (library `keyring`, where it is installed). `key_forms` says how they are written.

A key has an id, 8 bytes of a keyed hash of it: it tells two keys apart and nothing else. Keys never show in a repr, a
message or a log.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from vllm_mcp_protocol.errors import KeyMissing, KeyWrong, SettingError
from vllm_mcp_protocol.settings import Settings
from vllm_state_persistence.key_forms import FORMS, GivenKey, parse_key
from vllm_state_persistence.key_places import ENVIRONMENT, KEY_FILE, keys_in_system_keyring, read_key_file
from vllm_state_persistence.key_wrapping import Scrypt, WrappedKey, key_id, unlock

__all__ = ["NOT_ENCRYPTED", "KeyRing", "WrappedKey"]

NOT_ENCRYPTED = (
    "ENCRYPT_SENSITIVE_DATA=false: conversations are saved WITHOUT encryption; whoever can read the file, a backup or "
    "the disk can read them all."
)
"""For every answer and log of a server that saves without encryption."""


class KeyRing:
    """The keys at hand: the first locks, all of them open."""

    def __init__(self, keys: Sequence[GivenKey], *, encrypts: bool = True, notes: Sequence[str] = ()) -> None:
        self._keys = tuple(keys)
        self.encrypts = encrypts
        self.notes = tuple(notes)
        """What the user must be told, in sentences; with encryption off `NOT_ENCRYPTED` is among them."""

    def __repr__(self) -> str:
        return f"KeyRing({len(self._keys)} keys, encrypts={self.encrypts})"

    @classmethod
    def from_settings(cls, settings: Settings, folder: Path) -> Self:
        """The keys that `settings` and the state folder give.

        Raises SettingError for a key that is not written as it must be, and KeyMissing when encryption is wanted and
        there is no key, or only a key file that others can read.
        """
        keys: list[GivenKey] = []
        notes = [] if settings.encrypt_sensitive_data else [NOT_ENCRYPTED]
        if settings.encryption_key is not None:
            keys.append(parse_key(settings.encryption_key.get_secret_value(), ENVIRONMENT))
        try:
            keys += read_key_file(folder / KEY_FILE)
        except (KeyMissing, SettingError) as error:
            if not keys and settings.encrypt_sensitive_data:
                raise
            notes.append(str(error))
        keys = keys or keys_in_system_keyring()
        if not keys and settings.encrypt_sensitive_data:
            raise _no_key(folder)
        return cls(keys, encrypts=settings.encrypt_sensitive_data, notes=notes)

    def wrap(self, data_key: bytes) -> WrappedKey:
        """A data key (32 bytes) locked with the first key. Raises KeyMissing when there is none.

        With a passphrase, this and `unwrap` take about 0.3 s the first time: call them from a thread.
        """
        if not self._keys:
            raise _no_key(None)
        return self._keys[0].lock(data_key)

    def unwrap(self, wrapped: WrappedKey) -> bytes:
        """The data key. Raises KeyMissing without keys, KeyWrong when none of them is the one, StoreDamaged."""
        if not self._keys:
            raise _no_key(None)
        for given in self._keys:
            key = given.key_for(wrapped.scrypt)
            if key is not None and key_id(key) == wrapped.key_id:
                return unlock(key, wrapped)
        raise self._wrong(wrapped)

    def is_current(self, wrapped: WrappedKey) -> bool:
        """Whether the first key locks it; where not, `wrap(unwrap(…))` is what a rotation does."""
        key = self._keys[0].key_for(wrapped.scrypt) if self._keys else None
        return key is not None and key_id(key) == wrapped.key_id

    def _wrong(self, wrapped: WrappedKey) -> KeyWrong:
        wanted = wrapped.key_id.hex()
        what = "a passphrase" if wrapped.scrypt else "a key"
        given = [_named(key, wrapped.scrypt) for key in self._keys]
        return KeyWrong(
            f"The saved sessions are locked with {what} of id {wanted}; given are {', '.join(given)}. "
            "Nothing was changed.",
            suggestion=f"Set {ENVIRONMENT} to the {what.removeprefix('a ')} that they were saved with, or put it into "
            f"{KEY_FILE}.",
            wanted_key_id=wanted,
            given=given,
        )


def _named(given: GivenKey, scrypt: Scrypt | None) -> str:
    key = given.key_for(scrypt)
    if key is None:
        return f"{'a passphrase' if given.is_passphrase else 'a key'} from {given.origin}"
    return f"{key_id(key).hex()} from {given.origin}"


def _no_key(folder: Path | None) -> KeyMissing:
    where = f" in {folder}" if folder else ""
    return KeyMissing(
        f"No key for the saved sessions: {ENVIRONMENT} is not set, there is no {KEY_FILE}{where}, and the system "
        "keyring has none.",
        suggestion=f"Run `vllm-state-persistence init-key` once, or set {ENVIRONMENT} to {FORMS}.",
    )
