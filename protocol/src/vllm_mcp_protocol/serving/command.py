"""The command that each server is: `vllm-model-manager [--transport http] | call TOOL … | tools`.

A server's `__main__` is `sys.exit(run(DESCRIPTION))`. Nothing of the SDK is imported before it is needed.
"""

import argparse
import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mcp_protocol.serving.description import ServerDescription

if TYPE_CHECKING:
    from vllm_mcp_protocol.serving.calling import ToolAnswer
    from vllm_mcp_protocol.serving.server import SuiteServer
    from vllm_mcp_protocol.settings import Settings

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130
_DEFAULT_PORT = 8100

_EPILOG = """\
examples:
  {command}                                    serve MCP on stdin and stdout
  {command} --transport http --port 8100       serve MCP at http://127.0.0.1:8100/mcp
  {command} tools                              list the tools and their parameters
  {command} call TOOL --parameter-name VALUE   call one tool; --json prints its structured result"""

_EXIT_CODES = "exit codes: 0 done, 1 the tool failed, 2 bad usage, 3 nothing to talk to\n"


def run(description: ServerDescription, argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # What follows `call` belongs to the tool: argparse would take its --json and --help for our own.
    ours = words.index("call") + 1 if "call" in words else len(words)
    options = _parser(description).parse_args(words[:ours], argparse.Namespace(words=words[ours:]))
    if options.version:
        print(f"{description.command} {_version(description)}")
        return 0
    try:
        return _run(description, options)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:  # `… tools | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_FAILED


def _run(description: ServerDescription, options: argparse.Namespace) -> int:
    with _collector_paused():
        from vllm_mcp_protocol.errors import SuiteError
        from vllm_mcp_protocol.settings import Settings, forget_unset

        forget_unset(os.environ)
        try:
            settings = Settings.from_environment(os.environ)
            _log_to_stderr(settings.log_level)
            server = load_server(description, settings)
        except SuiteError as error:
            return _refused(error)
    try:
        return _ACTIONS[options.action or options.transport](server, settings, options)
    except SuiteError as error:
        return _refused(error)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Importing makes many objects and no garbage: without the collector it is about 45 ms faster."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def load_server(description: ServerDescription, settings: "Settings") -> "SuiteServer":
    """The server that `description` names, built with `settings`."""
    module, _, function = description.module_build.partition(":")
    build: Callable[[Settings], SuiteServer] = getattr(import_module(module), function)
    return build(settings)


def _version(description: ServerDescription) -> str:
    """The package's own word: reading the installed metadata costs 30 ms and knows no source checkout."""
    return str(getattr(import_module(description.package), "__version__", "unknown"))


def _log_to_stderr(level: str) -> None:
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level, format=form, stream=sys.stderr)


def _refused(error: Any) -> int:
    from vllm_mcp_protocol.serving.calling import exit_code
    from vllm_mcp_protocol.serving.rendering import render_error

    print(render_error(error.info), file=sys.stderr)
    return max(exit_code(error.info), 1)


class _Parser(argparse.ArgumentParser):
    """Its help ends with the variables of the server, which are looked up only when somebody asks for it."""

    server: ServerDescription

    def format_help(self) -> str:
        parts = [super().format_help().rstrip()]
        if self.server.by_hand:
            names = ", ".join(self.server.by_hand)
            parts.append(f"by hand:\n  {names}\n  ({self.server.command} {self.server.by_hand[0]} --help tells more)")
        return "\n\n".join([*parts, "environment:\n" + _variable_lines(self.server), _EXIT_CODES])


def _variable_lines(description: ServerDescription) -> str:
    width = max((len(variable.name) for variable in description.environment), default=0)
    return "\n".join(
        f"  {variable.name:{width}}  {variable.description}" + (f" [{variable.default}]" if variable.default else "")
        for variable in description.environment
    )


