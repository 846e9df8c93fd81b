"""What serves the hub's figures to many, to Prometheus and to browsers, has in common.

One question to the hub at a time, and its answer holds for a while: however many look, the hub is asked once. No hub is
started for somebody who only looks; that there is none is what they are told.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import anyio
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.model import HubState
from vllm_mcp_protocol.monitoring import AlertsView, MonitoringWindow
from vllm_mcp_protocol.serving.http import is_loopback
from vllm_performance_monitor.workplace import Workplace

WINDOW_S = 60.0
"""Over which rates and latencies are told, where the hub looks often enough."""
_LOOKS = 4
"""That a window spans at least, so that nothing comes and goes between two looks."""
HOLDS_S = 1.0
_LIMIT_S = 8.0
"""For the hub's answer: Prometheus itself waits 10 s unless told otherwise."""

Answer = TypeVar("Answer")


class Untold(Exception):
    """The hub did not tell; the message says why."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What the hub knows now."""

    window: MonitoringWindow
    alerts: AlertsView
    state: HubState


async def glance(work: Workplace) -> Glance:
    """Ask the hub. Raises what its client raises."""
    window = await work.window(WINDOW_S)
    if window.interval_s * _LOOKS > WINDOW_S:
        window = await work.window(window.interval_s * _LOOKS)
    return Glance(window, await work.hub.alerts(), await work.hub.state())


class Held(Generic[Answer]):
    """The last answer to a question, which is asked anew when the answer is older than `holds_s`."""

    def __init__(self, ask: Callable[[], Awaitable[Answer]], holds_s: float = HOLDS_S) -> None:
        self._ask = ask
        self._holds_s = holds_s
        self._asking = anyio.Lock()
        self._answer: Answer | Untold = Untold("The hub was not asked yet.")
        self._until_s = 0.0

    async def now(self) -> Answer:
        """The answer. Raises Untold; a failure holds for a second, too: who waited does not wait again."""
        async with self._asking:
            if time.monotonic() >= self._until_s:
                self._answer = await self._asked()
                holds_s = HOLDS_S if isinstance(self._answer, Untold) else self._holds_s
                self._until_s = time.monotonic() + holds_s
            answer = self._answer
        if isinstance(answer, Untold):
            raise Untold(str(answer))
        return answer

    async def _asked(self) -> Answer | Untold:
        try:
            with anyio.fail_after(_LIMIT_S):
                return await self._ask()
        except TimeoutError:
            return Untold(f"The hub did not answer within {_LIMIT_S:.0f} s.")
        except ValidationError as error:
            return Untold(f"The hub's answer is not understood: {error.error_count()} fields differ.")
        except (SuiteError, OSError) as error:
            return Untold(str(error))


def for_this_machine(app: ASGIApp, host: str) -> ASGIApp:
    """`app`; where `host` is loopback, a page that a browser reaches by a rebound name is told nothing, as at /mcp."""
    if not is_loopback(host):
        return app

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_loopback(_name(Request(scope).headers.get("host", ""))):
            refusal = PlainTextResponse("This address is served to this machine only.\n", 421)
            await refusal(scope, receive, send)
            return
        await app(scope, receive, send)

    return guarded


def _name(host: str) -> str:
    """Of the header `Host`, without the port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
