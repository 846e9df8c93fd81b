#!/usr/bin/env python3
"""A stand-in for the `vllm` command: real processes, signals, sockets and log lines, without a model.

    fake_vllm.py --version | serve --help=all | serve MODEL [flags of vLLM 0.32]

Standard library only, ready in 0.2 s. Its behaviour is set by `Knobs` (fake_args.py); what it answers is held
against the recordings and against the real engine by tests/engine/test_contract.py.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

HERE = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(HERE))  # started as a file: make `tests.fakes` importable

from tests.fakes import fake_words as words  # noqa: E402
from tests.fakes.fake_args import Arguments, Knobs, UsageError, help_text, parse, read_knobs  # noqa: E402
from tests.fakes.fake_engine import Engine, kv_cache_tokens  # noqa: E402
from tests.fakes.fake_http import Server  # noqa: E402

POLL_S = 0.02


class Process:
    """The API server process: its children, its signals, its end."""

    def __init__(self, args: Arguments, knobs: Knobs) -> None:
        self.args, self.knobs = args, knobs
        self.pid = os.getpid()
        self.core = 0
        self.ready = False
        self.stop = threading.Event()
        self.swallowed = 0
        self.engine = Engine(args, knobs, dict(os.environ))
        self.engine.kill_core = lambda name: os.kill(self.core, getattr(signal, name))

    def run(self) -> NoReturn:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self._refuse_configuration()
        server = self._bind()
        words.banner(self.pid, self.args.model, self.knobs.version, self.args.max_model_len)
        self.core = self._fork_core(server)
        self._load()
        server.server_activate()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        words.serving(self.pid, self._address())
        self.ready = True
        self._watch()

    # signals

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if self.knobs.deaf:
            return
        if self.ready:
            self.stop.set()
        elif self.knobs.swallow_first_sigterm and not self.swallowed:
            self.swallowed = number
        else:
            self._die_while_starting(signal.SIGINT if self.swallowed else number)

    def _die_while_starting(self, number: int) -> None:
        self._end_core()
        signal.signal(number, signal.SIG_DFL)
        os.kill(self.pid, number)

    # the start

    def _refuse_configuration(self) -> None:
        fail = self.knobs.fail
        if fail in words.CONFIG_ERRORS:
            words.config_error(words.CONFIG_ERRORS[fail])
        elif fail in words.PLAIN_ERRORS:
            words.traceback_ending_in(words.PLAIN_ERRORS[fail])
        elif fail is None or fail in words.CORE_ERRORS:
            return
        else:
            words.say(f"fake.json: fail={fail!r} is no known failure")
        os._exit(1)

    def _bind(self) -> Server:
        uds = self.args.one("--uds", "") or None
        host, port = self.args.one("--host", "0.0.0.0"), self.args.whole("--port", 8000)
        try:
            if self.knobs.refuse_port:
                raise OSError(98, "Address already in use")
            if uds and os.path.exists(uds):
                os.unlink(uds)
            return Server(self.engine, uds, host, port)
        except OSError as error:
            words.traceback_ending_in(words.PORT_IN_USE if error.errno == 98 else f"OSError: {error}")
            os._exit(1)

    def _address(self) -> str:
        if self.args.on("--uds"):
            return f"unix:{self.args.one('--uds', '')}"
        return f"http://{self.args.one('--host', '0.0.0.0')}:{self.args.whole('--port', 8000)}"

    def _load(self) -> None:
        cuda = "cpu" not in self.knobs.version
        steps = [*words.loading_steps(self.core, self.knobs.version, self.args.model)]
        steps += [*words.cuda_steps(self.core)] if cuda else []
        for step in steps:
            self._pause(self.knobs.load_s / len(steps))
            step()
        self._run_out_of_memory()
        tokens = kv_cache_tokens(self.args)
        words.warmed_up(self.core, "GPU" if cuda else "CPU", tokens, self.args.max_model_len)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))  # short, so that signals are handled at once

    def _run_out_of_memory(self) -> None:
        fits = self.knobs.oom_unless_max_model_len
        cause = words.CORE_ERRORS["oom"] if self.knobs.oom else words.CORE_ERRORS.get(self.knobs.fail or "")
        if fits is not None and self.args.max_model_len > fits:
            cause = words.NO_ROOM_FOR_CONTEXT.format(asked=self.args.max_model_len, fits=fits)
        if cause:
            words.core_error(self.core, cause)
            self._end_core()
            os._exit(1)

    # the engine core

    def _fork_core(self, server: Server) -> int:
        child = os.fork()
        if child:
            return child
        server.socket.close()
        if self.knobs.core_closes_fds:
            os.closerange(3, 4096)
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            heeds = not self.knobs.orphan and not self.knobs.deaf and number == signal.SIGTERM
            signal.signal(number, signal.SIG_DFL if heeds else signal.SIG_IGN)
        with open("/proc/self/comm", "w", encoding="ascii") as name:
            name.write("VLLM::EngineCor")
        while True:
            signal.pause()

    def _end_core(self) -> None:
        if self.core and not self.knobs.orphan:
            os.kill(self.core, signal.SIGKILL)
            os.waitpid(self.core, 0)
            self.core = 0

    def _core_died(self) -> bool:
        found, _status = os.waitpid(self.core, os.WNOHANG)
        return found == self.core

    # the end

    def _watch(self) -> NoReturn:
        while not self.stop.wait(POLL_S):
            if self._core_died():
                self.core = 0
                self.engine.core_dead.set()
                words.api_line(self.pid, "core_client.py:700", "Engine core proc died unexpectedly.", "ERROR")
                self._pause(self.knobs.core_death_exit_s)
                os._exit(0)
        self.engine.drain(float(self.args.one("--shutdown-timeout", "0")))
        self._end_core()
        words.shut_down(self.pid)
        os._exit(0)


def main(argv: list[str]) -> None:
    """Run as `vllm` would with `argv`; ends the process."""
    folder = os.environ.get("FAKE_VLLM_FOLDER", HERE)
    knobs = read_knobs(folder, os.environ)
    commands: dict[str, Callable[[], None]] = {
        "--version": lambda: print(knobs.version),
        "-v": lambda: print(knobs.version),
        "serve --help=all": lambda: print(help_text()),
        "serve --help": lambda: print("usage: vllm serve [model_tag] [options]"),
    }
    command = commands.get(" ".join(argv))
    if command:
        return command()
    try:
        if argv[:1] != ["serve"]:
            raise UsageError(f"invalid choice: {' '.join(argv[:1])!r}")
        args = parse(argv[1:])
        for flag in ("--max-model-len", "--kv-cache-memory-bytes", "--port"):
            args.whole(flag, 0)
    except UsageError as error:
        words.usage_error(str(error))
        sys.exit(2)
    Process(args, knobs).run()


if __name__ == "__main__":
    main(sys.argv[1:])
