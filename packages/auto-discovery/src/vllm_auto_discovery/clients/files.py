"""Client configurations on disk: read, show what would change, replace in one step, take it back."""

import contextlib
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_auto_discovery.clients.backups import Backup, Backups
from vllm_auto_discovery.core.clients.diffs import unified_diff
from vllm_auto_discovery.core.clients.json_edit import edited, read_object
from vllm_auto_discovery.core.clients.json_text import LIMIT_BYTES
from vllm_auto_discovery.core.clients.plans import Client, ConfigPlan, plan, reads_comments
from vllm_auto_discovery.core.clients.servable import ServableModel
from vllm_mcp_protocol.errors import ClientConfigInvalid, ForceRequired, NotThere, PathNotAllowed, StateDirRefused
from vllm_mcp_protocol.files import write_atomic
from vllm_mcp_protocol.units import format_bytes

NEW_FILE = "{}\n"
_NEW_MODE = 0o600


@dataclass(frozen=True)
class Change:
    """What was done to a file, or would be."""

    path: Path
    diff: str
    """Unified, secrets hidden; empty when nothing changes."""
    done: bool


@dataclass(frozen=True)
class Synced:
    """A change, and what the client offers after it."""

    change: Change
    plan: ConfigPlan


@dataclass(frozen=True)
class _File:
    """A configuration as it was when it was read; text None: there is none."""

    path: Path
    text: str | None
    mode: int


def sync(
    client: Client,
    path: Path,
    models: Sequence[ServableModel],
    state_dir: Path,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> Synced:
    """Make the file at `path` (from `config_path`) offer exactly `models`, and remember what it was for `undo`.

    Raises ClientConfigInvalid, with the file as it was, when it cannot be read, is not what the client would accept,
    or was changed by somebody else meanwhile; ForceRequired as `plan` does; PathNotAllowed when it cannot be written;
    DiskFull.
    """
    file = _read(path)
    try:
        plain = not reads_comments(client)
        before = file.text if file.text and file.text.strip() else ""
        planned = plan(client, read_object(before, plain=plain) if before else {}, models, force=force)
        after = edited(before or NEW_FILE, planned.edits, plain=plain) if planned.edits else file.text
    except ClientConfigInvalid as error:
        raise _invalid(path, error.info.message) from error
    if after is None or after == file.text:
        return Synced(Change(path, "", done=False), planned)
    change = Change(path, unified_diff(file.text or "", after, str(path)), done=not dry_run)
    if not dry_run:
        _replace_remembered(file, after, Backups(state_dir, path))
    return Synced(change, planned)


def undo(path: Path, state_dir: Path, *, dry_run: bool = False, force: bool = False) -> Change:
    """Bring back what the file was before the last `sync` that changed it; a file that `sync` made is removed.

    Raises NotThere without such a change, ForceRequired with the difference when the file was changed since, and what
    `sync` raises for files that cannot be read or written.
    """
    backups = Backups(state_dir, path)
    last, file = backups.last(), _read(path)
    if last is None:
        raise NotThere(f"Nothing is remembered about {path}: it was not changed from here.", path=str(path))
    if file.text != last.after and not force:
        raise ForceRequired(
            f"{path} was changed since, and undoing would lose that.",
            path=str(path),
            difference=unified_diff(last.after, file.text or "", str(path)),
            suggestion="look at the difference; call again with force=true to lose it, or edit the file by hand",
        )
    change = Change(path, unified_diff(file.text or "", last.before or "", str(path)), done=not dry_run)
    if not dry_run:
        _replace(_File(path, file.text, last.mode), last.before)
        backups.forget_last()
    return change


# Reading.


def _read(path: Path) -> _File:
    try:
        found = _bytes_and_mode(path)
    except OSError as error:
        raise _invalid(path, error.strerror or str(error)) from error
    if found is None:
        return _File(path, None, _NEW_MODE)
    content, mode = found
    if len(content) > LIMIT_BYTES:
        raise _invalid(path, f"it is longer than {format_bytes(LIMIT_BYTES)}")
    try:
        return _File(path, content.decode(), mode)
    except UnicodeDecodeError as error:
        raise _invalid(path, f"byte {error.start} is not UTF-8") from error


def _bytes_and_mode(path: Path) -> tuple[bytes, int] | None:
    """None for a file that is not there. Never blocks: a named pipe is refused."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        return file.read(LIMIT_BYTES + 1), stat.S_IMODE(status.st_mode)


def _invalid(path: Path, why: str) -> ClientConfigInvalid:
    return ClientConfigInvalid(
        f"{path} is left as it is: {why}.",
        path=str(path),
        suggestion="mend the file, or give another one as path",
    )


# Writing.


def _replace_remembered(file: _File, after: str, backups: Backups) -> None:
    try:
        backups.remember(Backup(before=file.text, after=after, mode=file.mode))
    except OSError as error:
        raise StateDirRefused(
            f"What {file.path} was cannot be kept, so it is not changed: {error.strerror or error}.",
            path=str(error.filename or ""),
            suggestion="set VLLM_HUB_DIR to a folder that you may write to",
        ) from error
    try:
        _replace(file, after)
    except BaseException:
        backups.forget_last()
        raise


def _replace(file: _File, after: str | None) -> None:
    """Replace what was read by `after`, or remove it; anything else that is there by now stays.

    Raises ClientConfigInvalid (changed meanwhile), PathNotAllowed (not writable), DiskFull.
    """
    path = file.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if after is None:
            _check_unchanged(file)
            path.unlink(missing_ok=True)
        else:
            _exchange(file, after.encode())
    except OSError as error:
        raise PathNotAllowed(
            f"{path} cannot be written: {error.strerror or error}.",
            path=str(path),
            suggestion="make it and its folder writable, or give another file as path",
        ) from error


def _exchange(file: _File, content: bytes) -> None:
    """The file's mode is kept; between the last look and the exchange lie microseconds."""
    staged = file.path.with_name(f".{file.path.name}.{os.getpid()}-{threading.get_native_id()}.new")
    try:
        write_atomic(staged, content)
        staged.chmod(file.mode)
        _check_unchanged(file)
        os.replace(staged, file.path)
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


def _check_unchanged(file: _File) -> None:
    found = _bytes_and_mode(file.path)
    if (found[0] if found else None) != (None if file.text is None else file.text.encode()):
        raise _changed(file.path)


def _changed(path: Path) -> ClientConfigInvalid:
    return ClientConfigInvalid(
        f"{path} was changed by another program in this very moment; it is left as it is.",
        path=str(path),
        suggestion="call again",
    )
