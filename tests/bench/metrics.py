"""Reading an engine's /metrics, beside prometheus_client's parser: the recorded answer of a busy vLLM 0.32 (96 KB).

Rounds take turns, so that both get the machine as it is; the rows are medians.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.rows import Row
from vllm_mcp_protocol.metrics.exposition import parse_prometheus
from vllm_mcp_protocol.metrics.reading import WANTED, read_engine_metrics

ROUNDS = 60
RECORDED = Path(__file__).parents[2] / "protocol" / "tests" / "data" / "metrics" / "vllm-0.32-busy.prom"
PEER = "prometheus_client's parser, every family"


def main() -> list[Row]:
    """Nothing is started."""
    data = RECORDED.read_bytes()
    pieces: dict[str, Callable[[], object]] = {
        PEER: lambda: list(text_string_to_metric_families(data.decode())),
        "read /metrics: every family": lambda: parse_prometheus(data),
        "read /metrics: the families that a reading wants": lambda: parse_prometheus(data, wanted=WANTED),
        "read /metrics: the whole reading, histograms included": lambda: read_engine_metrics(data),
    }
    taken_s: dict[str, list[float]] = {name: [] for name in pieces}
    for _ in range(ROUNDS):
        for name, piece in pieces.items():
            started_s = time.perf_counter()
            piece()
            taken_s[name].append(time.perf_counter() - started_s)
    medians_ms = {name: statistics.median(some) * 1000 for name, some in taken_s.items()}
    theirs_ms = medians_ms.pop(PEER)
    return [Row(name, PEER, ours_ms, theirs_ms, "ms") for name, ours_ms in medians_ms.items()]
