"""list-models, get-model-info and get-model-logs: nothing here changes anything."""

from typing import Annotated, Any, Literal

from pydantic import Field

from vllm_mcp_protocol.errors import EngineNotFound
from vllm_mcp_protocol.model import EngineView, HubState, LogTail, ModelConfig, ModelFacts
from vllm_mcp_protocol.serving.paging import page
from vllm_mcp_protocol.serving.server import READ, SuiteServer
from vllm_mcp_protocol.units import to_mib
from vllm_model_manager import parameters as p
from vllm_model_manager.core import rows
from vllm_model_manager.core.finding import loaded_names, not_loaded
from vllm_model_manager.repository import not_in_cache
from vllm_model_manager.results import LogResult, ModelInfo, ModelList, Performance, PhaseSeconds
from vllm_model_manager.workplace import Workplace

_SHOWN_WARNINGS = 5
_SHOWN_ADAPTERS = 20
_LOG_LIMIT_BYTES = 15_000
_NOT_MEASURED = (
    "Throughput, latency and GPU utilization are rates over time, which this server does not sample: "
    "vllm-performance-monitor will. Null means not measured, not zero."
)


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tools."""

    @server.tool("list-models", title="List models", annotations=READ)
    async def list_models(
        include_unloaded: Annotated[bool, Field(description="Also show models that only lie in the cache")] = True,
        filter_by_status: Annotated[rows.StatusFilter, Field(description="Only models in this state")] = "all",
        limit: Annotated[int, Field(ge=1, le=200, description="Most models on one page")] = 50,
        cursor: Annotated[str | None, Field(max_length=500, description="next_cursor of the page before")] = None,
    ) -> ModelList:
        """Show the models that are loaded, loading, asleep or failed, then those in the cache that could be loaded."""
        state = await work.state()
        found = await work.scan()
        every = rows.fleet_rows(state, found.models)
        chosen = rows.matching(every, filter_by_status, include_unloaded=include_unloaded)
        adapters = [facts.model_id for facts in found.models if facts.is_adapter]
        shown, next_cursor = page(chosen, limit=limit, cursor=cursor, key=_row_key, size=rows.row_bytes)
        return ModelList(
            models=shown,
            total_count=len(chosen),
            loaded_count=sum(row.status == "loaded" for row in every),
            adapters=adapters[:_SHOWN_ADAPTERS],
            adapter_count=len(adapters),
            next_cursor=next_cursor,
            warnings=_bounded([*work.warnings, *found.warnings]),
        )

    @server.tool("get-model-info", title="Describe a model", annotations=READ)
    async def get_model_info(
        model_id: p.LoadedName,
        include_performance: Annotated[bool, Field(description="Also memory, KV cache and requests")] = True,
    ) -> ModelInfo:
        """Describe one model: configuration, capabilities, memory, KV cache, and what each phase of its start took."""
        return await describe(work, model_id, include_performance=include_performance)

    @server.tool("get-model-logs", title="Show a model's log", annotations=READ)
    async def get_model_logs(
        model_id: p.LoadedName,
        tail: Annotated[int, Field(ge=1, le=1000, description="Last lines of the log")] = 100,
        level: Annotated[
            Literal["debug", "info", "warning", "error"] | None, Field(description="Only lines of this level and above")
        ] = None,
    ) -> LogResult:
        """Show the end of vLLM's own log of a model, running or failed, and why it failed when it did."""
        return await read_log(work, model_id, tail=tail, level=level)


async def describe(work: Workplace, model_id: str, *, include_performance: bool) -> ModelInfo:
    """One model, running or only cached. Raises ModelNotFound."""
    state = await work.state()
    view = state.serving(model_id)
    if view is not None:
        config = state.model_configs.get(view.model_id)
        return _engine_info(view, config, include_performance)
    facts = await work.find(model_id)
    if facts is None:
        names = [known.model_id for known in (await work.scan()).models]
        raise not_in_cache(work, model_id, None, [*names, *loaded_names(state)], why="no engine serves it")
    return ModelInfo(
        model_id=facts.model_id,
        status="unloaded",
        config={"requests": rows.shown_config(state.model_configs.get(facts.model_id))},
        capabilities=rows.capabilities(facts, None),
        metadata=_metadata(facts, None),
    )


