"""Reads the small files of one model, and the headers of its weights, into values that the core judges."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vllm_auto_discovery.core.abilities.model_files import CONFIG, TEMPLATE_FILE, TOKENIZER_CONFIG, ModelFiles
from vllm_mcp_protocol.checkpoint.card import FRONT_MATTER_LIMIT_CHARS, ModelCard, read_model_card
from vllm_mcp_protocol.checkpoint.facts import ConfigFacts, config_facts
from vllm_mcp_protocol.hf.cache import FoundModel
from vllm_mcp_protocol.hf.inventory import CachedFile, CachedRevision, PlainModel
from vllm_mcp_protocol.reading import printable, read_regular, reason
from vllm_mcp_protocol.units import MIB
from vllm_mcp_protocol.weights.files import read_gguf, read_safetensors
from vllm_mcp_protocol.weights.headers import BadHeader
from vllm_mcp_protocol.weights.names import weight_names
from vllm_mcp_protocol.weights.summary import WeightSummary, summarize_gguf, summarize_safetensors

_JSON_LIMIT_BYTES = 4 * MIB
_TOKENIZER_LIMIT_BYTES = 16 * MIB
"""tokenizer_config.json with tens of thousands of added tokens has 8 MB."""
_TEMPLATE_LIMIT_BYTES = MIB
_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")
_Header = TypeVar("_Header")


@dataclass(frozen=True)
class Inspected:
    """What a model's files say, beyond its facts."""

    files: ModelFiles
    config: ConfigFacts
    card: ModelCard
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class InspectedWeights:
    """What the headers of a model's weights say."""

    summary: WeightSummary | None
    corrupt: tuple[str, ...]
    """`file: what is wrong`, of the files whose header cannot be true."""


def inspect(model: FoundModel, roots: Sequence[Path]) -> Inspected:
    """Read what is small: configuration, tokenizer, templates, card. Never raises for what lies on disk.

    Links in a plain folder may lead into `roots` and nowhere else: a template is shown to whoever asks.
    """
    reader = _Reader(_held(model), roots)
    config, tokenizer = reader.object(CONFIG), reader.object(TOKENIZER_CONFIG, _TOKENIZER_LIMIT_BYTES)
    preprocessor = reader.object("preprocessor_config.json") or reader.object("processor_config.json")
    card = read_model_card(reader.text("README.md", FRONT_MATTER_LIMIT_CHARS * 4) or "")
    template, template_file = reader.template()
    files = ModelFiles(
        names=frozenset(reader.files),
        config=config,
        tokenizer_config=tokenizer,
        chat_template=template,
        chat_template_file=template_file,
        modules=reader.json("modules.json"),
        preprocessor=preprocessor,
        adapter=reader.object("adapter_config.json") if model.facts.is_adapter else None,
        pipeline_tag=card.pipeline_tag,
    )
    facts = config_facts(
        config or {},
        generation=reader.object("generation_config.json") or {},
        tokenizer=tokenizer or {},
        preprocessor=preprocessor or {},
        sentence=reader.object("sentence_bert_config.json") or {},
        quantized=reader.object("hf_quant_config.json") or {},
    )
    return Inspected(files, facts, card, tuple(reader.warnings))


def inspect_weights(model: FoundModel, packed_bits: int | None = None) -> InspectedWeights:
    """Read the headers of the weight files that are there. Blocks: a few reads of each file."""
    held = _held(model)
    by_name = {file.name: file for file in held.files} if held is not None else {}
    paths = {name: Path(_path(held, by_name[name])) for name in _with_headers(by_name)}
    if any(name.endswith(".gguf") for name in paths):
        headers, corrupt = _read_each(paths, read_gguf)
        return InspectedWeights(_together(summarize_gguf, headers, corrupt), corrupt)
    tensors, corrupt = _read_each(paths, read_safetensors)
    summarize = partial(summarize_safetensors, packed_bits=packed_bits)
    return InspectedWeights(_together(summarize, tensors, corrupt), corrupt)


def _with_headers(names: Iterable[str]) -> list[str]:
    """Weight files whose headers say what is in them; of several GGUF quantizations the first, with all its parts."""
    found = [name for name in weight_names(names) if name.endswith((".safetensors", ".gguf"))]
    if not found or not found[0].endswith(".gguf"):
        return found
    return [name for name in found if _without_part(name) == _without_part(found[0])]


def _without_part(name: str) -> str:
    return _PART.sub("", name)


def _read_each(paths: Mapping[str, Path], read: Callable[[Path], _Header]) -> tuple[list[_Header], tuple[str, ...]]:
    """Each file's header, and what is wrong with those that have none."""
    headers, corrupt = [], []
    for name, path in paths.items():
        try:
            headers.append(read(path))
        except (OSError, BadHeader) as error:
            corrupt.append(printable(f"{name}: {reason(error).removeprefix(f'{path.name}: ')}"))
    return headers, tuple(corrupt)


def _together(
    summarize: Callable[[list[_Header]], WeightSummary], headers: list[_Header], corrupt: Sequence[str]
) -> WeightSummary | None:
    """None when files are missing from the sum, or contradict each other although each is sound."""
    if corrupt or not headers:
        return None
    try:
        return summarize(headers)
    except BadHeader:
        return None


def _held(model: FoundModel) -> CachedRevision | PlainModel | None:
    if isinstance(model.source, PlainModel):
        return model.source
    return model.revision


def _path(held: CachedRevision | PlainModel | None, file: CachedFile) -> str:
    return held.path_of(file) if held is not None else ""


class _Reader:
    """The small files of one model; what is wrong with them becomes a warning."""

    def __init__(self, held: CachedRevision | PlainModel | None, roots: Sequence[Path]) -> None:
        self._held = held
        self._roots = [os.path.realpath(root) for root in roots]
        self.files = {file.name: file for file in held.files} if held is not None else {}
        self.warnings: list[str] = []

    def text(self, name: str, limit_bytes: int) -> str | None:
        """The beginning of a file of text; None when there is none that can be read."""
        if name not in self.files:
            return None
        try:
            return read_regular(self._confined(name), limit_bytes).decode(errors="replace")
        except (OSError, ValueError) as error:
            self._warn(name, error)
            return None

    def _confined(self, name: str) -> str:
        """Where the file's content is; of a cache the scan has looked at its links. Raises ValueError for elsewhere."""
        path = _path(self._held, self.files[name])
        if not isinstance(self._held, PlainModel):
            return path
        real = os.path.realpath(path)
        if any(real.startswith(f"{root}/") for root in self._roots):
            return real
        raise ValueError("it is a link to elsewhere; not followed")

    def json(self, name: str, limit_bytes: int = _JSON_LIMIT_BYTES) -> Any:
        """What a file of JSON holds; None when there is none that can be read."""
        text = self.text(name, limit_bytes)
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            self._warn(name, error)
            return None

    def object(self, name: str, limit_bytes: int = _JSON_LIMIT_BYTES) -> Mapping[str, Any] | None:
        """The same, when it is an object."""
        value = self.json(name, limit_bytes)
        return value if isinstance(value, dict) else None

    def template(self) -> tuple[str | None, str]:
        """The chat template that is a file of its own, and that file's name."""
        if written := self.text(TEMPLATE_FILE, _TEMPLATE_LIMIT_BYTES):
            return written, TEMPLATE_FILE
        inner = (self.object("chat_template.json") or {}).get("chat_template")
        return (inner, "chat_template.json") if isinstance(inner, str) else (None, TEMPLATE_FILE)

    def _warn(self, name: str, error: Exception) -> None:
        self.warnings.append(printable(f"{name} cannot be read: {reason(error)}"))
