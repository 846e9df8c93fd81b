"""Scans folders for models, and remembers: a repository in which nothing changed costs a few `stat` calls.

A folder may be a Hugging Face cache (`models--org--name`, see `hf.scan.repo`), a folder of models (`name` or
`org/name` below it hold a config.json), or a model itself.
"""

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from vllm_mcp_protocol.collector import collector_paused
from vllm_mcp_protocol.hf.inventory import CachedRepo, Inventory, PlainModel
from vllm_mcp_protocol.hf.scan.blobs import SharedBlobs
from vllm_mcp_protocol.hf.scan.notes import hold
from vllm_mcp_protocol.hf.scan.opened import OpenCache
from vllm_mcp_protocol.hf.scan.plain import PlainReading, looks_like_model, read_plain
from vllm_mcp_protocol.hf.scan.repo import RepoReading, read_repo
from vllm_mcp_protocol.reading import MOST_ENTRIES, printable, reason

SETTLED_NS = 2_000_000_000
"""A change in the same tick of the file system's clock as the one before it leaves the time of the folder as it is, so
what changed that shortly before a reading is read again. The coarsest clock, FAT's, ticks every two seconds."""

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_CACHED = ("models--", "datasets--", "spaces--")
_REPO = re.compile(r"(?!.*\.\.)(models|datasets|spaces)--([\w.-]+)")
LONGEST_ID = 400
"""Of a path that is a model's id (`model.ModelId`)."""
_MOST_LOOKED_IN = 2_000
"""Folders that are opened to see whether a model lies in them, in case somebody names his home."""


class _Known(NamedTuple):
    """What a reading gave, and whether it had settled by then."""

    reading: RepoReading
    settled: bool

    def still_holds(self, store: SharedBlobs) -> bool:
        """Unfinished blobs grow in place, which their folder does not show."""
        repo, marks, shared = self.reading
        return self.settled and not repo.unfinished and hold(marks, store.cache) and store.hold(shared)


@dataclass(slots=True)
class _Found:
    """What one scan collects."""

    repos: list[CachedRepo] = field(default_factory=list)
    models: list[PlainModel] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    looked_in: int = 0

    def warn(self, text: str) -> None:
        self.warnings.append(printable(text))


class InventoryScanner:
    """Scans, from any thread, and keeps what it read. A repository that did not change is the same object again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, _Known]] = {}
        """Folder → name of a repository in it."""
        self._plain: dict[str, dict[str, PlainReading]] = {}
        """Folder → path of a model in it."""

    def scan(self, folders: Sequence[Path], *, fresh: bool = False, plain: bool = True) -> Inventory:
        """All that lies in `folders`; one that is not there is empty. Never raises for what lies on disk.

        `fresh` reads again what did not change; `plain=False` looks for repositories only.
        """
        with self._lock, collector_paused():
            found = _Found()
            for folder in _distinct(folders, found):
                self._scan_folder(folder, found, fresh=fresh, plain=plain)
            repos = tuple(sorted(found.repos, key=attrgetter("repo_id", "kind")))
            models = tuple(sorted(found.models, key=attrgetter("path")))
            return Inventory(repos, models, tuple(found.warnings))

    def scan_repo(self, path: Path, *, fresh: bool = False) -> CachedRepo | None:
        """The repository in the folder `path`; None when there is none, or its name is no repository's."""
        folder, name = os.path.split(path)
        if not (named := _REPO.fullmatch(name)) or os.path.islink(path) or not os.path.isdir(path):
            return None
        try:
            cache = OpenCache(folder or ".")
        except OSError:
            return None  # gone since it was looked at
        with self._lock, cache:
            before = self._known.setdefault(folder, {})
            before[name] = known = _read_again(before.get(name), named, SharedBlobs(cache), fresh=fresh)
            return known.reading.repo

    def _scan_folder(self, folder: str, found: _Found, *, fresh: bool, plain: bool) -> None:
        before, now = self._known.pop(folder, {}), dict[str, _Known]()
        others: list[os.DirEntry[str]] = []
        try:
            cache = OpenCache(folder)
        except OSError as error:
            found.warn(f"{folder}: {reason(error)}")
            return
        with cache:
            store = SharedBlobs(cache)
            for entry in _listed(folder, found):
                name = entry.name
                if not name.startswith(_CACHED):
                    others.append(entry)
                elif named := _repo_name(entry, found):
                    now[name] = _read_again(before.get(name), named, store, fresh=fresh)
        self._known[folder] = now
        found.repos += [known.reading.repo for known in now.values()]
        if plain and not now and looks_like_model(entry.name for entry in others):
            self._add_models([folder], folder, found)
        elif plain:
            self._add_models(_models_in(others, found), folder, found)

    def _add_models(self, paths: Iterable[str], root: str, found: _Found) -> None:
        """Their files may be written in place, so they are always looked at; what is the same keeps its object."""
        before, now = self._plain.get(root, {}), dict[str, PlainReading]()
        for path in paths:
            if len(path) > LONGEST_ID or printable(path) != path:
                found.warn(
                    f"{path[:LONGEST_ID]}: a model's path has at most {LONGEST_ID} characters, in UTF-8; not read"
                )
                continue
            reading = read_plain(path, root)
            now[path] = before[path] if before.get(path) == reading else reading
        self._plain[root] = now
        found.models += [reading.model for reading in now.values()]


