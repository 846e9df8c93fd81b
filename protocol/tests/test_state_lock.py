"""The lock that says who the hub is and whether an engine runs: one holder, inherited by exec, probed unnoticed."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vllm_mcp_protocol.state_lock import is_held, try_lock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = try_lock(path, inheritable=False)
    assert first is not None
    assert is_held(path)
    assert try_lock(path, inheritable=False) is None
    os.close(first)
    assert not is_held(path)
    second = try_lock(path, inheritable=False)
    assert second is not None
    os.close(second)


def test_a_lock_that_was_never_taken_is_free_and_is_not_made_by_asking(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("inheritable", [True, False])
def test_a_child_keeps_only_an_inheritable_lock(tmp_path: Path, inheritable: bool) -> None:
    path = tmp_path / "lock"
    fd = try_lock(path, inheritable=inheritable)
    assert fd is not None
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        os.close(fd)
        assert is_held(path) is inheritable
    finally:
        child.communicate()
    assert not is_held(path)


def test_probes_disturb_neither_each_other_nor_somebody_who_takes_the_lock(tmp_path: Path) -> None:
    """A prober that took the lock itself would make a starting hub believe that another one runs."""
    path = tmp_path / "lock"
    path.touch()
    stop, seen_held = threading.Event(), []

    def probe() -> None:
        while not stop.is_set():
            if is_held(path):
                seen_held.append(1)

    probers = [threading.Thread(target=probe) for _ in range(4)]
    for prober in probers:
        prober.start()
    assert not seen_held
    refused = 0
    for _ in range(200):
        fd = try_lock(path, inheritable=False)
        refused += fd is None
        if fd is not None:
            os.close(fd)
    stop.set()
    for prober in probers:
        prober.join()
    assert refused == 0


def test_many_contenders_get_one_holder(tmp_path: Path) -> None:
    path, barrier = tmp_path / "lock", threading.Barrier(16)
    taken: list[int | None] = []

    def contend() -> None:
        barrier.wait()
        taken.append(try_lock(path, inheritable=False))

    contenders = [threading.Thread(target=contend) for _ in range(16)]
    for contender in contenders:
        contender.start()
    for contender in contenders:
        contender.join()
    holders = [fd for fd in taken if fd is not None]
    assert len(taken) == 16
    assert len(holders) == 1
    os.close(holders[0])
