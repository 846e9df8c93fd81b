"""Crashes: whatever is killed, fails or runs out of room, every acknowledged snapshot reads back, nothing half-written
is visible, and the next save goes on."""

import asyncio
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from anyio import to_thread
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from tests.stores import OTHER_RING, RING, everything, make_record, make_records, make_session, records_of
from vllm_mcp_protocol.errors import DiskFull, StateTrouble, SuiteError
from vllm_state_persistence.core.packs import Compressor
from vllm_state_persistence.core.session import Record
from vllm_state_persistence.store.maintenance import prune, rotate_key
from vllm_state_persistence.store.repairing import repair
from vllm_state_persistence.store.store import StateStore
from vllm_state_persistence.store.verifying import verify

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]

# SIGKILL

_NURSERY = """
import asyncio, os, sys
from pathlib import Path
from tests.stores import RING, make_records, make_session
from vllm_state_persistence.store.maintenance import prune
from vllm_state_persistence.store.store import StateStore

def tell(words: str) -> None:
    os.write(1, f"{words}\\n".encode())  # in one piece, or a kill in between leaves half a line

async def save_and_prune(path: Path) -> None:
    async with await StateStore.open(path, RING) as store:
        for turn in range(1, 1000):
            head = await store.head("claude-code", "one")
            kept, base, last = (head.records % 140, head.state_id, head.at) if head else (0, None, 0.0)
            content = make_session(make_records(7, kept), kept=kept, marker=str(last))
            saved = await store.save(content, base=base, at=last + 1)
            tell(f"{saved.state_id} {kept + 7}")
            if turn % 4 == 0:
                old = [info.state_id for info in (await store.states()).items[8:]]
                for state_id in old:
                    tell(f"{state_id} dropping")
                await store.drop(old)
                await prune(store)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        asyncio.run(save_and_prune(Path(line.strip())))
    tell(str(child))
    os.waitpid(child, 0)
    tell("dead")
"""
"""Forks a saving process for each path that it is told: its imports would take longer than all else."""


