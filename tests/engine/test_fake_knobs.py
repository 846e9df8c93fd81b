"""The fake's ways to misbehave do what they say: every process test of the suite relies on them."""

import fcntl
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest

from tests.engine.engines import POLL_S, RunningEngine, pids_of_session, started, wait_healthy
from tests.fakes.fakes import make_fake_vllm, set_knobs

MODEL = "tiny-org/tiny-llama"
ASK = {"model": MODEL, "prompt": "a b c", "max_tokens": 4}


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Poll until `condition` holds. Raises TimeoutError."""
    end = monotonic() + timeout_s
    while not condition():
        if monotonic() > end:
            raise TimeoutError
        sleep(POLL_S)


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Path]:
    return lambda **knobs: make_fake_vllm(tmp_path / "bin", **knobs)


def test_knobs_come_from_the_file_and_from_the_environment(fake: Callable[..., Path]) -> None:
    with started(fake(answer_tokens=2), MODEL, env={"FAKE_VLLM_VERSION": "0.32.9"}) as engine:
        wait_healthy(engine)
        assert engine.client.get("/version").json() == {"version": "0.32.9"}
        usage = engine.client.post("/v1/completions", json=ASK).json()["usage"]
        assert usage["completion_tokens"] == 2


def test_unknown_knob_and_unknown_flag_are_refused(tmp_path: Path, fake: Callable[..., Path]) -> None:
    with pytest.raises(TypeError, match="no_such"):
        set_knobs(tmp_path, no_such=1)
    with started(fake(), MODEL, flags=("--swap-space", "4")) as engine:
        assert engine.wait_gone() == 2
        assert "vllm: error: unrecognized arguments: --swap-space" in engine.log


def test_nobody_is_answered_while_it_loads(fake: Callable[..., Path]) -> None:
    with started(fake(load_s=60), MODEL) as engine:
        until(lambda: len(engine.session_pids()) == 2)
        with pytest.raises(RuntimeError, match="not healthy"):
            wait_healthy(engine, timeout_s=0.3)
        engine.process.send_signal(signal.SIGTERM)
        assert engine.wait_gone() == -signal.SIGTERM


def test_first_sigterm_swallowed_second_one_ends(fake: Callable[..., Path]) -> None:
    with started(fake(load_s=60, swallow_first_sigterm=True), MODEL) as engine:
        until(lambda: len(engine.session_pids()) == 2)
        engine.process.send_signal(signal.SIGTERM)
        with pytest.raises(RuntimeError, match="exit status None"):
            wait_healthy(engine, timeout_s=0.5)
        engine.process.send_signal(signal.SIGTERM)
        assert engine.wait_gone() == -signal.SIGINT


def test_deaf_needs_sigkill(fake: Callable[..., Path]) -> None:
    with started(fake(deaf=True), MODEL) as engine:
        wait_healthy(engine)
        os.killpg(engine.process.pid, signal.SIGTERM)
        assert engine.client.get("/health").status_code == 200
        assert len(engine.session_pids()) == 2
        os.killpg(engine.process.pid, signal.SIGKILL)
        assert engine.wait_gone() == -signal.SIGKILL


def test_killed_leader_leaves_the_core_which_heeds_sigterm(fake: Callable[..., Path]) -> None:
    with started(fake(), MODEL) as engine:
        wait_healthy(engine)
        engine.process.kill()
        engine.process.wait(10)
        (core,) = engine.session_pids()
        os.kill(core, signal.SIGTERM)
        engine.wait_gone()


def test_orphan_outlives_everything_but_sigkill(fake: Callable[..., Path]) -> None:
    with started(fake(orphan=True), MODEL) as engine:
        wait_healthy(engine)
        engine.process.send_signal(signal.SIGTERM)
        assert engine.process.wait(10) == 0
        (core,) = engine.session_pids()
        os.kill(core, signal.SIGTERM)
        assert pids_of_session(engine.process.pid) == [core]
        os.kill(core, signal.SIGKILL)
        engine.wait_gone()


@pytest.mark.parametrize("closes", [True, False])
def test_core_keeps_inherited_files_or_not(tmp_path: Path, fake: Callable[..., Path], closes: bool) -> None:
    """The lock of an engine's folder is inherited: who still holds it when the leader is gone?"""
    executable = fake(core_closes_fds=closes)
    (tmp_path / "lock").touch()
    wrapper = tmp_path / "wrapper"  # Popen closes other files: the lock is taken by a shell before exec
    wrapper.write_text(f'#!/bin/sh\nexec 9<>{tmp_path}/lock\nflock 9\nexec {executable} "$@"\n')
    wrapper.chmod(0o755)
    with started(wrapper, MODEL) as engine:
        wait_healthy(engine)
        engine.process.kill()
        engine.process.wait(10)
        assert len(engine.session_pids()) == 1
        with (tmp_path / "lock").open("w") as mine:
            if closes:
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"oom": True}, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate"),
        ({"oom_unless_max_model_len": 512}, "estimated maximum model length is 512"),
        ({"fail": "bad_quantization"}, "Value error, Unknown quantization method"),
        ({"fail": "unsupported_architecture"}, "does not recognize this architecture"),
        ({"fail": "no_weights"}, "Cannot find any model weights"),
        ({"fail": "gated"}, "You are trying to access a gated repo"),
        ({"refuse_port": True}, "[Errno 98] Address already in use"),
    ],
)
def test_failed_starts_speak_vllms_words(fake: Callable[..., Path], knobs: dict[str, Any], words: str) -> None:
    with started(fake(**knobs), MODEL) as engine:
        assert engine.wait_gone() == 1
        assert words in engine.log


