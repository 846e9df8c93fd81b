"""The way to the hub: connect, start one when nobody answers, ask.

The hub is one process per user and host (`python -m vllm_mcp_hub`). Of several clients that find none, the one that
gets the lock of `hub.starting` starts it, and the others wait for that; were two started all the same, the loser of
`hub.lock` would exit at once. A client never reads a state to decide on a change: the hub
decides, and answers with the result or a `SuiteError`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import anyio
import httpx2

from vllm_mcp_protocol import PROTOCOL
from vllm_mcp_protocol.errors import ErrorInfo, HubTooNew, HubTooOld, HubUnavailable, error_from_info
from vllm_mcp_protocol.files import read_end
from vllm_mcp_protocol.hub_starter import CONNECT_LIMIT_S, START_LIMIT_S, HubStarter
from vllm_mcp_protocol.model import (
    REVEAL,
    Chore,
    Endpoint,
    EngineView,
    HubState,
    LoadGrant,
    LoadRequest,
    LogTail,
    ModelConfig,
)
from vllm_mcp_protocol.paths import hub_runs, prepare_state_dir, state_dir
from vllm_mcp_protocol.settings import Settings

if TYPE_CHECKING:  # most servers never ask for these
    from vllm_mcp_protocol.monitoring import (
        AlertRuleView,
        AlertsView,
        GpusView,
        MonitoringWindow,
        MonitoringWish,
        Series,
    )

_ANSWER_LIMIT_S = 180.0
"""The first load on a host asks the engine's environment for its flags, which takes vLLM up to a minute."""

_LEASE_LIMIT_S = 3600.0
"""A lease waits for a model that is still starting; hub.toml's start_limit_s ends a start much sooner."""

_PASSED_ON = (
    "PATH",
    "PYTHONPATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "VLLM_HUB_DIR",
)
"""All that a hub inherits. Settings of the client that happened to be first must not become everybody's."""

_FOR_TESTS = ("VLLM_HUB_TEST_", "FAKE_NVML")

_ONCE = ("/loras", "/loras/unload")
"""Not repeated when the hub dies over them. Everything else is safe: a load joins, a stop stops what still runs."""

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
_LOST = (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError, httpx2.CloseError)


