"""What opencode reads of a provider in `opencode.json` or `opencode.jsonc`. Pure.

Source: https://opencode.ai/config.json (ProviderConfig), and opencode 1.18, which the interop tests run. It replaces
{env:NAME} and {file:path} anywhere in the text before it reads the JSON, and ships `@ai-sdk/openai-compatible`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllm_auto_discovery.core.clients.servable import Endpoint, KeyFile, KeySource, KeyVariable, ServableModel, section

SECTION = "provider"
SCHEMA = "https://opencode.ai/config.json"


def provider(name: str, endpoint: Endpoint, models: Sequence[ServableModel]) -> dict[str, Any]:
    """The entry under `provider`."""
    return {
        "npm": "@ai-sdk/openai-compatible",
        "name": name,
        "options": {"baseURL": endpoint.base_url, **_key(endpoint.key)},
        "models": {model.model_id: _model(model) for model in models},
    }


def _key(source: KeySource) -> dict[str, str]:
    match source:
        case KeyVariable(name):
            return {"apiKey": f"{{env:{name}}}"}
        case KeyFile(path):
            return {"apiKey": f"{{file:{path}}}"}
    return {}


def _model(model: ServableModel) -> dict[str, Any]:
    """What is unknown is left to opencode, which takes a model for one that calls tools."""
    entry: dict[str, Any] = {"name": model.name, "temperature": True, "attachment": model.vision}
    if model.reasoning is not None:
        entry["reasoning"] = model.reasoning
    if model.tools is not None:
        entry["tool_call"] = model.tools
    if model.context_window_tokens is not None:
        entry["limit"] = {"context": model.context_window_tokens, "output": model.answer_tokens}
    kinds = (("text", True), ("image", model.vision), ("audio", model.audio), ("video", model.video))
    entry["modalities"] = {"input": [kind for kind, taken in kinds if taken], "output": ["text"]}
    return entry


def base_url(entry: Mapping[str, Any]) -> Any:
    """Where a provider of the file points to."""
    return section(entry, "options").get("baseURL")


def refusal(model: ServableModel) -> str:
    """Why the file cannot hold the model's names; empty when it can."""
    names = model.model_id + model.name
    return "opencode would replace {env:…} or {file:…} in its name" if "{env:" in names or "{file:" in names else ""


def chosen(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Setting, provider and model of what the file selects."""
    for setting in ("model", "small_model"):
        value = config.get(setting)
        if isinstance(value, str):
            provider_id, _, model_id = value.partition("/")
            yield setting, provider_id, model_id
