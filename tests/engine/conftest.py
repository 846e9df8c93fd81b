"""The real engine for tests: found, or installed into the managed environment; with tiny models."""

import os
import sys
from pathlib import Path

import pytest

from vllm_mcp.engine_install import install
from vllm_mcp.tiny_models import ensure_tiny_models
from vllm_mcp_protocol.engine_env import engine_python, find_executable
from vllm_mcp_protocol.paths import managed_engine_root
from vllm_mcp_protocol.settings import Settings


def _show(line: str) -> None:
    print(line, file=sys.stderr)


@pytest.fixture(scope="session")
def real_vllm() -> Path:
    """The real `vllm`: VLLM_EXECUTABLE, else the managed environment, which is installed when it is absent."""
    settings = Settings.from_environment(os.environ)
    found = find_executable(settings, None, os.environ)
    if found:
        return Path(found)
    return install(None, managed_engine_root(settings), progress=_show).executable


@pytest.fixture(scope="session")
def tiny_hf_home(real_vllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF_HOME with tiny-org/tiny-llama and its adapter: HF_HOME of the environment, else a temporary one."""
    named = os.environ.get("HF_HOME")
    home = Path(named) if named else tmp_path_factory.mktemp("hf")
    ensure_tiny_models(engine_python(real_vllm), home, ("tiny-llama", "tiny-llama-lora"))
    return home
