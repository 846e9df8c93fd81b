"""The scan of a model cache, beside huggingface_hub's own and beside a walk that only looks.

The caches are made with small files: a scan reads none of them. All sides take turns in the same run, with every
name already in the kernel's memory, so that what is compared is the work and not the disk. Cold: a scanner that
knows nothing; warm: one that has scanned the same cache before, as in a server that runs.
"""

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.rows import Row
from tests.bench.stdio import peak_mib
from tests.caches import make_cache
from vllm_mcp_protocol.hf.cache import ModelCatalog
from vllm_mcp_protocol.hf.scanner import InventoryScanner

SMALL, LARGE = 300, 3_000
ROUNDS = {SMALL: 9, LARGE: 3}
RESCANS = 30
WARM_LIMIT_MS = 10.0
HUGGING_FACE, WALK = "scan_cache_dir", "scandir + lstat, nothing else"


def main() -> list[Row]:
    """Measure in one temporary folder; nothing is left."""
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as name:
        folder = Path(name)
        small, large = make_cache(folder / "small", SMALL), make_cache(folder / "large", LARGE)
        memory = _memory(small)  # first: a peak that others have left would hide it
        return [*_cold(small, SMALL), *_cold(large, LARGE), *_warm(small), memory]


def _cold(cache: Path, repos: int) -> list[Row]:
    from huggingface_hub import scan_cache_dir

    ways: list[Callable[[], object]] = [
        lambda: InventoryScanner().scan([cache]),
        lambda: scan_cache_dir(cache),
        lambda: _walk(cache),
    ]
    ours_ms, hub_ms, walk_ms = _medians_ms(ways, ROUNDS[repos])
    name = f"scan of {repos:,} repositories, cold"
    return [Row(name, HUGGING_FACE, ours_ms, hub_ms, "ms"), Row(name, WALK, ours_ms, walk_ms, "ms")]


def _warm(cache: Path) -> list[Row]:
    scanner, catalog = InventoryScanner(), ModelCatalog()
    scanner.scan([cache])
    catalog.scan([cache])
    scan_ms, catalog_ms = _medians_ms([lambda: scanner.scan([cache]), lambda: catalog.scan([cache])], ROUNDS[SMALL])
    limit = f"{WARM_LIMIT_MS:g} ms"
    return [
        Row(f"scan of {SMALL} repositories, warm", limit, scan_ms, WARM_LIMIT_MS, "ms"),
        Row("the same with the facts of each model, warm", limit, catalog_ms, WARM_LIMIT_MS, "ms"),
    ]


def _memory(cache: Path) -> Row:
    """Peak of this process after many scans, beside that after the first few."""
    catalog = ModelCatalog()
    for _ in range(3):
        catalog.scan([cache], fresh=True)
    gc.collect()
    before_mib = peak_mib(os.getpid())
    for number in range(RESCANS):
        catalog.scan([cache], fresh=number % 2 == 0)
    return Row(f"peak memory after {RESCANS} scans", "after 3 scans", peak_mib(os.getpid()), before_mib, "MiB")


def _medians_ms(ways: list[Callable[[], object]], rounds: int) -> list[float]:
    """Of each way, taking turns; what one made is freed outside of the time of the next."""
    taken_s: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, times_s in zip(ways, taken_s, strict=True):
            gc.collect()
            started_s = time.perf_counter()
            result = way()
            times_s.append(time.perf_counter() - started_s)
            del result
    return [statistics.median(times_s) * 1000 for times_s in taken_s]


def _walk(root: Path) -> int:
    """Look at everything below `root` once, and at nothing twice."""
    waiting, count = [str(root)], 0
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return count
