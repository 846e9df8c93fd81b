"""A Hugging Face Hub on loopback: a real HTTP server, with knobs, that the real huggingface_hub client talks to.

Like the real one it sends files that LFS stores on by a redirect to another host, which must not be shown the token.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_LFS_KINDS = (".safetensors", ".bin", ".gguf", ".pt")
_PIECE_BYTES = 16 * 1024


@dataclass
class FakeFile:
    """Content, and how it is listed. `size` is what the listing claims where that is not the content's."""

    content: bytes = b""
    size: int | None = None
    lfs: bool = False

    @property
    def blob(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        header = f"blob {len(self.content)}\0".encode()
        return hashlib.sha1(header + self.content, usedforsecurity=False).hexdigest()

    @property
    def listed_size(self) -> int:
        return len(self.content) if self.size is None else self.size


@dataclass
class FakeModel:
    """One repository at one commit; `more` is added to the API's answer."""

    model_id: str
    files: dict[str, FakeFile]
    commit: str
    refs: set[str] = field(default_factory=lambda: {"main"})
    gated: str | bool = False
    allowed_token: str | None = None
    """With `gated` or `private`: who may read it."""
    private: bool = False
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    range: str | None
    token: str | None
    host: str


@dataclass
class Answer:
    """An answer in place of the usual one, to requests whose `METHOD /path` the pattern matches; `times` of them."""

    pattern: str
    status: int
    body: bytes = b'{"error": "as the test wants it"}'
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000


class HfSite:
    """A context manager: serves from its start to its end. `url` is for HF_ENDPOINT."""

    def __init__(self) -> None:
        self.models: dict[str, FakeModel] = {}
        self.seen: list[Seen] = []
        self.answers: list[Answer] = []
        self.cuts: list[int] = []
        """Each cuts the connection of one file's transfer after so many bytes, the first one first."""
        self.hold_after: int | None = None
        """Transfers of what LFS stores stop after so many bytes until `go_on` is set."""
        self.go_on = threading.Event()
        self.held = threading.Event()
        self.lock = threading.Lock()
        handler = type("BoundHandler", (_Handler,), {"site": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def storage_url(self) -> str:
        """Where redirects lead: the same server under another name."""
        return f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, model_id: str, files: dict[str, bytes | FakeFile] | None = None, **more: Any) -> FakeModel:
        """Publish a model; weight files are stored by LFS. `more`: fields of FakeModel."""
        listed = {
            name: file if isinstance(file, FakeFile) else FakeFile(file, lfs=name.endswith(_LFS_KINDS))
            for name, file in (files or {}).items()
        }
        commit = more.pop("commit", hashlib.sha1(model_id.encode(), usedforsecurity=False).hexdigest())
        self.models[model_id] = FakeModel(model_id, listed, commit, **more)
        return self.models[model_id]

    def answer(self, pattern: str, status: int, **more: Any) -> None:
        """Answer requests that match `pattern` with `status` instead; see `Answer`."""
        self.answers.append(Answer(pattern, status, **more))

    def asked(self, pattern: str) -> list[Seen]:
        """The requests so far whose `METHOD /path` the pattern matches."""
        return [seen for seen in self.seen if re.search(pattern, f"{seen.method} {seen.path}")]

    def ranges(self) -> list[str]:
        """The ranges that were asked for, in order."""
        return [seen.range for seen in self.seen if seen.range is not None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients that are killed in the middle of a transfer are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: Nagle would hold the second back for 40 ms
    site: HfSite

    def do_GET(self) -> None:
        self._dispatch()

    def do_HEAD(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        site, path = self.site, unquote(urlsplit(self.path).path)
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
        with site.lock:
            site.seen.append(Seen(self.command, path, self.headers.get("range"), token, self.headers.get("host", "")))
            instead = self._instead(path)
        if instead is not None:
            return self._send(instead.status, instead.body, instead.headers)
        for pattern, route in _ROUTES:
            if found := re.fullmatch(pattern, path):
                return route(self, *found.groups())
        self._send(404, b'{"error": "Not Found"}', {})

    def _instead(self, path: str) -> Answer | None:
        for answer in self.site.answers:
            if answer.times > 0 and re.search(answer.pattern, f"{self.command} {path}"):
                answer.times -= 1
                return answer
        return None

    # routes

    def info(self, model_id: str, revision: str | None = None) -> None:
        model = self._model(model_id, revision)
        if model is None:
            return
        body = {
            "id": model_id,
            "sha": model.commit,
            "gated": model.gated,
            "private": model.private,
            "siblings": [_sibling(name, file) for name, file in model.files.items()],
        }
        self._json(body | model.more)

    def search(self) -> None:
        words = parse_qs(urlsplit(self.path).query).get("search", [""])[0].lower().split()
        found = [model for model in self.site.models.values() if all(word in model.model_id.lower() for word in words)]
        self._json([{"id": model.model_id, "gated": model.gated} | model.more for model in found])

    def auth_check(self, model_id: str) -> None:
        model = self._model(model_id, None)
        if model is not None and self._may_read(model):
            self._json({})

    def resolve(self, model_id: str, revision: str, name: str) -> None:
        model = self._model(model_id, revision)
        if model is None or not self._may_read(model):
            return
        file = model.files.get(name)
        if file is None:
            return self._refuse(404, "EntryNotFound")
        headers = {"X-Repo-Commit": model.commit, "ETag": f'"{file.blob}"'}
        if not file.lfs:
            return self._content(file.content, headers)
        headers |= {"X-Linked-Etag": f'"{file.blob}"', "X-Linked-Size": str(file.listed_size)}
        self._send(302, b"", headers | {"Location": f"{self.site.storage_url}/storage/{file.blob}"})

    def storage(self, blob: str) -> None:
        found = [file for model in self.site.models.values() for file in model.files.values() if file.blob == blob]
        self._content(found[0].content, {"ETag": f'"{blob}"'}, may_hold=True) if found else self._send(404, b"", {})

    # parts

    def _model(self, model_id: str, revision: str | None) -> FakeModel | None:
        model = self.site.models.get(model_id)
        if model is None or (model.private and not self._allowed(model)):
            self._refuse(404 if self.headers.get("authorization") else 401, "RepoNotFound")
            return None
        if revision is not None and revision not in {*model.refs, model.commit}:
            self._refuse(404, "RevisionNotFound")
            return None
        return model

    def _may_read(self, model: FakeModel) -> bool:
        if model.gated and not self._allowed(model):
            self._refuse(403 if self.headers.get("authorization") else 401, "GatedRepo")
            return False
        return True

    def _allowed(self, model: FakeModel) -> bool:
        return model.allowed_token is not None and self.headers.get("authorization") == f"Bearer {model.allowed_token}"

    def _content(self, content: bytes, headers: dict[str, str], *, may_hold: bool = False) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        start = int(asked[1]) if asked else 0
        if asked and start >= len(content):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        if asked:
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._head(206 if asked else 200, len(content) - start, headers | {"Accept-Ranges": "bytes"})
        if self.command == "GET":
            self._transfer(content[start:], self.site.hold_after if may_hold else None)

    def _transfer(self, content: bytes, hold_after: int | None) -> None:
        site = self.site
        with site.lock:
            cut = site.cuts.pop(0) if site.cuts and len(content) > site.cuts[0] else None
        sent = 0
        for piece in _pieces(content if cut is None else content[:cut]):
            if hold_after is not None and sent >= hold_after:
                self.wfile.flush()
                site.held.set()
                site.go_on.wait()
            self.wfile.write(piece)
            sent += len(piece)
        if cut is not None:
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code})

    def _json(self, body: object) -> None:
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output is its own."""


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"/api/models", _Handler.search),
    (rf"/api/models/{_ID}", _Handler.info),
    (rf"/api/models/{_ID}/revision/(.+)", _Handler.info),
    (rf"/api/models/{_ID}/auth-check", _Handler.auth_check),
    (rf"/{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (r"/storage/(\w+)", _Handler.storage),
)


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]


def _sibling(name: str, file: FakeFile) -> dict[str, Any]:
    listed: dict[str, Any] = {"rfilename": name, "size": file.listed_size, "blobId": "0" * 40}
    if file.lfs:
        return listed | {"lfs": {"size": file.listed_size, "sha256": file.blob, "pointerSize": 134}}
    return listed | {"blobId": file.blob}
