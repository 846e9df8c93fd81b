"""What Claude Code is told in `settings.json`. Pure.

It has no list of providers: one Anthropic API, whose address and models are environment variables that it takes from
`env`. vLLM answers /v1/messages itself. What is set, as Claude Code 2.1 reads it (code.claude.com/docs/en/env-vars,
and https://docs.vllm.ai, integrations, Claude Code):

- `ANTHROPIC_BASE_URL`: the endpoint without /v1, which Claude Code adds.
- `ANTHROPIC_AUTH_TOKEN`: any word, since without a token it asks for a login. An endpoint with a key gets
  `apiKeyHelper` instead, a command that prints the key: `env` expands nothing, and no key is written down.
- `ANTHROPIC_MODEL`, and `ANTHROPIC_DEFAULT_{OPUS,SONNET,HAIKU,FABLE}_MODEL` with the same model: background work and
  subagents ask for these tiers, and vLLM knows no Claude. (`ANTHROPIC_SMALL_FAST_MODEL` is the old name of HAIKU's.)
- `ANTHROPIC_DEFAULT_OPUS_MODEL_DESCRIPTION`: shown by /model, and how we know our own settings again.
- `CLAUDE_CODE_MAX_CONTEXT_TOKENS`, `CLAUDE_CODE_MAX_OUTPUT_TOKENS`: it takes 200,000 and 32,000 for granted.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_auto_discovery.core.clients.json_edit import Drop, Edit, Put
from vllm_auto_discovery.core.clients.servable import Endpoint, KeyFile, KeyVariable, ServableModel, section
from vllm_mcp_protocol.errors import ForceRequired

SCHEMA = "https://json.schemastore.org/claude-code-settings.json"

_ADDRESS, _TOKEN, _MODEL = "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL"
_TIERS = tuple(f"ANTHROPIC_DEFAULT_{tier}_MODEL" for tier in ("OPUS", "SONNET", "HAIKU", "FABLE"))
_MARK = "ANTHROPIC_DEFAULT_OPUS_MODEL_DESCRIPTION"
_CONTEXT, _ANSWER = "CLAUDE_CODE_MAX_CONTEXT_TOKENS", "CLAUDE_CODE_MAX_OUTPUT_TOKENS"
_OWN = (_ADDRESS, _TOKEN, _MODEL, *_TIERS, _MARK, _CONTEXT, _ANSWER)
_HELPER = "apiKeyHelper"


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether the endpoint in the file was written by us and not changed since."""
    env = section(config, "env")
    return _ADDRESS in env and env.get(_MARK) == _mark(str(env[_ADDRESS]))


def edits(config: Mapping[str, Any], model: ServableModel | None, *, force: bool) -> list[Edit]:
    """What makes `model` the one that Claude Code uses; None takes our settings away.

    Raises ForceRequired naming the settings of the user's own that would be overwritten.
    """
    env = section(config, "env")
    if model is None:
        return _without_ours(config) if is_ours(config) else []
    wanted, helper = _variables(model), _helper(model.endpoint)
    if not force:
        _refuse_to_overwrite(config, wanted, helper)
    changes: list[Edit] = [Put(("env", name), value) for name, value in wanted.items()]
    changes += [Drop(("env", name)) for name in _OWN if name in env and name not in wanted]
    if helper:
        changes.append(Put((_HELPER,), helper))
    elif _helper_is_ours(config):
        changes.append(Drop((_HELPER,)))
    return changes


def _variables(model: ServableModel) -> dict[str, str]:
    address = model.endpoint.base_url.removesuffix("/v1")
    values = {_ADDRESS: address}
    if model.endpoint.key is None:
        values[_TOKEN] = "none"
    values |= dict.fromkeys((_MODEL, *_TIERS), model.model_id)
    values[_MARK] = _mark(address)
    if model.context_window_tokens is not None:
        values[_CONTEXT] = str(model.context_window_tokens)
    if model.answer_tokens is not None:
        values[_ANSWER] = str(model.answer_tokens)
    return values


def _mark(address: str) -> str:
    return f"vLLM at {address}"


def _helper(endpoint: Endpoint) -> str:
    match endpoint.key:
        case KeyVariable(name):
            return f"printenv {name}"
        case KeyFile(path):
            return f"cat {shlex.quote(path)}"
    return ""


def _without_ours(config: Mapping[str, Any]) -> list[Edit]:
    env = section(config, "env")
    changes: list[Edit] = [Drop(("env", name)) for name in _OWN if name in env]
    return [*changes, Drop((_HELPER,))] if _helper_is_ours(config) else changes


def _helper_is_ours(config: Mapping[str, Any]) -> bool:
    """We write either a token or a helper, so that a helper beside our token is the user's."""
    command = config.get(_HELPER)
    like_ours = isinstance(command, str) and command.startswith(("printenv ", "cat "))
    return is_ours(config) and like_ours and _TOKEN not in section(config, "env")


def _refuse_to_overwrite(config: Mapping[str, Any], wanted: Mapping[str, str], helper: str) -> None:
    env = section(config, "env")
    names = () if is_ours(config) else _OWN
    lost = [f"env.{name}" for name in names if name in env and env[name] != wanted.get(name)]
    if helper and config.get(_HELPER, helper) != helper and not _helper_is_ours(config):
        lost.append(_HELPER)
    if lost:
        raise ForceRequired(
            f"Claude Code's settings hold {', '.join(lost)} already, and it can have one endpoint only.",
            settings=lost,
            suggestion="look at them with dry_run=true and force=true, then call again with force=true to replace them",
        )


def choice(config: Mapping[str, Any], models: Sequence[ServableModel]) -> ServableModel | None:
    """The model that stays chosen, else the one with the longest context, one that surely calls tools first."""
    current = section(config, "env").get(_MODEL) if is_ours(config) else None
    able = [model for model in models if model.tools is not False]
    kept = [model for model in able if model.model_id == current]
    ranked = sorted(
        kept or able, key=lambda model: (not model.tools, -(model.context_window_tokens or 0), model.model_id)
    )
    return ranked[0] if ranked else None
