"""A bound for what must end, not a measure of how fast it is."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def must_end(limit_s: float = 10.0) -> Iterator[None]:
    """Fail when the block runs for ever, or nearly: the regular expression that this once caught took 22 s a line.

    Python's `re` looks for signals while it matches, so even a runaway pattern is ended.
    """

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still at it after {limit_s:.0f} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
