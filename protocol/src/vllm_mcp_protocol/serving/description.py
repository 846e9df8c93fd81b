"""What a server is, as data: the one source of bundles, `--help` and `initialize`. Pure, cheap to import."""

from dataclasses import dataclass

SUMMARY_LIMIT_CHARS = 100
"""The MCP registry refuses longer descriptions in `server.json`."""

INSTRUCTIONS_LIMIT_CHARS = 1200
"""Clients put the instructions of every server into every conversation."""


@dataclass(frozen=True)
class EnvVar:
    """An environment variable that a server reads."""

    name: str
    description: str
    default: str = ""
    """What bundles write as its default; empty: unset."""
    secret: bool = False


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
