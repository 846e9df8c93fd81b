"""Questions to something that may never answer: a driver, a network file system."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Silent(TimeoutError):
    """No answer for `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer for {seconds:.0f} s")
        self.seconds = seconds


class OneAtATime:
    """Asks in a thread of its own, one question at a time, and stops waiting after a limit.

    A thread inside a system call cannot be ended, only left alone. So while one is stuck no other is started: however
    often somebody asks, at most one thread is lost, and they are told at once. It is a daemon: nobody waits for it
    when the process ends. When the call comes back after all, the next question is asked as usual.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._asked_at = 0.0
        self._stuck = False

    def ask(self, question: Callable[[], T], limit_s: float) -> T:
        """The answer, or what the question raised; Silent after `limit_s` (at once where an earlier one is stuck)."""
        if not self._turn.acquire(timeout=0 if self._stuck else limit_s):
            raise Silent(time.monotonic() - self._asked_at)
        self._asked_at, self._stuck = time.monotonic(), False
        answers: list[T] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def _answer() -> None:
            try:
                answers.append(question())
            except BaseException as error:  # raised again where the answer is waited for
                errors.append(error)
            finally:
                self._turn.release()
                done.set()

        try:
            threading.Thread(target=_answer, name="bounded question", daemon=True).start()
        except RuntimeError:  # no more threads
            self._turn.release()
            raise
        if not done.wait(limit_s):
            self._stuck = True  # harmless if it answers just now: then the next one gets its turn without waiting
            raise Silent(time.monotonic() - self._asked_at)
        if errors:
            raise errors[0]
        return answers[0]
