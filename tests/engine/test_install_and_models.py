"""The engine environment and the tiny models, for real."""

from pathlib import Path

import pytest

from tests.engine.engines import CPU_FLAGS, started, wait_healthy
from vllm_mcp.engine_install import install
from vllm_mcp.tiny_models import ensure_tiny_models
from vllm_mcp_protocol.engine_env import engine_python
from vllm_mcp_protocol.errors import BadInput, VllmNotInstalled
from vllm_mcp_protocol.hf.cache import scan


@pytest.mark.engine
def test_tiny_models_are_the_same_every_time_and_made_once(real_vllm: Path, tmp_path: Path) -> None:
    python = engine_python(real_vllm)
    commits = []
    for home in (tmp_path / "one", tmp_path / "two"):
        assert ensure_tiny_models(python, home, ("tiny-llama", "tiny-llama-lora")) == [
            "tiny-org/tiny-llama",
            "tiny-org/tiny-llama-lora",
        ]
        found = scan([home / "hub"])
        assert found.warnings == ()
        assert all(model.complete for model in found.models)
        commits.append([(model.model_id, model.revision, model.is_adapter) for model in found.models])
    assert commits[0] == commits[1]
    # made already: no Python is needed any more
    assert ensure_tiny_models("/no/such/python", tmp_path / "one") == ["tiny-org/tiny-llama"]


def test_tiny_models_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tiny-gpt"):
        ensure_tiny_models("/no/such/python", tmp_path, ("tiny-gpt",))
    with pytest.raises(VllmNotInstalled, match="/no/such/python"):
        ensure_tiny_models("/no/such/python", tmp_path)


@pytest.mark.engine
@pytest.mark.slow
def test_installed_engine_serves(tmp_path: Path, tiny_hf_home: Path) -> None:
    """A whole install into an empty folder (25-100 s, 2.5 GB), and a request to what it made."""
    made = install("cpu", tmp_path / "engine")
    model, env = "tiny-org/tiny-llama", {"HF_HOME": str(tiny_hf_home)}
    with started(made.executable, model, flags=CPU_FLAGS, env=env) as engine:
        wait_healthy(engine)
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
        answer = engine.client.post("/v1/chat/completions", json=body).json()
        assert answer["usage"]["completion_tokens"] >= 1
