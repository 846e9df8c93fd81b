"""Runs asynchronous work so that Ctrl-C and SIGTERM end it through its own clean-up."""

import signal
from collections.abc import Awaitable, Callable

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_interruptible(work: Callable[[], Awaitable[int]]) -> int:
    """The exit code of `work`, or 128 + signal when a signal cancelled it.

    The first signal cancels; later ones are ignored, because every clean-up here is bounded in time
    and a second Ctrl-C in the middle of it would leave behind what it was about to end.
    """
    import anyio

    return anyio.run(_guarded, work)


async def _guarded(work: Callable[[], Awaitable[int]]) -> int:
    import asyncio

    import anyio

    received: list[int] = []
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:

        def end(number: int) -> None:
            received.append(number)
            scope.cancel()

        for number in _ENDING:
            loop.add_signal_handler(number, end, number)
        try:
            return await work()
        except BaseExceptionGroup as group:
            raise only_error(group) from group
        finally:
            for number in _ENDING:
                loop.remove_signal_handler(number)
    return 128 + received[0]


def only_error(error: BaseException) -> BaseException:
    """`error`, or the one inside of it when it is a group of one: task groups wrap what their body raised."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
