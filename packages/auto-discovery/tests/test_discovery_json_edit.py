"""Edits of JSON texts: what is asked for changes, every other byte stays."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_auto_discovery.core.clients.json_edit import Drop, Put, edited, read_object
from vllm_auto_discovery.core.clients.json_text import DEPTH_LIMIT, LIMIT_BYTES
from vllm_mcp_protocol.errors import ClientConfigInvalid

COMMENTED = """\
// mine
{
    "$schema": "https://opencode.ai/config.json", // "provider": {}
    /* "provider": { */
    "provider": {
        "other": { "name": "O" }, // keep
    },
    "model": "other/m",
}
"""


# An oracle that shares nothing with the code: a JSONC reader, one character at a time.


def understood(text: str) -> Any:
    """The value of a JSONC text, objects as lists of pairs."""
    out: list[str] = []
    at = 0
    text = text.removeprefix("\ufeff")
    while at < len(text):
        if text[at] == '"':
            end = at + 1
            while text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            out.append(text[at : end + 1])
            at = end + 1
        elif text.startswith("//", at):
            while at < len(text) and text[at] not in "\r\n":
                at += 1
        elif text.startswith("/*", at):
            at = text.index("*/", at + 2) + 2
        else:
            if text[at] in "}]" and "".join(out).rstrip().endswith(","):
                out = ["".join(out).rstrip()[:-1]]
            out.append(text[at])
            at += 1
    return json.loads("".join(out), object_pairs_hook=lambda pairs: {"object": pairs})


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1000, 1000),
    st.sampled_from(["", "a", "// no comment", "/* nor this */", 'quo"te', "back\\slash", "ünï", ",}", "[1,]"]),
)
KEYS = st.sampled_from(["a", "b", "providers", "x y", "//", "/*", '"', "é"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@st.composite
def documents(draw: st.DrawFn, root: dict[str, Any]) -> str:
    """`root` as JSONC with blanks, breaks, comments and trailing commas wherever they may be."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    blanks = ["", "", " ", "\t", newline, newline + "  ", f"{newline}\t// x{newline}"]
    gaps = st.sampled_from([*blanks, f" // */{newline} ", f" /*{newline}*/ ", "/**/", f"/*//*/{newline}", "/* x */"])

    ascii_only = st.booleans()
    commas = st.sampled_from(["", ","])

    def gap() -> str:
        return draw(gaps)

    def written(value: Any) -> str:
        if isinstance(value, dict):
            items = [f"{gap()}{json.dumps(key)}{gap()}:{gap()}{written(item)}{gap()}" for key, item in value.items()]
            return "{" + ",".join(items) + closing(items) + "}"
        if isinstance(value, list):
            items = [f"{gap()}{written(item)}{gap()}" for item in value]
            return "[" + ",".join(items) + closing(items) + "]"
        return json.dumps(value, ensure_ascii=draw(ascii_only))

    def closing(items: list[str]) -> str:
        return (draw(commas) if items else "") + gap()

    mark = draw(st.sampled_from(["", "\ufeff"]))
    return mark + gap() + written(root) + gap() + draw(st.sampled_from(["", newline]))


def as_pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return {"object": [(key, as_pairs(item)) for key, item in value.items()]}
    return [as_pairs(item) for item in value] if isinstance(value, list) else value


def put(root: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """What a program does that does not care about the file."""
    key, *rest = path
    if not rest:
        return root | {key: value}
    inner = root.get(key, {})
    return root | {key: put(inner if isinstance(inner, dict) else {}, tuple(rest), value)}


ROOTS = st.dictionaries(KEYS, VALUES, max_size=4)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)
OLD = "the value that is replaced"
EVERYWHERE = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@EVERYWHERE
@given(st.data(), ROOTS, VALUES)
def test_a_new_member_is_all_that_is_added(data: st.DataObject, root: Any, value: Any) -> None:
    text = data.draw(documents(root))
    changed = edited(text, [Put(("new",), value)])
    assert understood(changed) == as_pairs(root | {"new": value})
    assert is_one_member_more(changed, text)


@EVERYWHERE
@given(st.data(), ROOTS, PATHS, VALUES)
def test_a_value_is_replaced_where_it_stands(data: st.DataObject, root: Any, path: Any, value: Any) -> None:
    text = data.draw(documents(put(root, path, OLD)))
    changed = edited(text, [Put(path, value)])
    before, _, after = text.partition(json.dumps(OLD))
    assert changed.startswith(before)
    assert changed.endswith(after)
    assert understood(changed) == as_pairs(put(put(root, path, OLD), path, value))
    assert edited(changed, [Put(path, value)]) == changed


@EVERYWHERE
@given(st.data(), st.dictionaries(KEYS, ROOTS, min_size=1, max_size=3), PATHS, VALUES)
def test_a_put_makes_the_objects_that_are_missing(
    data: st.DataObject, root: Any, path: tuple[str, ...], value: Any
) -> None:
    path = (path[0], *(f"new {key}" for key in path[1:]))
    text = data.draw(documents(root))
    assert understood(edited(text, [Put(path, value)])) == as_pairs(put(root, path, value))


@EVERYWHERE
@given(st.data(), ROOTS, KEYS)
def test_a_drop_takes_that_member_and_nothing_else(data: st.DataObject, root: Any, key: str) -> None:
    text = data.draw(documents(root))
    changed = edited(text, [Drop((key,))])
    assert understood(changed) == as_pairs({name: item for name, item in root.items() if name != key})
    assert is_one_member_more(text, changed) if key in root else changed == text


@EVERYWHERE
@given(st.data(), ROOTS, VALUES)
def test_a_drop_undoes_the_put_that_added_the_member(data: st.DataObject, root: Any, value: Any) -> None:
    text = data.draw(documents(root)) if root else "{}"
    assert edited(edited(text, [Put(("new",), value)]), [Drop(("new",))]) == text


