"""Messages that the caller gives as they are: for clients whose files are not known here."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vllm_mcp_protocol.errors import BadInput, NotSupported, SessionNotFound
from vllm_state_persistence.core.previews import preview_of, shown_text
from vllm_state_persistence.core.session import Known, Record, SessionContent, SessionRef, SourceName
from vllm_state_persistence.core.values import encode
from vllm_state_persistence.sources.base import Found, IsKnown, Outcome, Target, Written, write_each

MOST_MESSAGES = 100_000


class InlineSource:
    """No files of its own: `inline_content` makes a session of what was given, a restore gives it back."""

    name: SourceName = "inline"

    def look(self, project: Path | None, known: IsKnown | None = None) -> Found:
        return Found()

    def sessions(self, project: Path | None) -> list[SessionRef]:
        return []

    def read(self, ref: SessionRef, known: Known | None) -> SessionContent:
        raise SessionNotFound(
            f"The messages of {ref.session_id} were given with a call and are nowhere to be read again.",
            suggestion="give them again: save-state with source=inline and messages",
            session_id=ref.session_id,
        )

    def write(self, content: SessionContent, target: Target) -> Written:
        raise NotSupported(
            f"{content.ref.session_id} was saved from messages, not from a client's files: there is none to restore.",
            suggestion="use target=inline to get the messages back",
        )

    def write_many(self, contents: Iterable[SessionContent], target: Target) -> list[Outcome]:
        return write_each(self.write, contents, target)


def inline_content(
    messages: Sequence[object], session_id: str, project: str, at: float, title: str = ""
) -> SessionContent:
    """A session of messages in any form that has JSON. `at` is its time, in unix seconds.

    Raises BadInput for what is no message, or too many.
    """
    if len(messages) > MOST_MESSAGES:
        raise BadInput(f"messages has {len(messages):,} entries, and at most {MOST_MESSAGES:,} are taken.")
    records = [_record(number, message) for number, message in enumerate(messages)]
    marker = hashlib.blake2b(digest_size=16)
    for record in records:
        marker.update(hashlib.sha256(record.content).digest())
    first = next((preview(record) for record in records if record.role == "user"), "")
    ref = SessionRef("inline", session_id, project, title or first, at, "", f"inline1:{marker.hexdigest()}")
    return SessionContent(ref, encode({}), records)


def _record(number: int, message: object) -> Record:
    try:
        content = encode(message)
    except ValueError as error:
        raise BadInput(f"messages[{number}] cannot be kept: {error}.", parameter="messages") from error
    if not isinstance(message, Mapping) or not isinstance(message.get("role", ""), str):
        raise BadInput(
            f"messages[{number}] is no message.",
            suggestion='give objects such as {"role": "user", "content": "…"}',
            parameter="messages",
        )
    return Record("message", str(number), content, _role(message))


def _role(message: Mapping[object, object]) -> str:
    return shown_text(str(message.get("role", "")))[:20]


def preview(record: Record) -> str:
    """A glimpse of what a message says."""
    return preview_of(record.content)
