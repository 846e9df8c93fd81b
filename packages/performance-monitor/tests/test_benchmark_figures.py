"""What is asked, when, and what the outcomes come to; numpy is the oracle of the figures."""

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vllm_performance_monitor.core.benchmarks.arrivals import OpenLoop, due_times
from vllm_performance_monitor.core.benchmarks.comparing import compare, widened
from vllm_performance_monitor.core.benchmarks.dice import Dice
from vllm_performance_monitor.core.benchmarks.outcomes import Failure, Outcome
from vllm_performance_monitor.core.benchmarks.samples import SLICES, Sample, Slice, Slices, quantile
from vllm_performance_monitor.core.benchmarks.summary import Goal, Tally, summarize
from vllm_performance_monitor.core.benchmarks.workload import (
    WordCost,
    Workload,
    fit_cost,
    lengths,
    plain_question,
    question,
)

TIMES = st.floats(0.0, 1e4, allow_nan=False)


# what is asked


def test_questions_follow_from_seed_and_salt() -> None:
    work = Workload.of("short", input_tokens=50, seed=3)
    assert question(work, 4, 9) == question(work, 4, 9)
    texts = {question(work, number, salt).text for number in range(200) for salt in range(3)}
    assert len(texts) == 600
    starts = {" ".join(text.split()[:4]) for text in texts}
    assert len(starts) > 590, "an engine that keeps prefixes finds nothing to keep, not even in its first block"
    assert {len(text.split()) for text in texts} == {50}
    assert question(work, 0, 9) != question(Workload.of("short", input_tokens=50, seed=4), 0, 9)
    assert plain_question(50, 9, 0).text not in texts


def test_shared_prefixes_are_shared_within_their_group_only() -> None:
    work = Workload.of("short", input_tokens=40, prefix_share=0.5, prefix_groups=2)
    made = [question(work, number).text.split() for number in range(6)]
    assert made[0][:20] == made[2][:20] == made[4][:20]
    assert made[1][:20] == made[3][:20]
    assert made[0][:20] != made[1][:20]
    assert len({tuple(words[20:]) for words in made}) == 6


def test_mixed_lengths_have_their_mean_and_do_not_depend_on_the_salt() -> None:
    work = Workload.of("mixed", input_tokens=1000, output_tokens=100, seed=1)
    pairs = [lengths(work, number) for number in range(4000)]
    inputs, outputs = zip(*pairs, strict=True)
    assert 250 <= min(inputs) < 300
    assert 1700 < max(inputs) <= 1750
    assert np.mean(inputs) == pytest.approx(1000, rel=0.03)
    assert np.mean(outputs) == pytest.approx(100, rel=0.03)
    assert question(work, 5, 1).output_tokens == question(work, 5, 2).output_tokens == outputs[5]


def test_given_texts_are_asked_in_turn() -> None:
    work = Workload.of("texts", texts=["a", "b"], output_tokens=9)
    assert [question(work, number).text for number in range(3)] == ["a", "b", "a"]
    with pytest.raises(ValidationError):
        Workload.of("texts")
    with pytest.raises(ValidationError):
        Workload.of("short", texts=["a"])


@given(st.floats(0.3, 8), st.integers(0, 400), st.integers(1, 5000))
def test_the_cost_of_words_is_found_again(per_word: float, fixed: int, words: int) -> None:
    def tokens(count: int) -> int:
        return round(fixed + per_word * count)

    cost = fit_cost((100, tokens(100)), (400, tokens(400)))
    assert cost.measured
    wanted = tokens(words)
    assert abs(tokens(cost.words(wanted)) - wanted) <= 2 + per_word + 0.02 * wanted


def test_what_cannot_be_a_cost_is_not_believed() -> None:
    assert fit_cost((10, 5), (20, 5)) == WordCost()


# when


def test_arrivals_keep_their_rate() -> None:
    constant = list(islice(due_times(OpenLoop(per_second=10, pattern="constant")), 4))
    assert constant == pytest.approx([0.0, 0.1, 0.2, 0.3])
    times = list(islice(due_times(OpenLoop(per_second=50, seed=2)), 5001))
    gaps = [b - a for a, b in pairwise(times)]
    assert np.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert np.std(gaps) == pytest.approx(1 / 50, rel=0.05), "exponential: as spread as it is long"
    assert times == list(islice(due_times(OpenLoop(per_second=50, seed=2)), 5001))


