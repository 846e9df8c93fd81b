"""The command line itself: help, versions, exit codes, where errors go."""

import json
import subprocess
import sys

import pytest
from packages.cli.tests.conftest import Cli

from vllm_mcp import __version__

COMMANDS = ("demo", "tool", "call", "up", "down", "engine", "status", "doctor", "shell-init")


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.stdout, done.returncode) == (f"vllm-mcp {__version__}\n", 0)


def test_version_and_help_import_nothing_heavy() -> None:
    code = (
        "import sys; from vllm_mcp.main import build_parser; build_parser().format_help();"
        "heavy = {'rich', 'mcp', 'pydantic', 'anyio', 'httpx2', 'pynvml'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_names_every_command_and_fits(cli: Cli) -> None:
    done = cli("--help")
    assert done.returncode == 0
    assert [name for name in COMMANDS if f"\n    {name}" not in done.stdout] == []
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert "bundles" not in done.stdout


@pytest.mark.parametrize("words", [(), ("no-such-command",), ("status", "--no-such-flag"), ("engine",), ("tool",)])
def test_bad_usage_is_2_and_goes_to_stderr(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert (done.stdout, done.returncode) == ("", 2)
    assert "usage: vllm-mcp" in done.stderr


def test_a_setting_that_cannot_be_read_is_named(cli: Cli) -> None:
    done = cli("status", VLLM_PORT="many")
    assert (done.stdout, done.returncode) == ("", 2)
    message, suggestion = done.stderr.splitlines()
    assert message.startswith("VLLM_PORT='many': ")
    assert suggestion.startswith("Next: correct VLLM_PORT")


def test_json_errors_are_objects_on_stdout_and_words_on_stderr(cli: Cli) -> None:
    done = cli("status", "--json", VLLM_PORT="many")
    answer = json.loads(done.stdout)
    assert answer["success"] is False
    assert answer["error"]["code"] == "INVALID_SETTING"
    assert answer["error"]["message"] in done.stderr


def test_a_reader_that_has_enough_is_no_error(cli: Cli) -> None:
    command = f"{sys.executable} -m vllm_mcp tool --list --json | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=cli.environment(), check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("{", "", 0)


def test_a_terminal_without_unicode_gets_replacements_not_tracebacks(cli: Cli) -> None:
    done = cli("doctor", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("ok python")


def test_piped_output_has_no_escape_sequences(cli: Cli) -> None:
    assert "\x1b" not in cli("doctor").stdout + cli("status").stdout
