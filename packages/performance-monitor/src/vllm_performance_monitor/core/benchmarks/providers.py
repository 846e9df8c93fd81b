"""Which server a benchmark is to measure, as people spell it: `ollama/qwen3:8b`, `http://127.0.0.1:8000#my-model`."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from vllm_mcp_protocol.errors import BadInput
from vllm_performance_monitor.core.benchmarks.dialects import Api

LOCAL = {
    "vllm": "http://127.0.0.1:8000",
    "ollama": "http://127.0.0.1:11434",
    "lmstudio": "http://127.0.0.1:1234",
    "llamacpp": "http://127.0.0.1:8080",
}
"""Where these listen unless told otherwise."""

PAID = {"openai": "https://api.openai.com", "anthropic": "https://api.anthropic.com"}
"""Each needs a key of the user's, and is sent no other."""

_SPELLING = f"{', '.join((*LOCAL, *PAID))}, each with /model, or http://host:port#model"


@dataclass(frozen=True, slots=True)
class Provider:
    """One server outside of the hub, as it was named."""

    name: str
    """`ollama`, … or the host and port of an address."""
    url: str
    model: str | None
    """None: the only one that it serves."""

    @property
    def api(self) -> Api:
        return "anthropic" if self.name == "anthropic" else "chat"

    @property
    def paid(self) -> bool:
        return self.name in PAID


def parse_provider(text: str, allowed: tuple[str, ...] = ()) -> Provider:
    """Read one provider.

    `allowed`: addresses that the user's settings name. Others must be on this host, because a benchmark is a load that
    nobody else has asked for. Raises BadInput.
    """
    if "://" in text:
        return _address(text, allowed)
    name, _, model = text.strip().partition("/")
    url = LOCAL.get(name) or PAID.get(name)
    if url is None:
        raise _refused(text, f"there is no provider {name[:80]!r}", f"name one of {_SPELLING}")
    if name in PAID and not model:
        raise _refused(text, "it serves many models", f"name one, as in {name}/MODEL")
    return Provider(name, url, model or None)


def origin(url: str) -> str:
    """An address as this module writes it: without the /v1 that people copy along."""
    return url.rstrip("/").removesuffix("/v1")


def _address(text: str, allowed: tuple[str, ...]) -> Provider:
    address, _, model = text.strip().partition("#")
    address = origin(address)
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _refused(text, str(error), "write it as http://host:port#model") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _refused(text, "that is no http address", "write it as http://host:port#model")
    if "@" in parts.netloc or parts.query:
        raise _refused("the address", "it holds a user, password or query", "write it as http://host:port#model")
    if address not in map(origin, allowed) and not _is_here(host):
        raise _refused(
            text,
            f"{host} is another machine, and a benchmark is a load",
            "have the user name the address in DISCOVERY_ENDPOINTS, then give it exactly so",
        )
    return Provider(host if port is None else f"{host}:{port}", address, model or None)


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(what: str, why: str, suggestion: str) -> BadInput:
    return BadInput(f"{what[:200]!r} cannot be measured: {why}.", suggestion=suggestion)
