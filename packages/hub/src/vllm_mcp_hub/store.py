"""Small files of the hub that outlive it: request defaults of models, and the record of starts."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vllm_mcp_protocol.files import write_atomic
from vllm_mcp_protocol.model import ModelConfig, StartRecord

log = logging.getLogger(__name__)

_STARTS_KEPT = 500
"""Enough for a median per model on one host; about 400 KB."""


class ModelConfigs:
    """`models.json`: what `set-model-config` keeps. An entry that cannot be read is kept as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[str, Any] = _read_object(path)
        self._configs = dict(_valid(self._texts))

    def all(self) -> Mapping[str, ModelConfig]:
        """Every model's request defaults."""
        return self._configs

    def set(self, model_id: str, config: ModelConfig | None) -> None:
        """Keep `config`, or forget it when None. Raises OSError or DiskFull, changing nothing."""
        texts = {name: text for name, text in self._texts.items() if name != model_id}
        if config is not None:
            texts[model_id] = config.model_dump(mode="json", exclude_none=True)
        write_atomic(self._path, json.dumps(texts, indent=1).encode())
        self._texts, self._configs = texts, dict(_valid(texts))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    path.replace(path.with_suffix(".unreadable"))  # kept for the person; the hub must start
    return {}


def _valid(texts: Mapping[str, Any]) -> Iterator[tuple[str, ModelConfig]]:
    for name, text in texts.items():
        try:
            yield name, ModelConfig.model_validate(text)
        except ValidationError as error:
            log.warning("models.json: %s is of another version and is left alone: %s", name, error.errors()[0]["msg"])


class StartHistory:
    """`starts.jsonl`: what every start really took. The next estimate is corrected by it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records = _read_starts(path)

    def all(self) -> tuple[StartRecord, ...]:
        """The last starts, oldest first."""
        return tuple(self._records)

    def of(self, version: str | None) -> tuple[StartRecord, ...]:
        """Starts of that vLLM: what another version took says little. None (not known yet) takes them all."""
        return tuple(r for r in self._records if None in (version, r.vllm_version) or r.vllm_version == version)

    def add(self, record: StartRecord) -> None:
        """Append a finished start. Raises DiskFull or OSError when the disk refuses."""
        self._records.append(record)
        if len(self._records) > 2 * _STARTS_KEPT:
            self._records = self._records[-_STARTS_KEPT:]
            write_atomic(self._path, "".join(r.model_dump_json() + "\n" for r in self._records).encode())
        else:
            with open(self._path, "ab+") as file:
                cut = file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
                file.write((b"\n" if cut else b"") + record.model_dump_json().encode() + b"\n")


def _read_starts(path: Path) -> list[StartRecord]:
    try:
        lines = path.read_text().splitlines()[-_STARTS_KEPT:]
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            found.append(StartRecord.model_validate_json(line))
        except ValidationError:
            continue  # a line cut by a crash costs one observation
    return found
