"""What `tests.bench.state` measures of ours, one piece of work per process: `python -m tests.bench.state_work PIECE …`.

Each piece does what the server's tools do, on a home folder with transcripts and a store, and prints JSON: `work_s` is
the time without the start of Python.
"""

import asyncio
import cProfile
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

from anyio import to_thread

from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.settings import Settings
from vllm_state_persistence.allocator import share_arenas
from vllm_state_persistence.background import save_what_changed
from vllm_state_persistence.saving import Extras, save_session
from vllm_state_persistence.sources.base import Places, Target, Written
from vllm_state_persistence.sources.claude_code import ClaudeCodeSource
from vllm_state_persistence.store.verifying import verify
from vllm_state_persistence.workplace import Workplace, open_store
from vllm_state_persistence.writing_back import write_back

NEXT = "next.jsonl"
"""Lines that are still to be appended, in the home folder."""

Answer = dict[str, float]


def source_in(home: Path) -> ClaudeCodeSource:
    return ClaudeCodeSource(Places.of({"HOME": str(home)}))


def settings_of(home: Path, store: Path) -> Settings:
    """A key of 32 bytes: what the key file of a usual installation holds."""
    given = {"STATE_DB_PATH": str(store), "ENCRYPTION_KEY": "hex:" + "5a" * 32, "VLLM_HUB_DIR": str(home / "hub")}
    return Settings.from_environment(given)


async def first(home: Path, store_path: Path) -> Answer:
    """A snapshot of everything."""
    return await _snapshot(home, store_path, new_ones=True)


async def second(home: Path, store_path: Path) -> Answer:
    """The background's snapshot of what changed."""
    return await _snapshot(home, store_path, new_ones=False)


async def _snapshot(home: Path, store_path: Path, *, new_ones: bool) -> Answer:
    work = _workplace(home, store_path)
    await work.store()
    started_s = time.perf_counter()
    try:
        done = await save_what_changed(work, new_ones=new_ones)
        work_s = time.perf_counter() - started_s
    finally:
        await work.aclose()
    if done.problems:
        raise RuntimeError(f"{len(done.problems)} were not saved: {done.problems[0]}")
    return {"saved": done.saved, "unchanged": done.unchanged, "work_s": work_s}


def _workplace(home: Path, store_path: Path) -> Workplace:
    settings = settings_of(home, store_path)
    os.environ["HOME"] = str(home)  # where its sources look
    return Workplace(settings, Hub(settings, client="bench"), None)


async def restore(home: Path, store_path: Path) -> Answer:
    """The newest snapshot of every session, into another home's folders."""
    async with await open_store(settings_of(home, store_path)) as store:
        ids = [info.state_id for info in (await store.sessions()).items]
        done = await write_back(store, {"claude-code": source_in(home)}, ids, Target(same=True))
    for outcome in done.values():
        if not isinstance(outcome, Written):
            raise outcome
    return {}


async def check(home: Path, store_path: Path) -> Answer:
    """Read every byte."""
    async with await open_store(settings_of(home, store_path)) as store:
        found = await verify(store)
    if not found.sound:
        raise RuntimeError(f"the store is damaged: {found.damaged[0]}")
    return {"read": found.read_bytes}


async def one_message(home: Path, store_path: Path) -> Answer:
    """The middle of several saves of the only session, each after one of the lines of `next.jsonl`; in a server that
    runs."""
    work, source = _workplace(home, store_path), source_in(home)
    project = Path(source.look(None).sessions[0].project)
    wall_s, cpu_s = list[float](), list[float]()
    for line in [b"", *(home / NEXT).read_bytes().splitlines(keepends=True)]:
        await to_thread.run_sync(_say, source, line)
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        (ref,) = source.look(project).sessions
        await save_session(work, source, ref, Extras())
        wall_s.append(time.perf_counter() - started_s)
        cpu_s.append(time.process_time() - started_cpu_s)
    await work.aclose()
    return {"one_s": statistics.median(wall_s[1:]), "one_cpu_s": statistics.median(cpu_s[1:])}


def _say(source: ClaudeCodeSource, line: bytes) -> None:
    (ref,) = source.look(None).sessions
    with Path(ref.location).open("ab") as file:
        file.write(line)


PIECES: dict[str, Callable[[Path, Path], Coroutine[None, None, Answer]]] = {
    "first": first,
    "second": second,
    "restore": restore,
    "check": check,
    "one_message": one_message,
}


def run(piece: str, home: str, store: str) -> Answer:
    """With BENCH_PROFILE=FILE in the environment, what the time went into is written there."""
    started_s = time.perf_counter()
    with _profiled(os.environ.get("BENCH_PROFILE")):
        answer = asyncio.run(PIECES[piece](Path(home), Path(store)))
    return {"work_s": time.perf_counter() - started_s, **answer}


@contextmanager
def _profiled(file: str | None) -> Iterator[None]:
    if file is None:
        yield
        return
    with cProfile.Profile() as profiler:
        yield
    profiler.dump_stats(file)


if __name__ == "__main__":
    share_arenas()  # as the server's command does
    gc.freeze()  # as every server of the suite does after its imports
    print(json.dumps(run(*sys.argv[1:])))
