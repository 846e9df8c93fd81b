"""One engine's HTTP API, over its unix socket or over TCP: health, models, gauges, sleep, adapters, inference.

An engine is another program: its answers are bounded in size, its redirects are not followed, proxies from the
environment do not get between, and what it says about an error reaches the caller in its own words, without the key.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx2

from vllm_mcp_protocol.errors import EngineRequestFailed, EngineTimeout, EngineUnreachable
from vllm_mcp_protocol.http1 import BadHttp
from vllm_mcp_protocol.metrics.exposition import parse_prometheus
from vllm_mcp_protocol.model import Endpoint, JsonObject
from vllm_mcp_protocol.units import MIB, format_seconds
from vllm_mcp_protocol.wire import CutOff, Unreachable, Wire

CONTROL_TIMEOUT_S = 10.0
"""Health, models and gauges answer in milliseconds, under full load in tenths of a second."""

MAX_CONTROL_BYTES = 4 * MIB
"""/metrics of an idle 0.32 has 60 KB, busy 100 KB for each model."""

MAX_ANSWER_BYTES = 64 * MIB
"""An answer with log probabilities of every token of a long completion has tens of megabytes."""

MAX_EVENT_BYTES = 8 * MIB
_CONTROLS_AT_ONCE = 8
MAX_WORDS_CHARS = 600

_RUNNING = frozenset({"vllm:num_requests_running"})
_WAITING = frozenset({"vllm:num_requests_waiting", "vllm:num_requests_swapped"})
"""Gauges across versions; 0.32 also splits waiting by reason, which is not added again."""


_WORK = frozenset({"vllm:request_success_total", "vllm:generation_tokens_total", "vllm:prompt_tokens_total"})
"""Counters that move with every request, however short."""


class Use(NamedTuple):
    """What an engine has to do, by its own count."""

    running: int
    waiting: int
    work_done: int
    """Finished requests and tokens since its start, added up: when it moves, the engine is in use."""

    @property
    def in_flight(self) -> int:
        return self.running + self.waiting


class EngineHttp:
    """A client of one engine; an async context manager.

    What is only read (health, models, metrics, …) is asked over a `Wire`, because a hub asks it of every engine all the
    time; it takes at most `CONTROL_TIMEOUT_S`. All else goes through httpx2: `timeout_s` bounds each wait for the
    engine to send something (for a stream: between two chunks), and `retries` repeats a connection that was not made
    (at once, after 0.5 s, 1 s, 2 s, …), never a request that may have reached the engine.
    Every method raises EngineUnreachable, EngineTimeout, or EngineRequestFailed with `status` in its details.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float = 600.0, *, retries: int = 0) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._retries = retries
        self._key = endpoint.api_key.get_secret_value() if endpoint.api_key is not None else ""
        self._headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._wire = Wire(endpoint.url, uds=endpoint.uds, limit=_CONTROLS_AT_ONCE, headers=self._headers)

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        """Made when it is first needed, which takes half a millisecond; many engines are only looked at."""
        endpoint, timeout_s = self._endpoint, self._timeout_s
        return httpx2.AsyncClient(
            base_url=endpoint.url,
            # Loading the CA certificates takes 50 ms, and only https needs them.
            transport=httpx2.AsyncHTTPTransport(
                uds=endpoint.uds, trust_env=False, retries=self._retries, verify=endpoint.url.startswith("https:")
            ),
            headers={"Accept-Encoding": "identity"} | self._headers,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONTROL_TIMEOUT_S)),
            follow_redirects=False,
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"EngineHttp({self._endpoint.shown})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()
        if "_client" in self.__dict__:
            await self._client.aclose()

    async def healthy(self) -> bool:
        """Does the engine serve? False also when nobody listens yet, or it does not answer in time."""
        try:
            await self._control("/health")
        except EngineRequestFailed:
            return False
        return True

    async def version(self) -> str:
        """vLLM's version."""
        return str(_object(await self._control("/version")).get("version", ""))

    async def models(self) -> list[JsonObject]:
        """What it serves: `id`, `root`, `max_model_len`; adapters have a `parent`."""
        data = _object(await self._control("/v1/models")).get("data")
        return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []

    async def metrics(self) -> bytes:
        """What it says at /metrics, in Prometheus' text form; at most `MAX_CONTROL_BYTES`."""
        return await self._control("/metrics")

    async def use(self) -> Use:
        """How much it has to do, over all models and replicas."""
        return _use_in(await self.metrics())

    async def is_sleeping(self) -> bool:
        """What the engine itself says; its dev routes must be on."""
        return bool(_object(await self._control("/is_sleeping")).get("is_sleeping"))

    async def sleep(self, level: int = 1) -> None:
        """Free the GPU: level 1 keeps the weights in host memory, level 2 drops them. An answer proves nothing."""
        await self._ask("POST", "/sleep", params={"level": str(level)}, limit_bytes=MAX_CONTROL_BYTES)

    async def wake(self) -> None:
        """Take the GPU again."""
        await self._ask("POST", "/wake_up", limit_bytes=MAX_CONTROL_BYTES)

    async def load_lora(self, name: str, path: str) -> None:
        """Serve the adapter in folder `path` as model `name`."""
        body = {"lora_name": name, "lora_path": path}
        await self._ask("POST", "/v1/load_lora_adapter", body=body, limit_bytes=MAX_CONTROL_BYTES)

    async def unload_lora(self, name: str) -> None:
        """Serve `name` no longer."""
        await self._ask("POST", "/v1/unload_lora_adapter", body={"lora_name": name}, limit_bytes=MAX_CONTROL_BYTES)

    async def chat(self, payload: Mapping[str, Any]) -> JsonObject:
        """One whole answer of /v1/chat/completions."""
        return _object(await self._ask("POST", "/v1/chat/completions", body={**payload, "stream": False}))

    async def completion(self, payload: Mapping[str, Any]) -> JsonObject:
        """One whole answer of /v1/completions."""
        return _object(await self._ask("POST", "/v1/completions", body={**payload, "stream": False}))

    def stream_chat(self, payload: Mapping[str, Any]) -> AsyncGenerator[JsonObject]:
        """The chunks of a streamed chat as they come. Closing the iterator cancels the request in the engine."""
        return self._stream("/v1/chat/completions", payload)

    def stream_completion(self, payload: Mapping[str, Any]) -> AsyncGenerator[JsonObject]:
        """The chunks of a streamed completion, like `stream_chat`."""
        return self._stream("/v1/completions", payload)

    async def _stream(self, path: str, payload: Mapping[str, Any]) -> AsyncGenerator[JsonObject]:
        async with self._answer("POST", path, body={**payload, "stream": True}) as response:
            async for data in _events(response):
                if data == "[DONE]":
                    return
                yield self._chunk(data)

    def _chunk(self, data: str) -> JsonObject:
        chunk = _object(data.encode())
        if "error" in chunk:
            raise self._failed(200, _words(chunk))
        return chunk

    async def _control(self, path: str) -> bytes:
        """GET what is read only."""
        limit_s = min(self._timeout_s, CONTROL_TIMEOUT_S)
        try:
            async with asyncio.timeout(limit_s), self._wire.ask("GET", path) as answer:
                body = await _whole(answer.parts(), MAX_CONTROL_BYTES)
        except TimeoutError as error:
            raise self._silent("GET", path, limit_s) from error
        except (Unreachable, CutOff, BadHttp) as error:
            raise self._unreachable("GET", path, error) from error
        if answer.head.status // 100 != 2:
            raise self._refused(answer.head.status, answer.head.headers.get("location"), answer.head.reason, body)
        return body

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        limit_bytes: int = MAX_ANSWER_BYTES,
    ) -> bytes:
        async with self._answer(method, path, body=body, params=params) as response:
            return await _whole(response.aiter_bytes(), limit_bytes)

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """A response with a good status, its body still to be read."""
        try:
            async with self._client.stream(method, path, json=body, params=params) as response:
                if response.status_code // 100 != 2:
                    words = await _whole(response.aiter_bytes(), MAX_CONTROL_BYTES)
                    location = response.headers.get("location")
                    raise self._refused(response.status_code, location, response.reason_phrase, words)
                yield response
        except httpx2.TimeoutException as error:
            raise self._silent(method, path, self._timeout_s) from error
        except (httpx2.RequestError, OSError) as error:
            raise self._unreachable(method, path, error) from error

    def _silent(self, method: str, path: str, limit_s: float) -> EngineTimeout:
        return EngineTimeout(
            f"The engine at {self._endpoint.shown} sent nothing for {format_seconds(limit_s)} ({method} {path}).",
            suggestion="get-model-info shows how busy it is; a larger VLLM_TIMEOUT waits longer",
            timeout_s=limit_s,
        )

    def _unreachable(self, method: str, path: str, error: Exception) -> EngineUnreachable:
        return EngineUnreachable(
            f"The engine at {self._endpoint.shown} cannot be reached: {_reason(error)} ({method} {path}).",
            suggestion="list-models shows whether it runs; get-model-logs shows why not",
        )

    def _refused(self, status: int, location: str | None, reason: str, body: bytes) -> EngineRequestFailed:
        if status // 100 == 3 and location is not None:
            return self._failed(status, f"it redirects to {location[:200]}, which is never followed")
        try:
            words = _words(_object(body))
        except EngineRequestFailed:
            words = body.decode(errors="replace").strip()
        return self._failed(status, words or reason)

    def _failed(self, status: int, words: str) -> EngineRequestFailed:
        shown = words.replace(self._key, "(hidden)") if self._key else words
        shown = shown if len(shown) <= MAX_WORDS_CHARS else shown[: MAX_WORDS_CHARS - 1] + "…"
        return EngineRequestFailed(f"The engine answered {status}: {shown}", status=status, words=shown)


