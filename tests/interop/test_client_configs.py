"""The configurations that are written, read by those they are for, and requests made from them."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import httpx2
import pytest

from tests.fakes.fakes import make_fake_vllm
from tests.interop.node_programs import binary
from vllm_auto_discovery.clients.files import sync, undo
from vllm_auto_discovery.clients.places import config_path, places
from vllm_auto_discovery.core.clients.plans import Client
from vllm_auto_discovery.core.clients.servable import Endpoint, KeyFile, KeySource, KeyVariable, ServableModel

MODEL = "tiny-org/tiny-llama"
KEY = "a key with $SIGNS and 'quotes'"
START_LIMIT_S = 60.0
THEIRS = """\
// by hand
{
  "provider": {
    "lab": { // stays
      "npm": "@ai-sdk/openai-compatible",
      "options": { "baseURL": "http://127.0.0.1:9/v1" },
      "models": { "big": { "name": "Big" } },
    },
    "vllm-e9": { "npm": "@ai-sdk/openai-compatible", "models": { "gone": {} } },
  },
}
"""


@contextmanager
def serving(folder: Path, key: str = "") -> Iterator[str]:
    """The base URL of a fake vLLM with one model on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(make_fake_vllm(folder / "fake")), "serve", MODEL, "--served-model-name", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "32768"]
    env = os.environ | ({"VLLM_API_KEY": key} if key else {})
    with (folder / "log").open("wb") as log:
        engine = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        _wait_until_open(port, folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait(30)


def _wait_until_open(port: int, log: Path) -> None:
    end = monotonic() + START_LIMIT_S
    while monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        sleep(0.05)
    raise RuntimeError(log.read_text())


def opencode(home: Path, *words: str) -> str:
    """What opencode prints, offline, for a user whose home is `home`, in the project `home/project`."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    done = subprocess.run(
        [binary("opencode"), *words],
        cwd=home / "project",
        env={**env, "THE_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(client: Client, home: Path, *models: ServableModel) -> Path:
    """The configuration of a user's project after a sync."""
    (home / "project").mkdir(exist_ok=True)
    path = config_path(client, places(home / "project", {"HOME": str(home)}))
    sync(client, path, models, home / "state")
    return path


def model_at(base_url: str, key: KeySource = None) -> ServableModel:
    return ServableModel(MODEL, "Tiny Llama", Endpoint(base_url, key), 32_768, tools=True, reasoning=False)


@pytest.mark.interop
def test_opencode_lists_exactly_what_can_be_served_and_what_the_user_had(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    path = tmp_path / "project" / "opencode.jsonc"
    path.write_text(THEIRS)
    base = model_at("http://127.0.0.1:8099/v1")
    seeing = replace(base, model_id="org/seeing", name="Seeing", vision=True, reasoning=True)
    embedder = replace(base, model_id="org/embed", chat=False)
    written(Client.OPENCODE, tmp_path, base, seeing, embedder)
    listed = [line for line in opencode(tmp_path, "models").splitlines() if not line.startswith("opencode/")]
    assert listed == ["lab/big", "vllm/org/seeing", f"vllm/{MODEL}"]
    undo(path, tmp_path / "state")
    assert path.read_text() == THEIRS


@pytest.mark.interop
def test_opencode_knows_what_each_model_can_do(tmp_path: Path) -> None:
    base = model_at("http://127.0.0.1:8099/v1")
    written(
        Client.OPENCODE, tmp_path, base, replace(base, model_id="a/seeing", vision=True, reasoning=True, tools=None)
    )
    words = opencode(tmp_path, "models", "vllm", "--verbose")
    first, plain = (json.loads(text) for text in re.findall(r"^\{$.*?^\}$", words, re.DOTALL | re.MULTILINE))
    assert (plain["id"], plain["name"], plain["limit"]) == (MODEL, "Tiny Llama", {"context": 32_768, "output": 4_096})
    found = {name: (first["capabilities"][name], plain["capabilities"][name]) for name in ("reasoning", "toolcall")}
    assert found == {"reasoning": (True, False), "toolcall": (True, True)}
    assert (first["capabilities"]["input"]["image"], plain["capabilities"]["input"]["image"]) == (True, False)


@pytest.mark.interop
@pytest.mark.parametrize("kind", ["variable", "file"])
def test_opencode_chats_with_the_engine_that_it_was_told_of(tmp_path: Path, kind: str) -> None:
    (tmp_path / "the key").write_text(KEY + "\n")
    source = KeyVariable("THE_KEY") if kind == "variable" else KeyFile(str(tmp_path / "the key"))
    with serving(tmp_path, KEY) as base_url:
        written(Client.OPENCODE, tmp_path, model_at(base_url, source))
        assert opencode(tmp_path, "run", "--model", f"vllm/{MODEL}", "say hi").strip()


def as_crush_reads(value: str) -> str:
    """Crush expands values as a here-document does (its own words); so does any shell."""
    script = f"cat <<END_OF_VALUE\n{value}\nEND_OF_VALUE\n"
    done = subprocess.run(["sh", "-c", script], env={"PATH": os.environ["PATH"], "THE_KEY": KEY}, capture_output=True)
    return done.stdout.decode().removesuffix("\n")


@pytest.mark.parametrize("kind", ["variable", "file", "none"])
def test_a_chat_made_from_what_crush_is_told_is_answered(tmp_path: Path, kind: str) -> None:
    (tmp_path / "it's the key").write_text(KEY + "\n")
    sources: dict[str, KeySource] = {"variable": KeyVariable("THE_KEY"), "file": KeyFile(f"{tmp_path}/it's the key")}
    with serving(tmp_path, "" if kind == "none" else KEY) as base_url:
        path = written(Client.CRUSH, tmp_path, model_at(base_url, sources.get(kind)))
        provider = json.loads(path.read_text())["providers"]["vllm"]
        (model,) = provider["models"]
        answer = httpx2.post(
            as_crush_reads(provider["base_url"]) + "/chat/completions",
            headers={"Authorization": f"Bearer {as_crush_reads(provider['api_key'])}"},
            json={
                "model": model["id"],
                "max_tokens": model["default_max_tokens"],
                "messages": [{"role": "user", "content": "say hi"}],
            },
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.json()["model"] == MODEL
