"""`python -m vllm_mcp_hub`: become the hub of this state folder, or exit 0 when somebody else is."""

import argparse
import asyncio
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_mcp_hub import __version__
from vllm_mcp_protocol import PROTOCOL
from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.paths import prepare_state_dir, state_dir
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.state_lock import try_lock

if TYPE_CHECKING:
    from vllm_mcp_hub.supervisor import Supervisor

log = logging.getLogger("vllm_mcp_hub")

_LOG_LIMIT_BYTES = 10 * 1024**2
_IDLE_LOOK_S = 1.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class OneLine(logging.Formatter):
    """A message is one line, whatever names and words of others are in it; a traceback has its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 when this hub ended in order, or was not needed; 2 when it cannot run here."""
    parser = argparse.ArgumentParser(prog="vllm-mcp-hub", description="Own the vLLM engines of this user and host.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment(os.environ)
        root = prepare_state_dir(state_dir(settings))
        return _hold_and_serve(root, settings)
    except SuiteError as error:
        log.error("%s", error)
        return 2


def _hold_and_serve(root: Path, settings: Settings) -> int:
    """Be the hub until it retires, and end the process; 0 when somebody else is the hub."""
    lock = try_lock(root / "hub.lock", inheritable=False)
    if lock is None:
        return 0
    try:
        _turn_over(root / "hub.log")
        asyncio.new_event_loop().run_until_complete(_serve(root, settings))
        status = 0
    except Exception:
        log.exception("the hub fails; the next one adopts its engines")
        status = 1
    # Not the ordinary way out: it waits for threads that may be stopping an engine for half a minute, and holds the
    # lock meanwhile. What they began is marked in the engine's folder, and the next hub finishes it.
    logging.shutdown()
    os._exit(status)


def _turn_over(path: Path) -> None:
    """Our own stderr is appended to this file; a large one becomes hub.log.1 for the next hub's start."""
    try:
        if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
            path.with_name("hub.log.1").write_bytes(path.read_bytes()[-_LOG_LIMIT_BYTES:])
            os.truncate(path, 0)
    except OSError as error:
        log.warning("hub.log could not be turned over: %s", error)


async def _serve(root: Path, settings: Settings) -> None:
    from vllm_mcp_hub.adoption import adopt_all
    from vllm_mcp_hub.api import make_server
    from vllm_mcp_hub.effects import carry_out
    from vllm_mcp_hub.supervisor import Supervisor
    from vllm_mcp_hub.watcher import sample, sample_remotes, tick, watch

    protocol = int(os.environ.get("VLLM_HUB_TEST_PROTOCOL", PROTOCOL))
    supervisor = Supervisor(
        root, settings, carry_out, protocol=protocol, crash=os.environ.get("VLLM_HUB_TEST_CRASH", "")
    )
    await adopt_all(supervisor)
    listener = _listen(root / "hub.sock")
    server = make_server(supervisor)
    _retire_on_signals(supervisor)
    loops = (supervisor.run(), watch(supervisor), tick(supervisor), sample(supervisor), sample_remotes(supervisor))
    work = [asyncio.create_task(loop) for loop in (*loops, supervisor.chores.run(), supervisor.monitoring.run())]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    log.info("hub %d serves %s with %d engines", os.getpid(), root, len(supervisor.records))
    ending = [asyncio.create_task(supervisor.retiring.wait()), asyncio.create_task(_until_idle(supervisor))]
    done, _ = await asyncio.wait([*work, serving, *ending], return_when=asyncio.FIRST_COMPLETED)
    (root / "hub.sock").unlink(missing_ok=True)
    server.should_exit = True
    await serving
    for task in (*work, *ending):
        task.cancel()
    for task in done:
        if task in work and not task.cancelled():
            task.result()  # a bug: its traceback goes to hub.log, and the next hub adopts
    log.info("hub %d ends; its engines run on", os.getpid())


def _listen(path: Path) -> socket.socket:
    """Only the holder of the lock comes here, so an old socket file is nobody's."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    old_mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old_mask)
    listener.listen(512)
    return listener


def _retire_on_signals(supervisor: "Supervisor") -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.retiring.set)


async def _until_idle(supervisor: "Supervisor") -> None:
    while not supervisor.idle(time.monotonic()):  # noqa: ASYNC110 - time passing is no event
        await asyncio.sleep(_IDLE_LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
