"""benchmark-model and benchmark-providers: through a real client, against fake engines of a real hub and beside it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from tests.engine.engines import free_port, started, wait_healthy
from tests.fakes.fakes import make_fake_vllm
from tests.hubs import HubSite
from tests.monitor_desk import QUICK, MonitorDesk
from vllm_mcp_protocol.errors import BadInput
from vllm_performance_monitor.core.benchmarks.providers import Provider, parse_provider

pytestmark = pytest.mark.anyio
SMALL = {"input_tokens": 20, "output_tokens": 4}


@pytest.fixture
def site() -> Iterator[HubSite]:
    made = HubSite(gpus=2)
    yield made
    made.close()


@pytest.fixture
def new_desk(site: HubSite, tmp_path: Path) -> Callable[..., MonitorDesk]:
    return lambda mode="auto": MonitorDesk(site, mode, tmp_path)


@pytest.fixture
async def desk(new_desk: Callable[..., MonitorDesk]) -> AsyncIterator[MonitorDesk]:
    async with new_desk().open(variables=QUICK) as opened:
        yield opened


async def test_a_model_is_measured_kept_and_held_beside_the_run_before(desk: MonitorDesk) -> None:
    await desk.loaded()
    asked = {"model_id": "org/small", "concurrency": [1, 4], "requests": 40, **SMALL}
    first = await desk.call("benchmark-model", **asked)
    assert first["status"] == "done"
    assert [(row["load"], row["requests"], row["failed"]) for row in first["rows"]] == [("1", 40, 0), ("4", 40, 0)]
    assert all(row["ttft_ms"]["p50"] <= row["e2e_ms"]["p50"] for row in first["rows"])
    assert first["beside_earlier"] == []
    assert max(map(len, first["table"])) <= 78
    assert json.loads(Path(first["path"]).read_text())["id"] == first["benchmark_id"]
    again = await desk.call("benchmark-model", **asked)
    assert again["beside_earlier"][0] == f"org/small, load 1, beside {first['benchmark_id']}:"
    assert await desk.call("benchmark-model", benchmark_id=first["benchmark_id"]) == first
    assert any("load 4" in (words or "") for _, _, words in desk.progress)


async def test_a_kept_one_is_shown_by_another_server(desk: MonitorDesk, new_desk: Callable[..., MonitorDesk]) -> None:
    await desk.loaded()
    done = await desk.call("benchmark-model", model_id="org/small", concurrency=[1], requests=5, **SMALL)
    async with new_desk().open() as other:
        assert (await other.call("benchmark-model", benchmark_id=done["benchmark_id"]))["rows"] == done["rows"]


async def test_a_long_one_is_followed_and_ended(desk: MonitorDesk) -> None:
    await desk.loaded()
    long = {"model_id": "org/small", "concurrency": [1], "requests": 10_000, "max_seconds": 300, **SMALL}
    begun = await desk.call("benchmark-model", **long, wait_seconds=0)
    assert (begun["status"], begun["rows"]) == ("running", [])
    busy = await desk.fail("benchmark-model", "MODEL_BUSY", **long)
    assert begun["benchmark_id"] in busy["message"]
    ended = await desk.call("benchmark-model", benchmark_id=begun["benchmark_id"], cancel=True)
    assert ended["status"] == "cancelled"


async def test_a_call_that_is_cancelled_ends_its_benchmark(desk: MonitorDesk) -> None:
    await desk.loaded()
    long = {"model_id": "org/small", "concurrency": [1], "requests": 10_000, "max_seconds": 300, **SMALL}
    with anyio.move_on_after(1):
        await desk.call("benchmark-model", **long)
    with anyio.fail_after(60):
        while True:  # the next one may begin as soon as the first has let go
            failed, answer = await desk.answer("benchmark-model", model_id="org/small", concurrency=[1], requests=2)
            if not failed:
                break
            assert answer["error"]["code"] == "MODEL_BUSY"
            await asyncio.sleep(0.1)


async def test_a_model_that_is_not_loaded(desk: MonitorDesk) -> None:
    await desk.fail("benchmark-model", "MODEL_NOT_LOADED", model_id="fake/none", requests=1)
    await desk.fail("benchmark-model", "STATE_NOT_FOUND", benchmark_id="b-20260101T000000-abcdef")
    await desk.fail("benchmark-model", "STATE_NOT_FOUND", benchmark_id="../../etc/passwd")


async def test_servers_side_by_side(desk: MonitorDesk, tmp_path: Path) -> None:
    await desk.loaded()
    port = free_port()
    with started(make_fake_vllm(tmp_path), "other", port=port) as engine:
        wait_healthy(engine)
        done = await desk.call(
            "benchmark-providers",
            providers=[f"http://127.0.0.1:{port}/v1"],
            model_ids=["org/small"],
            test_prompts=["one", "two"],
            requests=6,
            output_tokens=3,
        )
    assert [(row["model"], row["requests"], row["failed"]) for row in done["rows"]] == [
        ("org/small", 6, 0),
        ("other", 6, 0),
    ]
    assert done["workload"] == "2 given texts, up to 3 out"
    assert any(line.endswith("every request succeeded.") for line in done["table"])


async def test_who_cannot_be_measured(desk: MonitorDesk) -> None:
    key = await desk.fail("benchmark-providers", "INVALID_ARGUMENT", providers=["openai/gpt-x"])
    assert "OPENAI_API_KEY is not set" in key["message"]
    await desk.fail("benchmark-providers", "INVALID_ARGUMENT")
    many = {"providers": ["ollama/a"] * 8, "concurrency": [1, 2, 3]}
    assert "24 runs" in (await desk.fail("benchmark-providers", "INVALID_ARGUMENT", **many))["message"]


def test_how_providers_are_spelled() -> None:
    assert parse_provider("ollama/qwen3:8b") == Provider("ollama", "http://127.0.0.1:11434", "qwen3:8b")
    assert parse_provider("vllm").model is None
    assert parse_provider("vllm/Qwen/Qwen3-0.6B").model == "Qwen/Qwen3-0.6B"
    assert parse_provider("anthropic/claude-x").api == "anthropic"
    assert parse_provider("http://[::1]:9/v1/#m") == Provider("::1:9", "http://[::1]:9", "m")
    assert parse_provider("https://far.example/v1#m", ("https://far.example",)).url == "https://far.example"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nobody/x", "no provider"),
        ("openai", "many models"),
        ("ftp://127.0.0.1/", "no http address"),
        ("http://:80#m", "no http address"),
        ("http://user:secret@127.0.0.1:1", "user, password"),
        ("http://127.0.0.1:1?key=secret", "user, password"),
        ("http://127.0.0.1:99999", "Port"),
        ("http://10.0.0.1:8000#m", "another machine"),
        ("http://127.0.0.1.example:1", "another machine"),
        ("https://api.openai.com#m", "another machine"),
    ],
)
def test_a_provider_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        parse_provider(text)
    assert "secret" not in str(caught.value)
    assert caught.value.info.suggestion
