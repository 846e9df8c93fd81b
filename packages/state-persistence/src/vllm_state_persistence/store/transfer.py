"""Snapshots that leave the store: one encrypted file for one snapshot, a copy of the whole store, and what can be saved
of a damaged one.

An export is, byte by byte (integers big-endian): magic `VSEXPORT` · format u16 · name 16 random bytes · length u16 and
the export's data key, wrapped by the user's key as in the store · frames. A frame is a length u32 and an envelope
(`core.seal`) whose context is its number and the export's name; in it one byte that says whether it is the last, and a
block (`core.packs`) of at most 1 MiB. The blocks' contents, joined, are the stream that `core.stream` describes.
"""

import os
import sqlite3
import struct
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import aiosqlite
from anyio import to_thread

from vllm_mcp_protocol.errors import BadInput, KeyWrong, StateNotFound, StoreDamaged, StoreTooNew
from vllm_mcp_protocol.files import disk_error
from vllm_state_persistence.core.packs import Compressor, Decompressor, expand, squeeze
from vllm_state_persistence.core.session import SessionContent
from vllm_state_persistence.core.stream import Head, StreamReader, encode_head, encode_record
from vllm_state_persistence.keys import KeyRing
from vllm_state_persistence.store.cipher import Cipher, is_plain, make_cipher, new_secret, wrap
from vllm_state_persistence.store.database import Database
from vllm_state_persistence.store.inspection import Inspection
from vllm_state_persistence.store.loading import LoadedState
from vllm_state_persistence.store.results import Damage, Saved
from vllm_state_persistence.store.saving import Extras
from vllm_state_persistence.store.store import SaveRequest, StateStore
from vllm_state_persistence.store.verifying import list_damage

FORMAT = 1
PIECE_BYTES = 1024 * 1024
FRAME_LIMIT_BYTES = PIECE_BYTES + 4096

_MAGIC = b"VSEXPORT"
_NAME_BYTES = 16
_HEAD = struct.Struct(f">{len(_MAGIC)}sH{_NAME_BYTES}sH")
_LENGTH = struct.Struct(">I")
_MORE, _LAST = b"\0", b"\1"


async def export(store: StateStore, state_id: str, path: Path, *, replace: bool = False) -> int:
    """Write a snapshot into one file (0600), whole or not at all; its length in bytes.

    Whoever has the store's ENCRYPTION_KEY can import it, on any machine. Raises StateNotFound, StoreDamaged, BadInput
    when there is a file and not `replace`, DiskFull.
    """
    loaded = await store.load(state_id)
    name, secret = os.urandom(_NAME_BYTES), new_secret()
    wrapped = await to_thread.run_sync(wrap, secret, store.desk.ring, store.encrypts)
    cipher = await to_thread.run_sync(make_cipher, name, [(1, wrapped)], store.desk.ring, None)
    with _new_file(path, replace=replace) as draft, draft.open("wb") as file:
        file.write(_HEAD.pack(_MAGIC, FORMAT, name, len(wrapped)) + wrapped)
        frames = _Frames(file, cipher, Compressor() if store.desk.compression else None)
        async for part in _stream(loaded):
            await frames.write(part)
        await frames.end()
        return file.tell()


async def _stream(loaded: LoadedState) -> AsyncIterator[bytes]:
    info = loaded.info
    head = Head(
        ref=loaded.ref,
        state_id=info.state_id,
        at=info.at,
        records=info.records,
        description=info.description,
        tags=info.tags,
        header=await loaded.header(),
        engines=await loaded.engines(),
        metrics=await loaded.metrics(),
    )
    yield encode_head(head)
    async for record in loaded.records():
        yield encode_record(record)


class _Frames:
    """Cuts a stream of bytes into sealed frames."""

    def __init__(self, file: BinaryIO, cipher: Cipher, compressor: Compressor | None) -> None:
        self._file = file
        self._cipher = cipher
        self._compressor = compressor
        self._open = bytearray()
        self._number = 0

    async def write(self, data: bytes) -> None:
        self._open += data
        while len(self._open) > PIECE_BYTES:
            piece = bytes(self._open[:PIECE_BYTES])
            del self._open[:PIECE_BYTES]
            await to_thread.run_sync(self._frame, _MORE, piece)

    async def end(self) -> None:
        await to_thread.run_sync(self._frame, _LAST, bytes(self._open))

    def _frame(self, kind: bytes, piece: bytes) -> None:
        self._number += 1
        sealed = self._cipher.seal("frame", self._number, kind + squeeze(piece, self._compressor))
        self._file.write(_LENGTH.pack(len(sealed)) + sealed)


