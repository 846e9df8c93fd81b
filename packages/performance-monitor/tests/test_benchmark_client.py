"""The streaming client against a server that sends what a test says: times, counts, and every cause of failure."""

import asyncio
from typing import Any

import anyio
import pytest

from tests.fakes.scripted_server import STREAM, Request, Script, chunked, piece, scripted, sse, usage
from vllm_mcp_protocol.model import Endpoint
from vllm_performance_monitor.benchmarking.client import Client, Limits
from vllm_performance_monitor.core.benchmarks.dialects import Api
from vllm_performance_monitor.core.benchmarks.outcomes import Failure, Outcome
from vllm_performance_monitor.core.benchmarks.workload import Question

pytestmark = pytest.mark.anyio
HELLO = Question(3, "hello", 8)
KEY = "a-key-that-nobody-may-see"
QUICK = Limits(connect_s=1.0, first_s=0.2, gap_s=0.2, whole_s=5.0)


async def asked(script: Script, *, api: Api = "chat", limits: Limits | None = None, key: str | None = None) -> Outcome:
    async with scripted(script) as site:
        client = Client(site.endpoint(key), api=api, at_once=1, limits=limits)
        try:
            return await client.ask(HELLO)
        finally:
            await client.aclose()


async def test_an_answer_is_timed_and_counted() -> None:
    gate = asyncio.Event()

    async def script(request: Request) -> None:
        await request.send(STREAM + chunked(sse(piece(""))) + chunked(b": keep-alive\n\n"))
        await request.send(chunked(sse(piece("a"))))
        await gate.wait()
        await request.send(chunked(sse(piece("b"))) + chunked(sse(piece("", "stop"))) + chunked(sse(usage(7, 5))))
        await request.send(chunked(sse("[DONE]")) + b"0\r\n\r\n")

    async with scripted(script) as site, anyio.create_task_group() as group:
        client = Client(site.endpoint(), at_once=1)
        group.start_soon(_set_later, gate)
        outcome = await client.ask(HELLO)
        await client.aclose()
    assert outcome.failure is None, outcome.words
    assert (outcome.number, outcome.input_tokens, outcome.output_tokens, outcome.counted_by) == (3, 7, 5, "usage")
    assert outcome.first_s is not None
    assert outcome.start_s < outcome.first_s < outcome.end_s
    assert len(outcome.gaps_s) == 1
    assert outcome.gaps_s[0] >= 0.05
    assert outcome.tpot_s == pytest.approx((outcome.end_s - outcome.first_s) / 4)


async def _set_later(gate: asyncio.Event) -> None:
    await asyncio.sleep(0.06)
    gate.set()


async def test_without_usage_pieces_are_counted_and_said_so() -> None:
    outcome = await asked(lambda request: request.events(piece("a"), piece("b"), piece("c", "length")))
    assert (outcome.output_tokens, outcome.counted_by, outcome.input_tokens) == (3, "pieces", None)


async def test_every_byte_alone_is_the_same_answer() -> None:
    async def script(request: Request) -> None:
        wire = b"HTTP/1.1 100 Continue\r\n\r\n" + STREAM
        wire += b"".join(chunked(sse(event)) for event in (piece("ü"), piece("b", "stop"), usage(2, 2), "[DONE]"))
        for byte in wire + b"0\r\n\r\n":
            await request.send(bytes([byte]))
            await asyncio.sleep(0)

    outcome = await asked(script)
    assert (outcome.failure, outcome.output_tokens, len(outcome.gaps_s)) == (None, 2, 1)


async def test_connections_are_kept_and_limited() -> None:
    async def script(request: Request) -> None:
        await asyncio.sleep(0.005)
        await request.events(piece("a", "stop"), usage(1, 1))

    async with scripted(script) as site:
        client = Client(site.endpoint(), at_once=3)
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(client.ask, HELLO)
        assert site.most_open == site.connections == client.open_connections == 3
        assert len(site.requests) == 30
        await client.aclose()
        assert client.open_connections == 0


