"""Which models a client could use now, and why others cannot be offered. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vllm_auto_discovery.core.abilities.claims import Capability
from vllm_auto_discovery.core.clients.servable import Endpoint, KeyFile, KeySource, ServableModel
from vllm_auto_discovery.core.engines.fingerprint import Fingerprint, ServedModel
from vllm_auto_discovery.core.rows import claim
from vllm_mcp_protocol.model import EngineStatus, EngineView

_ANSWERING = (EngineStatus.READY, EngineStatus.SLEEPING, EngineStatus.SUSPENDING, EngineStatus.WAKING)
_TOOL_FLAG, _REASONING_FLAG = "--enable-auto-tool-choice", "--reasoning-parser"

Claims = Mapping[str, Sequence[Capability]]
"""Model id → what its files claim, of the models on this machine."""


@dataclass
class Offer:
    """What can be offered to a client."""

    models: list[ServableModel] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """`model: reason`."""


def of_engines(views: Iterable[EngineView], claims: Claims, key_file: Mapping[str, str]) -> Offer:
    """Models of the suite's engines. `key_file`: engine id → the file that holds its key."""
    offer = Offer()
    for view in views:
        if reason := _why_not(view):
            offer.left_out.append(f"{view.served_name}: {reason}")
        else:
            key: KeySource = KeyFile(key_file[view.id]) if view.id in key_file else None
            endpoint = Endpoint(view.endpoint, key, "" if view.remote else view.id)
            offer.models += [_model_of(view, name, endpoint, claims) for name in (view.served_name, *view.loras)]
    return offer


def _why_not(view: EngineView) -> str | None:
    if view.status not in _ANSWERING:
        return f"{view.id} is {view.status}"
    if not view.endpoint.startswith("http"):
        return f"{view.id} listens on a unix socket, which clients cannot use; load-model with port, or the gateway"
    return None


def _model_of(view: EngineView, name: str, endpoint: Endpoint, claims: Claims) -> ServableModel:
    window = view.start_facts.max_model_len or view.options.max_model_len
    known = claims.get(view.model_id, ())
    return ServableModel(
        model_id=name,
        name=name if name == view.model_id else f"{name} ({view.model_id})",
        endpoint=endpoint,
        context_window_tokens=window or (view.facts.context_window if view.facts is not None else None),
        chat=_chats(known),
        tools=_turned_on(view, known, "tools", _TOOL_FLAG),
        reasoning=_turned_on(view, known, "reasoning", _REASONING_FLAG),
        vision=_is_yes(known, "vision"),
        audio=_is_yes(known, "audio"),
        video=_is_yes(known, "video"),
    )


def of_server(made: Fingerprint, endpoint: Endpoint, claims: Claims) -> list[ServableModel]:
    """Models that a server lists, the gateway or an engine elsewhere; judged by files of the same name, if any."""
    return [_listed_model(model, endpoint, claims.get(model.id, ())) for model in made.models]


def _listed_model(model: ServedModel, endpoint: Endpoint, known: Sequence[Capability]) -> ServableModel:
    return ServableModel(
        model_id=model.id,
        name=model.id,
        endpoint=endpoint,
        context_window_tokens=model.context_window,
        chat=_chats(known),
        tools=_answer(known, "tools"),
        reasoning=_answer(known, "reasoning"),
        vision=_is_yes(known, "vision"),
        audio=_is_yes(known, "audio"),
        video=_is_yes(known, "video"),
    )


def _chats(claims: Sequence[Capability]) -> bool:
    """A model of which nothing is known is offered: its server will say what it cannot do."""
    text = claim(claims, "text")
    return text is None or text.value != "no"


def _turned_on(view: EngineView, claims: Sequence[Capability], name: str, flag: str) -> bool | None:
    """Needs the engine's flag besides the model; of an engine elsewhere the flags are not known."""
    if view.remote or not view.argv:
        return _answer(claims, name)
    return flag in view.argv and _answer(claims, name) is not False


def _answer(claims: Sequence[Capability], name: str) -> bool | None:
    one = claim(claims, name)
    return {"yes": True, "no": False}.get(one.value) if one is not None else None


def _is_yes(claims: Sequence[Capability], name: str) -> bool:
    return _answer(claims, name) is True