@contextmanager
def _new_file(path: Path, *, replace: bool) -> Iterator[Path]:
    """An empty file (0600) to write to, which appears at `path` when the block ends, and is on disk then."""
    if path.exists() and not replace:
        raise _exists(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield draft
        _sync(draft, os.O_RDWR)
        _place(draft, path, replace=replace)
    except OSError as error:
        raise _cannot_write(error, path) from error
    finally:
        draft.unlink(missing_ok=True)


def _place(draft: Path, path: Path, *, replace: bool) -> None:
    if replace:
        os.replace(draft, path)
    else:
        try:
            os.link(draft, path)  # unlike a rename it never replaces what came meanwhile
        except FileExistsError:
            raise _exists(path) from None
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exists(path: Path) -> BadInput:
    return BadInput(f"{path} exists; it was left as it is.", suggestion="Give another path.", path=str(path))


def _cannot_write(error: OSError, path: Path) -> Exception:
    known = disk_error(error, path)
    if known is not error:
        return known
    why = error.strerror or error
    return BadInput(f"{path} cannot be written: {why}.", suggestion="Give another path.", path=str(path))


async def import_(store: StateStore, path: Path, *, ring: KeyRing | None = None, allow_plain: bool = False) -> Saved:
    """Save the snapshot of an export into the store, under its own id; it becomes its session's newest.

    `ring`: the keys that open it, when they are not the store's. Reads no more than a frame at a time. A snapshot that
    the store has is left alone. Raises KeyMissing, KeyWrong (also for a file that is not encrypted, unless
    `allow_plain`), StoreDamaged naming what is wrong with the file, StoreTooNew, BadInput for what is no export.
    """
    with _opened(path) as file:
        cipher = await to_thread.run_sync(_unlocked, file, path, ring or store.desk.ring, allow_plain)
        stream = StreamReader(_pieces(file, path, cipher))
        try:
            head = stream.head()
            there = await _already(store, head.state_id)
            if there is not None:
                return there
            content = SessionContent(head.ref, head.header, ())
            extras = Extras(head.engines, head.metrics, head.description, head.tags)
            request = SaveRequest(
                content, head.at, extras=extras, state_id=head.state_id, records=stream.records(head.records)
            )
            saved = await store.save_one(request)
        except ValueError as error:
            raise _damaged(path, str(error)) from error
    return saved


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror or error}.", suggestion="Give the path of an export."
        ) from error
    with os.fdopen(handle, "rb") as file:
        yield file


def _unlocked(file: BinaryIO, path: Path, ring: KeyRing, allow_plain: bool) -> Cipher:
    try:
        magic, version, name, length = _HEAD.unpack(file.read(_HEAD.size))
    except (struct.error, OSError):
        magic, version, name, length = b"", 0, b"", 0
    if magic != _MAGIC or not version:
        raise BadInput(f"{path} is no export of a snapshot.", suggestion="Give the path of an export.", path=str(path))
    if version > FORMAT:
        raise StoreTooNew(
            f"{path} has format {version}; this program knows formats up to {FORMAT}.",
            suggestion="Upgrade vllm-state-persistence.",
            path=str(path),
        )
    wrapped = file.read(length)
    if is_plain(wrapped) and ring.encrypts and not allow_plain:
        raise KeyWrong(
            f"The export {path} is not encrypted, so anybody may have written it, and the settings ask for encryption.",
            suggestion="`vllm-state-persistence import --unencrypted` takes it, if you trust where it comes from.",
            path=str(path),
        )
    return make_cipher(name, [(1, wrapped)], ring, None, allow_plain=True)


def _pieces(file: BinaryIO, path: Path, cipher: Cipher) -> Iterator[bytes]:
    """The stream, a frame at a time; ends only at the frame that says that it is the last."""
    number, kind = 0, _MORE
    decompressor = Decompressor()
    while kind != _LAST:
        number += 1
        plain = _frame(file, path, cipher, number)
        kind = plain[:1]
        try:
            piece = expand(plain[1:], decompressor)
        except StoreDamaged as error:
            raise _damaged(path, str(error.info.details.get("why"))) from error
        if kind not in (_MORE, _LAST) or len(piece) > PIECE_BYTES:
            raise _damaged(path, f"frame {number} is not one that is written")
        yield piece
    if file.read(1):
        raise _damaged(path, "something follows its end")


