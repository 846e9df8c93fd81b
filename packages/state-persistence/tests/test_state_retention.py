"""Which snapshots go: properties over random histories, and an oracle that looks at every period by itself."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_state_persistence.core.retention import DAY_S, HOUR_S, WEEK_S, Rules, Snapshot, to_drop

NOW = 1_790_000_000.0
NO_RULES = Rules(hourly=0, daily=0, weekly=0)

ages_s = st.one_of(st.floats(0, 2 * HOUR_S), st.floats(0, 2 * DAY_S), st.floats(0, 60 * DAY_S))


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
    ages = draw(st.lists(ages_s, max_size=60))
    return [
        Snapshot(
            state_id=f"s-{number:016x}",
            session=draw(st.sampled_from(("a", "b"))),
            created_at=NOW - age,
            tags=draw(st.sampled_from(((), (), ("kept",)))),
            pinned=draw(st.sampled_from((False, False, False, True))),
        )
        for number, age in enumerate(ages)
    ]


rules = st.builds(
    Rules,
    max_age_days=st.none() | st.floats(0.01, 60),
    max_count=st.none() | st.integers(1, 20),
    hourly=st.integers(0, 5),
    daily=st.integers(0, 4),
    weekly=st.integers(0, 3),
    recent_hours=st.floats(0, 3),
)


def dropped(history: list[Snapshot], rule: Rules, now: float = NOW) -> set[str]:
    return {drop.state_id for drop in to_drop(history, rule, now=now)}


def left(history: list[Snapshot], rule: Rules, now: float = NOW) -> list[Snapshot]:
    gone = dropped(history, rule, now)
    return [one for one in history if one.state_id not in gone]


def of_session(history: list[Snapshot], session: str) -> list[Snapshot]:
    return sorted((s for s in history if s.session == session), key=lambda s: (s.created_at, s.state_id))


@given(histories(), rules)
def test_the_newest_of_a_session_and_what_is_pinned_always_stay(history: list[Snapshot], rule: Rules) -> None:
    gone = dropped(history, rule)
    assert not gone & {one.state_id for one in history if one.pinned}
    for session in {one.session for one in history}:
        assert of_session(history, session)[-1].state_id not in gone


@given(histories(), rules, st.floats(0, 90 * DAY_S))
def test_what_goes_now_goes_later_too(history: list[Snapshot], rule: Rules, later_s: float) -> None:
    """But for the number: what is thinned out later makes room."""
    rule = replace(rule, max_count=None)
    assert dropped(history, rule) <= dropped(history, rule, NOW + later_s)


@given(histories(), st.floats(0.01, 60))
def test_by_age_alone_everything_older_goes_as_well(history: list[Snapshot], days: float) -> None:
    gone = dropped(history, replace(NO_RULES, max_age_days=days))
    for session in {one.session for one in history}:
        free = [one for one in of_session(history, session)[:-1] if not one.pinned]
        fates = [one.state_id in gone for one in free]
        assert fates == sorted(fates, reverse=True)


@given(histories(), rules)
def test_what_stays_stays_when_the_rules_are_applied_again(history: list[Snapshot], rule: Rules) -> None:
    assert to_drop(left(history, rule), rule, now=NOW) == ()


@given(histories(), rules, st.randoms(use_true_random=False))
def test_the_order_of_the_snapshots_does_not_matter(history: list[Snapshot], rule: Rules, chance: object) -> None:
    shuffled = list(history)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert to_drop(shuffled, rule, now=NOW) == to_drop(history, rule, now=NOW)


@given(histories(), rules)
def test_sessions_do_not_touch_each_other(history: list[Snapshot], rule: Rules) -> None:
    alone = {id_ for name in ("a", "b") for id_ in dropped(of_session(history, name), rule)}
    assert alone == dropped(history, rule)


@given(histories(), rules)
def test_no_more_stay_than_the_rules_allow(history: list[Snapshot], rule: Rules) -> None:
    for session in ("a", "b"):
        kept = of_session(left(history, rule), session)
        pinned = sum(one.pinned for one in kept)
        if rule.max_count is not None:
            assert len(kept) <= max(rule.max_count, pinned + 1)
        if rule.thins:
            recent = sum(one.created_at >= NOW - rule.recent_hours * HOUR_S for one in kept)
            tagged = sum(bool(one.tags) for one in kept)
            assert len(kept) <= rule.hourly + rule.daily + rule.weekly + recent + tagged + pinned + 1


@given(histories(), rules)
def test_every_snapshot_has_the_fate_that_the_calendar_gives_it(history: list[Snapshot], rule: Rules) -> None:
    assert dropped(history, rule) == {one.state_id for one in history if naive_fate(one, history, rule)}


def naive_fate(one: Snapshot, history: list[Snapshot], rule: Rules) -> bool:
    """Does it go? Asked of each snapshot by itself, with the calendar of `datetime`."""
    mine = of_session(history, one.session)
    if one.pinned or one is mine[-1]:
        return False
    if naive_unkept(one, mine, rule):
        return True
    if rule.max_count is None:
        return False
    rivals = [o for o in mine if not naive_unkept(o, mine, rule) or o.pinned or o is mine[-1]]
    fixed = [o for o in rivals if o.pinned or o is mine[-1]]
    younger = [o for o in rivals if o not in fixed and mine.index(o) > mine.index(one)]
    return len(fixed) + len(younger) >= rule.max_count


def naive_unkept(one: Snapshot, mine: list[Snapshot], rule: Rules) -> bool:
    if rule.max_age_days is not None and (NOW - rule.max_age_days * DAY_S) > one.created_at:
        return True
    if not (rule.hourly or rule.daily or rule.weekly):
        return False
    if one.tags or one.created_at >= NOW - rule.recent_hours * HOUR_S:
        return False
    named = ((rule.hourly, "%Y-%m-%d %H"), (rule.daily, "%Y-%m-%d"), (rule.weekly, "%G-%V"))
    for count, calendar in named:
        name = {o.state_id: datetime.fromtimestamp(o.created_at, UTC).strftime(calendar) for o in mine}
        last_names = sorted(set(name.values()), reverse=True)[:count]
        same = [o for o in mine if name[o.state_id] == name[one.state_id]]
        if name[one.state_id] in last_names and same[-1] is one:
            return False
    return True


def every(step_s: float, count: int) -> list[Snapshot]:
    return [Snapshot(f"s-{n:016x}", "a", NOW - n * step_s) for n in range(count)]


def test_a_session_saved_every_five_minutes_for_two_months_keeps_a_few_dozen() -> None:
    history = every(300, 60 * DAY_S // 300)
    kept = left(history, Rules(max_age_days=30, max_count=1000))
    assert 24 + 6 < len(kept) <= 13 + 24 + 7 + 4, "the rules overlap where a day's newest is an hour's newest too"
    assert NOW - kept[-1].created_at >= 2 * WEEK_S


def test_what_was_saved_within_the_hour_is_not_thinned_out() -> None:
    assert to_drop(every(60, 60), Rules(), now=NOW) == ()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (replace(NO_RULES, max_age_days=1), "older than 1 days (MAX_SESSION_AGE_DAYS)"),
        (replace(NO_RULES, max_count=1), "more than 1 snapshots (MAX_HISTORY_SIZE)"),
        (Rules(hourly=1, daily=0, weekly=0), "thinned out: of 1 hours, 0 days and 0 weeks"),
    ],
)
def test_a_drop_says_why(rule: Rules, words: str) -> None:
    drops = to_drop(every(3 * DAY_S, 3), rule, now=NOW)
    assert [drop.state_id for drop in drops] == ["s-0000000000000002", "s-0000000000000001"], "the oldest first"
    assert all(words in drop.reason for drop in drops)


def test_what_is_just_as_old_as_allowed_stays() -> None:
    ages = {"new": 0.0, "limit": DAY_S, "over": DAY_S + 1}
    history = [Snapshot(name, "a", NOW - age) for name, age in ages.items()]
    assert dropped(history, replace(NO_RULES, max_age_days=1)) == {"over"}


def test_no_rules_and_no_snapshots_drop_nothing() -> None:
    assert to_drop(every(DAY_S, 100), NO_RULES, now=NOW) == ()
    assert to_drop([], Rules(max_age_days=1), now=NOW) == ()
