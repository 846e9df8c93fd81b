"""A start read from vLLM's log: its phases in order, with their seconds, and what it said about memory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bounded import must_end
from vllm_mcp_hub.core.startup import MAX_LINE_CHARS, StartupLog
from vllm_mcp_protocol.model import Phase
from vllm_mcp_protocol.units import GIB

CPU_LOG = (Path(__file__).parent / "data" / "start_cpu.txt").read_text().splitlines()

GPU_LOG = """\
(APIServer pid=1) INFO 11-21 00:50:22 [api_utils.py:286] non-default args: {'model': 'org/m'}
(APIServer pid=1) INFO 11-21 00:50:23 [model.py:2152] Using max model len 40960
(EngineCore pid=2) INFO 11-21 00:50:30 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='org/m'
(Worker_TP0 pid=3) INFO 11-21 00:50:40 [gpu_model_runner.py:5000] Starting to load model org/m...
model-00001-of-00002.safetensors:   3%|▎         | 100M/4.90G [00:01<01:00, 80.0MB/s]
(Worker_TP0 pid=3) INFO 11-21 00:51:40 [weight_utils.py:533] Time spent downloading weights for org/m: 60.000000 seconds
Loading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]
Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.00s/it]
(Worker_TP0 pid=3) INFO 11-21 00:51:45 [default_loader.py:501] Loading weights took 4.50 seconds
(Worker_TP0 pid=3) INFO 11-21 00:51:45 [gpu_model_runner.py:5150] Model loading took 7.63 GiB memory and 5.1 seconds
(Worker_TP1 pid=4) INFO 11-21 00:51:46 [gpu_model_runner.py:5150] Model loading took 7.60 GiB memory and 5.3 seconds
(Worker_TP0 pid=3) INFO 11-21 00:52:00 [gpu_worker.py:760] Available KV cache memory: 55.25 GiB
(EngineCore pid=2) INFO 11-21 00:52:00 [kv_cache_utils.py:2327] GPU KV cache size: 402,304 tokens, \
Maximum concurrency for 40,960 tokens per request: 9.82x
Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  10%|█         | 5/51 [00:00<00:04,  9.5it/s]
(Worker_TP0 pid=3) INFO 11-21 00:52:10 [gpu_model_runner.py:6582] Graph capturing finished in 9 secs, took 0.50 GiB
(EngineCore pid=2) INFO 11-21 00:52:11 [core.py:402] init engine (profile, create kv cache, warmup model) took 25.0 s
(APIServer pid=1) INFO 11-21 00:52:12 [entry.py:140] Starting vLLM server on unix:/run/api.sock
INFO:     Application startup complete.
""".splitlines()


def feed(lines: list[str]) -> tuple[StartupLog, list[Phase]]:
    """Each line one second after the last."""
    log, begun = StartupLog(), []
    log.begin(0.0)
    for second, line in enumerate(lines, 1):
        phase = log.feed(line, float(second))
        begun += [phase] if phase is not None else []
    return log, begun


def test_the_cpu_engines_start() -> None:
    log, begun = feed(CPU_LOG)
    assert begun == [Phase.CONFIG, Phase.WEIGHTS, Phase.PROFILE, Phase.SERVER, Phase.READY]
    facts = log.facts()
    assert (facts.kv_cache_tokens, facts.max_concurrency, facts.max_model_len) == (2_097_152, 2048.0, 1024)
    assert facts.kv_cache_bytes == GIB
    assert facts.weights_bytes is None
    assert facts.graph_bytes is None


def test_the_gpu_engines_start() -> None:
    log, begun = feed(GPU_LOG)
    assert begun == [
        Phase.CONFIG,
        Phase.WEIGHTS,
        Phase.DOWNLOAD,
        Phase.WEIGHTS,
        Phase.PROFILE,
        Phase.GRAPHS,
        Phase.SERVER,
        Phase.READY,
    ]
    facts = log.facts()
    assert facts.weights_bytes == round(7.63 * GIB)
    assert facts.kv_cache_bytes == round(55.25 * GIB)
    assert facts.graph_bytes == round(0.5 * GIB)
    assert (facts.kv_cache_tokens, facts.max_concurrency, facts.max_model_len) == (402_304, 9.82, 40_960)
    assert {time.phase: time.seconds for time in facts.phases} == {
        Phase.LAUNCH: 1.0,
        Phase.CONFIG: 3.0,
        Phase.WEIGHTS: 4.0,
        Phase.DOWNLOAD: 1.0,
        Phase.PROFILE: 5.0,
        Phase.GRAPHS: 2.0,
        Phase.SERVER: 2.0,
    }


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("Model loading took 14.99GiB and 3.2 seconds", "weights_bytes", round(14.99 * GIB)),
        ("Auto set (6.5/15.09) GiB for KV cache on node 0, with 8 GiB requested", "kv_cache_bytes", round(6.5 * GIB)),
        ("GPU KV cache size: 1,000 tokens", "kv_cache_tokens", 1000),
        ("Maximum concurrency for 8,192 tokens per request: 0.12x", "max_concurrency", 0.12),
    ],
)
def test_words_of_other_versions(line: str, field: str, value: float) -> None:
    log, _ = feed([line])
    assert getattr(log.facts(), field) == value


def test_progress_is_told() -> None:
    log, _ = feed(GPU_LOG[:8])
    assert (log.phase, log.detail) == (Phase.WEIGHTS, "50% (1/2)")
    log.feed("x 1%|a| 1/9\rmodel.safetensors:  66%|██████▋   | 3.3G/4.90G", 9.0)
    assert log.detail == "66% (3.3G/4.90G)"


HOSTILE_LINES = [
    "1%|" * 300 + "1" * 1000,
    "1%|" * 600,
    "100%|" + "1" * 1900,
    "1% " * 600,
    "1%" + " " * 1900,
    "1% Completed" * 150,
    ".bin" * 500,
    ".bin:" + " " * 1900,
    "Downloading: " * 150,
    ".bin: 1" * 280,
    "version " * 250,
    "version " + "1" * 1900,
    "Explicitly set " * 130,
    "Graph capturing finished in " * 70,
    "Graph capturing finished in " + " took 1" * 280,
    "Model loading took " + "1" * 1900,
    "Using max model len " + "," * 1900,
    "Maximum concurrency for " + "1" * 1900,
]


@pytest.mark.parametrize("line", HOSTILE_LINES)
def test_a_hostile_line_is_read_to_its_end(line: str) -> None:
    """A regular expression holds the interpreter's lock: one line once held the whole hub for 22 s."""
    log = StartupLog()
    log.begin(0.0)
    with must_end():
        log.feed(line[:MAX_LINE_CHARS], 1.0)
    log.finish(2.0)
    assert log.phase is Phase.READY