def _engine_info(view: EngineView, config: ModelConfig | None, include_performance: bool) -> ModelInfo:
    options = view.options.model_dump(mode="json", exclude_defaults=True)
    return ModelInfo(
        model_id=view.model_id,
        status=rows.status_of(view),
        engine_id=view.id,
        served_name=view.served_name,
        endpoint=view.endpoint or None,
        config={**options, "pin": view.pinned, "ttl_seconds": view.ttl_s, "requests": rows.shown_config(config)},
        performance=_performance(view) if include_performance and rows.is_live(view) else None,
        capabilities=rows.capabilities(view.facts, view),
        metadata=_metadata(view.facts, view),
        start_up=[PhaseSeconds(phase=t.phase, seconds=round(t.seconds, 2)) for t in view.start_facts.phases],
        argv=list(view.argv),
        reasons=list(view.reasons),
        diagnosis=diagnosis(view),
    )


def _performance(view: EngineView) -> Performance:
    said = view.start_facts
    return Performance(
        memory_usage_mb=None if view.measured_bytes is None else to_mib(view.measured_bytes),
        memory_promised_mb=None if view.remote else to_mib(view.promised_bytes),
        kv_cache_tokens=said.kv_cache_tokens,
        max_concurrency=said.max_concurrency,
        requests_in_flight=view.in_flight,
        note=_NOT_MEASURED,
    )


def _metadata(facts: ModelFacts | None, view: EngineView | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if facts is not None:
        found |= facts.model_dump(mode="json", exclude={"model_id"}, exclude_none=True)
    if view is not None:
        found |= {
            "engine_status": view.status,
            "devices": list(view.devices),
            "remote": view.remote,
            "loras": list(view.loras),
            "created": rows.iso_time(view.created_at),
            "ready": rows.iso_time(view.ready_at),
            "last_used": rows.iso_time(view.last_used_at),
            "context_window": rows.context_window(view),
            "memory_basis": view.need_basis,
            "attempts": view.attempts,
            "exit_code": view.exit_code,
            "log_path": view.log_path or None,
        }
    return {name: value for name, value in found.items() if value is not None}


async def read_log(work: Workplace, model_id: str, *, tail: int, level: str | None) -> LogResult:
    """The end of the log of a model's newest engine, dead or alive. Raises ModelNotLoaded, RemoteEngine."""
    state = await work.state()
    view = state.serving(model_id)
    if view is None:
        raise not_loaded(model_id, _with_logs(state))
    try:
        log = await work.hub.logs(view.id, tail=tail, level=level.upper() if level else None)
    except EngineNotFound:
        log = LogTail(engine_id=view.id, lines=(), truncated=False)  # the log was pruned, the failure is still known
    lines, cut = _newest(log.lines)
    return LogResult(
        model_id=view.model_id,
        engine_id=view.id,
        status=rows.status_of(view),
        lines=lines,
        truncated=log.truncated or cut,
        log_path=view.log_path or None,
        diagnosis=diagnosis(view),
        error_code=view.failure.code if view.failure else None,
    )


def diagnosis(view: EngineView) -> str | None:
    """Cause and next step of a failure, in words."""
    if view.failure is None:
        return None
    suggestion = view.failure.suggestion
    return f"{view.failure.message} Next: {suggestion}" if suggestion else view.failure.message


def _with_logs(state: HubState) -> list[str]:
    return list(dict.fromkeys(view.model_id for view in state.engines if not view.remote))


def _newest(lines: tuple[str, ...]) -> tuple[list[str], bool]:
    """As many of the last lines as fit."""
    kept: list[str] = []
    size_bytes = 0
    for line in reversed(lines):
        size_bytes += len(line.encode()) + 4
        if size_bytes > _LOG_LIMIT_BYTES and kept:
            return kept[::-1], True
        kept.append(line[:4000])
    return kept[::-1], False


def _row_key(row: rows.ModelRow) -> str:
    return row.engine_id or row.id


def _bounded(warnings: list[str]) -> list[str]:
    shown = [warning[:300] for warning in warnings[:_SHOWN_WARNINGS]]
    more = len(warnings) - len(shown)
    return [*shown, f"… and {more} more"] if more else shown
