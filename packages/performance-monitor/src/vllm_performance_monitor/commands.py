"""By hand and never through a tool: the exporter for Prometheus."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.serving.http import checked_token, read_token
from vllm_mcp_protocol.settings import Settings, forget_unset

EXIT_DONE, EXIT_FAILED = 0, 1
_DEFAULT_PORT = 9400


def run_command(argv: Sequence[str]) -> int:
    """Do one of the description's `by_hand`; the exit code: 0 done, 1 it failed. Bad usage exits with 2."""
    options = _parser().parse_args(argv)
    forget_unset(os.environ)
    try:
        return _export(Settings.from_environment(os.environ), options)
    except SuiteError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm-performance-monitor", description="What is done by hand.")
    commands = parser.add_subparsers(dest="command", required=True)
    exporter = commands.add_parser("exporter", help="serve /metrics to Prometheus; a hub must run, none is started")
    exporter.add_argument("--host", default="127.0.0.1", help="any other than loopback needs a token [127.0.0.1]")
    exporter.add_argument("--port", type=_port, default=_DEFAULT_PORT, help="0: any free one [%(default)s]")
    exporter.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token; else VLLM_MCP_TOKEN")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: 0 to 65535")
    return port


def _export(settings: Settings, options: argparse.Namespace) -> int:
    secret = settings.vllm_mcp_token
    token = secret.get_secret_value() if secret is not None else None
    if options.token_file is not None:
        token = read_token(options.token_file)
    checked_token(options.host, token, could="read how the engines are")
    from vllm_performance_monitor.exporter import serve
    from vllm_performance_monitor.workplace import Workplace

    # Whoever scrapes does not want a hub that nobody else uses; its absence is what they are told.
    work = Workplace(settings, Hub(settings, client="vllm-performance-monitor exporter", start=False))
    anyio.run(serve, work, options.host, options.port, token)
    return EXIT_DONE
