"""What a client's configuration must say so that it offers exactly the models that can be served. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vllm_auto_discovery.core.clients import claude as claude_config
from vllm_auto_discovery.core.clients import crush as crush_config
from vllm_auto_discovery.core.clients import opencode as opencode_config
from vllm_auto_discovery.core.clients.diffs import without_secrets
from vllm_auto_discovery.core.clients.json_edit import Drop, Edit, Put
from vllm_auto_discovery.core.clients.servable import (
    ONLY_PROVIDER,
    Endpoint,
    ServableModel,
    is_ours,
    provider_ids,
    section,
)


class Client(StrEnum):
    """Whose configuration we write."""

    CRUSH = "crush"
    OPENCODE = "opencode"
    CLAUDE_CODE = "claude-code"


@dataclass(frozen=True)
class ListedModel:
    """A model as the client will offer it: `provider/model`."""

    provider: str
    model: ServableModel


@dataclass(frozen=True)
class ConfigPlan:
    """What to change in a file, and what that means to the user."""

    edits: tuple[Edit, ...]
    listed: tuple[ListedModel, ...]
    left_out: tuple[str, ...]
    """`model: reason` of every model that is not offered."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Dialect:
    """How a client with a list of providers spells it."""

    section: str
    provider: Callable[[str, Endpoint, Sequence[ServableModel]], dict[str, Any]]
    base_url: Callable[[Mapping[str, Any]], Any]
    refusal: Callable[[ServableModel], str]
    chosen: Callable[[Mapping[str, Any]], Iterator[tuple[str, str, str]]]


_DIALECTS = {
    Client.CRUSH: _Dialect(
        crush_config.SECTION,
        crush_config.provider,
        crush_config.base_url,
        crush_config.refusal,
        crush_config.chosen,
    ),
    Client.OPENCODE: _Dialect(
        opencode_config.SECTION,
        opencode_config.provider,
        opencode_config.base_url,
        opencode_config.refusal,
        opencode_config.chosen,
    ),
}
_SCHEMAS = {
    Client.CRUSH: crush_config.SCHEMA,
    Client.OPENCODE: opencode_config.SCHEMA,
    Client.CLAUDE_CODE: claude_config.SCHEMA,
}


def reads_comments(client: Client) -> bool:
    """Crush reads plain JSON only; what it would refuse, we refuse."""
    return client is not Client.CRUSH


def plan(
    client: Client, config: Mapping[str, Any], models: Sequence[ServableModel], *, force: bool = False
) -> ConfigPlan:
    """The edits that turn `config`, as the file holds it now, into one that offers exactly `models`.

    The order of `models` does not matter. An empty `config` is a new file and gets its `$schema`. Raises
    ForceRequired where a client can hold one endpoint only and holds the user's own.
    """
    usable, left_out = _usable(client, models)
    schema: list[Edit] = [] if config else [Put(("$schema",), _SCHEMAS[client])]
    if client is Client.CLAUDE_CODE:
        planned = _plan_single(config, usable, force=force)
    else:
        planned = _plan_providers(_DIALECTS[client], config, usable)
    edits = (*schema, *planned.edits) if planned.edits else ()
    return ConfigPlan(edits, planned.listed, (*left_out, *planned.left_out), planned.warnings)


def _usable(client: Client, models: Sequence[ServableModel]) -> tuple[list[ServableModel], list[str]]:
    """Each model of each endpoint once, in a fixed order, and why others are left out."""
    kept: dict[tuple[str, str], ServableModel] = {}
    left_out = []
    for model in sorted(models, key=lambda model: (model.model_id, model.endpoint.base_url, repr(model))):
        if reason := _refusal(client, model):
            left_out.append(f"{model.model_id.encode(errors='replace').decode()}: {reason}")
        else:
            kept.setdefault((model.model_id, model.endpoint.base_url), model)
    return list(kept.values()), left_out


