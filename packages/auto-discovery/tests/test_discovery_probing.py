"""Finding engines on ports that the user named: real servers on loopback, friendly and hostile."""

import socket
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from tests.fakes import fake_providers as fakes
from vllm_auto_discovery.core.engines.fingerprint import ServedModel
from vllm_auto_discovery.probing import FoundEngine, ProbeLimits, probe, probe_url
from vllm_mcp_protocol.errors import BadInput

pytestmark = pytest.mark.anyio

QUICK = ProbeLimits(address_s=0.3)
PATIENT = ProbeLimits(address_s=20)
"""For servers that do answer: a loaded machine must not look like a slow server."""


async def _look(port: int, limits: ProbeLimits = PATIENT, key: str = "") -> FoundEngine:
    keys = {("127.0.0.1", port): SecretStr(key)} if key else None
    (found,) = await probe(ports=[port], keys=keys, limits=limits)
    return found


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


FRIENDLY = {
    "vllm": (fakes.vllm({"org/llama": 1024}), "0.32.0", (ServedModel("org/llama", 1024),)),
    "sglang": (fakes.sglang({"org/qwen": 32768}), "0.5.9", (ServedModel("org/qwen", 32768),)),
    "llamacpp": (fakes.llamacpp({"x.gguf": 8192}), "b8123-0a1b2c3", (ServedModel("x.gguf", 8192),)),
    "ollama": (
        fakes.ollama({"llama3.2:3b": 131072, "qwen3:8b": 40960}, loaded={"llama3.2:3b": 4096}),
        "0.19.3",
        (ServedModel("llama3.2:3b", 4096, True), ServedModel("qwen3:8b", 40960, False)),
    ),
    "lmstudio": (
        fakes.lmstudio({"gemma": 8192, "phi": 16384}, loaded={"phi": 2048}),
        None,
        (ServedModel("gemma", 8192, False), ServedModel("phi", 2048, True)),
    ),
    "openai-compatible": (fakes.openai_compatible({"m": 4096}), None, (ServedModel("m", 4096),)),
}


@pytest.mark.parametrize("provider", FRIENDLY)
async def test_each_provider_is_known_by_its_answers(provider: str) -> None:
    persona, version, models = FRIENDLY[provider]
    with fakes.serving(persona) as running:
        found = await _look(running.port)
    assert (found.provider, found.version, found.models) == (provider, version, models)
    assert found.evidence
    assert (found.needs_key, found.notes) == (False, ())


@pytest.mark.parametrize("provider", ["vllm", "sglang", "llamacpp", "lmstudio", "openai-compatible"])
async def test_a_key_that_is_demanded_is_told_and_helps(provider: str) -> None:
    persona, version, models = FRIENDLY[provider]
    with fakes.serving(persona, key="sk-right") as running:
        without = await _look(running.port)
        wrong = await _look(running.port, key="sk-wrong")
        right = await _look(running.port, key="sk-right")
    known_without = {"vllm", "llamacpp", "lmstudio", "openai-compatible"}
    assert without.provider == (provider if provider in known_without else "unknown-http")
    assert without.needs_key
    assert "it asks for an API key" in without.notes
    assert "the key that was sent is refused" in wrong.notes
    assert (right.provider, right.version, right.models, right.needs_key) == (provider, version, models, False)


async def test_a_vllm_without_metrics_of_its_own_is_known_by_how_it_refuses() -> None:
    with fakes.serving(fakes.vllm({"m": 10}, metrics=False), key="sk-x") as running:
        found = await _look(running.port)
    assert (found.provider, found.version, found.needs_key) == ("vllm", "0.32.0", True)


async def test_a_key_goes_only_to_the_address_it_belongs_to() -> None:
    with fakes.serving(fakes.vllm({"m": 10}), key="sk-a") as ours, fakes.serving(fakes.web_page()) as other:
        await probe(ports=[ours.port, other.port], keys={("127.0.0.1", ours.port): SecretStr("sk-a")}, limits=PATIENT)
    assert {given for _, given in ours.requests} == {"Bearer sk-a"}
    assert {given for _, given in other.requests} == {""}


