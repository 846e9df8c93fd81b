"""From scrapes of one engine to points: counters are followed through restarts, and gaps stay gaps. Pure."""

from dataclasses import dataclass

from vllm_mcp_hub.core.monitoring.points import Point, make_point
from vllm_mcp_protocol.metrics.arrangement import EngineReading
from vllm_mcp_protocol.metrics.histogram import Histogram, increase
from vllm_mcp_protocol.metrics.increase import growth

MOST_STRETCH_S = 120.0
"""What was counted over a longer stretch without a look is not told: it would look like a rate of the last minute.
Who looks more rarely passes three of its intervals."""


@dataclass(slots=True)
class Following:
    """What is known of an engine's counters since the last look."""

    last: EngineReading | None = None
    last_s: float = 0.0
    restarts: int = 0

    def look(self, at_s: float, reading: EngineReading, most_stretch_s: float = MOST_STRETCH_S) -> Point:
        """The point that ends with this look (Unix time). Its counters begin at the look before."""
        before, since_s = self.last, self.last_s
        self.last, self.last_s = reading, at_s
        gauges = _gauges(reading)
        if before is None or not 0 < at_s - since_s <= most_stretch_s:
            return make_point(at_s, at_s, gauges)
        restarted = reading.restarted_since(before)
        old, new = before.counters, reading.counters
        anew = restarted or any(value < old.get(name, 0.0) for name, value in new.items())
        self.restarts += anew
        counters = {name: growth(old.get(name, 0.0), value, restarted=anew) for name, value in new.items()}
        for name, parts in reading.counters_by.items():
            was = before.counters_by.get(name, {})
            for label, value in parts.items():
                counters[f"{name}:{label}"] = growth(was.get(label, 0.0), value, restarted=anew)
        histograms: dict[str, Histogram] = {
            name: increase(before.histograms.get(name), one, restarted=anew) for name, one in reading.histograms.items()
        }
        return make_point(since_s, at_s, gauges, counters, histograms)


def _gauges(reading: EngineReading) -> dict[str, float]:
    by = {f"{name}:{label}": value for name, values in reading.gauges_by.items() for label, value in values.items()}
    return {**reading.gauges, **by}
