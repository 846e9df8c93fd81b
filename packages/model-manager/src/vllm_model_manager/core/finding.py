"""Which engine a caller means by a model id, a served name or an engine id. Pure."""

from vllm_mcp_protocol.errors import BadInput, ModelNotLoaded, RemoteEngine
from vllm_mcp_protocol.model import EngineView, HubState
from vllm_mcp_protocol.model_names import closest
from vllm_model_manager.core.rows import ANSWERING, is_live, short_error


def loaded_names(state: HubState) -> list[str]:
    """Names that can be used in requests now."""
    return [view.served_name for view in state.engines if view.status in ANSWERING]


def live_engine(state: HubState, name: str) -> EngineView | None:
    """The engine that serves, or will serve, `name`: a model id, served name, engine id or adapter."""
    view = state.serving(name)
    return view if view is not None and is_live(view) else None


def require_engine(state: HubState, name: str) -> EngineView:
    """Like `live_engine`. Raises ModelNotLoaded naming what is loaded, and the failure of the last attempt."""
    view = live_engine(state, name)
    if view is not None:
        return view
    last = state.serving(name)
    raise not_loaded(name, loaded_names(state), last)


def require_base(state: HubState, name: str, action: str) -> EngineView:
    """Like `require_engine`, for what concerns a whole model. Raises BadInput when `name` is one of its adapters."""
    view = require_engine(state, name)
    if name in view.loras and name not in (view.model_id, view.served_name, view.id):
        raise BadInput(
            f"model_id={name!r} is an adapter on {view.model_id}; {action} concerns the whole model.",
            parameter="model_id",
            value=name,
            suggestion=f"unload-lora {name}, or use model_id={view.model_id}",
        )
    return view


def refuse_remote(view: EngineView, action: str) -> None:
    """Raises RemoteEngine when the hub does not own the engine."""
    if view.remote:
        raise RemoteEngine(
            f"{view.model_id} runs at {view.endpoint} and is only attached here; it cannot be {action} from here.",
            engine_id=view.id,
            endpoint=view.endpoint,
            suggestion="do it where that engine was started",
        )


def only_engine(state: HubState) -> EngineView:
    """The one engine that answers. Raises ModelNotLoaded when there is none, BadInput when there are several."""
    views = [view for view in state.engines if view.status in ANSWERING]
    if not views:
        raise ModelNotLoaded("No model is loaded.", loaded=[], suggestion="load-model, then call again")
    if len(views) > 1:
        names = [view.served_name for view in views]
        raise BadInput(
            f"model_id is needed because {len(views)} models are loaded: {', '.join(names)}.",
            parameter="model_id",
            allowed=names,
            suggestion=f"call again with model_id={names[0]}",
        )
    return views[0]


def not_loaded(name: str, loaded: list[str], last: EngineView | None = None) -> ModelNotLoaded:
    """The error for a model that nothing serves; a near miss among the loaded names is the suggestion."""
    here = f"Loaded: {', '.join(loaded)}." if loaded else "No model is loaded."
    failed = f" Its last engine failed: {short_error(last.failure)}" if last is not None and last.failure else ""
    close = closest(name, loaded)
    return ModelNotLoaded(
        f"{name} is not loaded. {here}{failed}",
        model_id=name,
        loaded=loaded[:50],
        suggestion=f"use {close[0]}" if close else f"load-model with model_id={name}",
    )