async def _whole(parts: AsyncIterable[bytes], limit_bytes: int) -> bytes:
    content, size = [], 0
    async for part in parts:
        size += len(part)
        if size > limit_bytes:
            raise EngineRequestFailed(
                f"The engine's answer is larger than {limit_bytes // MIB} MiB.", limit_bytes=limit_bytes
            )
        content.append(part)
    return b"".join(content)


async def _events(response: httpx2.Response) -> AsyncIterator[str]:
    """The data of server-sent events; comments and other fields are skipped."""
    data: list[str] = []
    async for line in _lines(response):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


async def _lines(response: httpx2.Response) -> AsyncIterator[str]:
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
        if len(rest) > MAX_EVENT_BYTES:
            raise EngineRequestFailed(f"One event of the engine's stream is larger than {MAX_EVENT_BYTES // MIB} MiB.")
    if rest:
        yield rest.decode(errors="replace").rstrip("\r")


def _object(body: bytes) -> JsonObject:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        shown = body[:80].decode(errors="replace")
        raise EngineRequestFailed(f"The engine's answer is not a JSON object: {shown!r}.", answer=shown)
    return value


def _words(answer: JsonObject) -> str:
    """vLLM's message in its error object; FastAPI's own errors have `detail`."""
    error = answer.get("error", answer)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else json.dumps(error)


def _use_in(metrics: bytes) -> Use:
    """Lines about anything else may be malformed; one of these must not be taken for an idle engine."""
    try:
        samples = list(parse_prometheus(metrics, wanted=_RUNNING | _WAITING | _WORK).samples())
        running, waiting, work = (
            sum(int(sample.value) for sample in samples if sample.name in names)
            for names in (_RUNNING, _WAITING, _WORK)
        )
    except (ValueError, OverflowError) as error:
        raise EngineRequestFailed(f"The engine's metrics hold a line that is none: {error}.") from error
    return Use(running, waiting, work)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
