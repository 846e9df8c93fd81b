"""From scrapes of one engine to points: counters are followed through restarts, and gaps stay gaps. Pure.

A counter only grows while its process lives, and begins at zero with the next one. Whatever else makes a number fall or
jump (a data-parallel rank that comes or goes, a line that cannot be read) says nothing about what the engine did: it is
a gap, of the whole point or of that counter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_mcp_hub.core.monitoring.points import Point, make_point
from vllm_mcp_protocol.metrics.arrangement import EngineReading
from vllm_mcp_protocol.metrics.histogram import Histogram, increase

MOST_STRETCH_S = 120.0
"""What was counted over a longer stretch without a look is not told: it would look like a rate of the last minute.
Who looks more rarely passes three of its intervals."""

_Counted = float | Histogram


@dataclass(slots=True)
class Following:
    """What is known of an engine's counters since the last look."""

    last: EngineReading | None = None
    last_s: float = 0.0
    _known: dict[str, tuple[float, _Counted]] = field(default_factory=dict)
    """When each counter was read last, and what it was."""

    def look(self, at_s: float, reading: EngineReading, most_stretch_s: float = MOST_STRETCH_S) -> Point:
        """The point that ends with this look (Unix time). Its counters begin at the look before; one that could not be
        read there, at the last that had it."""
        before, since_s = self.last, self.last_s
        self.last, self.last_s = reading, at_s
        gauges, counted = _gauges(reading), _counted(reading)
        if before is None or not 0 < at_s - since_s <= most_stretch_s or _of_other_parts(before, reading):
            self._known = {name: (at_s, value) for name, value in counted.items()}
            return make_point(at_s, at_s, gauges)
        grown = self._grown(before, reading, counted, at_s, most_stretch_s)
        counters = {name: amount for name, amount in grown.items() if not isinstance(amount, Histogram)}
        histograms = {name: amount for name, amount in grown.items() if isinstance(amount, Histogram)}
        return make_point(since_s, at_s, gauges, counters, histograms)

    def _grown(
        self,
        before: EngineReading,
        reading: EngineReading,
        counted: Mapping[str, _Counted],
        at_s: float,
        most_stretch_s: float,
    ) -> dict[str, _Counted]:
        """How much each counter grew, without those of which that cannot be told."""
        known = self._known
        amounts = {name: _growth(known[name][1], value) for name, value in counted.items() if name in known}
        # Where nothing says when the engine was started, a counter that fell does, unless it was not read wholly.
        fell = None in amounts.values() and reading.started_s is None and not reading.skipped
        if fell or reading.restarted_since(before):
            self._known = {name: (at_s, value) for name, value in counted.items()}
            return dict(counted)
        grown: dict[str, _Counted] = {}
        for name, value in counted.items():
            if name not in known:
                # It appears with the first that it counts; or it was there before and could not be read.
                amount = None if before.skipped else value
            elif at_s - known[name][0] > most_stretch_s:
                amount = None
            else:
                amount = amounts[name]
                if amount is None:
                    continue  # a part of it was not read: what it was stands until it is read again
            known[name] = (at_s, value)
            if amount is not None:
                grown[name] = amount
        return grown


def _of_other_parts(before: EngineReading, reading: EngineReading) -> bool:
    """Are sums of both sums of different things, though no restart made them so?"""
    differ = (before.ranks, before.model_names) != (reading.ranks, reading.model_names)
    return differ and not reading.restarted_since(before)


def _growth(before: _Counted, after: _Counted) -> _Counted | None:
    """None for what fell."""
    if isinstance(before, Histogram) and isinstance(after, Histogram):
        return increase(before, after)
    if isinstance(before, Histogram) or isinstance(after, Histogram) or after < before:
        return None
    return after - before


def _counted(reading: EngineReading) -> dict[str, _Counted]:
    by = {f"{name}:{label}": value for name, values in reading.counters_by.items() for label, value in values.items()}
    return {**reading.counters, **by, **reading.histograms}


def _gauges(reading: EngineReading) -> dict[str, float]:
    by = {f"{name}:{label}": value for name, values in reading.gauges_by.items() for label, value in values.items()}
    return {**reading.gauges, **by}
