"""Engine processes: start them detached, say what is left of them, end whole sessions. Linux only.

No process number is trusted. An engine leads a session of its own and holds the lock of its folder; the record it
wrote about itself (`launch.py`) holds while boot and start time agree. Linux does not hand out a session's number
again while one member of the session lives, so orphans are found by that number after their leader died.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

from vllm_mcp_hub.host import launch
from vllm_mcp_hub.host.engine_dir import EngineDir, engine_dirs, read_json
from vllm_mcp_hub.host.launch import stat_fields
from vllm_mcp_protocol.errors import EngineFailed
from vllm_mcp_protocol.state_lock import is_held, try_lock

logger = logging.getLogger(__name__)

POLL_S = 0.02
SWEEP_S = 10.0
"""A killed process is normally gone in 0.1 s; after this long it hangs in the kernel (a driver, a dead NFS)."""

ORPHAN_GRACE_S = 1.0
"""After the leader ended by itself: time for Python's resource tracker to remove shared memory it left."""

_LISTEN = "0A"


class Seen(Enum):
    """What the operating system shows of an engine right now."""

    LAUNCHING = "launching"
    """Its lock is held, but it has not yet written who it is."""
    RUNNING = "running"
    HEADLESS = "headless"
    """Its leader is dead, others of its session remain and may hold the GPU."""
    GONE = "gone"


def observe(edir: EngineDir) -> Seen:
    """The only reader of lock, record and session together."""
    held = is_held(edir.lock_path)
    session = session_of(edir)
    if session is None:
        return Seen.LAUNCHING if held else Seen.GONE
    if _alive(session):
        return Seen.RUNNING
    return Seen.HEADLESS if held or session_members(session) else Seen.GONE


def settle(edir: EngineDir, timeout_s: float = 5.0) -> Seen:
    """`observe`, waiting out a launcher caught between taking the lock and writing its record. Blocking."""
    deadline_s = time.monotonic() + timeout_s
    while (seen := observe(edir)) is Seen.LAUNCHING and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return seen


