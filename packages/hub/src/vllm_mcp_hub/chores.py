"""Work that is done from time to time while the hub runs, each kind once: background snapshots, for example.

What is done is a program of its own (`python -m MODULE`): the hub knows no server's code, and a chore that hangs or
dies takes nothing with it. A chore lasts as long as the hub; servers ask for it again when they meet a new one.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from vllm_mcp_protocol.model import Chore, ChoreView
from vllm_mcp_protocol.redaction import redact_text

log = logging.getLogger(__name__)

LOOK_S = 0.5
_SHOWN_BYTES = 800
_READ_BYTES = 64 * 1024
_END_S = 5.0
"""Between SIGTERM and SIGKILL of a run that took too long."""


@dataclass
class _Kept:
    chore: Chore
    due_s: float = 0.0
    run: "asyncio.Task[None] | None" = None
    view: ChoreView = field(init=False)

    def __post_init__(self) -> None:
        self.view = ChoreView(name=self.chore.name, every_s=self.chore.every_s)


class Chores:
    """The chores of one hub."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: dict[str, _Kept] = {}

    def set(self, chore: Chore) -> None:
        """Do `chore` from now on, the first time after its own interval; one of that name is replaced, its run ends by
        itself."""
        known = self._kept.get(chore.name)
        if known is not None and known.chore == chore:
            return
        made = _Kept(chore, time.monotonic() + chore.every_s)
        if known is not None:
            made.run = known.run
            made.view = known.view.model_copy(update={"every_s": chore.every_s})
        self._kept[chore.name] = made

    def views(self) -> tuple[ChoreView, ...]:
        """What has come of them."""
        return tuple(
            kept.view.model_copy(update={"running": kept.run is not None and not kept.run.done()})
            for kept in self._kept.values()
        )

    async def run(self) -> None:
        """Start what is due, for ever; a chore never runs twice at once."""
        while True:
            await asyncio.sleep(LOOK_S)
            for kept in list(self._kept.values()):
                if time.monotonic() >= kept.due_s and (kept.run is None or kept.run.done()):
                    kept.run = asyncio.create_task(self._do(kept.chore.name))

    async def _do(self, name: str) -> None:
        kept = self._kept[name]
        try:
            code, words = await self._program(kept.chore)
        except OSError as error:
            code, words = None, f"it cannot be started: {error}"
        if code:
            log.warning("the chore %s ended with %s: %s", name, code, words[-200:])
        now = self._kept[name]  # it may have been replaced meanwhile
        now.due_s = time.monotonic() + now.chore.every_s
        now.view = now.view.model_copy(
            update={
                "runs": now.view.runs + 1,
                "last_exit_code": code,
                "last_ended_at": time.time(),
                "last_words": "" if code == 0 else words,
            }
        )

    async def _program(self, chore: Chore) -> tuple[int | None, str]:
        """Run it once: its exit code (None: it was ended for taking too long), and the end of what it printed."""
        secrets = {name: secret.get_secret_value() for name, secret in chore.environment.items()}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", chore.module, *chore.arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env=os.environ | {"VLLM_HUB_DIR": str(self._root)} | secrets,
            start_new_session=True,
        )
        reading = asyncio.create_task(_end_of(process))
        try:
            async with asyncio.timeout(chore.limit_s):
                code: int | None = await process.wait()
        except TimeoutError:
            await _end(process)
            code = None
        words = await reading
        for value in filter(None, secrets.values()):
            words = words.replace(value, "(hidden)")
        ended = "" if code is not None else f"it was ended after {chore.limit_s:g} s. "
        return code, ended + redact_text(words)[-_SHOWN_BYTES:]


async def _end_of(process: asyncio.subprocess.Process) -> str:
    """The last of what it prints; all is read, so that it never waits for us."""
    assert process.stdout is not None, "asked for a pipe"  # noqa: S101
    kept = b""
    while piece := await process.stdout.read(_READ_BYTES):
        kept = (kept + piece)[-_SHOWN_BYTES * 2 :]
    return kept.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()
                return
