"""What the hub says of real GPUs, held against nvidia-smi and against itself: `python -m tests.gpu_run`.

Writes a page into docs/gpu-runs. It only reads, and leaves the GPUs' settings alone.
"""

import argparse
import csv
import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mcp_hub.host.devices import read_devices
from vllm_mcp_hub.host.gpus import GpuReader, read_gpus
from vllm_mcp_hub.host.host_stats import HostReader
from vllm_mcp_hub.host.nvml import close_session, open_session
from vllm_mcp_protocol.gauges import GPU_GAUGES, gpu_gauges, host_gauges
from vllm_mcp_protocol.gpu import GpuReading

ROOT = Path(__file__).parents[1]
NO_GPU = 3
ROUNDS = 100
SMI_FIELDS = {
    "index": "id",
    "name": "name",
    "memory.total": "memory.total_bytes",
    "memory.reserved": "memory.reserved_bytes",
    "temperature.gpu": "temperature.celsius",
    "enforced.power.limit": "power.limit_watts",
    "power.default_limit": "power.default_limit_watts",
    "power.max_limit": "power.max_limit_watts",
    "clocks.max.sm": "clocks.max_sm_mhz",
    "clocks.max.memory": "clocks.max_memory_mhz",
    "pcie.link.gen.max": "pcie.max_generation",
    "pcie.link.width.max": "pcie.max_width",
    "fan.speed": "fan_percent",
    "ecc.errors.uncorrected.volatile.total": "ecc.volatile.uncorrected",
}
"""Fields of nvidia-smi, and of a reading."""

TOLERANCE = {"temperature.celsius": 5.0, "fan_percent": 10.0}
"""These move between two looks; everything else must be equal, to nvidia-smi's rounding."""

MIB_FIELDS = ("memory.total_bytes", "memory.reserved_bytes")


