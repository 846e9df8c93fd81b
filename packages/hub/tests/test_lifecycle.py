"""The life of engines, walked at random against an independent account of who really holds memory."""

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_mcp_hub.core.events import (
    Adopted,
    BecameReady,
    DevicesSeen,
    Effect,
    Event,
    Gauged,
    Granted,
    Kill,
    LeaderLost,
    LeaseEnded,
    LeaseRequested,
    LoadRequested,
    Refused,
    SleepEnded,
    SleepRequested,
    Spawn,
    SpawnFailed,
    StopRequested,
    Suspend,
    Tick,
    Vanished,
    Wake,
    WakeEnded,
    WakeRequested,
)
from vllm_mcp_hub.core.ledger import LIVE, SETTLING, TRANSITIONS, IllegalTransition, Ledger
from vllm_mcp_hub.core.lifecycle import step
from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.model import EngineStatus as S

CAPACITY = 80
FAILURE = ErrorInfo(code="ENGINE_DIED", message="it died")


class HubMachine(RuleBasedStateMachine):
    """Random loads, leases, sleeps, stops and deaths.

    The oracle is a plain account, `held`: an engine that was spawned and has not vanished holds its bytes, whatever
    the ledger calls it; one that was suspended holds its remainder until it is woken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger({"0": CAPACITY, "1": CAPACITY})
        self.held: dict[str, tuple[tuple[str, ...], int]] = {}
        self.leases: set[str] = set()
        self.pending: set[str] = set()
        self.numbers = itertools.count(1)
        self.now_s = 0.0

    def go(self, event: Event) -> list[Effect]:
        before = {e.id: e.state for e in self.ledger.engines.values()}
        effects = step(self.ledger, event)
        if isinstance(event, Vanished | SpawnFailed):
            self.held.pop(event.engine, None)  # before its effects: they may be its second start
        for effect in effects:
            self.account(effect, before)
        self.ledger.check()
        for device in ("0", "1"):
            total = sum(size for devices, size in self.held.values() if device in devices)
            assert total <= CAPACITY, (device, self.held)
        return effects

    def account(self, effect: Effect, before: dict[str, S]) -> None:
        engines = self.ledger.engines
        match effect:
            case Spawn(engine) | Wake(engine):
                mine = engines[engine]
                beside = [e.id for e in self.ledger.settling(mine.devices) if e.id != engine]
                assert not beside, f"{engine} started beside {beside}"
                queued = [e for e in engines.values() if e.state in (S.QUEUED, S.WAKE_QUEUED)]
                older = [e.id for e in queued if e.ticket < mine.ticket and set(e.devices) & set(mine.devices)]
                assert not older, f"{engine} overtook {older}"
                self.held[engine] = (mine.devices, mine.need_bytes)
            case Kill(engine):
                assert before[engine] not in (S.QUEUED, S.STOPPED), "only what was spawned is killed"
            case Suspend(engine):
                assert not engines[engine].busy
            case Granted(request, engine) if request.startswith("l"):
                self.pending.discard(request)
                self.leases.add(request)
                assert engines[engine].state is S.READY
            case Refused(request):
                self.pending.discard(request)
            case _:
                pass

    def pick(self, data: Any, states: frozenset[S] | set[S]) -> str:
        ids = [e.id for e in self.ledger.engines.values() if e.state in states]
        return str(data.draw(st.sampled_from(ids)))

    def any_in(self, *states: S) -> bool:
        return any(e.state in states for e in self.ledger.engines.values())

    @rule(
        name=st.sampled_from("abcdef"),
        count=st.sampled_from([1, 1, 1, 2, 3]),
        devices=st.sampled_from([(), (), ("0",), ("1",), ("0", "1"), ("7",)]),
        need=st.sampled_from([20, 40, 60, 80, 90]),
        asleep=st.sampled_from([None, 5]),
        make_room=st.booleans(),
        ttl=st.sampled_from([None, 3.0]),
        pinned=st.booleans(),
        dry=st.booleans(),
    )
    def load(
        self, name: str, count: int, devices: tuple[str, ...], need: int, asleep: int | None, **options: Any
    ) -> None:
        busy = {
            e.id for e in self.ledger.engines.values() if e.busy or e.pinned or e.state not in (S.READY, S.SLEEPING)
        }
        dry = options.pop("dry")
        states = {e.id: e.state for e in self.ledger.engines.values()}
        effects = self.go(
            LoadRequested(
                f"r{next(self.numbers)}",
                name,
                count,
                need,
                self.now_s,
                devices,
                asleep,
                make_room=options["make_room"],
                ttl_s=options["ttl"],
                pinned=options["pinned"],
                dry_run=dry,
            )
        )
        answers = [e for e in effects if isinstance(e, Granted | Refused)]
        assert len(answers) == 1, "every request is answered exactly once"
        for effect in effects:
            if isinstance(effect, Kill):
                assert options["make_room"]
                assert effect.engine not in busy, "only idle, unpinned engines make room"
        if dry:
            assert states == {e.id: e.state for e in self.ledger.engines.values()}

    @rule(name=st.sampled_from("abcdef"))
    def lease(self, name: str) -> None:
        request = f"l{next(self.numbers)}"
        self.pending.add(request)
        self.go(LeaseRequested(request, name, self.now_s))

    @precondition(lambda self: self.leases or self.pending)
    @rule(data=st.data())
    def end_lease(self, data: Any) -> None:
        request = data.draw(st.sampled_from(sorted(self.leases | self.pending)))
        self.go(LeaseEnded(request, self.now_s))
        self.leases.discard(request)
        self.pending.discard(request)

    @precondition(lambda self: self.any_in(S.STARTING))
    @rule(data=st.data(), outcome=st.sampled_from(["ready", "ready", "again", "died", "spawn"]))
    def starting_ends(self, data: Any, outcome: str) -> None:
        engine = self.pick(data, {S.STARTING})
        match outcome:
            case "ready":
                self.go(BecameReady(engine, self.now_s))
            case "spawn":
                self.go(SpawnFailed(engine, FAILURE))
            case _:
                self.go(Vanished(engine, 1, FAILURE, again=outcome == "again"))

    @precondition(lambda self: self.any_in(*LIVE))
    @rule(data=st.data(), force=st.booleans())
    def stop(self, data: Any, force: bool) -> None:
        self.go(StopRequested(self.pick(data, LIVE), force))

    @precondition(lambda self: self.any_in(*(LIVE - {S.QUEUED})))
    @rule(data=st.data(), lost=st.booleans(), again=st.booleans())
    def die(self, data: Any, lost: bool, again: bool) -> None:
        engine = self.pick(data, LIVE - {S.QUEUED})
        self.go(LeaderLost(engine, FAILURE, again) if lost else Vanished(engine, 0, FAILURE))

    @precondition(lambda self: self.any_in(S.READY))
    @rule(data=st.data(), in_flight=st.sampled_from([0, 0, 3]), sleep=st.booleans())
    def use(self, data: Any, in_flight: int, sleep: bool) -> None:
        engine = self.pick(data, {S.READY})
        self.go(Gauged(engine, in_flight, self.now_s))
        if sleep:
            self.go(SleepRequested(f"s{next(self.numbers)}", engine))

    @precondition(lambda self: self.any_in(S.SUSPENDING))
    @rule(data=st.data(), works=st.booleans())
    def suspended(self, data: Any, works: bool) -> None:
        engine = self.pick(data, {S.SUSPENDING})
        if works:
            devices, _ = self.held[engine]
            self.held[engine] = (devices, 5)
        self.go(SleepEnded(engine, self.now_s, None if works else FAILURE))

    @precondition(lambda self: self.any_in(S.SLEEPING))
    @rule(data=st.data())
    def wake(self, data: Any) -> None:
        self.go(WakeRequested(f"w{next(self.numbers)}", self.pick(data, {S.SLEEPING}), self.now_s))

    @precondition(lambda self: self.any_in(S.WAKING))
    @rule(data=st.data(), works=st.booleans())
    def woken(self, data: Any, works: bool) -> None:
        self.go(WakeEnded(self.pick(data, {S.WAKING}), self.now_s, None if works else FAILURE))

    @rule(seconds=st.sampled_from([1.0, 4.0, 2000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.go(Tick(self.now_s))

    @invariant()
    def queue_drains(self) -> None:
        """Nobody waits for devices that are all quiet."""
        if not self.any_in(*SETTLING):
            assert not self.any_in(S.QUEUED, S.WAKE_QUEUED)


HubMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=40)
TestHub = HubMachine.TestCase


def load(ledger: Ledger, name: str, need: int, **options: Any) -> list[Effect]:
    return step(ledger, LoadRequested(f"r-{name}", name, 1, need, 0.0, **options))


def ready(ledger: Ledger, name: str, need: int, now_s: float = 0.0, **options: Any) -> str:
    [granted] = [e for e in load(ledger, name, need, **options) if isinstance(e, Granted)]
    step(ledger, BecameReady(granted.engine, now_s))
    return granted.engine


def test_a_queued_load_is_a_promise() -> None:
    """Pinned, because random walks reach it only sometimes: stop a; load b (behind a); load c must be refused."""
    ledger = Ledger({"0": 80})
    a = ready(ledger, "a", 80)
    step(ledger, StopRequested(a))
    assert load(ledger, "b", 80) == [Granted("r-b", "e2", devices=("0",))]
    [refusal] = load(ledger, "c", 80)
    assert isinstance(refusal, Refused)
    assert refusal.error.code == "GPU_MEMORY_INSUFFICIENT"
    assert refusal.error.details["holders"] == ["e2"]
    assert step(ledger, Vanished(a, 0)) == [Spawn("e2")]


def test_another_model_is_not_served_under_a_name_in_use() -> None:
    """Told apart from a load by the alias, and from one of the same model under the name that it has."""
    ledger = Ledger({"0": 100})
    engine = ready(ledger, "chat", 10, model="org/llama")
    for more in ({"model": "org/llama"}, {"model": "chat"}, {}):
        [granted] = [e for e in load(ledger, "chat", 10, **more) if isinstance(e, Granted)]
        assert (granted.engine, granted.joined) == (engine, True)
    for dry_run in (False, True):
        [refused] = load(ledger, "chat", 10, model="org/qwen", dry_run=dry_run)
        assert isinstance(refused, Refused)
        assert refused.error.message == f"{engine} serves org/llama as chat, so org/qwen cannot have that name."


def test_the_same_name_is_joined_not_loaded_twice() -> None:
    ledger = Ledger({"0": 80})
    load(ledger, "a", 80)
    assert load(ledger, "a", 80) == [Granted("r-a", "e1", joined=True, devices=("0",))]


def test_make_room_takes_the_least_recently_used_and_never_the_busy_or_pinned() -> None:
    ledger = Ledger({"0": 80})
    ready(ledger, "pinned", 20, 0.0, pinned=True)
    busy = ready(ledger, "busy", 20, 1.0)
    old = ready(ledger, "old", 20, 2.0)
    ready(ledger, "new", 20, 3.0)
    step(ledger, Gauged(busy, 1, 1.0))
    effects = load(ledger, "next", 20, make_room=True)
    assert [e.engine for e in effects if isinstance(e, Kill)] == [old]
    [granted] = [e for e in effects if isinstance(e, Granted)]
    assert granted.evicted == (old,)


def test_a_busy_engine_finishes_first_and_ends_when_its_last_lease_does() -> None:
    ledger = Ledger({"0": 80})
    a = ready(ledger, "a", 80)
    step(ledger, LeaseRequested("l1", "a", 5.0))
    assert step(ledger, StopRequested(a)) == []
    assert ledger.engines[a].state is S.DRAINING
    [refused] = step(ledger, LeaseRequested("l2", "a", 6.0))
    assert isinstance(refused, Refused), "nothing new on an engine that drains"
    [kill] = step(ledger, LeaseEnded("l1", 7.0))
    assert isinstance(kill, Kill)


def test_a_lease_waits_for_the_engine_and_is_refused_with_its_failure() -> None:
    ledger = Ledger({"0": 80})
    load(ledger, "a", 80)
    assert step(ledger, LeaseRequested("l1", "a", 0.0)) == []
    [refused] = step(ledger, Vanished("e1", 1, FAILURE))
    assert refused == Refused("l1", FAILURE)


def test_an_idle_engine_sleeps_when_it_can_and_stops_when_it_cannot() -> None:
    ledger = Ledger({"0": 80, "1": 80})
    sleepy = ready(ledger, "sleepy", 40, 0.0, asleep_bytes=5, ttl_s=10.0)
    plain = ready(ledger, "plain", 40, 0.0, ttl_s=10.0)
    assert step(ledger, Tick(9.9)) == []
    assert set(step(ledger, Tick(10.0))) == {Suspend(sleepy, 1), Kill(plain, 20.0)}


def test_an_engine_is_tried_again_once_only() -> None:
    ledger = Ledger({"0": 80})
    load(ledger, "a", 80)
    assert step(ledger, Vanished("e1", 1, FAILURE, again=True)) == [Spawn("e1")]
    step(ledger, Vanished("e1", 1, FAILURE, again=True))
    assert ledger.engines["e1"].state is S.STOPPED
    assert ledger.engines["e1"].failure == FAILURE


def test_who_waits_for_an_engine_that_is_tried_again_waits_on_until_somebody_stops_it() -> None:
    for stopped in (False, True):
        ledger = Ledger({"0": 80})
        load(ledger, "a", 80)
        step(ledger, LeaseRequested("l1", "a", 0.0))
        [kill] = step(ledger, LeaderLost("e1", FAILURE, again=True))
        assert isinstance(kill, Kill)
        [joined] = load(ledger, "a", 80)
        assert isinstance(joined, Granted)
        assert joined.joined
        if stopped:
            [refused] = step(ledger, StopRequested("e1"))
            assert isinstance(refused, Refused)
            ledger.check()
            assert step(ledger, Vanished("e1", 1)) == []
            assert ledger.engines["e1"].state is S.STOPPED
            continue
        assert step(ledger, Vanished("e1", 1)) == [Spawn("e1")]
        assert step(ledger, BecameReady("e1", 1.0)) == [Granted("l1", "e1")]


def test_an_adopted_overcommitment_is_told_not_hidden() -> None:
    """The last hub's host had more memory, or another reserve: its engines live, and nothing new fits."""
    ledger = Ledger({"0": 80})
    step(ledger, Adopted("e7", "a", ("0",), 100, 0.0, S.READY))
    ledger.check()
    [refused] = load(ledger, "b", 1)
    assert isinstance(refused, Refused)
    assert ledger.next_id == 8


