"""GPUs as the hub reads them, at two boundaries: the fake binding, and the real binding on a fake driver library.

What is expected is the same at both, so the fake binding, which the suite's other tests use, keeps its promise of
being like nvidia-ml-py.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.nvml import machines
from tests.fakes.nvml.machines import A100_MIG, BARE, GIB, H100, T4, build_library, compiler, describe, gpus
from vllm_mcp_hub.host.bounded import OneAtATime, Silent
from vllm_mcp_hub.host.gpus import GpuReader, read_gpus
from vllm_mcp_hub.host.host_stats import HostReader
from vllm_mcp_protocol.gauges import GPU_GAUGES, gpu_gauges
from vllm_mcp_protocol.gpu import GpuMemory, GpuReading

ROOT = Path(__file__).parents[3]
PATIENCE_S = 30.0


class Probe:
    """A process that reads the GPUs of a described machine."""

    def __init__(self, folder: Path, *, library: Path | None) -> None:
        self.machine = folder / "machine.json"
        sources = [ROOT / "protocol/src", ROOT / "packages/hub/src"]
        if library is None:
            sources.insert(0, machines.FOLDER)
        # The script's own folder is not on the path (-P): the fake binding lies beside it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(machines.FOLDER / "probe.py")],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(map(str, sources)),
                "FAKE_NVML": str(self.machine),
                "LD_LIBRARY_PATH": str(library.parent if library else ""),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.binding = self._answer()["binding"]

    def is_now(self, *of: dict[str, Any], **more: Any) -> None:
        """The machine has these GPUs from now on."""
        describe(self.machine, {"gpus": list(of), **more})

    def new(self, **arguments: Any) -> None:
        """A reader that has seen nothing yet."""
        self._ask("new", arguments)

    def say(self, **arguments: Any) -> Any:
        """What a reading gives, as JSON."""
        return self._ask("read", arguments)

    def read(self, **arguments: Any) -> list[GpuReading]:
        return [GpuReading.model_validate(reading) for reading in self.say(**arguments)]

    def end(self) -> None:
        self._process.communicate(timeout=PATIENCE_S)

    def _ask(self, command: str, arguments: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({command: arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        pytest.skip("no C compiler: the real binding needs a driver library to be made")
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module", params=["binding", "library"])
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    real = request.getfixturevalue("library") if request.param == "library" else None
    probe = Probe(tmp_path_factory.mktemp("machine"), library=real)
    assert (Path(probe.binding).parent == machines.FOLDER) == (real is None)
    yield probe
    probe.is_now()  # what hangs goes on
    probe.end()


@pytest.fixture
def probe(process: Probe) -> Probe:
    process.is_now()
    process.new(limit_s=PATIENCE_S)
    return process


def test_a_gpu_tells_all_it_has(probe: Probe) -> None:
    probe.is_now(H100)
    (gpu,) = probe.read(processes=True)
    assert (gpu.id, gpu.uuid, gpu.name, gpu.lost) == ("0", H100["uuid"], H100["name"], None)
    assert gpu.memory == GpuMemory(
        total_bytes=80 * GIB, used_bytes=30 * GIB, free_bytes=49 * GIB + GIB // 2, reserved_bytes=GIB // 2
    )
    assert (gpu.utilization.gpu_percent, gpu.utilization.memory_percent) == (97, 41)
    heat = gpu.temperature
    assert (heat.celsius, heat.memory_celsius, heat.margin_celsius) == (61, 72, 28)
    assert (heat.slowdown_celsius, heat.shutdown_celsius, heat.gpu_max_celsius) == (89, 95, 87)
    power = gpu.power
    assert (power.watts, power.limit_watts, power.default_limit_watts) == (650.5, 700, 700)
    assert (power.min_limit_watts, power.max_limit_watts, power.energy_joules) == (200, 700, 123456789.012)
    clocks = gpu.clocks
    assert (clocks.graphics_mhz, clocks.sm_mhz, clocks.memory_mhz, clocks.max_sm_mhz) == (1755, 1755, 2619, 1980)
    assert gpu.throttle_reasons == gpu.events == ("power limit reached",)
    assert (gpu.pcie.generation, gpu.pcie.width, gpu.pcie.max_generation, gpu.pcie.max_width) == (5, 16, 5, 16)
    assert gpu.nvlink is not None
    assert (gpu.nvlink.links, gpu.nvlink.active, gpu.nvlink.link_mb_per_second) == (4, 3, 26562)
    ecc = gpu.ecc
    assert (ecc.enabled, ecc.volatile.corrected, ecc.volatile.uncorrected) == (True, 7, 0)
    assert (ecc.aggregate.corrected, ecc.aggregate.uncorrected) == (9, 2)
    assert (ecc.remapped_rows, ecc.remapping_pending, ecc.remapping_failed) == (3, True, False)
    assert (gpu.performance_state, gpu.compute_mode) == (0, "default")
    assert gpu.mig is not None
    assert not gpu.mig.enabled
    assert [(p.pid, p.bytes, p.kind) for p in gpu.processes or ()] == [
        (1, 29 * GIB, "compute"),
        (999999999, None, "compute"),
        (1, GIB, "graphics"),
    ]
    assert [p.name for p in gpu.processes or ()][1] == "unknown"


def test_what_is_not_told_is_none(probe: Probe) -> None:
    probe.is_now(H100, T4, BARE)
    new, old, bare = probe.read()
    assert (new.fan_percent, new.ecc.retirement_pending, new.pcie.sent_mb_per_second) == (None, None, None)
    assert new.processes is None
    assert (old.memory and old.memory.reserved_bytes, old.nvlink, old.mig, old.performance_state) == (None,) * 4
    assert (old.fan_percent, old.ecc.retirement_pending, old.compute_mode) == (33, True, "exclusive process")
    assert (old.temperature.slowdown_celsius, old.temperature.margin_celsius) == (93, 8)
    assert old.throttle_reasons == ("hardware slowdown (heat or power)", "too hot: slowed down by the driver")
    assert bare.memory is not None
    assert bare.memory.shared_with_host
    assert bare == GpuReading(id="2", uuid="GPU-b", name="NVIDIA GB10", memory=bare.memory)


def test_mig_instances_are_parts_of_their_gpu(probe: Probe) -> None:
    probe.is_now(A100_MIG)
    (gpu,) = probe.read()
    assert gpu.mig is not None
    assert [(i.uuid, i.profile, i.gpu_instance, i.compute_instance) for i in gpu.mig.instances] == [
        ("MIG-1", "3g.40gb", 1, 0),
        ("MIG-2", "2g.20gb", 3, None),
    ]
    assert [i.memory.used_bytes for i in gpu.mig.instances if i.memory] == [39 * GIB, 0]


@pytest.mark.parametrize(("code", "words"), [(True, "bus"), (16, "reset"), (999, "unknown error")])
def test_a_lost_gpu_is_still_itself_and_may_come_back(probe: Probe, code: int, words: str) -> None:
    probe.new(limit_s=PATIENCE_S, lasting_every_s=0)
    one, other = gpus(2)
    probe.is_now(one, other)
    probe.read()
    for _ in range(2):  # the session in which it was lost, and the next one
        probe.is_now(one | {"lost": code}, other)
        lost, well = probe.read()
        assert (lost.id, lost.uuid, lost.name) == ("0", one["uuid"], one["name"])
        assert words in (lost.lost or "")
        assert lost.memory is None
        assert gpu_gauges(lost) == {"gpu_lost": 1}
        assert (well.lost, well.temperature.celsius) == (None, 61)
    probe.is_now(one, other)
    assert [gpu.lost for gpu in probe.read()] == [None, None]


def test_a_gpu_lost_before_it_was_seen_has_only_its_index_until_it_is_back(probe: Probe) -> None:
    probe.new(limit_s=PATIENCE_S, lasting_every_s=0)
    one, other = gpus(2)
    probe.is_now(one, other | {"lost": True})
    well, lost = probe.read()
    assert (well.lost, lost.id, lost.uuid) == (None, "1", None)
    assert lost.lost
    probe.is_now(one, other)  # it is seen by a new session only: this one could not open it
    assert [(gpu.uuid, gpu.lost) for gpu in probe.read()] == [(one["uuid"], None), (other["uuid"], None)]


def test_a_gpu_that_is_not_listed_any_more_is_lost(probe: Probe) -> None:
    one, other = gpus(2)
    probe.is_now(one, other)
    probe.read()
    probe.is_now(other)
    well, lost = probe.read()
    assert (well.id, well.uuid, well.lost) == ("0", other["uuid"], None)
    assert (lost.id, lost.uuid) == ("0", one["uuid"])
    assert "list" in (lost.lost or "")


def test_a_driver_may_go_and_come_back(probe: Probe) -> None:
    probe.is_now(*gpus(2))
    probe.read()
    probe.is_now(driver=False)
    assert ["gone" in (gpu.lost or "") for gpu in probe.read()] == [True, True]
    probe.is_now(*gpus(2))
    assert [gpu.lost for gpu in probe.read()] == [None, None]


@pytest.mark.parametrize("driver", [True, False])
def test_a_machine_without_gpus_has_no_readings(probe: Probe, driver: bool) -> None:
    probe.is_now(driver=driver)
    assert probe.read(thorough=True, processes=True) == []


FUNCTIONS = [
    name
    for name in (ROOT / "tests/fakes/nvml/pynvml.py").read_text().replace("(", " ").split()
    if name.startswith("nvmlDevice") and name not in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex")
]
IDENTITY = ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo")


def test_one_question_that_fails_takes_nothing_else_away(probe: Probe) -> None:
    """Whatever the code: unsupported, not permitted, missing in this driver, an unknown one."""
    assert len(FUNCTIONS) > 30
    machine = H100 | {"mig": A100_MIG["mig"]}
    probe.is_now(machine)
    probe.say()  # throughput is known from the second reading on
    (whole,) = probe.say(processes=True, thorough=True)
    for place, function in enumerate(sorted({*FUNCTIONS} - {*IDENTITY})):
        code = (3, 4, 13, 999)[place % 4]
        probe.is_now(machine | {"errors": {function: code}})
        (gpu,) = probe.say(processes=True, thorough=True)
        less = [part for part in whole if sum(_told(gpu[part])) < sum(_told(whole[part]))]
        assert gpu["lost"] is None
        assert len(less) <= (4 if function == "nvmlDeviceGetFieldValues" else 1), function
        probe.is_now(machine)
        probe.say(thorough=True)
        assert probe.say(processes=True, thorough=True) == [whole], function


def test_any_question_may_learn_that_the_gpu_is_lost(probe: Probe) -> None:
    for function in sorted({*FUNCTIONS} - {"nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetPcieThroughput"}):
        machine = H100 | {"mig": A100_MIG["mig"]}
        if function == "nvmlDeviceGetAttributes_v2":
            machine |= {"mig": machine["mig"] | {"devices": machine["mig"]["devices"][1:]}}
        probe.new(limit_s=PATIENCE_S)
        probe.is_now(machine | {"errors": {function: 15}})
        (gpu,) = probe.read(processes=True, thorough=True)
        assert gpu.lost, function


def _told(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _told(inner)
    else:
        yield int(value is not None)


def test_pcie_throughput_is_the_difference_of_two_readings(probe: Probe) -> None:
    def pcie(sent: int, received: int) -> tuple[float | None, float | None]:
        probe.is_now(H100 | {"pcie": {"sent": sent, "received": received}})
        (gpu,) = probe.read()
        return gpu.pcie.sent_mb_per_second, gpu.pcie.received_mb_per_second

    assert pcie(10**12, 10**13) == (None, None)
    started = time.monotonic()
    sent, received = pcie(10**12 + 10**9, 10**13)
    assert sent is not None
    assert received == 0
    assert sent >= 1000 / (PATIENCE_S + time.monotonic() - started)
    assert pcie(0, 10**13) == (None, 0)


def test_without_counters_the_driver_measures_pcie_only_when_asked(probe: Probe) -> None:
    probe.is_now(T4)
    assert [gpu.pcie.sent_mb_per_second for gpu in probe.read()] == [None]
    (gpu,) = probe.read(thorough=True)
    assert (gpu.pcie.sent_mb_per_second, gpu.pcie.received_mb_per_second) == (1.5, 0.25)


def test_what_lasts_is_asked_seldom_and_what_moves_always(probe: Probe) -> None:
    probe.is_now(H100)
    probe.read()
    probe.is_now(H100 | {"temperature": 50, "ecc": {"current": 0, "pending": 1}, "fan": 12})
    (gpu,) = probe.read()
    assert (gpu.temperature.celsius, gpu.ecc.enabled, gpu.fan_percent) == (50, True, None)
    (gpu,) = probe.read(thorough=True)
    assert (gpu.ecc.enabled, gpu.fan_percent) == (False, 12)


def test_a_driver_that_hangs_is_not_waited_for(probe: Probe) -> None:
    probe.new(limit_s=1.0)
    _until(probe, lambda: probe.say() == [])
    probe.is_now(*gpus(2))
    _until(probe, lambda: [gpu["lost"] for gpu in probe.say()] == [None, None])
    hung = [H100 | {"hang": {"nvmlDeviceGetPowerUsage": True}}, *gpus(2)[1:]]
    probe.is_now(*hung)
    for _ in range(2):  # the one that waits its second, and one that is told at once
        assert ["not answered" in (gpu.lost or "") for gpu in probe.read()] == [True, True]
    probe.is_now(*gpus(2))
    _until(probe, lambda: [gpu["lost"] for gpu in probe.say()] == [None, None])


def test_a_driver_that_hangs_from_the_start_is_an_error_not_an_empty_list(probe: Probe) -> None:
    probe.new(limit_s=0.3)
    probe.is_now(H100 | {"hang": {"nvmlDeviceGetHandleByIndex": True}})
    assert probe.say() == {"silent": True}
    probe.is_now(H100)
    _until(probe, lambda: isinstance(probe.say(), list))


def _until(probe: Probe, reached: Callable[[], bool]) -> None:
    """A limit that is short enough for a test may be too short for a busy machine: then it is tried again."""
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end


def test_both_boundaries_tell_the_same(library: Path, tmp_path: Path) -> None:
    everything = [*gpus(2), T4, A100_MIG, H100 | {"lost": True}, T4 | {"uuid": "GPU-e", "errors": {FUNCTIONS[-1]: 4}}]
    told = []
    for number, real in enumerate((None, library)):
        (folder := tmp_path / str(number)).mkdir()
        probe = Probe(folder, library=real)
        probe.is_now(*everything)
        told.append(probe.say(processes=True, thorough=True))
        probe.end()
    assert told[0] == told[1]
    readings = [GpuReading.model_validate(reading) for reading in told[0]]
    assert len(readings) == 6
    gauges = {name for reading in readings for name in gpu_gauges(reading)}
    assert gauges == {*GPU_GAUGES}


def test_a_driver_may_be_upgraded_under_the_hub(library: Path, tmp_path: Path) -> None:
    """The loaded library is refused by the new kernel module; what is on disk then is loaded instead."""
    build_library(tmp_path, "1")
    probe = Probe(tmp_path, library=tmp_path / library.name)
    probe.new(limit_s=PATIENCE_S)
    probe.is_now(H100, kernel="1")
    assert [gpu.lost for gpu in probe.read()] == [None]
    probe.is_now(H100, kernel="2")
    assert ["gone" in (gpu.lost or "") for gpu in probe.read()] == [True]
    build_library(tmp_path, "2")
    assert [gpu.lost for gpu in probe.read()] == [None]
    probe.end()


@pytest.mark.parametrize(("of", "code"), [(gpus(2), 0), ([H100 | {"lost": True}], 1), ([], 3)])
def test_the_checks_for_real_gpus_work(library: Path, tmp_path: Path, of: list[dict[str, Any]], code: int) -> None:
    """`tests/gpu_run.py` is for machines that tests seldom see; here it meets the fake driver."""
    describe(tmp_path / "machine.json", {"gpus": of})
    (smi := tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\n"
        'for i in 0 1; do echo "$i, NVIDIA H100 80GB HBM3, 81920, 512, 63, 700.00, 700.00, 700.00, 1980, 2619,'
        ' 5, 16, [N/A], 0"; done\n'
    )
    smi.chmod(0o755)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.gpu_run", "--out", str(tmp_path / "pages")],
        cwd=ROOT,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "protocol/src", ROOT / "packages/hub/src"))),
            "FAKE_NVML": str(tmp_path / "machine.json"),
            "LD_LIBRARY_PATH": str(library.parent),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 4,
        check=False,
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    pages = list((tmp_path / "pages").glob("*.md"))
    assert len(pages) == (code != 3)
    if code == 0:
        assert ran.stdout.count("| holds |") == 8
        assert "GPU-0" not in pages[0].read_text()


def test_without_a_gpu_the_host_speaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_gpus() == []
    assert GpuReader().read() == []
    reading = HostReader(state_dir=tmp_path, cache_dir=tmp_path / "not" / "yet").read()
    assert reading.memory.total_bytes >= reading.memory.available_bytes > 0
    assert reading.state_disk is not None
    assert reading.cache_disk is not None
    assert reading.cache_disk.free_bytes <= reading.cache_disk.total_bytes == reading.state_disk.total_bytes


# -- questions that may never be answered


def test_an_answer_and_an_error_come_back() -> None:
    asker = OneAtATime()
    assert asker.ask(lambda: 42, PATIENCE_S) == 42
    with pytest.raises(ZeroDivisionError):
        asker.ask(lambda: 1 // 0, PATIENCE_S)
    assert asker.ask(lambda: "again", PATIENCE_S) == "again"


def test_while_one_question_is_stuck_no_other_is_asked() -> None:
    asker, go_on = OneAtATime(), threading.Event()
    asked: list[int] = []
    with pytest.raises(Silent):
        asker.ask(go_on.wait, 0.05)
    threads = threading.active_count()
    for _ in range(5):
        with pytest.raises(Silent):
            asker.ask(lambda: asked.append(1), PATIENCE_S)  # would take minutes if it waited
    assert threading.active_count() == threads
    go_on.set()
    end = time.monotonic() + PATIENCE_S
    while not asked and time.monotonic() < end:
        try:
            asker.ask(lambda: asked.append(1), PATIENCE_S)
        except Silent:
            continue
    assert asked == [1]
