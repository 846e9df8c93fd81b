"""A model that a client could use now, and the names of the providers that serve it. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from vllm_mcp_protocol.errors import BadInput

ONLY_PROVIDER = "vllm"
"""Id of the provider when all models are behind one endpoint."""

LONGEST_ANSWER_TOKENS = 16_384

_BASE_URL = re.compile(r"https?://[\w.\-:\[\]]+(?:/[\w.\-~%/]*)?/v1")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"/[^\0-\x1f\x7f{}\"\\]*")
_SLUG = re.compile(r"[a-z0-9-]+-\d+")
_ENGINE = re.compile(r"e\d+")


@dataclass(frozen=True)
class KeyVariable:
    """The key is in this environment variable of the client. Raises BadInput for what is no name of one."""

    name: str

    def __post_init__(self) -> None:
        _require(_VARIABLE, self.name, "the name of an environment variable")


@dataclass(frozen=True)
class KeyFile:
    """The key is in this file, an absolute path. Raises BadInput for one that a client could read differently."""

    path: str

    def __post_init__(self) -> None:
        _require(_PATH, self.path, "an absolute path without braces, quotes, backslashes or control characters")


KeySource = KeyVariable | KeyFile | None
"""The key itself is never written into a client's file."""


@dataclass(frozen=True)
class Endpoint:
    """Where clients send requests: the gateway, or one engine.

    Raises BadInput for an address that is not http(s)://…/v1, that holds a password, or that a shell would expand.
    """

    base_url: str
    key: KeySource = None
    engine_id: str = ""
    """The hub's, `e7`; empty for the gateway and for engines of others."""

    def __post_init__(self) -> None:
        _require(_BASE_URL, self.base_url, "an address of the form http://host:port/v1")
        _require(_SLUG, self.slug, "an address with a port below 65536")

    @property
    def slug(self) -> str:
        """Host and port as a part of an id: `127-0-0-1-8000`."""
        return slug_of(self.base_url)


@dataclass(frozen=True)
class ServableModel:
    """What a client must know to use a model. None means unknown."""

    model_id: str
    """What a request names; the served name, not the repository's."""
    name: str
    """For people."""
    endpoint: Endpoint
    context_window_tokens: int | None = None
    chat: bool = True
    """False for models that embed or rank only."""
    tools: bool | None = None
    reasoning: bool | None = None
    vision: bool = False
    audio: bool = False
    video: bool = False

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Those that are known to be there, in a fixed order."""
        names = ("chat", "tools", "reasoning", "vision", "audio", "video")
        return tuple(name for name in names if getattr(self, name))

    @property
    def answer_tokens(self) -> int | None:
        """How long an answer a client should ask for; None when nothing is known.

        vLLM refuses a request whose prompt and `max_tokens` exceed the context together, and Crush begins to summarize
        when a fifth of it is left (20,000 tokens of a large one): an eighth leaves room for the last turn.
        """
        if self.context_window_tokens is None:
            return None
        return min(LONGEST_ANSWER_TOKENS, max(1, self.context_window_tokens // 8))


def _require(form: re.Pattern[str], value: str, what: str) -> None:
    if not form.fullmatch(value):
        raise BadInput(f"{value[:200]!r} is not {what}.", value=value[:200], suggestion=f"give {what}")


def slug_of(base_url: str) -> str:
    """Host and port of an address as a part of an id; empty for what is no address."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return ""
    name = re.sub(r"[^a-z0-9]+", "-", host).strip("-")
    return f"{name or 'host'}-{port}" if host else ""


def provider_ids(models: Iterable[ServableModel]) -> dict[Endpoint, str]:
    """An id for every endpoint: `vllm` for a single one, else `vllm-e7` or `vllm-127-0-0-1-8000`."""
    endpoints = sorted({model.endpoint for model in models}, key=lambda endpoint: (endpoint.base_url, repr(endpoint)))
    if len(endpoints) == 1:
        return {endpoints[0]: ONLY_PROVIDER}
    ids: dict[Endpoint, str] = {}
    for endpoint in endpoints:
        ids[endpoint] = next(free for free in _candidates(endpoint) if free not in ids.values())
    return ids


def _candidates(endpoint: Endpoint) -> Iterator[str]:
    """Ids that `is_ours` knows again; the port of one engine may be reached by several addresses."""
    if _ENGINE.fullmatch(endpoint.engine_id):
        yield f"{ONLY_PROVIDER}-{endpoint.engine_id}"
    yield f"{ONLY_PROVIDER}-{endpoint.slug}"
    yield from (f"{ONLY_PROVIDER}-{endpoint.slug}-{number}" for number in count(2))


def is_ours(provider_id: str, base_url: Any) -> bool:
    """Whether we gave a provider its id: `vllm`, `vllm-e7`, or `vllm-` and the host and port it points to."""
    if provider_id == ONLY_PROVIDER:
        return True
    rest = provider_id.removeprefix(f"{ONLY_PROVIDER}-")
    if rest == provider_id:
        return False
    slug = slug_of(base_url) if isinstance(base_url, str) else ""
    return bool(_ENGINE.fullmatch(rest) or (slug and re.fullmatch(rf"{slug}(?:-\d+)?", rest)))


def section(config: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The object at `path`, empty when there is none: a client's file may hold anything."""
    for key in path:
        value = config.get(key)
        config = value if isinstance(value, Mapping) else {}
    return config
