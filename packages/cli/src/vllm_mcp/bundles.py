"""Client configurations and the published tool definitions, generated from one `ServerDescription` per server.

    bundles/<server>.json                    one component, in the format of claude-code-templates
    bundles/vllm-complete-integration.json   all servers in one component
    mcp-vllm-integration.json                a complete configuration for Crush
    protocol/vllm-tool-definitions.json      every tool of every server, as `tools/list` shows it

A server joins all of them by having its description module in `SERVERS`; `python -m vllm_mcp.bundles` writes
the files, `--check` says which are stale. Values are written as `${NAME:-default}`, which Crush and Claude
Code both expand; a variable that is unset then arrives empty, and the suite reads empty as unset.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mcp import __version__
from vllm_mcp_protocol.serving.description import ServerDescription

if TYPE_CHECKING:
    from vllm_mcp_protocol.serving.server import SuiteServer
    from vllm_mcp_protocol.serving.tools import SuiteTool

SERVERS = (
    "vllm_model_manager.description",
    "vllm_auto_discovery.description",
    "vllm_state_persistence.description",
    "vllm_performance_monitor.description",
)
"""Modules that export `DESCRIPTION`, in the order in which clients show them."""

COMPLETE = "vllm-complete-integration"
CRUSH_CONFIG = "mcp-vllm-integration.json"
TOOL_DEFINITIONS = "protocol/vllm-tool-definitions.json"
GATEWAY = "http://127.0.0.1:8099"
START_TIMEOUT_S = 60
"""The first `uvx` start downloads 50 packages: 10–20 s here, and Crush gives up after 10 s by default.
Below 1000, because Claude Code reads the same key as milliseconds and ignores such a value."""

Command = Callable[[ServerDescription], list[str]]
"""How a server is started: the program and its arguments."""


def descriptions() -> tuple[ServerDescription, ...]:
    """The servers of the suite."""
    return tuple(importlib.import_module(name).DESCRIPTION for name in SERVERS)


def from_index(server: ServerDescription) -> list[str]:
    """Start the published package in an environment of its own, at the version of this suite."""
    return ["uvx", "--from", f"{server.distribution}=={__version__}", server.command]


def from_here(server: ServerDescription) -> list[str]:
    """Start the command beside this Python: for a clone or an environment that is not published."""
    return [str(Path(sys.executable).parent / server.command)]


def component(servers: Iterable[ServerDescription], command: Command = from_index) -> dict[str, Any]:
    """`servers` as a component of claude-code-templates, whose `mcpServers` it merges into `.mcp.json`."""
    return {
        "mcpServers": {server.name: {"description": server.summary, **_stdio(server, command)} for server in servers}
    }


def crush_config(
    servers: Iterable[ServerDescription],
    read_only: Mapping[str, Sequence[str]],
    command: Command = from_index,
) -> dict[str, Any]:
    """A whole `crush.json`; `read_only` names, per server, the tools that need no question to the user."""
    listed = tuple(servers)
    return {
        "$schema": "https://charm.land/crush.json",
        "providers": {
            "vllm": {
                "name": "vLLM",
                "type": "openai-compat",
                "base_url": f"${{VLLM_API_ENDPOINT:-{GATEWAY}}}/v1",
                "api_key": "${VLLM_API_KEY:-none}",
                "models": [],
            }
        },
        "mcp": {server.name: {**_stdio(server, command), "timeout": START_TIMEOUT_S} for server in listed},
        "permissions": {
            "allowed_tools": [f"mcp_{server.name}_{tool}" for server in listed for tool in read_only[server.name]]
        },
    }


def _stdio(server: ServerDescription, command: Command) -> dict[str, Any]:
    program, *arguments = command(server)
    return {
        "type": "stdio",
        "command": program,
        "args": arguments,
        "env": {variable.name: f"${{{variable.name}:-{variable.default}}}" for variable in server.environment},
    }


def registered_tools(server: ServerDescription) -> Mapping[str, "SuiteTool"]:
    """The server's tools, taken from the server itself."""
    from vllm_mcp_protocol.settings import Settings

    module, _, function = server.module_build.partition(":")
    built: SuiteServer = getattr(importlib.import_module(module), function)(Settings.from_environment({}))
    return built.registered_tools


def read_only_tools(server: ServerDescription) -> list[str]:
    """Names of the server's tools that only look, taken from the annotations of the server itself."""
    return [name for name, tool in registered_tools(server).items() if tool.read_only]


def tool_definitions(servers: Iterable[ServerDescription]) -> dict[str, Any]:
    """Every tool as clients see it. A difference in this file is a change of the public interface."""
    return {
        "version": __version__,
        "servers": {
            server.name: [
                tool.listed.model_dump(mode="json", by_alias=True, exclude_none=True)
                for tool in registered_tools(server).values()
            ]
            for server in servers
        },
    }


def render(servers: Sequence[ServerDescription], command: Command = from_index) -> dict[str, str]:
    """Every generated file: its path below the repository's root, and its text."""
    read_only = {server.name: read_only_tools(server) for server in servers}
    bundles = {server.name: component([server], command) for server in servers}
    bundles[COMPLETE] = component(servers, command)
    files = {f"bundles/{name}.json": content for name, content in bundles.items()}
    files[CRUSH_CONFIG] = crush_config(servers, read_only, command)
    files[TOOL_DEFINITIONS] = tool_definitions(servers)
    return {path: json.dumps(content, indent=2) + "\n" for path, content in files.items()}


def write_bundles(root: Path, check: bool, command: Command = from_index) -> list[Path]:
    """Bring the files under `root` up to date, or with `check` only look; the files that were not."""
    stale: list[Path] = []
    for name, text in render(descriptions(), command).items():
        path = root / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return stale


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 when `--check` finds a stale file."""
    parser = argparse.ArgumentParser(prog="python -m vllm_mcp.bundles", description="Write the bundles.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="folder to write into (default: here)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    parser.add_argument("--here", action="store_true", help="start the commands of this environment, not uvx")
    arguments = parser.parse_args(argv)
    command = from_here if arguments.here else from_index
    stale = write_bundles(arguments.root, arguments.check, command)
    for path in stale:
        print(f"{'stale' if arguments.check else 'wrote'} {path}")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
