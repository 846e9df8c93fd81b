"""Claude Code: one file of JSON lines for each session, under the folder of its project."""

import hashlib
import json
import os
import re
import stat
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vllm_mcp_protocol.errors import SessionNotFound, SourceUnreadable
from vllm_mcp_protocol.files import Drafts
from vllm_mcp_protocol.reading import MOST_ENTRIES, names_in, printable, read_regular, reason
from vllm_state_persistence.core.previews import SHOWN_CHARACTERS, preview_of
from vllm_state_persistence.core.rows import digest
from vllm_state_persistence.core.session import Known, Record, SessionContent, SessionRef, SourceName
from vllm_state_persistence.core.transcripts import LINE, Rename, folder_of, munged, records_of, title_of
from vllm_state_persistence.core.values import decode, encode
from vllm_state_persistence.sources.base import (
    Found,
    IsKnown,
    Outcome,
    Places,
    Previous,
    Target,
    Written,
    check_whole,
    force_required,
    newest_first,
    outcome_of,
    same_folder,
    sessions_of,
)

FILE = "file"
"""Kind of the records of what lies beside a transcript: sub-agents' transcripts, long results of tools."""
LARGEST_TRANSCRIPT_BYTES = 1 << 30
LARGEST_FILE_BYTES = 256 << 20
MOST_FILES = 2_000
_DEEPEST = 4
_HEAD_BYTES = 32 * 1024
_TAIL_BYTES = 16 * 1024
"""Where the client itself looks for a title."""
_BLOCK_BYTES = 1 << 20
_SESSION_FILE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.jsonl")


@dataclass(frozen=True, slots=True)
class Beside:
    """A file that belongs to a session, in the folder of its name."""

    name: str
    """Relative, with slashes."""
    size: int
    changed_ns: int


class ClaudeCodeSource:
    """Conversations of Claude Code."""

    name: SourceName = "claude-code"

    def __init__(self, places: Places) -> None:
        self._projects = places.claude / "projects"

    def look(self, project: Path | None, known: IsKnown | None = None) -> Found:
        found = Found()
        for path, has_folder in self._transcripts(project, found):
            beside = _files_beside(path.with_suffix("")) if has_folder else []
            _look_at(path, beside, project, known, found)
        found.sessions = newest_first(found.sessions)
        return found

    def _transcripts(self, project: Path | None, found: Found) -> list[tuple[Path, bool]]:
        """Each session's, and whether a folder may lie beside it; of one that lies in several folders, the newest."""
        places: dict[str, tuple[Path, bool]] = {}
        for folder in self._folders(project):
            try:
                names = names_in(str(folder))
            except OSError as error:
                found.problems.append(_unreadable(folder, reason(error)))
                continue
            there = set(names)
            for name in sorted(names)[:MOST_ENTRIES]:
                if _SESSION_FILE.fullmatch(name):
                    path = folder / name
                    if name not in places or _changed_ns(path) > _changed_ns(places[name][0]):
                        places[name] = path, name.removesuffix(".jsonl") in there
        return list(places.values())

    def sessions(self, project: Path | None) -> list[SessionRef]:
        return sessions_of(self.look(project))

    def read(self, ref: SessionRef, known: Known | None) -> SessionContent:
        path = Path(ref.location)
        try:
            with _opened(path) as file:
                return _read(path, file, ref, known)
        except FileNotFoundError as error:
            raise SessionNotFound(
                f"Claude Code has no transcript {printable(str(path))} any more.",
                suggestion="list-states shows what was saved of it",
                session_id=ref.session_id,
            ) from error
        except OSError as error:
            raise _unreadable(path, reason(error)) from error

    def write(self, content: SessionContent, target: Target) -> Written:
        (outcome,) = self.write_many([content], target)
        if not isinstance(outcome, Written):
            raise outcome
        return outcome

    def write_many(self, contents: Iterable[SessionContent], target: Target) -> list[Outcome]:
        outcomes: list[Outcome] = []
        drafted: list[int] = []
        places: set[Path] = set()
        with Drafts(sweep=True) as drafts:
            for content in contents:
                outcomes.append(outcome_of(self._add, drafts, places, content, target))
                if isinstance(outcomes[-1], Written):
                    drafted.append(len(outcomes) - 1)
            for place, error in zip(drafted, drafts.finish(), strict=True):
                if isinstance(error, FileExistsError):
                    written = outcomes[place]
                    assert isinstance(written, Written), "only what was written has a draft"  # noqa: S101
                    outcomes[place] = force_required("Claude Code", written.session_id, printable(written.location))
                elif error is not None:
                    outcomes[place] = error
        return outcomes

    def _add(self, drafts: Drafts, places: set[Path], content: SessionContent, target: Target) -> Written:
        draft = self._draft(content, target)
        if draft.path in places:
            raise ValueError("a session stands twice in what is written")
        drafts.add(draft.files(), replace=target.force)
        places.add(draft.path)
        return draft.written

    def _draft(self, content: SessionContent, target: Target) -> "Draft":
        check_whole(content)
        project = _project_of(content, target)
        session_id = content.ref.session_id if target.same else str(uuid.uuid4())
        path = self._projects / _folder_name(content, target, project) / f"{session_id}.jsonl"
        if not _SESSION_FILE.fullmatch(path.name):
            raise _unreadable(path, "its name is no session id of Claude Code")
        if path.exists() and not target.force:
            raise force_required("Claude Code", session_id, printable(str(path)))
        rename = Rename(
            (_inside(content.ref.session_id), _inside(session_id)), (_inside(content.ref.project), _inside(project))
        )
        beside, notes = _beside(content.records)
        count = sum(record.kind == LINE for record in content.records) + len(beside)
        written = Written(self.name, session_id, project, str(path), count, tuple(notes))
        return Draft(written, content, path, beside, rename)

    def _folders(self, project: Path | None) -> list[Path]:
        if project is not None:
            names = {munged(unicodedata.normalize("NFC", folder)) for folder in same_folder(project)}
            return [self._projects / name for name in sorted(names) if (self._projects / name).is_dir()]
        with suppress(OSError):
            return [self._projects / name for name in sorted(names_in(str(self._projects)))[:MOST_ENTRIES]]
        return []


