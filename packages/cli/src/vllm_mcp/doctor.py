"""`vllm-mcp doctor`: everything a load needs, checked in order, each with a next step. Changes nothing."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vllm_mcp import engine_checks, host_checks
from vllm_mcp.findings import Finding, Level, blocking, ok, warning
from vllm_mcp.render import DONE, FAILED, console, print_json
from vllm_mcp.status import engines_without_hub
from vllm_mcp_protocol.errors import SettingError, SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.paths import hub_runs, state_dir
from vllm_mcp_protocol.settings import Settings

if TYPE_CHECKING:
    from vllm_mcp_protocol.model import HubState

_MARKS = {
    Level.OK: ("✓", "green"),
    Level.NOTE: ("·", "dim"),
    Level.WARNING: ("!", "yellow"),
    Level.BLOCKING: ("✗", "bold red"),
}
_MESSAGE_COLUMN = 16
_PLAIN_MARKS = {Level.OK: "ok", Level.NOTE: "--", Level.WARNING: "!!", Level.BLOCKING: "XX"}
"""For terminals and files whose encoding has no check mark."""


def run_doctor(env: Mapping[str, str], *, as_json: bool) -> int:
    """Print every finding as it is made. Returns 0 when nothing blocks, else 1."""
    findings: list[Finding] = []
    for finding in examine(env):
        findings.append(finding)
        if not as_json:
            _print(finding)
    blocked = [finding for finding in findings if finding.level is Level.BLOCKING]
    if as_json:
        print_json(_payload(findings, blocked))
    else:
        _print_summary(findings, blocked)
    return FAILED if blocked else DONE


def examine(env: Mapping[str, str]) -> Iterator[Finding]:
    """Every check, in the order in which a load would meet its subject."""
    yield host_checks.python_version()
    settings, unreadable = readable_settings(env)
    yield from unreadable
    gpus = host_checks.gpu_names()
    for check in _checks(settings, env, gpus):
        yield from check()


def _checks(
    settings: Settings, env: Mapping[str, str], gpus: host_checks.Gpus
) -> tuple[Callable[[], Iterable[Finding]], ...]:
    return (
        lambda: engine_checks.executable(settings, env, has_gpu=bool(gpus.names)),
        lambda: [engine_checks.managed_environment(settings)],
        lambda: [host_checks.gpu(gpus)],
        lambda: [host_checks.memory()],
        lambda: host_checks.bfloat16(has_gpu=bool(gpus.names)),
        lambda: host_checks.disk(settings),
        lambda: [host_checks.model_cache(settings)],
        lambda: [host_checks.token(settings)],
        lambda: [host_checks.state_folder(settings)],
        lambda: [hub_finding(settings)],
        lambda: engine_checks.environment_variables(env),
        lambda: [host_checks.node(env)],
    )


def readable_settings(env: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """The settings without the variables that cannot be read, and one finding for each of those."""
    given, findings = dict(env), []
    while True:
        try:
            settings = Settings.from_environment(given)
        except SettingError as error:
            variable = str(error.info.details["variable"])
            findings.append(blocking("settings", error.info.message, error.info.suggestion))
            if given.pop(variable, None) is None:
                return Settings(vllm_hub_dir=env.get("VLLM_HUB_DIR")), findings
        else:
            return settings, findings or [ok("settings", "every variable that is set can be read")]


def hub_finding(settings: Settings) -> Finding:
    """Whether a hub runs and answers; none is as good as one, because loads start it."""
    folder = state_dir(settings)
    if not hub_runs(folder):
        left = engines_without_hub(folder)
        if left:
            names = ", ".join(left)
            return warning(
                "hub",
                f"none runs, but engines may: {names}",
                "`vllm-mcp up --detach` starts one, which adopts them",
            )
        return ok("hub", "none runs; the first load starts one")
    try:
        state = asyncio.run(_ask(settings))
    except SuiteError as error:
        return blocking("hub", error.info.message, error.info.suggestion)
    busy = f"{len(state.engines)} engine{'' if len(state.engines) == 1 else 's'}"
    return ok("hub", f"version {state.version}, pid {state.pid}, {busy}")


async def _ask(settings: Settings) -> "HubState":
    async with Hub(settings, client="vllm-mcp doctor", start=False) as hub:
        return await hub.state()


def _print(finding: Finding) -> None:
    from textwrap import wrap

    from rich.text import Text

    out = console()
    mark, style = _MARKS[finding.level]
    if not _can_show(out.encoding):
        mark = _PLAIN_MARKS[finding.level]
    room = max(20, out.width - _MESSAGE_COLUMN - 1)
    first, *more = wrap(finding.message, room, break_on_hyphens=False) or [""]
    head = Text.assemble((mark, style), f"{'':{3 - len(mark)}}", (f"{finding.check:<13}", "bold"), first)
    out.print(head, soft_wrap=True)
    for line in more:
        out.print(" " * _MESSAGE_COLUMN + line, soft_wrap=True)
    style = "" if finding.level is Level.BLOCKING else "dim"
    for line in wrap(f"Next: {finding.next}", room, break_on_hyphens=False) if finding.next else ():
        out.print(" " * _MESSAGE_COLUMN + line, style=style, soft_wrap=True)


def _can_show(encoding: str) -> bool:
    try:
        "✓✗·".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _print_summary(findings: list[Finding], blocked: list[Finding]) -> None:
    warnings = sum(finding.level is Level.WARNING for finding in findings)
    out = console()
    out.print()
    if blocked:
        names = ", ".join(dict.fromkeys(finding.check for finding in blocked))
        out.print(f"Models cannot be loaded yet: {names}.", style="bold red")
    elif warnings:
        out.print(f"Ready to load models; {warnings} warning{'' if warnings == 1 else 's'} above.", style="bold")
    else:
        out.print("Ready to load models.", style="bold green")


def _payload(findings: list[Finding], blocked: list[Finding]) -> dict[str, Any]:
    checks = [{"check": f.check, "level": f.level.value, "message": f.message, "next": f.next} for f in findings]
    return {"success": not blocked, "blocking": len(blocked), "checks": checks}