@dataclass(frozen=True)
class Check:
    name: str
    problem: str
    """Empty when it holds."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/gpu-runs", help="folder for the page")
    out: Path = parser.parse_args(argv).out
    readings = read_gpus()
    if not readings:
        print("no GPU here", file=sys.stderr)
        return NO_GPU
    driver = _driver_version()
    checks = [*_checks(readings)]
    page = _page(readings, driver, checks)
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{_slug(readings[0].name or 'gpu')}-x{len(readings)}-driver-{_slug(driver)}.md"
    target.write_text(page, encoding="utf-8")
    print(page)
    return 1 if any(check.problem for check in checks) else 0


def _checks(readings: Sequence[GpuReading]) -> Iterator[Check]:
    yield Check("no GPU is lost", "; ".join(f"GPU {gpu.id}: {gpu.lost}" for gpu in readings if gpu.lost))
    well = [gpu for gpu in readings if not gpu.lost]
    yield Check("memory adds up", "; ".join(filter(None, map(_memory_problem, well))))
    yield Check("the devices that engines get are these GPUs", _devices_problem(well))
    unknown = {word for gpu in well for word in gpu.events if word.startswith("unknown")}
    yield Check("every clocks event reason is known", ", ".join(sorted(unknown)))
    yield Check("every number is finite and named", "; ".join(filter(None, map(_gauges_problem, well))))
    yield Check("a kept reader says who they are as one reading does", _kept_problem(readings))
    yield Check("nvidia-smi says the same", _smi_problem(well))
    yield Check("the host speaks, too", "" if host_gauges(HostReader(state_dir=Path.home()).read()) else "no numbers")


def _memory_problem(gpu: GpuReading) -> str:
    memory = gpu.memory
    if memory is None:
        return f"GPU {gpu.id} tells no memory"
    rest = memory.total_bytes - memory.used_bytes - memory.free_bytes - (memory.reserved_bytes or 0)
    return f"GPU {gpu.id}: {rest} bytes are unaccounted for" if rest else ""


def _devices_problem(readings: Sequence[GpuReading]) -> str:
    devices = [(device.id, device.uuid, device.name) for device in read_devices()]
    gpus = [(gpu.id, gpu.uuid, gpu.name) for gpu in readings]
    return "" if devices == gpus else f"{len(devices)} devices, {len(gpus)} GPUs, or in another order"


def _gauges_problem(gpu: GpuReading) -> str:
    wrong = [name for name, value in gpu_gauges(gpu).items() if not math.isfinite(value) or name not in GPU_GAUGES]
    return f"GPU {gpu.id}: {', '.join(wrong)}" if wrong else ""


def _kept_problem(readings: Sequence[GpuReading]) -> str:
    reader = GpuReader()
    again = [(gpu.id, gpu.uuid) for _ in range(2) for gpu in reader.read()]
    reader.close()
    return "" if again == [(gpu.id, gpu.uuid) for gpu in readings] * 2 else "other GPUs, or another order"


def _smi_problem(readings: Sequence[GpuReading]) -> str:
    if (smi := shutil.which("nvidia-smi")) is None:
        return ""
    query = [smi, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    if told.returncode:
        return f"nvidia-smi: {told.stdout.strip()} {told.stderr.strip()}"
    rows = list(csv.reader(told.stdout.splitlines(), skipinitialspace=True))
    differences = [
        f"GPU {gpu.id}: {path} is {_at(gpu, path)}, nvidia-smi says {said}"
        for gpu, row in zip(readings, rows, strict=False)
        for path, said in zip(SMI_FIELDS.values(), row, strict=False)
        if not _same(path, _at(gpu, path), said)
    ]
    return "; ".join(differences)


def _same(path: str, ours: Any, said: str) -> bool:
    if ours is None or "N/A" in said or "Not" in said:
        return ours is None and ("N/A" in said or "Not" in said)
    if not re.fullmatch(r"-?\d+(\.\d+)?", said):
        return str(ours) == said
    number = float(ours) / 1024**2 if path in MIB_FIELDS else float(ours)
    return abs(number - float(said)) <= TOLERANCE.get(path, 1.0)


def _at(gpu: GpuReading, path: str) -> Any:
    value: Any = gpu
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _page(readings: Sequence[GpuReading], driver: str, checks: Sequence[Check]) -> str:
    names = ", ".join(gpu.name or "unknown" for gpu in readings)
    rows = [f"| {check.name} | {check.problem or 'holds'} |" for check in checks]
    costs = [f"| {what} | {cpu_ms:.2f} | {wall_ms:.2f} |" for what, cpu_ms, wall_ms in _costs()]
    calls = [f"| `{call}` | {mean_us:.0f} | {most_us:.0f} |" for call, mean_us, most_us in _calls()]
    shown = json.dumps([_public(gpu) for gpu in readings], indent=1)
    return "\n".join(
        [
            f"# {names}, driver {driver}",
            "",
            *("| check | |", "|---|---|", *rows, ""),
            *(f"Each of the {len(readings)} GPUs read, in ms; means of {ROUNDS}:", ""),
            *("| reading | CPU | elapsed |", "|---|---|---|", *costs, ""),
            *("Calls of one sampled and one thorough reading of the first GPU, in µs:", ""),
            *("| call | mean | most |", "|---|---|---|", *calls, ""),
            *("```json", shown, "```", ""),
        ]
    )


def _costs() -> Iterator[tuple[str, float, float]]:
    reader = GpuReader()
    reader.read()
    yield "sampled", *_cost(reader.read, ROUNDS)
    yield "sampled, with processes", *_cost(lambda: reader.read(processes=True), ROUNDS)
    yield "thorough", *_cost(lambda: reader.read(processes=True, thorough=True), 10)
    reader.close()
    yield "with a session of its own", *_cost(read_gpus, 5)
    yield "the host", *_cost(HostReader(state_dir=Path.home(), cache_dir=Path.home()).read, ROUNDS)


def _cost(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        work()
    return (time.process_time() - cpu) / rounds * 1e3, (time.perf_counter() - wall) / rounds * 1e3


def _calls() -> list[tuple[str, float, float]]:
    """Which of the driver's functions take how long, dearest first."""
    times: dict[str, list[float]] = {}
    reader = GpuReader()
    nvml = open_session()
    originals = {name: getattr(nvml, name) for name in dir(nvml) if name.startswith("nvmlDeviceGet")}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                times.setdefault(name, []).append((time.perf_counter() - started) * 1e6)

        return call

    try:
        for name, function in originals.items():
            if callable(function):
                setattr(nvml, name, timed(name, function))
        for _ in range(10):
            reader.read(processes=True)
        reader.read(thorough=True)
    finally:
        for name, function in originals.items():
            setattr(nvml, name, function)
        reader.close()
        close_session(nvml)
    means = [(name, sum(found) / len(found), max(found)) for name, found in times.items()]
    return sorted(means, key=lambda row: -row[1])


def _driver_version() -> str:
    nvml = open_session()
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    except (nvml.NVMLError, AttributeError):
        return "unknown"
    finally:
        close_session(nvml)


def _public(gpu: GpuReading) -> dict[str, Any]:
    """A reading without what tells one machine from another, and without what is not told."""
    values = gpu.model_dump(exclude={"uuid", "processes"}, exclude_none=True)
    for instance in (values.get("mig") or {}).get("instances", ()):
        instance.pop("uuid")
    values["events"] = list(gpu.events)
    values["processes"] = None if gpu.processes is None else len(gpu.processes)
    return values


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
