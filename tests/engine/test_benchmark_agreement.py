"""Our benchmark and `vllm bench serve` on one engine with the same questions give the same figures."""

import json
import os
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.engines import CPU_ENV, CPU_FLAGS, free_port, started, wait_healthy
from tests.fakes.fakes import make_fake_vllm
from vllm_mcp_protocol.model import Endpoint
from vllm_performance_monitor.benchmarking.client import Client
from vllm_performance_monitor.benchmarking.runner import Plan, learn_cost, run
from vllm_performance_monitor.core.benchmarks.arrivals import ClosedLoop
from vllm_performance_monitor.core.benchmarks.workload import WordCost, Workload

pytestmark = [pytest.mark.anyio, pytest.mark.engine]
LLAMA = "tiny-org/tiny-llama"
WORKLOAD = Workload.of("short", input_tokens=64, output_tokens=32, seed=7)
REQUESTS, WARM_UP, ROUNDS = 160, 8, 3
MEASURED = ("output_tokens_per_second", "ttft_ms", "tpot_ms")
TOLERANCE = 0.15
BENCH_LIMIT_S = 300.0
ANSWER = "unused but for being long enough"
"""Of ShareGPT's form, the one that `vllm bench serve` reads without pandas, which the engine does not come with."""


@dataclass(frozen=True)
class Figures:
    output_tokens_per_second: float
    ttft_ms: float
    tpot_ms: float
    input_tokens: int
    output_tokens: int


@contextmanager
def engine_on_port(vllm: Path, *flags: str, **env: str) -> Iterator[str]:
    """`vllm bench serve` speaks TCP only."""
    port = free_port()
    with started(vllm, LLAMA, flags=[*CPU_FLAGS, *flags], env=env, port=port) as engine:
        wait_healthy(engine)
        yield f"http://127.0.0.1:{port}"


async def ours(base_url: str, cost: WordCost, users: int) -> Figures:
    client = Client(Endpoint(url=base_url, served_name=LLAMA), api="completions", at_once=users)
    try:
        done = await run(plan(cost, users), client)
    finally:
        await client.aclose()
    summary = done.summary
    assert summary.failures == {}
    assert summary.ttft_ms is not None
    assert summary.tpot_ms is not None
    return Figures(
        summary.output_tokens_per_second,
        summary.ttft_ms.mean,
        summary.tpot_ms.mean,
        summary.input_tokens,
        summary.output_tokens,
    )


def plan(cost: WordCost, users: int) -> Plan:
    return Plan(
        workload=WORKLOAD,
        load=ClosedLoop(concurrency=users),
        requests=REQUESTS,
        warm_up=WARM_UP,
        cost=cost,
    )


def theirs(vllm: Path, base_url: str, hf_home: Path, questions: Path, folder: Path, users: int) -> Figures:
    command = [str(vllm), "bench", "serve", "--backend", "openai", "--base-url", base_url]
    command += ["--endpoint", "/v1/completions", "--model", LLAMA, "--temperature", "0", "--ignore-eos"]
    command += ["--dataset-name", "sharegpt", "--dataset-path", str(questions), "--disable-shuffle"]
    command += ["--sharegpt-output-len", str(WORKLOAD.output_tokens), "--num-prompts", str(REQUESTS)]
    command += ["--max-concurrency", str(users), "--num-warmups", str(WARM_UP), "--disable-tqdm"]
    command += ["--save-result", "--result-dir", str(folder), "--result-filename", "theirs.json"]
    env = os.environ | CPU_ENV | {"HF_HOME": str(hf_home)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=BENCH_LIMIT_S, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((folder / "theirs.json").read_text())
    assert said["completed"] == REQUESTS
    return Figures(
        said["output_throughput"],
        said["mean_ttft_ms"],
        said["mean_tpot_ms"],
        said["total_input_tokens"],
        said["total_output_tokens"],
    )


async def compared(
    base_url: str, vllm: Path, hf_home: Path, folder: Path, *, users: int, rounds: int
) -> list[tuple[Figures, Figures]]:
    """Both benchmarks in turn, so that a busy minute of the machine meets both."""
    client = Client(Endpoint(url=base_url, served_name=LLAMA), api="completions", at_once=1)
    cost = await learn_cost(client, WORKLOAD, 0)
    await client.aclose()
    assert cost.measured
    made = plan(cost, users)
    texts = [made.question(number).text for number in range(REQUESTS)]
    questions = folder / "questions.json"
    questions.write_text(json.dumps([{"conversations": [{"value": text}, {"value": ANSWER}]} for text in texts]))
    pairs = []
    for number in range(rounds):
        # Neither is always the one that comes first.
        early = await ours(base_url, cost, users) if number % 2 else None
        other = theirs(vllm, base_url, hf_home, questions, folder, users)
        pairs.append((early or await ours(base_url, cost, users), other))
        print(*pairs[-1], sep="\n")
    return pairs


@pytest.mark.slow  # it compares times: beside other work one of two runs was further apart than what is held
async def test_on_an_engine_of_even_pace_the_figures_are_the_same(
    real_vllm: Path, tiny_hf_home: Path, tmp_path: Path
) -> None:
    """A fake that sends a token every 10 ms: what is left between the two is what they measure, not the machine.

    Seen in three runs on a busy machine: 0.4 to 3.1 % apart in throughput, 0.2 to 2.2 % in TPOT, and in TTFT 1.8 to
    3.6 ms, which their client takes longer to begin a request. Held: 8 %, and 8 ms.
    """
    vllm = make_fake_vllm(tmp_path / "fake", slow_stream_s=0.01)
    with engine_on_port(vllm) as base_url:
        [(mine, other)] = await compared(base_url, real_vllm, tiny_hf_home, tmp_path, users=4, rounds=1)
    assert (mine.input_tokens, mine.output_tokens) == (other.input_tokens, other.output_tokens)
    assert mine.output_tokens_per_second == pytest.approx(other.output_tokens_per_second, rel=0.08)
    assert mine.tpot_ms == pytest.approx(other.tpot_ms, rel=0.08)
    assert mine.ttft_ms == pytest.approx(other.ttft_ms, abs=8)


@pytest.mark.slow
async def test_on_the_real_engine_the_figures_agree_within_noise(
    real_vllm: Path, tiny_hf_home: Path, tmp_path: Path
) -> None:
    """Without a prefix cache: the questions come once for every round of both. One at a time: with four, on two cores
    that engine, API server and client share, TTFT of one and the same benchmark was 49 to 111 ms from run to run, and
    the client that takes less of the processor has the faster engine.

    Tolerance: the medians may differ by 15 %, or by as much as the runs of one benchmark differ among themselves, which
    on two cores under a load of four was 25 % in throughput, and half in TTFT and TPOT: there the API server hands on
    tokens in bursts, the first one late and the others at once. What is measured, the test above holds more closely.
    """
    with engine_on_port(real_vllm, "--no-enable-prefix-caching", HF_HOME=str(tiny_hf_home)) as base_url:
        pairs = await compared(base_url, real_vllm, tiny_hf_home, tmp_path, users=1, rounds=ROUNDS)
    mine, other = zip(*pairs, strict=True)
    assert len({(one.input_tokens, one.output_tokens) for one in (*mine, *other)}) == 1
    for name in MEASURED:
        a, b = ([getattr(one, name) for one in runs] for runs in (mine, other))
        allowed = max(TOLERANCE * statistics.median(b), max(a) - min(a), max(b) - min(b))
        assert abs(statistics.median(a) - statistics.median(b)) <= allowed, (name, a, b)
