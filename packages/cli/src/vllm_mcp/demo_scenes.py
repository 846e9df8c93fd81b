"""The steps of the demo, in order."""

import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from vllm_mcp import __version__
from vllm_mcp.demo_stream import MAX_TOKENS, counts, stream_answer, thinks
from vllm_mcp.descendants import descendants
from vllm_mcp.engine import told
from vllm_mcp.engine_checks import how_found, hub_toml_executable
from vllm_mcp.progress import ProgressSink, progress_display, working
from vllm_mcp.render import result_blocks
from vllm_mcp.story import Story
from vllm_mcp_protocol.engine_env import engine_python, facts_dir, find_executable, known_vllm_facts, read_vllm_facts
from vllm_mcp_protocol.errors import ErrorInfo, HubUnavailable, error_from_info
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import CPU, EngineStatus, HubState
from vllm_mcp_protocol.paths import managed_engine_root
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import format_bytes

if TYPE_CHECKING:
    from mcp import Client

TINY_MODEL = "tiny-org/tiny-llama"
SMALL_MODEL = "Qwen/Qwen3-0.6B"
"""1.5 GB; the smallest instruct model that answers sensibly and needs no licence click."""

_SAFETY_TTL_MINUTES = 30
"""Should this process be killed outright, its engine ends by itself after being idle for so long."""

_LEFT_LIMIT_S = 20.0
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>")
"""What Qwen3 writes when it was told not to think."""

_SHOWN_COLUMNS = ("id", "status", "engine_id", "memory_usage_mb", "context_window")
_QUESTION = "In one sentence: what does an inference engine do?"


@dataclass(frozen=True)
class DemoSetting:
    """What one run of the demo is given."""

    settings: Settings
    folder: Path
    env: Mapping[str, str]
    model: str | None
    keep: bool
    given_up: threading.Event
    """Set when the demo ends: an installation in a thread stops at its next line."""


@dataclass(frozen=True)
class Choice:
    """The model of this run."""

    model_id: str
    hf_home: Path | None = None
    """Set for the model that the suite makes itself, which is not in the user's cache."""


async def play(setting: DemoSetting, story: Story) -> dict[str, Any]:
    """All scenes. Returns what programs want to know; raises SuiteError."""
    executable = await _engine(setting, story)
    hub_settings = setting.settings.model_copy(update={"vllm_hub_dir": str(setting.folder)})
    async with Hub(hub_settings, client="vllm-mcp demo") as hub:
        with story.step("Start a hub") as facts:
            state = await hub.state()
            _say_devices(story, state, facts)
        choice = await _model(setting, story, executable, state)
        async with _server(setting, story, executable, choice) as client:
            await _load(setting, story, client, choice)
            await _ask(story, client, choice)
            stream = await stream_answer(story, hub, choice.model_id, endless=choice.hf_home is not None)
            await _look(story, client, choice)
            started = descendants()
            if not setting.keep:
                await _unload(story, client, hub, choice)
        left = [] if setting.keep else await _end(story, hub, started)
    return {"model_id": choice.model_id, "vllm": executable, "stream": stream, "processes_left": left}


# -- before the server --------------------------------------------------------------------------------------


async def _engine(setting: DemoSetting, story: Story) -> str:
    with story.step("Find vLLM, the engine") as facts:
        settings = setting.settings
        found = find_executable(settings, hub_toml_executable(settings), setting.env)
        if found is None:
            story.say("There is none yet: building its environment (once; minutes, gigabytes).")
            found = await _install(setting, story)
        if known_vllm_facts(found, facts_dir(settings)) is None:
            story.say(f"{found}: asking for its version and flags (once per version, up to a minute)")
        with working(story.out, "asking"):
            vllm = await _in_thread(read_vllm_facts, found, facts_dir(settings))
        story.say(f"vLLM {vllm.version} for {vllm.platform}: {found} (from {how_found(settings, found)})")
        facts |= {"executable": found, "version": vllm.version, "platform": vllm.platform}
    return found


async def _install(setting: DemoSetting, story: Story) -> str:
    from vllm_mcp import engine_install

    say = told(lambda line: story.say(line, style="dim"))

    def progress(line: str) -> None:
        if setting.given_up.is_set():
            raise KeyboardInterrupt
        say(line)

    root = managed_engine_root(setting.settings)
    with working(story.out, "installing (2.5 GB for the CPU engine, 9 GB for CUDA)"):
        made = await _in_thread(lambda: engine_install.install(None, root, progress=progress))
    return str(made.executable)


