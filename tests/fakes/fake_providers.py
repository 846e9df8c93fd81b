"""A small HTTP server that answers as one of the programs that serve models, or as a stranger that means harm.

The answers are written after each program's sources and documentation; see `core/engines/fingerprint.py` of discovery.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Json = dict[str, Any]
Routes = Mapping[str, tuple[int, Any]]
"""Status and body by path: JSON, or text where it is a string."""

_NOT_FOUND = (404, {"detail": "Not Found"})
_METRICS_HEAD = "# HELP python_gc_objects_collected_total Objects collected during gc\n"


@dataclass(frozen=True)
class Persona:
    """One program: what it answers, to whom, and to what it does not know."""

    routes: Routes
    server: str = "uvicorn"
    unknown: Callable[[str], tuple[int, Any]] = lambda _path: _NOT_FOUND
    open_paths: frozenset[str] = frozenset()
    """Paths that need no key."""
    refusal: Json = field(default_factory=lambda: {"error": "Unauthorized"})


def _entry(name: str, owner: str, **more: Any) -> Json:
    return {"id": name, "object": "model", "created": 1_790_000_000, "owned_by": owner, **more}


def _listing(*entries: Json) -> tuple[int, Json]:
    return 200, {"object": "list", "data": list(entries)}


def vllm(models: Mapping[str, int], *, metrics: bool = True, version: str = "0.32.0") -> Persona:
    """vLLM: the key guards `/v1` only."""
    entries = (_entry(name, "vllm", root=name, parent=None, max_model_len=n) for name, n in models.items())
    text = _METRICS_HEAD + ("# HELP vllm:num_requests_running Running\nvllm:num_requests_running 0.0\n" * metrics)
    routes = {"/v1/models": _listing(*entries), "/version": (200, {"version": version}), "/metrics": (200, text)}
    return Persona(routes, open_paths=frozenset({"/version", "/metrics", "/health"}))


def sglang(models: Mapping[str, int], *, path: str = "/get_server_info") -> Persona:
    """SGLang: the key guards all but health and metrics. Its Ollama routes answer, too."""
    entries = (_entry(name, "sglang", root=name, max_model_len=n) for name, n in models.items())
    info = {"model_path": next(iter(models)), "tp_size": 1, "api_key": None, "internal_states": [], "version": "0.5.9"}
    routes = {"/v1/models": _listing(*entries), path: (200, info), "/": (200, "Ollama is running")}
    return Persona(routes, open_paths=frozenset({"/health", "/metrics"}))


def llamacpp(models: Mapping[str, int], *, loading: bool = False) -> Persona:
    """llama.cpp's server: models are listed to everybody, `/props` is not."""
    if loading:
        error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
        return Persona({}, server="llama.cpp", unknown=lambda _path: (503, {"error": error}))
    entries = [_entry(name, "llamacpp", meta={"n_ctx_train": 131072, "n_vocab": 32000}) for name in models]
    props = {"total_slots": 4, "build_info": "b8123-0a1b2c3", "model_path": "/models/x.gguf", "chat_template": "x"}
    props["default_generation_settings"] = {"n_ctx": next(iter(models.values())), "params": {}}
    missing = {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}
    refusal = {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}
    return Persona(
        {"/v1/models": _listing(*entries), "/props": (200, props), "/api/tags": (200, {"models": []})},
        "llama.cpp",
        lambda _path: (404, missing),
        frozenset({"/v1/models", "/health", "/"}),
        refusal,
    )


def ollama(models: Mapping[str, int], *, loaded: Mapping[str, int] | None = None, old: bool = False) -> Persona:
    """Ollama. `loaded` are windows of models in memory; an `old` one tells no windows of the others."""
    tags = [
        {"name": name, "model": name, "size": 1, "digest": "ab" * 32}
        | {"details": {"format": "gguf", "family": "llama"} | ({} if old else {"context_length": window})}
        for name, window in models.items()
    ]
    running = [{"name": name, "model": name, "context_length": n} for name, n in (loaded or {}).items()]
    listing = _listing(*(_entry(name, "library") for name in models)) if models else (200, {"data": None})
    routes = {
        "/": (200, "Ollama is running"),
        "/api/version": (200, {"version": "0.19.3"}),
        "/api/tags": (200, {"models": tags}),
        "/api/ps": (200, {"models": running}),
        "/v1/models": listing,
    }
    return Persona(routes, server="", unknown=lambda _path: (404, "404 page not found"))


def lmstudio(models: Mapping[str, int], *, loaded: Mapping[str, int] | None = None) -> Persona:
    """LM Studio: 200 for every path."""

    def native(name: str, window: int) -> Json:
        more = {"type": "llm", "publisher": "x", "arch": "llama", "compatibility_type": "gguf", "quantization": "Q4_0"}
        state = {"state": "not-loaded"}
        if name in (loaded or {}):
            state = {"state": "loaded", "loaded_context_length": (loaded or {})[name]}  # type: ignore[dict-item]
        return {"id": name, "object": "model", **more, **state, "max_context_length": window}

    message = "An LM Studio API token is required to make requests to this server, but none was provided."
    refusal = {"error": {"type": "invalid_request", "code": "invalid_api_key", "message": message}}
    return Persona(
        {
            "/v1/models": _listing(*(_entry(name, "organization_owner") for name in models)),
            "/api/v0/models": (200, {"object": "list", "data": [native(*item) for item in models.items()]}),
        },
        server="",
        unknown=lambda path: (200, {"error": f"Unexpected endpoint or method. (GET {path})"}),
        refusal=refusal,
    )