def _refusal(client: Client, model: ServableModel) -> str:
    if not model.chat:
        return "it embeds or ranks only, and this client chats"
    if not model.model_id or not (model.model_id + model.name).isprintable():
        return "its name holds characters that cannot be shown"
    return _DIALECTS[client].refusal(model) if client in _DIALECTS else ""


def _plan_providers(dialect: _Dialect, config: Mapping[str, Any], models: Sequence[ServableModel]) -> ConfigPlan:
    ids = sorted(provider_ids(models).items(), key=lambda item: item[1])
    entries = {
        provider_id: dialect.provider(_title(provider_id), endpoint, _served_by(endpoint, models))
        for endpoint, provider_id in ids
    }
    present = section(config, dialect.section)
    mine = [name for name in present if is_ours(name, dialect.base_url(section(present, name)))]
    dropped = [name for name in mine if name not in entries]
    edits: list[Edit] = [Drop((dialect.section, name)) for name in dropped]
    edits += [Put((dialect.section, name), entry) for name, entry in entries.items()]
    listed = tuple(
        ListedModel(provider_id, model) for endpoint, provider_id in ids for model in _served_by(endpoint, models)
    )
    warnings = [*_moved(dialect, present, entries, dropped), *_gone(dialect, config, present, listed)]
    return ConfigPlan(tuple(edits), listed, (), tuple(warnings))


def _title(provider_id: str) -> str:
    return f"vLLM {provider_id.removeprefix(ONLY_PROVIDER).lstrip('-')}".strip()


def _served_by(endpoint: Endpoint, models: Sequence[ServableModel]) -> list[ServableModel]:
    return [model for model in models if model.endpoint == endpoint]


def _moved(
    dialect: _Dialect, present: Mapping[str, Any], entries: Mapping[str, Any], dropped: Sequence[str]
) -> Iterator[str]:
    """`vllm` is a name that people give too."""
    for name, entry in entries.items():
        before, now = dialect.base_url(section(present, name)), dialect.base_url(entry)
        if before not in (None, now):
            yield f"provider {name} pointed to {without_secrets(str(before))} and now points to {now}"
    for name in dropped:
        before = without_secrets(str(dialect.base_url(section(present, name))))
        yield f"provider {name}, which pointed to {before}, is taken out: nothing is served there now"


def _gone(
    dialect: _Dialect, config: Mapping[str, Any], present: Mapping[str, Any], listed: Sequence[ListedModel]
) -> Iterator[str]:
    """What the file selects and we no longer offer; the choice is the user's, so it stays."""
    offered = {(item.provider, item.model.model_id) for item in listed}
    for setting, provider, model in dialect.chosen(config):
        ours = is_ours(provider, dialect.base_url(section(present, provider)))
        if ours and (provider, model) not in offered:
            yield f"{setting} is {provider}/{model}, which cannot be served now; choose another model in the client"


def _plan_single(config: Mapping[str, Any], models: Sequence[ServableModel], *, force: bool) -> ConfigPlan:
    chosen = claude_config.choice(config, models)
    edits = claude_config.edits(config, chosen, force=force)
    listed = (ListedModel(ONLY_PROVIDER, chosen),) if chosen else ()
    left_out = tuple(f"{model.model_id}: {_why_not(model, chosen)}" for model in models if model != chosen)
    warnings = []
    if "ANTHROPIC_API_KEY" in section(config, "env"):
        warnings.append("env.ANTHROPIC_API_KEY is set too, and Claude Code would send it to vLLM; remove it")
    return ConfigPlan(tuple(edits), listed, left_out, tuple(warnings))


def _why_not(model: ServableModel, chosen: ServableModel | None) -> str:
    if model.tools is False:
        return "it cannot call tools, which Claude Code lives on"
    if chosen and model.endpoint != chosen.endpoint:
        return "Claude Code can have one endpoint only"
    return f"Claude Code has one default model; /model {model.model_id} changes it"
