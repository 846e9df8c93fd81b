"""Finding vLLM, and asking it once what it can do."""

import os
from pathlib import Path

import pytest

from tests.fakes.fakes import make_fake_vllm
from vllm_mcp_protocol.engine_env import (
    find_executable,
    known_vllm_facts,
    parse_flags,
    read_vllm_facts,
    require_executable,
)
from vllm_mcp_protocol.errors import VllmNotInstalled
from vllm_mcp_protocol.settings import Settings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "engine"


def settings_for(root: Path, **more: str) -> Settings:
    return Settings.from_environment({"VLLM_MCP_ENGINE_DIR": str(root), **more})


def program(folder: Path, script: str = "exit 0") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vllm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_order_of_places(tmp_path: Path, root: Path) -> None:
    on_path, toml = program(tmp_path / "path"), program(tmp_path / "toml")
    named = program(tmp_path / "named")
    cpu, cuda = program(root / "cpu/bin"), program(root / "cuda/bin")
    env = {"PATH": str(tmp_path / "path")}
    assert find_executable(settings_for(root, VLLM_EXECUTABLE=named), toml, env) == named
    assert find_executable(settings_for(root), toml, env) == toml
    assert find_executable(settings_for(root), None, env) == cuda
    os.unlink(cuda)
    assert find_executable(settings_for(root), None, env) == cpu
    os.unlink(cpu)
    assert find_executable(settings_for(root), None, env) == on_path
    os.unlink(on_path)
    assert find_executable(settings_for(root), None, env) is None


def test_a_bare_name_is_looked_up_on_path(tmp_path: Path, root: Path) -> None:
    path = program(tmp_path / "bin")
    settings = settings_for(root, VLLM_EXECUTABLE="vllm")
    assert find_executable(settings, None, {"PATH": str(tmp_path / "bin")}) == path


def test_a_build_without_a_link_is_not_found(root: Path) -> None:
    program(root / "cpu-0.32.0-abc/bin")
    assert find_executable(settings_for(root), None, {"PATH": ""}) is None


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_a_configured_path_that_cannot_be_run_is_refused(tmp_path: Path, root: Path, make: object) -> None:
    path = tmp_path / "vllm"
    assert callable(make)
    make(path)
    with pytest.raises(VllmNotInstalled) as caught:
        find_executable(settings_for(root, VLLM_EXECUTABLE=str(path)), None, {})
    for part in ("VLLM_EXECUTABLE", str(path), "vllm-mcp engine install"):
        assert part in str(caught.value)
    with pytest.raises(VllmNotInstalled, match=r"hub\.toml"):
        find_executable(settings_for(root), str(path), {})


def test_nothing_at_all_says_where_was_looked(root: Path) -> None:
    with pytest.raises(VllmNotInstalled) as caught:
        require_executable(settings_for(root), None, {"PATH": ""})
    assert str(root) in str(caught.value)
    assert "vllm-mcp engine install" in caught.value.info.suggestion


def test_flags_are_those_that_are_defined_not_those_that_are_mentioned() -> None:
    text = (
        "usage: vllm serve [model_tag] [options]\n\noptions:\n"
        "  --api-server-count API_SERVER_COUNT, -asc API_SERVER_COUNT\n"
        "                        How many. Not with --headless-mentioned.\n"
        "  -tp N, --tensor-parallel-size N  Ranks, see --mentioned-too\n"
        "  --enable-lora, --no-enable-lora\n"
        "  -h, --help            show this help message and exit\n"
    )
    assert parse_flags(text) == {
        "--api-server-count",
        "--tensor-parallel-size",
        "--enable-lora",
        "--no-enable-lora",
        "--help",
    }


def test_facts_are_asked_once_per_version(tmp_path: Path) -> None:
    executable, cache = make_fake_vllm(tmp_path / "bin"), tmp_path / "cache"
    assert known_vllm_facts(executable, cache) is None
    facts = read_vllm_facts(executable, cache)
    assert (facts.version, facts.platform) == ("0.32.0+cpu", "cpu")
    assert {"--uds", "--max-model-len", "--no-enable-prefix-caching"} <= facts.flags
    make_fake_vllm(tmp_path / "bin")
    os.utime(executable, ns=(1, 1))
    read_vllm_facts(executable, cache)
    assert len(list(cache.iterdir())) == 2  # another mtime is another command
    broken = tmp_path / "bin/fake.json"
    broken.write_text("{")  # from here on the command fails: only the memory can answer
    assert read_vllm_facts(executable, cache) == facts
    assert known_vllm_facts(executable, cache) == facts


def test_another_installed_version_is_asked_anew(tmp_path: Path) -> None:
    executable, cache = make_fake_vllm(tmp_path / "env/bin", version="0.32.0"), tmp_path / "cache"
    info = tmp_path / "env/lib/python3.11/site-packages/vllm-0.32.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: vllm\n")
    assert read_vllm_facts(executable, cache).platform == "cuda"
    info.rename(info.with_name("vllm-0.33.0.dist-info"))
    (tmp_path / "env/bin/fake.json").write_text('{"version": "0.33.0"}')
    assert read_vllm_facts(executable, cache).version == "0.33.0"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\xff" * 2_000_000])
def test_damaged_memory_is_rebuilt(tmp_path: Path, content: bytes) -> None:
    executable, cache = make_fake_vllm(tmp_path / "bin"), tmp_path / "cache"
    facts = read_vllm_facts(executable, cache)
    (record,) = cache.iterdir()
    record.write_bytes(content)
    assert read_vllm_facts(executable, cache) == facts
    assert known_vllm_facts(executable, cache) == facts


def test_memory_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    executable = make_fake_vllm(tmp_path / "bin")
    assert read_vllm_facts(executable, tmp_path / "file/cache").version == "0.32.0+cpu"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'ImportError: libcuda.so.1' >&2; exit 1", "ImportError: libcuda"),
        ("echo hello", "nothing that can be read"),
        ("exec /no/such/python", "exit status 12"),
    ],
)
def test_a_command_that_is_no_vllm(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(VllmNotInstalled, match=words) as caught:
        read_vllm_facts(program(tmp_path, script), tmp_path / "cache")
    assert "vllm-mcp engine install" in caught.value.info.suggestion
    assert not (tmp_path / "cache").exists()


def test_torch_tells_the_platform_when_the_version_does_not(tmp_path: Path) -> None:
    executable = make_fake_vllm(tmp_path / "env/bin", version="0.32.0")
    site = tmp_path / "env/lib/python3.11/site-packages"
    (site / "torch-2.13.0+rocm7.0.dist-info").mkdir(parents=True)
    assert read_vllm_facts(executable, tmp_path / "cache").platform == "rocm"
