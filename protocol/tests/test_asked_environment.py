"""What a client's settings say about the engine that it asks for."""

from pathlib import Path

from vllm_mcp_protocol.asked_environment import asked_environment
from vllm_mcp_protocol.settings import Settings


def executable(**variables: str) -> str | None:
    return asked_environment(Settings.from_environment(variables), (), None).executable


def test_the_folder_of_engine_environments_is_the_clients_own(tmp_path: Path) -> None:
    """The hub was started by somebody else's settings, and would look into another folder."""
    vllm = tmp_path / "cpu/bin/vllm"
    vllm.parent.mkdir(parents=True)
    assert executable(VLLM_MCP_ENGINE_DIR=str(tmp_path)) is None, "nothing is installed there yet"
    vllm.write_text("#!/bin/sh\n")
    vllm.chmod(0o755)
    assert executable(VLLM_MCP_ENGINE_DIR=str(tmp_path)) == str(vllm)
    assert executable(VLLM_MCP_ENGINE_DIR=str(tmp_path), VLLM_EXECUTABLE="/opt/vllm") == "/opt/vllm"
    assert executable() is None