async def test_a_connection_closed_between_requests_is_replaced() -> None:
    async def script(request: Request) -> None:
        await request.events(piece("a", "stop"))
        raise ConnectionError

    async with scripted(script) as site:
        client = Client(site.endpoint(), at_once=1)
        outcomes = [await client.ask(HELLO) for _ in range(3)]
        await client.aclose()
    assert [outcome.failure for outcome in outcomes] == [None] * 3


async def test_the_key_is_sent_and_never_shown() -> None:
    seen: list[Request] = []

    async def script(request: Request) -> None:
        seen.append(request)
        await request.refuse(401, f"the key {KEY} is wrong, Bearer {KEY}")

    apis: tuple[Api, ...] = ("chat", "anthropic")
    for api in apis:
        outcome = await asked(script, api=api, key=KEY)
        assert outcome.failure is Failure.UNAUTHORIZED
        assert KEY not in outcome.words
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert (seen[1].headers["x-api-key"], seen[1].path) == (KEY, "/v1/messages")
    assert "authorization" not in seen[1].headers


async def test_a_provider_with_a_path_is_asked_there() -> None:
    seen: list[str] = []

    async def script(request: Request) -> None:
        seen.append(request.path)
        await request.events(piece("a", "stop"))

    async with scripted(script) as site:
        for path in ("", "/", "/v1", "/api/v1/"):
            client = Client(Endpoint(url=f"http://127.0.0.1:{site.port}{path}", served_name="m"), at_once=1)
            await client.ask(HELLO)
            await client.aclose()
    assert seen == ["/v1/chat/completions"] * 3 + ["/api/v1/chat/completions"]


async def test_what_a_server_does_not_know_is_learned_once() -> None:
    async def script(request: Request) -> None:
        for name, words in (
            ("ignore_eos", "Unrecognized request argument supplied: ignore_eos"),
            ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        ):
            if name in request.body:
                return await request.refuse(400, words)
        await request.events(piece("a", "stop"))

    async with scripted(script) as site:
        client = Client(site.endpoint(), at_once=1)
        first, second = await client.ask(HELLO), await client.ask(HELLO)
        await client.aclose()
    assert (first.failure, second.failure) == (None, None)
    assert client.without == {"ignore_eos", "max_tokens"}
    assert len(site.requests) == 4
    assert site.requests[-1].body["max_completion_tokens"] == HELLO.output_tokens


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, Failure.REJECTED),
        (403, Failure.UNAUTHORIZED),
        (404, Failure.NOT_FOUND),
        (429, Failure.RATE_LIMITED),
        (500, Failure.SERVER_ERROR),
        (503, Failure.OVERLOADED),
        (529, Failure.OVERLOADED),
        (302, Failure.BAD_ANSWER),
    ],
)
async def test_a_status_has_its_cause(status: int, failure: Failure) -> None:
    outcome = await asked(lambda request: request.refuse(status, "because"))
    assert (outcome.failure, outcome.words) == (failure, "because")