async def _in_thread(work: Any, *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)


def _say_devices(story: Story, state: HubState, facts: dict[str, Any]) -> None:
    story.say(f"hub {state.version}, pid {state.pid}: it owns engine processes and device memory")
    for device in state.devices:
        free, total = format_bytes(device.free_bytes), format_bytes(device.total_bytes)
        what = "no GPU: the host's memory" if device.id == CPU else f"GPU {device.id}: {device.name}"
        story.say(f"{what}, {free} of {total} free")
    facts["devices"] = [device.kind for device in state.devices]


async def _model(setting: DemoSetting, story: Story, executable: str, state: HubState) -> Choice:
    with story.step("Choose a model") as facts:
        choice = await _choose(setting, story, executable, state)
        facts["model_id"] = choice.model_id
    return choice


async def _choose(setting: DemoSetting, story: Story, executable: str, state: HubState) -> Choice:
    if setting.model is not None:
        story.say(f"{setting.model}, as you asked")
        return Choice(setting.model)
    if any(device.kind == "cuda" for device in state.devices):
        story.say(f"{SMALL_MODEL}: a small instruct model, downloaded once (1.5 GB)")
        return Choice(SMALL_MODEL)
    from vllm_mcp import tiny_models

    home = managed_engine_root(setting.settings) / "tiny-models"
    with working(story.out, "making a tiny model"):
        await _in_thread(tiny_models.ensure_tiny_models, engine_python(executable), home)
    story.say(f"{TINY_MODEL}, made on this machine: a real architecture (Llama), a real tokenizer, random weights.")
    story.say("So the engine's work is real, and the text below is gibberish. With sense: --model ID.")
    return Choice(TINY_MODEL, home)


# -- through the server -------------------------------------------------------------------------------------


@asynccontextmanager
async def _server(setting: DemoSetting, story: Story, executable: str, choice: Choice) -> AsyncIterator["Client"]:
    """The model-manager, started the way an MCP client starts it: a child process that speaks MCP on stdio."""
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters
    from mcp_types import Implementation

    words = ["-m", "vllm_model_manager"]
    parameters = StdioServerParameters(
        command=sys.executable, args=words, env=server_environment(setting, executable, choice)
    )
    client = Client(parameters, client_info=Implementation(name="vllm-mcp-demo", version=__version__))
    with story.step("Start the MCP server, as a client does") as facts:
        await client.__aenter__()
        tools = (await client.list_tools()).tools
        story.say(f"python {' '.join(words)}: MCP {client.protocol_version} on stdio, {len(tools)} tools")
        facts["tools"] = len(tools)
    try:
        yield client
    finally:
        await client.__aexit__(*sys.exc_info())


def server_environment(setting: DemoSetting, executable: str, choice: Choice) -> dict[str, str]:
    """The user's environment without the suite's own settings: the demo is the same for everybody."""
    ours = ("VLLM_", "DISCOVERY_", "UNLOAD_IDLE_")
    env = {name: value for name, value in setting.env.items() if not name.startswith(ours)}
    env |= {"VLLM_HUB_DIR": str(setting.folder), "VLLM_EXECUTABLE": executable}
    if choice.hf_home is not None:
        env |= {"HF_HOME": str(choice.hf_home), "HF_HUB_OFFLINE": "1"}
        env.pop("HF_HUB_CACHE", None)
    return env


async def _call(
    client: "Client", tool: str, arguments: dict[str, Any], on_progress: ProgressSink | None = None
) -> dict[str, Any]:
    """The structured result of a tool. Raises the SuiteError that it answered."""

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        if on_progress is not None:
            on_progress(progress, total, message)

    result = await client.call_tool(tool, arguments, progress_callback=progressed)
    answer: dict[str, Any] = result.structured_content or {}
    if result.is_error:
        raise error_from_info(_error_of(tool, answer))
    return answer


def _error_of(tool: str, answer: Mapping[str, Any]) -> ErrorInfo:
    if "error" in answer:
        return ErrorInfo.model_validate(answer["error"])
    return ErrorInfo(code="INTERNAL_ERROR", message=f"{tool} failed without saying why.")


