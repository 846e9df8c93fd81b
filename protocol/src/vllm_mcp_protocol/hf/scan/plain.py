"""Reads a folder of a user's own with a model in it: files by names and sizes, also of the folders in it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from sys import intern

from vllm_mcp_protocol.hf.inventory import CachedFile, PlainModel
from vllm_mcp_protocol.hf.scan.notes import DEEPEST_FOLDER, MOST_FOLDERS
from vllm_mcp_protocol.reading import MOST_ENTRIES, printable, reason

CONFIGS = ("config.json", "adapter_config.json", "params.json")
"""What makes a folder a model: the configuration of transformers, of an adapter, of Mistral; or a GGUF file."""


@dataclass(frozen=True, slots=True)
class PlainReading:
    """A folder's model, and when each of its files was written (inode, ns): what is equal did not change."""

    model: PlainModel
    written: tuple[tuple[int, int], ...]


def looks_like_model(names: Iterable[str]) -> bool:
    """Whether a folder with these entries is a model."""
    return any(name in CONFIGS or name.endswith(".gguf") for name in names)


def read_plain(path: str, root: str | None) -> PlainReading:
    """The model in the folder `path`. Never raises for what lies on disk.

    Links are followed within `root`; everywhere (None) for a folder that the user named, whose links are his own.
    """
    reading = _Reading(path, os.path.realpath(root) if root is not None else None)
    waiting = [("", 0)]
    for _ in range(MOST_FOLDERS):
        if not waiting:
            break
        prefix, depth = waiting.pop()
        waiting += reading.read_folder(prefix, depth)
    if waiting:
        reading.warn(f"more than {MOST_FOLDERS} folders; the rest is not read")
    return reading.result()


@dataclass(slots=True)
class _Reading:
    path: str
    root: str | None
    files: list[CachedFile] = field(default_factory=list)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    """By device and inode: what has two names counts once."""
    written: list[tuple[int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(printable(text))

    def result(self) -> PlainReading:
        self.files.sort(key=attrgetter("name"))
        files, warnings = tuple(self.files), tuple(self.warnings)
        model = PlainModel(self.path, files, sum(self.sizes.values()), warnings)
        return PlainReading(model, tuple(sorted(self.written)))

    def read_folder(self, prefix: str, depth: int) -> list[tuple[str, int]]:
        """Add the files of one folder; the folders in it, with their depth."""
        nested = []
        for entry in self._listed(prefix):
            name = prefix + entry.name
            if printable(name) != name:
                self.warn(f"{name} is not a name in UTF-8; not read")
            elif not entry.is_dir(follow_symlinks=False):
                self._add(entry, name)
            elif depth == DEEPEST_FOLDER:
                self.warn(f"{name} is nested too deeply; not read")
            elif not entry.name.startswith("."):
                nested.append((f"{name}/", depth + 1))
        return nested

    def _listed(self, prefix: str) -> Iterator[os.DirEntry[str]]:
        shown = prefix.rstrip("/") or "the folder"
        try:
            with os.scandir(f"{self.path}/{prefix}") as listed:
                yield from islice(listed, MOST_ENTRIES)
                if next(listed, None) is not None:
                    self.warn(f"{shown}: only {MOST_ENTRIES} of its entries were read")
        except OSError as error:
            self.warn(f"{shown}: {reason(error)}")

    def _add(self, entry: os.DirEntry[str], name: str) -> None:
        if entry.is_symlink() and not self._may_follow(entry.path):
            self.warn(f"{name} is a link out of the folder; not followed")
            return
        try:
            is_file, status = entry.is_file(), entry.stat()
        except OSError as error:
            self.warn(f"{name} is missing: {reason(error)}")
            return
        if not is_file:
            self.warn(f"{name} is not a file")
            return
        self.files.append(CachedFile(intern(name), status.st_size, None))
        self.sizes[status.st_dev, status.st_ino] = status.st_size
        self.written.append((status.st_ino, status.st_mtime_ns))

    def _may_follow(self, path: str) -> bool:
        return self.root is None or os.path.realpath(path).startswith(f"{self.root}/")
