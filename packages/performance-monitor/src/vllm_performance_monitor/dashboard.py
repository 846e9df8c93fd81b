"""The live page: a few files for the browser, and `GET /figures` with what they show.

The files are the same for everybody and hold nothing; only the figures need the token, which the page sends as every
client does. A strict policy lets the page load and run nothing but these files, so that a model with a wicked name
stays a name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_mcp_protocol.serving.http import checked_token, serve_app, with_token
from vllm_performance_monitor.core.dashboard.charts import (
    RANGES,
    Course,
    Range,
    charts_of,
    questions,
    subjects_of,
)
from vllm_performance_monitor.core.dashboard.engines import (
    EngineFigures,
    EngineRow,
    StartRow,
    engine_rows,
    in_total,
    shown_engines,
    start_rows,
)
from vllm_performance_monitor.core.dashboard.hardware import GpuRow, HostRow, gpu_rows, host_row
from vllm_performance_monitor.serving import HOLDS_S, Glance, Held, Untold, for_this_machine, glance
from vllm_performance_monitor.tools.metrics import alert_row
from vllm_performance_monitor.workplace import Workplace

PATH = "/"
FIGURES = "/figures"
_MOST_ALERTS = 50
_DEFAULT_RANGE = min(RANGES)
_EFFORT = 4
"""Of compressing: figures are a few 10 KB that are sent every few seconds."""
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Page:
    """All that is to be seen. None is what nobody knows."""

    at_s: float
    interval_s: float
    window_s: float
    note: str
    total: EngineFigures | None
    engines: list[EngineRow]
    starts: list[StartRow]
    gpus: list[GpuRow]
    host: HostRow | None
    alerts: list[dict[str, Any]]
    course: Course


def page_of(seen: Glance, course: Course) -> Page:
    """What the page shows of what the hub knows."""
    window, views = seen.window, shown_engines(seen.state.engines)
    notes = (window.note, seen.alerts.note)
    return Page(
        at_s=window.at_s,
        interval_s=window.interval_s,
        window_s=window.duration_s,
        note=" · ".join(note for note in notes if note),
        total=in_total(window),
        engines=engine_rows(window, views),
        starts=start_rows(views),
        gpus=gpu_rows(window, seen.state.devices, views),
        host=host_row(window),
        alerts=[alert_row(one).model_dump(mode="json") for one in seen.alerts.active[:_MOST_ALERTS]],
        course=course,
    )


async def course_of(work: Workplace, span: Range) -> Course:
    """The charts of a stretch of time that ends now. Raises what the hub's client raises."""
    window = await work.window(span.duration_s)
    end_s, begin_s = window.at_s, window.at_s - span.duration_s
    step_s = max(float(span.step_s), window.interval_s)
    subjects, left_out = subjects_of(window.subjects, window.engines)
    told = [
        one
        for alike, names in questions(subjects)
        for one in await work.hub.series(alike, names, begin_s=begin_s, end_s=end_s, resolution_s=step_s)
    ]
    return Course(begin_s, end_s, charts_of(told, begin_s, end_s), left_out)


def dashboard_app(work: Workplace, host: str, token: str | None) -> ASGIApp:
    """The ASGI application. Raises SettingError when `host` needs a token and there is none."""
    checked_token(host, token, could="read how the engines are")
    seen = Held(partial(glance, work))
    # A chart of a day gains nothing from being asked for each second, but an engine that is new is to be seen soon.
    courses = {
        one.duration_s: Held(partial(course_of, work, one), holds_s=min(float(one.step_s), 30.0) - HOLDS_S)
        for one in RANGES.values()
    }

    async def figures(request: Request) -> Response:
        asked = request.query_params.get("seconds", str(_DEFAULT_RANGE))
        course = courses.get(int(asked)) if asked.isdecimal() and len(asked) < 10 else None
        if course is None:
            return _json({"problem": f"seconds={asked[:40]!r} is none of {', '.join(map(str, RANGES))}."}, 400)
        try:
            return _json(page_of(await seen.now(), await course.now()))
        except Untold as problem:
            return _json({"problem": str(problem)}, 503)

    secured = [Middleware(with_token, token=token)] if token else []
    files = StaticFiles(packages=[("vllm_performance_monitor", "page")], html=True)
    app = Starlette(
        routes=[Route(FIGURES, figures, methods=["GET"], middleware=secured), Mount(PATH, files)],
        middleware=[Middleware(GZipMiddleware, compresslevel=_EFFORT), Middleware(_with_headers, headers=_HEADERS)],
    )
    return for_this_machine(app, host)


def _json(value: object, status: int = 200) -> Response:
    body = to_json(value, inf_nan_mode="null")
    return Response(body, status, media_type="application/json", headers={"cache-control": "no-store"})


def _with_headers(app: ASGIApp, headers: Mapping[str, str]) -> ASGIApp:
    """`app`, each answer of which has these headers unless it has its own."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in headers.items():
                    given.setdefault(name, value)
            await send(message)

        await app(scope, receive, sending)

    return answering


async def serve(
    work: Workplace, host: str, port: int, token: str | None, listening: Callable[[str], object] | None = None
) -> None:
    """Serve until SIGTERM or Ctrl-C; `listening` is told the address. Port 0: any free one.

    Raises SettingError (no token), PortInUse.
    """
    app = dashboard_app(work, host, token)
    try:
        await serve_app(app, "vllm-performance-monitor dashboard", host, port, PATH, listening)
    finally:
        await work.hub.aclose()
