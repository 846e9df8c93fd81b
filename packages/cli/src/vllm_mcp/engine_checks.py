"""Checks of `doctor` that concern vLLM: the command, its environment, variables that it no longer reads."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from vllm_mcp import engine_install
from vllm_mcp.findings import Finding, blocking, note, ok, warning
from vllm_mcp_protocol.engine_env import (
    INSTALL_HINT,
    MANAGED_KINDS,
    facts_dir,
    find_executable,
    managed_executable,
    read_vllm_facts,
)
from vllm_mcp_protocol.errors import SettingError, SuiteError
from vllm_mcp_protocol.hub_config import read_config
from vllm_mcp_protocol.paths import managed_engine_root, state_dir
from vllm_mcp_protocol.settings import Settings, is_set

REMOVED_VARIABLES: Mapping[str, str] = {
    "VLLM_USE_V1": "remove it: V1 is the only engine since 0.11",
    "VLLM_ATTENTION_BACKEND": "remove it, and load with extra_args=['--attention-backend', '{value}']",
    "VLLM_FLASH_ATTN_VERSION": "remove it; the attention backend is chosen by --attention-backend",
    "VLLM_USE_TRITON_FLASH_ATTN": "remove it; the attention backend is chosen by --attention-backend",
    "VLLM_USE_CUDNN_PREFILL": "remove it; the attention backend is chosen by --attention-backend",
    "VLLM_USE_RAY_SPMD_WORKER": "remove it: Ray workers always run that way",
    "VLLM_USE_RAY_COMPILED_DAG": "remove it: Ray workers always run that way",
    "VLLM_ALL2ALL_BACKEND": "remove it, and load with extra_args=['--all2all-backend', '{value}']",
    "VLLM_TORCH_PROFILER_DIR": "remove it; profiling is set by --profiler-config",
}
"""Variables of older guides that vLLM 0.32 answers with "Unknown vLLM environment variable" and ignores."""


def hub_toml_executable(settings: Settings) -> str | None:
    """What `engine install` remembered. Raises SettingError when the hub could not read hub.toml."""
    return read_config(state_dir(settings) / "hub.toml").engine.executable


def how_found(settings: Settings, executable: str) -> str:
    """Which of the four places named `executable`."""
    if settings.vllm_executable:
        return "VLLM_EXECUTABLE"
    if hub_toml_executable(settings):
        return "hub.toml"
    if Path(executable).is_relative_to(managed_engine_root(settings)):
        return "managed environment"
    return "PATH"


def executable(settings: Settings, env: Mapping[str, str], *, has_gpu: bool) -> Iterable[Finding]:
    """The vllm command: found, runs, fits the machine."""
    try:
        found = find_executable(settings, hub_toml_executable(settings), env)
        if found is None:
            yield _none(settings)
            return
        facts = read_vllm_facts(found, facts_dir(settings))
    except SettingError as error:
        yield blocking("hub.toml", error.info.message, error.info.suggestion)
        return
    except SuiteError as error:
        yield blocking("vllm", error.info.message, error.info.suggestion)
        return
    yield ok("vllm", f"{facts.version} for {facts.platform}: {found} (from {how_found(settings, found)})")
    if has_gpu and facts.platform == "cpu":
        yield warning("vllm", "this is the CPU engine, but there is a GPU", "run `vllm-mcp engine install --cuda`")
    if not has_gpu and facts.platform == "cuda":
        yield blocking("vllm", "this is the CUDA engine, but there is no GPU", "run `vllm-mcp engine install --cpu`")


def _none(settings: Settings) -> Finding:
    remote = settings.remote_endpoints()
    if remote:
        return note(
            "vllm",
            f"no vllm command here; only attached engines can be used: {', '.join(remote)}",
            INSTALL_HINT,
        )
    return blocking("vllm", "there is no vllm command on this machine", INSTALL_HINT)


def managed_environment(settings: Settings) -> Finding:
    """The suite's own engine environment."""
    root = managed_engine_root(settings)
    built = [kind for kind in MANAGED_KINDS if managed_executable(root, kind)]
    if built:
        return ok("engine env", f"{root} ({', '.join(built)})")
    try:
        uv = engine_install.find_uv()
    except SuiteError as error:
        return warning("engine env", f"none in {root}, and {error.info.message}", error.info.suggestion)
    return note("engine env", f"none in {root}; `vllm-mcp engine install` builds one (uv: {uv})")


def environment_variables(env: Mapping[str, str]) -> Iterable[Finding]:
    """Variables of vLLM that are set but no longer read, with what replaced them."""
    for name, remedy in REMOVED_VARIABLES.items():
        value = env.get(name)
        if is_set(value):
            yield warning("variables", f"{name} is set, but vLLM does not read it any more", remedy.format(value=value))
    if is_set(env.get("VLLM_ENABLE_PREFIX_CACHING")):
        words = "VLLM_ENABLE_PREFIX_CACHING is no longer vLLM's; the suite passes the flag of that name instead"
        yield note("variables", words)
    yield from _not_inherited(env)
    yield from _long_tmpdir(env)


def _not_inherited(env: Mapping[str, str]) -> Iterable[Finding]:
    """vLLM's own variables: engines get none of a client's environment, so that all clients get the same."""
    ours = {field.upper() for field in Settings.model_fields} | set(REMOVED_VARIABLES)
    vllms = [name for name in env if name.startswith("VLLM_") and is_set(env[name])]
    names = sorted(name for name in vllms if name not in ours and not name.startswith("VLLM_HUB_"))
    if names:
        words = f"{', '.join(names)} set here: engines do not inherit the environment of clients"
        yield note("variables", words, "put what engines need into hub.toml, table [engine.env]")


def _long_tmpdir(env: Mapping[str, str]) -> Iterable[Finding]:
    folder = env.get("TMPDIR", "")
    if len(os.fsencode(folder)) > 68:
        yield note("variables", f"TMPDIR is long ({len(folder)} characters); engines get their own, shorter one")
