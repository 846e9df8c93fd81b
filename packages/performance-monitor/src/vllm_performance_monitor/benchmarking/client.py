"""Asking one server one question after the other, and timing its answers. Failures are outcomes, not exceptions."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from vllm_mcp_protocol.http1 import BadHttp
from vllm_mcp_protocol.model import Endpoint
from vllm_mcp_protocol.redaction import HIDDEN, redact_text
from vllm_mcp_protocol.wire import Answer, CutOff, Unreachable, Wire
from vllm_performance_monitor.core.benchmarks.dialects import (
    DIALECTS,
    Api,
    Event,
    NotAnAnswer,
    Reading,
    StreamError,
    failure_of_status,
    unknown_field,
    words_of,
)
from vllm_performance_monitor.core.benchmarks.outcomes import Failure, Outcome
from vllm_performance_monitor.core.benchmarks.sse import EventReader, NotAnEventStream
from vllm_performance_monitor.core.benchmarks.workload import Question

MAX_WORDS_CHARS = 300
_REFUSAL_BYTES = 64 * 1024

_FAREWELL_S = 1.0
"""After the server said that nothing more comes: for the end of the body, so that the connection can be used again."""

Read = Callable[[str, Reading], Event]

clock = time.perf_counter
"""The clock of all outcomes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a server is waited for, seconds."""

    connect_s: float = 10.0
    first_s: float = 120.0
    """From the connection to the first bytes of the answer's content; a full queue makes it long."""
    gap_s: float = 60.0
    """Between two parts of an answer."""
    whole_s: float = 600.0


class Client:
    """One server under load; an async context manager would hide that `aclose` drops what is under way.

    `ask` never raises for what the other side does. The key goes into one header and nowhere else.
    """

    def __init__(self, endpoint: Endpoint, *, api: Api = "chat", at_once: int, limits: Limits | None = None) -> None:
        self._key = endpoint.api_key.get_secret_value() if endpoint.api_key is not None else ""
        if not (self._key.isascii() and self._key.isprintable()):
            self._key = ""  # no HTTP header holds it, so no server asks for it
        self._dialect = DIALECTS[api]
        self._model = endpoint.served_name
        self._limits = limits or Limits()
        base = endpoint.url.rstrip("/")
        # `http://host:port` is an engine's address; one with a path is a provider's, given as its guide gives it.
        base += "/v1" if base.count("/") < 3 else ""
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            **self._dialect.headers(self._key),
        }
        self._wire = Wire(base, uds=endpoint.uds, limit=at_once, headers=headers, connect_s=self._limits.connect_s)
        self._without: frozenset[str] = frozenset()

    @property
    def without(self) -> frozenset[str]:
        """Fields that the server was found not to know."""
        return self._without

    @property
    def open_connections(self) -> int:
        return self._wire.open_connections

    async def aclose(self) -> None:
        """Drop every connection; the server stops working on what was under way."""
        await self._wire.aclose()

    async def ask(self, question: Question, due_s: float | None = None) -> Outcome:
        """Send one question and time the answer; asked again without a field that the server does not know."""
        while True:
            due_now_s = clock() if due_s is None else due_s
            asking = _Asking(question, due_now_s, self._limits, self._without)
            body = self._dialect.body(self._model, question, self._without)
            await asking.through(self._wire, self._dialect.path, body, self._dialect.read)
            if asking.failure is Failure.REJECTED and (name := unknown_field(asking.words, body)):
                self._without |= {name}
                continue
            return asking.outcome(self._shown)

    def _shown(self, words: str) -> str:
        """Without the key, and not too long."""
        safe = redact_text(words.replace(self._key, HIDDEN) if self._key else words)
        # A server's words reach a terminal: no escape sequences.
        flat = "".join(letter if letter.isprintable() else "?" for letter in " ".join(safe.split()))
        return flat if len(flat) <= MAX_WORDS_CHARS else flat[: MAX_WORDS_CHARS - 1] + "…"


class _Failed(Exception):
    def __init__(self, failure: Failure, words: str) -> None:
        super().__init__(words)
        self.failure, self.words = failure, words


