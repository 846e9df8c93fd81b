"""News of alerts on their way to hooks: what to send next, and what becomes of an attempt. Pure.

At least once: a delivery leaves the queue when its receiver took it, when the receiver says that it never will, when
it is too old, or when the queue is full; all but the first are told to the caller, who logs them. For one hook
deliveries go out in order, one at a time, so that "cleared" never overtakes "raised"; hooks do not wait for each
other. There is one hub for each host, so attempts need no random spread.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Literal

from vllm_mcp_protocol.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message to one hook."""

    id: str
    """The same at each attempt (`Change.id`), so that the receiver can tell a repetition."""
    hook: str
    payload: Mapping[str, Any]
    """JSON values."""
    made_at: float
    attempts: int = 0
    due_at: float = 0
    sent_at: float | None = None
    """An attempt is under way since then."""
    last_error: str = ""


Queue = tuple[Delivery, ...]
"""In the order in which they were made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    first_delay_s: float = 5
    factor: float = 2
    longest_delay_s: float = 300
    attempt_s: float = 60
    """An attempt without a result for so long is taken to be lost, and repeated."""
    give_up_after_s: float = 24 * 3600
    """News of yesterday's alert helps nobody."""
    most: int = 500
    """Deliveries in the queue."""


Outcome = Literal["delivered", "failed", "refused"]
"""`refused`: the receiver will never take it (an answer of 4xx other than 408, 425 and 429)."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one attempt."""

    outcome: Outcome
    error: str = ""
    retry_after_s: float | None = None
    """What the receiver asked for."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A delivery that will not be made, and why."""

    delivery: Delivery
    reason: str


def outcome_of_status(status: int) -> Outcome:
    """What an HTTP status means for a delivery."""
    if 200 <= status < 300:
        return "delivered"
    return "refused" if 400 <= status < 500 and status not in (408, 425, 429) else "failed"


def enqueue(queue: Queue, new: Iterable[Delivery], policy: Policy) -> tuple[Queue, tuple[Dropped, ...]]:
    """The queue with what is new. What is in it already is not put there twice.

    When it is full, the oldest delivery goes of the hook that has the most: a hook that is away for good must not
    take the room of one that works. What is being sent stays.
    """
    known = {(one.hook, one.id) for one in queue}
    waiting = list(queue)
    for delivery in new:
        if (delivery.hook, delivery.id) not in known:
            known.add((delivery.hook, delivery.id))
            waiting.append(delivery)
    dropped = []
    while len(waiting) > policy.most:
        victim = _oldest_of_the_longest(waiting)
        if victim is None:
            break
        waiting.remove(victim)
        dropped.append(Dropped(victim, f"more than {policy.most} deliveries wait; {victim.last_error}".rstrip("; ")))
    return tuple(waiting), tuple(dropped)


def expire(queue: Queue, now: float, policy: Policy) -> tuple[Queue, tuple[Dropped, ...]]:
    """The queue without what is too old to be news. Nothing goes untried: a clock that was set makes everything old."""
    late = [one for one in queue if now - one.made_at > policy.give_up_after_s]
    old = [one for one in late if one.sent_at is None and one.attempts > 0]
    reason = f"not delivered within {policy.give_up_after_s:g} s"
    left = tuple(one for one in queue if one not in old)
    return left, tuple(Dropped(one, f"{reason}; {one.last_error}".rstrip("; ")) for one in old)


def for_hooks(queue: Queue, there: Collection[str]) -> tuple[Queue, tuple[Dropped, ...]]:
    """The queue without what is for hooks that are not there any more."""
    left = tuple(one for one in queue if one.hook in there)
    return left, tuple(Dropped(one, "there is no such hook any more") for one in queue if one.hook not in there)


def troubles(queue: Queue) -> dict[str, str]:
    """By hook: what it said the last time to the news that wait for it."""
    return {one.hook: one.last_error for one in _heads(queue) if one.last_error}


def to_send(queue: Queue, now: float, policy: Policy) -> tuple[Delivery, ...]:
    """What to send now: at most one for each hook. Each is to be marked with `started`."""
    return tuple(one for one in _heads(queue) if _wait_s(one, now, policy) <= 0)


