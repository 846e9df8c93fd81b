"""`doctor`: what is looked at, what blocks, and that it changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from packages.cli.tests.conftest import Cli

from tests.fakes.fakes import make_fake_vllm
from vllm_mcp.engine_checks import REMOVED_VARIABLES
from vllm_mcp_protocol.settings import Settings

ORDER = ["python", "settings", "vllm", "engine env", "gpu", "memory", "disk", "models", "hf token", "state", "hub"]


def checks(cli: Cli, **env: str) -> dict[str, list[dict[str, Any]]]:
    """The findings by the name of their check."""
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(cli("doctor", "--json", **env).stdout)["checks"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


def fake(cli: Cli, **knobs: Any) -> str:
    return str(make_fake_vllm(cli.folder / "fake", **knobs))


def test_a_machine_with_vllm_is_ready(cli: Cli) -> None:
    done = cli("doctor", VLLM_EXECUTABLE=fake(cli))
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("Ready to load models")
    assert [line for line in done.stdout.splitlines() if len(line) > 80 and "/" not in line] == []


def test_the_order_is_the_one_in_which_a_load_meets_things(cli: Cli) -> None:
    names = list(checks(cli, VLLM_EXECUTABLE=fake(cli)))
    assert [name for name in names if name in ORDER] == ORDER


def test_without_vllm_it_says_how_to_get_one(cli: Cli) -> None:
    done = cli("doctor", PATH="/usr/bin:/bin")
    assert done.returncode == 1
    assert "vllm-mcp engine install" in done.stdout
    assert done.stdout.splitlines()[-1] == "Models cannot be loaded yet: vllm."


def test_a_remote_engine_is_enough(cli: Cli) -> None:
    (finding,) = checks(cli, PATH="/usr/bin:/bin", VLLM_API_ENDPOINT="http://127.0.0.1:9")["vllm"]
    assert finding["level"] == "note"
    assert "http://127.0.0.1:9" in finding["message"]


@pytest.mark.parametrize(
    ("env", "check", "words"),
    [
        ({"VLLM_EXECUTABLE": "/nowhere/vllm"}, "vllm", "/nowhere/vllm"),
        ({"VLLM_PORT": "x", "LOG_LEVEL": "loud"}, "settings", "VLLM_PORT"),
        ({"VLLM_HUB_DIR": f"/tmp/{'x' * 100}"}, "state", "107 bytes"),
        ({"VLLM_HUB_DIR": "/etc/passwd/hub"}, "state", "/etc/passwd is not a folder"),
    ],
)
def test_what_blocks(cli: Cli, env: dict[str, str], check: str, words: str) -> None:
    found = checks(cli, **env)[check]
    assert [finding["level"] for finding in found] == ["blocking"] * len(found)
    assert words in found[0]["message"]
    assert found[0]["next"]


def test_every_unreadable_setting_is_named_at_once(cli: Cli) -> None:
    found = checks(cli, VLLM_PORT="x", LOG_LEVEL="loud", HF_ENDPOINT="gopher://x")["settings"]
    named = {finding["message"].partition("=")[0] for finding in found}
    assert named == {"VLLM_PORT", "LOG_LEVEL", "HF_ENDPOINT"}


@pytest.mark.parametrize("name", REMOVED_VARIABLES)
def test_a_variable_that_vllm_no_longer_reads(cli: Cli, name: str) -> None:
    (finding,) = checks(cli, **{name: "FLASHINFER"})["variables"]
    assert finding["level"] == "warning"
    assert name in finding["message"]
    assert "{" not in finding["next"]


def test_removed_variables_are_not_ours() -> None:
    assert {name.lower() for name in REMOVED_VARIABLES} & set(Settings.model_fields) == set()


def test_a_variable_that_only_an_engine_would_read(cli: Cli) -> None:
    (finding,) = checks(cli, VLLM_CPU_KVCACHE_SPACE="4")["variables"]
    assert "VLLM_CPU_KVCACHE_SPACE" in finding["message"]
    assert "hub.toml" in finding["next"]


def test_secrets_are_never_shown(cli: Cli) -> None:
    done = cli("doctor", HF_TOKEN="hf_geheim", VLLM_API_KEY="sk-geheim", ENCRYPTION_KEY="geheim")
    assert "geheim" not in done.stdout + done.stderr
    assert "set in the environment" in done.stdout


@pytest.mark.parametrize("text", ["[engine\n", "[engine]\nexecutables = '/x'\n", "idle_exit_s = 'soon'\n"])
def test_what_the_hub_could_not_read_blocks(cli: Cli, text: str) -> None:
    cli.state.mkdir()
    (cli.state / "hub.toml").write_text(text)
    (finding,) = checks(cli)["hub.toml"]
    assert finding["level"] == "blocking"
    assert str(cli.state / "hub.toml") in finding["message"]


def test_it_changes_nothing(cli: Cli) -> None:
    cli("doctor", PATH="/usr/bin:/bin")
    assert list(cli.folder.iterdir()) == []


def test_a_state_folder_that_others_can_read(cli: Cli) -> None:
    cli.state.mkdir(mode=0o755)
    Path(cli.state).chmod(0o755)
    (finding,) = checks(cli)["state"]
    assert finding["level"] == "warning"
    assert "chmod 700" in finding["next"]


def test_engines_without_a_hub_are_named(cli: Cli) -> None:
    engine = cli.state / "engines" / "e3"
    engine.mkdir(parents=True)
    (engine / "proc.json").write_text("{}")
    (finding,) = checks(cli)["hub"]
    assert "e3" in finding["message"]
    (engine / "exit.json").write_text("{}")
    assert checks(cli)["hub"][0]["level"] == "ok"
