"""What a model can do, each claim with the evidence that it rests on. Pure, and never raises on junk.

The evidence is a file and its field, a fragment of the chat template, or a table of the installed vLLM. Unknown is an
answer. Nothing is concluded from the name of the repository.
"""

from collections.abc import Callable
from typing import get_args

from vllm_auto_discovery.core.abilities import conversation
from vllm_auto_discovery.core.abilities.architecture import Answer, interfaces, support, use
from vllm_auto_discovery.core.abilities.claims import Capability, CapabilityName, Case
from vllm_auto_discovery.core.abilities.inputs import InputName, read_input
from vllm_auto_discovery.core.abilities.model_files import CONFIG, ModelFiles
from vllm_mcp_protocol.checkpoint.config import quantization
from vllm_mcp_protocol.checkpoint.values import short_text
from vllm_mcp_protocol.vllm_models import VllmModels


def capabilities(files: ModelFiles, vllm: VllmModels | None) -> tuple[Capability, ...]:
    """All claims about a model, in the order of `CapabilityName`; `vllm` None: judged by the files alone."""
    if files.adapter is not None:
        return _of_adapter(files)
    found = support(files, vllm)
    case = Case(files, vllm, found, use(files, found, vllm))
    return tuple(judge(case) for judge in _JUDGES)


def _of_adapter(files: ModelFiles) -> tuple[Capability, ...]:
    adapter = files.adapter or {}
    base = short_text(adapter.get("base_model_name_or_path")) or "a model that it does not name"
    of_base = f"adapter_config.json: an adapter of {base}, which decides this"
    itself = _adapter_itself(adapter.get("peft_type"), bool(adapter.get("use_dora")))
    none = Capability("lora", "no", "adapter_config.json: it is an adapter itself")
    given = {"adapter": itself, "lora": none}
    return tuple(given.get(name, Capability(name, "unknown", of_base)) for name in _NAMES)


def _adapter_itself(peft_type: object, dora: bool) -> Capability:
    kind = short_text(peft_type) or "not named"
    if kind.upper() != "LORA" or dora:
        why = "use_dora is true" if dora else f"peft_type is {kind}"
        return Capability("adapter", "no", f"adapter_config.json: {why}; vLLM loads plain LoRA adapters only")
    return Capability("adapter", "yes", "adapter_config.json: peft_type LORA", flags=("--enable-lora",))


def _supported(case: Case) -> Capability:
    """The architecture, and the quantization that the checkpoint is stored in."""
    found = case.support
    methods = case.vllm.quantization_methods if case.vllm else None
    stored = quantization(case.files.config or {})
    if found.value == "yes" and stored and methods is not None and stored not in methods:
        evidence = f"{found.evidence}, but no quantization method {stored} (config.json: quantization_config)"
        return Capability("supported", "unknown", evidence)
    return Capability("supported", found.value, found.evidence)


def _input(name: InputName) -> Callable[[Case], Capability]:
    def judge(case: Case) -> Capability:
        value, evidence = read_input(name, case.files, case.support, case.vllm)
        return Capability(name, value, evidence)

    return judge


def _transcription(case: Case) -> Capability:
    marks = interfaces(case.support, case.vllm)
    if marks is None:
        return Capability("transcription", "unknown", _class_unknown(case))
    value: Answer = "yes" if "SupportsTranscription" in marks else "no"
    return Capability("transcription", value, _implements(case, "SupportsTranscription", value))


def _embeddings(case: Case) -> Capability:
    purpose, evidence = case.use.purpose, case.use.evidence
    if purpose in ("embed", "late_interaction"):
        return Capability("embeddings", "yes", evidence, flags=("--runner", "pooling"))
    if purpose is not None:
        return Capability("embeddings", "no", f"{evidence}; no modules.json with a pooling step")
    if case.files.pipeline_tag in ("feature-extraction", "sentence-similarity"):
        evidence = f"README.md: pipeline_tag {case.files.pipeline_tag}"
        return Capability("embeddings", "yes", evidence, flags=("--runner", "pooling"))
    return Capability("embeddings", "unknown", evidence)


