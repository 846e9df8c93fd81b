"""What a server is, as data: the one source of bundles, `--help` and `initialize`. Pure, cheap to import."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SUMMARY_LIMIT_CHARS = 100
"""The MCP registry refuses longer descriptions in `server.json`."""

INSTRUCTIONS_LIMIT_CHARS = 1200
"""Clients put the instructions of every server into every conversation."""


class EnvVar:
    """An environment variable that a server reads.

    What is not given here is taken from `Settings`, when somebody asks: every start imports descriptions, and only
    `--help` and the bundles read these texts.
    """

    def __init__(
        self, name: str, description: str | None = None, default: str | None = None, *, secret: bool | None = None
    ) -> None:
        self.name = name
        self._description, self._default, self._secret = description, default, secret

    def __repr__(self) -> str:
        return f"EnvVar({self.name!r})"

    @property
    def description(self) -> str:
        """One line, without a full stop. Raises KeyError for a variable that neither says."""
        return self._setting.description or "" if self._description is None else self._description

    @property
    def default(self) -> str:
        """What applies when it is unset, as it would be written; empty: nothing."""
        if self._default is not None:
            return self._default
        return _written(self._setting.default) if self._description is None else ""

    @property
    def secret(self) -> bool:
        """Is its value never to be shown?"""
        if self._secret is not None:
            return self._secret
        return self._description is None and "SecretStr" in str(self._setting.annotation)

    @cached_property
    def _setting(self) -> Any:
        from vllm_mcp_protocol.settings import Settings

        return Settings.model_fields[self.name.lower()]


def _written(value: object) -> str:
    """A default as one would write it into the environment."""
    if value is None or isinstance(value, tuple | Mapping):
        return ",".join(map(str, value or ()))
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class ServerDescription:
    """One MCP server of the suite. Raises ValueError for a text that is too long, or a bad `module_build`."""

    name: str
    """Key in client configurations: `vllm-model-manager`."""
    title: str
    summary: str
    """One sentence for catalogues."""
    instructions: str
    """When to use which tool, for the model."""
    distribution: str
    """Package that `uvx` installs."""
    command: str
    module_build: str
    """`package.module:function`, the `build_server(settings, hub=None)` of the server."""
    environment: tuple[EnvVar, ...] = ()
    by_hand: tuple[str, ...] = ()
    """Commands of its own beside `call` and `tools`."""

    def __post_init__(self) -> None:
        _limit(self.name, "summary", self.summary, SUMMARY_LIMIT_CHARS)
        _limit(self.name, "instructions", self.instructions, INSTRUCTIONS_LIMIT_CHARS - 1)
        module, _, function = self.module_build.partition(":")
        if not module or not function.isidentifier():
            raise ValueError(f"{self.name}: module_build {self.module_build!r} is not 'package.module:function'")

    @property
    def package(self) -> str:
        """The import package of the server."""
        return self.module_build.partition(":")[0].partition(".")[0]


def _limit(name: str, what: str, text: str, limit_chars: int) -> None:
    if len(text) > limit_chars:
        raise ValueError(f"{name}: {what} has {len(text)} characters; at most {limit_chars} are allowed")
