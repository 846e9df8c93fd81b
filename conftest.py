"""Rules that hold for every test of the suite, and the wheels that several of them install."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from uv import find_uv_bin

ROOT = Path(__file__).parent
PACKAGES = (
    "protocol",
    "packages/hub",
    "packages/model-manager",
    "packages/auto-discovery",
    "packages/state-persistence",
    "packages/performance-monitor",
    "packages/cli",
    ".",
)

# A busy machine makes an example slow, not wrong.
settings.register_profile("suite", settings(), deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests marked slow (minutes)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    skip = pytest.mark.skip(reason="slow: runs in `make test-all` or with --run-slow")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The suite runs on asyncio only; without this, anyio's plugin would also ask for trio."""
    return "asyncio"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of every distribution of this tree, as a package index would serve them."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [find_uv_bin(), "build", "--quiet", "--wheel", "--no-sources", "--no-build-isolation"]
    for package in PACKAGES:
        command = [*build, "--python", sys.executable, "--out-dir", str(folder), package]
        subprocess.run(command, cwd=ROOT, check=True)
    return folder
