"""What Crush reads of a provider in `crush.json`. Pure.

Source: `schema.json` of charmbracelet/crush (ProviderConfig, Model, SelectedModel) and `pkg/catwalk/provider.go` of
charmbracelet/catwalk, August 2026; read as Go's `encoding/json` does, so plain JSON. `base_url` and `api_key` are
expanded as in a here-document: $NAME, $(command).
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllm_auto_discovery.core.clients.servable import Endpoint, KeyFile, KeySource, KeyVariable, ServableModel, section

SECTION = "providers"
SCHEMA = "https://charm.land/crush.json"

_NO_KEY = "none"
"""An empty key makes Crush warn at every start; an engine without a key ignores what it is sent."""


def provider(name: str, endpoint: Endpoint, models: Sequence[ServableModel]) -> dict[str, Any]:
    """The entry under `providers`."""
    return {
        "name": name,
        "type": "openai-compat",
        "base_url": endpoint.base_url,
        "api_key": _key(endpoint.key),
        "models": [_model(model) for model in models],
    }


def _key(source: KeySource) -> str:
    match source:
        case KeyVariable(name):
            return f"${name}"
        case KeyFile(path):
            return f"$(cat {shlex.quote(path)})"
    return _NO_KEY


def _model(model: ServableModel) -> dict[str, Any]:
    """All fields that the schema requires; 0 stands for an unknown size, which Crush then neither sends nor watches."""
    return {
        "id": model.model_id,
        "name": model.name,
        "cost_per_1m_in": 0,
        "cost_per_1m_out": 0,
        "cost_per_1m_in_cached": 0,
        "cost_per_1m_out_cached": 0,
        "context_window": model.context_window_tokens or 0,
        "default_max_tokens": model.answer_tokens or 0,
        "can_reason": bool(model.reasoning),
        "supports_attachments": model.vision,
    }


def base_url(entry: Mapping[str, Any]) -> Any:
    """Where a provider of the file points to."""
    return entry.get("base_url")


def refusal(model: ServableModel) -> str:
    """Why the file cannot hold the model's names; empty when it can: Crush takes them as they are."""
    return ""


def chosen(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Setting, provider and model of what the file selects."""
    for size in sorted(section(config, "models")):
        selected = section(config, "models", size)
        yield f"models.{size}", str(selected.get("provider", "")), str(selected.get("model", ""))
