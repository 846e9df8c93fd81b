"""Can an engine of a snapshot be started on this host: its files, its options, its devices. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from vllm_mcp_protocol.memory_needs import where_it_fits
from vllm_mcp_protocol.model import Device, LoadOptions, ModelFacts
from vllm_mcp_protocol.model_names import is_path
from vllm_state_persistence.core.engine_capture import CapturedEngine

_FLAG_OF = {"profile": "--performance-mode"}
"""Options whose flag in vLLM has another name."""

_Model = TypeVar("_Model", bound=BaseModel)


class Obstacle(NamedTuple):
    """Why it cannot be done here, and what to do about it."""

    reason: str
    suggestion: str


def read_values(kind: type[_Model], raw: Mapping[str, Any]) -> tuple[_Model | None, str]:
    """The values as this version knows them, or why it does not."""
    unknown = sorted(raw.keys() - kind.model_fields.keys())
    if unknown:
        return None, f"this version does not know {', '.join(unknown)[:200]}"
    try:
        return kind.model_validate(raw), ""
    except ValidationError as error:
        problem = error.errors()[0]
        return None, f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def files_obstacle(engine: CapturedEngine, facts: ModelFacts | None, not_allowed: Mapping[str, str]) -> Obstacle | None:
    """What is missing of the model's files. `not_allowed`: path → why it may not be used."""
    if engine.model_id in not_allowed:
        return Obstacle(not_allowed[engine.model_id], "move its files into a folder that the suite may use")
    if facts is not None and facts.complete:
        return None
    asked = str(engine.options.get("revision") or "")
    at = f" at revision {asked}" if asked else ""
    missing = f"{engine.model_id}{at} is not here" if facts is None else f"files of {engine.model_id}{at} are missing"
    if is_path(engine.model_id):
        return Obstacle(missing, "put the files there")
    revision = f" with revision={asked}" if asked else ""
    return Obstacle(missing, f"download-model {engine.model_id}{revision}, then load-state again")


def flags_obstacle(options: LoadOptions, flags: frozenset[str]) -> Obstacle | None:
    """What the installed vLLM does not have, of what the engine was started with."""
    if not flags:
        return None
    unknown = sorted(name for name, flag in _asked_flags(options) if flag not in flags)
    if not unknown:
        return None
    names = ", ".join(unknown)[:300]
    next_step = "load-model without it, or install the vLLM of before"
    return Obstacle(f"the vLLM installed here does not have {names}", next_step)


def _asked_flags(options: LoadOptions) -> Iterator[tuple[str, str]]:
    for name, value in options:
        if value not in (None, False, ()) and name not in ("extra_args", "port"):
            yield name, _FLAG_OF.get(name, f"--{name.replace('_', '-')}")
    for word in options.extra_args:
        if word.startswith("--"):
            flag = word.partition("=")[0].replace("_", "-")
            yield flag, flag.partition(".")[0]


class Room(NamedTuple):
    """Is there a place for it, when nothing else runs?"""

    obstacle: Obstacle | None = None
    doubt: str = ""
    """Why it may not fit although it is tried."""


def room(options: LoadOptions, facts: ModelFacts | None, devices: Sequence[Device]) -> Room:
    """Why it cannot fit here. What other engines hold is for the hub to say when it is asked to load."""
    if not devices:
        return Room(Obstacle("no device of this host can be read", "vllm-mcp doctor says why"))
    wanted = (options.tensor_parallel_size or 1) * (options.pipeline_parallel_size or 1)
    smaller = "load-model a smaller or quantized checkpoint, or another tensor_parallel_size"
    if devices[0].kind == "cuda" and wanted > len(devices):
        return Room(Obstacle(f"it was spread over {wanted} GPUs, and this host has {len(devices)}", smaller))
    problem = _too_small(facts, devices, wanted) if facts is not None and facts.weights_bytes is not None else ""
    if not problem:
        return Room()
    if _shrinks(options, facts):
        return Room(doubt=f"{problem}; it is tried all the same, since its options may make it smaller")
    return Room(Obstacle(problem, smaller))


def _too_small(facts: ModelFacts, devices: Sequence[Device], wanted: int) -> str:
    fit = where_it_fits(facts, devices)
    if fit.tensor_parallel_size is None:
        return f"it does not fit: {fit.reason}"
    if devices[0].kind == "cuda" and fit.tensor_parallel_size > wanted and _is_power_of_two(wanted):
        return f"it does not fit: it needs {fit.tensor_parallel_size} GPUs here, and was spread over {wanted}"
    return ""


def _is_power_of_two(number: int) -> bool:
    """Only such sizes were tried by `where_it_fits`."""
    return number & (number - 1) == 0


def _shrinks(options: LoadOptions, facts: ModelFacts | None) -> bool:
    """May it need less than its weights on disk?"""
    offloaded = any(word.startswith("--cpu-offload") for word in options.extra_args)
    stored = facts.quantization if facts is not None else None
    return offloaded or (options.quantization is not None and stored is None)


def same_gpus(engine: CapturedEngine, devices: Sequence[Device]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The GPUs of before, where all of them are here; else the hub chooses."""
    wanted = tuple(int(device) for device in engine.devices if device.isdecimal())
    present = {device.id for device in devices if device.kind == "cuda"}
    if not wanted or not present:
        return (), ()
    missing = [str(number) for number in wanted if str(number) not in present]
    if not missing:
        return wanted, ()
    return (), (f"GPU {', '.join(missing)} is not here: the hub places it on others",)


def notes_on(
    engine: CapturedEngine, options: LoadOptions, facts: ModelFacts | None, devices: Sequence[Device]
) -> tuple[str, ...]:
    """What will not be as it was although it is loaded with the same options."""
    code = ("trust_remote_code: it runs code of the model's repository",) if options.trust_remote_code else ()
    return (*commit_note(engine, facts), *_moved(engine, devices), *code)


def commit_note(engine: CapturedEngine, facts: ModelFacts | None) -> tuple[str, ...]:
    """The files of that revision are others now: a branch has moved since."""
    now = facts.revision if facts is not None else None
    if engine.revision is None or now is None or now == engine.revision:
        return ()
    return (f"its files are of revision {now[:40]} here, and were of {engine.revision[:40]}",)


def _moved(engine: CapturedEngine, devices: Sequence[Device]) -> tuple[str, ...]:
    on_gpus = bool(devices) and devices[0].kind == "cuda"
    if not engine.devices or engine.on_cpu is not on_gpus:
        return ()
    before, now = ("the CPU", "GPUs") if engine.on_cpu else ("GPUs", "the CPU")
    return (f"it ran on {before} and is loaded on {now}: vLLM's flags for memory are chosen anew",)