class Hub:
    """A lazy connection to the hub: nothing is touched before the first question."""

    def __init__(
        self, settings: Settings, *, client: str = "vllm-mcp", start: bool = True, protocol: int = PROTOCOL
    ) -> None:
        self._settings = settings
        self._client_name = client
        self._start = start
        self._protocol = protocol
        self._folder: Path = state_dir(settings)
        self._http: httpx2.AsyncClient | None = None
        self._connecting = anyio.Lock()
        self.hub_pid: int | None = None

    @property
    def folder(self) -> Path:
        """The hub's state folder."""
        return self._folder

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connection; the hub and its engines stay."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    # -- questions ------------------------------------------------------------------------------------------

    async def state(self) -> HubState:
        """Everything the hub knows, now."""
        return HubState.model_validate_json(await self._ask("GET", "/v1/state"))

    async def load(self, request: LoadRequest) -> LoadGrant:
        """Have a model served; joins an engine that already serves it. Returns before the engine is ready."""
        body = request.model_dump_json(context=REVEAL)
        return LoadGrant.model_validate_json(await self._ask("POST", "/v1/load", body))

    async def wait(self, engine_id: str, *, seen_epoch: int, timeout_s: float) -> EngineView:
        """The engine as soon as its epoch is above `seen_epoch`, or at the latest after `timeout_s`."""
        query = {"seen_epoch": seen_epoch, "timeout_s": timeout_s}
        answer = await self._ask("GET", f"/v1/engines/{engine_id}", params=query, limit_s=timeout_s + 30)
        return EngineView.model_validate_json(answer)

    async def stop(self, engine_id: str, *, force: bool = False) -> EngineView:
        """Unload: finish what runs first, or drop it when forced."""
        return await self._engine("POST", f"{engine_id}/stop", {"force": force})

    async def sleep(self, engine_id: str, *, level: int = 1) -> EngineView:
        """Begin to put the engine to sleep; level 1 keeps the weights in host memory, 2 drops them."""
        return await self._engine("POST", f"{engine_id}/sleep", {"level": level})

    async def wake(self, engine_id: str) -> EngineView:
        """Begin to wake a sleeping engine, in its turn on its devices."""
        return await self._engine("POST", f"{engine_id}/wake", {})

    async def load_lora(self, engine_id: str, name: str, path: str) -> EngineView:
        """Serve the adapter in folder `path` as model `name`."""
        return await self._engine("POST", f"{engine_id}/loras", {"name": name, "path": path})

    async def unload_lora(self, engine_id: str, name: str) -> EngineView:
        """Stop serving adapter `name`."""
        return await self._engine("POST", f"{engine_id}/loras/unload", {"name": name})

    async def logs(self, engine_id: str, *, tail: int = 100, level: str | None = None) -> LogTail:
        """The last `tail` lines of the engine's log, at most about 20 KB, optionally of `level` and above only."""
        query = {"tail": tail} | ({"level": level} if level else {})
        return LogTail.model_validate_json(await self._ask("GET", f"/v1/engines/{engine_id}/logs", params=query))

    async def set_model_config(self, model_id: str, config: ModelConfig | None) -> None:
        """Keep request defaults of a model; None forgets them."""
        body = _json({"model_id": model_id, "config": None if config is None else config.model_dump()})
        await self._ask("PUT", "/v1/model-configs", body)

    async def set_chore(self, chore: Chore) -> None:
        """Have `chore` done from time to time for as long as the hub runs. Asking twice is once."""
        await self._ask("PUT", "/v1/chores", chore.model_dump_json(context=REVEAL))

    async def metrics(self, seconds: float, subjects: Sequence[str] = ()) -> "MonitoringWindow":
        """What the last seconds (a day at most) brought, of these subjects or of all."""
        from vllm_mcp_protocol.monitoring import MonitoringWindow

        query = {"seconds": seconds, "subjects": "\n".join(subjects)}
        return MonitoringWindow.model_validate_json(await self._ask("GET", "/v1/metrics", params=query))

    async def series(
        self,
        subjects: Sequence[str],
        names: Sequence[str],
        *,
        begin_s: float,
        end_s: float,
        resolution_s: float | None = None,
    ) -> "list[Series]":
        """Numbers over time, of each subject by itself: gauges, `rate:` and `increase:` of counters, `mean:` and
        `p99:` of histograms."""
        from vllm_mcp_protocol.monitoring import Series

        query: dict[str, Any] = {"begin_s": begin_s, "end_s": end_s}
        query |= {"subjects": "\n".join(subjects), "names": "\n".join(names)}
        if resolution_s is not None:
            query["resolution_s"] = resolution_s
        answer = json.loads(await self._ask("GET", "/v1/metrics/series", params=query))
        return [Series.model_validate(one) for one in answer]

    async def gpus(self) -> "GpusView":
        """All that the GPUs tell, and the host."""
        from vllm_mcp_protocol.monitoring import GpusView

        return GpusView.model_validate_json(await self._ask("GET", "/v1/gpus"))

    async def alerts(self) -> "AlertsView":
        """The alerts of this host, and the rules."""
        from vllm_mcp_protocol.monitoring import AlertsView

        return AlertsView.model_validate_json(await self._ask("GET", "/v1/alerts"))

    async def set_alert_rule(self, name: str, given: Mapping[str, Any]) -> "AlertRuleView":
        """Change a rule, or make one; the rule as it is in force then."""
        from vllm_mcp_protocol.monitoring import AlertRuleView

        answer = await self._ask("PUT", "/v1/alert-rules", _json({"name": name, "given": dict(given)}))
        return AlertRuleView.model_validate_json(answer)

    async def forget_alert_rule(self, name: str) -> "AlertRuleView | None":
        """Undo what was changed of a rule; the rule as it is then, None for one that is gone."""
        from vllm_mcp_protocol.monitoring import AlertRuleView

        answer = await self._ask("DELETE", "/v1/alert-rules", params={"name": name})
        return None if answer == b"null" else AlertRuleView.model_validate_json(answer)

    async def set_monitoring(self, wish: "MonitoringWish") -> None:
        """Have the hub sample as a client's settings say."""
        await self._ask("PUT", "/v1/monitoring", wish.model_dump_json())

    async def attach(self, url: str, api_key: str | None = None) -> None:
        """Show a running engine that this hub does not own. Attaching twice is once."""
        await self._ask("POST", "/v1/attach", _json({"url": url, "api_key": api_key}))

    async def retire(self) -> None:
        """Ask the hub to end; its engines run on, and the next hub adopts them."""
        await self._ask("POST", "/v1/retire", "{}")

    @asynccontextmanager
    async def lease(self, model: str) -> AsyncIterator[Endpoint]:
        """Hold the engine that serves `model` while requests are made: it counts as busy until the block ends.

        A sleeping engine is woken first. Raises ModelNotLoaded when nothing serves the model.
        The lease ends with the connection, so a client that dies holds nothing.
        """
        async with AsyncExitStack() as held:
            yield await self._granted_lease(held, model)

    async def _granted_lease(self, held: AsyncExitStack, model: str) -> Endpoint:
        """The endpoint, its response kept open in `held`. A hub that ended since is replaced, once."""
        for _ in (1, 2):
            http = await self._connected()
            request = http.build_request("GET", "/v1/leases", params={"model": model}, timeout=_limit(_LEASE_LIMIT_S))
            try:
                self._check_listening()
                response = await http.send(request, stream=True)
                held.push_async_callback(response.aclose)
                if response.status_code != 200:
                    raise _error(await response.aread(), response.status_code)
                lines = cast("AsyncGenerator[str, None]", response.aiter_lines())
                held.push_async_callback(lines.aclose)  # an abandoned generator would close the response
                return Endpoint.model_validate_json(await anext(lines))
            except (*_UNSENT, *_LOST, StopAsyncIteration):
                await self._let_go(http)
            except httpx2.TimeoutException as error:
                raise self._gone(f"{model} was not ready within {_LEASE_LIMIT_S:.0f} s") from error
        raise self._gone("it ended before it granted the lease")

    # -- transport ------------------------------------------------------------------------------------------

    async def _engine(self, method: str, path: str, body: Mapping[str, Any]) -> EngineView:
        return EngineView.model_validate_json(await self._ask(method, f"/v1/engines/{path}", _json(body)))

    async def _ask(
        self,
        method: str,
        path: str,
        body: str | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        limit_s: float = _ANSWER_LIMIT_S,
    ) -> bytes:
        for attempt in (1, 2):
            http = await self._connected()
            try:
                self._check_listening()
                response = await http.request(method, path, content=body, params=params, timeout=_limit(limit_s))
            except _UNSENT:
                await self._let_go(http)  # the hub ended since; the next round starts one
            except _LOST as error:
                await self._let_go(http)
                if attempt == 1 and not path.endswith(_ONCE):
                    continue
                raise self._gone(f"it ended while it worked on {method} {path}") from error
            except httpx2.TimeoutException as error:
                raise self._gone(f"it did not answer {method} {path} within {limit_s:.0f} s") from error
            else:
                if response.status_code >= 400:
                    raise _error(response.content, response.status_code)
                return response.content
        raise self._gone("it ends again and again")

    async def _let_go(self, http: httpx2.AsyncClient) -> None:
        """Of a hub that has ended, unless another question has met the next hub since."""
        if self._http is http:
            await self.aclose()

    def _gone(self, why: str) -> HubUnavailable:
        log = self._folder / "hub.log"
        return HubUnavailable(
            f"The hub in {self._folder} cannot be used: {why}.",
            state_dir=str(self._folder),
            log_tail=_tail(log),
            suggestion=f"vllm-mcp doctor or {log} tells why; then call again, the next hub adopts engines that run",
        )

    async def _connected(self) -> httpx2.AsyncClient:
        async with self._connecting:
            if self._http is None:
                self._http = await self._connect()
            return self._http

    async def _connect(self) -> httpx2.AsyncClient:
        prepare_state_dir(self._folder)
        # No connection is kept: on one whose hub has died since, it could not be told whether a request was read.
        limits = httpx2.Limits(max_keepalive_connections=0)
        transport = httpx2.AsyncHTTPTransport(uds=str(self._folder / "hub.sock"), limits=limits, verify=False)
        http = httpx2.AsyncClient(transport=transport, base_url="http://hub")
        try:
            await self._meet(http)
        except BaseException:
            await http.aclose()
            raise
        return http

    async def _meet(self, http: httpx2.AsyncClient) -> None:
        """Say hello until a hub of our protocol answers, starting and retiring as needed."""
        begun, wait_s = time.monotonic(), 0.02
        with HubStarter(self._folder, self._spawn) as starter:
            while True:
                other = await self._greeted(http)
                if other == self._protocol:
                    return
                waited_s, coming = time.monotonic() - begun, False
                if other is not None:
                    await self._retire_older(http, other)
                elif self._start:
                    coming = starter.one_is_coming(waited_s)
                else:
                    raise self._gone("no hub runs")
                if waited_s > (START_LIMIT_S if coming else CONNECT_LIMIT_S):
                    raise self._gone(f"no answer within {waited_s:.0f} s") if other is None else self._too_old(other)
                await anyio.sleep(wait_s)
                wait_s = min(wait_s * 1.5, 0.25)

    async def _greeted(self, http: httpx2.AsyncClient) -> int | None:
        """The protocol of the hub that answers; None when none does."""
        try:
            self._check_listening()
            return await self._hello(http)
        except (*_UNSENT, *_LOST, httpx2.TimeoutException):
            return None

    def _check_listening(self) -> None:
        """httpx2 2.16 leaks the descriptor of a refused unix connection, so it is asked only when somebody listens."""
        if not hub_runs(self._folder):
            raise httpx2.ConnectError("nobody listens")

    async def _hello(self, http: httpx2.AsyncClient) -> int:
        body = _json({"protocol": self._protocol, "client": self._client_name})
        response = await http.post("/v1/hello", content=body, timeout=_limit(CONNECT_LIMIT_S))
        try:
            answer = response.json()
            self.hub_pid = int(answer["pid"])
            return int(answer["protocol"])
        except (ValueError, KeyError, TypeError):
            return 0  # older than the first hub that answered a hello

    async def _retire_older(self, http: httpx2.AsyncClient, other: int) -> None:
        if other > self._protocol:
            raise HubTooNew(
                f"The running hub (pid {self.hub_pid}) speaks protocol {other}, this program speaks {self._protocol}.",
                hub_protocol=other,
                client_protocol=self._protocol,
                suggestion=f"upgrade {self._client_name}, or stop the hub's newer owner",
            )
        try:
            await http.post("/v1/retire", content="{}", timeout=_limit(2))
        except httpx2.TransportError:
            return  # it is already going; the next hello finds out

    def _too_old(self, other: int) -> HubTooOld:
        return HubTooOld(
            f"The running hub (pid {self.hub_pid}) speaks protocol {other}, older than {self._protocol}, "
            "and does not end.",
            hub_protocol=other,
            client_protocol=self._protocol,
            suggestion=f"end process {self.hub_pid}; its engines run on and are adopted",
        )

    def _spawn(self) -> int:
        """Start a hub that is nobody's child: a shell starts it and ends, so no client keeps its corpse.

        Returns a descriptor that can be read, to its end, as soon as that hub is dead.
        """
        command = ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-m", "vllm_mcp_hub"]
        watched, held = os.pipe()
        try:
            with open(self._folder / "hub.log", "ab") as log:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=self._environment() | {"VLLM_HUB_DIR": str(self._folder)},
                    start_new_session=True,
                    pass_fds=[held],
                    check=False,
                )
        except BaseException:
            os.close(watched)
            raise
        finally:
            os.close(held)
        return watched

    def _environment(self) -> dict[str, str]:
        tests = {name: value for name, value in os.environ.items() if name.startswith(_FOR_TESTS)}
        return tests | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def _limit(read_s: float) -> httpx2.Timeout:
    return httpx2.Timeout(read_s, connect=5.0)


def _json(value: object) -> str:
    return json.dumps(value)


def _tail(log: Path, limit_bytes: int = 800) -> str:
    try:
        return read_end(log, limit_bytes).decode(errors="replace")
    except OSError:
        return ""


def _error(body: bytes, status: int) -> Exception:
    try:
        return error_from_info(ErrorInfo.model_validate_json(body))
    except ValueError:
        return HubUnavailable(f"The hub answered {status} with something that is not an error of ours.", status=status)
