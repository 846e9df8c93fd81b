"""`vllm-mcp status`: devices and engines as tables. Never starts a hub."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vllm_mcp.render import DONE, clock, console, plain_table, print_json, status_style
from vllm_mcp_protocol.errors import ErrorInfo, HubUnavailable
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import Device, EngineStatus, EngineView, HubState
from vllm_mcp_protocol.paths import hub_runs, state_dir
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

REFRESH_S = 1.0
"""Two refreshes a second made no difference to the eye and doubled what the watcher itself cost the hub."""

_MODEL_COLUMNS = 20
_SHOWN_FAILURES = 3
"""The hub keeps twenty stopped engines; the latest few matter."""

_MOVING = {
    EngineStatus.QUEUED,
    EngineStatus.STARTING,
    EngineStatus.DRAINING,
    EngineStatus.SUSPENDING,
    EngineStatus.WAKE_QUEUED,
    EngineStatus.WAKING,
    EngineStatus.STOPPING,
}


async def show_status(settings: Settings, *, watch: bool, as_json: bool) -> int:
    """Print the state once, or keep showing it until interrupted. Returns the exit code."""
    folder = state_dir(settings)
    if watch and not as_json:
        await watch_state(settings, client="vllm-mcp status")
        return DONE
    state = await _state_of_running_hub(settings) if hub_runs(folder) else None
    if as_json:
        print_json(state_payload(state, str(folder)))
    elif state is None:
        console().print(no_hub_sentence(folder), soft_wrap=True)
    else:
        print_state(state)
    return DONE


async def _state_of_running_hub(settings: Settings) -> HubState:
    async with Hub(settings, client="vllm-mcp status", start=False) as hub:
        return await hub.state()


def no_hub_sentence(folder: "Path") -> str:
    """What there is to say when nothing runs; engines that outlived their hub are named."""
    left = engines_without_hub(folder)
    if left:
        names = ", ".join(left)
        return (
            f"No hub runs in {folder}, but engines may still run there: {names}. "
            "`vllm-mcp up --detach` starts a hub, which adopts them."
        )
    return f"No hub runs in {folder}: no engines. Loading a model (or `vllm-mcp up`) starts one."


def engines_without_hub(folder: "Path") -> list[str]:
    """Ids of engines whose folder shows a start and no end."""
    found = sorted((folder / "engines").glob("*/proc.json"))
    return [path.parent.name for path in found if not (path.parent / "exit.json").exists()]


def state_payload(state: HubState | None, folder: str) -> dict[str, Any]:
    """The state for programs; the same keys whether or not a hub runs."""
    if state is None:
        return {"success": True, "hub": None, "state_dir": folder, "devices": [], "engines": []}
    body = state.model_dump(mode="json")
    hub = {key: body.pop(key) for key in ("pid", "version", "protocol", "uptime_s", "epoch")}
    return {"success": True, "hub": hub, **body}


def print_state(state: HubState) -> None:
    """Devices, engines, and a line about the hub."""
    out = console()
    for block in state_blocks(state):
        out.print(block)


def state_blocks(state: HubState) -> list["RenderableType"]:
    """What `status` shows, top to bottom; fits 80 columns."""
    from rich.text import Text

    shown = [engine for engine in state.engines if engine.status is not EngineStatus.STOPPED]
    failed = [(e, e.failure) for e in state.engines if e.failure and e.status is EngineStatus.STOPPED]
    blocks: list[RenderableType] = [devices_table(state.devices), Text()]
    if shown:
        blocks += [engines_table(shown), Text(), _names_table(shown, state.state_dir)]
    else:
        blocks.append(Text("No engines. Load one: vllm-mcp tool load-model --model-id MODEL"))
    blocks += [_failure_line(engine, failure) for engine, failure in failed[-_SHOWN_FAILURES:]]
    return [*blocks, Text(), _hub_line(state)]


def _hub_line(state: HubState) -> "Text":
    from rich.text import Text

    words = f"hub {state.version}, pid {state.pid}, up {format_seconds(state.uptime_s)}, in {state.state_dir}"
    return Text(words, style="dim", overflow="fold")


def devices_table(devices: tuple[Device, ...]) -> "Table":
    """One row per GPU (or the host's memory)."""
    table = plain_table("device", "name", "total", "free", "promised", right=("total", "free", "promised"))
    for device in devices:
        table.add_row(
            device.id,
            _shortened(device.name, 30),
            format_bytes(device.total_bytes),
            format_bytes(device.free_bytes),
            format_bytes(device.promised_bytes),
        )
        for holder in device.foreign:
            size = f" {format_bytes(holder.bytes)}" if holder.bytes else ""
            table.add_row("", f"held by pid {holder.pid} ({_shortened(holder.name, 12)}){size}")
    return table


def engines_table(engines: list[EngineView]) -> "Table":
    """One row per engine; 80 columns hold the longest of everything."""
    numbers = ("memory", "busy", "idle")
    table = plain_table("engine", "model", "status", "on", *numbers, right=numbers)
    for engine in engines:
        table.add_row(
            engine.id,
            _short_name(engine.served_name),
            _status_cell(engine),
            _devices_cell(engine),
            _memory_cell(engine),
            str(engine.in_flight),
            _idle_cell(engine),
        )
    return table


def _short_name(name: str) -> str:
    """The model's own name matters more than its organisation's; the full one stands below the table."""
    return name if len(name) <= _MODEL_COLUMNS else _shortened(name.rpartition("/")[2], _MODEL_COLUMNS)


def _devices_cell(engine: EngineView) -> str:
    names = engine.devices
    if len(names) > 2 and list(names) == [str(int(names[0]) + i) for i in range(len(names))]:
        return f"{names[0]}-{names[-1]}"
    return ",".join(names) or ("remote" if engine.remote else "-")


def _status_cell(engine: EngineView) -> "Text":
    from rich.text import Text

    words = engine.status.value.replace("_", " ")
    if engine.status in _MOVING and engine.phase:
        words += f" {engine.phase.value}"
    if engine.status in _MOVING and engine.elapsed_s is not None:
        words += f" {short_duration(engine.elapsed_s)}"
    if engine.pinned:
        words += " pinned"
    return Text(words, style=status_style(engine.status.value), no_wrap=True)


def _memory_cell(engine: EngineView) -> str:
    return format_bytes(engine.measured_bytes or engine.promised_bytes) if not engine.remote else "-"


def _idle_cell(engine: EngineView) -> str:
    since = engine.last_used_at or engine.ready_at
    if engine.status not in (EngineStatus.READY, EngineStatus.SLEEPING) or engine.in_flight or since is None:
        return "-"
    return short_duration(max(0.0, _now() - since))


def short_duration(seconds: float) -> str:
    """A duration in few columns: ``42s``, ``5m``, ``3h``, ``2d``."""
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit_s:
            return f"{int(seconds // unit_s)}{unit}"
    return f"{int(seconds // 86_400)}d"


def _now() -> float:
    import time

    return time.time()


def _names_table(engines: list[EngineView], folder: str) -> "Table":
    """Full names and addresses, which no column of the table could hold."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for engine in engines:
        loras = f" (LoRA: {', '.join(engine.loras)})" if engine.loras else ""
        address = engine.endpoint.replace(f"{folder}/", "")
        table.add_row(engine.id, f"{engine.served_name}{loras} {address}", style="dim")
    return table


def _failure_line(engine: EngineView, failure: ErrorInfo) -> "Text":
    from rich.text import Text

    suggestion = f" Next: {failure.suggestion}" if failure.suggestion else ""
    words = f"{engine.id}  {engine.served_name} failed: {failure.message}{suggestion}"
    return Text(words, style="red", overflow="fold")


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# -- live ---------------------------------------------------------------------------------------------------


async def watch_state(settings: Settings, *, client: str, start: bool = False) -> None:
    """Show the state, refreshed, until the caller is cancelled. Without a terminal: a new table on change."""
    import anyio

    folder = state_dir(settings)
    async with Hub(settings, client=client, start=start) as hub:
        with _screen() as show:
            while True:
                show(await _state_now(hub, folder, start), folder)
                await anyio.sleep(REFRESH_S)


async def _state_now(hub: Hub, folder: "Path", start: bool) -> HubState | None:
    """The state, or None when no hub runs and none is to be started."""
    if not start and not hub_runs(folder):
        await hub.aclose()
        return None
    try:
        return await hub.state()
    except HubUnavailable:
        if hub_runs(folder):
            raise
        return None  # it ended between the two looks


@contextmanager
def _screen() -> Iterator[Callable[[HubState | None, "Path"], None]]:
    out = console()
    if not out.is_terminal or out.is_dumb_terminal:
        yield _Printer()
        return
    from rich.live import Live

    with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda state, folder: _refresh(live, state, folder)


def _refresh(live: "Live", state: HubState | None, folder: "Path") -> None:
    from rich.console import Group
    from rich.text import Text

    blocks = [Text(no_hub_sentence(folder))] if state is None else state_blocks(state)
    footer = Text(f"{clock(_now())}   Ctrl-C ends this view, not the engines", style="dim")
    live.update(Group(*blocks, footer), refresh=True)


class _Printer:
    """For logs and pipes: prints when something changed, not every second."""

    def __init__(self) -> None:
        self._shown: object = ()

    def __call__(self, state: HubState | None, folder: "Path") -> None:
        key = None if state is None else [(e.id, e.status, e.phase, e.in_flight) for e in state.engines]
        if key == self._shown:
            return
        self._shown = key
        if state is None:
            console().print(no_hub_sentence(folder), soft_wrap=True)
        else:
            print_state(state)
