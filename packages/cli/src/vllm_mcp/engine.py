"""`vllm-mcp engine install | show`: the environment that vLLM runs in."""

import time
from collections.abc import Callable, Mapping
from typing import Literal

from vllm_mcp.engine_checks import how_found, hub_toml_executable
from vllm_mcp.progress import working
from vllm_mcp.render import DONE, console, print_json
from vllm_mcp_protocol.engine_env import facts_dir, read_vllm_facts, require_executable
from vllm_mcp_protocol.hub_config import read_config
from vllm_mcp_protocol.paths import managed_engine_root, prepare_state_dir, state_dir
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import format_seconds

Kind = Literal["cpu", "cuda"]


def told(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` without uv's list of 148 packages and its advice to activate the environment."""

    def progress(line: str) -> None:
        if line.strip() and not line.lstrip().startswith(("+ ", "- ", "~ ", "Activate with")):
            say(line)

    return progress


def install(settings: Settings, kind: Kind | None, *, reinstall: bool = False, as_json: bool) -> int:
    """Build the environment and have the hub use it; progress goes to stderr."""
    from vllm_mcp import engine_install

    root = managed_engine_root(settings)
    hub_toml = prepare_state_dir(state_dir(settings)) / "hub.toml"
    read_config(hub_toml)  # refused now, not after the minutes that a build takes
    err = console(stderr=True)
    began = time.monotonic()
    with working(err, "installing (2.5 GB for the CPU engine, 9 GB for CUDA)"):
        progress = told(lambda line: err.print(line, soft_wrap=True))
        made = engine_install.install(kind, root, progress=progress, reinstall=reinstall)
    engine_install.remember_executable(hub_toml, made.executable)
    took_s = time.monotonic() - began
    if as_json:
        print_json(
            {
                "success": True,
                "executable": str(made.executable),
                "version": made.version,
                "kind": made.kind,
                "hub_toml": str(hub_toml),
                "seconds": round(took_s, 1),
            }
        )
    else:
        out = console()
        out.print(f"vLLM {made.version} ({made.kind}) is ready after {format_seconds(took_s)}.", style="bold green")
        out.print(f"{made.executable}, remembered in {hub_toml}", soft_wrap=True)
        out.print("Next: vllm-mcp demo, or vllm-mcp tool load-model --model-id MODEL")
    return DONE


def show(settings: Settings, env: Mapping[str, str], *, as_json: bool) -> int:
    """Which vllm would be started, its version, and where that was decided.

    Raises VllmNotInstalled when there is none.
    """
    executable = require_executable(settings, hub_toml_executable(settings), env)
    facts = read_vllm_facts(executable, facts_dir(settings))
    source = how_found(settings, executable)
    if as_json:
        answer = {"success": True, "executable": executable, "version": facts.version}
        print_json(answer | {"platform": facts.platform, "source": source})
    else:
        out = console()
        out.print(f"vLLM {facts.version} for {facts.platform}", style="bold")
        out.print(f"{executable} (from {source})", soft_wrap=True)
    return DONE
