"""By hand and never through a tool: the exporter for Prometheus, and the live page."""

import argparse
import os
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import anyio

from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.serving.http import checked_token, read_token
from vllm_mcp_protocol.settings import Settings, forget_unset

EXIT_DONE, EXIT_FAILED = 0, 1
_EXPORTER_PORT, _DASHBOARD_PORT = 9400, 9401


def run_command(argv: Sequence[str]) -> int:
    """Do one of the description's `by_hand`; the exit code: 0 done, 1 it failed. Bad usage exits with 2."""
    options = _parser().parse_args(argv)
    forget_unset(os.environ)
    try:
        return _serve(Settings.from_environment(os.environ), options)
    except SuiteError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm-performance-monitor", description="What is done by hand.")
    commands = parser.add_subparsers(dest="command", required=True)
    exporter = commands.add_parser("exporter", help="serve /metrics to Prometheus; a hub must run, none is started")
    _add_address(exporter, _EXPORTER_PORT)
    dashboard = commands.add_parser("dashboard", help="serve a live page to browsers; no hub is started for it either")
    _add_address(dashboard, _DASHBOARD_PORT)
    dashboard.add_argument("--open", action="store_true", help="show the page in the browser of this machine")
    return parser


def _add_address(command: argparse.ArgumentParser, port: int) -> None:
    command.add_argument("--host", default="127.0.0.1", help="any other than loopback needs a token [127.0.0.1]")
    command.add_argument("--port", type=_port, default=port, help="0: any free one [%(default)s]")
    command.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token; else VLLM_MCP_TOKEN")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: 0 to 65535")
    return port


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    secret = settings.vllm_mcp_token
    token = secret.get_secret_value() if secret is not None else None
    if options.token_file is not None:
        token = read_token(options.token_file)
    checked_token(options.host, token, could="read how the engines are")
    from vllm_performance_monitor import dashboard, exporter
    from vllm_performance_monitor.workplace import Workplace

    # Whoever only looks does not want a hub that nobody else uses; its absence is what they are told.
    work = Workplace(settings, Hub(settings, client=f"vllm-performance-monitor {options.command}", start=False))
    if options.command == "exporter":
        anyio.run(exporter.serve, work, options.host, options.port, token)
    else:
        anyio.run(dashboard.serve, work, options.host, options.port, token, _open if options.open else None)
    return EXIT_DONE


def _open(address: str) -> None:
    """In a thread: a browser of the terminal returns when it ends. The token is not in the address: other users see
    the command lines of this machine."""
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
