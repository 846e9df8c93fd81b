"""What changed between two snapshots, as data and in words."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_state_persistence.core.difference import (
    MOST_SENTENCES,
    Difference,
    difference,
    in_words,
    quoted,
    record_difference,
)
from vllm_state_persistence.core.engine_capture import CapturedEngine, CapturedLora, EngineCapture
from vllm_state_persistence.core.manifest import Entry, Ref


def entry(key: str, text: str = "", *, kind: str = "message", role: str = "user") -> Entry:
    return Entry(kind, key, role, Ref(text.encode("utf-8", "surrogatepass"), len(text), False))


def words_of(found: Difference) -> tuple[str, ...]:
    """As told of records whose contents are their texts."""
    texts = {
        one.content: one.content.value.decode("utf-8", "surrogatepass")
        for side in quoted(found.records)
        for one in side
    }
    return in_words(found, texts)


entries = st.lists(
    st.builds(
        entry,
        st.sampled_from("abcdefgh"),
        st.sampled_from(("one", "two", "three")),
        kind=st.sampled_from(("message", "file")),
    ),
    max_size=12,
)


@given(entries, entries)
def test_what_was_removed_and_added_leads_from_one_snapshot_to_the_other(
    before: list[Entry], after: list[Entry]
) -> None:
    found = record_difference(before, after)
    state = Counter(before)
    state.subtract(found.removed)
    state.subtract(pair.before for pair in found.changed)
    state.update(found.added)
    state.update(pair.after for pair in found.changed)
    assert +state == Counter(after)
    assert all(count >= 0 for count in state.values())


@given(entries, entries)
def test_nothing_is_named_that_both_have(before: list[Entry], after: list[Entry]) -> None:
    found = record_difference(before, after)
    for pair in found.changed:
        assert (pair.before.kind, pair.before.key) == (pair.after.kind, pair.after.key)
        assert pair.before.content != pair.after.content
    added = Counter((one.kind, one.key) for one in found.added)
    assert not added & Counter((one.kind, one.key) for one in found.removed)


@given(entries)
def test_a_snapshot_does_not_differ_from_itself(one: list[Entry]) -> None:
    assert difference(one, list(one)).nothing
    assert in_words(difference(one, one)) == ("Nothing changed.",)


@given(entries, st.randoms(use_true_random=False))
def test_another_order_alone_is_told(one: list[Entry], chance: object) -> None:
    unique = list({(e.kind, e.key): e for e in one}.values())
    shuffled = list(unique)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    found = record_difference(unique, shuffled)
    assert (found.added, found.changed, found.removed) == ((), (), ())
    assert found.reordered is (unique != shuffled)


@given(entries, entries, st.integers(2, 5))
def test_words_are_bounded(before: list[Entry], after: list[Entry], limit: int) -> None:
    words = in_words(difference(before, after), limit=limit)
    assert 1 <= len(words) <= limit
    assert all(len(sentence) < 1000 and "\n" not in sentence for sentence in words)


def test_messages_are_told_by_role_and_quoted() -> None:
    before = [entry("1", "Hello"), entry("2", "Hi", role="assistant"), entry("3", "old")]
    after = [
        entry("1", "Hello"),
        entry("2", "Hi there", role="assistant"),
        entry("4", "new\nline"),
        entry("5", "x" * 200),
    ]
    assert words_of(difference(before, after)) == (
        f"2 records (2 user) were added: “new line”, “{'x' * 79}…”.",
        "1 record (1 assistant) was changed: “Hi” became “Hi there”.",
        "1 record (1 user) was removed: “old”.",
    )


def test_of_many_messages_the_first_are_quoted() -> None:
    found = difference([], [entry(str(n), f"message {n}") for n in range(10_000)])
    assert words_of(found) == (
        "10,000 records (10,000 user) were added: “message 0”, “message 1”, “message 2” and others.",
    )


def test_what_has_no_role_is_told_by_its_kind() -> None:
    found = difference([], [entry("1", kind="file", role="")])
    assert words_of(found) == ("1 record (1 file) was added.",)


def test_half_characters_and_control_characters_are_not_quoted() -> None:
    words = words_of(difference([], [entry("1", "a\ud800b\x1b[31m\u202ec")]))
    assert words == ("1 record (1 user) was added: “a b [31m c”.",)
    "".join(words).encode()


LLAMA = CapturedEngine(
    model_id="org/llama",
    served_name="org/llama",
    revision="c0ffee",
    options={"max_model_len": 4096},
    devices=("0",),
    loras=(CapturedLora(name="style", path="/adapters/style"),),
)
BEFORE = EngineCapture(engines=(LLAMA,), defaults={"org/llama": {"temperature": 0.5}}, remotes=("http://a:1",))


def engine_words(after: EngineCapture) -> tuple[str, ...]:
    return in_words(difference([], [], BEFORE, after))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"options": {"max_model_len": 8192}}, "org/llama: max_model_len was 4096, is 8192."),
        ({"options": {}}, "org/llama: max_model_len was 4096, is not set."),
        (
            {"options": {"max_model_len": 4096, "extra_args": ["--seed", "1"]}},
            "org/llama: extra_args was not set, is [--seed, 1].",
        ),
        ({"pinned": True}, "org/llama is pinned now."),
        ({"ttl_s": 600.0}, "org/llama: its idle limit was not set, is 10 min 00 s."),
        ({"asleep": True}, "org/llama sleeps now."),
        ({"devices": ("1", "2")}, "org/llama was on GPU 0, is on GPU 1, GPU 2."),
        ({"devices": ("cpu",)}, "org/llama was on GPU 0, is on the CPU."),
        ({"revision": "beef"}, "org/llama ran revision c0ffee of its files, runs beef."),
        ({"model_id": "org/other"}, "org/llama: model_id was org/llama, is org/other."),
        ({"loras": ()}, "org/llama: adapter style is not loaded any more."),
        (
            {"loras": (CapturedLora(name="style", path="/b"),)},
            "org/llama: adapter style comes from /b instead of another folder.",
        ),
        (
            {"loras": (*LLAMA.loras, CapturedLora(name="tone", path="/tone"))},
            "org/llama: adapter tone was loaded from /tone.",
        ),
    ],
)
def test_each_change_of_an_engine_is_one_sentence(changes: dict[str, object], sentence: str) -> None:
    after = BEFORE.model_copy(update={"engines": (LLAMA.model_copy(update=changes),)})
    assert engine_words(after) == (sentence,)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"engines": ()}, "Engine org/llama is gone (max_model_len=4096, adapter style)."),
        (
            {"engines": (LLAMA, CapturedEngine(model_id="b", served_name="b", pinned=True, asleep=True))},
            "Engine b was added (pinned, asleep).",
        ),
        ({"defaults": {"org/llama": {"temperature": 1}}}, "Request defaults of org/llama: temperature was 0.5, is 1."),
        ({"defaults": {}}, "Request defaults of org/llama: temperature was 0.5, is not set."),
        ({"remotes": ()}, "The remote engine at http://a:1 is not attached any more."),
        ({"remotes": ("http://a:1", "http://b:1")}, "The remote engine at http://b:1 was attached."),
    ],
)
def test_each_change_of_the_set_up_is_one_sentence(changes: dict[str, object], sentence: str) -> None:
    assert engine_words(BEFORE.model_copy(update=changes)) == (sentence,)


def test_the_suites_version_alone_is_no_change() -> None:
    assert difference([], [], BEFORE, BEFORE.model_copy(update={"suite_version": "9"})).nothing


def test_a_snapshot_without_engines_says_nothing_of_them() -> None:
    assert difference([], [], None, BEFORE) == difference([], [], BEFORE, None) == Difference()


def test_a_long_prompt_does_not_fill_the_answer() -> None:
    after = BEFORE.model_copy(update={"defaults": {"org/llama": {"temperature": 0.5, "system_prompt": "x" * 200_000}}})
    (sentence,) = engine_words(after)
    assert len(sentence) < 200


def test_words_say_how_many_changes_they_leave_out() -> None:
    many = tuple(replaced(f"m{n:03d}") for n in range(100))
    words = engine_words(BEFORE.model_copy(update={"engines": (LLAMA, *many)}))
    assert len(words) == MOST_SENTENCES
    assert words[-1] == f"And {100 - MOST_SENTENCES + 1} more changes."


def replaced(name: str) -> CapturedEngine:
    return LLAMA.model_copy(update={"served_name": name})


def test_a_preview_that_stays_says_that_the_rest_changed() -> None:
    found = difference([entry("1", "one")], [entry("1", "other")])
    texts = dict.fromkeys((one.content for side in quoted(found.records) for one in side), "same beginning")
    assert in_words(found, texts) == ("1 record (1 user) was changed: “same beginning” (beyond its beginning).",)