def openai_compatible(models: Mapping[str, int]) -> Persona:
    """Any other server with OpenAI's routes."""
    entries = (_entry(name, "someone", context_window=n) for name, n in models.items())
    refusal = {"error": {"message": "Incorrect API key provided", "type": "invalid_request_error", "code": "x"}}
    return Persona({"/v1/models": _listing(*entries)}, refusal=refusal)


def web_page() -> Persona:
    """A server that has nothing to do with models."""
    return Persona({"/": (200, "<html>Welcome</html>")}, "nginx/1.29", lambda _path: (404, "<html>404</html>"))


def raw(body: str, status: int = 200, server: str = "uvicorn") -> Persona:
    """Whatever is asked, this."""
    return Persona({}, server, lambda _path: (status, body))


@dataclass
class Running:
    """A fake that listens on loopback."""

    port: int
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Path and `Authorization` of every request that came."""


@contextmanager
def serving(persona: Persona, *, key: str = "") -> Iterator[Running]:
    """The program `persona` on a port of its own; with `key` it wants that one."""
    running = Running(0)
    handler = type("Bound", (_Handler,), {"persona": persona, "running": running, "key": key})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        running.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    persona: ClassVar[Persona]
    running: ClassVar[Running]
    key: ClassVar[str]

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.running.requests.append((self.path, given))
        guarded = self.key and self.path not in self.persona.open_paths
        if guarded and given != f"Bearer {self.key}":
            return self._send(401, self.persona.refusal)
        self._send(*(self.persona.routes.get(self.path) or self.persona.unknown(self.path)))

    def _send(self, status: int, body: Any) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response_only(status)
        if self.persona.server:
            self.send_header("Server", self.persona.server)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Hostile:
    """A server with bad habits: `talk` is given each connection, after its request was read, and a bell for the end."""

    def __init__(self, talk: Callable[[socket.socket, threading.Event], None], *, speaks_first: bool = False) -> None:
        self._talk, self._speaks_first = talk, speaks_first
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0

    def __enter__(self) -> "Hostile":
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(lambda connection=connection: self._meet(connection))  # type: ignore[misc]

    def _meet(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                if not self._speaks_first:
                    connection.recv(65536)
                self._talk(connection, self._over)
            except OSError:
                return


def endless(connection: socket.socket, over: threading.Event) -> None:
    """Bytes without end, as fast as they are taken."""
    connection.sendall(HEAD + b"\r\n")
    while not over.is_set():
        connection.sendall(b"[" * 65536)


def trickle(connection: socket.socket, over: threading.Event) -> None:
    """One byte now and then, for ever."""
    connection.sendall(HEAD + b"\r\n{")
    while not over.wait(0.02):
        connection.sendall(b" ")


def slow_headers(connection: socket.socket, over: threading.Event) -> None:
    """Headers for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(0.02):
        connection.sendall(b"X: y\r\n")


def silent(_connection: socket.socket, over: threading.Event) -> None:
    """Takes the request and says nothing."""
    over.wait(30)


def breaks_off(connection: socket.socket, _over: threading.Event) -> None:
    """Promises more than it sends."""
    connection.sendall(HEAD + b'Content-Length: 1000\r\n\r\n{"object": "list", "da')


def hangs_up(_connection: socket.socket, _over: threading.Event) -> None:
    """Closes without a word."""


def tls_alert(connection: socket.socket, _over: threading.Event) -> None:
    """What a TLS server says to plain HTTP: alert 70, protocol version."""
    connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46")


def binary(connection: socket.socket, _over: threading.Event) -> None:
    """Noise that is no HTTP."""
    connection.sendall(bytes(range(256)) * 64)


def gzip_bomb(connection: socket.socket, _over: threading.Event) -> None:
    """An answer that says it is compressed, and would be 1 GiB."""
    import zlib

    squeezed = zlib.compress(b" " * 2**24, 9, wbits=31)
    connection.sendall(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(squeezed) + squeezed)


def redirect_to(url: str) -> Callable[[socket.socket, threading.Event], None]:
    """Sends everybody elsewhere."""

    def talk(connection: socket.socket, _over: threading.Event) -> None:
        connection.sendall(f"HTTP/1.1 307 Elsewhere\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode())

    return talk


def continues(connection: socket.socket, over: threading.Event) -> None:
    """`100 Continue` without end."""
    while not over.is_set():
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 64)


def huge_header(connection: socket.socket, over: threading.Event) -> None:
    """One header line without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not over.is_set():
        connection.sendall(b"y" * 65536)
