"""Read-only scan of Hugging Face caches and of model folders. Runs nothing, follows no link out of a cache.

A cache holds, per repository:

    models--org--name/blobs/<hash>                    the contents; <hash>.incomplete while downloading
    models--org--name/refs/main                       the commit that a branch or tag is at
    models--org--name/snapshots/<commit>/<file>       links into blobs, or plain files

A damaged entry becomes a warning; it never hides the others and never raises.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_mcp_protocol import checkpoint_config
from vllm_mcp_protocol.model import ModelFacts
from vllm_mcp_protocol.units import MIB, format_bytes

CONFIG_LIMIT_BYTES = 4 * MIB
INDEX_LIMIT_BYTES = 32 * MIB
"""The index of a 256-expert checkpoint names 90,000 tensors: 9 MB."""
_REF_LIMIT_BYTES = 1024
_MOST_ENTRIES = 20_000
"""Entries read of one folder: a cache has hundreds; more is a mistake, and says so."""

_REPO = re.compile(r"models--(?:[\w.-]+--)?[\w.-]+")
_MODEL_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+")
_SHARD = re.compile(r"(.+)-(\d{5,6})-of-(\d{5,6})(\.\w+)")
_WEIGHT_KINDS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""In vLLM's order of preference: it loads files of the first kind that is there, and no others."""
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NOT_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
_CONFIGS = ("config.json", "adapter_config.json", "params.json")


@dataclass(frozen=True)
class CacheScan:
    """What was found, and what could not be read."""

    models: tuple[ModelFacts, ...]
    warnings: tuple[str, ...]


@dataclass
class _Folder:
    """A model's files: name → real path, with only those that exist and may be read."""

    model_id: str
    path: Path
    revision: str | None
    files: dict[str, Path]
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(f"{_printable(self.model_id)}: {text}")

    def read(self, name: str, limit_bytes: int = CONFIG_LIMIT_BYTES) -> Mapping[str, Any]:
        """The JSON object in file `name`; empty, with a warning, when there is a file but no object."""
        if name not in self.files:
            return {}
        try:
            value = json.loads(_read(self.files[name], limit_bytes))
        except (OSError, ValueError, RecursionError) as error:
            self.warn(f"{name} cannot be read: {_reason(error)}")
            return {}
        if not isinstance(value, dict):
            self.warn(f"{name} is not a JSON object")
            return {}
        return value


def scan(cache_dirs: Sequence[Path]) -> CacheScan:
    """Every model repository of the caches, at the revision that `main` names (else the newest snapshot).

    A repository in two caches is listed once, from the first cache that has it complete.
    """
    models: dict[str, ModelFacts] = {}
    warnings: list[str] = []
    for cache in cache_dirs:
        for repo in _repositories(cache, warnings):
            facts = _repository_facts(repo, None, warnings)
            known = models.get(facts.model_id) if facts else None
            if facts and (known is None or (facts.complete and not known.complete)):
                models[facts.model_id] = facts
    return CacheScan(tuple(models[name] for name in sorted(models)), tuple(warnings))


def find(model_id: str, cache_dirs: Sequence[Path], revision: str | None = None) -> ModelFacts | None:
    """Facts of one model: a repository in a cache, or, where `model_id` is an absolute path, a local folder.

    `revision` is a branch, tag or commit. None when there is no such model here; never raises.
    """
    if "\0" in model_id or _printable(model_id) != model_id:
        return None
    if model_id.startswith("/"):
        return _local_facts(model_id)
    if not _MODEL_ID.fullmatch(model_id):
        return None
    found = [
        facts
        for cache in cache_dirs
        if _is_dir(repo := cache / ("models--" + model_id.replace("/", "--")))
        and not repo.is_symlink()
        and (facts := _repository_facts(repo, revision, []))
    ]
    return next((facts for facts in found if facts.complete), found[0] if found else None)