def test_the_dice_are_fair_and_known() -> None:
    """The first numbers of SplitMix64 from 0, as its author published them: the same on every machine for ever."""
    dice = Dice()
    assert [dice.bits() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    counts = np.bincount([dice.below(7) for _ in range(70_000)], minlength=7)
    assert counts.min() > 9500
    assert len({Dice(a, b).bits() for a in range(40) for b in range(40)}) == 1600


# figures


@given(st.lists(TIMES, min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], share: float) -> None:
    assert quantile(sorted(values), share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-9)


@st.composite
def outcomes(draw: st.DrawFn) -> list[Outcome]:
    made = []
    for number in range(draw(st.integers(1, 12))):
        start = draw(TIMES)
        gaps = draw(st.lists(st.floats(0, 5), max_size=6))
        first = start + draw(st.floats(0, 10))
        failure = draw(st.none() | st.sampled_from(list(Failure)))
        made.append(
            Outcome(
                number=number,
                due_s=start - draw(st.floats(0, 1)),
                start_s=start,
                first_s=first,
                end_s=first + sum(gaps),
                gaps_s=gaps,
                input_tokens=draw(st.integers(0, 100)),
                output_tokens=draw(st.integers(1, 3)) * (len(gaps) + 1),
                failure=failure,
                words=f"words {number}",
            )
        )
    return made


@given(outcomes(), st.floats(1, 20_000))
def test_a_summary_is_what_numpy_says(made: list[Outcome], limit_ms: float) -> None:
    summary = summarize(made, Goal(ttft_ms=limit_ms), open_loop=True)
    good = [one for one in made if one.failure is None]
    assert (summary.requests, summary.succeeded, summary.failed) == (len(made), len(good), len(made) - len(good))
    assert sum(summary.failures.values()) == summary.failed
    duration = max(one.end_s for one in made) - min(one.start_s for one in made)
    assert summary.duration_s == pytest.approx(duration)
    if duration > 0:
        assert summary.output_tokens_per_second == pytest.approx(sum(o.output_tokens for o in good) / duration)
        within = [o for o in good if (o.first_s or 0) * 1000 - o.start_s * 1000 <= limit_ms]
        assert summary.good_requests_per_second == pytest.approx(len(within) / duration, abs=1.01 / duration)
    columns = {
        "ttft_ms": [(one.first_s or 0) - one.start_s for one in good],
        "e2e_ms": [one.end_s - one.start_s for one in good],
        "tpot_ms": [(o.end_s - (o.first_s or 0)) / (o.output_tokens - 1) for o in good if o.output_tokens > 1],
        "itl_ms": [gap for one in good for gap in one.gaps_s],
        "late_ms": [one.start_s - one.due_s for one in made],
    }
    for name, values in columns.items():
        found = getattr(summary, name)
        assert (found is None) == (not values), name
        if values:
            expected = [np.mean(values), *np.percentile(values, [50, 95, 99]), np.max(values)]
            assert [found.mean, found.p50, found.p95, found.p99, found.max] == pytest.approx(
                [1000 * float(value) for value in expected], rel=1e-6, abs=1e-6
            )


def test_nothing_measured_is_no_error() -> None:
    empty = summarize([])
    assert (empty.requests, empty.requests_per_second, empty.ttft_ms) == (0, 0.0, None)
    failed = summarize([Outcome(0, 1.0, 1.0, 2.0, failure=Failure.UNREACHABLE, words="refused")])
    assert (failed.succeeded, failed.failures, failed.failure_words) == (
        0,
        {Failure.UNREACHABLE: 1},
        {Failure.UNREACHABLE: "refused"},
    )


def test_beyond_its_limit_a_sample_keeps_an_even_choice() -> None:
    sample = Sample(keep=2000)
    sample.extend(number / 100_000 for number in range(100_000))
    found = sample.in_ms()
    assert found is not None
    assert (found.count, len(sample)) == (100_000, 100_000)
    assert found.mean == pytest.approx(499.995)
    assert found.max == pytest.approx(999.99)
    assert [found.p50, found.p95, found.p99] == pytest.approx([500, 950, 990], rel=0.05)


def a_slice(requests: int = 1, span_s: float = 1.0, ttft_s: float = 0.1) -> Slice:
    return Slice(requests, 10 * requests, span_s, ttft_s * requests, 0.01 * requests, requests, 0.2 * requests)


@given(st.integers(0, 1000))
def test_slices_are_few_and_lose_nothing_but_the_last(count: int) -> None:
    slices = Slices()
    for _ in range(count):
        slices.add(a_slice())
    whole = slices.whole()
    assert len(whole) < 2 * SLICES
    assert len({one.requests for one in whole}) <= 1
    size = whole[0].requests if whole else 1
    assert count - size < sum(one.requests for one in whole) <= count


def noisy(dice: Dice, level: float, count: int, drift: float = 0.0) -> list[Slice]:
    """Slices of a run whose load wanders: each is like the one before."""
    made, state = [], 0.0
    for _ in range(count):
        state = drift * state + (dice.share() - 0.5) * 0.3
        made.append(a_slice(8, span_s=(1 + state) / level, ttft_s=0.1 * level * (1 + state)))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_a_difference_is_found_and_noise_is_not(seed: int) -> None:
    dice = Dice(seed)
    one, same, other = noisy(dice, 1, 40), noisy(dice, 1, 40), noisy(dice, 1.5, 40)
    told = {d.metric: d for d in compare(one, other, at_once=8, seed=seed)}
    assert told["output_tokens_per_second"].verdict == "better"
    assert told["ttft"].verdict == "worse"
    assert told["tpot"].verdict == "within noise"
    assert told["ttft"].low is not None
    assert told["ttft"].high is not None
    assert told["ttft"].low <= told["ttft"].change <= told["ttft"].high
    assert all(d.verdict == "within noise" for d in compare(one, same, at_once=8, seed=seed))


def test_false_alarms_are_rare() -> None:
    """Two runs of the same thing, with noise that lasts from slice to slice: the floor is off, the interval alone."""
    dice, alarms, rounds = Dice(5), 0, 30
    for _ in range(rounds):
        pair = noisy(dice, 1, 40, drift=0.3), noisy(dice, 1, 40, drift=0.3)
        alarms += any(
            d.verdict in ("better", "worse") for d in compare(*pair, at_once=8, floor=0.0) if d.metric == "ttft"
        )
    assert alarms <= 0.1 * rounds


def test_few_requests_tell_nothing() -> None:
    few = [a_slice(8) for _ in range(7)]
    assert {d.verdict for d in compare(few, few, at_once=8)} == {"too few requests"}
    assert compare([], few, at_once=8) == ()
    assert [one.requests for one in widened([a_slice(3)] * 7, 8)] == [9, 9]


def test_a_tally_cuts_the_run_by_ends() -> None:
    tally = Tally()
    for number, end in enumerate((1.0, 3.0, 2.5)):
        tally.add(Outcome(number, 0.0, 0.0, end, first_s=0.5, output_tokens=2))
    assert [one.span_s for one in tally.slices()] == [1.0, 2.0, 0.0]