# looking


def _look_at(path: Path, beside: Sequence[Beside], project: Path | None, known: IsKnown | None, found: Found) -> None:
    try:
        if known is not None and _is_known(path, beside, known):
            found.unchanged += 1
            return
        with _opened(path) as file:
            found.sessions.append(_ref(path, file, beside, str(project or "")))
    except FileNotFoundError:
        return  # deleted since it was listed
    except OSError as error:
        found.problems.append(_unreadable(path, reason(error)))


def _changed_ns(path: Path) -> int:
    with suppress(OSError):
        return os.lstat(path).st_mtime_ns
    return 0


def _opened(path: Path) -> BinaryIO:
    """The transcript, when it is a regular file. Never blocks, follows no link."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("not a regular file")
    return os.fdopen(handle, "rb", buffering=_BLOCK_BYTES)


def _is_known(path: Path, beside: Sequence[Beside], known: IsKnown) -> bool:
    """Told by its status alone: whether its last line had ended then is not asked."""
    status = os.lstat(path)
    return any(known(path.stem, _marker(status, ended, beside)) for ended in (True, False))


def _ref(
    path: Path, file: BinaryIO, beside: Sequence[Beside], project: str, old: SessionRef | None = None
) -> SessionRef:
    """What there is to say of a transcript; `old` where it is the same one still."""
    status = os.fstat(file.fileno())
    tail = os.pread(file.fileno(), _TAIL_BYTES, max(0, status.st_size - _TAIL_BYTES))
    marker = _marker(status, tail.endswith(b"\n"), beside)
    if old is not None and old.marker == marker:
        return old
    head = os.pread(file.fileno(), _HEAD_BYTES, 0)
    return SessionRef(
        source="claude-code",
        session_id=path.stem,
        project=project or folder_of(head) or path.parent.name,
        title=title_of(head, tail),
        updated_at=status.st_mtime,
        location=str(path),
        marker=marker,
    )


def _marker(status: os.stat_result, ended: bool, files: Sequence[Beside]) -> str:
    """Which file, how long its whole lines and all of it are, when it changed; then what lies beside it."""
    beside = digest(f"{file.name}:{file.size}:{file.changed_ns}".encode(errors="replace") for file in files)
    return f"lines1:{status.st_ino}:{status.st_size}:{ended:d}:{status.st_mtime_ns}:{beside}"


def _files_beside(folder: Path) -> list[Beside]:
    """Regular files in a session's folder, by name; none where there is no folder, as for most sessions."""
    found = list(islice(_walk(folder, ""), MOST_FILES))
    return sorted(found, key=lambda file: file.name)


