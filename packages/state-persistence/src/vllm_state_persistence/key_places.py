"""Where keys lie: the key file in the state folder, and the system keyring.

The key file holds one key a line, the first locks, the others only open; so a rotation that was interrupted anywhere
still opens everything. It is 0600, or it is not used.
"""

import importlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from vllm_mcp_protocol.errors import BadInput, KeyMissing, StateTrouble
from vllm_mcp_protocol.files import write_atomic
from vllm_state_persistence.key_forms import GivenKey, new_key, parse_key

KEY_FILE = "state.key"
ENVIRONMENT = "ENCRYPTION_KEY"

_MOST_KEYS = 64
_LONGEST_FILE_BYTES = 64 * 1024
_KEYRING_SERVICE, _KEYRING_USER = "vllm-state-persistence", "state-key"


def read_key_file(path: Path) -> list[GivenKey]:
    """The keys of a key file, the one that locks first; none when there is no file.

    Blank lines and lines with # are skipped. Raises KeyMissing when it cannot be read, is another user's, or others
    may read it; SettingError, with the number of the line, for one that is no key.
    """
    try:
        text = _read_private(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    keys = [parse_key(line, f"{path}, line {number}") for number, line in lines if line and not line.startswith("#")]
    if not 1 <= len(keys) <= _MOST_KEYS:
        raise _unusable(path, f"it holds {len(keys)} keys, and may hold 1 to {_MOST_KEYS}")
    return keys


def _read_private(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_FILE_BYTES:
            raise _unusable(path, "it is no short file")
        if status.st_uid not in (0, os.getuid()):
            raise _unusable(path, f"it belongs to user {status.st_uid}")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise _unusable(path, f"others may read it (mode {mode:04o})", f"Run `chmod 600 {path}`")
        return file.read(_LONGEST_FILE_BYTES).decode("utf-8", "surrogateescape")


def _unusable(path: Path, why: str, then: str = "Correct it") -> KeyMissing:
    return KeyMissing(
        f"The key file {path} is not used: {why}.", suggestion=f"{then}, or set {ENVIRONMENT}.", path=str(path)
    )


_HEAD = (
    "# Key of the saved sessions: the first line locks, the others only open.\n"
    "# Without it they cannot be read by anybody: keep a copy in another place.\n"
)


def create_key_file(folder: Path) -> Path:
    """Make `state.key` (0600) with a random key in `folder`, whole or not at all. Raises BadInput if there is one."""
    path = folder / KEY_FILE
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{KEY_FILE}.{os.getpid()}-{os.urandom(4).hex()}"
    try:
        write_atomic(draft, f"{_HEAD}{new_key()}\n".encode())
        os.link(draft, path)  # unlike a rename it never replaces a key
    except FileExistsError:
        raise BadInput(
            f"{path} exists, and sessions may be locked with it; it was left as it is.",
            suggestion="Run `vllm-state-persistence rotate-key` for a new key.",
            path=str(path),
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return path


def add_key(folder: Path) -> None:
    """A new random key on top of the key file: it locks from now on, the older ones open. The first half of a rotation.

    Raises what `read_key_file` does, and KeyMissing when there is no file.
    """
    lines = _key_lines(folder)
    if len(lines) >= _MOST_KEYS:
        raise _unusable(folder / KEY_FILE, f"it holds {len(lines)} keys", "Finish the last rotation first")
    _write_keys(folder, [new_key(), *lines])


def forget_old_keys(folder: Path) -> int:
    """Only the first key stays in the key file, once it locks everything: the last step of a rotation.

    Gives back how many went.
    """
    lines = _key_lines(folder)
    _write_keys(folder, lines[:1])
    return len(lines) - 1


def _key_lines(folder: Path) -> list[str]:
    path = folder / KEY_FILE
    if not read_key_file(path):
        raise _unusable(path, "it does not exist", "Run `vllm-state-persistence init-key`")
    return [line.strip() for line in _read_private(path).splitlines() if line.strip() and line.strip()[0] != "#"]


def _write_keys(folder: Path, lines: Sequence[str]) -> None:
    write_atomic(folder / KEY_FILE, (_HEAD + "".join(f"{line}\n" for line in lines)).encode("utf-8", "surrogateescape"))


def keys_in_system_keyring() -> list[GivenKey]:
    """The key in the system keyring; none without the optional library, a keyring, or an entry of ours."""
    try:
        keyring = importlib.import_module("keyring")
        text = keyring.get_password(_KEYRING_SERVICE, _KEYRING_USER)
    except Exception:  # any back end may raise anything: locked, no desktop session, no bus
        return []
    return [parse_key(text.strip(), "the system keyring")] if text else []


def create_in_system_keyring() -> None:
    """Put a random key into the system keyring.

    Raises BadInput when one is there, StateTrouble when there is no keyring, or the library `keyring` is missing.
    """
    if keys_in_system_keyring():
        raise BadInput(
            "The system keyring holds a key, and sessions may be locked with it; it was left as it is.",
            suggestion=f"Delete the entry {_KEYRING_SERVICE}/{_KEYRING_USER} if no store needs it.",
        )
    try:
        importlib.import_module("keyring").set_password(_KEYRING_SERVICE, _KEYRING_USER, new_key())
    except Exception as error:
        raise StateTrouble(
            f"No key could be put into the system keyring ({type(error).__name__}).",
            suggestion="Install the library `keyring` beside this server, or use `init-key` without --keyring.",
        ) from None
