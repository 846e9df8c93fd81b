"""The hub's HTTP surface on its unix socket. Each route reads a body, asks the supervisor, writes the answer."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from vllm_mcp_hub import __version__, wishes
from vllm_mcp_hub.core.events import LeaseEnded
from vllm_mcp_hub.host.engine_dir import EngineDir
from vllm_mcp_hub.supervisor import Supervisor
from vllm_mcp_protocol.errors import (
    BadInput,
    EngineFailed,
    ErrorInfo,
    NotNow,
    NotThere,
    SuiteError,
    error_classes,
)
from vllm_mcp_protocol.model import REVEAL, Chore, LoadRequest, LogTail, ModelConfig
from vllm_mcp_protocol.monitoring import LONGEST_SERIES_S, LONGEST_WINDOW_S, MonitoringWish

log = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 1024**2
WAIT_LIMIT_S = 3600.0
_MOST_SERIES = 20


class Body(BaseModel):
    """A request's JSON body."""

    model_config = ConfigDict(extra="forbid")


class Hello(BaseModel):
    """Understood whatever a newer client may add to it."""

    protocol: int
    client: str = Field(default="", max_length=200)


class Stop(Body):
    force: bool = False


class Sleep(Body):
    level: int = Field(default=1, ge=1, le=2)


class Adapter(Body):
    name: str = Field(min_length=1, max_length=200)
    path: str = Field(default="", max_length=4096)


class NewConfig(Body):
    model_id: str = Field(min_length=1, max_length=400)
    config: ModelConfig | None


class Attach(Body):
    url: str = Field(pattern=r"^https?://[!-.0-?A-~]+(/[!-?A-~]*)?$", max_length=2000)
    """Without user and password: an address is shown, a key is not."""
    api_key: str | None = Field(default=None, pattern=r"^[!-~]+$", max_length=1000)


class Waiting(Body):
    seen_epoch: int = -1
    timeout_s: Annotated[float, Field(ge=0, le=WAIT_LIMIT_S)] = 0.0


class Tail(Body):
    tail: int = Field(default=100, ge=1, le=2000)
    level: str | None = Field(default=None, pattern="^(DEBUG|INFO|WARNING|ERROR)$")


class MetricsAsked(Body):
    seconds: Annotated[float, Field(gt=0, le=LONGEST_WINDOW_S)] = 60.0
    subjects: str = Field(default="", max_length=4000)
    """Separated by newlines; empty: all."""


class SeriesAsked(Body):
    subjects: str = Field(min_length=1, max_length=4000)
    names: str = Field(min_length=1, max_length=4000)
    """Both separated by newlines."""
    begin_s: float
    end_s: float
    resolution_s: float | None = Field(default=None, ge=0, le=86_400)


class NewRule(Body):
    name: str = Field(min_length=1, max_length=64)
    given: dict[str, Any] = Field(max_length=20)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: a signal retires the hub, which then ends the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(supervisor: Supervisor) -> uvicorn.Server:
    """The hub's HTTP server; give it the bound socket."""
    config = uvicorn.Config(
        make_app(supervisor),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        timeout_graceful_shutdown=1,  # leases are held open for hours; a retiring hub does not wait for them
    )
    return _Server(config)


Handler = Callable[[Supervisor, Request], Awaitable[Response]]


