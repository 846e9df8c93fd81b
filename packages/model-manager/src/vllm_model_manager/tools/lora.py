"""load-lora and unload-lora."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from pydantic import Field

from vllm_mcp_protocol.errors import BadCheckpoint, BadInput, LoraNotFound, NotSupported
from vllm_mcp_protocol.model import EngineStatus, EngineView
from vllm_mcp_protocol.model_names import MODEL_ID, closest, is_path
from vllm_mcp_protocol.paths import confine
from vllm_mcp_protocol.serving.context import notify_resource_updated
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer, ToolContext
from vllm_mcp_protocol.units import MIB
from vllm_model_manager import parameters as p
from vllm_model_manager.core.adapters import check_adapter
from vllm_model_manager.core.finding import require_base, require_engine
from vllm_model_manager.results import LoraResult
from vllm_model_manager.workplace import Workplace

_CONFIG_LIMIT_BYTES = MIB
_MOST_FILES = 2000

LoraName = Annotated[
    str,
    Field(min_length=1, max_length=200, pattern=r"^[\w./:-]+$", description="Name to use as model in requests"),
]


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tools."""

    @server.tool("load-lora", title="Load a LoRA adapter", annotations=WRITE)
    async def load_lora(
        ctx: ToolContext,
        model_id: p.LoadedName,
        lora_name: LoraName,
        lora_path: Annotated[
            str, Field(min_length=1, max_length=2000, description="Hub id of a cached adapter, or its folder")
        ],
        force: Annotated[bool, Field(description="Also when it was made for another base model")] = False,
    ) -> LoraResult:
        """Serve a LoRA adapter beside a model that was loaded with enable_lora=true; its name is then a model name."""
        view = _ready(require_base(await work.state(), model_id, "load-lora"))
        folder = await adapter_folder(work, lora_path)
        config = await to_thread.run_sync(_read_config, folder)
        notes = check_adapter(view, lora_name, config, force=force)
        after = await work.hub.load_lora(view.id, lora_name, str(folder))
        await notify_resource_updated(ctx, "fleet://status")
        return _result(after, lora_name, str(folder), notes)

    @server.tool("unload-lora", title="Unload a LoRA adapter", annotations=WRITE)
    async def unload_lora(ctx: ToolContext, model_id: p.LoadedName, lora_name: LoraName) -> LoraResult:
        """Stop serving a LoRA adapter; the model goes on."""
        view = _ready(require_engine(await work.state(), model_id))
        if lora_name not in view.loras:
            served = ", ".join(view.loras) or "none"
            raise LoraNotFound(
                f"{view.model_id} ({view.id}) has no adapter {lora_name}; it has: {served}.",
                lora_name=lora_name,
                adapters=list(view.loras),
                suggestion=f"unload-lora {view.loras[0]}" if view.loras else "nothing is to be done",
            )
        after = await work.hub.unload_lora(view.id, lora_name)
        await notify_resource_updated(ctx, "fleet://status")
        return _result(after, lora_name, None, ())


def _result(view: EngineView, name: str, path: str | None, notes: tuple[str, ...]) -> LoraResult:
    return LoraResult(
        model_id=view.model_id,
        engine_id=view.id,
        lora_name=name,
        lora_path=path,
        adapters=list(view.loras),
        notes=list(notes),
    )


def _ready(view: EngineView) -> EngineView:
    if view.status is not EngineStatus.READY:
        raise NotSupported(
            f"{view.model_id} ({view.id}) is {view.status}: adapters are changed on a ready engine.",
            engine_id=view.id,
            suggestion=f"wake-model {view.model_id}"
            if view.status is EngineStatus.SLEEPING
            else "wait until it is ready",
        )
    return view


async def adapter_folder(work: Workplace, lora_path: str) -> Path:
    """The folder of the adapter that `lora_path` names: a repository of the cache, or a folder we may use.

    Raises PathNotAllowed for a path that leads elsewhere, also by a link; LoraNotFound; BadCheckpoint.
    """
    if not is_path(lora_path) and MODEL_ID.fullmatch(lora_path):
        facts = await work.find(lora_path)
        if facts is not None and facts.path is not None:
            return _checked_kind(lora_path, Path(facts.path), facts.is_adapter)
    return await to_thread.run_sync(_local_folder, work, lora_path)


def _checked_kind(lora_path: str, folder: Path, is_adapter: bool) -> Path:
    if is_adapter:
        return folder
    raise BadInput(
        f"lora_path={lora_path!r} is a whole model, not an adapter.",
        parameter="lora_path",
        value=lora_path,
        suggestion=f"load-model {lora_path}",
    )


def _local_folder(work: Workplace, lora_path: str) -> Path:
    """Blocking: follows every link."""
    relative = not lora_path.startswith(("/", "~"))
    base = work.project_dir if relative and work.project_dir is not None else Path()
    folder = confine(str(base / lora_path) if relative else lora_path, work.allowed_folders, parameter="lora_path")
    if not folder.is_dir():
        raise _missing(work, lora_path)
    if not (folder / "adapter_config.json").exists():
        raise BadCheckpoint(
            f"{folder} holds no adapter: adapter_config.json is missing.",
            path=str(folder),
            suggestion="name the folder that PEFT saved the adapter to",
        )
    for name in os.listdir(folder)[:_MOST_FILES]:
        confine(str(folder / name), work.allowed_folders, parameter="lora_path")
    return folder


def _missing(work: Workplace, lora_path: str) -> LoraNotFound:
    from vllm_mcp_protocol.hf import cache as hf_cache

    known = [facts.model_id for facts in hf_cache.scan(work.cache_dirs).models if facts.is_adapter]
    close = closest(lora_path, known)
    return LoraNotFound(
        f"There is no adapter {lora_path!r}: neither in the cache nor as a folder.",
        lora_path=lora_path,
        known=known[:20],
        suggestion=f"use lora_path={close[0]}" if close else "list-models shows the adapters in the cache",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json. Blocking. Raises BadCheckpoint."""
    path = folder / "adapter_config.json"
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_CONFIG_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(value, dict):
        raise _unreadable(path, "it is not a JSON object")
    return value


def _unreadable(path: Path, why: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"{path} cannot be read: {why}.", path=str(path), suggestion="save or download the adapter again"
    )
