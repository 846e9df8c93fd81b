"""The client of one engine, against a server on a real socket that answers well, badly, slowly, and without end."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vllm_mcp_protocol.engine_http import MAX_CONTROL_BYTES, MAX_EVENT_BYTES, EngineHttp
from vllm_mcp_protocol.errors import EngineRequestFailed, EngineTimeout, EngineUnreachable
from vllm_mcp_protocol.model import Endpoint

pytestmark = pytest.mark.anyio

KEY = "k3y-of-the-engine"


class Engine:
    """Answers each path with prepared bytes; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.closed = asyncio.Event()
        self.connections = 0
        self.closes = False
        """After each answer."""

    def set(self, path: str, body: Any, status: int = 200, headers: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n{headers}\r\n"
        self.answers[path] = head.encode() + data

    def stream(self, path: str, *parts: bytes, end: bool = True) -> None:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self.answers[path] = head + chunks + (b"0\r\n\r\n" if end else b"")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing() and (request := await reader.readline()) != b"":
                path = request.split()[1].decode()
                headers = {}
                while (line := (await reader.readline()).decode().strip()) != "":
                    name, _, value = line.partition(": ")
                    headers[name.lower()] = value
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.asked.append((path, headers, json.loads(body) if body else None))
                writer.write(self.answers.get(path.partition("?")[0], b""))
                await writer.drain()
                if self.closes:
                    writer.close()
        except ConnectionError:
            pass
        finally:
            self.closed.set()
            writer.close()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine()
    server = await asyncio.start_unix_server(engine.serve, path=str(tmp_path / "api.sock"))
    yield engine
    server.close()


@pytest.fixture
async def http(tmp_path: Path, engine: Engine) -> AsyncIterator[EngineHttp]:
    endpoint = Endpoint(
        url="http://localhost", uds=str(tmp_path / "api.sock"), api_key=SecretStr(KEY), served_name="org/m"
    )
    async with EngineHttp(endpoint, timeout_s=5) as client:
        yield client


async def test_health_is_a_yes_or_a_no(http: EngineHttp, engine: Engine) -> None:
    engine.set("/health", b"")
    assert await http.healthy()
    engine.set("/health", b"", status=503)
    assert not await http.healthy()


async def test_nobody_listens(tmp_path: Path) -> None:
    endpoint = Endpoint(url="http://localhost", uds=str(tmp_path / "none.sock"), served_name="m")
    async with EngineHttp(endpoint) as http:
        assert not await http.healthy()
        with pytest.raises(EngineUnreachable, match="cannot be reached") as caught:
            await http.version()
    assert "none.sock" in str(caught.value)


async def test_a_connection_that_was_not_made_is_tried_again(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "httpcore2.connection")
    late = tmp_path / "late.sock"
    engine.set("/v1/chat/completions", {"choices": []})
    async with EngineHttp(Endpoint(url="http://localhost", uds=str(late), served_name="m"), retries=3) as client:
        asking = asyncio.create_task(client.chat({"messages": []}))
        async with asyncio.timeout(10):
            while "connect_unix_socket.failed" not in caplog.text:
                await asyncio.sleep(0.001)
        (tmp_path / "api.sock").rename(late)
        assert await asking == {"choices": []}


async def test_a_request_that_may_have_arrived_is_not_repeated(tmp_path: Path, engine: Engine) -> None:
    endpoint = Endpoint(url="http://localhost", uds=str(tmp_path / "api.sock"), served_name="m")
    engine.answers["/v1/chat/completions"] = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"
    async with EngineHttp(endpoint, timeout_s=0.2, retries=3) as client:
        with pytest.raises(EngineTimeout):
            await client.chat({"messages": []})
    assert len(engine.asked) == 1


async def test_one_connection_serves_many_looks_and_a_closed_one_is_made_anew(http: EngineHttp, engine: Engine) -> None:
    engine.set("/metrics", b"ok")
    assert [await http.metrics() for _ in range(3)] == [b"ok"] * 3
    assert engine.connections == 1
    assert all(headers["authorization"] == f"Bearer {KEY}" for _, headers, _ in engine.asked)
    engine.closes = True
    assert [await http.metrics() for _ in range(3)] == [b"ok"] * 3
    assert engine.connections == 3, "the first one served once more"
    engine.stream("/metrics", b"o", b"k")
    assert await http.metrics() == b"ok"


async def test_a_look_that_is_given_up_leaves_no_half_answer(http: EngineHttp, engine: Engine) -> None:
    engine.answers["/metrics"] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await http.metrics()
    engine.set("/metrics", b"ok")
    assert await http.metrics() == b"ok"
    assert engine.connections == 2


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"])
async def test_a_stranger_on_the_socket(http: EngineHttp, engine: Engine, answer: bytes) -> None:
    engine.answers["/metrics"] = answer
    with pytest.raises(EngineUnreachable, match="cannot be reached"):
        await http.metrics()


async def test_version_and_models(http: EngineHttp, engine: Engine) -> None:
    engine.set("/version", {"version": "0.32.0"})
    engine.set(
        "/v1/models",
        {"data": [{"id": "lora", "parent": "org/m"}, {"id": "org/m", "parent": None}]},
    )
    assert await http.version() == "0.32.0"
    assert [model["id"] for model in await http.models()] == ["lora", "org/m"]
    assert engine.asked[0][1]["authorization"] == f"Bearer {KEY}"


METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b} c"} 2.0
vllm:num_requests_running{engine="1",model_name="a b} c"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0 1795222271
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 4.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
"""


async def test_gauges_are_summed_over_replicas(http: EngineHttp, engine: Engine) -> None:
    engine.set("/metrics", METRICS.encode())
    assert (await http.use())[:2] == (3, 4)
    engine.set("/metrics", b"vllm:num_requests_running 1\nvllm:num_requests_swapped 2\n")
    assert (await http.use())[:2] == (1, 2)
    engine.set("/metrics", b"")
    assert await http.use() == (0, 0, 0)
    engine.set("/metrics", b"vllm:num_requests_running 1\nmine: broken\n\xff\nmine 1 2 3\nvllm:prompt_tokens_total 5\n")
    assert await http.use() == (1, 0, 5)  # somebody else's mistakes


@pytest.mark.parametrize(
    "line", ["vllm:num_requests_running", "vllm:num_requests_running NaN", 'vllm:num_requests_running{a="b"} x']
)
async def test_metrics_that_are_none(http: EngineHttp, engine: Engine, line: str) -> None:
    engine.set("/metrics", line.encode())
    with pytest.raises(EngineRequestFailed):
        await http.use()


async def test_sleep_wake_and_adapters(http: EngineHttp, engine: Engine) -> None:
    engine.set("/sleep", {"status": "sleeping"})
    engine.set("/wake_up", {"status": "awake"})
    engine.set("/is_sleeping", {"is_sleeping": True})
    engine.set("/v1/load_lora_adapter", b"Success: LoRA adapter 'a' added successfully.")
    engine.set("/v1/unload_lora_adapter", b"Success")
    await http.sleep(2)
    assert await http.is_sleeping()
    await http.wake()
    await http.load_lora("a", "/adapters/a")
    await http.unload_lora("a")
    assert [(path, body) for path, _, body in engine.asked] == [
        ("/sleep?level=2", None),
        ("/is_sleeping", None),
        ("/wake_up", None),
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/adapters/a"}),
        ("/v1/unload_lora_adapter", {"lora_name": "a"}),
    ]


async def test_chat_and_completion(http: EngineHttp, engine: Engine) -> None:
    engine.set("/v1/chat/completions", {"choices": [1]})
    engine.set("/v1/completions", {"choices": [2]})
    assert await http.chat({"model": "org/m", "stream": True}) == {"choices": [1]}
    assert await http.completion({"model": "org/m"}) == {"choices": [2]}
    assert engine.asked[0][2] == {"model": "org/m", "stream": False}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}},
            "does not exist",
        ),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": "plain"}, "plain"),
        (b"not json at all", "not json at all"),
        (b"", "404"),
        ({"error": {"message": f"key {KEY} is wrong " + "x" * 5000}}, "(hidden)"),
    ],
)
async def test_the_engines_words_reach_the_caller(http: EngineHttp, engine: Engine, body: Any, words: str) -> None:
    engine.set("/v1/chat/completions", body, status=404)
    with pytest.raises(EngineRequestFailed) as caught:
        await http.chat({})
    info = caught.value.info
    assert words in info.message
    assert info.details["status"] == 404
    assert KEY not in info.model_dump_json()
    assert len(info.message) < 700


async def test_the_key_is_not_shown(http: EngineHttp) -> None:
    assert KEY not in repr(http) + str(vars(http).get("_endpoint"))


async def test_redirects_are_not_followed(http: EngineHttp, engine: Engine) -> None:
    engine.set("/version", b"", status=302, headers="location: http://169.254.169.254/\r\n")
    with pytest.raises(EngineRequestFailed, match="never followed"):
        await http.version()
    assert len(engine.asked) == 1


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b"[" * 100_000])
async def test_answers_that_are_no_object(http: EngineHttp, engine: Engine, body: bytes) -> None:
    engine.set("/version", body)
    with pytest.raises(EngineRequestFailed, match="not a JSON object"):
        await http.version()


async def test_answers_without_end_are_cut_off(http: EngineHttp, engine: Engine) -> None:
    engine.set("/metrics", b"x" * (MAX_CONTROL_BYTES + 1))
    with pytest.raises(EngineRequestFailed, match="larger than 4 MiB"):
        await http.use()


async def test_an_engine_that_says_nothing(tmp_path: Path, engine: Engine) -> None:
    endpoint = Endpoint(url="http://localhost", uds=str(tmp_path / "api.sock"), served_name="m")
    async with EngineHttp(endpoint, timeout_s=0.1) as http:
        assert not await http.healthy()
        with pytest.raises(EngineTimeout, match=r"sent nothing for 0\.1 s") as caught:
            await http.chat({})
    assert caught.value.info.details["timeout_s"] == 0.1


CHUNK = b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n'


def contents(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)


@pytest.mark.parametrize(
    "cut", [lambda data: [data], lambda data: [data[i : i + 7] for i in range(0, len(data), 7)]], ids=["whole", "cut"]
)
async def test_a_stream_however_it_is_cut(
    http: EngineHttp, engine: Engine, cut: Callable[[bytes], list[bytes]]
) -> None:
    data = (
        b": keep-alive\n\n"
        + CHUNK % b"Hel"
        + b"event: x\r\n"
        + CHUNK % "lö".encode()
        + b"data: [DONE]\n\n"
        + CHUNK % b"!"
    )
    engine.stream("/v1/chat/completions", *cut(data))
    assert contents([chunk async for chunk in http.stream_chat({})]) == "Hellö"
    assert engine.asked[0][2] == {"stream": True}


async def test_a_stream_of_completions(http: EngineHttp, engine: Engine) -> None:
    engine.stream("/v1/completions", b'data: {"a": 1}\n\ndata: {"a":\ndata: 2}')
    assert [chunk["a"] async for chunk in http.stream_completion({})] == [1, 2]


async def test_an_error_within_a_stream(http: EngineHttp, engine: Engine) -> None:
    engine.stream("/v1/chat/completions", CHUNK % b"x", b'data: {"error": {"message": "engine died"}}\n\n')
    with pytest.raises(EngineRequestFailed, match="engine died"):
        [chunk async for chunk in http.stream_chat({})]


async def test_an_event_without_end(http: EngineHttp, engine: Engine) -> None:
    engine.stream("/v1/chat/completions", b"data: " + b"x" * MAX_EVENT_BYTES)
    with pytest.raises(EngineRequestFailed, match="larger than 8 MiB"):
        [chunk async for chunk in http.stream_chat({})]


async def test_leaving_a_stream_closes_the_connection(http: EngineHttp, engine: Engine) -> None:
    engine.stream("/v1/chat/completions", CHUNK % b"x", end=False)
    async with aclosing(http.stream_chat({})) as chunks:
        assert contents([await anext(chunks)]) == "x"
    async with asyncio.timeout(10):
        await engine.closed.wait()
