"""get-model-metadata, get-model-capabilities and get-multimodal-capabilities: what a model is, and what proves it."""

import time
from dataclasses import asdict
from typing import Annotated, Any, get_args

from pydantic import Field

from vllm_auto_discovery import parameters as p
from vllm_auto_discovery.core import rows
from vllm_auto_discovery.core.abilities.claims import Capability
from vllm_auto_discovery.core.abilities.inputs import InputName
from vllm_auto_discovery.core.bounds import bounded, row_bytes
from vllm_auto_discovery.core.engines import rows as engine_rows
from vllm_auto_discovery.core.metadata import Enriched
from vllm_auto_discovery.inspection import Inspected, InspectedWeights
from vllm_auto_discovery.results import (
    CapabilitiesResult,
    Claim,
    MetadataResult,
    MultimodalModel,
    MultimodalResult,
    Revision,
    Source,
)
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.hf.cache import FoundModel
from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.reading import printable
from vllm_mcp_protocol.serving.paging import page
from vllm_mcp_protocol.serving.server import READ, SuiteServer, open_world
from vllm_mcp_protocol.units import to_mib

_TEMPLATE_CHARS = 2000
_SHOWN_NAMES = 20
_SHOWN_REFS = 5
_LIMIT_BYTES = 19_000
_EXPENDABLE = ("chat_template", "hub", "card", "missing", "revisions", "weights", "config", "sources")
"""What may be left out of an answer that would be too long, the first first."""


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tools."""

    @server.tool("get-model-metadata", title="Describe a model's files", annotations=open_world(READ))
    async def get_model_metadata(model_id: p.ModelName, refresh: p.Refresh = False) -> MetadataResult:
        """Tell what a model is: shape, context and quantization from config.json, parameters from the headers of the
        weights, chat template, generation defaults, license, and what the Hugging Face Hub says, each with its source
        and age. Works offline; then the Hub's part is what was remembered.
        """
        if refresh:
            await work.scan(fresh=True)
        model = await work.require(model_id)
        (seen,), (weights,) = await work.inspect([model]), await work.inspect_weights([model])
        hub = await work.enricher.one(model.facts.model_id, refresh=refresh)
        return shortened(metadata_result(model, seen, weights, hub))

    @server.tool("get-model-capabilities", title="What a model can do", annotations=READ)
    async def get_model_capabilities(model_id: p.ModelName) -> CapabilitiesResult:
        """Tell what a model can do on the installed vLLM: text, images, audio, video, embeddings, ranking, tools and
        reasoning with their parsers, adapters, drafts. Every claim names its evidence; unknown is an answer. `load`
        holds arguments for load-model that turn it all on.
        """
        model = await work.require(model_id)
        (claims,), (seen,) = await work.claims([model], ask_vllm=True), await work.inspect([model])
        return capabilities_result(model, claims, seen)

    @server.tool("get-multimodal-capabilities", title="Models that see or hear", annotations=READ)
    async def get_multimodal_capabilities(
        modality: Annotated[InputName | None, Field(description="Only models that take this (default: any)")] = None,
    ) -> MultimodalResult:
        """List the models here that take images, audio or video, with the evidence, and which engines serve them."""
        found = (await work.scan()).models
        claims = await work.claims(found, ask_vllm=True)
        state, warnings = await work.hub_state()
        warnings += work.blind_spots(modality or "vision, audio or video")
        served = engine_rows.served_models(work.live_engines(state))
        listed = [
            row
            for model, of_model in zip(found, claims, strict=True)
            if (row := _multimodal_row(model, of_model, modality, served.get(model.facts.model_id, []))) is not None
        ]
        shown, _ = page(listed, limit=200, cursor=None, key=lambda row: row.id, size=row_bytes)
        return MultimodalResult(
            modality=modality or "any", models=shown, total_count=len(listed), warnings=bounded(warnings)
        )


# -- metadata


def metadata_result(model: FoundModel, seen: Inspected, weights: InspectedWeights, hub: Enriched) -> MetadataResult:
    """What is known of a model."""
    repo = model.source if isinstance(model.source, CachedRepo) else None
    subject = rows.Subject(model.facts, model.missing, model.formats, weights.corrupt)
    template = seen.files.template
    return MetadataResult(
        model_id=model.facts.model_id,
        where=model.facts.path or (repo.path if repo is not None else ""),
        status=rows.state_of(subject),
        revisions=_revisions(repo, model),
        size_on_disk_mb=to_mib(model.source.size_bytes),
        unfinished_mb=to_mib(sum(blob.size_bytes for blob in repo.unfinished)) if repo is not None else 0,
        missing=[*weights.corrupt, *model.missing][:_SHOWN_NAMES],
        formats=list(model.formats),
        config=_filled(asdict(seen.config) | {"generation": None}),
        weights=_weights(weights),
        tokenizer=_filled({"class": seen.config.tokenizer_class, "templates": list(seen.config.chat_templates)}),
        chat_template=printable(template[0][:_TEMPLATE_CHARS]) if template else None,
        generation=_filled(asdict(seen.config.generation) | {"eos_tokens": seen.config.generation.eos_tokens or None}),
        card=_filled(asdict(seen.card) | {"tags": list(seen.card.tags)[:_SHOWN_NAMES], "languages": None}),
        hub=_hub(hub),
        sources=_sources(model, seen, hub),
        warnings=bounded([*model.source.warnings, *model.warnings, *seen.warnings]),
    )


def shortened(result: MetadataResult) -> MetadataResult:
    """The same within the limit of a tool's answer: what does not fit is left out, and a warning says so."""
    for name in _EXPENDABLE:
        if row_bytes(result) <= _LIMIT_BYTES:
            break
        nothing = MetadataResult.model_fields[name].default
        told = [f"{name} is left out: the answer would be too long", *result.warnings]
        result = result.model_copy(update={name: nothing, "warnings": told})
    return result


