"""`vllm-mcp tool NAME --param value …` (also `call`): one tool of one server, called in this process.

NAME is what any client shows: `mcp_<server>_<tool>` (Crush), `mcp__<server>__<tool>` (Claude Code),
`<server>_<tool>` (opencode), `<server> <tool>`, or `<tool>` alone. Dashes and underscores are alike.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vllm_mcp.render import BAD_USAGE, DONE, console, plain_table, print_error, print_json, print_result
from vllm_mcp_protocol.errors import ToolNotFound
from vllm_mcp_protocol.settings import Settings

if TYPE_CHECKING:
    from mcp_types import Tool

    from vllm_mcp_protocol.serving.calling import ToolAnswer
    from vllm_mcp_protocol.serving.description import ServerDescription
    from vllm_mcp_protocol.serving.server import SuiteServer

_USAGE = """\
usage: vllm-mcp tool NAME [--parameter VALUE ...] [--json]
       vllm-mcp tool NAME --help      what NAME does, and its parameters
       vllm-mcp tool --list           every tool of every server

NAME: load-model, vllm-model-manager load-model, mcp_vllm-model-manager_load-model, ..."""

_SIGNALLED = 128
_HELP = ("-h", "--help")


@dataclass(frozen=True)
class Installed:
    """A server of the suite that is installed here, built with the caller's settings."""

    description: "ServerDescription"
    server: "SuiteServer"

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def tools(self) -> Mapping[str, Any]:
        """All tools by name, also those that permissions refuse: the refusal then says why."""
        return self.server.registered_tools


def run(argv: Sequence[str], settings: Settings) -> int:
    """Do what `vllm-mcp tool ARGV` asks. Returns the exit code; raises SuiteError for bad usage."""
    as_json = "--json" in argv
    words = [word for word in argv if word != "--json"]
    if not words:
        print(_USAGE, file=sys.stderr)
        return BAD_USAGE
    if words[0] in _HELP:
        print(_USAGE)
        return DONE
    logging.basicConfig(level=settings.log_level, format="%(levelname)s %(name)s: %(message)s")
    return answer(words, list(installed_servers(settings)), as_json=as_json)


def answer(words: Sequence[str], servers: "Sequence[Installed]", *, as_json: bool) -> int:
    """Do what the words after `vllm-mcp tool` ask of `servers`. Returns the exit code; raises SuiteError."""
    if words[0] == "--list":
        return _list(servers, as_json)
    found, tool, rest = resolve(words, servers)
    if any(word in _HELP for word in rest):
        return _help(found, tool, as_json)
    return _call(found, tool, rest, as_json)


def installed_servers(settings: Settings) -> Iterator[Installed]:
    """The servers of the suite whose packages are here."""
    from vllm_mcp.bundles import SERVERS
    from vllm_mcp_protocol.serving.command import load_server

    for module in SERVERS:
        try:
            description = import_module(module).DESCRIPTION
        except ModuleNotFoundError as error:
            if error.name not in (module, module.partition(".")[0]):
                raise
            continue
        yield Installed(description, load_server(description, settings))


# -- names --------------------------------------------------------------------------------------------------


def resolve(words: Sequence[str], servers: Sequence[Installed]) -> tuple[Installed, str, list[str]]:
    """The server, the tool's name there, and the words after the name.

    Raises ToolNotFound for a name that is unknown or belongs to several servers.
    """
    first, *rest = words
    for server in servers:
        if rest and _plain(first) == _plain(server.name) and not rest[0].startswith("-"):
            return server, _tool_of(server, rest[0]), rest[1:]
    found = [(server, tool) for server in servers for tool in server.tools if _is_name(first, server, tool)]
    if len(found) == 1:
        return *found[0], rest
    raise _ambiguous(first, found) if found else _unknown(first, servers)


def _plain(name: str) -> str:
    return re.sub("[-_]+", "-", name).lower()


def _is_name(given: str, server: Installed, tool: str) -> bool:
    spellings = (tool, f"{server.name}-{tool}", f"mcp-{server.name}-{tool}")
    return _plain(given) in map(_plain, spellings)


def _tool_of(server: Installed, given: str) -> str:
    for tool in server.tools:
        if _plain(tool) == _plain(given):
            return tool
    raise _unknown(given, [server])


def _ambiguous(given: str, found: Sequence[tuple[Installed, str]]) -> ToolNotFound:
    names = [f"mcp_{server.name}_{tool}" for server, tool in found]
    return ToolNotFound(
        f"{given} is a tool of several servers: {', '.join(names)}.",
        suggestion=f"use {names[0]}",
        allowed=names,
    )


