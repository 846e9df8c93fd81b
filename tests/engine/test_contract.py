"""One contract, two engines: the fake that every other test relies on answers as the real vLLM does.

The recordings (tests/fakes/recordings) are the third party: both are held against them.
"""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.engine.engines import CPU_FLAGS, RunningEngine, started, wait_healthy
from tests.fakes.fakes import make_fake_vllm
from vllm_mcp_protocol.engine_env import read_vllm_facts
from vllm_mcp_protocol.hf.cache import find

RECORDINGS = Path(__file__).parents[1] / "fakes/recordings"
MODEL = "tiny-org/tiny-llama"
KEY = "contract-key"
FLAGS = (
    *CPU_FLAGS,
    *("--max-model-len", "1024"),
    *("--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"),
    *("--enable-prompt-tokens-details", "--enable-force-include-usage", "--enable-server-load-tracking"),
)
ENV = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
LONG_PROMPT = "word " * 3000


def recordings(name: str) -> list[dict[str, Any]]:
    exchanges: list[dict[str, Any]] = json.loads((RECORDINGS / f"{name}.json").read_text())
    return exchanges


# module scope: one engine answers all requests of this file; pytest groups the tests by parameter


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.engine)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def executable(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if kind == "fake":
        return make_fake_vllm(tmp_path_factory.mktemp("fake"))
    path: Path = request.getfixturevalue("real_vllm")
    return path


@pytest.fixture(scope="module")
def engine(kind: str, executable: Path, request: pytest.FixtureRequest) -> Iterator[RunningEngine]:
    env = dict(ENV)
    if kind == "real":
        env["HF_HOME"] = str(request.getfixturevalue("tiny_hf_home"))
    with started(executable, MODEL, flags=FLAGS, env=env, api_key=KEY) as running:
        wait_healthy(running)
        yield running


@pytest.fixture(scope="module")
def lora(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an adapter that fits the engine."""
    if kind == "fake":
        folder = tmp_path_factory.mktemp("lora")
        (folder / "adapter_config.json").write_text("{}")
        return str(folder)
    facts = find("tiny-org/tiny-llama-lora", [request.getfixturevalue("tiny_hf_home") / "hub"])
    assert facts is not None
    return str(facts.path)


def ask(engine: RunningEngine, exchange: dict[str, Any], lora: str = "") -> httpx2.Response:
    """Send the recorded request."""
    headers = {"Content-Type": "application/json"}
    if "authorization" in exchange:
        engine.client.headers.pop("Authorization", None)
        headers |= {"Authorization": exchange["authorization"]} if exchange["authorization"] else {}
    text = exchange.get("raw") or (json.dumps(exchange["body"]) if "body" in exchange else None)
    filled = text and text.replace("{long}", LONG_PROMPT).replace("{lora}", lora)
    try:
        return engine.client.request(exchange["method"], exchange["path"], content=filled, headers=headers)
    finally:
        engine.client.headers["Authorization"] = f"Bearer {KEY}"


def check(exchange: dict[str, Any], response: httpx2.Response, lora: str = "") -> None:
    """Status, content type, and the shape of the answer (for errors also their words)."""
    assert response.status_code == exchange["status"], response.text
    assert response.headers.get("content-type") == exchange["content_type"]
    if "events" in exchange:
        check_stream(exchange["events"], response.text)
    elif "answer" in exchange:
        differences = compare(exchange["answer"], response.json())
        assert not differences, differences
        check_error(exchange["answer"].get("error"), response.json().get("error"))
    else:
        assert response.text == exchange["text"].replace("{lora}", lora)


def check_error(expected: Any, actual: Any) -> None:
    if isinstance(expected, dict):
        assert {**actual, "message": ""} == {**expected, "message": ""}
        assert words(actual["message"])[:8] == words(expected["message"])[:8]
    else:
        assert actual == expected


def words(message: str) -> list[str]:
    """Without numbers: 1024 tokens here, 2048 there."""
    return re.sub(r"\d+", "N", message).split()


def check_stream(expected: list[dict[str, Any]], text: str) -> None:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    events = distinct([json.loads(line) for line in lines])
    assert len(events) == len(expected), events
    for one, other in zip(expected, events, strict=True):
        differences = compare(one, other)
        assert not differences, differences


def distinct(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Only events whose shape differs from the one before, as in the recordings."""
    kept: list[dict[str, Any]] = []
    for event in events:
        if not kept or shape(kept[-1]) != shape(event):
            kept.append(event)
    return kept


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def compare(expected: Any, actual: Any, where: str = "") -> list[str]:
    """Differences in keys and types. A null matches any plain value: many fields are set only at times."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        if expected.keys() != actual.keys():
            return [f"{where}: keys {sorted(expected.keys() ^ actual.keys())}"]
        return [line for key in expected for line in compare(expected[key], actual[key], f"{where}.{key}")]
    if isinstance(expected, list) and isinstance(actual, list):
        if bool(expected) != bool(actual):
            return [f"{where}: {len(expected)} and {len(actual)} items"]
        first = expected[0] if expected else None
        return [line for item in actual for line in compare(first, item, f"{where}[]")]
    plain = str | int | float | bool | None
    if isinstance(expected, plain) and isinstance(actual, plain):
        kinds = {plain_kind(value) for value in (expected, actual)} - {"null"}
        return [f"{where}: {expected!r} and {actual!r}"] if len(kinds) > 1 else []
    return [f"{where}: {type(expected).__name__} and {type(actual).__name__}"]


def plain_kind(value: str | float | bool | None) -> str:
    if value is None:
        return "null"
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


@pytest.mark.parametrize("exchange", recordings("generation"), ids=lambda exchange: exchange["name"])
def test_generation(engine: RunningEngine, exchange: dict[str, Any]) -> None:
    check(exchange, ask(engine, exchange))


@pytest.mark.parametrize("exchange", recordings("errors"), ids=lambda exchange: exchange["name"])
def test_errors(engine: RunningEngine, exchange: dict[str, Any]) -> None:
    check(exchange, ask(engine, exchange))


@pytest.mark.parametrize("exchange", recordings("auth"), ids=lambda exchange: exchange["name"])
def test_only_v1_asks_for_the_key(engine: RunningEngine, exchange: dict[str, Any]) -> None:
    check(exchange, ask(engine, exchange))


def test_adapters_come_and_go(engine: RunningEngine, lora: str) -> None:
    for exchange in recordings("lora"):
        check(exchange, ask(engine, exchange, lora), lora)
    served = engine.client.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in served] == [MODEL]


def test_sleep_and_wake(engine: RunningEngine) -> None:
    for exchange in recordings("sleep"):
        response = ask(engine, exchange)
        check(exchange, response)
        assert response.json() == exchange["answer"]
    assert engine.client.get("/is_sleeping").json() == {"is_sleeping": False}


def test_metrics_that_the_suite_reads(engine: RunningEngine) -> None:
    response = engine.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    for name, labels in json.loads((RECORDINGS / "metrics.json").read_text()).items():
        lines = re.findall(rf"^{name}\{{(.*)\}} [-+.\de]+$", response.text, re.MULTILINE)
        assert lines, name
        assert set(labels) <= set(re.findall(r'(\w+)="', lines[0])), name


def test_generated_tokens_are_counted(engine: RunningEngine) -> None:
    def counted() -> float:
        text = engine.client.get("/metrics").text
        return sum(float(n) for n in re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", text, re.MULTILINE))

    before = counted()
    body = {"model": MODEL, "prompt": "count", "max_tokens": 7, "ignore_eos": True}
    answer = engine.client.post("/v1/completions", json=body).json()
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["choices"][0]["finish_reason"] == "length"
    assert counted() - before == 7


@pytest.mark.parametrize(
    "line",
    [
        r"\(APIServer pid=\d+\) INFO .*Using max model len 1024",
        r"Starting to load model \S+\.\.\.",
        r"Loading weights took [\d.]+ seconds",
        r"[CG]PU KV cache size: [\d,]+ tokens, Maximum concurrency for 1,024 tokens per request: [\d.]+x",
        r"init engine \(profile, create kv cache, warmup model\) took [\d.]+ s",
        r"Starting vLLM server on unix:/",
        r"INFO: +Application startup complete\.",
    ],
)
def test_log_lines_of_a_start(engine: RunningEngine, line: str) -> None:
    assert re.search(line, engine.log)


def test_version_and_flags(executable: Path, tmp_path: Path) -> None:
    """What the suite asks an engine before it starts one."""
    facts = read_vllm_facts(executable, tmp_path)
    listed = (RECORDINGS.parent / "vllm_flags.txt").read_text().split()
    assert re.match(r"\d+\.\d+", facts.version)
    if facts.version.startswith("0.32."):
        assert facts.flags == frozenset(listed)
    assert {"--uds", "--max-model-len", "--shutdown-timeout", "--kv-cache-memory-bytes"} <= facts.flags


def test_sigterm_ends_every_process(engine: RunningEngine) -> None:
    """The last test of this file: it ends the engine."""
    assert len(engine.session_pids()) >= 2
    engine.process.send_signal(signal.SIGTERM)
    assert engine.wait_gone() == 0
    assert "Application shutdown complete." in engine.log


@pytest.mark.parametrize("exchange", recordings("without_dev_mode"), ids=lambda exchange: exchange["name"])
def test_fake_without_dev_mode(plain_fake: RunningEngine, exchange: dict[str, Any]) -> None:
    check(exchange, ask(plain_fake, exchange))


@pytest.fixture(scope="module")
def plain_fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """Started as people start vLLM by hand; the same is recorded of the real one."""
    executable = make_fake_vllm(tmp_path_factory.mktemp("plain"))
    with started(executable, MODEL, flags=("--max-model-len", "1024"), api_key=KEY) as running:
        wait_healthy(running)
        yield running