def make_app(supervisor: Supervisor) -> Starlette:
    """The hub's routes over `supervisor`."""

    def route(path: str, handler: Handler, method: str = "POST") -> Route:
        async def endpoint(request: Request) -> Response:
            supervisor.last_client_s = time.monotonic()
            try:
                return await handler(supervisor, request)
            except ValidationError as error:
                return _error(_bad_body(error).info)
            except SuiteError as error:
                return _error(error.info)
            except Exception:
                log.exception("%s %s failed", request.method, request.url.path)
                return _error(SuiteError("The hub met something that it did not foresee; see hub.log.").info, 500)
            finally:
                supervisor.last_client_s = time.monotonic()

        return Route(path, endpoint, methods=[method])

    return Starlette(
        routes=[
            route("/v1/hello", hello),
            route("/v1/retire", retire),
            route("/v1/state", state, "GET"),
            route("/v1/load", load),
            route("/v1/engines/{id}", wait, "GET"),
            route("/v1/engines/{id}/stop", stop),
            route("/v1/engines/{id}/sleep", sleep),
            route("/v1/engines/{id}/wake", wake),
            route("/v1/engines/{id}/loras", load_lora),
            route("/v1/engines/{id}/loras/unload", unload_lora),
            route("/v1/engines/{id}/logs", logs, "GET"),
            route("/v1/model-configs", model_configs, "PUT"),
            route("/v1/chores", chores, "PUT"),
            route("/v1/metrics", metrics, "GET"),
            route("/v1/metrics/series", metrics_series, "GET"),
            route("/v1/gpus", gpus, "GET"),
            route("/v1/alerts", alerts, "GET"),
            route("/v1/alert-rules", alert_rules, "PUT"),
            route("/v1/alert-rules", forgotten_rule, "DELETE"),
            route("/v1/monitoring", monitoring, "PUT"),
            route("/v1/attach", attach),
            route("/v1/leases", lease, "GET"),
        ]
    )


async def hello(hub: Supervisor, request: Request) -> Response:
    """The first message of every client, understood by hubs of every protocol."""
    Hello.model_validate_json(await _body(request))
    return JSONResponse({"protocol": hub.protocol, "version": __version__, "pid": os.getpid()})


async def retire(hub: Supervisor, _: Request) -> Response:
    """End this hub; its engines run on."""
    hub.retiring.set()
    return JSONResponse({})


async def state(hub: Supervisor, _: Request) -> Response:
    return _json(await hub.state())


async def load(hub: Supervisor, request: Request) -> Response:
    return _json(await wishes.load(hub, LoadRequest.model_validate_json(await _body(request))))


async def wait(hub: Supervisor, request: Request) -> Response:
    asked = Waiting.model_validate(dict(request.query_params))
    return _json(await hub.wait(_id(request), seen_epoch=asked.seen_epoch, timeout_s=asked.timeout_s))


async def stop(hub: Supervisor, request: Request) -> Response:
    return _json(await wishes.stop(hub, _id(request), force=Stop.model_validate_json(await _body(request)).force))


async def sleep(hub: Supervisor, request: Request) -> Response:
    return _json(await wishes.sleep(hub, _id(request), Sleep.model_validate_json(await _body(request)).level))


async def wake(hub: Supervisor, request: Request) -> Response:
    return _json(await wishes.wake(hub, _id(request)))


async def load_lora(hub: Supervisor, request: Request) -> Response:
    asked = Adapter.model_validate_json(await _body(request))
    return _json(await wishes.load_lora(hub, _id(request), asked.name, asked.path))


async def unload_lora(hub: Supervisor, request: Request) -> Response:
    return _json(await wishes.unload_lora(hub, _id(request), Adapter.model_validate_json(await _body(request)).name))


async def logs(hub: Supervisor, request: Request) -> Response:
    asked = Tail.model_validate(dict(request.query_params))
    view = hub.view(_id(request))
    folder = EngineDir(hub.root / "engines" / view.id)
    lines, truncated = ([], False) if view.remote else await asyncio.to_thread(folder.tail, asked.tail, asked.level)
    return _json(LogTail(engine_id=view.id, lines=tuple(lines), truncated=truncated))


async def model_configs(hub: Supervisor, request: Request) -> Response:
    asked = NewConfig.model_validate_json(await _body(request))
    await asyncio.to_thread(wishes.set_model_config, hub, asked.model_id, asked.config)
    return JSONResponse({})


async def chores(hub: Supervisor, request: Request) -> Response:
    hub.chores.set(Chore.model_validate_json(await _body(request)))
    return JSONResponse({})


async def metrics(hub: Supervisor, request: Request) -> Response:
    asked = MetricsAsked.model_validate(dict(request.query_params))
    return _json(await hub.monitoring.window(asked.seconds, asked.subjects.splitlines()))