def _walk(folder: Path, inner: str, depth: int = 0) -> Iterator[Beside]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False) and depth < _DEEPEST:
                yield from _walk(folder / entry.name, f"{inner}{entry.name}/", depth + 1)
            elif entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield Beside(f"{inner}{entry.name}", status.st_size, status.st_mtime_ns)


# reading


def _read(path: Path, file: BinaryIO, old: SessionRef, known: Known | None) -> SessionContent:
    files = _files_beside(path.with_suffix(""))
    ref = _ref(path, file, files, old.project, old)
    size = int(ref.marker.split(":")[2])
    if size > LARGEST_TRANSCRIPT_BYTES:
        raise OSError(f"it has {size:,} bytes, and more than {LARGEST_TRANSCRIPT_BYTES:,} are not read")
    kept_lines = _kept_lines(file, size, len(files), ref.marker, known)
    records = [] if kept_lines else [_file_record(path, beside) for beside in files]
    if not kept_lines:
        file.seek(0)
    records += records_of(_lines(file, size), kept_lines)
    open_end = bool(size) and os.pread(file.fileno(), 1, size - 1) != b"\n"
    header = encode({"file": path.name, "folder": printable(path.parent.name), "open_end": open_end})
    return SessionContent(ref, header, records, kept_lines + len(files) if kept_lines else 0)


def _kept_lines(file: BinaryIO, size: int, files: int, marker: str, known: Known | None) -> int:
    """How many lines are proven to be those of the last snapshot; the file then stands behind them.

    Transcripts are appended to, and no two lines are the same (each has its own uuid). So the last known line proves
    those before it, when it is where it was: at the same byte of the same file where the last marker tells that, else
    at the same number. What lies beside goes first, so it must be unchanged, which only the marker can tell.
    """
    if known is None or known.count <= files:
        return 0
    if isinstance(known, Previous) and known.marker:
        place = _last_by_marker(file, size, known.marker.split(":"), marker.split(":"))
    else:
        start = _start_of_line(file, size, known.count - 1)
        place = None if files else (start, None)
    if place is None:
        return 0
    start, length = place
    file.seek(start)
    line = _line(file, size - start)
    same = hashlib.sha256(line).digest() == known.tail and length in (None, len(line))
    return known.count - files if same else 0


def _last_by_marker(file: BinaryIO, size: int, old: list[str], new: list[str]) -> tuple[int, int | None] | None:
    """Where the old transcript's last line would be in the new one, and its length; None when it is another file."""
    form, inode, old_size, ended, _, beside = range(6)
    if len(old) != len(new) or any(old[part] != new[part] for part in (form, inode, beside)):
        return None
    end = int(old[old_size]) - int(old[ended])
    if end > size:
        return None
    start = _start_of_line_before(file, end)
    return start, end - start