def _parser(description: ServerDescription) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=description.command,
        description=description.summary,
        epilog=_EPILOG.format(command=description.command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.server = description
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio")
    parser.add_argument("--host", default="127.0.0.1", help="any other than loopback needs a token (http)")
    parser.add_argument("--port", type=_port, default=_DEFAULT_PORT, help="0: any free one (http)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token (http); else VLLM_MCP_TOKEN")
    actions = parser.add_subparsers(dest="action", metavar="{call,tools}", parser_class=argparse.ArgumentParser)
    actions.add_parser("call", help="call one tool", add_help=False)
    tools = actions.add_parser("tools", help="list the tools and their parameters")
    tools.add_argument("--json", action="store_true", help="print the tools' schemas")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: 0 to 65535")
    return port


def _serve_stdio(server: "SuiteServer", settings: "Settings", options: argparse.Namespace) -> int:
    import anyio

    anyio.run(server.run_stdio_async)
    return 0


def _serve_http(server: "SuiteServer", settings: "Settings", options: argparse.Namespace) -> int:
    import anyio

    from vllm_mcp_protocol.serving.http import checked_token, read_token, serve_http

    secret = settings.vllm_mcp_token
    token = secret.get_secret_value() if secret is not None else None
    if options.token_file is not None:
        token = read_token(options.token_file)
    anyio.run(serve_http, server, options.host, options.port, checked_token(options.host, token))
    return 0


def _tools(server: "SuiteServer", settings: "Settings", options: argparse.Namespace) -> int:
    import anyio

    listed = anyio.run(server.list_tools)
    if options.json:
        print(json.dumps([tool.model_dump(by_alias=True, exclude_none=True) for tool in listed]))
        return 0
    for tool in listed:
        print(f"{tool.name}: {tool.title}")
        for line in parameter_lines(tool.input_schema):
            print(f"  {line}")
    return 0


def _call(server: "SuiteServer", settings: "Settings", options: argparse.Namespace) -> int:
    words: list[str] = options.words
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {server.suite_description.command} call TOOL --parameter-name VALUE … [--json]")
        return 0 if words else _EXIT_USAGE
    name, *rest = words
    tool = server.registered_tools.get(name)
    if tool is not None and ("--help" in rest or "-h" in rest):
        print("\n".join([f"{name}: {tool.description}", *parameter_lines(tool.input_schema)]))
        return 0
    return call_and_print(server, name, rest, as_json=as_json)


def call_and_print(server: "SuiteServer", name: str, words: Sequence[str], *, as_json: bool) -> int:
    """Call the tool `name` with `words` as its arguments, print what it answers; the exit code.

    Raises UnknownArgument, BadInput for words that are no arguments.
    """
    import anyio

    from vllm_mcp_protocol.serving.calling import call_in_process, parse_tool_arguments

    tool = server.registered_tools.get(name)
    arguments = parse_tool_arguments(tool.input_schema, words) if tool is not None else {}
    with _progress_line() as on_progress:
        answer = anyio.run(call_in_process, server, name, arguments, on_progress)
    _print_answer(answer, as_json=as_json)
    return answer.exit_code


def _print_answer(answer: "ToolAnswer", *, as_json: bool) -> None:
    from vllm_mcp_protocol.serving.rendering import render, render_error

    if as_json:
        print(json.dumps(answer.payload, ensure_ascii=False))
    elif answer.error is None:
        print(render(answer.payload))
    if answer.error is not None:
        print(render_error(answer.error), file=sys.stderr)


def parameter_lines(schema: Mapping[str, Any]) -> list[str]:
    """One line per parameter: its option, what it may be, its default, what it means."""
    from vllm_mcp_protocol.serving.arguments import allowed

    required = schema.get("required", ())
    lines = []
    for name, part in schema.get("properties", {}).items():
        given = json.dumps(part["default"]) if part.get("default") not in (None, []) else ""
        default = " (required)" if name in required else f" [{given}]" if given else ""
        option = f"--{name.replace('_', '-')}"
        lines.append(f"{option}{default}: {part.get('description', '')} ({allowed(part)})")
    return lines


@contextmanager
def _progress_line() -> Iterator[Callable[[float, float | None, str | None], None] | None]:
    """Progress in one line of a terminal, which is wiped at the end; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(done: float, total: float | None, message: str | None) -> None:
        share = f"{done / total:4.0%} " if total else ""
        print(f"\r\033[K{share}{message or ''}"[:200], end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


_ACTIONS: Mapping[str, Callable[["SuiteServer", "Settings", argparse.Namespace], int]] = {
    "stdio": _serve_stdio,
    "http": _serve_http,
    "tools": _tools,
    "call": _call,
}
