"""What came of one request."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

CountedBy = Literal["usage", "pieces"]


class Failure(StrEnum):
    """Why a request did not give a whole answer."""

    UNREACHABLE = "unreachable"
    """No connection, or it was reset before an answer began."""
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    """404: no such model, or no such route."""
    REJECTED = "rejected"
    """Any other 4xx: the request itself is at fault, too long for example."""
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    """503, or 529 of Anthropic."""
    SERVER_ERROR = "server_error"
    """Any other 5xx, or an error in the middle of a stream."""
    NO_FIRST_TOKEN = "no_first_token"  # noqa: S105
    """Nothing came in time."""
    STALLED = "stalled"
    """Nothing more came in time."""
    TOO_LONG = "too_long"
    """The whole answer took longer than a request may."""
    CUT = "cut"
    """The connection ended before the answer did."""
    ABORTED = "aborted"
    """The server gave it up and said so: vLLM does when it is stopped."""
    EMPTY = "empty"
    """A whole answer without a token."""
    BAD_ANSWER = "bad_answer"
    """Not what this kind of server sends."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are of one monotonic clock, in seconds.

    `end_s` is the arrival of the last piece, or of what it failed with. `gaps_s` lie between the pieces in which the
    answer came: tokens, unless the server puts several into one.
    """

    number: int
    due_s: float
    start_s: float
    end_s: float
    first_s: float | None = None
    gaps_s: Sequence[float] = ()
    input_tokens: int | None = None
    output_tokens: int = 0
    counted_by: CountedBy = "usage"
    failure: Failure | None = None
    words: str = ""
    """What the server said, when it failed."""

    @property
    def late_s(self) -> float:
        """From when it should have been sent to when it was."""
        return max(0.0, self.start_s - self.due_s)

    @property
    def ttft_s(self) -> float | None:
        """To the first token."""
        return None if self.first_s is None else self.first_s - self.start_s

    @property
    def e2e_s(self) -> float:
        """To the last token."""
        return self.end_s - self.start_s

    @property
    def tpot_s(self) -> float | None:
        """Per token after the first; None for an answer of one."""
        if self.first_s is None or self.output_tokens < 2:
            return None
        return (self.end_s - self.first_s) / (self.output_tokens - 1)