def _unknown(given: str, servers: Sequence[Installed]) -> ToolNotFound:
    from difflib import get_close_matches

    by_plain = {_plain(name): tool for s in servers for tool in s.tools for name in (tool, f"mcp-{s.name}-{tool}")}
    close = get_close_matches(_plain(given), by_plain, n=1, cutoff=0.6)
    hint = f" Did you mean {by_plain[close[0]]}?" if close else ""
    names = ", ".join(server.name for server in servers) or "no server at all"
    return ToolNotFound(
        f"There is no tool {given[:100]!r}.{hint} Installed here: {names}.",
        suggestion="list them with `vllm-mcp tool --list`",
        closest=by_plain[close[0]] if close else None,
    )


# -- help ---------------------------------------------------------------------------------------------------


def _list(servers: Sequence[Installed], as_json: bool) -> int:
    import anyio

    listed = [(server, anyio.run(server.server.list_tools)) for server in servers]
    if as_json:
        rows = [_tool_payload(server, tool) for server, tools in listed for tool in tools]
        print_json({"success": True, "tools": rows, "total_count": len(rows)})
        return DONE
    out = console()
    for server, tools in listed:
        out.print(f"{server.name}: {server.description.summary}", style="bold")
        table = plain_table("tool", "what it does", "")
        for tool in tools:
            table.add_row(f"  {tool.name}", tool.title or "", _kind(tool))
        table.show_header = False
        out.print(table)
    out.print("\nParameters: vllm-mcp tool NAME --help", style="dim")
    return DONE


def _kind(tool: "Tool") -> str:
    hints = tool.annotations
    if hints is None or not (hints.read_only_hint or hints.destructive_hint):
        return ""
    return "only looks" if hints.read_only_hint else "may destroy"


def _tool_payload(server: Installed, tool: Any) -> dict[str, Any]:
    return {
        "server": server.name,
        "tool": tool.name,
        "name": f"mcp_{server.name}_{tool.name}",
        "title": tool.title,
        "description": tool.description,
        "input_schema": tool.input_schema,
    }


def _help(server: Installed, name: str, as_json: bool) -> int:
    from vllm_mcp_protocol.serving.arguments import allowed

    tool = server.tools[name]
    if as_json:
        print_json({"success": True} | _tool_payload(server, tool))
        return DONE
    out = console()
    out.print(f"{server.name} {name}: {tool.title}", style="bold")
    out.print(tool.description)
    properties: Mapping[str, Any] = tool.input_schema["properties"]
    required = tool.input_schema.get("required", ())
    if properties:
        out.print()
    for parameter, schema in properties.items():
        default = f"default {json.dumps(schema['default'])}" if "default" in schema else ""
        facts = "; ".join(filter(None, ("required" if parameter in required else default, allowed(schema))))
        _print_parameter(parameter, schema.get("description", ""), facts)
    return DONE


def _print_parameter(name: str, description: str, facts: str) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    row = Table.grid(padding=(0, 2))
    row.add_column(width=26, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text(f"--{name.replace('_', '-')}", style="bold"), description)
    row.add_row("", Text(facts, style="dim"))
    out.print(row)


# -- the call -----------------------------------------------------------------------------------------------


def _call(found: Installed, tool: str, words: Sequence[str], as_json: bool) -> int:
    """Call the tool with its progress on stderr; its answer goes to stdout."""
    from vllm_mcp.running import run_interruptible
    from vllm_mcp_protocol.serving.calling import parse_tool_arguments

    arguments = parse_tool_arguments(found.tools[tool].input_schema, words)

    async def work() -> int:
        return _show(await _answer(found.server, tool, arguments), as_json)

    code = run_interruptible(work)
    if code > _SIGNALLED:
        console(stderr=True).print(f"{tool} was cancelled.")
    return code


async def _answer(server: "SuiteServer", tool: str, arguments: Mapping[str, Any]) -> "ToolAnswer":
    from vllm_mcp.progress import progress_display
    from vllm_mcp_protocol.serving.calling import call_in_process

    with progress_display(tool) as on_progress:
        return await call_in_process(server, tool, arguments, on_progress)


def _show(answer: "ToolAnswer", as_json: bool) -> int:
    if as_json:
        print_json(answer.payload)
    if answer.error is not None:
        print_error(answer.error)
    elif not as_json:
        print_result(answer.payload)
    return answer.exit_code