@dataclass
class Nursery:
    process: "subprocess.Popen[str]"

    def killed_after(self, path: Path, lines: int, delay_s: float) -> list[str]:
        """What a process that saves to `path` had printed by the time that it was killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(path, file=self.process.stdin, flush=True)
        child, printed = 0, list[str]()
        while not child or len(printed) < lines:
            line = self.process.stdout.readline().strip()
            assert line not in ("", "dead"), "it ended before it was killed"
            if line.isdecimal():
                child = int(line)
            else:
                printed.append(line)
        time.sleep(delay_s)  # an arbitrary moment in the middle of what comes next
        os.kill(child, signal.SIGKILL)
        while (line := self.process.stdout.readline().strip()) != "dead":
            assert line
            printed.append(line)
        return [line for line in printed if line.count(" ") == 1]


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _NURSERY]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("rounds", [pytest.param(25, id="25"), pytest.param(300, id="300", marks=pytest.mark.slow)])
async def test_what_was_acknowledged_outlives_a_kill_at_any_moment(
    tmp_path: Path, nursery: Nursery, rounds: int
) -> None:
    path = tmp_path / "state.db"
    acknowledged: dict[str, int] = {}
    chance = random.Random(rounds)
    for _ in range(rounds):
        lines = nursery.killed_after(path, chance.randrange(0, 12), chance.uniform(0, 0.03))
        told = [(state_id, word) for state_id, word in (line.split() for line in lines)]
        going = {state_id for state_id, word in told if word == "dropping"}
        acknowledged.update((state_id, int(word)) for state_id, word in told if word != "dropping")
        async with await StateStore.open(path, RING) as store:
            found = {info.state_id: info.records for info in (await store.states(limit=10_000)).items}
            # One may have been committed, and the kill came before it was told.
            assert len(found.keys() - acknowledged.keys()) <= 1
            assert acknowledged.keys() - found.keys() <= going
            assert all(acknowledged.get(state_id, records) == records for state_id, records in found.items())
            for state_id, records in found.items():
                assert await records_of(store, state_id) == make_records(records)
            assert (await verify(store)).sound
            acknowledged = found


# Writes that fail


@dataclass
class Faults:
    """The `n`-th statement or commit of a store fails, as if the disk had."""

    fail_at: int | None
    code: str = "SQLITE_IOERR"
    seen: int = 0

    @contextmanager
    def watch(self, store: StateStore) -> Iterator[None]:
        """Of what is done inside, which is of this store alone. `in_one_step` goes past SQLAlchemy, so the driver's
        method is replaced: nothing else makes a statement of it fail."""
        engine = store.desk.database.engine.sync_engine
        event.listen(engine, "before_cursor_execute", lambda *arguments: self._statement(arguments[2]))
        event.listen(engine, "commit", self.step)
        execute = aiosqlite.Connection.execute_fetchall

        async def watched(driver: aiosqlite.Connection, statement: str, parameters: Any) -> Any:
            self._statement(statement)
            return await execute(driver, statement, parameters)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aiosqlite.Connection, "execute_fetchall", watched)
            yield

    def _statement(self, statement: str) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            self.step()

    def step(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.fail_at:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = self.code
            raise OperationalError("", None, error)


@asynccontextmanager
async def _store_in_use(path: Path) -> AsyncIterator[StateStore]:
    async with await StateStore.open(path, RING) as store:
        if not (await store.states()).items:
            await store.save(make_session(make_records(30)), engines=b"e", at=1)
            await store.save(make_session(make_records(5, 500), session_id="two"), at=2)
            dropped = await store.save(make_session(make_records(9, 900), session_id="two"), at=3)
            await store.drop([dropped.state_id])
        yield store


async def _save(store: StateStore) -> None:
    large = Record("file", "large", b"".join(number.to_bytes(4, "big") for number in range(50_000)))
    await store.save(make_session([*make_records(33), large]), at=9)


async def _drop(store: StateStore) -> None:
    await store.drop([info.state_id for info in (await store.states(session_id="two")).items])


async def _rotate(store: StateStore) -> None:
    await rotate_key(store, OTHER_RING)


@pytest.mark.parametrize("work", [_save, _drop, prune, repair, _rotate], ids=lambda work: work.__name__.strip("_"))
async def test_when_any_write_fails_the_store_is_as_before_or_as_after(tmp_path: Path, work: Any) -> None:
    fail_at = 0
    while True:
        fail_at += 1
        path = tmp_path / str(fail_at) / "state.db"
        async with _store_in_use(path) as store:
            before = await everything(store)
            faults = Faults(fail_at)
            with faults.watch(store), suppress(StateTrouble):
                await work(store)
        async with await _opened_with_any_key(path) as store:
            after = await everything(store)
            assert (await verify(store)).sound
            if faults.seen >= fail_at:
                # A step that failed after the last commit (pages given back) leaves it done.
                assert _same_or_done(before, after)
                await _save(store)
                assert (await verify(store)).sound
            else:
                break
    assert fail_at > 3


async def _opened_with_any_key(path: Path) -> StateStore:
    try:
        return await StateStore.open(path, RING)
    except SuiteError:
        return await StateStore.open(path, OTHER_RING)


def _same_or_done(before: dict[str, Any], after: dict[str, Any]) -> bool:
    common = before.keys() & after.keys()
    return all(before[one] == after[one] for one in common) and (len(after) == len(before) or len(common) >= 1)


async def test_a_save_that_was_undone_leaves_nothing_in_memory(tmp_path: Path) -> None:
    """It may have written and read packs whose numbers the next save uses again."""
    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        saved = await store.save(make_session([make_record(0)]), at=0)
        for number in range(1, 33):
            for text in ("undone", "kept"):
                content = make_session([make_record(number, text)], kept=number)
                if text == "kept":
                    saved = await store.save(content, base=saved.state_id, at=number)
                    continue
                faults = Faults(1)
                event.listen(store.desk.database.engine.sync_engine, "commit", faults.step)
                with pytest.raises(StateTrouble):
                    await store.save(content, base=saved.state_id, at=number)
        expected = [make_record(0), *(make_record(number, "kept") for number in range(1, 33))]
        assert await records_of(store, saved.state_id) == expected
        assert len((await store.load(saved.state_id)).manifest.spans) < 32


async def test_a_save_that_is_cancelled_waits_for_the_thread_that_still_compresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zstd's contexts serve one thread at a time: the next save in another one would crash the process."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    compress = Compressor.compress

    def slow(compressor: Compressor, data: bytes) -> tuple[bytes, int]:
        begun.set()
        assert go_on.wait(30)
        small = compress(compressor, data)
        ended.set()
        return small

    async with await StateStore.open(tmp_path / "state.db", RING) as store:
        monkeypatch.setattr(Compressor, "compress", slow)
        saving = asyncio.create_task(store.save(make_session([make_record(1, "x" * 300_000)]), at=1))
        await to_thread.run_sync(begun.wait)
        for _ in range(3):
            await asyncio.sleep(0.01)  # it comes to where it waits for the thread
        saving.cancel()
        await asyncio.wait([saving], timeout=0.1)
        early = saving.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert (early, ended.is_set()) == (False, True)
        assert (await store.states()).items == []


async def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await StateStore.open(path, RING) as store:
        saved = await store.save(make_session(make_records(3)), at=1)
        noise = [Record("file", str(number), os.urandom(40_000)) for number in range(50)]
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 300_000, hard))
        try:
            with pytest.raises((DiskFull, StateTrouble)):
                await store.save(make_session(noise), at=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)
        assert list(await everything(store)) == [saved.state_id]
        assert (await verify(store)).sound
        again = await store.save(make_session(noise), at=3)
        assert await records_of(store, again.state_id) == noise


async def test_a_store_whose_making_was_interrupted_is_made_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.touch(0o600)
    async with await StateStore.open(path, RING) as store:
        await store.save(make_session([make_record(1)]), at=1)
    other = tmp_path / "other.db"
    database = sqlite3.connect(other)
    database.execute("PRAGMA journal_mode = WAL").fetchall()
    database.close()
    async with await StateStore.open(other, RING) as store:
        assert (await store.states()).items == []
