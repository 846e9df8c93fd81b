"""Say in JSON what the vLLM of this Python supports. Run by the ENGINE environment's Python:

    python -I ask_vllm_models.py

Each part is asked by itself, because other versions keep their tables elsewhere: one that fails is left out, and
`unknown` says why. Which interfaces a model's class implements is read from vLLM's sources: importing some 400
model classes takes minutes and, for some, a GPU. Needs Python 3.9 and imports nothing of the suite.
"""

# mypy: disable-error-code="import-not-found,import-untyped"
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_args

REGISTRY = "vllm.model_executor.models.registry"
TABLES = {
    "generate": ("_TEXT_GENERATION_MODELS",),
    "embed": ("_EMBEDDING_MODELS",),
    "late_interaction": ("_LATE_INTERACTION_MODELS",),
    "reward": ("_REWARD_MODELS",),
    "token_classify": ("_TOKEN_CLASSIFICATION_MODELS",),
    "classify": ("_SEQUENCE_CLASSIFICATION_MODELS", "_CROSS_ENCODER_MODELS"),
    "multimodal": ("_MULTIMODAL_MODELS",),
    "speculative": ("_SPECULATIVE_DECODING_MODELS",),
    "transformers": ("_TRANSFORMERS_SUPPORTED_MODELS", "_TRANSFORMERS_BACKEND_MODELS"),
}
"""Kind → tables of the registry, under the names of several versions."""
MODEL_CLASS = re.compile(r"(?:ForCausalLM|ForConditionalGeneration|LMHeadModel|Model|ForSequence\w*|ForToken\w*)$")
CLASS = re.compile(r"^class (\w+)(?:\(((?:[^()]|\([^()]*\))*)\))?:", re.MULTILINE)
ALIAS = re.compile(r"^ {0,4}(_\w+Base) = (?:\w+\(\s*)?(\w+)", re.MULTILINE)
"""A base that is told to type checkers in another way: `_LlamaModelBase = as_embedding_model(LlamaForCausalLM)`."""
METHOD_END = r"\(.*?(?=^    (?:def|@|\w+\s*[:=])|^\S|\Z)"
PLACEHOLDERS = re.compile(r"^    def get_placeholder_str" + METHOD_END, re.MULTILINE | re.DOTALL)
LIMITS = re.compile(r"^    def get_supported_mm_limits" + METHOD_END, re.MULTILINE | re.DOTALL)
"""How a class names its inputs in a prompt; its processor in the same file says how many it takes of each."""
INPUT = re.compile(r"[\"'](image|video|audio)[\"']")
ONLY_TRANSCRIBES = re.compile(r"^    supports_transcription_only\b[^=\n]*= True", re.MULTILINE)
LONGEST_SOURCE_BYTES = 4 << 20


class Definition(NamedTuple):
    """A class as its source states it."""

    path: Path
    bases: tuple[str, ...]
    marks: frozenset[str]
    inputs: frozenset[str]
    inputs_of_file: frozenset[str]


def first_of(*places: str) -> Any:
    """The first of `module:name` that exists. Raises ImportError or AttributeError of the last one."""
    problem: Exception = LookupError("nowhere to look")
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            problem = error
    raise problem


def installed_version() -> str:
    try:
        return str(import_module("vllm").__version__)
    except AttributeError:
        return version("vllm")


def tables() -> dict[str, dict[str, Any]]:
    registry = import_module(REGISTRY)
    found = {
        kind: {name: target for table in names for name, target in getattr(registry, table, {}).items()}
        for kind, names in TABLES.items()
    }
    if not any(found.values()):
        raise LookupError(f"{REGISTRY} has none of the known tables")
    return found


def registered() -> set[str]:
    """What can be served here: the registry's own answer, with what plugins added."""
    try:
        first_of("vllm.plugins:load_general_plugins")()
    except Exception as error:
        print(f"plugins were not asked: {error}", file=sys.stderr)
    return set(first_of(f"{REGISTRY}:ModelRegistry").get_supported_archs())


def architectures() -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {name: [] for name in registered()}
    for kind, table in tables().items():
        for name in kinds.keys() & table.keys():
            kinds[name].append(kind)
    return kinds


def classes() -> dict[str, dict[str, list[str]]]:
    """Architecture → interfaces and inputs of its class."""
    root = Path(str(import_module("vllm").__file__)).parent
    defined = definitions(root)
    found = {}
    for table in tables().values():
        for name, target in table.items():
            module, class_name = target
            lineage = list(ancestry(class_name, module_paths(root, module), defined))
            if lineage:
                marks = frozenset[str]().union(*(one.marks for one in lineage))
                inputs = inputs_of(lineage) if "SupportsMultiModal" in marks else ()
                found[name] = {"interfaces": sorted(marks), "inputs": sorted(inputs)}
    if not found:
        raise LookupError(f"no class of a model was found in {root}")
    return found


def inputs_of(lineage: list[Definition]) -> Iterable[str]:
    """What the nearest class says that names any; else what its file says."""
    stated = [one.inputs for one in lineage] + [one.inputs_of_file for one in lineage]
    return next((inputs for inputs in stated if inputs), frozenset())


def definitions(root: Path) -> dict[str, list[Definition]]:
    found: dict[str, list[Definition]] = {}
    for folder in (root / "model_executor/models", root / "models"):
        for path in sorted(folder.rglob("*.py")):
            if path.stat().st_size <= LONGEST_SOURCE_BYTES:
                for name, definition in defined_in(path):
                    found.setdefault(name, []).append(definition)
    return found


