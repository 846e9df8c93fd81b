"""Where the configuration of a client is, and which other files may stand in for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_auto_discovery.core.clients.plans import Client
from vllm_mcp_protocol.errors import PathNotAllowed
from vllm_mcp_protocol.paths import confine, user_home

_IN_PROJECT = {
    Client.CRUSH: (".crush.json", "crush.json"),
    Client.OPENCODE: ("opencode.jsonc", "opencode.json"),
    Client.CLAUDE_CODE: (".claude/settings.local.json", ".claude/settings.json"),
}
"""Of two in one folder the client lets the first win, so that is the one to change."""
_IN_HOME = {
    Client.CRUSH: ("crush.json",),
    Client.OPENCODE: ("opencode.jsonc", "opencode.json"),
    Client.CLAUDE_CODE: ("settings.json",),
}
_SUFFIXES = (".json", ".jsonc")
_LONGEST_NAME_BYTES = 200
"""Of 255 that a file system takes; the new text is written beside it under a longer name."""


@dataclass(frozen=True)
class Places:
    """The folders of one user in one project."""

    project: Path
    home: Path
    config: Mapping[Client, Path]
    """Each client's own folder."""


def places(project: Path, environment: Mapping[str, str]) -> Places:
    """The folders that clients started in `project` with `environment` would look into."""
    home = _folder(environment.get("HOME")) or user_home()
    xdg = _folder(environment.get("XDG_CONFIG_HOME")) or home / ".config"
    config = {
        Client.CRUSH: _folder(environment.get("CRUSH_GLOBAL_CONFIG")) or xdg / "crush",
        Client.OPENCODE: xdg / "opencode",
        Client.CLAUDE_CODE: _folder(environment.get("CLAUDE_CONFIG_DIR")) or home / ".claude",
    }
    return Places(project, home, config)


def _folder(value: str | None) -> Path | None:
    """Relative ones are ignored, as the XDG specification wants it."""
    return Path(value) if value and value.startswith("/") else None


def config_path(client: Client, where: Places, path: str | None = None) -> Path:
    """The real path of the file to change: `path` when it is given, else the project's, else the user's own.

    It need not exist. Raises PathNotAllowed for one outside of the project and the client's folder once every link is
    followed (the user's own file may be a link to anywhere in the home folder), and for a name that is not *.json or
    *.jsonc.
    """
    folder = where.config[client]
    if path is not None:
        given = path if path.startswith(("/", "~")) else f"{where.project}/{path}"
        return _fitting(confine(given, (where.project, folder), parameter="path"))
    for name in _IN_PROJECT[client]:
        if (where.project / name).is_file():
            return _fitting(confine(str(where.project / name), (where.project, folder), parameter="path"))
    known = [folder / name for name in _IN_HOME[client] if (folder / name).is_file()]
    return _fitting(confine(str((known or [folder / _IN_HOME[client][-1]])[0]), (where.home, folder), parameter="path"))


def _fitting(path: Path) -> Path:
    if path.suffix not in _SUFFIXES or len(path.name.encode(errors="replace")) > _LONGEST_NAME_BYTES or path.is_dir():
        raise PathNotAllowed(
            f"{str(path).encode(errors='backslashreplace').decode()} is no file whose name ends in .json or .jsonc.",
            parameter="path",
            suggestion="give the client's configuration file, or leave path out to take the usual one",
        )
    return path
