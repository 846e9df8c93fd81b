"""What a client's settings add to the environment of an engine that it asks for: the hub inherits none of them."""

from collections.abc import Sequence
from pathlib import Path

from vllm_mcp_protocol.engine_env import MANAGED_KINDS, managed_executable
from vllm_mcp_protocol.model import EngineEnvironment, ModelFacts
from vllm_mcp_protocol.paths import managed_engine_root
from vllm_mcp_protocol.settings import Settings


def asked_environment(settings: Settings, cache_dirs: Sequence[Path], facts: ModelFacts | None) -> EngineEnvironment:
    """The environment for an engine of the model of `facts`; where there are no facts, of any model.

    With two caches vLLM is pointed at the one that has the model: it would download into the other.
    """
    path = Path(facts.path) if facts is not None and facts.path else None
    holding = [cache for cache in cache_dirs if path is not None and path.is_relative_to(cache)]
    named = settings.vllm_model_cache_dir or settings.hf_hub_cache
    return EngineEnvironment(
        executable=_executable(settings),
        hf_home=settings.hf_home,
        hf_hub_cache=str((*holding, *cache_dirs)[0].absolute()) if named else None,
        hf_endpoint=settings.hf_endpoint,
        hf_offline=settings.hf_hub_offline,
        hf_token=settings.hf_token,
    )


def _executable(settings: Settings) -> str | None:
    """The `vllm` that these settings name, themselves or by VLLM_MCP_ENGINE_DIR; None leaves it to the hub."""
    if settings.vllm_executable:
        return str(Path(settings.vllm_executable).expanduser().absolute())
    if not settings.vllm_mcp_engine_dir:
        return None
    root = managed_engine_root(settings)
    managed = (managed_executable(root, kind) for kind in MANAGED_KINDS)
    return next((str(found) for found in managed if found), None)