def is_one_member_more(whole: str, part: str) -> bool:
    """Whether `part` is `whole` without one span and at most one comma, blanks beside the span aside."""
    commas = [at for at, character in enumerate(whole) if character == ","]
    return any(is_one_span_more(text, part) for text in (whole, *(whole[:at] + whole[at + 1 :] for at in commas)))


def is_one_span_more(whole: str, part: str) -> bool:
    head = common(whole, part)
    tail = common(whole[head:][::-1], part[head:][::-1])
    return not part[head : len(part) - tail].strip(" \t\r\n")


def common(one: str, other: str) -> int:
    """How many characters they begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def test_our_member_takes_on_the_style_of_its_file() -> None:
    changed = edited(COMMENTED, [Put(("provider", "vllm"), {"name": "vLLM", "models": {}})])
    assert changed == COMMENTED.replace(
        '"O" }, // keep\n',
        '"O" }, // keep\n        "vllm": {\n            "name": "vLLM",\n            "models": {}\n        },\n',
    )
    assert edited(changed, [Drop(("provider", "vllm"))]) == COMMENTED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", '{"a": {"b": 1}}'),
        ("{}\n", '{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ("{ }\n", '{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ('{"z":0}', '{"z":0, "a": {"b": 1}}'),
        ('{\r\n\t"z": 0\r\n}', '{\r\n\t"z": 0,\r\n\t"a": {\r\n\t\t"b": 1\r\n\t}\r\n}'),
        ('{\n "z": 0 // last\n}', '{\n "z": 0, // last\n "a": {\n  "b": 1\n }\n}'),
        ('{"z": 0 // last\n}', '{"z": 0, // last\n"a": {\n  "b": 1\n}\n}'),
        ("{ // empty\n}", '{ // empty\n  "a": {\n    "b": 1\n  }\n}'),
        ('{"a": {"b": 2}}', '{"a": {"b": 1}}'),
        ('{"a": {"b":1 }}', '{"a": {"b":1 }}'),
        ('\ufeff{"a": {}}', '\ufeff{"a": {"b": 1}}'),
    ],
)
def test_where_a_member_goes(text: str, expected: str) -> None:
    assert edited(text, [Put(("a", "b"), 1)]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', "{}"),
        ('{"a": 1, "b": 2}', '{ "b": 2}'),
        ('{"b": 2, "a": 1}', '{"b": 2}'),
        ('{\n  "a": 1, // one\n  "b": 2\n}', '{ // one\n  "b": 2\n}'),
        ('{\n  "b": 2, // two\n  "a": 1 }', '{\n  "b": 2 // two\n   }'),
        ('{\n  "b": 2,\n  // one\n  "a": 1\n}', '{\n  "b": 2\n  // one\n}'),
        ('{"b": [2, 2],}', '{"b": [2, 2],}'),
    ],
)
def test_what_a_drop_takes_along(text: str, expected: str) -> None:
    assert edited(text, [Drop(("a",))]) == expected


def test_duplicates_elsewhere_stay_and_numbers_stay_as_written() -> None:
    text = '{"n": 1e2, "n": 1.50, "s": "\\u00e9", "a": {}}'
    assert edited(text, [Put(("a", "b"), True)]) == text.replace("{}", '{"b": true}')


def test_a_value_of_another_type_is_another_value() -> None:
    assert edited('{"a": 1}', [Put(("a",), True)]) == '{"a": true}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1, column 1"),
        ('{\n  "a": 1\n  "b": 2\n}', "line 3, column 3"),
        ("[]", "must begin with {"),
        ("null", "must begin with {"),
        ('{"a": 1} x', "Extra data"),
        ('{"a": NaN}', "NaN"),
        ('{"a": "b', "Unterminated string"),
        ('{"a": "tab\t"}', "Invalid control character"),
        ("{} /* open", "Extra data"),
        ("{,}", "line 1, column 2"),
        ('{"a": [,]}', "line 1, column 8"),
        ('{"a": 1,,}', "line 1"),
        ('{"a": {"b": 1}, "a": {}}', '"a" is there 2 times'),
        ('{"a": []}', 'line 1, column 7: "a" is not an object'),
        ('{"a": null}', '"a" is not an object'),
        ('{"a": {"b": 1, "b": 2}}', '"a.b" is there 2 times'),
        ('{"x": ' + "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT + "}", "deeper than 100 levels"),
        ("[" * 200_000, "deeper than 100 levels"),
        ('{"x": ' + "1" * 5000 + "}", "digits"),
        ('{"x": "' + "é" * (LIMIT_BYTES // 2) + '"}', "longer than 4.0 MiB"),
        ('"' + '\\"' * 500_000, "Unterminated string"),
    ],
    ids=lambda text: text[:20],
)
def test_what_cannot_be_edited_safely_is_refused(text: str, words: str) -> None:
    for edit in (Put(("a", "b"), 1), Drop(("a", "b"))):
        with pytest.raises(ClientConfigInvalid) as caught:
            edited(text, [edit])
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "a": 1 // x\n}', "line 2, column 10: a comment"),
        ('{"a": 1,}', "line 1, column 8: a comma after the last item"),
        ("\ufeff{}", "a byte order mark"),
    ],
)
def test_a_reader_of_plain_json_is_given_plain_json(text: str, words: str) -> None:
    with pytest.raises(ClientConfigInvalid, match=words):
        read_object(text, plain=True)
    assert read_object(text) is not None


def test_reading_takes_the_last_of_duplicate_keys() -> None:
    assert read_object('{"a": 1, /* "a": 3 */ "a": 2,}') == {"a": 2}