def started(queue: Queue, delivery: Delivery, now: float) -> Queue:
    """An attempt is under way."""
    return _with(queue, delivery, lambda one: replace(one, sent_at=now, attempts=one.attempts + 1))


def finished(
    queue: Queue, delivery: Delivery, result: Result, now: float, policy: Policy
) -> tuple[Queue, tuple[Dropped, ...]]:
    """An attempt ended. A result that comes late, of a delivery that is no longer there, changes nothing."""
    found = next((one for one in queue if (one.hook, one.id) == (delivery.hook, delivery.id)), None)
    if found is None:
        return queue, ()
    if result.outcome == "delivered":
        return _without(queue, found), ()
    if result.outcome == "refused":
        return _without(queue, found), (Dropped(found, f"refused: {result.error}"),)
    delay_s = delay_after(found.attempts, policy)
    if result.retry_after_s is not None and isfinite(result.retry_after_s):
        delay_s = min(max(delay_s, result.retry_after_s), policy.longest_delay_s)
    return _with(
        queue,
        found,
        lambda one: replace(one, sent_at=None, due_at=now + delay_s, last_error=result.error[:500]),
    ), ()


def delay_after(attempts: int, policy: Policy) -> float:
    """Seconds until the next attempt, after so many."""
    delay_s = policy.first_delay_s
    for _ in range(min(attempts - 1, 64)):
        if delay_s >= policy.longest_delay_s:
            break
        delay_s *= policy.factor
    return min(delay_s, policy.longest_delay_s)


def queue_to_json(queue: Queue) -> list[dict[str, Any]]:
    return [{**asdict(one), "payload": dict(one.payload)} for one in queue]


def queue_from_json(stored: Sequence[Any]) -> Queue:
    """The queue as a new hub finds it: what was under way is sent again. Raises BadInput for what is not a delivery."""
    queue = []
    for number, entry in enumerate(stored):
        try:
            known = {name: entry[name] for name in Delivery.__slots__ if name in entry}
            delivery = replace(Delivery(**known), sent_at=None)
        except (TypeError, KeyError):
            raise _not_a_delivery(number, entry) from None
        numbers = (delivery.made_at, delivery.due_at, delivery.attempts)
        good = all(isinstance(text, str) and text for text in (delivery.id, delivery.hook))
        good = good and isinstance(delivery.payload, Mapping) and isinstance(delivery.last_error, str)
        if not good or not all(isinstance(value, (int, float)) and isfinite(value) for value in numbers):
            raise _not_a_delivery(number, entry)
        queue.append(delivery)
    return tuple(queue)


def _not_a_delivery(number: int, entry: Any) -> BadInput:
    return BadInput(
        f"hook queue: entry {number} is not a delivery: {str(entry)[:200]}",
        entry=number,
        suggestion="forget the stored queue; what is in it is not delivered",
    )


def _heads(queue: Queue) -> list[Delivery]:
    """The first of each hook."""
    heads: dict[str, Delivery] = {}
    for one in queue:
        heads.setdefault(one.hook, one)
    return list(heads.values())


def _wait_s(head: Delivery, now: float, policy: Policy) -> float:
    """Seconds until it may be sent. More than the longest wait means that the clock went back."""
    ready_at, longest_s = head.due_at, policy.longest_delay_s
    if head.sent_at is not None:
        ready_at, longest_s = head.sent_at + policy.attempt_s, policy.attempt_s
    wait_s = ready_at - now
    return 0.0 if wait_s > longest_s else wait_s


def _oldest_of_the_longest(waiting: Sequence[Delivery]) -> Delivery | None:
    counts: dict[str, int] = {}
    for one in waiting:
        counts[one.hook] = counts.get(one.hook, 0) + 1
    idle = [one for one in waiting if one.sent_at is None]
    if not idle:
        return None
    longest = max(counts[one.hook] for one in idle)
    return next(one for one in idle if counts[one.hook] == longest)


def _without(queue: Queue, gone: Delivery) -> Queue:
    return tuple(one for one in queue if (one.hook, one.id) != (gone.hook, gone.id))


def _with(queue: Queue, changed: Delivery, change: Callable[[Delivery], Delivery]) -> Queue:
    return tuple(change(one) if (one.hook, one.id) == (changed.hook, changed.id) else one for one in queue)