class _Asking:
    """One attempt."""

    def __init__(self, question: Question, due_s: float, limits: Limits, without: frozenset[str]) -> None:
        self._question, self._due_s, self._limits = question, due_s, limits
        self._reading = Reading()
        self._gaps: list[float] = []
        self._first_s: float | None = None
        self._last_s = 0.0
        self._start_s = self._end_s = 0.0
        self._whole_deadline = self._put_off_s = 0.0
        self.failure: Failure | None = None
        self.words = ""

    async def through(self, wire: Wire, path: str, body: object, read: Read) -> None:
        content = json.dumps(body, separators=(",", ":")).encode()
        self._start_s = self._end_s = clock()
        try:
            await self._within_limits(wire, path, content, read)
            self._judge()
        except Unreachable as error:
            self._fail(Failure.UNREACHABLE, str(error))
        except CutOff as error:
            self._fail(Failure.CUT, str(error))
        except (BadHttp, NotAnEventStream, NotAnAnswer) as error:
            self._fail(Failure.BAD_ANSWER, str(error))
        except (StreamError, _Failed) as error:
            self._fail(error.failure, error.words)

    async def _within_limits(self, wire: Wire, path: str, content: bytes, read: Read) -> None:
        limits, now_s = self._limits, anyio.current_time()
        self._whole_deadline = now_s + limits.whole_s
        deadline = min(now_s + limits.connect_s + limits.first_s, self._whole_deadline)
        with anyio.CancelScope(deadline=deadline) as scope:
            try:
                async with wire.ask("POST", path, content) as answer:
                    await self._take(answer, read, scope)
            except CutOff:
                if not self._reading.closed:  # otherwise all that mattered was there
                    raise
        if scope.cancelled_caught and not self._reading.closed:
            raise self._too_slow()

    async def _take(self, answer: Answer, read: Read, scope: anyio.CancelScope) -> None:
        status = answer.head.status
        if status // 100 != 2:
            raise _Failed(failure_of_status(status), await _refusal(answer))
        kind = answer.head.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and kind != "text/event-stream":
            raise _Failed(Failure.BAD_ANSWER, f"the answer is {kind}, no stream: {await _refusal(answer)}")
        events = EventReader()
        while part := await answer.part():
            now_s = clock()
            found = events.feed(part)
            for data in found:
                self._event(read(data, self._reading), now_s)
            if found and self._first_s is not None:  # a keep-alive is no progress
                self._put_off(scope, now_s)
        for data in events.finish():
            self._event(read(data, self._reading), clock())

    def _put_off(self, scope: anyio.CancelScope, now_s: float) -> None:
        """Set the deadline anew, but not for every token: that would be a tenth of all the work."""
        if self._reading.closed:
            scope.deadline = anyio.current_time() + _FAREWELL_S
        elif now_s >= self._put_off_s + self._limits.gap_s / 20:
            self._put_off_s = now_s
            scope.deadline = min(anyio.current_time() + self._limits.gap_s, self._whole_deadline)

    def _event(self, event: Event, now_s: float) -> None:
        if event == "other":
            return
        self._end_s = now_s
        if event == "piece":
            if self._first_s is None:
                self._first_s = now_s
            else:
                self._gaps.append(now_s - self._last_s)
            self._last_s = now_s

    def _judge(self) -> None:
        """The stream ended in good order; was it an answer?"""
        reading = self._reading
        if reading.finish == "abort":
            raise _Failed(Failure.ABORTED, "finish_reason is abort")
        if reading.finish is None and not reading.closed:
            raise _Failed(Failure.CUT, "the stream ended without a finish_reason")
        if self._first_s is None:
            said = "" if reading.output_tokens is None else f" (by the server's count {reading.output_tokens} tokens)"
            raise _Failed(Failure.EMPTY, f"no text came{said}")

    def _too_slow(self) -> _Failed:
        limits, elapsed_s = self._limits, clock() - self._start_s
        if elapsed_s >= limits.whole_s:
            return _Failed(Failure.TOO_LONG, f"not finished within {limits.whole_s:g} s")
        if self._first_s is None:
            return _Failed(Failure.NO_FIRST_TOKEN, f"no token within {elapsed_s:.3g} s")
        return _Failed(Failure.STALLED, f"nothing more for {limits.gap_s:g} s after {self._reading.pieces} pieces")

    def _fail(self, failure: Failure, words: str) -> None:
        self.failure, self.words, self._end_s = failure, words, clock()

    def outcome(self, shown: Callable[[str], str]) -> Outcome:
        reading = self._reading
        return Outcome(
            number=self._question.number,
            due_s=min(self._due_s, self._start_s),
            start_s=self._start_s,
            end_s=self._end_s,
            first_s=self._first_s,
            gaps_s=self._gaps,
            input_tokens=reading.input_tokens,
            output_tokens=reading.output_tokens or reading.pieces,
            counted_by="usage" if reading.output_tokens else "pieces",
            failure=self.failure,
            words=shown(self.words),
        )


async def _refusal(answer: Answer) -> str:
    body = b""
    while len(body) < _REFUSAL_BYTES and (part := await answer.part()):
        body += part
    return words_of(body[:_REFUSAL_BYTES]) or answer.head.reason or str(answer.head.status)
