"""Machines for the two fakes at NVML's boundary: `pynvml.py` here, and the C library of `libnvml.c`.

Both are told what to be by the same description, and a value that it does not have is "not supported" in both:

    {"driver": true, "kernel": "1", "gpus": [{"name": ..., "uuid": ..., "total": ..., "used": ..., ...}]}

`H100` below names every value there is. Knobs of a GPU: `lost` (true, or NVML's error code), `errors` (a code by
function), `hang` (true by function: its calls wait until the machine is described anew). `kernel` is the version of
the kernel module: the C library refuses to work with another one than its own.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIB = 1024**3
FOLDER = Path(__file__).parent

H100: dict[str, Any] = {
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "total": 80 * GIB,
    "used": 30 * GIB,
    "reserved": GIB // 2,
    "processes": [{"pid": 1, "used": 29 * GIB}, {"pid": 999999999, "used": None}],
    "graphics_processes": [{"pid": 1, "used": GIB}],
    "utilization": {"gpu": 97, "memory": 41},
    "temperature": 61,
    "memory_temperature": 72,
    "margin": 26,
    "tlimits": {"shutdown": -8, "slowdown": -2, "mem_max": 0, "gpu_max": 0},
    "power": {"usage_mw": 650500, "enforced_mw": 700000, "default_mw": 700000, "min_mw": 200000, "max_mw": 700000},
    "energy_mj": 123456789012,
    "clocks": {"graphics": 1755, "sm": 1755, "memory": 2619},
    "max_clocks": {"graphics": 1980, "sm": 1980, "memory": 2619},
    "reasons": 0x4,
    "pcie": {"generation": 5, "width": 16, "max_generation": 5, "max_width": 16, "sent": 10**12, "received": 10**13},
    "nvlink": {"count": 4, "links": [{"active": 1, "mb_s": 26562}] * 3 + [{"active": 0}]},
    "ecc": {"current": 1, "pending": 1, "counts": {"0": {"0": 7, "1": 0}, "1": {"0": 9, "1": 2}}},
    "remapped": {"corrected": 1, "uncorrected": 2, "pending": 1, "failed": 0},
    "performance_state": 0,
    "compute_mode": 0,
    "mig": {"current": 0, "pending": 0},
}
"""A busy one, as a driver of 2025 tells it: thresholds as distances, no fans, no retired pages. The counts of `ecc`
are by counter (0 volatile, 1 aggregate) and type (0 corrected, 1 uncorrected)."""

T4: dict[str, Any] = {
    "name": "Tesla T4",
    "uuid": "GPU-44444444-0000-0000-0000-000000000000",
    "total": 15 * GIB,
    "used": 2 * GIB,
    "processes": [],
    "utilization": {"gpu": 0, "memory": 0},
    "temperature": 85,
    "thresholds": {"shutdown": 96, "slowdown": 93, "gpu_max": 85},
    "power": {"usage_mw": 70000, "enforced_mw": 70000},
    "clocks": {"graphics": 585, "sm": 585, "memory": 5000},
    "throttle_reasons": 0x20 | 0x8,
    "pcie": {"generation": 3, "width": 16, "sent_kb_s": 1500, "received_kb_s": 250},
    "ecc": {"current": 1, "pending": 0, "counts": {"0": {"1": 1}}},
    "retirement_pending": 1,
    "performance_state": 32,
    "fan": 33,
    "compute_mode": 3,
}
"""An older one with an older driver: other functions for the same, and much that is not told."""

A100_MIG: dict[str, Any] = {
    "name": "NVIDIA A100-SXM4-80GB",
    "uuid": "GPU-a1000000-0000-0000-0000-000000000000",
    "total": 80 * GIB,
    "used": 40 * GIB,
    "reserved": GIB,
    "mig": {
        "current": 1,
        "pending": 1,
        "count": 7,
        "devices": [
            {
                "name": "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
                "uuid": "MIG-1",
                "total": 40 * GIB,
                "used": 39 * GIB,
                "reserved": 0,
                "gpu_instance": 1,
                "compute_instance": 0,
            },
            {"uuid": "MIG-2", "total": 20 * GIB, "used": 0, "gpu_instance": 3, "slices": 2, "memory_mb": 19968},
        ],
    },
}
BARE: dict[str, Any] = {"name": "NVIDIA GB10", "uuid": "GPU-b", "no_memory_info": True}
"""Shares the host's memory and tells next to nothing."""


def gpus(count: int, kind: dict[str, Any] = H100, **more: Any) -> list[dict[str, Any]]:
    """Several of a kind, each with a uuid of its own."""
    return [kind | {"uuid": f"{kind['uuid'][:-1]}{n}"} | more for n in range(count)]


def describe(path: Path, machine: dict[str, Any]) -> None:
    """Make the machine at `path` be this one from now on: `path` itself is for `pynvml.py`, `path`.txt for the library.

    Files are replaced, never written over: the library knows a new one by its inode.
    """
    lines = [f"{key} {value}" for key, value in sorted(_flat(machine, ""))]
    for target, text in ((path, json.dumps(machine)), (Path(f"{path}.txt"), "\n".join([*lines, ""]))):
        staged = Path(f"{target}.new")
        staged.write_text(text)
        os.replace(staged, target)


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """`gpus.0.clocks.sm 1755`, and for every list its length: `gpus.# 8`."""
    prefix = f"{key}." if key else ""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}{name}")
    elif isinstance(value, list):
        yield f"{prefix}#", str(len(value))
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}{index}")
    elif value is not None:
        yield key, str(int(value)) if isinstance(value, bool) else str(value)


def compiler() -> str | None:
    """A C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build_library(folder: Path, version: str = "1") -> Path:
    """Compile the library into `folder` under the name that nvidia-ml-py loads; its path."""
    library = folder / "libnvidia-ml.so.1"
    staged = folder / "libnvidia-ml.new"
    command = [compiler() or "cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command += [f'-DVERSION="{version}"', "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, "-o", str(staged), str(FOLDER / "libnvml.c")], check=True)
    os.replace(staged, library)
    return library