@pytest.mark.parametrize("number", [",", "9" * 400, "1,,,2", "9" * 19 + "," * 900])
def test_numbers_that_are_none(number: str) -> None:
    log, _ = feed([f"Using max model len {number}", f"Model loading took {number} GiB", f"set ({number}/1)"])
    log.facts()


def test_what_comes_after_the_start_is_no_part_of_it() -> None:
    log, _ = feed(GPU_LOG)
    before = log.facts()
    log.finish(20.0)
    assert log.feed("Loading weights took 1 seconds", 21.0) is None
    log.feed("Using max model len 999999999", 22.0)
    log.finish(23.0)
    assert log.facts() == before


def test_an_engine_that_answers_before_its_log_says_so() -> None:
    log = StartupLog()
    log.begin(10.0)
    log.finish(12.5)
    assert log.phase is Phase.READY
    assert [(time.phase, time.seconds) for time in log.facts().phases] == [(Phase.LAUNCH, 2.5)]


@given(st.lists(st.sampled_from(CPU_LOG + GPU_LOG) | st.text(max_size=80), max_size=40))
def test_any_log_gives_phases_that_add_up(lines: list[str]) -> None:
    log, begun = feed(lines)
    log.finish(100.0)
    assert sum(time.seconds for time in log.facts().phases) == pytest.approx(
        100.0 if Phase.READY not in begun else lines_until_ready(lines)
    )
    ranks = [list(Phase).index(phase) for phase in begun if phase is not Phase.DOWNLOAD]
    assert ranks == sorted(ranks)


def lines_until_ready(lines: list[str]) -> float:
    return float(next(n for n, line in enumerate(lines, 1) if "Application startup complete" in line))
