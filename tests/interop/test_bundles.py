"""The bundles, installed by the program that people install them with, and started as it wrote them."""

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from uv import find_uv_bin

pytestmark = [pytest.mark.interop, pytest.mark.anyio]

ROOT = Path(__file__).parents[2]
PACKAGE, VERSION = "claude-code-templates", "1.29.6"
NPM_FOLDER = Path.home() / ".cache" / "vllm-mcp-tests" / f"{PACKAGE}-{VERSION}"
CATEGORY = "devtools"
"""The catalogue's folder for what we are; it lists only files in category folders."""
BUNDLES = sorted(path.stem for path in (ROOT / "bundles").glob("*.json"))
START_TIMEOUT_S = 120
OTHERS = {
    "postgres": {"command": "npx", "args": ["-y", "some-server"], "env": {"DSN": "${DSN}"}},
    "remote": {"type": "http", "url": "https://mcp.example.com/mcp", "headers": {"X-Team": "blue"}},
}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One installer at a time, also between test runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def installer() -> Path:
    """The program's entry script, installed once per machine outside the repository."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed; it comes with Node.js")
    package = NPM_FOLDER / "node_modules" / PACKAGE
    with _locked(NPM_FOLDER.with_suffix(".lock")):
        if not (NPM_FOLDER / "complete").exists():
            NPM_FOLDER.mkdir(parents=True, exist_ok=True)
            quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
            command = ["npm", "install", *quiet, "--prefix", str(NPM_FOLDER), f"{PACKAGE}@{VERSION}"]
            subprocess.run(command, cwd=NPM_FOLDER, check=True)
            (NPM_FOLDER / "complete").touch()
    script: str = json.loads((package / "package.json").read_text())["bin"][PACKAGE]
    return package / script


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue's repository with our files: at the root for bare names, in a category for its list."""
    folder = tmp_path_factory.mktemp("catalogue")
    components = folder / "cli-tool" / "components" / "mcps"
    for place in (components, components / CATEGORY):
        place.mkdir(parents=True, exist_ok=True)
        for name in BUNDLES:
            shutil.copy(ROOT / "bundles" / f"{name}.json", place)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that already uses two other servers, and a setting that nobody else knows."""
    folder = tmp_path / "project"
    folder.mkdir()
    content = {"mcpServers": OTHERS, "somethingElse": {"kept": True}}
    (folder / ".mcp.json").write_text(json.dumps(content))
    return folder


def _install(installer: Path, catalogue: Path, project: Path, names: str) -> dict[str, Any]:
    """Run the installer and read what it wrote: it exits 0 whatever happens."""
    preload = Path(__file__).with_name("offline_fetch.cjs")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(project.parent),
        "NODE_OPTIONS": f"--require {preload}",
        "OFFLINE_CATALOGUE": str(catalogue),
        "CCT_NO_TRACKING": "true",
    }
    command = ["node", str(installer), f"--mcp={names}", "--yes", "--directory", str(project)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written: dict[str, Any] = json.loads((project / ".mcp.json").read_text())
    assert set(written["mcpServers"]) > set(OTHERS), done.stdout + done.stderr
    return written


def _ours(name: str) -> dict[str, Any]:
    """The servers of a bundle as they must arrive: the installer drops the description."""
    servers: dict[str, Any] = json.loads((ROOT / "bundles" / f"{name}.json").read_text())["mcpServers"]
    return {
        server: {key: value for key, value in entry.items() if key != "description"}
        for server, entry in servers.items()
    }


def _expanded(value: str, environment: Mapping[str, str]) -> str:
    """`${NAME:-default}` as Claude Code and Crush both read it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: environment.get(match[1]) or match[2], value)


@pytest.mark.parametrize("prefix", ["", f"{CATEGORY}/"], ids=["bare-name", "category"])
@pytest.mark.parametrize("name", BUNDLES)
def test_installing_adds_ours_and_keeps_the_rest(
    installer: Path, catalogue: Path, project: Path, name: str, prefix: str
) -> None:
    written = _install(installer, catalogue, project, prefix + name)
    assert written == {"mcpServers": OTHERS | _ours(name), "somethingElse": {"kept": True}}


def test_installing_all_at_once_and_again_is_the_same(installer: Path, catalogue: Path, project: Path) -> None:
    first = _install(installer, catalogue, project, ",".join(BUNDLES))
    assert _install(installer, catalogue, project, ",".join(BUNDLES)) == first


@pytest.fixture(scope="session")
def client_environment(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's environment in which `uvx` finds this tree's packages as if they were published.

    Index, certificates, proxy and cache are the machine's own, so that nothing is downloaded twice.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VLLM_", "PYTHON", "PYTEST")) and name != "VIRTUAL_ENV"
    }
    return {
        **inherited,
        "PATH": f"{Path(find_uv_bin()).parent}{os.pathsep}{os.environ['PATH']}",
        "UV_FIND_LINKS": ",".join(filter(None, [str(wheels), os.environ.get("UV_FIND_LINKS")])),
        "VLLM_HUB_DIR": str(tmp_path_factory.mktemp("hub")),
    }


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_what_was_installed_starts_and_lists_its_tools(
    installer: Path, catalogue: Path, project: Path, client_environment: dict[str, str], mode: Any
) -> None:
    written = _install(installer, catalogue, project, "vllm-complete-integration")
    for name in _ours("vllm-complete-integration"):
        entry = written["mcpServers"][name]
        environment = {key: _expanded(value, client_environment) for key, value in entry["env"].items()}
        parameters = StdioServerParameters(
            command=shutil.which(entry["command"], path=client_environment["PATH"]) or entry["command"],
            args=entry["args"],
            env=client_environment | environment,
            cwd=project,
        )
        async with Client(parameters, mode=mode, read_timeout_seconds=START_TIMEOUT_S) as client:
            assert client.server_info is not None
            assert client.server_info.name == name
            assert (await client.list_tools()).tools
    assert not (Path(client_environment["VLLM_HUB_DIR"]) / "hub.sock").exists(), "listing tools started a hub"


def test_crush_starts_the_same_commands() -> None:
    """So that what was proved above for one client's file holds for the other's."""
    crush = json.loads((ROOT / "mcp-vllm-integration.json").read_text())["mcp"]
    shared = ("type", "command", "args", "env")
    found = {name: {key: entry[key] for key in shared} for name, entry in crush.items()}
    assert found == _ours("vllm-complete-integration")