async def test_what_said_what_it_is_is_asked_little_more() -> None:
    with fakes.serving(fakes.vllm({"m": 10})) as running:
        await _look(running.port)
    assert [path for path, _ in running.requests] == ["/v1/models", "/version"]


async def test_an_ollama_without_models_is_still_ollama() -> None:
    with fakes.serving(fakes.ollama({})) as running:
        found = await _look(running.port)
    assert (found.provider, found.models) == ("ollama", ())


async def test_a_server_that_loads_its_model_says_so() -> None:
    with fakes.serving(fakes.llamacpp({}, loading=True)) as running:
        found = await _look(running.port)
    assert found.provider == "llamacpp"
    assert "it is still loading its model" in found.notes


async def test_a_web_server_is_no_engine() -> None:
    with fakes.serving(fakes.web_page()) as running:
        found = await _look(running.port)
    assert (found.provider, found.models) == ("unknown-http", ())
    assert found.evidence == ("/v1/models answers 404", "header Server: nginx/1.29")


async def test_a_port_where_nobody_listens_is_nothing() -> None:
    found = await _look(_unused_port())
    assert (found.provider, found.listens) == ("nothing", False)


async def test_findings_come_in_the_order_named() -> None:
    with fakes.serving(fakes.vllm({"m": 10})) as one, fakes.serving(fakes.ollama({})) as two:
        free = _unused_port()
        found = await probe(["127.0.0.1", "localhost"], [two.port, free, one.port, free], limits=PATIENT)
    assert [(engine.host, engine.provider) for engine in found] == [
        *[("127.0.0.1", name) for name in ("ollama", "nothing", "vllm")],
        *[("localhost", name) for name in ("ollama", "nothing", "vllm")],
    ]


SLOW = {
    "a trickle": (fakes.trickle, "unknown-http"),
    "headers for ever": (fakes.slow_headers, "unknown"),
    "silence": (fakes.silent, "unknown"),
    "continues": (fakes.continues, "unknown"),
}
BROKEN = {
    "an endless answer": (fakes.endless, "unknown-http", "longer than"),
    "an answer that breaks off": (fakes.breaks_off, "unknown-http", "broke off"),
    "no answer": (fakes.hangs_up, "unknown", "no HTTP"),
    "TLS": (fakes.tls_alert, "unknown", "no HTTP"),
    "noise": (fakes.binary, "unknown", "no HTTP"),
    "a compressed bomb": (fakes.gzip_bomb, "unknown-http", ""),
    "a header without end": (fakes.huge_header, "unknown", "no HTTP"),
}


@pytest.mark.parametrize("habit", SLOW)
async def test_slow_strangers_end_with_the_time(habit: str) -> None:
    talk, provider = SLOW[habit]
    with fakes.Hostile(talk) as server:
        found = await _look(server.port, QUICK)
    assert (found.provider, found.models) == (provider, ())
    assert any("no whole answer within 0.3 s" in note for note in found.notes)


@pytest.mark.parametrize("habit", BROKEN)
async def test_broken_strangers_end_at_once(habit: str) -> None:
    talk, provider, words = BROKEN[habit]
    with fakes.Hostile(talk) as server:
        found = await _look(server.port)
    assert (found.provider, found.models) == (provider, ())
    assert any(words in note for note in found.notes) or not words
    assert any("longer than" in note for note in found.notes) == (words == "longer than")


async def test_what_speaks_no_http_is_asked_once() -> None:
    with fakes.Hostile(fakes.binary) as server:
        await _look(server.port)
    assert server.connections == 1


async def test_a_stranger_that_speaks_first_is_no_engine() -> None:
    def greets(connection: socket.socket, _over: object) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
        connection.recv(65536)

    with fakes.Hostile(greets, speaks_first=True) as server:
        found = await _look(server.port)
    assert found.provider == "unknown"


