"""The points of one subject: the last ones as they came, older ones rolled up, and any stretch of time of them. Pure.

Tiers: raw, one minute, fifteen minutes. A point belongs to the slot in which it ends. A slot is complete when a point
of a later one comes, or when it is closed; complete ones are what is written down. Eighths of a day are in memory
alone, so that a day is added up of twenty points and not of a hundred.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import NamedTuple

from vllm_mcp_hub.core.monitoring.points import Point, together


class Tier(NamedTuple):
    """A resolution."""

    name: str
    length_s: float
    """Of a slot; 0 for points as they came."""
    remembered_s: float
    """So long they are in memory."""


RAW = Tier("raw", 0.0, 15 * 60.0)
MINUTE = Tier("1m", 60.0, 2 * 3600.0)
QUARTER = Tier("15m", 15 * 60.0, 25 * 3600.0)
EIGHTH = Tier("3h", 3 * 3600.0, QUARTER.remembered_s)
TIERS = (RAW, MINUTE, QUARTER)
"""Those that are written down, the finest first."""
LEAST_RAW_S = 1.0
"""Looks that come faster are remembered together: an engine's look takes some kilobytes, fifteen minutes at ten a
second tens of megabytes. They are written down as they came."""
MOST_RAW = 1800
"""Of each subject: two neighbours cover more than `LEAST_RAW_S`."""


class Finished(NamedTuple):
    """A point to be written down."""

    tier: Tier
    slot_s: float
    """Where its slot begins; of a raw one, where it ends."""
    point: Point


@dataclass(slots=True)
class _Lane:
    """The points of one tier, the oldest first."""

    tier: Tier
    points: deque[Point] = field(default_factory=deque)
    open: Point | None = None
    """The slot that is being filled."""
    slot_s: float = 0.0

    def add(self, point: Point) -> Finished | None:
        """Take a point of a finer tier; what it completed."""
        slot_s = point.end_s // self.tier.length_s * self.tier.length_s
        done = self.close() if slot_s != self.slot_s else None
        self.slot_s = slot_s
        self.open = point if self.open is None else together((self.open, point))
        return done

    def close(self) -> Finished | None:
        done, self.open = self.open, None
        if done is None:
            return None
        self.points.append(done)
        while self.points[0].end_s < done.end_s - self.tier.remembered_s:
            self.points.popleft()
        return Finished(self.tier, self.slot_s, done)

    def has(self, point: Point) -> bool:
        """Was it taken before? Asked of points that are older than all that is still to come."""
        return self.open is not None and point.end_s <= self.open.end_s

    def between(self, begin_s: float, end_s: float) -> Iterator[Point]:
        """Those that lie wholly in this time."""
        return (one for one in self.all() if one.begin_s >= begin_s and one.end_s <= end_s)

    def all(self) -> tuple[Point, ...]:
        return tuple(self.points) if self.open is None else (*self.points, self.open)


class Timeline:
    """Of one subject."""

    def __init__(self) -> None:
        self._raw: deque[Point] = deque(maxlen=MOST_RAW)
        self._minutes = _Lane(MINUTE)
        self._quarters = _Lane(QUARTER)
        self._eighths = _Lane(EIGHTH)
        """Of complete quarters."""

    @property
    def last(self) -> Point | None:
        """The newest point."""
        return self._raw[-1] if self._raw else None

    def add(self, point: Point) -> list[Finished]:
        """Take the newest point; what is to be written down now. One that is not newer than the last begins anew: the
        clock was set back."""
        if self._raw and point.end_s <= self._raw[-1].end_s:
            self._raw.clear()
        self._remember(point)
        while self._raw and self._raw[0].end_s < point.end_s - RAW.remembered_s:
            self._raw.popleft()
        return [Finished(RAW, point.end_s, point), *self._roll_up(point, (self._minutes, self._quarters))]

    def _remember(self, point: Point) -> None:
        """A raw point; in one with the last where both are short, and of one minute."""
        last = self.last
        if last is not None and point.end_s - last.begin_s <= LEAST_RAW_S and _minute(last) == _minute(point):
            point = together((self._raw.pop(), point)) or point
        self._raw.append(point)

    def _roll_up(self, point: Point, lanes: Iterable[_Lane]) -> list[Finished]:
        done = [one for lane in lanes if (one := lane.add(point)) is not None]
        for one in done:
            if one.tier is QUARTER:
                self._eighths.add(one.point)
        return done

    def recall(self, tier: Tier, points: Iterable[Point]) -> None:
        """Take what was written down before: the coarsest tier first, and of each the oldest point first. A slot that
        a hub could not write down at its end is made of finer points."""
        lanes = [lane for lane in (self._minutes, self._quarters) if lane.tier.length_s >= tier.length_s]
        for point in points:
            if tier is RAW:
                self._remember(point)
            self._roll_up(point, [lane for lane in lanes if not lane.has(point)])

    def close(self) -> list[Finished]:
        """The slots that are not complete, to be written down at an end."""
        return [one for one in (self._minutes.close(), self._quarters.close()) if one is not None]

    def window(self, begin_s: float, end_s: float) -> Point | None:
        """What this time adds up to: of long ones the whole eighths of a day and quarters, then whole minutes, then
        single points at its edges. None when nothing is known of it."""
        return together(self._within(begin_s, end_s, (self._eighths, self._quarters, self._minutes)))

    def _within(self, begin_s: float, end_s: float, lanes: Sequence[_Lane]) -> Iterator[Point]:
        if begin_s >= end_s:
            return
        if not lanes:
            if not self._raw or end_s < self._raw[0].end_s:
                return  # one of the gaps between the looks of long ago: a day has a hundred of them
            ends = [one.end_s for one in self._raw]
            yield from islice(self._raw, bisect_right(ends, begin_s), bisect_right(ends, end_s))
            return
        coarse, finer = lanes[0], lanes[1:]
        whole = list(coarse.between(begin_s, end_s)) if end_s - begin_s >= coarse.tier.length_s else []
        at_s = begin_s
        for point in whole:
            yield from self._within(at_s, point.begin_s, finer)
            yield point
            at_s = point.end_s
        yield from self._within(at_s, end_s, finer)

    def series(self, begin_s: float, end_s: float, tier: Tier) -> list[Point]:
        """Its points of that tier in memory."""
        if tier is RAW:
            ends = [one.end_s for one in self._raw]
            return list(islice(self._raw, bisect_left(ends, begin_s), bisect_right(ends, end_s)))
        lane = self._minutes if tier is MINUTE else self._quarters
        return [one for one in lane.all() if one.end_s >= begin_s and one.begin_s <= end_s]


def _minute(point: Point) -> float:
    return point.end_s // MINUTE.length_s


def continued(written: Mapping[Tier, Sequence[Point]], known: Timeline | None) -> Timeline:
    """What was written down, and after it what is known already, which is in memory since it was seen or recalled."""
    seen = {tier: [] if known is None else known.series(-inf, inf, tier) for tier in TIERS}
    first_s = min((points[0].begin_s for points in seen.values() if points), default=inf)
    timeline = Timeline()
    for tier in reversed(TIERS):
        timeline.recall(tier, [*(one for one in written[tier] if one.end_s <= first_s), *seen[tier]])
    return timeline
