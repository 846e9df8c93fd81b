"""`GET /metrics` for Prometheus: what the hub samples, in the text format or as OpenMetrics."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vllm_mcp_protocol.serving.http import checked_token, serve_app, with_token
from vllm_performance_monitor.core.exposition import Family, families
from vllm_performance_monitor.serving import Held, Untold, for_this_machine, glance
from vllm_performance_monitor.workplace import Workplace

PATH = "/metrics"


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


async def figures(work: Workplace) -> Sequence[Family]:
    """What the hub knows now, as families. Raises what the hub's client raises."""
    seen = await glance(work)
    return families(seen.window, seen.alerts.active, seen.state.engines, seen.state.devices)


def exporter_app(work: Workplace, host: str, token: str | None) -> ASGIApp:
    """The ASGI application. Raises SettingError when `host` needs a token and there is none."""
    checked_token(host, token, could="read how the engines are")
    held = Held(lambda: figures(work))

    async def metrics(request: Request) -> Response:
        try:
            told = await held.now()
        except Untold as problem:
            return PlainTextResponse(f"{problem}\n", 503)
        body, media_type = encoded(told, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    app = for_this_machine(Starlette(routes=[Route(PATH, metrics, methods=["GET"])]), host)
    return with_token(app, token) if token else app


async def serve(work: Workplace, host: str, port: int, token: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C. Port 0: any free one. Raises SettingError (no token), PortInUse."""
    try:
        await serve_app(exporter_app(work, host, token), "vllm-performance-monitor exporter", host, port, PATH)
    finally:
        await work.hub.aclose()
