"""State of one fake engine: what its routes share, its counters, and its ends."""

import threading
from collections.abc import Callable
from typing import Any

from tests.fakes import fake_generation as gen
from tests.fakes.fake_args import Arguments, Knobs

Json = dict[str, Any]
CORE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
SHUTTING_DOWN = "cannot schedule new futures after shutdown"
KV_BYTES_PER_TOKEN = 512
"""Of the suite's tiny Llama, so that pool sizes look alike."""


class Engine:
    """What the routes share: counters, adapters, sleep; and the ends of the engine."""

    def __init__(self, args: Arguments, knobs: Knobs, env: dict[str, str]) -> None:
        self.args, self.knobs = args, knobs
        self.dev = env.get("VLLM_SERVER_DEV_MODE") == "1"
        self.runtime_lora = env.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1" and args.on("--enable-lora")
        keys = args.flags.get("--api-key", ()) or ((env["VLLM_API_KEY"],) if env.get("VLLM_API_KEY") else ())
        self.keys = frozenset(f"Bearer {key}" for key in keys)
        self.changed = threading.Condition()
        self.running = self.done = self.prompt_tokens = self.generated_tokens = 0
        self.finished = dict.fromkeys(("stop", "length", "abort", "error"), 0)
        self.adapters: dict[str, str] = {}
        self.sleep_level = 0
        self.draining = False
        self.aborting = threading.Event()
        self.core_dead = threading.Event()
        self.kill_core: Callable[[str], None] = lambda _signal: None
        self.requests: list[Json] = []

    @property
    def models(self) -> tuple[str, ...]:
        return (*self.args.names, *self.adapters)

    def rules(self) -> gen.Rules:
        return gen.Rules(
            self.models,
            self.args.max_model_len,
            self.knobs.answer_tokens,
            self.args.on("--enable-prompt-tokens-details"),
            self.args.on("--enable-force-include-usage"),
        )

    def begin(self) -> None:
        """Admit one generation; blocks while the engine sleeps. Raises gen.Refused at the engine's end."""
        with self.changed:
            self.changed.wait_for(lambda: not self.sleep_level or self.draining)
            if self.draining:
                raise gen.Refused(500, SHUTTING_DOWN, "InternalServerError", None)
            self.running += 1
            first = self.done == 0 and self.running == 1
        if first and self.knobs.die_on_first_request:
            self.kill_core(self.knobs.die_on_first_request)
            self.core_dead.wait(10)
        if self.core_dead.is_set():
            self.end("error", 0, 0)
            raise gen.Refused(500, CORE_DEAD, "InternalServerError", None)

    def end(self, finish: str, prompt_tokens: int, tokens: int) -> None:
        with self.changed:
            self.running -= 1
            self.done += 1
            self.prompt_tokens += prompt_tokens
            self.generated_tokens += tokens
            self.finished[finish] += 1
            self.changed.notify_all()
            worn_out = self.done == self.knobs.die_after_requests
        if worn_out:
            self.kill_core("SIGKILL")

    def set_sleep(self, level: int) -> None:
        with self.changed:
            self.sleep_level = 0 if self.knobs.sleep_is_a_lie else level
            self.changed.notify_all()

    def drain(self, timeout_s: float) -> None:
        """Refuse new generations, wait for those under way, then abort what is left."""
        with self.changed:
            self.draining = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.running == 0, timeout_s)
            self.aborting.set()
            self.changed.wait_for(lambda: self.running == 0, 1.0)


def kv_cache_tokens(args: Arguments) -> int:
    return args.whole("--kv-cache-memory-bytes", 2**30) // KV_BYTES_PER_TOKEN


def metrics_text(engine: Engine) -> str:
    """The metrics that the suite reads, under vLLM's names and labels."""
    label = f'engine="0",model_name="{engine.args.names[0]}"'
    tokens = kv_cache_tokens(engine.args)
    cache = {
        "block_size": "128",
        "kv_cache_max_concurrency": f"{tokens / engine.args.max_model_len:.2f}",
        "kv_cache_memory_bytes": str(tokens * KV_BYTES_PER_TOKEN),
        "kv_cache_size_tokens": str(tokens),
        "num_gpu_blocks": str(tokens // 128),
    }
    states = {"awake": 0, "weights_offloaded": 1, "discard_all": 2}
    rows: list[tuple[str, str, str, float]] = [
        ("num_requests_running", "gauge", "", engine.running),
        ("num_requests_waiting", "gauge", "", 0),
        ("kv_cache_usage_perc", "gauge", "", 0),
        ("prompt_tokens_total", "counter", "", engine.prompt_tokens),
        ("generation_tokens_total", "counter", "", engine.generated_tokens),
        *(
            ("request_success_total", "counter", f',finished_reason="{reason}"', count)
            for reason, count in engine.finished.items()
        ),
        *(
            ("engine_sleep_state", "gauge", f',sleep_state="{name}"', float(engine.sleep_level == level))
            for name, level in states.items()
        ),
        ("cache_config_info", "gauge", "".join(f',{key}="{value}"' for key, value in cache.items()), 1),
    ]
    lines: list[str] = []
    for name, kind, more, value in rows:
        family = f"vllm:{name.removesuffix('_total')}" if kind == "counter" else f"vllm:{name}"
        if f"# TYPE {family} {kind}" not in lines:
            lines += [f"# HELP {family} As vLLM.", f"# TYPE {family} {kind}"]
        lines.append(f"vllm:{name}{{{label}{more}}} {float(value)}")
    return "\n".join(lines) + "\n"
