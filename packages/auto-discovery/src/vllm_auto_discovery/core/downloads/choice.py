"""Which files of a repository vLLM needs. Pure."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from vllm_auto_discovery.core.downloads.jobs import WantedFile
from vllm_mcp_protocol.errors import BadInput, FileNotInRepository

_NEVER_FOLDERS = ("onnx/", "openvino/", "original/", "coreml/", "runs/", ".git/", ".github/", "assets/", "figures/")
"""Copies for other programs, and pictures. `original/` is Meta's own format, which vLLM ignores too."""
_NEVER = (
    *("*.msgpack", "*.h5", "*.ot", "*.onnx", "*.onnx_data", "*.tflite", "*.mlmodel", "*.mar", "*.engine"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.svg", "*.mp4", "*.pdf", "*.tfevents.*"),
    *(".gitattributes", ".gitignore"),
    *("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_GGUF_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")
_MOST_NAMED = 8


def choose(model_id: str, files: Iterable[WantedFile], patterns: Sequence[str] | None) -> tuple[WantedFile, ...]:
    """The files to fetch: those that `patterns` (globs) name, else those that vLLM needs, by name.

    Raises FileNotInRepository for a pattern that fits nothing, and BadInput when a choice is left to the user.
    """
    listed = sorted(files, key=lambda file: file.name)
    if patterns:
        return _named(model_id, listed, patterns)
    wanted = [file for file in listed if not _is_for_others(file.name)]
    kinds = _superfluous_weights([file.name for file in wanted])
    chosen = tuple(file for file in wanted if not _fits(file.name, kinds))
    _check_gguf(model_id, [file.name for file in chosen])
    if not chosen:
        raise FileNotInRepository(
            f"{model_id} has no file that vLLM could use.",
            model_id=model_id,
            suggestion="name the files to fetch with the parameter files",
        )
    return chosen


def _named(model_id: str, listed: Sequence[WantedFile], patterns: Sequence[str]) -> tuple[WantedFile, ...]:
    for pattern in patterns:
        if not any(fnmatchcase(file.name, pattern) for file in listed):
            names = [file.name for file in listed]
            raise FileNotInRepository(
                f"files: {pattern[:200]!r} fits none of the {len(names)} files of {model_id}.",
                parameter="files",
                value=pattern[:200],
                available=names[:50],
                suggestion=f"take names or globs of {', '.join(names[:_MOST_NAMED])}" + (", …" if names[8:] else ""),
            )
    return tuple(file for file in listed if _fits(file.name, patterns))


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_for_others(name: str) -> bool:
    base = name.rpartition("/")[2]
    return name.startswith(_NEVER_FOLDERS) or name.startswith("checkpoint-") or _fits(base, _NEVER)


def _superfluous_weights(names: Sequence[str]) -> tuple[str, ...]:
    """Globs of weights that are there a second time: vLLM loads one kind, safetensors before all others."""
    top = [name for name in names if "/" not in name]
    safetensors = [name for name in top if name.endswith(".safetensors")]
    consolidated = [name for name in safetensors if name.startswith("consolidated")]
    if safetensors and len(consolidated) < len(safetensors):
        return (*_PICKLES, "*.gguf", "consolidated*")
    if safetensors:
        return (*_PICKLES, "*.gguf")
    return ("*.pt", "*.pth", "*.ckpt", "*.gguf") if _fits_any(top, ("pytorch_model*.bin",)) else ()


def _fits_any(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(_fits(name, patterns) for name in names)


def _check_gguf(model_id: str, names: Sequence[str]) -> None:
    """A GGUF repository holds the same model in ten quantizations, of which vLLM loads one."""
    models = sorted({_GGUF_PART.sub("", name) for name in names if name.endswith(".gguf")})
    if len(models) > 1 and not _fits_any(names, ("*.safetensors", *_PICKLES)):
        shown = ", ".join(models[:_MOST_NAMED]) + (", …" if len(models) > _MOST_NAMED else "")
        raise BadInput(
            f"{model_id} holds {len(models)} GGUF models ({shown}); vLLM loads one of them.",
            parameter="files",
            value=None,
            allowed=models[:50],
            suggestion=f"call again with files={[_glob_of(models[0]), '*.json']}",
        )


def _glob_of(gguf: str) -> str:
    return gguf.removesuffix(".gguf") + "*.gguf"
