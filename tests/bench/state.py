"""Snapshots of 200 MB of conversations, beside borg and restic where they are installed (Debian: borgbackup, restic).

The conversations are those of `conversations.py`: 2,193 transcripts, nothing of them copied from anybody. All programs
work on the same folder, in turns, in the same run, with the files already in the kernel's memory; every round starts
with empty stores, and medians are compared. borg encrypts with `repokey` and compresses with zstd,3; restic does what
it does by default; ours compresses with zstd 3 and has a key file's key, where the others derive theirs from a
password.

- first snapshot: of everything.
- second snapshot: after one message was appended to 109 transcripts; ours is the background's, as it is.
- restore: of everything, into an empty folder; what ours wrote is compared byte for byte. Ours returns when all of it
  is on the disk, the others when it is written; so `sync -f` of the folder follows each of the three, and is timed too.
- verify: every byte is read and authenticated.
- one message: a save of a session of 10,000 messages after one more, from the look at the client's files to the commit,
  in a server that runs.

Times are those of whole processes, ours with the start of Python. `work` is ours without it, against the others' whole
processes: snapshots, restores and verifications are asked of a server that runs already. Memory is what a process held
at its peak. Sizes are of all files of a store. 1 MB is 10^6 bytes.
"""

import filecmp
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.conversations import FILES, Conversation, Library, library, make_conversations, write
from tests.bench.rows import Row
from tests.bench.state_work import NEXT

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, ROUNDS_LIMIT_S = 3, 300.0
CHANGED = 109
LONG_MESSAGES, SAVES = 10_000, 40
GROWTH_LIMIT_MB, ONE_MESSAGE_LIMIT_MS, MEMORY_LIMIT_MB = 0.25, 20.0, 150.0
OURS = "ours"
FIRST, SECOND, RESTORE, VERIFY = "first snapshot", "second snapshot", "restore", "verify"
SIZE, GROWTH = "size of the store", f"growth by one message in {CHANGED}"

_MEASURE = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(json.dumps({"s": time.perf_counter() - started, "mb": usage.ru_maxrss * 1024 / 1e6}))
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""
"""A small process in between: Linux counts the memory of whoever starts a program as that program's."""


@dataclass(frozen=True)
class Program:
    """How a program does each piece of work, on its store and the folder `.claude` of a home."""

    name: str
    store: Path
    work: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]
    prepare: Sequence[str] = ()


@dataclass
class Figures:
    """Of all rounds: by what was measured and by whom."""

    found: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, what: str, who: str, value: float) -> None:
        self.found.setdefault((what, who), []).append(value)

    def of(self, what: str, who: str) -> float:
        return statistics.median(self.found[what, who])

    def row(self, what: str, peer: str, unit: str) -> Row:
        return Row(f"state: {what}", peer, self.of(what, OURS), self.of(what, peer), unit)

    def limited(self, what: str, limit: float, unit: str) -> Row:
        return Row(f"state: {what}", f"limit: {limit:g} {unit}", self.of(what, OURS), limit, unit)


def main() -> list[Row]:
    """Measure in one temporary folder; nothing is left."""
    with tempfile.TemporaryDirectory(prefix="vb") as name:
        folder, books, figures = Path(name), library(), Figures()
        made = make_conversations(folder / "home/.claude/projects", books)
        total_bytes = sum(path.stat().st_size for path in made)
        print(f"{total_bytes / 1e6:.1f} MB in {len(made):,} transcripts", file=sys.stderr)
        started_s = time.monotonic()
        for number in range(ROUNDS):
            if number and (time.monotonic() - started_s) * (number + 1) / number > ROUNDS_LIMIT_S:
                print(f"slow: {number} of {ROUNDS} rounds", file=sys.stderr)
                break
            _round(folder, number, made, books, figures)
        _one_message(folder / "long", books, figures)
        return _rows(figures)


def _rows(figures: Figures) -> list[Row]:
    peers = [name for name in ("borg", "restic") if (FIRST, name) in figures.found]
    times = [name for what in (FIRST, SECOND, RESTORE, VERIFY) for name in (what, *_in_a_server(what))]
    units = {**dict.fromkeys(times, "s"), SIZE: "MB", GROWTH: "MB"}
    rows = [figures.row(what, peer, unit) for what, unit in units.items() for peer in peers]
    rows += [figures.limited(GROWTH, GROWTH_LIMIT_MB, "MB"), figures.limited("one message", ONE_MESSAGE_LIMIT_MS, "ms")]
    for piece in (FIRST, SECOND, RESTORE, VERIFY):
        rows.append(figures.limited(f"peak memory, {piece}", MEMORY_LIMIT_MB, "MB"))
        rows += [figures.row(f"peak memory, {piece}", peer, "MB") for peer in peers]
    return [*rows, figures.limited("peak memory, one message", MEMORY_LIMIT_MB, "MB")]


def _round(folder: Path, number: int, made: Sequence[Path], books: Library, figures: Figures) -> None:
    """Everything once, with stores of its own."""
    stores = folder / f"round {number}"
    programs = _programs(folder / "home", stores)
    for program in programs:
        if program.prepare:
            _output(program.prepare, program.environment, stores)
        _measure(program, FIRST, folder / "home/.claude", figures)
    sizes = {program.name: _size_mb(program.store) for program in programs}
    _append(made, number, books)
    for program in programs:
        figures.add(SIZE, program.name, sizes[program.name])
        _measure(program, SECOND, folder / "home/.claude", figures)
        figures.add(GROWTH, program.name, _size_mb(program.store) - sizes[program.name])
        _restore(program, stores / "restored", folder / "home", figures)
        _measure(program, VERIFY, stores, figures)
    shutil.rmtree(stores)


