"""Which devices an engine gets, and whom it may push out. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from vllm_mcp_protocol.model import DeviceId

_EXACT_DEVICE_SETS = 5000
"""Up to this many sets of devices are compared; 8 of 16 would be 12,870, which no host here has."""

_EXACT_CANDIDATES = 12
"""Up to 4,096 sets of idle engines are compared; beyond, the least recently used go first."""


@dataclass(frozen=True)
class Idle:
    """An engine that may be pushed out: not busy, not pinned."""

    engine: str
    last_used_s: float
    holds: Mapping[DeviceId, int]
    """Bytes that it is promised on each device."""


@dataclass(frozen=True)
class Placement:
    """Devices for a new engine, and the engines that must go first."""

    devices: tuple[DeviceId, ...]
    evict: tuple[str, ...] = ()


def place(
    free: Mapping[DeviceId, int], *, count: int, need_bytes: int, evictable: Iterable[Idle] = ()
) -> Placement | None:
    """The best `count` devices of `free` (bytes not promised) for an engine that needs `need_bytes` on each.

    Fewest evictions first, then the least recently used ones, then the emptiest devices. None: it does not fit.
    """
    idle = tuple(evictable)
    best: tuple[tuple[object, ...], Placement] | None = None
    for devices in _device_sets(free, count):
        deficits = {d: need_bytes - free[d] for d in devices if need_bytes > free[d]}
        victims = smallest_sufficient(deficits, idle)
        if victims is None:
            continue
        recency = sorted((v.last_used_s for v in victims), reverse=True)
        score = (len(victims), recency, -min(free[d] for d in devices), devices)
        if best is None or score < best[0]:
            best = (score, Placement(devices, tuple(v.engine for v in victims)))
    return None if best is None else best[1]


def _device_sets(free: Mapping[DeviceId, int], count: int) -> Iterable[tuple[DeviceId, ...]]:
    if count > len(free):
        return ()
    if comb(len(free), count) <= _EXACT_DEVICE_SETS:
        return combinations(free, count)
    emptiest = sorted(free, key=lambda device: -free[device])[:count]
    return (tuple(device for device in free if device in emptiest),)


def smallest_sufficient(deficits: Mapping[DeviceId, int], idle: Sequence[Idle]) -> tuple[Idle, ...] | None:
    """The fewest idle engines whose end frees `deficits`, the least recently used among equals; None: never enough."""
    if not deficits:
        return ()
    useful = sorted((i for i in idle if any(i.holds.get(d) for d in deficits)), key=lambda i: i.last_used_s)
    if not _frees(useful, deficits):
        return None
    if len(useful) > _EXACT_CANDIDATES:
        return _oldest_first(useful, deficits)
    for size in range(1, len(useful) + 1):
        enough = [chosen for chosen in combinations(useful, size) if _frees(chosen, deficits)]
        if enough:
            return min(enough, key=lambda chosen: sorted((i.last_used_s for i in chosen), reverse=True))
    return None


def _oldest_first(useful: Sequence[Idle], deficits: Mapping[DeviceId, int]) -> tuple[Idle, ...]:
    """Least recently used until it is enough, then give back whom it can do without, most recently used first."""
    chosen: list[Idle] = []
    for engine in useful:
        chosen.append(engine)
        if _frees(chosen, deficits):
            break
    for engine in reversed(tuple(chosen)):
        without = [other for other in chosen if other is not engine]
        if _frees(without, deficits):
            chosen = without
    return tuple(chosen)


def _frees(engines: Iterable[Idle], deficits: Mapping[DeviceId, int]) -> bool:
    chosen = tuple(engines)
    return all(sum(e.holds.get(device, 0) for e in chosen) >= missing for device, missing in deficits.items())
