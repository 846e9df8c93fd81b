"""What every source of conversations can do, and how one session is found among them."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from vllm_mcp_protocol.errors import ForceRequired, SessionNotFound, SuiteError
from vllm_mcp_protocol.paths import user_home
from vllm_mcp_protocol.reading import printable
from vllm_state_persistence.core.session import Known, SessionContent, SessionRef, SourceName

CURRENT = "current"
"""Session id that stands for the newest session of a project."""
SHOWN = 5
"""Sessions that an error names."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders in which a user's clients keep conversations."""

    claude: Path
    crush: Path
    opencode: Path
    opencode_database: Path | None = None
    """Where OPENCODE_DB put it; else it is in the folder."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Places":
        """Where clients started with `environment` would look."""
        home = _folder(environment.get("HOME")) or user_home()
        data = _folder(environment.get("XDG_DATA_HOME")) or home / ".local/share"
        return cls(
            claude=_folder(environment.get("CLAUDE_CONFIG_DIR")) or home / ".claude",
            crush=_folder(environment.get("CRUSH_GLOBAL_DATA")) or data / "crush",
            opencode=data / "opencode",
            opencode_database=_folder(environment.get("OPENCODE_DB")),
        )


def _folder(value: str | None) -> Path | None:
    """Relative ones are ignored, as the XDG specification wants it."""
    return Path(value) if value and value.startswith("/") else None


@dataclass(frozen=True, slots=True)
class Previous(Known):
    """`Known`, with the marker of the last snapshot. A database's beginning can be proven by it, and only by it."""

    marker: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a conversation is written to."""

    project: Path | None = None
    """Folder; None for the one that it was saved in."""
    same: bool = False
    """Into the session that it was saved from, instead of a new one."""
    force: bool = False
    """Replace what that session holds now."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a restore wrote."""

    source: SourceName
    session_id: str
    project: str
    location: str
    records: int
    notes: tuple[str, ...] = ()
    """What the client's version has no place for, in words."""


@dataclass(slots=True)
class Found:
    """What a look at a client's files found."""

    sessions: list[SessionRef] = field(default_factory=list)
    """Newest first."""
    problems: list[SuiteError] = field(default_factory=list)
    """What could not be read."""
    unchanged: int = 0
    """Sessions that were left out."""


IsKnown = Callable[[str, str], bool]
"""Whether the newest snapshot of a session (its id) was taken when it had this marker."""


Outcome = Written | Exception
"""What came of writing a session."""


class Source(Protocol):
    """The conversations of one client. Everything blocks; live files are read without disturbing their owner."""

    @property
    def name(self) -> SourceName: ...

    def look(self, project: Path | None, known: IsKnown | None = None) -> Found:
        """The sessions of a project, or of all; no content is kept, nothing bad raises. Those that are `known` may be
        left out."""

    def sessions(self, project: Path | None) -> list[SessionRef]:
        """Newest first. Raises SourceUnreadable when nothing but trouble was found."""

    def read(self, ref: SessionRef, known: Known | None) -> SessionContent:
        """The session as it is now, its fresh marker with it, without what `known` proves to be unchanged.

        Raises SessionNotFound, SourceUnreadable.
        """

    def write(self, content: SessionContent, target: Target) -> Written:
        """Write a whole session (`kept` 0) so that its client shows it: all of it, or nothing.

        Raises ForceRequired, SourceUnreadable, DiskFull.
        """

    def write_many(self, contents: Iterable[SessionContent], target: Target) -> list[Outcome]:
        """`write` each of them, as they come; what came of it. The trouble of one is not that of the others. Raises
        ValueError for a session that stands twice, OSError where the disk takes nothing."""


def write_each(
    write: Callable[[SessionContent, Target], Written], contents: Iterable[SessionContent], target: Target
) -> list[Outcome]:
    """`write_many` of a client whose sessions gain nothing by being written together."""
    return [outcome_of(write, content, target) for content in contents]


def outcome_of(work: Callable[Given, Result], *arguments: Given.args, **named: Given.kwargs) -> Result | Exception:
    """What came of it, where others must not suffer from its trouble."""
    try:
        return work(*arguments, **named)
    except (SuiteError, OSError) as error:
        return error


def newest_first(sessions: Iterable[SessionRef]) -> list[SessionRef]:
    """In the order in which people look for them."""
    return sorted(sessions, key=lambda ref: (-ref.updated_at, ref.session_id))


def sessions_of(found: Found) -> list[SessionRef]:
    """The sessions that were found. Raises the first problem when there are none."""
    if found.problems and not found.sessions:
        raise found.problems[0]
    return found.sessions


def same_folder(one: Path) -> set[str]:
    """The spellings under which clients may have written a project's folder down."""
    plain = os.path.abspath(one)
    return {plain, os.path.realpath(plain)}


def find_session(
    sources: Iterable[Source], session_id: str, project: Path, client_session_id: str = ""
) -> tuple[Source, SessionRef]:
    """The session with that id, in the project if it is there, else anywhere.

    `current` is the session that the calling client told of (`client_session_id`, from CLAUDE_CODE_SESSION_ID), else
    the project's newest. Raises SessionNotFound.
    """
    wanted = client_session_id if session_id == CURRENT else session_id
    here = _all(sources, project)
    for source, ref in here if wanted else here[:1]:
        if wanted in ("", ref.session_id):
            return source, ref
    for source, ref in _all(sources, None) if wanted else []:
        if ref.session_id == wanted:
            return source, ref
    raise _not_found(wanted or session_id, project, here, sources)


def _all(sources: Iterable[Source], project: Path | None) -> list[tuple[Source, SessionRef]]:
    pairs = [(source, ref) for source in sources for ref in source.look(project).sessions]
    return sorted(pairs, key=lambda pair: -pair[1].updated_at)


def _not_found(
    wanted: str, project: Path, here: list[tuple[Source, SessionRef]], sources: Iterable[Source]
) -> SessionNotFound:
    names = ", ".join(source.name for source in sources)
    known = [f"{ref.session_id} ({source.name}: {ref.title[:40]})" for source, ref in here[:SHOWN]]
    return SessionNotFound(
        f"No session {printable(wanted)!r} of {names} in {printable(str(project))}.",
        suggestion=f"give one of: {'; '.join(known)}"
        if known
        else "start a conversation there first, name another source, or give messages with source=inline",
        session_id=printable(wanted),
        project=printable(str(project)),
    )


def force_required(client: str, session_id: str, where: str) -> ForceRequired:
    """The session exists, and writing into it would replace what it holds."""
    return ForceRequired(
        f"{client} still has the session {session_id} ({where}), and restoring into it would replace what it holds.",
        suggestion="use target=new to keep both, or ask the user and call again with force=true",
        session_id=session_id,
    )


def check_whole(content: SessionContent) -> None:
    """Raises ValueError for a content that left its beginning out."""
    if content.kept:
        raise ValueError(f"{content.kept} records are missing: load the whole snapshot before writing it")
