"""Runs as the engine for a moment: records who it is, then becomes vLLM by exec.

Started by file path as `python -I -S launch.py FOLDER PROGRAM ARGUMENT…` in a session of its own: the standard
library only, because every engine waits for it (with the record's fsync 71 ms here, 92 ms with `site`).
Process number, session and start time survive exec, so the record is written by the very process that it
describes: a hub that dies between spawn and bookkeeping loses nothing.
"""

import json
import os
import signal
import sys
import time

RECORD = "proc.json"
CANNOT_RUN = "cannot run"
"""Words in the log that `core/diagnosis.py` knows."""


def stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on ([0] state, [3] session, [19] start time in clock ticks)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            data = file.read()
    except OSError:
        return None
    return data[data.rfind(")") + 2 :].split()


def boot_id() -> str:
    """This boot of this container: the kernel's boot id and the start time of process 1.

    A restarted container has the same kernel but hands out the same small process numbers again.
    """
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    init = stat_fields(1)
    return f"{boot}/{init[19] if init else ''}"


def record_self(folder: str) -> None:
    """Write this process's session, start time and boot into `folder`, atomically."""
    pid = os.getpid()
    stat = stat_fields(pid)
    if os.getsid(0) != pid or stat is None:
        raise SystemExit(f"launch: process {pid} must lead its own session")
    record = {"session": pid, "start": int(stat[19]), "boot": boot_id()}
    temporary = os.path.join(folder, f"{RECORD}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, os.path.join(folder, RECORD))


def main(folder: str, argv: list[str]) -> None:
    """Never returns: becomes `argv`, or exits 126 (not executable) or 127 (not there) with the reason in the log."""
    if os.environ.get("VLLM_HUB_TEST_CRASH") == "launcher_before_record":
        os._exit(9)
    time.sleep(float(os.environ.get("VLLM_HUB_TEST_SLOW_RECORD", "0")))
    record_self(folder)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and "ignored" would survive exec.
    try:
        os.execvpe(argv[0], argv, os.environ)  # noqa: S606 - the hub built argv; no shell is involved
    except OSError as error:
        print(f"launch: {CANNOT_RUN} {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
