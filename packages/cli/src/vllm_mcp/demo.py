"""`vllm-mcp demo`: the whole suite once, on a real engine, in a folder of its own, leaving nothing behind.

    this process  ──MCP over stdio──►  vllm_model_manager  ──►  hub  ──►  vllm serve
         └── leases the engine and streams one answer from it ──────────────┘

Whatever is started is below this process (`descendants.py`), so that it can be counted, and ended on Ctrl-C.
"""

import os
import shutil
import tempfile
import threading
from pathlib import Path

from vllm_mcp.demo_scenes import DemoSetting, play
from vllm_mcp.descendants import adopt_orphans, end_descendants, reap
from vllm_mcp.render import DONE, FAILED, console, print_error, print_json
from vllm_mcp.running import only_error, run_interruptible
from vllm_mcp.shell_init import shown_command
from vllm_mcp.story import Story
from vllm_mcp_protocol.errors import ErrorInfo, SuiteError
from vllm_mcp_protocol.settings import Settings

_LONGEST_TMP = 40
"""The engine's sockets lie eight levels deep in here, and a socket's path has 107 bytes at most."""


def run_demo(settings: Settings, *, model: str | None, keep: bool, as_json: bool) -> int:
    """Play the demo. Returns 0, 1 when something failed, 128 + signal when interrupted; cleans up in every case."""
    adopt_orphans()
    folder = _private_folder()
    story = Story(console(stderr=as_json))
    setting = DemoSetting(settings, folder, dict(os.environ), model, keep, threading.Event())
    code = FAILED
    try:
        code = run_interruptible(lambda: _played(setting, story, as_json))
    finally:
        setting.given_up.set()
        if code != DONE or not keep:
            _clean_up(folder, code)
    return code


async def _played(setting: DemoSetting, story: Story, as_json: bool) -> int:
    _opening(setting, story)
    try:
        result = await play(setting, story)
    except Exception as error:
        info = _foreseen(only_error(error))
        if info is None:
            raise
        print_error(info, as_json=as_json)
        return FAILED
    _closing(setting, story)
    if as_json:
        print_json({"success": True, **result, "steps": story.steps, "seconds": round(story.elapsed_s, 1)})
    return DONE


def _foreseen(error: BaseException) -> ErrorInfo | None:
    """What to tell of `error`; None for a bug of ours, whose traceback is worth more."""
    from mcp.shared.exceptions import MCPError

    if isinstance(error, SuiteError):
        return error.info
    if isinstance(error, MCPError):
        suggestion = "look at the lines above; `vllm-mcp doctor` checks what it needs"
        return ErrorInfo(
            code="INTERNAL_ERROR", message=f"The MCP server failed: {error}.", details={"suggestion": suggestion}
        )
    return None


def _opening(setting: DemoSetting, story: Story) -> None:
    story.out.print("A real vLLM engine, driven through the model-manager MCP server.", style="bold")
    after = "It stays (--keep)." if setting.keep else "It is removed at the end."
    story.out.print(f"State: {setting.folder}. {after} Engines that you run are not touched.\n")


def _closing(setting: DemoSetting, story: Story) -> None:
    story.out.print("\nWhat it did", style="bold")
    story.summary()
    story.out.print("\nNext", style="bold")
    for line in _next_lines(setting):
        story.out.print(f"   {line}", soft_wrap=True)


def _next_lines(setting: DemoSetting) -> tuple[str, ...]:
    command = shown_command()
    if setting.keep:
        here = f"VLLM_HUB_DIR={setting.folder} {command}"
        return (
            f"{here} status",
            f"{here} tool generate-text --help",
            f"{here} down --force",
            f"rm -r {setting.folder}",
        )
    return (
        f"{command} doctor",
        f"{command} tool --list",
        f"{command} tool load-model --model-id Qwen/Qwen3-0.6B",
        f"{command} status --watch",
    )


def _private_folder() -> Path:
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="vllm-demo-", dir=base if len(base) <= _LONGEST_TMP else "/tmp"))  # noqa: S108


def _clean_up(folder: Path, code: int) -> None:
    """End what is left, and remove the demo's folder. Nothing is left after a demo that went well."""
    ended = end_descendants()
    reap()
    shutil.rmtree(folder, ignore_errors=True)
    if ended and code != DONE:
        names = ", ".join(map(str, ended))
        console(stderr=True).print(f"Ended what the demo had started: {names}.", soft_wrap=True)