def _start_of_line_before(file: BinaryIO, end: int) -> int:
    """Where the line begins that reaches to the byte `end`."""
    at = end
    while at > 0:
        begin = max(0, at - _BLOCK_BYTES)
        newline = os.pread(file.fileno(), at - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        at = begin
    return 0


def _start_of_line(file: BinaryIO, size: int, number: int) -> int:
    """Where the line of that number begins; the end of the file when it has fewer."""
    at, left = 0, number
    while left and at < size:
        block = os.pread(file.fileno(), min(_BLOCK_BYTES, size - at), at)
        newlines = block.count(b"\n")
        if newlines >= left:
            return at + _behind(block, left)
        left -= newlines
        at += len(block) or size
    return at


def _behind(block: bytes, newlines: int) -> int:
    place = 0
    for _ in range(newlines):
        place = block.index(b"\n", place) + 1
    return place


def _line(file: BinaryIO, limit: int) -> bytes:
    return file.readline(limit).removesuffix(b"\n")


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The lines from where the file stands up to the byte `size`: what is appended meanwhile is the next snapshot's."""
    left = size - file.tell()
    for line in file:
        left -= len(line)
        if left < 0:
            line = line[:left]
        if line:
            yield line[:-1] if line.endswith(b"\n") else line
        if left <= 0:
            return


def _file_record(path: Path, beside: Beside) -> Record:
    """The file's bytes; of one that cannot be read, why."""
    try:
        data = read_regular(path.with_suffix("") / beside.name, LARGEST_FILE_BYTES, flags=os.O_NOFOLLOW)
    except (OSError, ValueError) as error:
        return Record("unreadable", beside.name, encode({"file": beside.name, "why": reason(error)}))
    return Record(FILE, beside.name, data)


def preview(record: Record) -> str:
    """A glimpse of what a line says; a file's name."""
    if record.kind == FILE:
        return printable(record.key)[-SHOWN_CHARACTERS:]
    return preview_of(record.content) if record.role else ""


# writing


def _project_of(content: SessionContent, target: Target) -> str:
    """The folder as Claude Code names it to itself: links followed, and in Unicode's composed form."""
    saved = content.ref.project
    if target.project is None and (not os.path.isabs(saved) or "\0" in saved):
        return saved  # its transcript never said where it belongs
    return unicodedata.normalize("NFC", os.path.realpath(target.project or saved))


_munged = lru_cache(maxsize=256)(munged)
"""Many sessions are of one project."""


def _folder_name(content: SessionContent, target: Target, project: str) -> str:
    """The name of the transcripts' folder: the one it lay in, unless it goes elsewhere."""
    header = decode(content.header)
    saved = header.get("folder") if isinstance(header, dict) else None
    return saved if target.project is None and isinstance(saved, str) and _munged(saved) == saved else _munged(project)


@dataclass(frozen=True, slots=True)
class Draft:
    """A session that is about to be written."""

    written: Written
    content: SessionContent
    path: Path
    beside: Sequence[tuple[PurePosixPath, bytes]]
    rename: Rename

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """What lies beside the transcript before it, so that who sees it finds them. Makes their folders."""
        folder = self.path.with_suffix("")
        for name, data in self.beside:
            is_transcript = name.suffix == ".jsonl"
            yield _in_folder(folder / name), _renamed_lines(data, self.rename) if is_transcript else data
        yield _in_folder(self.path), _joined(self.content, self.rename)


def _in_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _joined(content: SessionContent, rename: Rename) -> bytes:
    lines = [record.content for record in content.records if record.kind == LINE]
    if any(old != new for old, new in (rename.session_id, rename.project)):
        lines = [rename.line(line) for line in lines]
    header = decode(content.header)
    end = b"" if not lines or (isinstance(header, dict) and header.get("open_end")) else b"\n"
    return b"\n".join(lines) + end


def _beside(records: Sequence[Record]) -> tuple[list[tuple[PurePosixPath, bytes]], list[str]]:
    """The files beside a transcript; and what is left out, in words."""
    files: list[tuple[PurePosixPath, bytes]] = []
    notes: list[str] = []
    for record in records:
        if record.kind != FILE:
            continue
        name = PurePosixPath(record.key)
        if name.is_absolute() or ".." in name.parts or "\0" in record.key:
            notes.append(f"{printable(record.key)!r} leads out of the session's folder: left out")
        else:
            files.append((name, record.content))
    return files, notes


def _renamed_lines(data: bytes, rename: Rename) -> bytes:
    return b"\n".join(map(rename.line, data.split(b"\n")))


def _inside(text: str) -> bytes:
    """A text as it stands between the quotes of JSON as the client writes it: UTF-8, not escaped."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")


def _unreadable(path: Path, why: str) -> SourceUnreadable:
    return SourceUnreadable(
        f"{printable(str(path))} of Claude Code cannot be read: {printable(why)}.",
        suggestion="check who owns the file and whether the disk is well; the other sessions are not touched by it",
        path=printable(str(path)),
    )
