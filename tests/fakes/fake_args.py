"""Command line and knobs of the fake vLLM."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = {"k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True)
class Knobs:
    """How the fake behaves. From `fake.json` beside the executable, then from `FAKE_VLLM_<NAME>`."""

    load_s: float = 0.0
    """Seconds from start to ready, spread over the phases."""
    swallow_first_sigterm: bool = False
    """Ignore the first SIGTERM or SIGINT while starting, as the real one does from about 5 s on."""
    deaf: bool = False
    """No process of it heeds SIGTERM or SIGINT, ever."""
    orphan: bool = False
    """The engine core survives the server's end and ignores SIGTERM."""
    core_closes_fds: bool = True
    """The engine core holds none of the files that the server inherited: so it is with the real one, which
    starts it by spawn (seen in /proc/<pid>/fd). False: it inherits them all, as a fork does."""
    oom: bool = False
    oom_unless_max_model_len: int | None = None
    """Out of KV memory unless --max-model-len is at most this."""
    fail: str | None = None
    """A name of `fake_words`: CONFIG_ERRORS, PLAIN_ERRORS or CORE_ERRORS."""
    refuse_port: bool = False
    """Fail as if the port were taken."""
    die_after_requests: int | None = None
    """The engine core is killed when so many generations are done."""
    die_on_first_request: str | None = None
    """Name of the signal that kills the engine core on the first generation, e.g. SIGILL."""
    core_death_exit_s: float = 0.3
    """Seconds from the core's death to the server's exit with status 0 (real: 4)."""
    slow_stream_s: float = 0.0
    """Seconds before each token."""
    slow_health: float = 0.0
    """Seconds before /health answers."""
    answer_tokens: int = 5
    """Tokens after which an answer stops of itself."""
    version: str = "0.32.0+cpu"
    sleep_is_a_lie: bool = False
    """/sleep answers 200, and nothing is put to sleep."""


def read_knobs(folder: str, env: Mapping[str, str]) -> Knobs:
    values: dict[str, Any] = {}
    path = os.path.join(folder, "fake.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            values.update(json.load(file))
    for field in fields(Knobs):
        text = env.get(f"FAKE_VLLM_{field.name.upper()}")
        if text is not None:
            values[field.name] = _value(text)
    return Knobs(**values)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class UsageError(Exception):
    """The command line is refused: exit status 2."""


@dataclass(frozen=True)
class Arguments:
    """`vllm serve MODEL [flags]`."""

    model: str
    flags: Mapping[str, tuple[str, ...]]

    def one(self, flag: str, default: str) -> str:
        values = self.flags.get(flag, ())
        return values[0] if values else default

    def whole(self, flag: str, default: int) -> int:
        text = self.one(flag, "").strip().lower()
        if not text:
            return default
        factor = SIZES.get(text[-1], 1)
        try:
            return int(float(text[:-1] if factor > 1 else text) * factor)
        except ValueError:
            raise UsageError(f"argument {flag}: invalid int value: '{text}'") from None

    def on(self, flag: str) -> bool:
        return flag in self.flags

    @property
    def names(self) -> tuple[str, ...]:
        return self.flags.get("--served-model-name", ()) or (self.model,)

    @property
    def max_model_len(self) -> int:
        return self.whole("--max-model-len", 2048)


def known_flags() -> frozenset[str]:
    with open(os.path.join(HERE, "vllm_flags.txt"), encoding="utf-8") as file:
        return frozenset(file.read().split())


def parse(argv: Sequence[str]) -> Arguments:
    """Raises UsageError for a flag that vLLM 0.32 does not have."""
    flags: dict[str, list[str]] = {}
    free: list[str] = []
    unknown: list[str] = []
    known, current = known_flags(), free
    for word in argv:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            current = flags.setdefault(name, []) if name in known else unknown
            current.extend([word] if name not in known else [value] if value else [])
        else:
            current.append(word)
    if unknown:
        raise UsageError("unrecognized arguments: " + " ".join(unknown))
    model = (free or flags.get("--model") or ["Qwen/Qwen3-0.6B"])[0]
    return Arguments(model, {name: tuple(values) for name, values in flags.items()})


def help_text() -> str:
    lines = ["usage: vllm serve [model_tag] [options]", "", "options:"]
    return "\n".join([*lines, *(f"  {flag} X\n                        As vLLM." for flag in sorted(known_flags()))])
