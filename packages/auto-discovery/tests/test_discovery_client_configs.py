"""What is written for each client: the fields that it publishes, exactly the models, nobody else's providers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_auto_discovery.core.clients.diffs import LIMIT_BYTES, unified_diff
from vllm_auto_discovery.core.clients.json_edit import edited, read_object
from vllm_auto_discovery.core.clients.plans import Client, ConfigPlan, plan, reads_comments
from vllm_auto_discovery.core.clients.servable import (
    Endpoint,
    KeyFile,
    KeyVariable,
    ServableModel,
    is_ours,
    provider_ids,
)
from vllm_mcp_protocol.errors import BadInput, ForceRequired

GOLDEN = Path(__file__).parent / "data" / "client_configs"
LISTING = (Client.CRUSH, Client.OPENCODE)

# Of https://charm.land/crush.json (schema.json of charmbracelet/crush, August 2026): ProviderConfig and Model.
TEXT, NUMBER, WHOLE, FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
COSTS = ("cost_per_1m_in", "cost_per_1m_out", "cost_per_1m_in_cached", "cost_per_1m_out_cached")
CRUSH_MODEL = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "id": TEXT,
        "name": TEXT,
        **dict.fromkeys(COSTS, NUMBER),
        "context_window": WHOLE,
        "default_max_tokens": WHOLE,
        "can_reason": FLAG,
        "reasoning_levels": {"type": "array", "items": TEXT},
        "default_reasoning_effort": TEXT,
        "supports_attachments": FLAG,
        "options": {"type": "object"},
    },
    "required": [
        *("id", "name", *COSTS),
        *("context_window", "default_max_tokens", "can_reason", "supports_attachments"),
    ],
}
CRUSH_PROVIDER = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("id", "name", "api_key", "system_prompt_prefix"), TEXT),
        "base_url": {"type": "string", "format": "uri"},
        "type": {"enum": ["openai", "openai-compat", "anthropic", "ollama", "lmstudio", "llamacpp"]},
        "disable": FLAG,
        "discover_models": FLAG,
        "extra_headers": {"type": "object"},
        "extra_body": {"type": "object"},
        "provider_options": {"type": "object"},
        "models": {"type": "array", "items": CRUSH_MODEL},
    },
}

# Of https://opencode.ai/config.json (packages/core/src/v1/config/provider.ts of anomalyco/opencode, 1.18).
KINDS = {"type": "array", "items": {"enum": ["text", "audio", "image", "video", "pdf"]}}
OPENCODE_MODEL = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("id", "name", "family", "release_date"), TEXT),
        **dict.fromkeys(("attachment", "reasoning", "temperature", "tool_call", "experimental"), FLAG),
        "limit": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"context": NUMBER, "input": NUMBER, "output": NUMBER},
            "required": ["context", "output"],
        },
        "modalities": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"input": KINDS, "output": KINDS},
        },
        "options": {"type": "object"},
        "headers": {"type": "object"},
    },
}
OPENCODE_PROVIDER = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("api", "name", "id", "npm"), TEXT),
        "env": {"type": "array", "items": TEXT},
        "whitelist": {"type": "array", "items": TEXT},
        "blacklist": {"type": "array", "items": TEXT},
        "options": {"type": "object", "properties": {"apiKey": TEXT, "baseURL": TEXT, "setCacheKey": FLAG}},
        "models": {"type": "object", "additionalProperties": OPENCODE_MODEL},
    },
}
PROVIDER_SCHEMAS = {Client.CRUSH: CRUSH_PROVIDER, Client.OPENCODE: OPENCODE_PROVIDER}
SECTIONS = {Client.CRUSH: "providers", Client.OPENCODE: "provider"}

GATEWAY = Endpoint("http://127.0.0.1:8099/v1", KeyVariable("VLLM_API_KEY"))
QWEN = ServableModel(
    "Qwen/Qwen3-VL-8B", "Qwen3 VL 8B", GATEWAY, 262_144, tools=True, reasoning=True, vision=True, video=True
)
LLAMA = ServableModel("tiny-org/tiny-llama", "tiny-llama", GATEWAY, 2_048, tools=True, reasoning=False)
UNKNOWN = ServableModel("org/mystery", "mystery", GATEWAY)
EMBEDDER = ServableModel("org/embed", "embed", GATEWAY, 512, chat=False)
ALL = [LLAMA, EMBEDDER, QWEN, UNKNOWN]


def applied(client: Client, text: str, models: Any, *, force: bool = False) -> tuple[str, ConfigPlan]:
    plain = not reads_comments(client)
    planned = plan(client, read_object(text, plain=plain), models, force=force)
    return edited(text, planned.edits, plain=plain), planned


def offered(client: Client, text: str, provider: str) -> list[str]:
    """The models of a provider as the file lists them."""
    models = read_object(text)[SECTIONS[client]][provider]["models"]
    return list(models) if client is Client.OPENCODE else [model["id"] for model in models]


@pytest.mark.parametrize("before", sorted(GOLDEN.glob("*.before.*")), ids=lambda path: path.name.split(".")[0])
def test_golden(before: Path) -> None:
    """The whole text, comments and style included; read the file before changing it."""
    client = Client(before.name.split(".")[0])
    text, _ = applied(client, before.read_text(), ALL)
    assert text == before.with_name(before.name.replace("before", "after")).read_text()
    assert applied(client, text, list(reversed(ALL)))[0] == text


@pytest.mark.parametrize("client", LISTING)
@pytest.mark.parametrize("key", [None, KeyVariable("A_KEY"), KeyFile("/home/me/a key")])
def test_entries_fit_the_schema_that_the_client_publishes(client: Client, key: Any) -> None:
    models = [replace(model, endpoint=Endpoint("http://h:1/v1", key)) for model in ALL]
    text, _ = applied(client, "{}", models)
    config = json.loads(text)
    assert set(config) == {"$schema", SECTIONS[client]}
    for entry in config[SECTIONS[client]].values():
        jsonschema.validate(entry, PROVIDER_SCHEMAS[client])


@pytest.mark.parametrize("client", LISTING)
def test_exactly_the_chat_models_are_listed_in_a_fixed_order(client: Client) -> None:
    text, planned = applied(client, "{}", [*ALL, LLAMA])
    assert offered(client, text, "vllm") == ["Qwen/Qwen3-VL-8B", "org/mystery", "tiny-org/tiny-llama"]
    assert [item.model.model_id for item in planned.listed] == offered(client, text, "vllm")
    assert planned.left_out == ("org/embed: it embeds or ranks only, and this client chats",)


@pytest.mark.parametrize("client", LISTING)
def test_each_endpoint_is_a_provider_of_its_own(client: Client) -> None:
    models = [
        replace(LLAMA, endpoint=Endpoint("http://127.0.0.1:8001/v1", engine_id="e2")),
        replace(QWEN, endpoint=Endpoint("http://gpu-box.lan:9000/v1")),
    ]
    text, _ = applied(client, "{}", models)
    assert offered(client, text, "vllm-e2") == ["tiny-org/tiny-llama"]
    assert offered(client, text, "vllm-gpu-box-lan-9000") == ["Qwen/Qwen3-VL-8B"]
    one, _ = applied(client, text, models[:1])
    assert set(read_object(one)[SECTIONS[client]]) == {"vllm"}
    none, _ = applied(client, one, [])
    assert read_object(none)[SECTIONS[client]] == {}


def test_keys_are_references_and_never_values() -> None:
    def entry(client: Client, key: Any) -> Any:
        models = [replace(LLAMA, endpoint=Endpoint("http://h:1/v1", key))]
        return json.loads(applied(client, "{}", models)[0])[SECTIONS[client]]["vllm"]

    assert entry(Client.CRUSH, None)["api_key"] == "none"
    assert entry(Client.CRUSH, KeyVariable("A"))["api_key"] == "$A"
    assert entry(Client.CRUSH, KeyFile("/a b$(c)'d"))["api_key"] == "$(cat '/a b$(c)'\"'\"'d')"
    assert "apiKey" not in entry(Client.OPENCODE, None)["options"]
    assert entry(Client.OPENCODE, KeyVariable("A"))["options"]["apiKey"] == "{env:A}"
    assert entry(Client.OPENCODE, KeyFile("/a b"))["options"]["apiKey"] == "{file:/a b}"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "127.0.0.1:8000/v1",
            "ftp://h/v1",
            "http://h:1",
            "http://h:1/v1/",
            "http://h/$(id)/v1",
            "http://h/`id`/v1",
        ),
        *(
            "http://me:secret@h/v1",
            "http://h/v1\n",
            "http://h/{env:HOME}/v1",
            "http://h:99999/v1",
            "http://h/'/v1",
            'http://h/"/v1',
        ),
    ],
)
def test_an_address_that_a_client_would_read_differently_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        Endpoint(url)


@pytest.mark.parametrize("path", ["", "relative", "/a\nb", "/a}b", '/a"b', "/a\\b", "/\0"])
def test_a_key_file_that_a_client_would_read_differently_is_refused(path: str) -> None:
    with pytest.raises(BadInput):
        KeyFile(path)


@pytest.mark.parametrize("name", ["", "A-B", "1A", "A B", "A;id", "Ä", "A\n"])
def test_a_variable_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        KeyVariable(name)


def test_names_that_opencode_would_replace_are_left_out_there_only() -> None:
    model = replace(LLAMA, model_id="org/{file:~/.ssh/id}")
    assert applied(Client.OPENCODE, "{}", [model])[1].listed == ()
    assert len(applied(Client.CRUSH, "{}", [model])[1].listed) == 1


@pytest.mark.parametrize("client", list(Client))
@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[0m", "\ud800"])
def test_names_that_cannot_be_shown_are_left_out(client: Client, name: str) -> None:
    planned = applied(client, "{}", [replace(LLAMA, model_id=name)])[1]
    assert planned.listed == ()
    assert len(planned.left_out) == 1
    planned.left_out[0].encode()


@pytest.mark.parametrize(
    ("provider", "url", "ours"),
    [
        ("vllm", None, True),
        ("vllm-e12", "http://elsewhere/v1", True),
        ("vllm-box-8000", "http://box:8000/v1", True),
        ("vllm-box-8000-2", "http://box:8000/a/v1", True),
        ("vllm-h-80", "http://h/v1", True),
        ("vllm-box-8000", "http://other:8000/v1", False),
        ("vllm-box-8000", None, False),
        ("vllm-prod", "http://prod:8000/v1", False),
        ("vllm-e", "http://e/v1", False),
        ("vllm-", "", False),
        ("my-vllm", "http://h/v1", False),
        ("vllm2", "http://h/v1", False),
        ("vllm-x-1", "http://x:port/v1", False),
    ],
)
def test_our_providers_are_known_by_their_ids(provider: str, url: str | None, ours: bool) -> None:
    assert is_ours(provider, url) is ours


HOSTS = st.sampled_from(["127.0.0.1", "[::1]", "[::]", "localhost", "gpu.box", "GPU.box", "gpu-box"])
ENDPOINTS = st.builds(
    lambda scheme, host, port, path, engine: Endpoint(f"{scheme}://{host}{port}{path}/v1", engine_id=engine),
    st.sampled_from(["http", "https"]),
    HOSTS,
    st.sampled_from(["", ":80", ":8000"]),
    st.sampled_from(["", "/a", "/b"]),
    st.sampled_from(["", "", "e1", "E1", "e1x"]),
)


@given(st.lists(ENDPOINTS, unique=True, max_size=8))
def test_every_endpoint_gets_an_id_that_is_ours_again(endpoints: list[Endpoint]) -> None:
    ids = provider_ids(replace(LLAMA, endpoint=endpoint) for endpoint in endpoints)
    assert set(ids) == set(endpoints)
    assert len(set(ids.values())) == len(endpoints)
    assert all(is_ours(provider, endpoint.base_url) for endpoint, provider in ids.items())


FOREIGN = {"lab": {"name": "mine"}, "vllm-prod": {"base_url": "http://prod/v1"}, "zai": 7}


@pytest.mark.parametrize("client", LISTING)
def test_providers_of_others_stay_whatever_they_are(client: Client) -> None:
    text = json.dumps({SECTIONS[client]: FOREIGN, "else": [1, {"vllm": 2}]})
    changed, _ = applied(client, text, ALL)
    found = json.loads(changed)
    assert {name: found[SECTIONS[client]][name] for name in FOREIGN} == FOREIGN
    assert found["else"] == [1, {"vllm": 2}]
    assert applied(client, changed, [])[0].replace(" ", "") == text.replace(" ", "")


def test_a_choice_that_is_gone_is_said_and_left() -> None:
    crush = '{"models": {"large": {"provider": "vllm", "model": "gone"}, "small": {"provider": "x", "model": "y"}}}'
    text, planned = applied(Client.CRUSH, crush, [LLAMA])
    assert planned.warnings == (
        "models.large is vllm/gone, which cannot be served now; choose another model in the client",
    )
    assert '"model": "gone"' in text
    opencode = '{"model": "vllm/tiny-org/tiny-llama", "small_model": "vllm-e3/a/b"}'
    planned = applied(Client.OPENCODE, opencode, [LLAMA])[1]
    assert [warning.split(",")[0] for warning in planned.warnings] == ["small_model is vllm-e3/a/b"]


@pytest.mark.parametrize("value", [1, None, [], "x", {"large": 3}])
def test_a_choice_that_is_no_choice_is_no_trouble(value: Any) -> None:
    for client, key in ((Client.CRUSH, "models"), (Client.OPENCODE, "model")):
        assert applied(client, json.dumps({key: value}), [LLAMA])[1].warnings == ()


def test_a_provider_named_vllm_that_pointed_elsewhere_is_said() -> None:
    text = '{"providers": {"vllm": {"base_url": "http://prod:8000/v1"}}}'
    warnings = applied(Client.CRUSH, text, [LLAMA])[1].warnings
    assert warnings == ("provider vllm pointed to http://prod:8000/v1 and now points to http://127.0.0.1:8099/v1",)


@given(st.integers(1, 2_000_000))
def test_an_answer_leaves_room_for_its_question(context: int) -> None:
    tokens = replace(LLAMA, context_window_tokens=context).answer_tokens
    assert tokens is not None
    assert 1 <= tokens <= max(1, min(context // 5, 20_000))


# Claude Code


def claude(text: str, models: Any, *, force: bool = False) -> Any:
    return json.loads(applied(Client.CLAUDE_CODE, text, models, force=force)[0])


def test_claude_code_is_given_one_model_for_all_its_tiers() -> None:
    text, planned = applied(Client.CLAUDE_CODE, "{}", [LLAMA, replace(QWEN, tools=False), UNKNOWN])
    env = json.loads(text)["env"]
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8099"
    tiers = [value for name, value in env.items() if name.endswith("_MODEL")]
    assert tiers == ["tiny-org/tiny-llama"] * 5
    assert env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "2048"
    assert [item.model for item in planned.listed] == [LLAMA]
    assert planned.left_out == (
        "Qwen/Qwen3-VL-8B: it cannot call tools, which Claude Code lives on",
        "org/mystery: Claude Code has one default model; /model org/mystery changes it",
    )


def test_claude_code_keeps_its_model_while_that_is_served() -> None:
    text, _ = applied(Client.CLAUDE_CODE, "{}", [LLAMA])
    assert claude(text, [LLAMA, QWEN])["env"]["ANTHROPIC_MODEL"] == LLAMA.model_id
    assert claude(text, [QWEN])["env"]["ANTHROPIC_MODEL"] == QWEN.model_id
    assert claude(text, [EMBEDDER]) == {"$schema": claude(text, [])["$schema"], "env": {}}


@pytest.mark.parametrize(
    "before",
    [
        '{"env": {"ANTHROPIC_BASE_URL": "https://gateway.example.com"}}',
        '{"env": {"ANTHROPIC_AUTH_TOKEN": "sk-mine"}}',
        '{"env": {"ANTHROPIC_MODEL": "claude-sonnet-5-5"}}',
        '{"apiKeyHelper": "/opt/key.sh"}',
    ],
)
def test_claude_code_settings_of_the_users_own_need_force(before: str) -> None:
    with pytest.raises(ForceRequired) as caught:
        claude(before, [LLAMA])
    assert "sk-mine" not in str(caught.value.info)
    assert claude(before, [LLAMA], force=True)["env"]["ANTHROPIC_MODEL"] == LLAMA.model_id
    assert applied(Client.CLAUDE_CODE, before, [])[0] == before


def test_claude_code_changed_by_the_user_is_the_users_again() -> None:
    text, _ = applied(Client.CLAUDE_CODE, "{}", [LLAMA])
    theirs = text.replace('"ANTHROPIC_BASE_URL": "http://127.0.0.1:8099"', '"ANTHROPIC_BASE_URL": "http://h"')
    assert theirs != text
    assert applied(Client.CLAUDE_CODE, theirs, [])[0] == theirs
    with pytest.raises(ForceRequired):
        claude(theirs, [LLAMA])


@pytest.mark.parametrize(
    ("key", "helper"), [(KeyVariable("A"), "printenv A"), (KeyFile("/a b"), "cat '/a b'"), (None, None)]
)
def test_claude_code_is_told_how_to_get_the_key(key: Any, helper: str | None) -> None:
    with_key = replace(LLAMA, endpoint=replace(GATEWAY, key=key))
    text, _ = applied(Client.CLAUDE_CODE, "{}", [with_key])
    found = json.loads(text)
    assert found.get("apiKeyHelper") == helper
    assert ("ANTHROPIC_AUTH_TOKEN" in found["env"]) is (key is None)
    without = claude(text, [replace(LLAMA, endpoint=replace(GATEWAY, key=None))])
    assert "apiKeyHelper" not in without
    assert claude(text, []) == {"$schema": found["$schema"], "env": {}}


def test_a_helper_beside_our_token_is_the_users() -> None:
    text, _ = applied(Client.CLAUDE_CODE, "{}", [replace(LLAMA, endpoint=replace(GATEWAY, key=None))])
    theirs = text.replace('{"$schema"', '{"apiKeyHelper": "cat /mine", "$schema"')
    assert claude(theirs, [])["apiKeyHelper"] == "cat /mine"
    with pytest.raises(ForceRequired, match="apiKeyHelper"):
        claude(theirs, [LLAMA])


def test_a_key_that_would_go_to_vllm_is_said() -> None:
    planned = applied(Client.CLAUDE_CODE, '{"env": {"ANTHROPIC_API_KEY": "sk-x"}}', [LLAMA])[1]
    assert planned.warnings == ("env.ANTHROPIC_API_KEY is set too, and Claude Code would send it to vLLM; remove it",)


# Diffs


def test_a_diff_hides_secrets_and_shows_where_they_come_from() -> None:
    before = "\n".join(
        [
            '{"api_key": "plainkey1",',
            ' "apiKey": "plainkey2", "x": "kept",',
            ' "env": {"SLACK_BOT_TOKEN": "plainkey3"},',
            ' "headers": {"Authorization": "Basic plainkey4"},',
            ' "args": ["--hf-token=plainkey5", "sk-plainkey6plainkey6"],',
            ' "url": "http://me:plainkey7@host/"}',
        ]
    )
    after = before.replace("kept", "changed") + '\n"api_key": "$A_KEY", "apiKey": "{env:A_KEY}"'
    shown = unified_diff(before, after, "f.json")
    assert "plainkey" not in shown
    assert '"x": "changed"' in shown
    assert '"api_key": "$A_KEY", "apiKey": "{env:A_KEY}"' in shown


def test_a_diff_is_bounded() -> None:
    lines = [f'"line {number}": {number}' for number in range(5_000)]
    assert len(unified_diff("", "\n".join(lines), "f")) < LIMIT_BYTES + 100
    assert len(unified_diff("x" * 100_000, "y", "f")) < 2_000
    assert len(unified_diff("x" * 1_000_000, "y", "f")) < 200
    assert unified_diff("a", "a", "f") == ""