def test_illegal_moves_raise_and_change_nothing() -> None:
    ledger = Ledger({"0": 80})
    load(ledger, "a", 80)
    step(ledger, StopRequested("e1"))
    step(ledger, Vanished("e1", 0))
    with pytest.raises(IllegalTransition):
        step(ledger, Vanished("e1", 0))
    assert ledger.engines["e1"].state is S.STOPPED


def test_every_state_but_stopped_can_end() -> None:
    for state, following in TRANSITIONS.items():
        assert state is S.STOPPED or S.STOPPED in following


def test_a_pinned_engine_is_never_idle() -> None:
    ledger = Ledger({"0": 80})
    ready(ledger, "a", 80, ttl_s=10.0, pinned=True)
    assert step(ledger, Tick(1000.0)) == []


def test_a_sleeper_is_ended_after_as_long_again() -> None:
    ledger = Ledger({"0": 80})
    sleepy = ready(ledger, "sleepy", 40, 0.0, asleep_bytes=5, ttl_s=10.0)
    step(ledger, Tick(10.0))
    step(ledger, SleepEnded(sleepy, 11.0, None))
    assert step(ledger, Tick(20.9)) == []
    assert step(ledger, Tick(21.0)) == [Kill(sleepy, 20.0)]


def test_a_busy_engine_is_not_put_to_sleep_and_says_so() -> None:
    ledger = Ledger({"0": 80})
    a = ready(ledger, "a", 80, asleep_bytes=5)
    step(ledger, Gauged(a, 2, 1.0))
    [refused] = step(ledger, SleepRequested("s1", a))
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.error.details["in_flight"]) == ("MODEL_BUSY", 2)


