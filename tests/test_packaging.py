"""What is published: each distribution installs alone into a clean environment, and its command runs."""

import email
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "vllm-mcp-protocol": "protocol",
    "vllm-mcp-hub": "packages/hub",
    "vllm-model-manager": "packages/model-manager",
    "vllm-auto-discovery": "packages/auto-discovery",
    "vllm-state-persistence": "packages/state-persistence",
    "vllm-performance-monitor": "packages/performance-monitor",
    "vllm-mcp": "packages/cli",
}
RUN_LIMIT_S = 300
"""pip itself took 67 s for three folders and their dependencies here, on a busy machine."""
SERVERS = ["vllm-model-manager", "vllm-auto-discovery", "vllm-state-persistence", "vllm-performance-monitor"]
COMMANDS = {
    "vllm-mcp-protocol": ["python", "-c", "import vllm_mcp_protocol as p; print(p.__version__)"],
    "vllm-mcp-hub": ["vllm-mcp-hub", "--version"],
    "vllm-model-manager": ["vllm-model-manager", "--version"],
    "vllm-auto-discovery": ["vllm-auto-discovery", "--version"],
    "vllm-state-persistence": ["vllm-state-persistence", "--version"],
    "vllm-performance-monitor": ["vllm-performance-monitor", "--version"],
    "vllm-mcp": ["vllm-mcp", "--version"],
    "vllm-mcp-suite": ["vllm-mcp", "--version"],
}


def _project(folder: str) -> Mapping[str, Any]:
    project: Mapping[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    return project


def _version_of(folder: str) -> str:
    (path,) = (ROOT / folder / "src").glob("*/__init__.py")
    match = re.search(r'^__version__ = "([^"]+)"$', path.read_text(encoding="utf-8"), re.MULTILINE)
    assert match, f"{path} states no __version__"
    return match[1]


def _wheel(wheels: Path, dist: str) -> zipfile.ZipFile:
    (path,) = wheels.glob(f"{dist.replace('-', '_')}-[0-9]*.whl")
    return zipfile.ZipFile(path)


def _metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=RUN_LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _clean_venv(folder: Path) -> Path:
    """A new environment with nothing in it; its python."""
    _run(find_uv_bin(), "venv", "--quiet", "--python", sys.executable, folder)
    return folder / "bin" / "python"


@pytest.mark.parametrize("dist", COMMANDS)
def test_installs_alone_and_its_command_runs(
    dist: str, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_HUB_DIR", str(tmp_path / "hub"))
    python = _clean_venv(tmp_path / "venv")
    _run(find_uv_bin(), "pip", "install", "-q", "--python", python, "--find-links", wheels, f"{dist}==0.1.0")
    program, *arguments = COMMANDS[dist]
    assert "0.1.0" in _run(python.parent / program, *arguments)
    assert not (tmp_path / "hub").exists(), f"{arguments} touched the state folder"


def test_the_folders_install_together_from_a_clone(tmp_path: Path) -> None:
    """`pip install ./protocol ./packages/hub ./packages/model-manager`, by the faster installer."""
    python = _clean_venv(tmp_path / "venv")
    folders = [f"./{FOLDERS[dist]}" for dist in FOLDERS if dist != "vllm-mcp"]
    _run(find_uv_bin(), "pip", "install", "-q", "--python", python, "--no-sources", *folders)
    assert "0.1.0" in _run(python.parent / "vllm-model-manager", "--version")


@pytest.mark.slow
def test_the_folders_install_together_with_pip_itself(tmp_path: Path) -> None:
    _run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    folders = [f"./{FOLDERS[dist]}" for dist in FOLDERS if dist != "vllm-mcp"]
    _run(python, "-m", "pip", "install", "-q", *folders)
    assert "0.1.0" in _run(python.parent / "vllm-model-manager", "--version")


@pytest.mark.parametrize("dist", FOLDERS)
def test_a_wheel_is_typed_and_holds_only_its_package(dist: str, wheels: Path) -> None:
    with _wheel(wheels, dist) as wheel:
        names = wheel.namelist()
        metadata = _metadata(wheel)
    (package,) = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert f"{package}/py.typed" in names
    assert not [name for name in names if "/tests/" in name]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Version"] == _version_of(FOLDERS[dist])


def test_the_dashboard_is_in_its_wheel(wheels: Path) -> None:
    source = ROOT / "packages/performance-monitor/src"
    page = {str(path.relative_to(source)) for path in (source / "vllm_performance_monitor/page").iterdir()}
    with _wheel(wheels, "vllm-performance-monitor") as wheel:
        assert page <= set(wheel.namelist())
    assert len(page) > 5


@pytest.mark.parametrize("dist", SERVERS)
def test_a_server_proves_its_registry_name(dist: str, wheels: Path) -> None:
    """The MCP registry looks for this comment in the README that the index shows."""
    with _wheel(wheels, dist) as wheel:
        description = str(_metadata(wheel).get_payload())
    assert re.search(rf"<!-- mcp-name: io\.github\.[\w-]+/{dist} -->", description)


def test_the_suite_has_one_version_and_its_packages_ask_for_it() -> None:
    versions = {dist: _version_of(folder) for dist, folder in FOLDERS.items()}
    version = _project(".")["version"]
    assert set(versions.values()) == {version}
    for folder in [".", *FOLDERS.values()]:
        own = [line for line in _project(folder)["dependencies"] if line.startswith("vllm-")]
        assert own == [f"{line.partition('==')[0]}=={version}" for line in own]


def _pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([\w.+!-]+)", text, re.MULTILINE))


def test_every_third_party_dependency_is_pinned_once_with_a_hash() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    wanted = [line for folder in FOLDERS.values() for line in _project(folder)["dependencies"]]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0].replace("_", "-") for line in wanted + groups["dev"]}
    pins = _pins()
    assert sorted(names - set(FOLDERS) - set(pins)) == []
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text.partition("\n\n")[2].strip())
    assert len(blocks) == len(pins)
    assert [block for block in blocks if "--hash=sha256:" not in block] == []


def test_the_pins_name_no_registry_and_no_path() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|--index-url|--find-links|^-e|file:", text, re.MULTILINE)
