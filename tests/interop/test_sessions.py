"""Conversations of real clients, saved and restored: the client itself goes on with them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fakes.fake_model import MODEL, Model, fake_model
from tests.interop.node_programs import binary
from vllm_state_persistence.sources.base import CURRENT, Places, Target, find_session
from vllm_state_persistence.sources.claude_code import ClaudeCodeSource, preview
from vllm_state_persistence.sources.opencode import OpencodeSource

pytestmark = pytest.mark.interop

SECRET = "The word is Zanzibar, ünï \N{GRINNING FACE}."


def run(name: str, home: Path, project: Path, env: dict[str, str], *words: str) -> str:
    """What a client prints for the user whose home is `home`."""
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [binary(name), *words],
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def claude(model: Model, home: Path, project: Path, *words: str) -> str:
    env = {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "x", "DISABLE_AUTOUPDATER": "1"}
    return run("claude", home, project, env | {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}, *words)


def opencode(model: Model, home: Path, project: Path, *words: str) -> str:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{model.url}/v1", "apiKey": "x"},
        "models": {MODEL: {"name": "Fake"}},
    }
    (project / "opencode.json").write_text(json.dumps({"provider": {"vllm": provider}}))
    return run("opencode", home, project, {"OPENCODE_DISABLE_MODELS_FETCH": "1"}, *words)


def test_claude_code_goes_on_with_a_restored_session(tmp_path: Path) -> None:
    project, other = tmp_path / "pro.ject_ü", tmp_path / "other"
    project.mkdir()
    other.mkdir()
    home, fresh = tmp_path / "home", tmp_path / "fresh"
    with fake_model() as model:
        claude(model, home, project, "-p", SECRET)
        source = ClaudeCodeSource(Places.of({"HOME": str(home)}))
        _, ref = find_session([source], CURRENT, project)
        assert (ref.title, ref.project) == (SECRET, str(project))
        saved = source.read(ref, None)
        Path(ref.location).unlink()

        restored = source.write(saved, Target())
        assert restored.session_id != ref.session_id
        claude(model, home, project, "--resume", restored.session_id, "-p", "what was it?")
        assert SECRET in json.dumps(model.asked[-1], ensure_ascii=False)

        machine = ClaudeCodeSource(Places.of({"HOME": str(fresh)}))
        machine.write(saved, Target(project=other))
        claude(model, fresh, other, "--continue", "-p", "and now?")
        assert SECRET in json.dumps(model.asked[-1], ensure_ascii=False)
        (grown,) = machine.sessions(other)
        assert machine.read(grown, None).records[0].content != saved.records[0].content
        assert "and now?" in [preview(record) for record in machine.read(grown, None).records]


def test_opencode_goes_on_with_a_restored_session(tmp_path: Path) -> None:
    project, home, fresh = tmp_path / "project", tmp_path / "home", tmp_path / "fresh"
    project.mkdir()
    with fake_model() as model:
        opencode(model, home, project, "run", "--model", f"vllm/{MODEL}", SECRET)
        source = OpencodeSource(Places.of({"HOME": str(home)}))
        _, ref = find_session([source], CURRENT, project)
        saved = source.read(ref, None)
        assert ref.marker == saved.ref.marker

        restored = source.write(saved, Target())
        listed = opencode(model, home, project, "session", "list")
        assert restored.session_id in listed
        assert ref.session_id in listed
        opencode(model, home, project, "run", "--session", restored.session_id, "what was it?")
        assert SECRET in json.dumps(model.asked[-1], ensure_ascii=False)

        opencode(model, fresh, project, "session", "list")  # makes its database
        machine = OpencodeSource(Places.of({"HOME": str(fresh)}))
        again = machine.write(saved, Target(same=True))
        assert again.session_id == ref.session_id
        exported = json.loads(opencode(model, fresh, project, "export", ref.session_id))
        assert exported == json.loads(opencode(model, home, project, "export", ref.session_id))
        assert SECRET in json.dumps(exported, ensure_ascii=False)
