"""The command `vllm-mcp`: finds the subcommand, runs it, turns errors into a sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 bad usage, 3 nothing to talk to; 128 + signal when interrupted.
Everything heavy is imported inside the subcommands, so that `--version` and `--help` answer at once.
"""

import argparse
import io
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from vllm_mcp import __version__

if TYPE_CHECKING:
    from vllm_mcp_protocol.settings import Settings

_EPILOG = """\
examples:
  vllm-mcp demo                          see it work: load, ask, list, unload
  vllm-mcp tool load-model --model-id Qwen/Qwen3-0.6B
  vllm-mcp tool mcp_vllm-model-manager_list-models --json
  vllm-mcp status --watch

exit codes: 0 done, 1 failed, 2 bad usage, 3 nothing to talk to
"""


def build_parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    parser = argparse.ArgumentParser(
        prog="vllm-mcp",
        description="Load, serve and watch models on real vLLM engines.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vllm-mcp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", dest="as_json", help="answer as JSON on stdout")
    _add_work_commands(commands, common)
    _add_look_commands(commands, common)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_work_commands(commands: "_Commands", common: argparse.ArgumentParser) -> None:
    add = commands.add_parser
    demo = add("demo", parents=[common], help="load, ask, list, unload; leaves nothing behind")
    demo.add_argument("--model", metavar="ID", help="model to use (default: a tiny one without a GPU)")
    demo.add_argument("--keep", action="store_true", help="leave the demo's hub and engine running")
    # Shown here for --help only: `tools.run` reads their arguments, which depend on the tool.
    add("tool", help="call one tool: NAME --param value …, or --list")
    add("call", help="the same as tool")
    up = add("up", parents=[common], help="start the hub and show what it does")
    up.add_argument("--detach", action="store_true", help="start it and return")
    down = add("down", parents=[common], help="unload every engine and end the hub")
    down.add_argument("--force", action="store_true", help="do not ask, and drop requests that are running")
    engine = add("engine", help="the environment that vLLM runs in").add_subparsers(
        dest="engine_command", metavar="install|show", required=True
    )
    install = engine.add_parser("install", parents=[common], help="build it")
    kind = install.add_mutually_exclusive_group()
    kind.add_argument("--cpu", action="store_const", const="cpu", dest="kind", help="vLLM's CPU engine")
    kind.add_argument("--cuda", action="store_const", const="cuda", dest="kind", help="vLLM for NVIDIA GPUs")
    install.add_argument("--reinstall", action="store_true", help="build it anew, also when it is there")
    engine.add_parser("show", parents=[common], help="which vllm is used, and why")


def _add_look_commands(commands: "_Commands", common: argparse.ArgumentParser) -> None:
    add = commands.add_parser
    status = add("status", parents=[common], help="devices and engines")
    status.add_argument("--watch", "-w", action="store_true", help="keep showing, until Ctrl-C")
    add("doctor", parents=[common], help="what is missing or wrong here, and the next step")
    shell = add("shell-init", help="shell function that answers `crush --tool …`")
    shell.add_argument("shell", choices=("bash", "zsh", "fish"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # LC_ALL=C: a "…" must not be a traceback
    given = list(sys.argv[1:] if argv is None else argv)
    # Not argparse's: it does not know a tool's parameters, and --help after a tool's name means the tool.
    is_tool = given[:1] in (["tool"], ["call"])
    arguments = None if is_tool else build_parser().parse_args(given)
    as_json = "--json" in given
    try:
        return _run_tool(given[1:]) if arguments is None else _run(arguments)
    except BrokenPipeError:
        # `vllm-mcp … | head`: the reader has enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _os_error(error, as_json=as_json)
    except Exception as error:
        return _foreseen(error, as_json=as_json)


def _foreseen(error: Exception, *, as_json: bool) -> int:
    from vllm_mcp.render import print_error
    from vllm_mcp_protocol.errors import SuiteError

    if not isinstance(error, SuiteError):
        raise error
    return print_error(error.info, as_json=as_json)


def _os_error(error: OSError, *, as_json: bool) -> int:
    from vllm_mcp.render import print_error
    from vllm_mcp_protocol.errors import ErrorInfo

    where = f" ({error.filename})" if error.filename else ""
    message = f"The system refused: {error.strerror or error}{where}."
    return print_error(ErrorInfo(code="SYSTEM_ERROR", message=message), as_json=as_json)


def _settings() -> "Settings":
    from vllm_mcp_protocol.settings import Settings, forget_unset

    forget_unset(os.environ)
    return Settings.from_environment(os.environ)


def _run_tool(argv: list[str]) -> int:
    from vllm_mcp import tools

    return tools.run(argv, _settings())


def _run(arguments: argparse.Namespace) -> int:
    runner: Callable[[argparse.Namespace], int] = _RUNNERS[arguments.command]
    return runner(arguments)


def _async(work: Callable[[], Awaitable[int]]) -> int:
    from vllm_mcp.running import run_interruptible

    return run_interruptible(work)


def _demo(arguments: argparse.Namespace) -> int:
    from vllm_mcp.demo import run_demo

    return run_demo(_settings(), model=arguments.model, keep=arguments.keep, as_json=arguments.as_json)


def _up(arguments: argparse.Namespace) -> int:
    from vllm_mcp.up import run_up

    settings = _settings()
    return _async(lambda: run_up(settings, detach=arguments.detach, as_json=arguments.as_json))


def _down(arguments: argparse.Namespace) -> int:
    from vllm_mcp.up import run_down

    return run_down(_settings(), force=arguments.force, as_json=arguments.as_json)


def _status(arguments: argparse.Namespace) -> int:
    from vllm_mcp.status import show_status

    settings = _settings()
    return _async(lambda: show_status(settings, watch=arguments.watch, as_json=arguments.as_json))


def _doctor(arguments: argparse.Namespace) -> int:
    from vllm_mcp.doctor import run_doctor

    return run_doctor(dict(os.environ), as_json=arguments.as_json)


def _engine(arguments: argparse.Namespace) -> int:
    from vllm_mcp import engine

    if arguments.engine_command == "show":
        return engine.show(_settings(), dict(os.environ), as_json=arguments.as_json)
    return engine.install(_settings(), arguments.kind, reinstall=arguments.reinstall, as_json=arguments.as_json)


def _shell_init(arguments: argparse.Namespace) -> int:
    from vllm_mcp.shell_init import shell_init

    print(shell_init(arguments.shell), end="")
    return 0


_RUNNERS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": _demo,
    "up": _up,
    "down": _down,
    "status": _status,
    "doctor": _doctor,
    "engine": _engine,
    "shell-init": _shell_init,
}
