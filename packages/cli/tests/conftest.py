"""The command as people run it: a process, a folder of its own for everything, 80 columns."""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vllm_mcp_protocol.paths import hub_runs

LIMIT_S = 120
"""Far above anything that these commands take; a command that hangs fails its test instead of the run."""


@dataclass
class Cli:
    """Runs `vllm-mcp` with an environment that is the same on every machine."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.folder / "hub"

    def environment(self, **more: str) -> dict[str, str]:
        ours = ("VLLM_", "HF_", "HUGGING", "DISCOVERY_", "LOG_LEVEL", "FORCE_COLOR", "NO_COLOR")
        outside = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        inside = {
            "VLLM_HUB_DIR": str(self.state),
            "VLLM_MCP_ENGINE_DIR": str(self.folder / "engines"),
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "80",
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        }
        return outside | inside | self.env | more

    def __call__(self, *words: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vllm_mcp", *words],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(**more),
            timeout=LIMIT_S,
            check=False,
        )

    def start(self, *words: str, **more: str) -> "subprocess.Popen[str]":
        """The command in the background, with pipes; it ends with the test at the latest."""
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm_mcp", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**more),
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """End what a failed test left running; SIGTERM, so that it cleans up after itself."""
        for process in self.started:
            process.terminate()
            process.communicate(timeout=LIMIT_S)


@pytest.fixture
def cli() -> Iterator[Cli]:
    """The command, with a state folder that is short enough for sockets; what it started ends with the test."""
    command = Cli(Path(tempfile.mkdtemp(prefix="cli-", dir="/tmp")))
    yield command
    command.end()
    ended = command("down", "--force") if hub_runs(command.state) else None
    shutil.rmtree(command.folder, ignore_errors=True)
    assert ended is None or ended.returncode == 0, ended.stderr


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "torch_dtype": "float16",
}


def make_model(folder: Path) -> Path:
    """A model folder that is complete as far as files tell: the fake engine does not read the weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    header = json.dumps({"w": {"dtype": "F16", "shape": [8], "data_offsets": [0, 16]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    return folder
