"""Small files of the hub that outlive it: request defaults of models, and the record of starts."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from vllm_mcp_hub.host.engine_dir import write_atomic
from vllm_mcp_protocol.model import ModelConfig, StartRecord

_STARTS_KEPT = 500
"""Enough for a median per model on one host; about 400 KB."""


class ModelConfigs:
    """`models.json`: what `set-model-config` keeps."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._configs = dict(_read_configs(path))

    def all(self) -> Mapping[str, ModelConfig]:
        """Every model's request defaults."""
        return self._configs

    def set(self, model_id: str, config: ModelConfig | None) -> None:
        """Keep `config`, or forget it when None. Raises OSError, changing nothing, when the disk refuses."""
        changed = {name: value for name, value in self._configs.items() if name != model_id}
        if config is not None:
            changed[model_id] = config
        texts = {name: value.model_dump(exclude_none=True) for name, value in changed.items()}
        write_atomic(self._path, json.dumps(texts, indent=1).encode())
        self._configs = changed


def _read_configs(path: Path) -> Mapping[str, ModelConfig]:
    try:
        return {name: ModelConfig.model_validate(value) for name, value in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, ValidationError):
        path.replace(path.with_suffix(".unreadable"))  # kept for the person; the hub must start
        return {}


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
        """Append a finished start. Raises OSError when the disk refuses."""
        self._records.append(record)
        if len(self._records) > 2 * _STARTS_KEPT:
            self._records = self._records[-_STARTS_KEPT:]
            write_atomic(self._path, "".join(r.model_dump_json() + "\n" for r in self._records).encode())
        else:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(record.model_dump_json() + "\n")


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
