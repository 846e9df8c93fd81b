"""A model endpoint that says where a conversation stands: for driving real clients offline. Speaks just enough of
OpenAI's chat completions and of Anthropic's messages, and remembers what it was asked."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake-model"
Json = dict[str, Any]


class Model(ThreadingHTTPServer):
    """On a free port of the loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[list[Json]] = []
        """The messages of each request, oldest first."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_model() -> Iterator[Model]:
    """The endpoint, listening until the block ends."""
    with Model() as model:
        thread = threading.Thread(target=model.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield model
        finally:
            model.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def do_GET(self) -> None:
        self._answer(json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}), "application/json")

    def do_HEAD(self) -> None:
        self._answer("", "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.partition("?")[0]
        if not path.endswith(("/messages", "/chat/completions")):
            return self._answer(json.dumps({"input_tokens": 1}), "application/json")
        self.server.asked.append(body["messages"])
        said = f"I have been told {len(body['messages'])} things."
        events = _anthropic(said) if path.endswith("/messages") else _openai(said)
        if body.get("stream"):
            return self._answer("".join(events), "text/event-stream")
        self._answer(json.dumps(_message(said)), "application/json")

    def _answer(self, text: str, kind: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _message(said: str) -> Json:
    return {
        **{"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_sequence": None},
        **{"content": [{"type": "text", "text": said}] if said else [], "stop_reason": "end_turn" if said else None},
        "usage": {"input_tokens": 5, "output_tokens": 5},
    }


def _anthropic(said: str) -> Iterator[str]:
    events: list[Json] = [
        {"type": "message_start", "message": _message("")},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


def _openai(said: str) -> Iterator[str]:
    base = {"id": "chatcmpl-1", "created": 1, "model": MODEL, "object": "chat.completion.chunk"}
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    choices = [({"role": "assistant", "content": said}, None), ({}, "stop")]
    for delta, reason in choices:
        yield _data({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    yield _data({**base, "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _data(value: Json) -> str:
    return f"data: {json.dumps(value)}\n\n"
