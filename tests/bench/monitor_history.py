"""A history as a busy machine leaves it, written by the hub's own code: 16 engines, 8 GPUs and the host.

What the points hold is made up, and moves everywhere that the recorded answer of a busy vLLM 0.32 holds anything, so
that it compresses no better than that of real engines.

Points go through the hub's timelines and its history. Those that are older than single points are kept come at steps
of a minute: what they are rolled up to has the same columns. What would have been deleted since is not written.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy

from vllm_mcp_hub.core.monitoring.following import Following
from vllm_mcp_hub.core.monitoring.keeping import Ages, Kept
from vllm_mcp_hub.core.monitoring.points import Point, make_point
from vllm_mcp_hub.core.monitoring.timeline import MINUTE, QUARTER, RAW, Finished, Timeline
from vllm_mcp_hub.monitoring.history import History
from vllm_mcp_hub.monitoring.monitor import FORGET_EVERY_S
from vllm_mcp_protocol.gauges import GPU_GAUGES, HOST_GAUGES
from vllm_mcp_protocol.metrics.reading import read_engine_metrics

GPUS = 8
STEP_S = 5.0
REQUESTS_PER_S = 4.0
"""Of each engine."""
ROUNDS_AT_ONCE = 12
RECORDED = Path(__file__).parents[2] / "protocol" / "tests" / "data" / "metrics" / "vllm-0.32-busy.prom"


class Machine:
    """Makes points, each time others."""

    def __init__(self, engines: int) -> None:
        self._rng = numpy.random.default_rng(1)
        self._engines = [f"engine:bench/model-{number:02}" for number in range(engines)]
        self._hardware = {**{f"gpu:{n}": list(GPU_GAUGES) for n in range(GPUS)}, "host": list(HOST_GAUGES)}
        reading = read_engine_metrics(RECORDED.read_bytes())
        following = Following()
        following.look(0.0, read_engine_metrics(b""))
        point = following.look(1.0, reading)
        self._layout = point.layout
        self._gauges = numpy.array(point.lasts)
        requests = reading.counters["request_success"]
        self._per_s = numpy.maximum(numpy.array(point.counted), 0.0) * (REQUESTS_PER_S / requests)
        self._now_s = 0.0

    def points(self, at_s: float, step_s: float) -> Iterator[tuple[str, Point]]:
        """One of each subject, which ends at `at_s`."""
        for subject in self._engines:
            moved = self._gauges * self._rng.uniform(0.5, 1.5, len(self._gauges))
            gauges = array("d", moved.tobytes())
            counted = array("d", self._rng.poisson(self._per_s * step_s).astype(float).tobytes())
            yield (
                subject,
                Point(self._layout, at_s - step_s, at_s, 1, step_s, gauges, gauges, gauges, gauges, counted),
            )
        yield from self.hardware(at_s, step_s)

    def hardware(self, at_s: float, step_s: float) -> Iterator[tuple[str, Point]]:
        """Of the GPUs and of the host."""
        for subject, names in self._hardware.items():
            values = self._rng.uniform(0.0, 1e4, len(names)).round(2)
            yield subject, make_point(at_s, at_s, dict(zip(names, values.tolist(), strict=True)))

    def kept_now(self) -> list[Kept]:
        """What one round writes down, of a time long ago, so that it is in nobody's way."""
        self._now_s += STEP_S
        return [Kept(subject, Finished(RAW, point.end_s, point)) for subject, point in self.points(self._now_s, STEP_S)]


async def fill(path: Path, *, engines: int, hours: int, end_s: float) -> None:
    """`hours` up to `end_s` at steps of five seconds, with what the hub deletes deleted when the hub does it."""
    history, said = await History.open(path)
    if said:
        raise RuntimeError(said)
    machine, ages = Machine(engines), Ages.of_retention(hours)
    timelines: dict[str, Timeline] = {}
    kept: list[Kept] = []
    at_s, fine_s, forgotten_s = end_s - hours * 3600.0, end_s - ages.raw_s - 3 * FORGET_EVERY_S, end_s - 1e9
    oldest_s = {RAW: fine_s, MINUTE: end_s - ages.minutes_s - FORGET_EVERY_S, QUARTER: 0.0}
    rounds = 0
    while at_s < end_s:
        step_s = STEP_S if at_s >= fine_s else MINUTE.length_s
        at_s += step_s
        rounds += 1
        for subject, point in machine.points(at_s, step_s):
            done = timelines.setdefault(subject, Timeline()).add(point)
            kept += (Kept(subject, one) for one in done if one.slot_s >= oldest_s[one.tier])
        if rounds % ROUNDS_AT_ONCE == 0:
            if kept:
                await history.write(kept)
            kept = []
            if at_s >= fine_s and at_s - forgotten_s >= FORGET_EVERY_S:
                forgotten_s = at_s
                await history.forget(ages, at_s)
    for subject, timeline in timelines.items():
        kept += (Kept(subject, one) for one in timeline.close())
    await history.write(kept)
    await history.close()
