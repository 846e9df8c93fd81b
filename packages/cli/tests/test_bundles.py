"""The generated client configurations: what clients require, and that the checked-in files are current."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vllm_mcp import bundles
from vllm_mcp_protocol.serving.description import EnvVar, ServerDescription

ROOT = Path(__file__).parents[3]
ALPHA = ServerDescription(
    name="vllm-alpha",
    title="Alpha",
    summary="First of two.",
    instructions="Use look.",
    distribution="vllm-alpha-dist",
    command="vllm-alpha-command",
    module_build="vllm_alpha.server:build_server",
    environment=(EnvVar("PLAIN", "A value", "7"), EnvVar("TOKEN", "A secret", secret=True)),
)
BETA = ServerDescription(
    name="vllm-beta",
    title="Beta",
    summary="Second of two.",
    instructions="Use see.",
    distribution="vllm-beta",
    command="vllm-beta",
    module_build="vllm_beta.server:build_server",
)
READ_ONLY = {"vllm-alpha": ["look", "look-again"], "vllm-beta": []}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
CRUSH_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["$schema", "mcp", "providers", "permissions"],
    "properties": {
        "$schema": {"const": "https://charm.land/crush.json"},
        "providers": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "base_url", "api_key"],
                "properties": {
                    "name": {"type": "string"},
                    "type": {"enum": ["openai", "openai-compat", "anthropic"]},
                    "base_url": {"type": "string", "pattern": "/v1$"},
                    "api_key": {"type": "string", "minLength": 1},
                    "models": {"type": "array"},
                },
            },
        },
        "mcp": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "command"],
                "properties": {
                    "type": {"enum": ["stdio", "http", "sse"]},
                    "command": {"type": "string", "minLength": 1},
                    "args": {"type": "array", "items": {"type": "string"}},
                    "env": STRINGS,
                    "url": {"type": "string"},
                    "headers": STRINGS,
                    "timeout": {"type": "integer", "minimum": 1, "maximum": 999},
                    "disabled": {"type": "boolean"},
                    "disabled_tools": {"type": "array", "items": {"type": "string"}},
                    "enabled_tools": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
        "permissions": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"allowed_tools": {"type": "array", "items": {"pattern": r"^mcp_[a-z-]+_[a-z-]+$"}}},
        },
    },
}
"""The part of Crush's published schema that this file can meet. An unknown key runs, but editors mark it."""


def _crush(**changes: Any) -> dict[str, Any]:
    return bundles.crush_config([ALPHA, BETA], READ_ONLY) | changes


def test_a_component_says_what_to_start_and_hides_secrets_behind_variables() -> None:
    assert bundles.component([ALPHA]) == {
        "mcpServers": {
            "vllm-alpha": {
                "description": "First of two.",
                "type": "stdio",
                "command": "uvx",
                "args": ["--from", "vllm-alpha-dist==0.1.0", "vllm-alpha-command"],
                "env": {"PLAIN": "${PLAIN:-7}", "TOKEN": "${TOKEN:-}"},
            }
        }
    }


def test_the_crush_configuration_is_valid_and_allows_only_what_looks() -> None:
    config = _crush()
    jsonschema.validate(config, CRUSH_SCHEMA)
    assert list(config["mcp"]) == ["vllm-alpha", "vllm-beta"]
    assert config["permissions"]["allowed_tools"] == ["mcp_vllm-alpha_look", "mcp_vllm-alpha_look-again"]


@pytest.mark.parametrize(
    "broken",
    [
        {"mcpServers": {}},
        {"mcp": {"x": {"command": "uvx"}}},
        {"mcp": {"x": {"type": "stdio", "command": "uvx", "description": "no such key"}}},
        {"permissions": {"allowed_tools": ["mcp__vllm-alpha__look"]}},
    ],
)
def test_the_schema_check_notices_what_crush_would_refuse(broken: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_crush(**broken), CRUSH_SCHEMA)


def test_a_clone_starts_its_own_command() -> None:
    (server,) = bundles.component([BETA], bundles.from_here)["mcpServers"].values()
    assert Path(server["command"]).is_absolute()
    assert (Path(server["command"]).name, server["args"]) == ("vllm-beta", [])


def test_the_files_in_the_repository_are_current() -> None:
    assert bundles.write_bundles(ROOT, check=True) == [], "run: make bundles"


def test_a_second_writing_changes_nothing(tmp_path: Path) -> None:
    written = bundles.write_bundles(tmp_path, check=False)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == set(bundles.render(bundles.descriptions()))
    assert bundles.write_bundles(tmp_path, check=False) == []


def test_every_server_package_is_bundled() -> None:
    """Whoever writes the next server cannot forget to list it."""
    found = {f"{path.parent.name}.description" for path in ROOT.glob("packages/*/src/*/description.py")}
    assert found == set(bundles.SERVERS)


def test_the_real_crush_configuration_names_tools_that_exist() -> None:
    config = json.loads((ROOT / bundles.CRUSH_CONFIG).read_text(encoding="utf-8"))
    jsonschema.validate(config, CRUSH_SCHEMA)
    servers = bundles.descriptions()
    assert list(config["mcp"]) == [server.name for server in servers]
    listed = {f"mcp_{server.name}_{tool}" for server in servers for tool in bundles.read_only_tools(server)}
    assert set(config["permissions"]["allowed_tools"]) == listed
    assert "mcp_vllm-model-manager_list-models" in listed
    assert not re.search(r"unload|delete|switch|set-", " ".join(listed))


def test_the_tool_definitions_hold_every_tool_with_what_clients_need() -> None:
    published = json.loads((ROOT / bundles.TOOL_DEFINITIONS).read_text(encoding="utf-8"))["servers"]
    assert list(published) == [server.name for server in bundles.descriptions()]
    for server in bundles.descriptions():
        names = [tool["name"] for tool in published[server.name]]
        assert names == list(bundles.registered_tools(server))
        for tool in published[server.name]:
            jsonschema.Draft202012Validator.check_schema(tool["inputSchema"])
            jsonschema.Draft202012Validator.check_schema(tool["outputSchema"])
            assert "readOnlyHint" in tool["annotations"]


def test_every_variable_of_a_bundle_is_one_that_the_suite_reads() -> None:
    settings = importlib.import_module("vllm_mcp_protocol.settings").Settings
    for server in bundles.descriptions():
        given = {one.name for one in server.environment if not one.name.startswith("ALERT_THRESHOLD_")}
        assert given - {name.upper() for name in settings.model_fields} == set(), server.name