def _repositories(cache: Path, warnings: list[str]) -> Iterator[Path]:
    try:
        listed = [entry for entry in _entries(cache, warnings) if entry.name.startswith("models--")]
    except FileNotFoundError:
        return
    except OSError as error:
        warnings.append(f"{cache}: {_reason(error)}")
        return
    for entry in listed:
        shown = _printable(entry.path)
        if entry.is_symlink():
            warnings.append(f"{shown} is a link out of the cache; not followed")
        elif not _REPO.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            warnings.append(f"{shown}: not the folder of a model repository")
        else:
            yield cache / entry.name


def _repository_facts(repo: Path, revision: str | None, warnings: list[str]) -> ModelFacts | None:
    model_id = repo.name.removeprefix("models--").replace("--", "/", 1)
    try:
        snapshot = _snapshot(repo, revision)
        if snapshot is None:
            left = _unfinished_bytes(repo)
            warnings.append(f"{model_id}: no snapshot" + (f", {format_bytes(left)} downloaded" if left else ""))
            return None
        folder = _Folder(model_id, snapshot, _printable(snapshot.name), {}, warnings)
        folder.files = dict(_cached_files(folder, repo))
        facts = _facts(folder)
        if not facts.complete and (left := _unfinished_bytes(repo)):
            folder.warn(f"a download is unfinished, {format_bytes(left)} so far")
        return facts
    except OSError as error:
        warnings.append(f"{model_id}: {_reason(error)}")
        return None


def _snapshot(repo: Path, revision: str | None) -> Path | None:
    """Folder of the asked revision; without one, of `main`, else the newest."""
    snapshots = repo / "snapshots"
    if not _is_dir(snapshots):
        return None
    commit = _commit(repo, revision or "main")
    if commit and _is_dir(snapshots / commit):
        return snapshots / commit
    if revision is not None:
        return None
    with os.scandir(snapshots) as entries:
        found = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    newest = max(found, key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns, default=None)
    return snapshots / newest.name if newest else None


def _commit(repo: Path, revision: str) -> str | None:
    """The commit behind a branch, tag or commit; a name that leaves `refs` is no revision."""
    if ".." in revision.split("/") or revision.startswith("/"):
        return None
    try:
        named = _read(repo / "refs" / revision, _REF_LIMIT_BYTES).decode().strip()
    except (OSError, ValueError):
        named = revision
    return named if re.fullmatch(r"[\w.-]+", named) and named not in (".", "..") else None


def _cached_files(folder: _Folder, repo: Path) -> Iterator[tuple[str, Path]]:
    """Files of a snapshot. A link is followed into this repository's blobs and nowhere else."""
    home = repo.resolve()
    with os.scandir(folder.path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)[:_MOST_ENTRIES]
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            continue
        real = Path(os.path.realpath(entry.path))
        if not real.is_relative_to(home):
            folder.warn(f"{_printable(entry.name)} is a link out of the cache; not followed")
        elif real.name.endswith(".incomplete") or not real.exists():
            folder.warn(f"{_printable(entry.name)} is missing: its blob is not there")
        elif real.is_file():
            yield entry.name, real