def raw(*parts: bytes, hold: bool = False, reset: bool = False) -> Script:
    async def script(request: Request) -> None:
        for part in parts:
            await request.send(part)
        if hold:
            await asyncio.sleep(30)
        raise ConnectionError

    return script


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (raw(), Failure.UNREACHABLE),
        (raw(hold=True), Failure.NO_FIRST_TOKEN),
        (raw(STREAM, hold=True), Failure.NO_FIRST_TOKEN),
        (raw(STREAM, chunked(sse(piece(""))), hold=True), Failure.NO_FIRST_TOKEN),
        (raw(STREAM, chunked(sse(piece("a"))), hold=True), Failure.STALLED),
        (raw(STREAM, chunked(sse(piece("a")))), Failure.CUT),
        (raw(STREAM, chunked(sse(piece("a"))), b"1"), Failure.CUT),
        (raw(PLAIN, sse(piece("a"))), Failure.CUT),
        (raw(STREAM, chunked(sse(piece("a", "abort"))), b"0\r\n\r\n"), Failure.ABORTED),
        (raw(STREAM, chunked(sse(piece("", "stop"))), b"0\r\n\r\n"), Failure.EMPTY),
        (raw(STREAM, chunked(sse({"error": {"message": "no", "code": 500}}))), Failure.SERVER_ERROR),
        (raw(STREAM, chunked(b"data: {\n\n")), Failure.BAD_ANSWER),
        (raw(STREAM, b"zz\r\n"), Failure.BAD_ANSWER),
        (raw(b"SSH-2.0-OpenSSH\r\n\r\n"), Failure.BAD_ANSWER),
        (raw(b"HTTP/1.1 200 O"), Failure.BAD_ANSWER),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000), Failure.BAD_ANSWER),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"), Failure.BAD_ANSWER),
    ],
)
async def test_every_way_to_fail_has_its_cause(script: Script, failure: Failure) -> None:
    outcome = await asked(script, limits=QUICK)
    assert outcome.failure is failure, outcome.words
    assert outcome.words
    assert outcome.end_s >= outcome.start_s


async def test_the_whole_answer_has_a_limit() -> None:
    async def script(request: Request) -> None:
        await request.send(STREAM)
        while True:
            await request.send(chunked(sse(piece("a"))))
            await asyncio.sleep(0.02)

    outcome = await asked(script, limits=Limits(first_s=0.2, gap_s=0.2, whole_s=0.3))
    assert outcome.failure is Failure.TOO_LONG


async def test_keep_alives_are_no_progress() -> None:
    async def script(request: Request) -> None:
        await request.send(STREAM + chunked(sse(piece("a"))))
        while True:
            await request.send(chunked(b": ping\n\n"))
            await asyncio.sleep(0.02)

    assert (await asked(script, limits=QUICK)).failure is Failure.STALLED


@pytest.mark.parametrize("end", [b"", b"1"])
async def test_what_comes_after_done_does_not_matter(end: bytes) -> None:
    """A connection that ends badly, or is held open, after all was said."""
    events = chunked(sse(piece("a", "stop"))) + chunked(sse(usage(1, 1))) + chunked(sse("[DONE]"))
    for hold in (False, True):
        outcome = await asked(raw(STREAM, events, end, hold=hold), limits=QUICK)
        assert (outcome.failure, outcome.output_tokens) == (None, 1)


async def test_nobody_listens() -> None:
    client = Client(Endpoint(url="http://127.0.0.1:1", served_name="m"), at_once=1)
    assert (await client.ask(HELLO)).failure is Failure.UNREACHABLE
    here = Client(Endpoint(url="http://localhost", uds="/nowhere/x.sock", served_name="m"), at_once=1)
    assert (await here.ask(HELLO)).failure is Failure.UNREACHABLE


async def test_a_cancelled_question_ends_its_connection() -> None:
    began = anyio.Event()

    async def script(request: Request) -> None:
        await request.send(STREAM + chunked(sse(piece("a"))))
        began.set()
        await asyncio.wait_for(_until_gone(request), 5)

    async def _until_gone(request: Request) -> None:
        while True:
            await request.send(chunked(b": x\n\n"))
            await asyncio.sleep(0.01)

    async with scripted(script) as site:
        client = Client(site.endpoint(), at_once=1)
        async with anyio.create_task_group() as group:
            group.start_soon(client.ask, HELLO)
            await began.wait()
            group.cancel_scope.cancel()
        assert client.open_connections == 0
        with anyio.fail_after(60):
            while site.open_now:
                await anyio.sleep(0.01)


async def test_anthropics_messages_are_read() -> None:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 4, "output_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "b"}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 8}},
        {"type": "message_stop"},
    ]
    outcome = await asked(lambda request: request.events(*events, done=False), api="anthropic")
    assert (outcome.failure, outcome.input_tokens, outcome.output_tokens, len(outcome.gaps_s)) == (None, 4, 8, 1)
