"""Engines as people see them: the suite's own, those that the settings name, and those found on ports. Pure."""

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from vllm_auto_discovery.core.engines.fingerprint import Fingerprint
from vllm_mcp_protocol.model import EngineStatus, EngineView
from vllm_mcp_protocol.serving.results import Part

EngineKind = Literal["managed", "attached", "configured", "found"]

_SHOWN_MODELS = 20
_SHOWN_WORDS = 300


class EngineRow(Part):
    """One engine or server that answers."""

    kind: EngineKind = Field(
        description="managed: the suite's own; attached: the hub watches it; configured: named in the settings; "
        "found: on a port that was named"
    )
    provider: str = Field(
        description="vllm, ollama, lmstudio, llamacpp, sglang, openai-compatible, unknown-http, unknown"
    )
    address: str
    version: str | None = None
    status: str
    engine_id: str | None = None
    models: list[str] = []
    model_count: int = 0
    context_windows: dict[str, int] = {}
    needs_key: bool = False
    evidence: str = ""
    note: str | None = None


def managed_row(view: EngineView, vllm_version: str | None) -> EngineRow:
    """An engine of the hub's; its own ones run the installed vLLM."""
    window = view.start_facts.max_model_len or view.options.max_model_len
    return EngineRow(
        kind="attached" if view.remote else "managed",
        provider="vllm",
        address=view.endpoint,
        version=None if view.remote else vllm_version,
        status=view.status,
        engine_id=view.id,
        models=[view.served_name, *view.loras][:_SHOWN_MODELS],
        model_count=1 + len(view.loras),
        context_windows={view.served_name: window} if window else {},
        evidence="the hub owns it" if not view.remote else "the hub watches it",
    )


def found_row(kind: EngineKind, url: str, made: Fingerprint) -> EngineRow:
    """What answers at an address."""
    shown = made.models[:_SHOWN_MODELS]
    return EngineRow(
        kind=kind,
        provider=made.provider,
        address=url,
        version=made.version,
        status=_status(made),
        models=[model.id for model in shown],
        model_count=len(made.models),
        context_windows={model.id: model.context_window for model in shown if model.context_window},
        needs_key=made.needs_key,
        evidence="; ".join(made.evidence)[:_SHOWN_WORDS],
        note="; ".join(made.notes)[:_SHOWN_WORDS] or None,
    )


def _status(made: Fingerprint) -> str:
    if made.provider == "nothing":
        return "silent"
    return "needs a key" if made.needs_key and not made.models else "answers"


def live(views: Iterable[EngineView]) -> list[EngineView]:
    """Engines of which something runs."""
    return [view for view in views if view.status is not EngineStatus.STOPPED]


def served_models(views: Sequence[EngineView]) -> dict[str, list[str]]:
    """Model id → the engines that serve it, or will."""
    served: dict[str, list[str]] = {}
    for view in live(views):
        for name in dict.fromkeys((view.model_id, view.served_name, *view.loras)):
            served.setdefault(name, []).append(view.id)
    return served
