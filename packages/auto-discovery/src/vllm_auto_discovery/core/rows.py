"""A model as discover-models shows it: what is known of it, and whether load-model could be called with it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field

from vllm_auto_discovery.core.abilities.architecture import Answer
from vllm_auto_discovery.core.abilities.claims import Capability, CapabilityName
from vllm_mcp_protocol.memory_needs import Fit
from vllm_mcp_protocol.model import Device, EngineView, ModelFacts
from vllm_mcp_protocol.model_names import is_path
from vllm_mcp_protocol.serving.results import Part
from vllm_mcp_protocol.units import to_mib

ModelState = Literal["complete", "partial", "corrupt", "adapter", "served", "remote"]

_SHOWN_MISSING = 3
_ABILITIES = tuple(name for name in get_args(CapabilityName) if name != "supported")

NO_CLAIMS: tuple[Capability, ...] = ()
NO_FIT = Fit((), None, "not asked")


class ModelRow(Part):
    """One model as discover-models shows it."""

    id: str = Field(description="Name for load-model")
    status: ModelState = Field(
        description="complete, partial or corrupt files; adapter: for load-lora; served: only an engine has it; "
        "remote: on the Hugging Face Hub"
    )
    where: str = Field(description="Folder, or address of the engine")
    formats: list[str] = []
    size_mb: int | None = Field(default=None, description="Weights on disk, MiB")
    parameters: int | None = Field(default=None, description="Counted in the weight files' headers")
    quantization: str | None = None
    dtype: str | None = None
    context_window: int | None = Field(default=None, description="Tokens")
    capabilities: list[str] = Field(default=[], description="What is proved; see get-model-capabilities")
    task: str | None = Field(default=None, description="What the Hub says it is for; of status remote only")
    supported: Answer = Field(default="unknown", description="Does the installed vLLM have the architecture?")
    fits_on: list[str] = Field(default=[], description="Devices that can hold it when nothing else runs")
    served_by: list[str] = Field(default=[], description="Engines that serve it now")
    missing: list[str] = Field(default=[], description="Files that are missing or damaged, the first few")
    load: dict[str, Any] | None = Field(default=None, description="Arguments for load-model; null: it cannot be loaded")
    why_not: str | None = Field(default=None, description="Why it cannot be loaded, and what to do")


class DeviceRow(Part):
    id: str
    name: str
    total_mb: int
    free_mb: int
    promised_mb: int = Field(description="Promised to engines")


@dataclass(frozen=True)
class Subject:
    """A model with all that was found out about it."""

    facts: ModelFacts
    missing: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    corrupt: tuple[str, ...] = ()
    parameters: int | None = None
    quantization: str | None = None
    """As stored in the weights, where config.json does not say it."""
    claims: tuple[Capability, ...] = NO_CLAIMS
    fit: Fit = NO_FIT
    served_by: tuple[str, ...] = ()


def state_of(subject: Subject) -> ModelState:
    """What its files are good for."""
    if subject.facts.is_adapter:
        return "adapter"
    if not subject.facts.complete:
        return "partial"
    return "corrupt" if subject.corrupt else "complete"


def claim(claims: Iterable[Capability], name: str) -> Capability | None:
    """The claim of that name."""
    return next((one for one in claims if one.name == name), None)


def proved(claims: Iterable[Capability]) -> list[str]:
    """What a model is shown to be able to do, in a fixed order."""
    yes = {one.name for one in claims if one.value == "yes"}
    return [name for name in _ABILITIES if name in yes]


def model_row(subject: Subject) -> ModelRow:
    """The row of a model that lies on disk."""
    facts, supported = subject.facts, claim(subject.claims, "supported")
    why_not = why_not_loadable(subject)
    return ModelRow(
        id=facts.model_id,
        status=state_of(subject),
        where=facts.path or "",
        formats=list(subject.formats),
        size_mb=None if facts.weights_bytes is None else to_mib(facts.weights_bytes),
        parameters=subject.parameters,
        quantization=facts.quantization or subject.quantization,
        dtype=facts.dtype,
        context_window=facts.context_window,
        capabilities=proved(subject.claims),
        supported=supported.value if supported is not None else "unknown",
        fits_on=list(subject.fit.device_ids),
        served_by=list(subject.served_by),
        missing=[*subject.corrupt, *subject.missing][:_SHOWN_MISSING],
        load=None if why_not else load_arguments(subject),
        why_not=why_not,
    )


def why_not_loadable(subject: Subject) -> str | None:
    """Why load-model would refuse it, and what to do; None when nothing speaks against it."""
    facts, state = subject.facts, state_of(subject)
    if state == "adapter":
        return f"an adapter: load its base model with enable_lora=true, then load-lora with lora_path={facts.model_id}"
    if state == "partial":
        names = ", ".join(subject.missing[:_SHOWN_MISSING]) or "config or weights"
        return f"incomplete, missing {names}: " + _fetch(facts)
    if state == "corrupt":
        return f"damaged: {subject.corrupt[0]}; " + _renew(facts)
    supported = claim(subject.claims, "supported")
    if supported is not None and supported.value == "no":
        return f"this vLLM does not support it: {supported.evidence}"
    if subject.fit is not NO_FIT and subject.fit.tensor_parallel_size is None and facts.weights_bytes is not None:
        return f"it does not fit: {subject.fit.reason}"
    return None


def _fetch(facts: ModelFacts) -> str:
    return "put the files there" if is_path(facts.model_id) else f"download-model {facts.model_id}"


def _renew(facts: ModelFacts) -> str:
    if is_path(facts.model_id):
        return "replace the file"
    return f"delete-cached-model {facts.model_id}, then download-model"


def load_arguments(subject: Subject) -> dict[str, Any]:
    """Arguments with which load-model needs no further question: the devices it needs, and the flags that turn on what
    the model can do."""
    facts, size = subject.facts, subject.fit.tensor_parallel_size
    arguments: dict[str, Any] = {"model_id": facts.model_id}
    if size is not None and size > 1:
        arguments["tensor_parallel_size"] = size
    if flags := useful_flags(subject.claims):
        arguments["extra_args"] = list(flags)
    return arguments


def useful_flags(claims: Sequence[Capability]) -> tuple[str, ...]:
    """Flags of `vllm serve` for tools, reasoning and pooling, where they are proved."""
    wanted = ("embeddings", "rerank", "classification", "tools", "reasoning")
    chosen = [one for name in wanted if (one := claim(claims, name)) is not None and one.value == "yes"]
    groups = dict.fromkeys(group for one in chosen for group in _grouped(one.flags))
    return tuple(word for group in groups for word in group)


def _grouped(flags: Sequence[str]) -> list[tuple[str, ...]]:
    """Each flag with its value, so that two claims that need the same one give it once."""
    groups: list[list[str]] = []
    for word in flags:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return [tuple(group) for group in groups]


def served_row(view: EngineView) -> ModelRow:
    """A model that an engine serves and that is in no cache here."""
    return ModelRow(
        id=view.model_id,
        status="served",
        where=view.endpoint,
        context_window=view.start_facts.max_model_len or view.options.max_model_len,
        quantization=view.options.quantization,
        supported="yes",
        served_by=[view.id],
        why_not="it is served already",
    )


def endpoint_row(url: str, name: str, window: int | None, provider: str) -> ModelRow:
    """A model that a server elsewhere offers."""
    return ModelRow(
        id=name,
        status="served",
        where=url,
        context_window=window,
        served_by=[provider],
        why_not=f"it is served at {url} already",
    )


def device_row(device: Device) -> DeviceRow:
    """A device as people see it."""
    return DeviceRow(
        id=device.id,
        name=device.name,
        total_mb=to_mib(device.total_bytes),
        free_mb=to_mib(device.free_bytes),
        promised_mb=to_mib(device.promised_bytes),
    )


def matches(row_id: str, query: str | None) -> bool:
    """Do all words of a query stand in the name? Upper and lower case are alike."""
    words = (query or "").lower().split()
    return all(word in row_id.lower() for word in words)


def row_key(row: ModelRow) -> str:
    """Names the row in a cursor."""
    return f"{row.id}@{row.where}"[-400:]
