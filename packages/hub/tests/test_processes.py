"""Engine processes, with real ones: every way in which vLLM starts, dies and refuses to die."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_mcp_hub.core.diagnosis import diagnose
from vllm_mcp_hub.host import launch, processes
from vllm_mcp_hub.host.engine_dir import EngineDir
from vllm_mcp_hub.host.processes import Seen, observe, prune, settle, spawn, stop
from vllm_mcp_protocol.errors import EngineFailed
from vllm_mcp_protocol.state_lock import is_held, try_lock

FAKE = r"""
import os, signal, sys, time
terms = []
def on_term(number, frame):
    terms.append(number)
    if "polite" in sys.argv or ("second" in sys.argv and len(terms) == 2):
        os._exit(len(terms))
signal.signal(signal.SIGTERM, on_term)
settled, done = os.pipe()
if "child" in sys.argv and os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "away" in sys.argv:
        os.setsid()
    if "closed" in sys.argv:
        os.closerange(3, done)
        os.closerange(done + 1, 64)
    os.write(done, b"x")
    while True:
        time.sleep(1)
if "child" in sys.argv:
    os.read(settled, 1)
print("ready", " ".join(sys.argv[1:]), flush=True)
while True:
    time.sleep(1)
"""
"""Knobs: polite (ends at SIGTERM), second (at the second one), child (an orphan that outlives it, deaf),
closed (the orphan does not hold the lock), away (the orphan left the session)."""


@pytest.fixture
def edir(tmp_path: Path) -> Iterator[EngineDir]:
    edir = EngineDir(tmp_path / "engines" / "e1")
    edir.path.mkdir(parents=True)
    yield edir
    stop(edir, grace_s=0)


@pytest.fixture
def start(edir: EngineDir) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    children: list[subprocess.Popen[bytes]] = []

    def _start(*knobs: str, ready: bool = True, **env: str) -> "subprocess.Popen[bytes]":
        children.append(spawn(edir, [sys.executable, "-c", FAKE, *knobs], {"PATH": os.environ["PATH"], **env}))
        if ready:
            until(lambda: log_of(edir).count("ready") == len(children))
        return children[-1]

    yield _start
    stop(edir, grace_s=0)
    for child in children:
        child.wait(10)


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "condition not reached"
        time.sleep(0.01)


def log_of(edir: EngineDir) -> str:
    return edir.log_path.read_text() if edir.log_path.exists() else ""


Start = Callable[..., "subprocess.Popen[bytes]"]


def test_a_started_engine_is_seen_and_its_output_kept(edir: EngineDir, start: Start) -> None:
    assert observe(edir) is Seen.GONE
    child = start("polite", SECRET="x")
    assert observe(edir) is Seen.RUNNING
    assert is_held(edir.lock_path)
    assert os.getsid(child.pid) == child.pid == processes.session_of(edir)
    assert processes.pids_of(edir) == {child.pid}
    assert log_of(edir) == "ready polite\n"
    assert edir.log_path.stat().st_mode & 0o077 == 0
    assert os.readlink(f"/proc/{child.pid}/cwd") == str(edir.path)
    memory_bytes = processes.memory_of_session(edir)
    assert memory_bytes is not None
    assert memory_bytes > 1_000_000
    assert child.poll() is None


def test_only_the_given_environment_reaches_the_engine(edir: EngineDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_SECRET", "leak")
    child = spawn(
        edir, [sys.executable, "-c", "import os; print(sorted(os.environ))"], {"PATH": "/bin", "HF_HOME": "/h"}
    )
    child.wait(20)
    assert "CLIENT_SECRET" not in log_of(edir)
    assert "HF_HOME" in log_of(edir)


def test_sigterm_ends_a_polite_engine(edir: EngineDir, start: Start) -> None:
    child = start("polite")
    stop(edir, grace_s=20)
    assert observe(edir) is Seen.GONE
    assert child.wait(5) == 1
    assert not is_held(edir.lock_path)
    assert processes.memory_of_session(edir) is None


def test_the_second_sigterm_ends_one_that_swallowed_the_first(edir: EngineDir, start: Start) -> None:
    child = start("second")
    stop(edir, grace_s=20, second_term_s=0.1)
    assert child.wait(5) == 2


def test_a_deaf_engine_is_killed_at_the_end_of_its_grace(edir: EngineDir, start: Start) -> None:
    child = start("deaf")
    stop(edir, grace_s=0.3, second_term_s=0.1)
    assert observe(edir) is Seen.GONE
    assert child.wait(5) == -signal.SIGKILL
    assert child.poll() == -signal.SIGKILL


@pytest.mark.parametrize("knobs", [(), ("closed",), ("away",)])
def test_orphans_are_seen_and_swept(edir: EngineDir, start: Start, knobs: tuple[str, ...]) -> None:
    """SIGKILL of vLLM's API server leaves EngineCore holding the GPU; `closed` is what multiprocessing does."""
    child = start("child", *knobs)
    session = child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    assert observe(edir) is Seen.HEADLESS
    assert is_held(edir.lock_path) is ("closed" not in knobs)
    stop(edir, grace_s=0)
    assert observe(edir) is Seen.GONE
    assert processes.session_members(session) == []
    assert processes.lock_holders(edir) == []


def test_a_polite_stop_also_ends_the_child_that_stays(edir: EngineDir, start: Start) -> None:
    start("polite", "child")
    stop(edir, grace_s=20)
    assert observe(edir) is Seen.GONE