async def test_redirects_are_told_and_not_followed() -> None:
    with fakes.serving(fakes.vllm({"m": 10})) as target:
        location = f"http://127.0.0.1:{target.port}/v1/models"
        with fakes.Hostile(fakes.redirect_to(location)) as server:
            found = await _look(server.port)
    assert found.provider == "unknown-http"
    assert f"/v1/models: it redirects to {location}, which is not followed" in found.notes
    assert target.requests == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        "not json",
        '{"data": {"id": "m"}}',
        '{"data": [1, null, "m"]}',
        '{"data": [{"id": 7}]}',
        '{"data": [{"id": ""}]}',
        "[" * 100_000,
        '{"version": ' + "9" * 10_000 + "}",
        '{"object": "list", "data": [' + '{"name": "m"}' + "]}",
    ],
)
async def test_json_of_the_wrong_shape_is_no_engine(body: str) -> None:
    with fakes.serving(fakes.raw(body)) as running:
        found = await _look(running.port)
    assert (found.provider, found.models, found.version) == ("unknown-http", (), None)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with fakes.serving(fakes.vllm({"m": 10})) as running:
        assert (await _look(running.port)).provider == "vllm"


async def test_a_search_that_takes_too_long_says_what_it_left_out() -> None:
    with fakes.Hostile(fakes.silent) as server, fakes.serving(fakes.vllm({"m": 10})) as good:
        limits = ProbeLimits(address_s=20, total_s=0.3, at_once=1)
        found = await probe(ports=[server.port, good.port], limits=limits)
    assert [engine.provider for engine in found] == ["unknown", "unknown"]
    assert found[1].notes == ("not asked: the search ended after 0.3 s",)


async def test_a_key_that_no_header_can_hold_is_not_sent() -> None:
    with fakes.serving(fakes.vllm({"m": 10})) as running:
        found = await _look(running.port, key="sk-\nü")
    assert found.provider == "vllm"
    assert {given for _, given in running.requests} == {""}


async def test_a_server_that_repeats_our_key_does_not_get_it_shown() -> None:
    with fakes.serving(fakes.openai_compatible({"sk-secret": 5}), key="sk-secret") as running:
        found = await _look(running.port, key="sk-secret")
    assert [model.id for model in found.models] == ["(hidden)"]
    assert "sk-secret" not in repr(found)


async def test_a_configured_address_is_asked_at_its_root() -> None:
    with fakes.serving(fakes.vllm({"m": 10}), key="k") as running:
        found = await probe_url(f"http://127.0.0.1:{running.port}/v1", SecretStr("k"), limits=PATIENT)
    assert (found.provider, found.url) == ("vllm", f"http://127.0.0.1:{running.port}")


async def test_https_on_a_plain_port_is_a_finding() -> None:
    with fakes.serving(fakes.vllm({"m": 10})) as running:
        found = await probe_url(f"https://127.0.0.1:{running.port}", limits=PATIENT)
    assert found.provider == "nothing"
    assert found.notes[0]


ASKED: list[Callable[[], tuple[list[str], list[int]]]] = [
    lambda: (["127.0.0.1"] * 1 + [f"h{n}" for n in range(16)], [1]),
    lambda: (["127.0.0.1"], list(range(1, 66))),
    lambda: (["127.0.0.1"], [0]),
    lambda: (["127.0.0.1"], [65536]),
    lambda: (["http://127.0.0.1"], [80]),
    lambda: (["127.0.0.1/24"], [80]),
    lambda: (["user@host"], [80]),
    lambda: ([""], [80]),
    lambda: (["a b"], [80]),
    lambda: (["0.0.0.0"], [80]),
    lambda: (["::"], [80]),
    lambda: (["224.0.0.1"], [80]),
    lambda: (["169.254.169.254"], [80]),
    lambda: (["::ffff:169.254.169.254"], [80]),
    lambda: (["127.1"], [80]),
    lambda: (["2852039166"], [80]),
    lambda: (["0x7f000001"], [80]),
    lambda: (["host\r\nX: y"], [80]),
    lambda: (["ho\0st"], [80]),
]


@pytest.mark.parametrize("number", range(len(ASKED)))
async def test_what_cannot_be_asked_is_refused_before_anything_is_sent(number: int) -> None:
    hosts, ports = ASKED[number]()
    with pytest.raises(BadInput) as refused:
        await probe(hosts, ports)
    assert refused.value.info.suggestion
    assert refused.value.info.details["parameter"] in ("hosts", "ports")
