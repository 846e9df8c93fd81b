"""Delivery to hooks: played against receivers that fail at random; pinned cases."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_hub.core.alerting.hooks import (
    Delivery,
    Policy,
    Queue,
    Result,
    delay_after,
    enqueue,
    expire,
    finished,
    for_hooks,
    outcome_of_status,
    queue_from_json,
    queue_to_json,
    started,
    to_send,
    troubles,
)
from vllm_mcp_protocol.errors import BadInput

POLICY = Policy(first_delay_s=5, factor=2, longest_delay_s=40, attempt_s=30, give_up_after_s=10_000, most=1000)
OK, BUSY = Result("delivered"), Result("failed", "503")


def delivery(number: int, hook: str = "a", at: float = 0) -> Delivery:
    return Delivery(id=f"n{number}", hook=hook, payload={"n": number}, made_at=at)


def filled(*deliveries: Delivery, policy: Policy = POLICY) -> Queue:
    return enqueue((), deliveries, policy)[0]


@given(
    st.lists(st.sampled_from("abc"), max_size=12),
    st.lists(st.sampled_from(("delivered", "failed", "failed", "lost", "restart")), max_size=40),
    st.sampled_from((0.0, -50_000.0, 5_000.0)),
)
def test_everything_arrives_at_least_once_in_order_and_nobody_is_hammered(
    hooks: list[str], fates: list[str], jump_s: float
) -> None:
    """However attempts end, hubs die and the clock is set once; in the end all receivers work."""
    made = [delivery(number, hook) for number, hook in enumerate(hooks)]
    queue, now = filled(*made), 0.0
    arrived: dict[str, list[str]] = {}
    under_way: set[str] = set()
    plan = iter(fates)
    for turn in range(1000):
        if not queue:
            break
        now += jump_s if turn == 3 else 0
        for one in to_send(queue, now, POLICY):
            assert one.hook not in under_way or one.sent_at is not None, "one attempt at a time"
            queue = started(queue, one, now)
            fate = next(plan, "delivered")
            under_way = under_way | {one.hook} if fate == "lost" else under_way - {one.hook}
            if fate == "restart":
                arrived.setdefault(one.hook, []).append(one.id)  # it arrived, and the hub died before it knew
                under_way = set()
                queue = queue_from_json(json.loads(json.dumps(queue_to_json(queue))))
            elif fate != "lost":
                if fate == "delivered":
                    arrived.setdefault(one.hook, []).append(one.id)
                queue, dropped = finished(queue, one, OK if fate == "delivered" else BUSY, now, POLICY)
                assert dropped == ()
        now += POLICY.first_delay_s
    assert queue == ()
    for hook in set(hooks):
        once = list(dict.fromkeys(arrived[hook]))
        assert once == [one.id for one in made if one.hook == hook]


def test_delays_grow_to_their_cap() -> None:
    assert [delay_after(number, POLICY) for number in (1, 2, 3, 4, 5, 1000)] == [5, 10, 20, 40, 40, 40]


def test_a_failure_waits_and_the_other_hook_does_not() -> None:
    queue = filled(delivery(1), delivery(2), delivery(3, "b"))
    assert [one.id for one in to_send(queue, 0, POLICY)] == ["n1", "n3"]
    first = queue[0]
    queue = started(queue, first, 0)
    assert [one.id for one in to_send(queue, 1, POLICY)] == ["n3"], "n2 must not overtake n1"
    queue, _ = finished(queue, first, BUSY, 1, POLICY)
    assert to_send(queue, 5.9, POLICY)[0].hook == "b"
    assert [one.id for one in to_send(queue, 6, POLICY)] == ["n1", "n3"]
    assert queue[0].last_error == "503"


@pytest.mark.parametrize(("asked_s", "waited_s"), [(None, 5), (1, 5), (20, 20), (9999, 40), (float("inf"), 5)])
def test_a_receiver_may_ask_for_more_time_within_the_cap(asked_s: float | None, waited_s: float) -> None:
    queue = started(filled(delivery(1)), delivery(1), 0)
    queue, _ = finished(queue, delivery(1), Result("failed", "429", asked_s), 0, POLICY)
    assert [bool(to_send(queue, at_s, POLICY)) for at_s in (waited_s - 0.1, waited_s)] == [False, True]


def test_an_attempt_without_a_result_is_repeated() -> None:
    queue = started(filled(delivery(1)), delivery(1), 0)
    assert to_send(queue, 29, POLICY) == ()
    assert [one.attempts for one in to_send(queue, 30, POLICY)] == [1]


def test_a_refusal_ends_it_and_is_told() -> None:
    queue, dropped = finished(filled(delivery(1)), delivery(1), Result("refused", "404"), 0, POLICY)
    assert (queue, [one.reason for one in dropped]) == ((), ["refused: 404"])
    assert finished(queue, delivery(1), BUSY, 0, POLICY) == ((), ())


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((200, "delivered"), (204, "delivered"), (301, "failed"), (400, "refused"), (404, "refused")),
        *((408, "failed"), (429, "failed"), (500, "failed")),
    ],
)
def test_what_a_status_means(status: int, outcome: str) -> None:
    assert outcome_of_status(status) == outcome


def test_a_full_queue_drops_the_oldest_of_the_hook_with_most() -> None:
    policy = replace(POLICY, most=4)
    queue = filled(delivery(0, "dead"), delivery(1, "dead"), delivery(2, "dead"), delivery(3, "works"))
    queue = started(queue, queue[0], 0)
    queue, dropped = enqueue(queue, [delivery(4, "works")], policy)
    assert [one.id for one in queue] == ["n0", "n2", "n3", "n4"], "what is being sent stays"
    assert [one.delivery.id for one in dropped] == ["n1"]
    assert enqueue(queue, [delivery(4, "works")], policy) == (queue, ()), "the same is not queued twice"


def test_old_news_is_given_up_but_not_untried() -> None:
    queue = filled(delivery(1), delivery(2))
    assert expire(queue, 1e9, POLICY) == (queue, ())
    queue, _ = finished(started(queue, delivery(1), 0), delivery(1), BUSY, 0, POLICY)
    assert expire(queue, 10_000, POLICY) == (queue, ())
    left, dropped = expire(queue, 10_001, POLICY)
    assert [one.id for one in left] == ["n2"]
    assert dropped[0].reason == "not delivered within 10000 s; 503"


def test_news_for_a_hook_that_was_removed_are_given_up_also_untried() -> None:
    left, dropped = for_hooks(filled(delivery(1), delivery(2, "b")), ["b"])
    assert ([one.id for one in left], [one.delivery.id for one in dropped]) == (["n2"], ["n1"])


def test_what_a_hook_said_last_is_told_while_news_wait_for_it() -> None:
    queue = started(filled(delivery(1), delivery(2), delivery(3, "b")), delivery(1), 0)
    assert troubles(queue) == {}
    queue, _ = finished(queue, delivery(1), BUSY, 0, POLICY)
    assert troubles(queue) == {"a": "503"}
    queue, _ = finished(started(queue, delivery(1), 5), delivery(1), OK, 5, POLICY)
    assert troubles(queue) == {}


@pytest.mark.parametrize("entry", [None, 3, {}, {"id": "x"}, {"id": "", "hook": "a", "payload": {}, "made_at": 0}])
def test_a_stored_queue_that_is_none_is_refused(entry: Any) -> None:
    with pytest.raises(BadInput, match="entry 0"):
        queue_from_json([entry])
