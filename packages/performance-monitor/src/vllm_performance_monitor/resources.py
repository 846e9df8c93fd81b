"""Resources: how things are now, for clients that pick rather than call, news of alerts for those that asked."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from mcp.server.mcpserver.exceptions import ResourceError
from pydantic import ValidationError

from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.monitoring import MonitoringWindow
from vllm_mcp_protocol.paths import hub_runs
from vllm_mcp_protocol.serving.completion import complete_names
from vllm_mcp_protocol.serving.results import compact_json
from vllm_mcp_protocol.serving.server import SuiteServer
from vllm_performance_monitor.core import figures
from vllm_performance_monitor.tools.alerts import ALERTS_URI
from vllm_performance_monitor.tools.metrics import alert_row, hardware_rows
from vllm_performance_monitor.workplace import Workplace, engines_of

logger = logging.getLogger(__name__)

CURRENT_URI = "metrics://current"
_LOOK_S = 5.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DAY_S = 86_400.0


def register(server: SuiteServer, work: Workplace) -> None:
    """Add all of them."""

    @server.resource(CURRENT_URI, name="current", title="How the engines are now", mime_type="application/json")
    async def current() -> str:
        """The last minute, in short."""
        return await _answer(work, 60.0)

    @server.resource(
        "metrics://history/{duration}", name="history", title="How the engines were", mime_type="application/json"
    )
    async def history(duration: str) -> str:
        """A stretch of time that ends now: 90s, 15m, 6h, 1d."""
        number, unit = duration[:-1], _UNITS.get(duration[-1:])
        if unit is None or not number.isdecimal() or not 5 <= int(number) * unit <= _DAY_S:
            raise ResourceError(f"{duration[:40]!r} is no duration from 5s to 1d: give 90s, 15m, 6h or 1d")
        return await _answer(work, int(number) * unit)

    @server.resource(ALERTS_URI, name="alerts", title="Active alerts", mime_type="application/json")
    async def alerts() -> str:
        """What is wrong now."""
        try:
            view = await (await work.ready()).alerts()
        except SuiteError as error:
            raise ResourceError(str(error)) from error
        return compact_json({"alerts": [alert_row(one).model_dump(mode="json") for one in view.active[:20]]})

    complete_names(server, ("duration",), _durations)


async def _durations() -> list[str]:
    return ["1m", "15m", "1h", "6h", "1d"]


async def _answer(work: Workplace, duration_s: float) -> str:
    try:
        window = await work.window(duration_s)
        alerts = await work.hub.alerts()
    except SuiteError as error:
        raise ResourceError(str(error)) from error
    return compact_json({"duration_seconds": duration_s, **_short(window), "alerts": len(alerts.active)})


def _short(window: MonitoringWindow) -> dict[str, object]:
    engines = []
    for seen in engines_of(window, None)[:20]:
        fast, ttft = figures.throughput(seen), figures.latency(seen.histograms.get(figures.LATENCIES["ttft"]))
        load, cache = figures.requests(seen), figures.cache(seen)
        engines.append(
            {
                "engine": seen.subject.removeprefix("engine:"),
                "generation_tokens_per_second": fast.generation_tokens_per_second,
                "ttft_p99_ms": ttft.p99_ms,
                "running": load.running,
                "waiting": load.waiting,
                "kv_usage_percent": cache.kv_usage_percent,
            }
        )
    return {"engines": engines, "hardware": [row.model_dump(mode="json") for row in hardware_rows(window)]}


@asynccontextmanager
async def kept_up_to_date(server: SuiteServer, work: Workplace) -> AsyncIterator[None]:
    """Tell subscribers when alerts come and go, for as long as a hub runs; none is started for that."""
    task = asyncio.get_running_loop().create_task(_tell_for_ever(server, work))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tell_for_ever(server: SuiteServer, work: Workplace) -> None:
    last: tuple[tuple[str, str], ...] | None = None
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            if not await asyncio.to_thread(hub_runs, work.hub.folder):
                continue
            now = tuple((one.rule, one.subject) for one in (await work.hub.alerts()).active)
        except (SuiteError, ValidationError, OSError) as error:
            logger.debug("alerts were not looked at: %s", error)
            continue
        if last is not None and now != last:
            await server.resource_subscriptions.publish(ALERTS_URI)
        last = now
