"""Reading an engine's /metrics, beside prometheus_client's parser: the recorded answer of a busy vLLM 0.32 (96 KB).

Rounds take turns, so that both get the machine as it is; the rows are medians.
"""

import statistics
import time
from collections.abc import Callable
from itertools import cycle

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.monitor_work import RECORDED, texts_of
from tests.bench.rows import Row
from vllm_mcp_protocol.metrics.arrangement import WANTED
from vllm_mcp_protocol.metrics.exposition import parse_prometheus
from vllm_mcp_protocol.metrics.reading import EngineReader, read_engine_metrics

ROUNDS = 60
PEER = "prometheus_client's parser, every family"


def main() -> list[Row]:
    """Nothing is started."""
    data = RECORDED.read_bytes()
    reader, scrapes = EngineReader(), cycle(texts_of(data.decode()))
    pieces: dict[str, Callable[[], object]] = {
        PEER: lambda: list(text_string_to_metric_families(data.decode())),
        "read /metrics: every family": lambda: parse_prometheus(data),
        "read /metrics: the families that a reading wants": lambda: parse_prometheus(data, wanted=WANTED),
        "read /metrics: the whole reading, histograms included": lambda: read_engine_metrics(data),
        "read /metrics: the whole reading of the engine's next scrape": lambda: reader.read(next(scrapes)),
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
