"""Placement and eviction against brute force over every subset."""

from itertools import chain, combinations

from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_hub.core.placement import Idle, place, smallest_sufficient

idle_engines = st.lists(
    st.tuples(st.integers(0, 50), st.dictionaries(st.sampled_from("012"), st.integers(0, 40), max_size=3)),
    max_size=6,
).map(lambda rows: [Idle(f"e{n}", float(used), holds) for n, (used, holds) in enumerate(rows)])
free_bytes = st.dictionaries(st.sampled_from("0123"), st.integers(-10, 80), min_size=1, max_size=4)


def frees(engines: tuple[Idle, ...], deficits: dict[str, int]) -> bool:
    return all(sum(e.holds.get(d, 0) for e in engines) >= missing for d, missing in deficits.items())


@given(deficits=st.dictionaries(st.sampled_from("012"), st.integers(1, 100), max_size=3), idle=idle_engines)
def test_the_evicted_set_is_the_smallest_that_is_enough(deficits: dict[str, int], idle: list[Idle]) -> None:
    subsets = chain.from_iterable(combinations(idle, size) for size in range(len(idle) + 1))
    enough = [s for s in subsets if frees(s, deficits)]
    found = smallest_sufficient(deficits, idle)
    if not enough:
        assert found is None
        return
    assert found is not None
    assert frees(found, deficits)
    assert len(found) == min(map(len, enough))
    newest = max((e.last_used_s for e in found), default=0)
    assert newest == min(max((e.last_used_s for e in s), default=0) for s in enough if len(s) == len(found))


@given(free=free_bytes, count=st.integers(1, 4), need=st.integers(0, 80), idle=idle_engines)
def test_a_placement_fits_and_none_is_given_up_that_would(
    free: dict[str, int], count: int, need: int, idle: list[Idle]
) -> None:
    found = place(free, count=count, need_bytes=need, evictable=idle)
    by_id = {e.engine: e for e in idle}

    def fits(devices: tuple[str, ...], gone: tuple[Idle, ...]) -> bool:
        return all(free[d] + sum(e.holds.get(d, 0) for e in gone) >= need for d in devices)

    if found is not None:
        assert len(set(found.devices)) == count
        assert fits(found.devices, tuple(by_id[e] for e in found.evict))
        if any(fits(devices, ()) for devices in combinations(free, count)):
            assert not found.evict, "nobody is pushed out when there is room"
    else:
        assert not any(fits(devices, tuple(idle)) for devices in combinations(free, count))


def test_many_idle_engines_are_given_up_oldest_first_without_waste() -> None:
    idle = [Idle(f"e{n}", float(n), {"0": 1 if n < 13 else 10}) for n in range(14)]
    found = place({"0": 0}, count=1, need_bytes=10, evictable=idle)
    assert found is not None
    assert [e for e in found.evict] == [f"e{n}" for n in range(10)]


def test_the_emptiest_devices_are_taken() -> None:
    found = place({"0": 10, "1": 50, "2": 40}, count=2, need_bytes=5)
    assert found is not None
    assert set(found.devices) == {"1", "2"}
