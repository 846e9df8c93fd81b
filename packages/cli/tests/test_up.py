"""`up` attaches the engines that the settings name, and shows its key to the one that it belongs to."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from packages.cli.tests.conftest import Cli


@dataclass
class Elsewhere:
    """An engine of somebody else that writes down which key it was shown."""

    name: str
    server: ThreadingHTTPServer
    shown: list[str | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


def open_engine(name: str) -> Elsewhere:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            engine.shown.append(self.headers["Authorization"])
            body = json.dumps({"data": [{"id": name, "max_model_len": 512}]}) if self.path == "/v1/models" else "{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    engine = Elsewhere(name, ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    threading.Thread(target=engine.server.serve_forever, daemon=True).start()
    return engine


@pytest.fixture
def engines() -> Iterator[tuple[Elsewhere, Elsewhere]]:
    """The one that VLLM_API_ENDPOINT names, and one of DISCOVERY_ENDPOINTS."""
    named, other = open_engine("org/named"), open_engine("org/other")
    yield named, other
    for engine in (named, other):
        engine.server.shutdown()
        engine.server.server_close()


def test_the_key_reaches_its_own_engine_only(cli: Cli, engines: tuple[Elsewhere, Elsewhere]) -> None:
    named, other = engines
    env = {"VLLM_API_ENDPOINT": f"{named.url}/v1", "DISCOVERY_ENDPOINTS": other.url, "VLLM_API_KEY": "sk-named"}
    up = cli("up", "--detach", **env)
    assert up.returncode == 0, up.stderr
    assert "org/named" in up.stdout  # the state after they were attached, not before
    assert "org/other" in up.stdout
    assert set(named.shown) == {"Bearer sk-named"}
    assert set(other.shown) == {None}


def test_an_address_that_is_none_is_refused_before_anything_starts(cli: Cli) -> None:
    up = cli("up", "--detach", DISCOVERY_ENDPOINTS="http://a:1,gpu7:8000")
    assert up.returncode == 2
    assert "DISCOVERY_ENDPOINTS" in up.stderr
    assert "gpu7:8000" in up.stderr
    assert not cli.state.exists()
