"""Asking addresses that the user named what listens there. Every answer is a stranger's: bounded in bytes and time.

Redirects are not followed, cookies not kept, answers not decompressed, proxies of the environment not used; a key is
sent only to the address that it was given for. Whatever answers, the result is a finding with notes, not an exception.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr

from vllm_auto_discovery.core.engines import fingerprint as prints
from vllm_auto_discovery.core.engines.fingerprint import Answer, Fingerprint
from vllm_auto_discovery.core.engines.probe_targets import COMMON_PORTS, LOOPBACK, Target, targets
from vllm_mcp_protocol.units import KIB, MIB, format_bytes, format_seconds

if TYPE_CHECKING:
    import httpx2

_PREFIX_BYTES = 64 * KIB
"""What is read of a page or of metrics: vLLM's first own metric is 2 KB into its answer."""


_CONNECTIONS = 4
"""To one address. Small servers queue 5 and drop the next, which costs the kernel's second until it tries again."""


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """How much of the user's time and memory strangers may take."""

    address_s: float = 2.0
    """For all answers of one address together. An engine on a busy machine answers these routes within 0.1 s."""
    total_s: float = 30.0
    """For the whole search; what was not reached by then says so."""
    at_once: int = 32
    """Addresses that are asked at the same time."""
    answer_bytes: int = MIB
    """Of one answer. A list of 500 models has 300 KB."""


DEFAULT_LIMITS = ProbeLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundEngine(Fingerprint):
    """What is at one address."""

    host: str
    port: int
    url: str
    """`http://host:port`, without a path."""

    @property
    def listens(self) -> bool:
        """Is anything there at all?"""
        return self.provider != "nothing"


async def probe(
    hosts: Sequence[str] = (LOOPBACK,),
    ports: Sequence[int] = COMMON_PORTS,
    *,
    keys: Mapping[tuple[str, int], SecretStr] | None = None,
    limits: ProbeLimits = DEFAULT_LIMITS,
) -> list[FoundEngine]:
    """What listens at every host and port, in the order named; `provider` is `nothing` where nobody does.

    `keys` are API keys by host and port; each goes to its own address only. Raises BadInput for what cannot be asked
    (see `targets`), and nothing for what answers.
    """
    wanted = targets(hosts, ports)
    found: dict[Target, FoundEngine] = {}
    gate = anyio.CapacityLimiter(limits.at_once)

    async def ask(target: Target) -> None:
        async with gate:
            key = (keys or {}).get((target.host, target.port))
            found[target] = await _probe(target.url, target.host, target.port, key, limits)

    with anyio.move_on_after(limits.total_s):
        async with anyio.create_task_group() as group:
            for target in wanted:
                group.start_soon(ask, target)
    return [found.get(target) or _not_reached(target, limits) for target in wanted]


async def probe_url(url: str, key: SecretStr | None = None, *, limits: ProbeLimits = DEFAULT_LIMITS) -> FoundEngine:
    """What listens at a configured address such as `http://gpu-box:8000` or `https://models.example`; a path of it
    (`/v1`) is left off. `url` must have been checked as the settings check theirs; what answers never raises."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    base = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    return await _probe(base, host, port, key, limits)


def _not_reached(target: Target, limits: ProbeLimits) -> FoundEngine:
    note = f"not asked: the search ended after {format_seconds(limits.total_s)}"
    return _engine(Fingerprint("unknown", notes=(note,)), target.url, target.host, target.port)


def _engine(made: Fingerprint, url: str, host: str, port: int) -> FoundEngine:
    said = {field.name: getattr(made, field.name) for field in fields(Fingerprint)}
    return FoundEngine(**said, host=host, port=port, url=url)


async def _probe(url: str, host: str, port: int, key: SecretStr | None, limits: ProbeLimits) -> FoundEngine:
    secret = _sendable(key)
    deadline = anyio.current_time() + limits.address_s
    answers: dict[str, _Draft] = {}
    async with _client(url, secret, limits.address_s) as client:
        first = answers[prints.FIRST_PATH] = _Draft(client, prints.FIRST_PATH, deadline, limits)
        await first.fill()
        if not first.connected:
            made = Fingerprint("nothing", notes=(prints.shown(first.trouble, secret),))
            return _engine(made, url, host, port)
        async with anyio.create_task_group() as group:
            for path in prints.further_paths(first.answer()):
                answers[path] = _Draft(client, path, deadline, limits)
                group.start_soon(answers[path].fill)
    given = {path: draft.answer() for path, draft in answers.items()}
    return _engine(prints.fingerprint(given, key=secret), url, host, port)


def _sendable(key: SecretStr | None) -> str:
    """The key, when an HTTP header can hold it; one with a line break or letters beyond ASCII fits no server."""
    secret = key.get_secret_value() if key else ""
    return secret if secret.isascii() and secret.isprintable() else ""


@asynccontextmanager
async def _client(url: str, secret: str, timeout_s: float) -> "AsyncIterator[httpx2.AsyncClient]":
    import httpx2

    # Loading the CA certificates takes 50 ms, and only https needs them.
    transport = httpx2.AsyncHTTPTransport(
        trust_env=False, verify=url.startswith("https:"), limits=httpx2.Limits(max_connections=_CONNECTIONS)
    )
    # A connection that its server is about to close would lose the next question.
    headers = {"Accept-Encoding": "identity", "Connection": "close"} | (
        {"Authorization": f"Bearer {secret}"} if secret else {}
    )
    async with httpx2.AsyncClient(
        base_url=url,
        transport=transport,
        headers=headers,
        # Shorter for the connection: whether anybody listens must be known before the time is over.
        timeout=httpx2.Timeout(timeout_s, connect=timeout_s / 2),
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield client


@dataclass
class _Draft:
    """One answer while it comes in; what came before the time was over counts."""

    client: "httpx2.AsyncClient"
    path: str
    deadline: float
    limits: ProbeLimits
    connected: bool = True
    status: int | None = None
    server: str = ""
    trouble: str = ""
    parts: list[bytes] = field(default_factory=list)

    def answer(self) -> Answer:
        return Answer(self.status, b"".join(self.parts), self.server, self.trouble)

    async def fill(self) -> None:
        """Ask. Never raises for what the other side does."""
        import httpx2

        with anyio.CancelScope(deadline=self.deadline) as scope:
            try:
                await self._ask()
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                self.connected, self.trouble = False, _reason(error)
            except httpx2.TimeoutException:
                self.trouble = self._too_slow()
            except (httpx2.RequestError, httpx2.InvalidURL, OSError, ValueError) as error:
                self.trouble = f"the answer is no HTTP, or broke off ({_reason(error)})"
        if scope.cancelled_caught:
            self.trouble = self._too_slow()

    async def _ask(self) -> None:
        async with self.client.stream("GET", self.path) as response:
            self.status, self.server = response.status_code, response.headers.get("server", "")
            if response.is_redirect:
                self.trouble = f"it redirects to {response.headers.get('location', '')[:200]}, which is not followed"
                return
            await self._read(response)

    async def _read(self, response: "httpx2.Response") -> None:
        is_text = self.path in prints.TEXT_PATHS
        limit_bytes, size_bytes = _PREFIX_BYTES if is_text else self.limits.answer_bytes, 0
        async for part in response.aiter_raw():
            self.parts.append(part[: limit_bytes - size_bytes])
            size_bytes += len(part)
            if size_bytes > limit_bytes:
                self.trouble = "" if is_text else f"the answer is longer than {format_bytes(limit_bytes)}"
                return

    def _too_slow(self) -> str:
        return f"no whole answer within {format_seconds(self.limits.address_s)}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