def _frame(file: BinaryIO, path: Path, cipher: Cipher, number: int) -> bytes:
    start = file.read(_LENGTH.size)
    length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
    if not 0 < length <= FRAME_LIMIT_BYTES:
        raise _damaged(path, f"it ends before frame {number}" if not start else f"frame {number} has no length")
    sealed = file.read(length)
    if len(sealed) != length:
        raise _damaged(path, f"it ends in frame {number}")
    try:
        return cipher.unseal("frame", number, sealed)
    except StoreDamaged as error:
        raise _damaged(path, f"frame {number}: {error.info.details.get('why')}") from error


def _damaged(path: Path, why: str) -> StoreDamaged:
    return StoreDamaged(
        f"The export {path} is damaged: {why}. Nothing was imported.",
        suggestion="Copy it again from where it was made.",
        path=str(path),
        why=why,
    )


async def _already(store: StateStore, state_id: str) -> Saved | None:
    """The snapshot where the store has it; one that waits for a prune is taken back."""
    try:
        info = await store.recall(state_id)
    except StateNotFound:
        return None
    return Saved(
        info.state_id, info.parent_state_id, 0, info.size_bytes, info.logical_bytes, info.messages, unchanged=True
    )


async def backup(store: StateStore, path: Path, *, replace: bool = False) -> int:
    """Copy the store, as it is at one moment, while others use it; the length of the copy in bytes.

    It is a store with the same keys. Raises BadInput when there is a file and not `replace`, DiskFull.
    """
    if path.exists() and path.samefile(store.path):
        raise BadInput(f"{path} is the store itself.", suggestion="Give another path.", path=str(path))
    with _new_file(path, replace=replace) as draft:
        await _copy(store.desk.database, draft)
        return draft.stat().st_size


async def _copy(database: Database, path: Path) -> None:
    target = sqlite3.connect(path, check_same_thread=False)
    try:
        async with database.plain() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            # In one step: one view of the store. Smaller ones begin anew whenever somebody else writes.
            await cast(aiosqlite.Connection, driver).backup(target, pages=-1)
    finally:
        target.close()


async def salvage(damaged: StateStore, target: StateStore) -> tuple[list[Saved], list[Damage]]:
    """Save what can be read of a damaged store into another one, the oldest first, under the same ids.

    Open `damaged` with `salvage=True`, which reads also a file that is cut short. What cannot be read is listed.
    """
    async with damaged.desk.reading() as connection:
        inspection = Inspection(connection, damaged.desk, damaged.desk.reader(connection))
        damaged.desk.index = {
            one: pack.number async for opened in inspection.read_packs() for pack in opened for one in pack.values
        }
        lost = await list_damage(inspection)
    dictionaries = damaged.desk.damaged_dictionaries.items()
    lost += [Damage("", "", "dictionary", str(number), why) for number, why in dictionaries]
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = await damaged.states(limit=500, cursor=cursor)
        ids += (info.state_id for info in page.items)
        lost += (Damage(state_id, "", "snapshot", "", "it cannot be read") for state_id in page.damaged)
        cursor = page.cursor
        if cursor is None:
            break
    return [await _salvaged(await damaged.load(state_id), target, lost) for state_id in reversed(ids)], lost


async def _salvaged(loaded: LoadedState, target: StateStore, lost: list[Damage]) -> Saved:
    info, before = loaded.info, len(lost)
    header = await _part("header", loaded.header(), loaded, lost) or b""
    extras = Extras(
        await _part("engines", loaded.engines(), loaded, lost),
        await _part("metrics", loaded.metrics(), loaded, lost),
        info.description,
        info.tags,
    )
    records = [record async for record in loaded.records(damaged=lost)]
    # With an empty marker the session is read in full, the next time.
    ref = replace(loaded.ref, marker="") if len(lost) > before else loaded.ref
    there = await _already(target, info.state_id)
    if there is not None:
        return there
    request = SaveRequest(SessionContent(ref, header, records), info.at, extras=extras, state_id=info.state_id)
    return await target.save_one(request)


async def _part(name: str, reading: Awaitable[bytes | None], loaded: LoadedState, lost: list[Damage]) -> bytes | None:
    try:
        return await reading
    except StoreDamaged as error:
        info = loaded.info
        lost.append(Damage(info.state_id, info.session_id, name, "", str(error.info.details.get("why", error))))
        return None
