"""HTTP side of the fake vLLM: the routes that the suite uses, with the recorded answers."""

import json
import os
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes import fake_generation as gen
from tests.fakes.fake_engine import SHUTTING_DOWN, Engine, metrics_text
from tests.fakes.fake_words import say

Json = dict[str, Any]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: Nagle would hold the second back for 40 ms
    engine: Engine

    def do_GET(self) -> None:
        self._dispatch()

    def do_POST(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        path = urlsplit(self.path).path
        if self.engine.keys and path.startswith("/v1") and not self._authorized():
            return self._json(401, {"error": "Unauthorized"})
        try:
            methods = _ROUTES.get(path, {}) if self._offered(path) else {}
            if self.command not in methods:
                known = bool(methods)
                detail = "Method Not Allowed" if known else "Not Found"
                return self._json(405 if known else 404, {"detail": detail})
            methods[self.command](self)
        except gen.Refused as refused:
            self._json(refused.status, refused.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _authorized(self) -> bool:
        return self.headers.get("Authorization", "") in self.engine.keys

    def _offered(self, path: str) -> bool:
        if path in _DEV_ROUTES:
            return self.engine.dev
        return path not in _LORA_ROUTES or self.engine.runtime_lora

    # plain answers

    def health(self) -> None:
        if self.engine.knobs.slow_health:
            self.engine.aborting.wait(self.engine.knobs.slow_health)
        self._send(503 if self.engine.core_dead.is_set() else 200, b"", None)

    def version(self) -> None:
        self._json(200, {"version": self.engine.knobs.version.partition("+")[0]})

    def load(self) -> None:
        tracked = self.engine.args.on("--enable-server-load-tracking")
        self._json(200, {"server_load": self.engine.running if tracked else 0})

    def models(self) -> None:
        engine, created = self.engine, int(time.time())
        base, *aliases = engine.args.names
        own = [(name, engine.args.model, None, engine.args.max_model_len) for name in (base, *aliases)]
        adapters = [(name, root, base, None) for name, root in engine.adapters.items()]
        entries = [_model(*entry, created) for entry in (*own, *adapters)]
        self._json(200, {"object": "list", "data": entries})

    def metrics(self) -> None:
        self._send(200, metrics_text(self.engine).encode(), "text/plain; version=1.0.0; charset=utf-8")

    def tokenize(self) -> None:
        body = self._body()
        count = gen.count_tokens(body.get("messages", body.get("prompt", "")))
        words = [f"w{number}" for number in range(count)] if body.get("return_token_strs") else None
        limit = self.engine.args.max_model_len
        answer = {"count": count, "max_model_len": limit, "tokens": list(range(count)), "token_strs": words}
        self._json(200, answer)

    def seen_requests(self) -> None:
        """Not vLLM's: what was asked of this fake, for tests of what the suite sends."""
        self._json(200, {"requests": self.engine.requests})

    # adapters

    def load_lora(self) -> None:
        body = self._body()
        name, path = str(body.get("lora_name", "")), str(body.get("lora_path", ""))
        if name in self.engine.adapters and not body.get("load_inplace"):
            message = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in "
                "place, set 'load_inplace' to True."
            )
            raise gen.Refused(400, message, "InvalidUserInput", None)
        if path.startswith("/") and not os.path.exists(os.path.join(path, "adapter_config.json")):
            raise gen.Refused(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError", None)
        self.engine.adapters[name] = path
        self._text(f"Success: LoRA adapter '{name}' added successfully.")

    def unload_lora(self) -> None:
        name = str(self._body().get("lora_name", ""))
        if name not in self.engine.adapters:
            raise gen.Refused(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError", None)
        del self.engine.adapters[name]
        self._text(f"Success: LoRA adapter '{name}' removed successfully.")

    # sleep

    def sleep(self) -> None:
        level = int(parse_qs(urlsplit(self.path).query).get("level", ["1"])[0])
        self.engine.set_sleep(level)
        self._json(200, {"status": "sleeping", "level": level})

    def wake_up(self) -> None:
        self.engine.set_sleep(0)
        self._json(200, {"status": "awake", "tags": None})

    def is_sleeping(self) -> None:
        self._json(200, {"is_sleeping": self.engine.sleep_level > 0})

    # generation

    def chat(self) -> None:
        self._generate(chat=True)

    def completions(self) -> None:
        self._generate(chat=False)

    def _generate(self, *, chat: bool) -> None:
        made = gen.accept(self._body(), chat, self.engine.rules())
        self.engine.begin()
        finish, sent = "abort", 0
        try:
            finish, sent = self._stream(made) if made.stream else self._whole(made)
        finally:
            self.engine.end(finish, made.prompt_tokens, sent)

    def _whole(self, made: gen.Generation) -> tuple[str, int]:
        if self.engine.aborting.wait(self.engine.knobs.slow_stream_s * len(made.tokens)):
            raise gen.Refused(500, SHUTTING_DOWN, "InternalServerError", None)
        self._json(200, gen.whole_answer(made))
        return made.finish, len(made.tokens)

    def _stream(self, made: gen.Generation) -> tuple[str, int]:
        self._head(200, "text/event-stream; charset=utf-8", None)
        sent = 0
        for chunk in gen.chunks(made):
            is_token = bool(chunk["choices"]) and "role" not in chunk["choices"][0].get("delta", {})
            if is_token and self._interrupted():
                self._event(gen.token_chunk(made, "", sent, "abort"))
                self._finish_stream()
                return "abort", sent
            sent += is_token
            self._event(chunk)
        self._finish_stream()
        return made.finish, sent

    def _interrupted(self) -> bool:
        return self.engine.aborting.wait(self.engine.knobs.slow_stream_s)

    # the wire

    def _body(self) -> Json:
        try:
            value = json.loads(self.content)
        except ValueError:
            problem = {"type": "json_invalid", "loc": "body.1", "msg": "JSON decode error"}
            message = f"1 validation error:\n  {problem}"
            raise gen.Refused(400, message, "Bad Request", "body.1") from None
        body = value if isinstance(value, dict) else {}
        self.engine.requests = [*self.engine.requests[-99:], {"path": self.path, "body": body}]
        return body

    def _json(self, status: int, value: Json) -> None:
        self._send(status, json.dumps(value, separators=(",", ":")).encode(), "application/json")

    def _text(self, text: str) -> None:
        self._send(200, text.encode(), None)

    def _send(self, status: int, content: bytes, kind: str | None) -> None:
        self._head(status, kind, len(content))
        self.wfile.write(content)
        self.wfile.flush()

    def _head(self, status: int, kind: str | None, length: int | None) -> None:
        self.send_response(status)
        if kind:
            self.send_header("content-type", kind)
        framing = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
        self.send_header(*framing)
        self.end_headers()

    def _event(self, chunk: Json) -> None:
        self._chunk(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")

    def _finish_stream(self) -> None:
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def version_string(self) -> str:
        return "uvicorn"

    def address_string(self) -> str:
        return ":".join(map(str, self.client_address))  # empty on a unix socket

    def log_message(self, format: str, *args: Any) -> None:
        """Malformed requests: BaseHTTPRequestHandler's own words."""
        say(f"WARNING:  {format % args}")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if not self.engine.args.on("--disable-uvicorn-access-log"):
            say(f'INFO:     {self.address_string()} - "{self.requestline}" {int(code)}')


_LORA_ROUTES = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
_DEV_ROUTES = {"/sleep", "/wake_up", "/is_sleeping"}
_ROUTES: dict[str, dict[str, Callable[[Handler], None]]] = {
    "/health": {"GET": Handler.health},
    "/version": {"GET": Handler.version},
    "/load": {"GET": Handler.load},
    "/metrics": {"GET": Handler.metrics},
    "/tokenize": {"POST": Handler.tokenize},
    "/v1/models": {"GET": Handler.models},
    "/v1/chat/completions": {"POST": Handler.chat},
    "/v1/completions": {"POST": Handler.completions},
    "/v1/load_lora_adapter": {"POST": Handler.load_lora},
    "/v1/unload_lora_adapter": {"POST": Handler.unload_lora},
    "/sleep": {"POST": Handler.sleep},
    "/wake_up": {"POST": Handler.wake_up},
    "/is_sleeping": {"GET": Handler.is_sleeping},
    "/fake/requests": {"GET": Handler.seen_requests},
}


def _model(name: str, root: str, parent: str | None, limit: int | None, created: int) -> Json:
    allowed = ("allow_sampling", "allow_logprobs", "allow_view")
    denied = ("allow_create_engine", "allow_search_indices", "allow_fine_tuning", "is_blocking")
    permission = {"id": "modelperm-fake", "object": "model_permission", "created": created}
    permission |= dict.fromkeys(allowed, True) | dict.fromkeys(denied, False)
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": limit,
        "permission": [permission | {"organization": "*", "group": None}],
    }


class Server(ThreadingHTTPServer):
    """Bound at once, as vLLM does; listens only when `activate` is called."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, engine: Engine, uds: str | None, host: str, port: int) -> None:
        self.address_family = socket.AF_UNIX if uds else socket.AF_INET
        handler = type("BoundHandler", (Handler,), {"engine": engine})
        super().__init__((host, port), handler, bind_and_activate=False)
        if uds:
            self.socket.bind(uds)
            self.server_name, self.server_port = "localhost", 0
        else:
            self.server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        say(f"INFO:     connection from {client_address!r} ended early")