async def metrics_series(hub: Supervisor, request: Request) -> Response:
    asked = SeriesAsked.model_validate(dict(request.query_params))
    begin_s = max(asked.begin_s, asked.end_s - LONGEST_SERIES_S)
    names = asked.names.splitlines()[:_MOST_SERIES]
    found = [
        one.model_dump(mode="json")
        for subject in asked.subjects.splitlines()[:_MOST_SERIES]
        for one in await hub.monitoring.series(subject, names, begin_s, asked.end_s, asked.resolution_s)
    ]
    return JSONResponse(found)


async def gpus(hub: Supervisor, _: Request) -> Response:
    return _json(await hub.monitoring.gpus())


async def alerts(hub: Supervisor, _: Request) -> Response:
    return _json(hub.monitoring.alerts_view())


async def alert_rules(hub: Supervisor, request: Request) -> Response:
    """Store what was given of a rule, and answer with the rule as it is in force."""
    asked = NewRule.model_validate_json(await _body(request))
    return _json(hub.monitoring.set_rule(asked.name, asked.given))


async def forgotten_rule(hub: Supervisor, request: Request) -> Response:
    """Undo what was stored of a rule, and answer with what is in force then: null for one that is gone."""
    rule = hub.monitoring.forget_rule(request.query_params.get("name", ""))
    return JSONResponse(None) if rule is None else _json(rule)


async def monitoring(hub: Supervisor, request: Request) -> Response:
    hub.monitoring.wish(MonitoringWish.model_validate_json(await _body(request)))
    return JSONResponse({})


async def attach(hub: Supervisor, request: Request) -> Response:
    asked = Attach.model_validate_json(await _body(request))
    return _json(await wishes.attach(hub, asked.url, asked.api_key))


async def lease(hub: Supervisor, request: Request) -> Response:
    """One line with the endpoint; the lease is held until the client closes the connection."""
    model = request.query_params.get("model", "")
    number = hub.new_request()
    granting = asyncio.ensure_future(wishes.lease(hub, number, model))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((granting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not granting.done():
            return Response(status_code=499)
        endpoint = granting.result()
    except BaseException:
        _end_lease(hub, number)
        raise
    finally:
        leaving.cancel()
        if not granting.done():
            granting.cancel()
            _end_lease(hub, number)

    async def held() -> AsyncIterator[bytes]:
        try:
            yield endpoint.model_dump_json(context=REVEAL).encode() + b"\n"
            await asyncio.Event().wait()  # until the connection ends and cancels this
        finally:
            _end_lease(hub, number)

    return StreamingResponse(held(), media_type="application/x-ndjson")


def _end_lease(hub: Supervisor, number: str) -> None:
    hub.tell(LeaseEnded(number, time.monotonic()))


async def _left(request: Request) -> None:
    while not await request.is_disconnected():  # noqa: ASYNC110 - starlette has no event for it
        await asyncio.sleep(0.1)


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            raise BadInput(f"The request is larger than {BODY_LIMIT_BYTES} bytes.", limit_bytes=BODY_LIMIT_BYTES)
    return body


def _id(request: Request) -> str:
    return str(request.path_params["id"])


def _json(value: BaseModel) -> Response:
    return Response(value.model_dump_json(), media_type="application/json")


def _bad_body(error: ValidationError) -> BadInput:
    problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(map(str, problem["loc"])) or "body"
    return BadInput(f"{where}: {problem['msg']}.", parameter=where)


def _error(info: ErrorInfo, status: int | None = None) -> Response:
    statuses: tuple[tuple[type[SuiteError], int], ...] = (
        (BadInput, 400),
        (NotThere, 404),
        (EngineFailed, 422),
        (NotNow, 409),
    )
    status = status or next((code for kind, code in statuses if info.code in _codes(kind)), 503)
    return Response(info.model_dump_json(), status_code=status, media_type="application/json")


def _codes(kind: type[Any]) -> set[str]:
    return {cls.code for cls in error_classes(kind)}
