"""`shell-init`, in the real shells: --tool comes to us, everything else goes to the real program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_mcp.shell_init import quote_fish, shell_init

SHELLS = ("bash", "zsh", "fish")
AWKWARD = 'it\'s a "folder" $HOME `x` \\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a name that breaks careless quoting, and two programs that print their arguments."""
    home = tmp_path / AWKWARD
    (home / "path").mkdir(parents=True)
    for name, path in (("ours", home / "vllm-mcp"), ("crush", home / "path" / "crush")):
        path.write_text(f'#!/bin/sh\nprintf "{name}"\nfor word in "$@"; do printf "[%s]" "$word"; done\necho\nexit 7\n')
        path.chmod(0o755)
    return home


def run_in(shell: str, script: str, path: Path | None) -> subprocess.CompletedProcess[str]:
    """Evaluate `script` in a new, unconfigured `shell` whose PATH is `path`."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    quiet = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    env = os.environ | {"PATH": str(path or "/nowhere")}  # the machine may have a real crush
    return subprocess.run([program, *quiet, "-c", script], capture_output=True, text=True, env=env, check=False)


def defined(shell: str, folder: Path) -> str:
    return shell_init(shell, (str(folder / "vllm-mcp"),))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("crush --tool list-models", "ours[tool][list-models]"),
        ("crush --tool=list-models --json", "ours[tool][list-models][--json]"),
        ("crush --tool load-model --model-id 'a  b' ''", "ours[tool][load-model][--model-id][a  b][]"),
        ("crush --tool", "ours[tool]"),
        ("crush", "crush"),
        ("crush run -q 'say --tool x'", "crush[run][-q][say --tool x]"),
        ("crush -y --tool x", "crush[-y][--tool][x]"),
        ("crush --tools", "crush[--tools]"),
    ],
)
def test_who_answers(shell: str, call: str, answer: str, folder: Path) -> None:
    done = run_in(shell, f"{defined(shell, folder)}{call}\n", folder / "path")
    assert (done.stdout, done.stderr, done.returncode) == (f"{answer}\n", "", 7)


@pytest.mark.parametrize("shell", SHELLS)
def test_without_crush_the_call_fails_as_usual(shell: str, folder: Path) -> None:
    done = run_in(shell, f"{defined(shell, folder)}crush run x\n", None)
    assert done.returncode == 127
    assert "crush" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_it_survives_strict_mode_and_an_alias(shell: str, folder: Path) -> None:
    options = "shopt -s expand_aliases\n" if shell == "bash" else ""
    lines = f'{options}set -eu\nalias crush="echo alias"\neval "$DEFINITION"\nunalias crush\ncrush || echo "exit $?"\n'
    script = f"DEFINITION=$(cat <<'EOT'\n{defined(shell, folder)}EOT\n)\n{lines}"
    assert run_in(shell, script, folder / "path").stdout == "crush\nexit 7\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_what_finds_this_very_program(shell: str, tmp_path: Path) -> None:
    text = subprocess.run(
        [sys.executable, "-m", "vllm_mcp", "shell-init", shell], capture_output=True, text=True, check=True
    ).stdout
    done = run_in(shell, f"{text}crush --tool\n", None)
    assert done.returncode == 2
    assert "usage: vllm-mcp tool" in done.stderr


def test_an_unknown_shell_is_bad_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vllm_mcp", "shell-init", "tcsh"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "tcsh" in done.stderr


def test_fish_quoting() -> None:
    assert quote_fish("a'b\\c") == "'a\\'b\\\\c'"
