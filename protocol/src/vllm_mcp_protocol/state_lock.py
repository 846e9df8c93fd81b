"""Kernel locks on files: who is the hub, who starts one, and whether anything of an engine still runs.

A lock belongs to the open file, not to a process number: a child that inherits the descriptor keeps it held,
and the kernel lets go when the last holder is dead. A lock file is never unlinked, since two processes
could then hold "the" lock on two files of one name.
"""

import fcntl
import os
import time
from pathlib import Path

PROBE_WAIT_S = 0.001
"""A probe (`is_held`) holds its shared lock for microseconds."""


def try_lock(path: Path, *, inheritable: bool) -> int | None:
    """Lock `path` (created 0600 when absent); the descriptor to keep open, or None when another holds it.

    With `inheritable` the descriptor survives exec in children that are given it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        taken = _take(fd)
    except BaseException:
        os.close(fd)
        raise
    if not taken:
        os.close(fd)
        return None
    os.set_inheritable(fd, inheritable)
    return fd


def is_held(path: Path) -> bool:
    """Does any process hold the lock of `path`? Disturbs neither `try_lock` nor other probes."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    # A probe's shared lock makes the exclusive one fail too. Only when a shared lock is refused as well
    # does somebody hold the lock for good; two probing hubs must not both conclude "the other is it".
    while not _flock(fd, fcntl.LOCK_EX):
        if not _flock(fd, fcntl.LOCK_SH):
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
        time.sleep(PROBE_WAIT_S)
    return True


def _flock(fd: int, mode: int) -> bool:
    try:
        fcntl.flock(fd, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