def test_an_engine_that_was_not_reaped_counts_as_gone(edir: EngineDir, start: Start) -> None:
    child = start("deaf")
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: observe(edir) is Seen.GONE)
    assert (launch.stat_fields(child.pid) or ["?"])[0] == "Z"


def test_a_slow_launcher_is_waited_for(edir: EngineDir, start: Start) -> None:
    start("polite", ready=False, VLLM_HUB_TEST_SLOW_RECORD="0.3")
    assert observe(edir) is Seen.LAUNCHING
    assert settle(edir, 20) is Seen.RUNNING


def test_a_stuck_launcher_is_found_by_its_lock_and_killed(edir: EngineDir, start: Start) -> None:
    child = start(ready=False, VLLM_HUB_TEST_SLOW_RECORD="60")
    assert observe(edir) is Seen.LAUNCHING
    until(lambda: processes.lock_holders(edir) == [child.pid])
    stop(edir, grace_s=0)
    assert observe(edir) is Seen.GONE
    assert child.wait(5) == -signal.SIGKILL


def test_a_launcher_that_crashes_before_it_recorded_leaves_nothing(edir: EngineDir, start: Start) -> None:
    child = start(ready=False, VLLM_HUB_TEST_CRASH="launcher_before_record")
    assert child.wait(20) == 9
    assert observe(edir) is Seen.GONE


def test_a_hub_that_dies_right_after_the_spawn_loses_nothing(edir: EngineDir) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from vllm_mcp_hub.host.engine_dir import EngineDir; from vllm_mcp_hub.host.processes import spawn\n"
        f"spawn(EngineDir(Path(sys.argv[1])), [sys.executable, '-c', {FAKE!r}], dict(os.environ)); os._exit(0)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "VLLM_HUB_TEST_SLOW_RECORD": "0.2"}
    subprocess.run([sys.executable, "-c", code, str(edir.path)], env=env, check=True, timeout=60)
    assert settle(edir, 20) is Seen.RUNNING
    stop(edir, grace_s=0)
    assert observe(edir) is Seen.GONE


@pytest.mark.parametrize("lie", ["start", "boot"])
def test_a_reused_process_number_is_neither_adopted_nor_signalled(edir: EngineDir, lie: str) -> None:
    victim = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        stat = launch.stat_fields(victim.pid)
        assert stat is not None
        record = {"session": victim.pid, "start": int(stat[19]), "boot": launch.boot_id()}
        record[lie] = 1 if lie == "start" else "another"
        (edir.path / launch.RECORD).write_text(json.dumps(record))
        assert observe(edir) is Seen.GONE
        stop(edir, grace_s=1)
        stop(edir, grace_s=0)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait(10)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"session": "x"}', '{"session": null}', "{}"])
def test_a_damaged_record_says_nothing(edir: EngineDir, text: str) -> None:
    (edir.path / launch.RECORD).write_text(text)
    assert observe(edir) is Seen.GONE


def test_a_folder_holds_one_engine(edir: EngineDir, start: Start) -> None:
    start("polite")
    with pytest.raises(EngineFailed, match="still running"):
        start("polite")


def test_orphans_without_the_lock_keep_a_folder_from_being_used_again(edir: EngineDir, start: Start) -> None:
    child = start("child", "closed")
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    with pytest.raises(EngineFailed, match="still has processes"):
        start()


def test_a_second_life_begins_without_the_marks_of_the_first(edir: EngineDir, start: Start) -> None:
    first = start("polite")
    edir.mark_ready()
    edir.mark_stopping()
    edir.write_exit({"code": 1, "failure": None})
    stop(edir, grace_s=20)
    second = start("polite")
    assert not edir.is_ready()
    assert not edir.is_stopping()
    assert edir.read_exit() is None
    assert first.pid != second.pid == processes.session_of(edir)


def test_a_missing_program_is_told_in_the_log(edir: EngineDir) -> None:
    child = spawn(edir, ["/nonexistent/vllm", "serve"], {})
    assert child.wait(20) == 127
    found = diagnose(log_of(edir), exit_code=127, was_ready=False, model_id="m")
    assert found.code == "VLLM_NOT_INSTALLED"
    assert "/nonexistent/vllm" in found.message


def test_survivors_are_named(edir: EngineDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may kill the hub itself, so a lock held by it stands for a process that cannot be killed."""
    monkeypatch.setattr(processes, "SWEEP_S", 0.2)
    fd = try_lock(edir.lock_path, inheritable=False)
    assert fd is not None
    with pytest.raises(RuntimeError, match="e1 survives SIGKILL"):
        stop(edir, grace_s=0)
    os.close(fd)


def test_pruning_keeps_the_newest_and_what_runs(edir: EngineDir, start: Start) -> None:
    start("polite")
    root = edir.path.parent
    for number in (2, 3, 10, 9):
        (root / f"e{number}").mkdir()
    assert prune(root, keep=2) == ["e2", "e3"]
    assert sorted(path.name for path in root.iterdir()) == ["e1", "e10", "e9"]
    assert prune(root, keep=0) == ["e9", "e10"]
    assert observe(edir) is Seen.RUNNING


def test_the_holder_of_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        holder = processes.find_port_holder(port)
    assert holder.startswith(f"process {os.getpid()} (")
    assert processes.find_port_holder(port) == ""


def test_the_launcher_imports_no_package() -> None:
    """Every start of an engine waits for it."""
    code = "before = set(sys.modules); import launch; print(set(sys.modules) - before)"
    folder = str(Path(launch.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "vllm_mcp" not in done.stdout
    assert "pathlib" not in done.stdout
    assert "subprocess" not in done.stdout
