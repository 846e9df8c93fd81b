"""How the installed vLLM would run a model: by which of its classes, and to what purpose. Pure.

Follows vLLM 0.32: `ModelConfig._get_default_runner_type` and `_ModelRegistry._normalize_arch`.
"""

from dataclasses import dataclass
from typing import Literal

from vllm_auto_discovery.core.abilities.model_files import ModelFiles
from vllm_mcp_protocol.vllm_models import ArchitectureKind, VllmModels

Answer = Literal["yes", "no", "unknown"]
Purpose = Literal["generate", "transcribe", "embed", "late_interaction", "classify", "reward", "draft"]

_PURPOSE_OF_KIND: tuple[tuple[ArchitectureKind, Purpose], ...] = (
    ("generate", "generate"),
    ("multimodal", "generate"),
    ("late_interaction", "late_interaction"),
    ("classify", "classify"),
    ("token_classify", "classify"),
    ("reward", "reward"),
    ("embed", "embed"),
    ("speculative", "draft"),
)
"""The first that applies: many generating architectures can also be served as embedding models."""
_ENDINGS: tuple[tuple[str, Purpose], ...] = (
    ("ForCausalLM", "generate"),
    ("ForConditionalGeneration", "generate"),
    ("LMHeadModel", "generate"),
    ("ForSequenceClassification", "classify"),
    ("ForTokenClassification", "classify"),
    ("RewardModel", "reward"),
)
"""What the Transformers library calls its classes; for models that vLLM was not, or could not be, asked about."""


@dataclass(frozen=True, slots=True)
class Support:
    """Does this vLLM have the architecture?"""

    value: Answer
    evidence: str
    served_as: str | None = None
    """The name in vLLM's registry; None when it has none."""
    kinds: frozenset[ArchitectureKind] = frozenset()
    """What `served_as` is for; where vLLM converts its class, what it is made into."""


def support(files: ModelFiles, vllm: VllmModels | None) -> Support:
    """Whether, and as what, `vllm` runs the architectures of config.json."""
    names = files.architectures
    if not names:
        where = "names no architecture" if files.config is not None else "was not read"
        return Support("unknown", f"config.json {where}")
    if vllm is None or vllm.architectures is None:
        why = vllm.unknown.get("architectures", vllm.unknown.get("vllm", "")) if vllm else "it was not asked"
        return Support("unknown", f"vLLM's registry is not known: {why}")
    for name in names:
        if name in vllm.architectures:
            return Support("yes", f"{vllm.label}: its registry has {name}", name, vllm.architectures[name])
        if converted := _converted(name, vllm):
            return converted
    return _not_registered(files, names[0], vllm)


def _converted(name: str, vllm: VllmModels) -> Support | None:
    """vLLM makes a classifier or an embedding model of a generating class by its name's ending."""
    known = vllm.architectures or {}
    rules = vllm.conversions or ()
    rule = next((rule for rule in rules if name.endswith(rule[0])), None)
    if rule is None or rule[1] != "pooling":
        return None
    base = next((base for ending, _, _ in rules if (base := name.removesuffix(rule[0]) + ending) in known), None)
    if base is None:
        return None
    kinds: frozenset[ArchitectureKind] = frozenset({"classify" if rule[2] == "classify" else "embed"})
    return Support("yes", f"{vllm.label}: serves {name} by its class {base}, converted", base, kinds)


def _not_registered(files: ModelFiles, name: str, vllm: VllmModels) -> Support:
    missing = f"{vllm.label}: its registry has no {name}"
    last = f", which it had until {vllm.retired[name]}" if vllm.retired and name in vllm.retired else ""
    if vllm.transformers_architectures is None or name in vllm.transformers_architectures:
        return Support("unknown", f"{missing}{last}; it would try the Transformers library's class")
    auto_map = (files.config or {}).get("auto_map")
    if isinstance(auto_map, dict) and any(str(key).startswith("AutoModel") for key in auto_map):
        return Support("unknown", f"{missing}{last}; it would need the model's own code (config.json: auto_map)")
    if vllm.plugins and name in vllm.plugins:
        return Support("no", f"{missing}; there is a plugin: {vllm.plugins[name]}")
    return Support("no", missing + last)


@dataclass(frozen=True, slots=True)
class Use:
    """What a model is for; None when no file tells."""

    purpose: Purpose | None
    evidence: str


def use(files: ModelFiles, found: Support, vllm: VllmModels | None) -> Use:
    """What vLLM serves the model for when nobody says otherwise."""
    if pools := files.pools:
        return Use("embed", pools)
    names = ", ".join(files.architectures)
    marks = interfaces(found, vllm)
    if vllm and marks and "supports_transcription_only" in marks:
        return Use("transcribe", f"{vllm.label}: {found.served_as} only transcribes (config.json: architectures)")
    for kind, purpose in _PURPOSE_OF_KIND:
        if kind in found.kinds:
            return Use(purpose, f"config.json: architectures {names}; vLLM's registry: {kind}")
    for name in files.architectures:
        for ending, purpose in _ENDINGS:
            if name.endswith(ending):
                return Use(purpose, f"config.json: architectures {name}")
    return Use(None, f"config.json: architectures {names}" if names else found.evidence)


def interfaces(found: Support, vllm: VllmModels | None) -> frozenset[str] | None:
    """What vLLM's class for the model implements; None when that is not known."""
    return (vllm.interfaces or {}).get(found.served_as or "") if vllm else None
