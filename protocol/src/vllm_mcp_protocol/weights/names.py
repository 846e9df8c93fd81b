"""What the names of a model's files say about its weights: formats, which ones vLLM loads, which are missing. Pure."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from vllm_mcp_protocol.checkpoint.values import short_text

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Files that name the weight files of a model, in vLLM's order of preference."""

_SHARD = re.compile(r"(.+)-(\d{5,6})-of-(\d{5,6})(\.\w+)")
_MOST_SHARDS = 20_000
"""A file that claims to be one of more is named by mistake."""
_WEIGHT_KINDS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""In vLLM's order of preference: it loads files of the first kind that is there, and no others."""
_NOT_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
_PICKLED = (".bin", ".pt", ".pth")

_FORMATS: dict[str, Callable[[set[str]], bool]] = {
    "safetensors": lambda names: any(name.endswith(".safetensors") for name in _at_the_top(names)),
    "gguf": lambda names: any(name.endswith(".gguf") for name in names),
    "pytorch": lambda names: any(name.endswith(_PICKLED) for name in _at_the_top(names)),
    "mistral": lambda names: "params.json" in names and any(name.startswith("consolidated") for name in names),
    "adapter": lambda names: "adapter_config.json" in names,
    "onnx": lambda names: any(name.endswith(".onnx") for name in names),
    "tensorflow": lambda names: "tf_model.h5" in names,
    "flax": lambda names: "flax_model.msgpack" in names,
}


def formats(names: Iterable[str]) -> tuple[str, ...]:
    """In which formats a repository with these files has its model; vLLM reads the first five."""
    known = set(names)
    return tuple(kind for kind, is_there in _FORMATS.items() if is_there(known))


def weight_names(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a repository's file names that vLLM loads as weights where no index says it: one kind, at the top."""
    candidates = _at_the_top(names)
    for kind in _WEIGHT_KINDS:
        if found := sorted(name for name in candidates if name.endswith(kind)):
            return tuple(found)
    return ()


def indexed_names(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The weight files that an index names."""
    weight_map = index.get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    return tuple(sorted({text for name in set(_texts(names)) if (text := short_text(name))}))


def missing_shards(names: Collection[str]) -> tuple[str, ...]:
    """What the numbers in the names of weight files promise (`model-00001-of-00003.safetensors`) and is not there."""
    promised = set[str]().union(*map(_siblings, names))
    return tuple(sorted(promised.difference(names)))


def _at_the_top(names: Iterable[str]) -> list[str]:
    return [name for name in names if "/" not in name and name not in _NOT_WEIGHTS]


def _texts(values: Iterable[Any]) -> Iterable[str]:
    return (value for value in values if isinstance(value, str))


def _siblings(name: str) -> set[str]:
    """All the files of which `model-00001-of-00003.safetensors` is one."""
    match = _SHARD.fullmatch(name)
    if match is None or int(match[3]) > _MOST_SHARDS:
        return {name}
    stem, width, count, kind = match[1], len(match[2]), int(match[3]), match[4]
    numbers = range(1, count + 1) if int(match[2]) > 0 else range(count)
    return {f"{stem}-{number:0{width}d}-of-{match[3]}{kind}" for number in numbers}