def test_a_second_try_waits_for_orphans_and_keeps_its_promise() -> None:
    ledger = Ledger({"0": 80})
    load(ledger, "a", 80)
    [kill] = step(ledger, LeaderLost("e1", FAILURE, again=True))
    assert isinstance(kill, Kill)
    [refused] = load(ledger, "b", 1)
    assert isinstance(refused, Refused), "the memory stays promised to the second try"
    assert step(ledger, Vanished("e1", 1, FAILURE)) == [Spawn("e1")]
    assert ledger.engines["e1"].attempts == 2


def test_a_stop_cancels_the_second_try() -> None:
    ledger = Ledger({"0": 80})
    load(ledger, "a", 80)
    step(ledger, LeaderLost("e1", FAILURE, again=True))
    step(ledger, StopRequested("e1"))
    step(ledger, Vanished("e1", 1, FAILURE))
    assert ledger.engines["e1"].state is S.STOPPED


def test_a_failed_sleep_is_told_and_forgotten() -> None:
    ledger = Ledger({"0": 80})
    a = ready(ledger, "a", 80, asleep_bytes=5, ttl_s=1.0)
    step(ledger, SleepRequested("s1", a))
    step(ledger, SleepEnded(a, 1.0, FAILURE))
    assert (ledger.engines[a].state, ledger.engines[a].failure) == (S.READY, FAILURE)
    [kill] = step(ledger, Tick(5.0))
    assert isinstance(kill, Kill), "an idle engine that cannot sleep is ended, not asked for ever"
    step(ledger, Vanished(a, 0))
    assert ledger.engines[a].failure is None


