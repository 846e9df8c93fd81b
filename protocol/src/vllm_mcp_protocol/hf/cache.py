"""The models of Hugging Face caches and folders, with what their files say. Runs nothing, writes nothing.

What lies there is found by `scanner`, what it says is read by `model_reading`. A damaged entry becomes a
warning; it never hides the others and never raises.
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_mcp_protocol.hf.inventory import CachedRepo, CachedRevision, Inventory, PlainModel
from vllm_mcp_protocol.hf.model_reading import CONFIG_LIMIT_BYTES as CONFIG_LIMIT_BYTES
from vllm_mcp_protocol.hf.model_reading import INDEX_LIMIT_BYTES as INDEX_LIMIT_BYTES
from vllm_mcp_protocol.hf.model_reading import ModelReading, read_model
from vllm_mcp_protocol.hf.scanner import LONGEST_ID, InventoryScanner, scan_folder
from vllm_mcp_protocol.model import ModelFacts
from vllm_mcp_protocol.reading import printable
from vllm_mcp_protocol.units import format_bytes
from vllm_mcp_protocol.weights.names import formats as formats
from vllm_mcp_protocol.weights.names import weight_names as weight_names

_MODEL_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+")


@dataclass(frozen=True)
class CacheScan:
    """What was found, and what could not be read."""

    models: tuple[ModelFacts, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model as it lies on disk, and what its files say."""

    facts: ModelFacts
    source: CachedRepo | PlainModel
    revision: CachedRevision | None
    """The snapshot that the facts are of; None for a plain folder, and for a repository without any snapshot."""
    missing: tuple[str, ...]
    """Files that are known by name and are not there: weights of the index or numbering, and links to nowhere."""
    warnings: tuple[str, ...]
    """About the contents of its files, without the model's name; `source` has those about names and links."""

    @property
    def formats(self) -> tuple[str, ...]:
        """`safetensors`, `gguf`, `pytorch`, `mistral`, `adapter`, …"""
        held = self.source if isinstance(self.source, PlainModel) else self.revision
        return formats(file.name for file in held.files) if held is not None else ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that lies in the folders, and the models among it."""

    inventory: Inventory
    models: tuple[FoundModel, ...]
    """By id: every model repository at the revision of `main` (else the newest), and every folder with a model.

    A repository in two caches is here once, from the first cache that has it complete.
    """
    warnings: tuple[str, ...]
    """Of the inventory and of all files that were read."""


class ModelCatalog:
    """Scans, from any thread, and remembers: what did not change is not read again. A server keeps one for its life."""

    def __init__(self) -> None:
        self._scanner = InventoryScanner()
        self._lock = threading.Lock()
        self._known: dict[str, FoundModel] = {}
        """By the path of the snapshot or folder; holds for as long as `source` is the same object."""

    def scan(self, folders: Sequence[Path], *, fresh: bool = False, plain: bool = True) -> Catalog:
        """Everything in `folders`. `fresh` reads again what did not change; `plain=False` leaves out plain folders."""
        inventory = self._scanner.scan(folders, fresh=fresh, plain=plain)
        if fresh:
            self._known.clear()
        found = [self.model(repo) for repo in inventory.repos if repo.kind == "model"]
        found += [self.model(folder) for folder in inventory.folders]
        with self._lock:
            paths = {_place(model.source, model.revision) for model in found}
            self._known = {path: model for path, model in self._known.items() if path in paths}
        about = [f"{model.facts.model_id}: {text}" for model in found for text in model.warnings]
        return Catalog(inventory, _best(found), (*inventory.all_warnings, *about))

    def model(self, source: CachedRepo | PlainModel, revision: CachedRevision | None = None) -> FoundModel:
        """What the files say of a repository that a scan found (at `revision`, else at `main`), or of a folder."""
        if isinstance(source, CachedRepo) and revision is None:
            revision = source.revision()
        place = _place(source, revision)
        known = self._known.get(place)
        if known is None or known.source is not source:
            known = _read(source, revision)
            with self._lock:
                self._known[place] = known
        return known

    def find(self, model_id: str, folders: Sequence[Path], revision: str | None = None) -> FoundModel | None:
        """One model: a repository in one of the caches, or, where `model_id` is an absolute path, a local folder.

        `revision` is a branch, tag or commit. None when there is no such model here; never raises.
        """
        if "\0" in model_id or printable(model_id) != model_id:
            return None
        if model_id.startswith("/"):
            folder = scan_folder(model_id) if len(model_id) <= LONGEST_ID else None
            return _read(folder, None) if folder is not None else None
        found = list(self._repositories(model_id, folders, revision))
        return next((model for model in found if model.facts.complete), found[0] if found else None)

    def _repositories(self, model_id: str, folders: Sequence[Path], revision: str | None) -> list[FoundModel]:
        if not _MODEL_ID.fullmatch(model_id):
            return []
        paths = [folder / ("models--" + model_id.replace("/", "--")) for folder in folders]
        repos = [repo for path in paths if (repo := self._scanner.scan_repo(path)) is not None]
        return [self.model(repo, at) for repo in repos if (at := repo.revision(revision)) is not None]


def scan(cache_dirs: Sequence[Path], catalog: ModelCatalog | None = None) -> CacheScan:
    """Every model repository of the caches, at the revision that `main` names (else the newest snapshot).

    With a `catalog` that was used before, what did not change since is not read again.
    """
    found = (catalog or ModelCatalog()).scan(cache_dirs, plain=False)
    return CacheScan(tuple(model.facts for model in found.models if model.revision is not None), found.warnings)


def find(
    model_id: str, cache_dirs: Sequence[Path], revision: str | None = None, catalog: ModelCatalog | None = None
) -> ModelFacts | None:
    """Facts of one model, see `ModelCatalog.find`."""
    found = (catalog or ModelCatalog()).find(model_id, cache_dirs, revision)
    return found.facts if found is not None else None


def facts_of(repo: CachedRepo, revision: CachedRevision | None = None) -> ModelFacts:
    """What the files of a cached model say, at `revision`, else at `main`."""
    return _read(repo, revision if revision is not None else repo.revision()).facts


def facts_of_folder(folder: PlainModel) -> ModelFacts:
    """What the files of a folder with a model say."""
    return _read(folder, None).facts


def missing_files(repo: CachedRepo, revision: CachedRevision | None = None) -> tuple[str, ...]:
    """Files of a cached model that are known by name and are not there, see `FoundModel.missing`."""
    return _read(repo, revision if revision is not None else repo.revision()).missing


def _read(source: CachedRepo | PlainModel, revision: CachedRevision | None) -> FoundModel:
    if isinstance(source, PlainModel):
        reading = read_model(source.path, source)
        return FoundModel(reading.facts, source, None, reading.missing, reading.warnings)
    if revision is None:
        return FoundModel(ModelFacts(model_id=source.repo_id, complete=False), source, None, (), ())
    reading = read_model(source.repo_id, revision)
    missing = tuple(sorted({*reading.missing, *revision.missing}))
    return FoundModel(reading.facts, source, revision, missing, _with_unfinished(reading, source))


def _with_unfinished(reading: ModelReading, repo: CachedRepo) -> tuple[str, ...]:
    left_bytes = sum(blob.size_bytes for blob in repo.unfinished)
    if reading.facts.complete or not left_bytes:
        return reading.warnings
    return (*reading.warnings, f"a download is unfinished, {format_bytes(left_bytes)} so far")


def _place(source: CachedRepo | PlainModel, revision: CachedRevision | None) -> str:
    return revision.path if revision is not None else source.path


def _best(found: Sequence[FoundModel]) -> tuple[FoundModel, ...]:
    """One of each id: the first, but a complete one rather than one with files missing."""
    models: dict[str, FoundModel] = {}
    for model in found:
        known = models.get(model.facts.model_id)
        if known is None or (model.facts.complete and not known.facts.complete):
            models[model.facts.model_id] = model
    return tuple(models[name] for name in sorted(models))