def _rerank(case: Case) -> Capability:
    """A cross-encoder has one label, the relevance (vLLM: `score_type`); late interaction compares tokens."""
    purpose, evidence, labels = case.use.purpose, case.use.evidence, case.files.label_count
    if purpose == "late_interaction":
        return Capability("rerank", "yes", evidence, flags=("--runner", "pooling"))
    if purpose == "classify" and labels == 1:
        return Capability("rerank", "yes", f"{evidence}; one label", flags=("--runner", "pooling"))
    if purpose is None or (purpose == "classify" and labels is None):
        return Capability("rerank", "unknown", f"{evidence}; the number of labels is not stated")
    if case.files.pipeline_tag == "text-ranking":
        evidence = f"README.md: pipeline_tag text-ranking, but {evidence}: vLLM would need --hf-overrides"
        return Capability("rerank", "unknown", evidence)
    cosine = "; it can rank by the similarity of its embeddings" if purpose == "embed" else ""
    return Capability("rerank", "no", f"{evidence}: not a cross-encoder{cosine}")


def _classification(case: Case) -> Capability:
    purpose, evidence, labels = case.use.purpose, case.use.evidence, case.files.label_count
    if purpose in ("classify", "reward"):
        counted = f"; {labels} labels" if labels else ""
        return Capability("classification", "yes", f"{evidence}{counted}", flags=("--runner", "pooling"))
    return Capability("classification", "unknown" if purpose is None else "no", evidence)


def _structured_output(case: Case) -> Capability:
    text = conversation.text(case)
    why = f"vLLM constrains the tokens of every model that generates text; {text.evidence}"
    return Capability("structured_output", text.value, why if text.value == "yes" else text.evidence)


def _lora(case: Case) -> Capability:
    marks = interfaces(case.support, case.vllm)
    if marks is None:
        return Capability("lora", "unknown", _class_unknown(case))
    if "SupportsLoRA" not in marks:
        return Capability("lora", "no", _implements(case, "SupportsLoRA", "no"))
    return Capability("lora", "yes", _implements(case, "SupportsLoRA", "yes"), flags=("--enable-lora",))


def _adapter(case: Case) -> Capability:
    return Capability("adapter", "no", "there is no adapter_config.json")


def _draft(case: Case) -> Capability:
    """Is it a small model that proposes tokens for another one?"""
    if (case.files.config or {}).get("speculators_config"):
        return Capability("draft", "yes", "config.json: speculators_config")
    if case.use.purpose == "draft":
        return Capability("draft", "yes", case.use.evidence)
    value: Answer = "no" if case.support.value == "yes" else "unknown"
    return Capability("draft", value, f"{case.use.evidence}; no speculators_config")


def _mtp(case: Case) -> Capability:
    """Has it layers of its own that propose tokens (multi-token prediction)?"""
    if case.files.config is None:
        return Capability("mtp", "unknown", f"{CONFIG} was not read")
    if field := case.files.mtp_field:
        flags = ("--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1}')
        return Capability("mtp", "yes", f"{CONFIG}: {field}", flags=flags)
    return Capability("mtp", "no", f"{CONFIG} counts no layers for it")


def _implements(case: Case, interface: str, value: Answer) -> str:
    return (
        f"{case.label}: {case.support.served_as} {'implements' if value == 'yes' else 'does not implement'} {interface}"
    )


def _class_unknown(case: Case) -> str:
    return f"vLLM's class for it is not known: {case.support.evidence}"


_JUDGES: tuple[Callable[[Case], Capability], ...] = (
    _supported,
    conversation.text,
    conversation.chat,
    _input("vision"),
    _input("audio"),
    _input("video"),
    _transcription,
    _embeddings,
    _rerank,
    _classification,
    conversation.tools,
    conversation.reasoning,
    _structured_output,
    _lora,
    _adapter,
    _draft,
    _mtp,
)
_NAMES: tuple[CapabilityName, ...] = get_args(CapabilityName)