def defined_in(path: Path) -> Iterator[tuple[str, Definition]]:
    source = path.read_text(encoding="utf-8", errors="replace")
    heads = list(CLASS.finditer(source))
    limits = frozenset(INPUT.findall(" ".join(match[0] for match in LIMITS.finditer(source))))
    for head, following in zip(heads, [*heads[1:], None]):  # noqa: B905  Python 3.9 has no `strict`
        body = source[head.end() : following.start() if following else len(source)]
        yield head[1], definition(path, head[2] or "", body, limits)
    for alias in ALIAS.finditer(source):
        yield alias[1], Definition(path, (alias[2],), frozenset(), frozenset(), limits)


def definition(path: Path, bases: str, body: str, limits: "frozenset[str]") -> Definition:
    plain = re.sub(r"\[[^\]]*\]|#.*|\w+\s*=[^,]*|\w+\.", "", bases)  # type parameters, comments, keywords, modules
    names = tuple(re.findall(r"\w+", plain))
    marks = {name for name in names if name.startswith("Supports")}
    if ONLY_TRANSCRIBES.search(body):
        marks.add("supports_transcription_only")
    method = PLACEHOLDERS.search(body)
    inputs = frozenset(INPUT.findall(method[0])) if method else frozenset()
    return Definition(path, names, frozenset(marks), inputs, limits)


def module_paths(root: Path, module: str) -> tuple[Path, ...]:
    """A file, or a folder whose files define the class (one per hardware vendor)."""
    place = root.parent / module.replace(".", "/") if "." in module else root / "model_executor/models" / module
    return (place.with_suffix(".py"), place)


def ancestry(name: str, near: tuple[Path, ...], defined: dict[str, list[Definition]]) -> Iterator[Definition]:
    """Definitions of a class and of its bases, nearest first; each class once."""
    waiting, seen = [(name, near)], set()
    while waiting:
        current, places = waiting.pop(0)
        candidates = defined.get(current, [])
        beside = [one for one in candidates if any(place in (one.path, *one.path.parents) for place in places)]
        for one in beside or candidates:
            if (current, one.path) not in seen:
                seen.add((current, one.path))
                yield one
                waiting += [(base, (one.path,)) for base in one.bases]


def conversions() -> list[list[str]]:
    """Ending of a name → how vLLM runs it."""
    entries = first_of("vllm.config.model:iter_architecture_defaults", "vllm.config:iter_architecture_defaults")()
    return [[suffix, runner, convert] for suffix, (runner, convert) in entries]


def transformers_architectures() -> list[str]:
    names = dir(import_module("transformers"))
    return [name for name in names if MODEL_CLASS.search(name) and not name.endswith("PreTrainedModel")]


def parsers(managers: Iterable[str], getter: str) -> list[str]:
    """Names that a manager offers and can load."""
    manager = first_of(*managers)
    tables = [getattr(manager, name, {}) for name in ("tool_parsers", "reasoning_parsers", "lazy_parsers")]
    names = sorted({name for table in tables for name in table})
    if not names:
        raise LookupError(f"{manager!r} offers no parser")
    return [name for name in names if loads(getattr(manager, getter), name)]


def loads(get: Callable[[str], object], name: str) -> bool:
    try:
        get(name)
    except Exception as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    return True


def tool_call_parsers() -> list[str]:
    places = ("vllm.tool_parsers", "vllm.entrypoints.openai.tool_parsers")
    return parsers([f"{place}:ToolParserManager" for place in places], "get_tool_parser")


def reasoning_parsers() -> list[str]:
    return parsers(["vllm.reasoning:ReasoningParserManager"], "get_reasoning_parser")


def quantization_methods() -> list[str]:
    return list(first_of("vllm.model_executor.layers.quantization:QUANTIZATION_METHODS"))


def load_formats() -> list[str]:
    formats = first_of("vllm.model_executor.model_loader:LoadFormats", "vllm.config:LoadFormat")
    return [str(getattr(name, "value", name)) for name in get_args(formats) or formats]


PARTS: dict[str, Callable[[], Any]] = {
    "version": installed_version,
    "architectures": architectures,
    "classes": classes,
    "conversions": conversions,
    "retired": lambda: dict(first_of(f"{REGISTRY}:_PREVIOUSLY_SUPPORTED_MODELS")),
    "plugins": lambda: dict(first_of(f"{REGISTRY}:_OOT_SUPPORTED_MODELS")),
    "transformers_architectures": transformers_architectures,
    "tool_call_parsers": tool_call_parsers,
    "reasoning_parsers": reasoning_parsers,
    "tokenizer_modes": lambda: sorted(first_of("vllm.tokenizers.registry:_VLLM_TOKENIZERS")),
    "quantization_methods": quantization_methods,
    "load_formats": load_formats,
}


def answers() -> dict[str, Any]:
    found: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for part, ask in PARTS.items():
        try:
            found[part] = ask()
        except (Exception, SystemExit) as error:
            unknown[part] = f"{type(error).__name__}: {error}"[:300]
    return found | {"unknown": unknown}


def main() -> None:
    ours = os.dup(1)
    os.dup2(2, 1)  # vLLM logs to the standard output
    line = json.dumps(answers())
    with os.fdopen(ours, "w") as output:
        output.write(line + "\n")


if __name__ == "__main__":
    main()
