"""Which of several clients starts the hub that none of them found, and when one is started again."""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from vllm_mcp_protocol.state_lock import is_held, try_lock

CONNECT_LIMIT_S = 10.0
START_LIMIT_S = 45.0
"""While somebody's hub is coming up: on two cores, forty clients that import at once slow its start to 12 s or more.
Below the minute after which some clients give a call up."""

RESPAWN_S = 2.0
"""A start that was lost to a dying predecessor's lock is repeated after this long."""


class HubStarter:
    """Starts hubs for one client, unless another client is at it. A context manager: its end lets others start one.

    `spawn` starts a hub and returns a descriptor that can be read, to its end, as soon as that hub is dead.
    """

    def __init__(self, folder: Path, spawn: Callable[[], int]) -> None:
        self._folder = folder
        self._spawn = spawn
        self._lock: int | None = None
        self._watched: int | None = None
        self._spawned_s = -RESPAWN_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_spawned()
        if self._lock is not None:
            os.close(self._lock)

    def one_is_coming(self, waited_s: float) -> bool:
        """Start a hub where that is due. True while one that anybody started is on its way.

        `waited_s`: how long this client has waited by now.
        """
        if not self._may_start(waited_s) or (self._watched is not None and not _ended(self._watched)):
            return True
        if time.monotonic() - self._spawned_s < RESPAWN_S:
            return False
        self._forget_spawned()
        self._watched = self._spawn()
        self._spawned_s = time.monotonic()
        return True

    def _may_start(self, waited_s: float) -> bool:
        if self._lock is None:
            self._lock = try_lock(self._folder / "hub.starting", inheritable=False)
        # A client that was stopped in the middle of a start must not keep hubs from everybody else.
        stuck = waited_s >= CONNECT_LIMIT_S and not is_held(self._folder / "hub.lock")
        return self._lock is not None or stuck

    def _forget_spawned(self) -> None:
        if self._watched is not None:
            os.close(self._watched)
            self._watched = None


def _ended(watched: int) -> bool:
    poll = select.poll()
    poll.register(watched, 0)  # an end is told without being asked for
    return bool(poll.poll(0))