def spawn(edir: EngineDir, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, holding the folder's lock, its output appended to the folder's log.

    Its working directory is the engine's folder: there, a model id such as `data/model` is no path of the host.
    Raises EngineFailed when something of an earlier life of the folder still runs.
    """
    lock = try_lock(edir.lock_path, inheritable=True)
    if lock is None:
        raise EngineFailed(f"{edir.id} is still running", suggestion="wait until it has stopped, then try again")
    try:
        if left := pids_of(edir):
            raise EngineFailed(f"{edir.id} still has processes: {sorted(left)}", suggestion="wait, then try again")
        edir.begin_life()
        with open(edir.log_path, "ab", opener=_private) as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", launch.__file__, str(edir.path), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=edir.path,
                env=dict(env),
                start_new_session=True,
                pass_fds=[lock],
            )
    finally:
        os.close(lock)


def stop(edir: EngineDir, *, grace_s: float, second_term_s: float = 5.0) -> None:
    """End everything of an engine; returns when nothing is left. Blocking: run it in a thread.

    SIGTERM to the leader, again after `second_term_s` (vLLM swallows the first one while it starts), and at `grace_s`
    SIGKILL for all that remain; `grace_s=0` kills at once. Raises RuntimeError naming those that survive it.
    """
    if grace_s > 0:
        settle(edir)
        _terminate(edir, grace_s, second_term_s)
    _sweep(edir)


def session_of(edir: EngineDir) -> int | None:
    """The engine's session, or None when it has none yet or the number now means something else."""
    try:
        record = read_json(edir.path / launch.RECORD) or {}
        session, start = int(record.get("session", 0)), int(record.get("start", 0))
    except (ValueError, TypeError) as error:
        logger.warning("%s: its %s cannot be read and is ignored: %s", edir.id, launch.RECORD, error)
        return None
    if session <= 0 or record.get("boot") != launch.boot_id():
        return None
    leader = stat_fields(session)
    return None if leader and int(leader[19]) != start else session


def session_members(session: int) -> list[int]:
    """Living processes of a session (zombies hold nothing)."""
    return [pid for pid in _pids() if _in_session(pid, session)]


def pids_of(edir: EngineDir) -> set[int]:
    """The engine's living processes, by number; empty when it has none."""
    session = session_of(edir)
    return set(session_members(session)) if session is not None else set()


def memory_of_session(edir: EngineDir) -> int | None:
    """Host memory of an engine in bytes, pages shared among its processes counted once; None when it has none."""
    sizes = [size for pid in pids_of(edir) if (size := _memory_bytes(pid)) is not None]
    return sum(sizes) if sizes else None


def prune(root: Path, keep: int) -> list[str]:
    """Remove the oldest folders of engines that are gone, keeping the newest `keep` of those; the ids removed."""
    gone = [edir for edir in engine_dirs(root) if observe(edir) is Seen.GONE]
    return [edir.id for edir in gone[: max(0, len(gone) - keep)] if _remove(edir)]


def find_port_holder(port: int) -> str:
    """Who listens on a TCP port, for people: `process 4711 (python)`; empty when nobody visible does."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not inodes:
        return ""
    for pid in _pids():
        if any(target in inodes for _, target in _open_files(pid)):
            return f"process {pid} ({_name_of(pid)})"
    return "a process of another user"


def listens(edir: EngineDir, port: int) -> bool:
    """Does a process of this engine listen on the TCP port?"""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    return any(target in inodes for pid in pids_of(edir) for _, target in _open_files(pid))


def lock_holders(edir: EngineDir) -> list[int]:
    """Processes that keep the folder's lock held: a stuck launcher, or a child that left the session."""
    return [pid for pid in _pids() if pid != os.getpid() and _holds(pid, edir.lock_path)]


def _remove(edir: EngineDir) -> bool:
    # The lock file goes with its folder, which is safe only while we hold it: then nothing can be started here.
    fd = try_lock(edir.lock_path, inheritable=False)
    if fd is None:
        return False
    try:
        edir.cleanup_tmp()
        shutil.rmtree(edir.path)
    finally:
        os.close(fd)
    return True


def _terminate(edir: EngineDir, grace_s: float, second_term_s: float) -> None:
    start_s = time.monotonic()
    terms_s = [start_s, start_s + second_term_s]
    while (seen := observe(edir)) is not Seen.GONE and time.monotonic() < start_s + grace_s:
        if seen is Seen.HEADLESS:
            grace_s = min(grace_s, time.monotonic() - start_s + ORPHAN_GRACE_S)
            break
        if terms_s and time.monotonic() >= terms_s[0]:
            terms_s.pop(0)
            _signal_leader(edir, signal.SIGTERM)
        time.sleep(POLL_S)
    while observe(edir) is Seen.HEADLESS and time.monotonic() < start_s + grace_s:
        time.sleep(POLL_S)


def _sweep(edir: EngineDir) -> None:
    deadline_s = time.monotonic() + SWEEP_S
    while observe(edir) is not Seen.GONE:
        victims = _remaining(edir)
        for pid, is_still_it in victims:
            _signal(pid, signal.SIGKILL, is_still_it)
        if time.monotonic() > deadline_s:
            names = ", ".join(f"{pid} ({_name_of(pid)})" for pid, _ in victims)
            raise RuntimeError(f"{edir.id} survives SIGKILL: {names or 'unknown processes hold its lock'}")
        time.sleep(POLL_S)


def _remaining(edir: EngineDir) -> list[tuple[int, Callable[[], bool]]]:
    """What is to be killed, each with the test that tells it from a newcomer of the same number."""
    session = session_of(edir)
    members = session_members(session) if session is not None else []
    if session is not None and members:
        return [(pid, lambda pid=pid: _in_session(pid, session)) for pid in members]  # type: ignore[misc]
    return [(pid, lambda pid=pid: _holds(pid, edir.lock_path)) for pid in lock_holders(edir)]  # type: ignore[misc]


def _signal_leader(edir: EngineDir, number: signal.Signals) -> None:
    session = session_of(edir)
    if session is not None:
        _signal(session, number, lambda: session_of(edir) == session)


def _signal(pid: int, number: signal.Signals, is_still_it: Callable[[], bool]) -> None:
    # The descriptor pins the process: if the test passes after it was opened, the signal cannot hit another.
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_still_it():
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    stat = stat_fields(pid)
    return stat is not None and stat[0] != "Z"


def _in_session(pid: int, session: int) -> bool:
    stat = stat_fields(pid)
    return stat is not None and stat[0] != "Z" and int(stat[3]) == session


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _holds(pid: int, lock_path: Path) -> bool:
    wanted = os.path.realpath(lock_path)
    return any(target == wanted and _is_locked(pid, fd) for fd, target in _open_files(pid))


def _is_locked(pid: int, fd: str) -> bool:
    try:
        info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text(encoding="utf-8")
    except OSError:
        return False
    return any("FLOCK" in line and "WRITE" in line for line in info.splitlines())


def _open_files(pid: int) -> Iterator[tuple[str, str]]:
    """Descriptors of a process and what they lead to; nothing where we may not look or it is gone."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            yield name, os.readlink(f"{folder}/{name}")


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _memory_bytes(pid: int) -> int | None:
    with suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace")
        for line in rollup.splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError):
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return None


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "ended"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