def _restore(program: Program, into: Path, home: Path, figures: Figures) -> None:
    target = into / ".claude"
    target.mkdir(parents=True)
    _measure(program, RESTORE, target, figures)
    if program.name == OURS:
        _check_same(home / ".claude", target)
    shutil.rmtree(into)


def _check_same(one: Path, other: Path) -> None:
    names = [str(path.relative_to(one)) for path in one.rglob("*.jsonl")]
    _, wrong, missing = filecmp.cmpfiles(one, other, names, shallow=False)
    if wrong or missing or not names:
        raise RuntimeError(f"of {len(names)} transcripts {len(wrong)} came back changed, {len(missing)} not at all")


def _append(made: Sequence[Path], number: int, books: Library) -> None:
    """One message more in some of the conversations, others each time."""
    for at, path in enumerate(random.Random(number).sample(list(made), CHANGED)):
        speaker = Conversation(books, FILES * (number + 1) + at, 0, path.stat().st_mtime + 60)
        speaker.session_id = path.stem
        with path.open("ab") as file:
            file.write(speaker.prompt(40))


def _one_message(home: Path, books: Library, figures: Figures) -> None:
    conversation = Conversation(books, 0, 0, 1e9)
    write(home / ".claude/projects", conversation, messages=LONG_MESSAGES)
    (home / NEXT).write_bytes(b"".join(conversation.prompt(40) for _ in range(SAVES)))
    program = _ours(home, home / "store")
    answer = _run(program.work["one message"], program.environment, home.parent)
    figures.add("one message", OURS, answer["one_s"] * 1000)
    figures.add("peak memory, one message", OURS, answer["mb"])
    print(f"one message: {answer['one_cpu_s'] * 1000:.1f} ms of the processor", file=sys.stderr)


# the programs


def _programs(home: Path, stores: Path) -> list[Program]:
    stores.mkdir()
    found = [_ours(home, stores / OURS)]
    for program in (_borg(stores / "borg"), _restic(stores / "restic")):
        if shutil.which(program.name):
            found.append(program)
        else:
            print(f"{program.name} is not installed: no comparison with it", file=sys.stderr)
    return found


def _ours(home: Path, store: Path) -> Program:
    pieces = {FIRST: "first", SECOND: "second", RESTORE: "restore", VERIFY: "check", "one message": "one_message"}
    homes = {RESTORE: store.parent / "restored"}
    work = {
        what: (sys.executable, "-m", "tests.bench.state_work", piece, str(homes.get(what, home)), str(store / "s.db"))
        for what, piece in pieces.items()
    }
    sources = [ROOT, ROOT / "protocol/src", *sorted(ROOT.glob("packages/*/src"))]
    return Program(OURS, store, work, {"PYTHONPATH": os.pathsep.join(map(str, sources))})


def _borg(store: Path) -> Program:
    work = {
        FIRST: ("borg", "create", "-C", "zstd,3", f"{store}::first", "projects"),
        SECOND: ("borg", "create", "-C", "zstd,3", f"{store}::second", "projects"),
        RESTORE: ("borg", "extract", f"{store}::second"),
        VERIFY: ("borg", "check", "--verify-data", str(store)),
    }
    environment = {"BORG_BASE_DIR": str(store.parent / "borg-cache"), "BORG_PASSPHRASE": "bench"}
    return Program("borg", store, work, environment, ("borg", "init", "-e", "repokey", str(store)))


def _restic(store: Path) -> Program:
    work = {
        FIRST: ("restic", "backup", "-q", "projects"),
        SECOND: ("restic", "backup", "-q", "projects"),
        RESTORE: ("restic", "restore", "-q", "latest", "--target", "."),
        VERIFY: ("restic", "check", "-q", "--read-data"),
    }
    cache = store.parent / "restic-cache"
    environment = {"RESTIC_REPOSITORY": str(store), "RESTIC_CACHE_DIR": str(cache), "RESTIC_PASSWORD": "bench"}
    return Program("restic", store, work, environment, ("restic", "init", "-q"))


# measuring


def _measure(program: Program, what: str, cwd: Path, figures: Figures) -> None:
    found = _run(program.work[what], program.environment, cwd)
    sync_s = _sync_s(cwd) if what == RESTORE else 0.0
    figures.add(what, program.name, found["s"] + sync_s)
    figures.add(f"peak memory, {what}", program.name, found["mb"])
    for name in _in_a_server(what):
        figures.add(name, program.name, found.get("work_s", found["s"]) + sync_s)


def _in_a_server(what: str) -> list[str]:
    """What is also measured without the start of a process."""
    return [f"{what}, work"] if what in (FIRST, SECOND, RESTORE, VERIFY) else []


def _sync_s(folder: Path) -> float:
    started_s = time.perf_counter()
    subprocess.run(["sync", "-f", str(folder)], check=True)
    return time.perf_counter() - started_s


def _run(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> dict[str, float]:
    """Seconds `s` and peak memory `mb` of a program, and what it says itself when it is ours."""
    lines = _output([sys.executable, "-I", "-S", "-c", _MEASURE, *command], environment, cwd).splitlines()
    found: dict[str, float] = json.loads(lines[-1])
    return {**json.loads(lines[-2]), **found} if command[0] == sys.executable else found


def _output(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> str:
    cwd.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(command, env={**os.environ, **environment}, cwd=cwd, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command[-6:])} failed: {run.stderr[-2000:]}{run.stdout[-500:]}")
    return run.stdout


def _size_mb(store: Path) -> float:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) / 1e6