def _local_facts(path: str) -> ModelFacts | None:
    """A folder that the user named; its links are the user's own."""
    try:
        with os.scandir(path) as entries:
            files = {entry.name: Path(entry.path) for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return None
    if not any(name in files for name in _CONFIGS) or len(path) > 400:
        return None
    return _facts(_Folder(path, Path(path), None, files))


def _facts(folder: _Folder) -> ModelFacts:
    config = folder.read("config.json")
    tokenizer = folder.read("tokenizer_config.json")
    weights, complete = _weights(folder)
    return ModelFacts(
        model_id=folder.model_id,
        path=_printable(str(folder.path)),
        revision=folder.revision,
        complete=complete and any(name in folder.files for name in (*_CONFIGS, *_ggufs(weights))),
        weights_bytes=_total_bytes(folder.files[name] for name in weights if name in folder.files),
        architectures=checkpoint_config.architectures(config),
        model_type=checkpoint_config.short_text(config.get("model_type")),
        dtype=checkpoint_config.dtype(config),
        context_window=checkpoint_config.context_window(config, tokenizer.get("model_max_length")),
        attention_heads=checkpoint_config.attention_heads(config),
        kv_bytes_per_token=checkpoint_config.kv_bytes_per_token(config),
        quantization=checkpoint_config.quantization(config),
        is_adapter=_is_adapter(folder, weights),
        has_chat_template=_has_chat_template(folder, tokenizer),
    )


def _ggufs(weights: Iterable[str]) -> tuple[str, ...]:
    """A GGUF file carries its own configuration."""
    return tuple(name for name in weights if name.endswith(".gguf"))


def _weights(folder: _Folder) -> tuple[tuple[str, ...], bool]:
    """Names of the weight files that vLLM would load, and whether all of them are there."""
    for index in _INDEXES:
        if index in folder.files and (shards := _shards(folder.read(index, INDEX_LIMIT_BYTES))):
            missing = [name for name in shards if name not in folder.files]
            if missing:
                folder.warn(f"{len(missing)} of {len(shards)} weight files are missing: {missing[0]}, …")
            return shards, not missing
    found = weight_names(folder.files)
    return found, bool(found) and all(_siblings(name) <= set(found) for name in found)


def weight_names(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a repository's file names that vLLM loads as weights where no index says it: one kind, at the top."""
    candidates = [name for name in names if "/" not in name and name not in _NOT_WEIGHTS]
    for kind in _WEIGHT_KINDS:
        if found := sorted(name for name in candidates if name.endswith(kind)):
            return tuple(found)
    return ()


def _shards(index: Mapping[str, Any]) -> tuple[str, ...]:
    weight_map = index.get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    return tuple(sorted({text for name in names if (text := checkpoint_config.short_text(name))}))


def _siblings(name: str) -> set[str]:
    """The files that `model-00001-of-00003.safetensors` promises, itself included."""
    match = _SHARD.fullmatch(name)
    if match is None or int(match[3]) > _MOST_ENTRIES:
        return {name}
    stem, width, count, kind = match[1], len(match[2]), int(match[3]), match[4]
    numbers = range(1, count + 1) if int(match[2]) > 0 else range(count)
    return {f"{stem}-{number:0{width}d}-of-{match[3]}{kind}" for number in numbers}


def _is_adapter(folder: _Folder, weights: tuple[str, ...]) -> bool:
    """A repository of a whole model may hold an adapter too; that does not make it one."""
    if "adapter_config.json" not in folder.files:
        return False
    return "config.json" not in folder.files or all(name.startswith("adapter_model") for name in weights)


def _has_chat_template(folder: _Folder, tokenizer: Mapping[str, Any]) -> bool:
    own_files = ("chat_template.jinja", "chat_template.json")
    return any(name in folder.files for name in own_files) or bool(tokenizer.get("chat_template"))


def _total_bytes(files: Iterable[Path]) -> int | None:
    """Sum of the sizes, a blob with two names counted once; None without files."""
    sizes = {}
    for path in files:
        try:
            status = path.stat()
        except OSError:
            continue
        sizes[(status.st_dev, status.st_ino)] = status.st_size
    return sum(sizes.values()) if sizes else None


def _unfinished_bytes(repo: Path) -> int:
    """Bytes of `.incomplete` blobs."""
    try:
        with os.scandir(repo / "blobs") as entries:
            left = [entry for entry in entries if entry.name.endswith(".incomplete")]
            return sum(entry.stat(follow_symlinks=False).st_size for entry in left)
    except OSError:
        return 0


def _entries(folder: Path, warnings: list[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    if len(found) > _MOST_ENTRIES:
        warnings.append(f"{folder}: only {_MOST_ENTRIES} of {len(found)} entries were read")
    return found[:_MOST_ENTRIES]


def _read(path: Path, limit_bytes: int) -> bytes:
    """Content of a regular file of at most `limit_bytes`. Never blocks: a named pipe is refused.

    Raises OSError, or ValueError for a file that is too long.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a regular file")
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"longer than {format_bytes(limit_bytes)}")
    return content


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)[:200]


def _printable(text: str) -> str:
    """Names on disk need not be UTF-8; what goes into JSON must be."""
    return text.encode(errors="replace").decode()