async def _load(setting: DemoSetting, story: Story, client: "Client", choice: Choice) -> None:
    arguments: dict[str, Any] = {"model_id": choice.model_id}
    if not setting.keep:
        arguments["ttl_minutes"] = _SAFETY_TTL_MINUTES
    with story.step(f"load-model {choice.model_id}") as facts:
        with progress_display("loading") as on_progress:
            loaded = await _call(client, "load-model", arguments, on_progress)
            while loaded["status"] == "loading":  # the tool answers after wait_seconds; the work goes on
                loaded = await _call(client, "load-model", arguments, on_progress)
        story.say(f"{loaded['engine_id']} is {loaded['status']} at {loaded['endpoint']}")
        facts |= {"engine_id": loaded["engine_id"], "argv": loaded["argv"]}


async def _ask(story: Story, client: "Client", choice: Choice) -> None:
    with story.step("generate-text") as facts:
        story.say(f"> {_QUESTION}", style="dim")
        prompt = f"{_QUESTION} /no_think" if thinks(choice.model_id) else _QUESTION
        arguments = {"model_id": choice.model_id, "prompt": prompt, "max_tokens": MAX_TOKENS}
        answer = await _call(client, "generate-text", arguments)
        story.say(_EMPTY_THOUGHT.sub("", answer["text"]).strip(), style="cyan")
        facts["usage"] = answer["usage"]
        story.say(counts(answer["usage"], answer.get("ttft_ms"), answer.get("tokens_per_second")))


async def _look(story: Story, client: "Client", choice: Choice) -> None:
    with story.step("get-model-info") as facts:
        info = await _call(client, "get-model-info", {"model_id": choice.model_id})
        for line in info_lines(info):
            story.say(line)
        facts["performance"] = info.get("performance")
    with story.step("list-models"):
        listed = await _call(client, "list-models", {"filter_by_status": "loaded"})
        rows = [{name: row[name] for name in _SHOWN_COLUMNS} for row in listed["models"]]
        for block in result_blocks({"models": rows}, story.out.width - 4):
            story.show(block)


def info_lines(info: Mapping[str, Any]) -> Iterator[str]:
    """The figures that tell an engine from another."""
    performance = info.get("performance") or {}
    if performance.get("kv_cache_tokens"):
        concurrency = performance.get("max_concurrency")
        also = f", {concurrency:.1f} requests of full length at once" if concurrency else ""
        yield f"KV cache: {performance['kv_cache_tokens']:,} tokens{also}"
    if performance.get("memory_usage_mb"):
        yield f"memory: {performance['memory_usage_mb']:,} MiB"
    phases = info.get("start_up") or []
    if phases:
        yield "start-up: " + ", ".join(f"{p['phase']} {p['seconds']:.1f} s" for p in phases)


async def _unload(story: Story, client: "Client", hub: Hub, choice: Choice) -> None:
    with story.step(f"unload-model {choice.model_id}") as facts:
        gone = await _call(client, "unload-model", {"model_id": choice.model_id})
        view = await hub.wait(gone["engine_id"], seen_epoch=-1, timeout_s=0)
        with anyio.move_on_after(_LEFT_LIMIT_S):
            while view.status is not EngineStatus.STOPPED:
                view = await hub.wait(view.id, seen_epoch=view.epoch, timeout_s=_LEFT_LIMIT_S)
        freed = gone.get("memory_freed_mb")
        story.say(f"{view.id} has {view.status.value}" + (f", {freed:,} MiB freed" if freed else ""))
        facts["memory_freed_mb"] = freed


# -- beside the server --------------------------------------------------------------------------------------


async def _end(story: Story, hub: Hub, started: list[Any]) -> list[str]:
    """Retire the hub and wait until nothing of what was started runs. Raises HubUnavailable when something does."""
    with story.step("End the hub; look for what is left") as facts:
        await hub.retire()
        await hub.aclose()
        with anyio.move_on_after(_LEFT_LIMIT_S):
            while descendants():  # noqa: ASYNC110 - other processes end; there is no event to wait for
                await anyio.sleep(0.1)
        left = descendants()
        if left:
            raise HubUnavailable(
                f"Processes were left after unloading: {', '.join(map(str, left))}.",
                suggestion="please report this with the output above; they are ended now",
            )
        names = ", ".join(sorted({process.name for process in started}))
        story.say(f"{len(started)} processes had been started ({names}); none is left")
        facts["processes_started"] = len(started)
    return []