def _revisions(repo: CachedRepo | None, model: FoundModel) -> list[Revision]:
    return [
        Revision(
            commit=one.commit,
            refs=list(one.refs[:_SHOWN_REFS]),
            files=len(one.files),
            size_mb=to_mib(one.size_bytes),
            complete=not one.missing and (model.facts.complete if one is model.revision else True),
        )
        for one in (repo.revisions if repo is not None else ())[:_SHOWN_NAMES]
    ]


def _weights(weights: InspectedWeights) -> dict[str, Any]:
    summary = weights.summary
    if summary is None:
        return {}
    known = {
        "format": summary.format,
        "parameters": summary.parameters,
        "note": summary.parameters_note,
        "tensors": summary.tensors,
        "size_mb": to_mib(summary.size_bytes),
        "mb_by_dtype": {name: to_mib(size) for name, size in summary.bytes_by_dtype},
        "quantization": summary.quantization,
        "gguf": _filled(asdict(summary.gguf) | {"chat_template": None}) if summary.gguf is not None else None,
    }
    return _filled(known)


def _hub(hub: Enriched) -> dict[str, Any]:
    if hub.answer is None:
        return {}
    said = hub.answer.model_dump(mode="json", exclude={"config"})
    return _filled(said | {"tags": said["tags"][:_SHOWN_NAMES]})


def _sources(model: FoundModel, seen: Inspected, hub: Enriched) -> list[Source]:
    folder = model.facts.path or ""
    age_s = max(0.0, time.time() - model.source.last_modified_s) if isinstance(model.source, CachedRepo) else None
    files = (("config", "config.json"), ("generation", "generation_config.json"), ("card", "README.md"))
    named = [
        Source(name=key, origin=f"{folder}/{name}", age_seconds=age_s)
        for key, name in files
        if name in seen.files.names
    ]
    if seen.files.template:
        named.append(Source(name="chat_template", origin=f"{folder}/{seen.files.template[1]}", age_seconds=age_s))
    if model.formats:
        named.append(Source(name="weights", origin=f"headers of the weight files in {folder}", age_seconds=age_s))
    return [*named, _hub_source(hub)]


def _hub_source(hub: Enriched) -> Source:
    origin = hub.answer.url if hub.answer is not None else "the Hugging Face Hub"
    return Source(name="hub", origin=origin, age_seconds=hub.age_s, stale=hub.stale, note=hub.reason)


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is not known."""
    return {name: value for name, value in values.items() if value not in (None, "", (), [], {})}


# -- capabilities


def capabilities_result(model: FoundModel, claims: tuple[Capability, ...], seen: Inspected) -> CapabilitiesResult:
    """What it can do, and how it is turned on."""
    supported = rows.claim(claims, "supported")
    tools, reasoning = rows.claim(claims, "tools"), rows.claim(claims, "reasoning")
    subject = rows.Subject(model.facts, model.missing, model.formats, claims=claims)
    why_not = rows.why_not_loadable(subject)
    return CapabilitiesResult(
        model_id=model.facts.model_id,
        where=model.facts.path or "",
        capabilities=[_claim(one) for one in claims if one.name != "supported"],
        supported=supported.value if supported is not None else "unknown",
        supported_evidence=supported.evidence if supported is not None else "ENABLE_CAPABILITY_DETECTION is false",
        tool_call_parser=tools.parser if tools is not None else None,
        reasoning_parser=reasoning.parser if reasoning is not None else None,
        load=None if why_not else rows.load_arguments(subject),
        warnings=bounded([*([why_not] if why_not else []), *model.warnings, *seen.warnings]),
    )


def _claim(one: Capability) -> Claim:
    detail = " ".join(one.flags) or None
    return Claim(name=one.name, value=one.value, evidence=one.evidence[:300], detail=detail)


def _multimodal_row(
    model: FoundModel, claims: tuple[Capability, ...], modality: InputName | None, served_by: list[str]
) -> MultimodalModel | None:
    taken = [
        one for name in get_args(InputName) if (one := rows.claim(claims, name)) is not None and one.value == "yes"
    ]
    if not taken or (modality is not None and modality not in {one.name for one in taken}):
        return None
    supported = rows.claim(claims, "supported")
    return MultimodalModel(
        id=model.facts.model_id,
        status=rows.state_of(rows.Subject(model.facts)),
        inputs=[one.name for one in taken],
        supported=supported.value if supported is not None else "unknown",
        evidence="; ".join(one.evidence for one in taken)[:300],
        served_by=served_by,
    )
