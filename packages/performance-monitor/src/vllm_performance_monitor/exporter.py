"""`GET /metrics` for Prometheus: what the hub samples, in the text format or as OpenMetrics.

One question to the hub at a time, and its answer holds for a second: however many scrape, the hub is asked once.
"""

import time
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import anyio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.serving.http import checked_token, is_loopback, serve_app, with_token
from vllm_performance_monitor.core.exposition import Family, families
from vllm_performance_monitor.workplace import Workplace

PATH = "/metrics"
WINDOW_S = 60.0
"""Over which rates and latencies are told, where the hub looks often enough."""
_LOOKS = 4
"""That a window spans at least, so that nothing comes and goes between two looks."""
_HOLDS_S = 1.0
_LIMIT_S = 8.0
"""For the hub's answer: Prometheus itself waits 10 s unless told otherwise."""


class NoFigures(Exception):
    """The hub did not tell; the message says why."""


class Figures:
    """The last answer of the hub, asked anew when it is older than a second."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._asking = anyio.Lock()
        self._answer: Sequence[Family] | NoFigures = ()
        self._until_s = 0.0

    async def now(self) -> Sequence[Family]:
        """The families. Raises NoFigures, also a failure holds for a second: who waited does not wait again."""
        async with self._asking:
            if time.monotonic() >= self._until_s:
                self._answer = await self._asked()
                self._until_s = time.monotonic() + _HOLDS_S
            answer = self._answer
        if isinstance(answer, NoFigures):
            raise NoFigures(str(answer))
        return answer

    async def _asked(self) -> Sequence[Family] | NoFigures:
        try:
            with anyio.fail_after(_LIMIT_S):
                window = await self._work.window(WINDOW_S)
                if window.interval_s * _LOOKS > WINDOW_S:
                    window = await self._work.window(window.interval_s * _LOOKS)
                alerts, state = await self._work.hub.alerts(), await self._work.hub.state()
        except TimeoutError:
            return NoFigures(f"The hub did not answer within {_LIMIT_S:.0f} s.")
        except ValidationError as error:
            return NoFigures(f"The hub's answer is not understood: {error.error_count()} fields differ.")
        except (SuiteError, OSError) as error:
            return NoFigures(str(error))
        return families(window, alerts.active, state.engines, state.devices)


class _Told(Collector):
    """Families as the client library has them."""

    def __init__(self, told: Iterable[Family]) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        for family in self._told:
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=family.labels)
            for sample in family.samples:
                metric.add_metric([sample.labels[label] for label in family.labels], sample.value)
            yield metric


def encoded(told: Iterable[Family], accept: str) -> tuple[bytes, str]:
    """The body and its media type, in the format that the header `Accept` asks for."""
    registry = CollectorRegistry()
    registry.register(_Told(told))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


def exporter_app(work: Workplace, host: str, token: str | None) -> ASGIApp:
    """The ASGI application. Raises SettingError when `host` needs a token and there is none."""
    checked_token(host, token, could="read how the engines are")
    figures = Figures(work)

    async def metrics(request: Request) -> Response:
        # As at /mcp: a page in a browser that reaches us by a rebound name is told nothing.
        if is_loopback(host) and not is_loopback(_name(request.headers.get("host", ""))):
            return PlainTextResponse("This address is served to this machine only.\n", 421)
        try:
            told = await figures.now()
        except NoFigures as problem:
            return PlainTextResponse(f"{problem}\n", 503)
        body, media_type = encoded(told, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    app = Starlette(routes=[Route(PATH, metrics, methods=["GET"])])
    return with_token(app, token) if token else app


def _name(host: str) -> str:
    """Of the header `Host`, without the port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def serve(work: Workplace, host: str, port: int, token: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C. Port 0: any free one. Raises SettingError (no token), PortInUse."""
    try:
        await serve_app(exporter_app(work, host, token), "vllm-performance-monitor exporter", host, port, PATH)
    finally:
        await work.hub.aclose()
