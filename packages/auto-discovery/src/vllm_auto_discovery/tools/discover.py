"""discover-models: everything that could run here, in one answer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from vllm_auto_discovery import parameters as p
from vllm_auto_discovery.core import rows
from vllm_auto_discovery.core.abilities.claims import CapabilityName
from vllm_auto_discovery.core.bounds import bounded, row_bytes
from vllm_auto_discovery.core.engines import rows as engine_rows
from vllm_auto_discovery.core.rows import ModelRow, Subject
from vllm_auto_discovery.results import ModelsFound
from vllm_auto_discovery.searching import search
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.hf.cache import FoundModel
from vllm_mcp_protocol.memory_needs import where_it_fits
from vllm_mcp_protocol.model import Device, EngineView, HubState
from vllm_mcp_protocol.serving.paging import page
from vllm_mcp_protocol.serving.server import READ, SuiteServer, open_world

_MOST_REMOTE = 20
Where = Literal["all", "cache", "engines", "endpoints", "hub"]


@dataclass(frozen=True)
class Wish:
    """What a caller wants to see."""

    where: Where
    query: str | None
    capability: str | None
    fits: bool
    fresh: bool


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("discover-models", title="Find models", annotations=open_world(READ))
    async def discover_models(
        source: Annotated[
            Where,
            Field(
                description="cache: files on this machine; engines: served by the suite; endpoints: served at "
                "addresses of the settings; hub: search the Hugging Face Hub (needs query); all: all but hub"
            ),
        ] = "all",
        query: Annotated[
            str | None, Field(min_length=1, max_length=200, description="Words that the name must contain")
        ] = None,
        capability: Annotated[CapabilityName | None, Field(description="Only models that are shown to do this")] = None,
        fits: Annotated[bool, Field(description="Only models that a device here can hold")] = False,
        limit: p.Limit = 50,
        cursor: p.Cursor = None,
        refresh: p.Refresh = False,
    ) -> ModelsFound:
        """Answer "what can I run?": models in the Hugging Face cache and in folders, complete or half downloaded, what
        they can do, whether this vLLM and these devices can run them, and which engines serve already. `load` of a row
        holds the arguments for load-model.
        """
        return await discover(work, Wish(source, query, capability, fits, refresh), limit, cursor)


async def discover(work: Workplace, wish: Wish, limit: int, cursor: str | None) -> ModelsFound:
    """All that matches, in pages. Raises BadInput for a search of the Hub without words."""
    if wish.where == "hub":
        return await _search_hub(work, wish, limit)
    state, warnings = await work.hub_state()
    warnings += work.blind_spots(wish.capability)
    subjects: list[Subject] = []
    if wish.where in ("all", "cache"):
        found = await work.scan(fresh=wish.fresh)
        subjects = await _subjects(work, wish, found.models, state)
        warnings += [f"{one.facts.model_id}: {one.corrupt[0]}" for one in subjects if one.corrupt]
        warnings += found.warnings
    listed = [rows.model_row(subject) for subject in subjects]
    listed += _served_elsewhere(wish, work.live_engines(state), {row.id for row in listed})
    if wish.where in ("all", "endpoints") and not wish.fits and wish.capability is None:
        listed += await _offered_at_endpoints(work, wish)
    listed = sorted({rows.row_key(row): row for row in reversed(listed)}.values(), key=_order)
    shown, next_cursor = page(listed, limit=limit, cursor=cursor, key=rows.row_key, size=row_bytes)
    vllm = await work.vllm_models(ask=False)
    return ModelsFound(
        models=shown,
        total_count=len(listed),
        counts=dict(Counter(row.status for row in listed).most_common()),
        devices=[rows.device_row(device) for device in _devices(state)],
        vllm_version=vllm.version if vllm is not None else None,
        next_cursor=next_cursor,
        warnings=bounded(warnings),
    )


def _order(row: ModelRow) -> tuple[bool, str, str]:
    """What is served first, then by name."""
    return (not row.served_by, row.id.lower(), row.where)


async def _subjects(work: Workplace, wish: Wish, models: Sequence[FoundModel], state: HubState | None) -> list[Subject]:
    chosen = [model for model in models if rows.matches(model.facts.model_id, wish.query)]
    claims = await work.claims(chosen, ask_vllm=True)
    weights = await work.inspect_weights(chosen)
    served = engine_rows.served_models(work.live_engines(state))
    devices = _devices(state)
    made = [
        Subject(
            facts=model.facts,
            missing=model.missing,
            formats=model.formats,
            corrupt=headers.corrupt,
            parameters=headers.summary.parameters if headers.summary is not None else None,
            quantization=headers.summary.quantization if headers.summary is not None else None,
            claims=of_model,
            fit=where_it_fits(model.facts, devices) if devices and not model.facts.is_adapter else rows.NO_FIT,
            served_by=tuple(served.get(model.facts.model_id, ())),
        )
        for model, of_model, headers in zip(chosen, claims, weights, strict=True)
    ]
    return [one for one in made if _wanted(one, wish)]


def _wanted(subject: Subject, wish: Wish) -> bool:
    if wish.fits and not subject.fit.device_ids:
        return False
    one = rows.claim(subject.claims, wish.capability) if wish.capability is not None else None
    return wish.capability is None or (one is not None and one.value == "yes")


def _served_elsewhere(wish: Wish, views: Sequence[EngineView], here: set[str]) -> list[ModelRow]:
    """Models of engines that are not in the list of files, unless only files were asked for."""
    if wish.where not in ("all", "engines") or wish.fits or wish.capability is not None:
        return []
    return [
        rows.served_row(view) for view in views if view.model_id not in here and rows.matches(view.model_id, wish.query)
    ]


async def _offered_at_endpoints(work: Workplace, wish: Wish) -> list[ModelRow]:
    return [
        rows.endpoint_row(one.url, model.id, model.context_window, one.provider)
        for one in await work.configured_engines()
        for model in one.models
        if rows.matches(model.id, wish.query)
    ]


def _devices(state: HubState | None) -> Sequence[Device]:
    return state.devices if state is not None else ()


async def _search_hub(work: Workplace, wish: Wish, limit: int) -> ModelsFound:
    """Models at the Hugging Face Hub whose names hold the words. Raises BadInput, Offline, HuggingFaceFailed."""
    if not wish.query:
        raise BadInput(
            "source=hub searches the Hugging Face Hub, which needs words to search for.",
            parameter="query",
            suggestion='call again with query, for example query="qwen3 instruct"',
        )
    if wish.capability or wish.fits:
        raise BadInput(
            "source=hub cannot tell what a model can do or where it fits before it is downloaded.",
            parameter="capability" if wish.capability else "fits",
            suggestion="leave capability and fits out, then ask estimate-memory or download-model",
        )
    found = await search(work.settings, wish.query, min(limit, _MOST_REMOTE))
    listed = [
        ModelRow(
            id=one.model_id,
            status="remote",
            where=one.url,
            task=one.pipeline_tag,
            load={"model_id": one.model_id} if not one.gated else None,
            why_not=f"gated: accept the terms at {one.url}, and set HF_TOKEN" if one.gated else None,
        )
        for one in found
    ]
    more = [f"the {_MOST_REMOTE} most downloaded; more words find others"] if len(listed) == _MOST_REMOTE else []
    return ModelsFound(models=listed, total_count=len(listed), counts={"remote": len(listed)}, warnings=more)