def scan_folder(path: str) -> PlainModel | None:
    """The model in a folder that the user named, whose links are his own; None when there is none."""
    try:
        with os.scandir(path) as listed:
            there = looks_like_model(entry.name for entry in islice(listed, MOST_ENTRIES) if entry.is_file())
    except (OSError, ValueError):
        return None
    return read_plain(path, None).model if there else None


def _read_again(known: _Known | None, named: re.Match[str], store: SharedBlobs, *, fresh: bool) -> _Known:
    """What is known while it holds, else a new reading; one that gives the same keeps the object."""
    if known is not None and not fresh and known.still_holds(store):
        return known
    started_ns = time.time_ns()
    reading = read_repo(named[0], named[2].replace("--", "/", 1), _KINDS[named[1]], store)
    newest_ns = max([mark[2] for mark in (*reading.marks, *reading.shared)], default=0)
    if known is not None and known.reading[:2] == reading[:2]:
        reading = reading._replace(repo=known.reading.repo)
    return _Known(reading, newest_ns < started_ns - SETTLED_NS)


def _distinct(folders: Sequence[Path], found: _Found) -> Iterator[str]:
    """The folders that are there, each once although it may have several names."""
    seen = set()
    for folder in folders:
        try:
            status = os.stat(folder)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            found.warn(f"{folder}: {reason(error)}")
            continue
        if (place := (status.st_dev, status.st_ino)) not in seen:
            seen.add(place)
            yield str(folder)


def _listed(folder: str, found: _Found) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listed:
            yield from islice(listed, MOST_ENTRIES)
            if next(listed, None) is not None:
                found.warn(f"{folder}: only {MOST_ENTRIES} of its entries were read")
    except OSError as error:
        found.warn(f"{folder}: {reason(error)}")


def _repo_name(entry: os.DirEntry[str], found: _Found) -> re.Match[str] | None:
    """The parts of a repository's name, when the entry is the folder of one."""
    named = _REPO.fullmatch(entry.name)
    if named is not None and entry.is_dir(follow_symlinks=False):
        return named
    if entry.is_symlink():
        found.warn(f"{entry.path} is a link out of the cache; not followed")
    else:
        found.warn(f"{entry.path}: not the folder of a repository")
    return None


def _folders_of(listed: Iterable[os.DirEntry[str]], found: _Found) -> Iterator[str]:
    """Folders in which models may lie, by name: no hidden ones, no repositories, no shared blobs of a cache."""
    for entry in sorted(listed, key=attrgetter("name")):
        if entry.name.startswith(".") or entry.name == "blobs" or entry.name.startswith(_CACHED):
            continue
        if printable(entry.name) != entry.name:
            found.warn(f"{entry.path} is not a name in UTF-8; not read")
        elif entry.is_symlink():
            if os.path.isdir(entry.path):
                found.warn(f"{entry.path} is a link to a folder; not followed")
        elif entry.is_dir(follow_symlinks=False):
            yield entry.path


def _models_in(listed: Iterable[os.DirEntry[str]], found: _Found) -> Iterator[str]:
    """Folders that are models, among those listed and those right below them (`org/name`)."""
    for child in _folders_of(listed, found):
        inside = list(_look_in(child, found))
        if looks_like_model(entry.name for entry in inside):
            yield child
        elif all(entry.name != "model_index.json" for entry in inside):  # a pipeline of diffusers has models as parts
            for grandchild in _folders_of(inside, found):
                if looks_like_model(entry.name for entry in _look_in(grandchild, found)):
                    yield grandchild


def _look_in(folder: str, found: _Found) -> Iterator[os.DirEntry[str]]:
    found.looked_in += 1
    if found.looked_in <= _MOST_LOOKED_IN:
        yield from _listed(folder, found)
    elif found.looked_in == _MOST_LOOKED_IN + 1:
        found.warn(f"{folder}: only {_MOST_LOOKED_IN} folders are looked into for models")