def test_a_port_is_given_once() -> None:
    ledger = Ledger({"0": 80})
    load(ledger, "a", 20, port=8000)
    [refused] = load(ledger, "b", 20, port=8000)
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.error.details["holder"]) == ("PORT_IN_USE", "e1")
    [joined] = load(ledger, "a", 20, port=8000)
    assert isinstance(joined, Granted)


def test_devices_may_come_and_go() -> None:
    ledger = Ledger({"cpu": 100})
    ready(ledger, "a", 60)
    step(ledger, DevicesSeen({"0": 80}))
    ledger.check()
    [granted, _] = load(ledger, "b", 80)
    assert isinstance(granted, Granted)
    assert granted.devices == ("0",), "nothing new goes to a device that is gone"


def test_work_between_two_looks_counts_as_use() -> None:
    ledger = Ledger({"0": 80})
    a = ready(ledger, "a", 80, ttl_s=10.0)
    step(ledger, Gauged(a, 0, 9.0, used=True))
    assert step(ledger, Tick(18.0)) == []
    assert step(ledger, Tick(19.0)) == [Kill(a, 20.0)]


def test_news_of_a_forgotten_engine_changes_nothing() -> None:
    ledger = Ledger({"0": 80})
    assert step(ledger, Vanished("e9", 0)) == []
    [refused] = step(ledger, WakeRequested("w1", "e9", 0.0))
    assert isinstance(refused, Refused)