def test_out_of_memory_unless_the_context_is_small(fake: Callable[..., Path]) -> None:
    executable = fake(oom_unless_max_model_len=512)
    with started(executable, MODEL, flags=("--max-model-len", "512")) as engine:
        wait_healthy(engine)


def test_core_that_dies_makes_health_503_and_the_server_exit_0(fake: Callable[..., Path]) -> None:
    with started(fake(core_death_exit_s=1.0), MODEL) as engine:
        wait_healthy(engine)
        (core,) = set(engine.session_pids()) - {engine.process.pid}
        os.kill(core, signal.SIGKILL)
        until(lambda: engine.client.get("/health").status_code == 503)
        assert engine.wait_gone() == 0


def test_death_on_the_first_request(fake: Callable[..., Path]) -> None:
    with started(fake(die_on_first_request="SIGILL"), MODEL) as engine:
        wait_healthy(engine)
        answer = engine.client.post("/v1/completions", json=ASK)
        assert answer.status_code == 500
        assert "EngineCore encountered an issue" in answer.json()["error"]["message"]
        assert engine.wait_gone() == 0


def test_death_after_some_requests(fake: Callable[..., Path]) -> None:
    with started(fake(die_after_requests=2), MODEL) as engine:
        wait_healthy(engine)
        for _ in range(2):
            assert engine.client.post("/v1/completions", json=ASK).status_code == 200
        assert engine.wait_gone() == 0


class Streaming(threading.Thread):
    """A client that reads a slow stream."""

    def __init__(self, engine: RunningEngine) -> None:
        super().__init__()
        self.uds = str(engine.folder / "s")
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        transport = httpx2.HTTPTransport(uds=self.uds)
        with (
            httpx2.Client(transport=transport, base_url="http://localhost", timeout=60) as client,
            client.stream("POST", "/v1/completions", json=ASK | {"stream": True}) as response,
        ):
            for line in response.iter_lines():
                self.lines += [line] if line else []


@pytest.mark.parametrize(
    ("flags", "reason"), [((), "abort"), (("--shutdown-timeout", "30"), "length")], ids=["abort", "drain"]
)
def test_sigterm_aborts_or_drains_streams(fake: Callable[..., Path], flags: tuple[str, ...], reason: str) -> None:
    with started(fake(slow_stream_s=0.3), MODEL, flags=flags) as engine:
        wait_healthy(engine)
        reader = Streaming(engine)
        until(lambda: reader.lines)
        assert 'vllm:num_requests_running{engine="0"' in engine.client.get("/metrics").text
        engine.process.send_signal(signal.SIGTERM)
        assert engine.wait_gone() == 0
        reader.join(10)
        assert f'"finish_reason":"{reason}"' in reader.lines[-2]
        assert reader.lines[-1] == "data: [DONE]"


def test_what_was_asked_can_be_read(fake: Callable[..., Path]) -> None:
    with started(fake(), MODEL) as engine:
        wait_healthy(engine)
        engine.client.post("/v1/completions", json=ASK)
        assert engine.client.get("/fake/requests").json() == {"requests": [{"path": "/v1/completions", "body": ASK}]}


def test_port_in_use(fake: Callable[..., Path]) -> None:
    executable = fake()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wrapper = executable.with_name("on-tcp")
        wrapper.write_text(f"#!/bin/sh\nexec {executable} serve m --host 127.0.0.1 --port {taken.getsockname()[1]}\n")
        wrapper.chmod(0o755)
        with started(wrapper, MODEL) as engine:
            assert engine.wait_gone() == 1
            assert "Address already in use" in engine.log
