"""`vllm-mcp up` and `down`: the hub by hand.

Nobody needs them for loading: that starts the hub, and it ends by itself when nothing is left to do.
"""

import sys
from typing import Any

import anyio

from vllm_mcp.render import DONE, FAILED, console, print_json
from vllm_mcp.running import run_interruptible
from vllm_mcp.status import no_hub_sentence, print_state, state_payload, watch_state
from vllm_mcp_protocol.errors import ForceRequired, HubUnavailable
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineStatus, EngineView, HubState
from vllm_mcp_protocol.paths import hub_runs, state_dir
from vllm_mcp_protocol.settings import Settings

_CLIENT = "vllm-mcp up"
_DOWN = "vllm-mcp down"
_END_LIMIT_S = 10.0
"""A hub answers `retire` at once and is gone within a second; after this long something is wrong."""

_STOP_LIMIT_S = 120.0
_NO_GATEWAY = "The OpenAI-compatible gateway is not part of this version: engines are reached through the MCP tools."


async def run_up(settings: Settings, *, detach: bool, as_json: bool) -> int:
    """Start the hub (or find it) and attach configured engines; without `detach` keep showing its state."""
    async with Hub(settings, client=_CLIENT) as hub:
        for remote in settings.remote_engines():
            await hub.attach(remote.url, remote.revealed_key)
        state = await hub.state()
    if as_json:
        print_json(state_payload(state, state.state_dir))
        return DONE
    out = console()
    out.print(f"Hub {state.version} runs in {state.state_dir} (pid {state.pid}).", soft_wrap=True)
    out.print(_NO_GATEWAY, style="dim")
    out.print()
    if detach:
        print_state(state)
        return DONE
    return await _stay(settings)


async def _stay(settings: Settings) -> int:
    try:
        await watch_state(settings, start=True, client=_CLIENT)
    except anyio.get_cancelled_exc_class():
        console(stderr=True).print("The hub and its engines run on. `vllm-mcp down` ends them.")
        raise
    return DONE


def run_down(settings: Settings, *, force: bool, as_json: bool) -> int:
    """Unload every engine of ours and end the hub. Returns the exit code.

    Raises ForceRequired when engines run, nobody can be asked and `force` is not set.
    """
    folder = state_dir(settings)
    if not hub_runs(folder):
        return _nothing_to_end(no_hub_sentence(folder), as_json)
    # Asked outside of any event loop, whose signal handling would make Ctrl-C at the question do nothing.
    ours = [] if force else anyio.run(_engines_of_ours, settings)
    if ours and not _agreed(ours):
        console(stderr=True).print("Nothing was ended.")
        return FAILED
    return run_interruptible(lambda: _all_ended(settings, force, as_json))


async def _engines_of_ours(settings: Settings) -> list[EngineView]:
    async with Hub(settings, client=_DOWN, start=False) as hub:
        return _ours(await hub.state())


async def _all_ended(settings: Settings, force: bool, as_json: bool) -> int:
    async with Hub(settings, client=_DOWN, start=False) as hub:
        ended = [await _end(hub, engine, force) for engine in _ours(await hub.state())]
        await hub.retire()
    await _gone(settings)
    return _report(ended, as_json)


def _ours(state: HubState) -> list[EngineView]:
    return [e for e in state.engines if not e.remote and e.status is not EngineStatus.STOPPED]


def _agreed(engines: list[EngineView]) -> bool:
    names = ", ".join(f"{e.id} ({e.served_name}, {e.in_flight} requests running)" for e in engines)
    if not sys.stdin.isatty():
        raise ForceRequired(f"This would unload {names}.", suggestion="repeat it with --force")
    answer = input(f"Unload {names}? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


async def _end(hub: Hub, engine: EngineView, force: bool) -> EngineView:
    """Stop one engine and wait until nothing of it runs."""
    console(stderr=True).print(f"unloading {engine.id} ({engine.served_name}) …")
    view = await hub.stop(engine.id, force=force)
    deadline = anyio.current_time() + _STOP_LIMIT_S
    while view.status is not EngineStatus.STOPPED:
        left_s = deadline - anyio.current_time()
        if left_s <= 0:
            raise HubUnavailable(
                f"{engine.id} is still {view.status.value} after {_STOP_LIMIT_S:.0f} s.",
                suggestion="repeat it with --force, which drops the requests that it is finishing",
            )
        view = await hub.wait(engine.id, seen_epoch=view.epoch, timeout_s=min(left_s, 10.0))
    return view


async def _gone(settings: Settings) -> None:
    folder = state_dir(settings)
    with anyio.move_on_after(_END_LIMIT_S):
        while hub_runs(folder):  # noqa: ASYNC110 - another process ends; there is no event to wait for
            await anyio.sleep(0.05)
        return
    raise HubUnavailable(f"The hub in {folder} was asked to end and still runs.", suggestion=f"read {folder}/hub.log")


def _nothing_to_end(sentence: str, as_json: bool) -> int:
    if as_json:
        print_json({"success": True, "unloaded": [], "hub": "not running"})
    else:
        console().print(sentence, soft_wrap=True)
    return DONE


def _report(ended: list[EngineView], as_json: bool) -> int:
    names = ", ".join(f"{e.id} ({e.served_name})" for e in ended) or "nothing (no engine ran)"
    unloaded: list[dict[str, Any]] = [{"engine_id": e.id, "model_id": e.model_id} for e in ended]
    if as_json:
        print_json({"success": True, "unloaded": unloaded, "hub": "ended"})
    else:
        console().print(f"Unloaded: {names}. The hub has ended.", soft_wrap=True)
    return DONE
