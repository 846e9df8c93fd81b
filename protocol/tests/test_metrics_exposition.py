"""The two text formats of metrics against prometheus_client's own readers, and what becomes of malformed lines."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as prometheus_oracle

from vllm_mcp_protocol.metrics.exposition import parse_prometheus
from vllm_mcp_protocol.metrics.families import MOST_PROBLEMS, Exposition, ExpositionError, Family, Sample
from vllm_mcp_protocol.metrics.openmetrics import is_openmetrics, parse_openmetrics

RECORDED = sorted((Path(__file__).parent / "data" / "metrics").glob("*.prom"))

openmetrics_oracle: Callable[[str], Iterable[Any]] = openmetrics_parser.text_string_to_metric_families
Comparable = list[tuple[Any, ...]]


def ours(exposition: Exposition) -> Comparable:
    return [(f.name, f.kind, f.help, f.unit, [_row(sample) for sample in f.samples]) for f in exposition.families]


def theirs(families: Iterable[Any]) -> Comparable:
    return [(f.name, f.type, f.documentation, f.unit, [_row(sample) for sample in f.samples]) for f in families]


def _row(sample: Any) -> tuple[Any, ...]:
    """NaN equals itself here, whole numbers equal floats, and nanoseconds are microseconds."""
    name, labels, value, timestamp, exemplar = sample[:5]
    told = exemplar and (dict(exemplar[0]), repr(float(exemplar[1])), _time(exemplar[2]))
    return name, dict(labels), repr(float(value)), _time(timestamp), told


def _time(value: Any) -> float | None:
    return None if value is None else round(float(value), 6)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_answers(path: Path) -> None:
    data = path.read_bytes()
    assert ours(parse_prometheus(data)) == theirs(prometheus_oracle(data.decode()))


PROMETHEUS = [
    "",
    "\n\n",
    "a 1\n",
    "a 1",
    "# TYPE a counter\n# HELP a help\na 1\n",
    "# HELP a help\n# TYPE a counter\na_total 1\na 2\n",
    "# TYPE a_total counter\na_total 1\n# TYPE a_created gauge\na_created 123\n",
    '# TYPE a gauge\n# HELP a help\na 1\na{b="c"} 2\n',
    '# TYPE a summary\n# HELP a help\na_count 1\na_sum 2\na{quantile="0.5"} 0.7\n',
    '# TYPE a histogram\n# HELP a h\na_bucket{le="1"} 0\na_bucket{le="+Inf"} 3\na_count 3\na_sum 2\na 5\n',
    '# HELP redis_connected_clients Redis\n# TYPE redis_connected_clients unknown\nredis_connected_clients{b="c"} 1\n',
    "# TYPE a untyped\na 1\n",
    "# HELP a first\n# HELP a second\n# TYPE a gauge\n# TYPE a counter\na 1\n",
    "# TYPE a counter\n#\n# comment\n#comment\n# FOO b c\n\n# HELP a help\n \na 1\n",
    '#\tTYPE\ta\tcounter\n#\tHELP\ta\thelp\na\t1\na{foo="bar"}\t2\n\ta\t\t{\tfoo\t=\t"b"\t,\tc="d"}\t\t4\t\n',
    '# HELP a help\n # TYPE  a  counter \na { foo = "bar" } 1\na{foo="baz",  }   3\n'
    ' a {  foo  =  "buz"   }    3\na{foo="bez"}6\n',
    '# TYPE a counter\n# HELP a help\na{foo="bar",} 1\na{foo="baz",b="c", } 1\n',
    'a{} 1\na{ } 2\n{"x.y"} 3\n',
    'a NaN\nb{c="d"} nan\nc Inf\nd +Inf\ne -Inf\nf 1e-3\ng -1.5E+10\nh .5\ni 5.\nj +3\nk infinity\n',
    "# HELP a\n# TYPE a gauge\n# HELP b\t\n# TYPE b gauge\na 1\n",
    '# HELP a \\n\\\\ \\" \\x\\\n# TYPE a gauge\na{b="\\n",c="\\\\",d="\\"",e="\\\\n",f="\\x",g="\\\\\\"}"} 1\n',
    '# TYPE a gauge\na{b="}",c="{",d=",",e="=",f="} 7",g=" # "} 1\n',
    '# TYPE a gauge\na{b="ä→🎉",c="\u2028"} 1\n',
    "# HELP a ä \u2028 →\n# TYPE a gauge\na 1\n",
    'a{foo="bar"} 1\t000\nb 2  1234567890\nb 88   1234566000\nc 3 -100\n',
    'a 1\r\n# TYPE b gauge\r\nb{c="d"} 2\r\n\r\n',
    '# HELP "a.b c" text\n# TYPE "a.b c" gauge\n{"a.b c"} 1\n{"a.b c",d="e"} 2\n{d="e","a.b c"} 3\n'
    '{"a.b c", "label name"="v"} 4\n',
    '{__name__="a",b="c"} 1\n',
    "# TYPE a gauge\na 1\nb 2\na 3\n",
    "# TYPE a gauge\n# TYPE b gauge\nb 1\n# TYPE a gauge\na 1\n",
    '# TYPE a info\na_info 1\na 1\n# TYPE b stateset\nb{b="x"} 1\n# TYPE c gaugehistogram\nc 1\n',
    '# TYPE : gauge\n: 1\n:a:_9{_="_"} 2\n',
]


@pytest.mark.parametrize("text", PROMETHEUS)
def test_prometheus_text_is_read_as_the_oracle_does(text: str) -> None:
    expected = theirs(prometheus_oracle(text))
    assert ours(parse_prometheus(text.encode())) == expected
    assert parse_prometheus(text.encode(), lenient=True).skipped == 0


MALFORMED = {
    "a": "no value",
    "a ": "no value",
    "a{": "not closed",
    'a{b="c"': "not closed",
    'a{b="c" 1': "'1' behind a label",
    'a{b="c} 1': "quotes are not closed",
    'a{b="c\\"} 1': "quotes are not closed",
    "a{b=c} 1": "has no quotes",
    "a{b} 1": "label b has no value",
    'a{="c"} 1': "where a label begins",
    'a{1="c"} 1': "'1' where a label begins",
    'a{b="c",,d="e"} 1': "',' where a label begins",
    'a{,b="c"} 1': "',' where a label begins",
    'a{b="c"d="e"} 1': "'d' behind a label",
    'a{b="c",b="d"} 1': "label b is there twice",
    'a{__b="c"} 1': "reserved",
    'a{"x",b="c"} 1': "two names",
    '{"x","y"} 1': "two names",
    '{""} 1': "name is empty",
    '{b="c"} 1': "no name",
    'a{b="c"}': "no value",
    'a{b="c"} x': "'x' is no number",
    "a 1_000": "'1_000' is no number",
    "a ١": "is no number",  # noqa: RUF001 — float() reads it
    "a 0x10": "is no number",
    "a 1,5": "is no number",
    "a 1 x": "timestamp",
    "a 1 1.5": "timestamp",
    "a 1 2 3": "'3' behind",
    'a{b="c"} 1 # {t="x"} 1 2': "behind",
    "a-b 1": "no name",
    "1 1": "neither a name",
    "?": "neither a name",
    "# TYPE a": "type is missing",
    "# TYPE a thing": "no type 'thing'",
    "# TYPE a gauge gauge": "no type",
    "# TYPE": "name is missing",
    "# TYPE 1a gauge": "name is missing",
    "# TYPE a.b gauge": "no name",
    '# TYPE "a gauge': "quotes are not closed",
    '# HELP "" x': "name is empty",
}


@pytest.mark.parametrize(("line", "why"), MALFORMED.items())
def test_a_malformed_line_is_named(line: str, why: str) -> None:
    data = f"good 1\n\n{line}\nbetter 2\n".encode()
    with pytest.raises(ExpositionError, match=r"^line 3: ") as caught:
        parse_prometheus(data)
    assert why in caught.value.problem.reason
    assert caught.value.problem.text == line.strip()
    read = parse_prometheus(data, lenient=True)
    assert (read.skipped, len(read.problems)) == (1, 1)
    assert [family.name for family in read.families] == ["good", "better"]


def test_bytes_that_are_no_text() -> None:
    data = b'# TYPE a gauge\na{b="\xff"} 1\na{b="c"} 2\n\x80\x81\n\0\n'
    with pytest.raises(ExpositionError, match="line 2: not UTF-8"):
        parse_prometheus(data)
    read = parse_prometheus(data, lenient=True)
    assert read.skipped == 3
    assert [sample.value for sample in read.samples()] == [2]
    assert parse_prometheus(data, wanted={"c"}).families == []
    with pytest.raises(ExpositionError, match="line 2"):
        parse_prometheus(data, wanted={"a"})
    binary = bytes(range(256)) * 40
    assert parse_prometheus(binary, lenient=True).families == []
    assert parse_openmetrics(binary, lenient=True).families == []


def test_only_so_many_problems_are_kept() -> None:
    read = parse_prometheus(b"?" * 500 + b"\n" + b"?\n" * 999, lenient=True)
    assert (read.skipped, len(read.problems), len(read.problems[0].text)) == (1000, MOST_PROBLEMS, 80)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_is_wanted_is_all_that_is_read(path: Path) -> None:
    data = path.read_bytes()
    whole = parse_prometheus(data).families
    wanted = {"vllm:prompt_tokens_total", "vllm:iteration_tokens_total", "process_open_fds", "vllm:kv_cache_usage_perc"}
    named = wanted | {"vllm:prompt_tokens"}
    expected = [family for family in whole if family.name in named]
    assert parse_prometheus(data, wanted=wanted).families == expected
    assert len(expected) == 4


def test_a_wanted_sample_is_found_wherever_it_stands() -> None:
    text = '# TYPE a gauge\na 1\nb 2\na{x="y"} 3\nab 4\n# TYPE c histogram\nb 5\nc_sum 1\n a 6\nb{\n'
    read = parse_prometheus(text.encode(), wanted={"b"}, lenient=True)
    assert [(sample.name, sample.value) for sample in read.samples()] == [("b", 2), ("b", 5)]
    assert read.skipped == 1
    with pytest.raises(ExpositionError, match="line 10"):
        parse_prometheus(text.encode(), wanted={"b"})
    assert [sample.value for sample in parse_prometheus(text.encode(), wanted={"ab"}).samples()] == [4]


def test_hostile_lines_take_linear_time() -> None:
    """Each of these takes minutes where a pattern looks back, or a scan begins anew at each character."""
    size = 400_000
    for line in (
        'a{b="' + "\\\\" * size,
        'a{b="' + '\\"' * size + '"} 1',
        "a{" + 'b="c",' * (size // 8),
        "a{" + "".join(f'b{i}="c",' for i in range(size // 8)) + "} 1",
        "a" * size,
        "a " + "1" * size,
        "a{" + " " * size + "} 1",
        "# HELP a" + " " * size,
        "# HELP a " + "\\" * size,
        "#" * size,
        '"' * size,
        "a{" + "{" * size + "} 1",
        'a{b="c"} 1 # {' + '"' * size,
    ):
        parse_prometheus(f"# TYPE a gauge\n{line}\n".encode(), lenient=True)
        parse_openmetrics(f"# TYPE a counter\n{line}\n# EOF\n".encode(), lenient=True)


NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,6}", fullmatch=True)
KEYS = st.from_regex(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,4}", fullmatch=True).filter(
    lambda key: key not in ("le", "quantile")
)
TEXTS = st.text(st.one_of(st.sampled_from('\\"\n{}=, #'), st.characters(exclude_categories=["Cs"])), max_size=8)
VALUES = st.one_of(st.floats(), st.integers(-(2**53), 2**53))
LABELS = st.dictionaries(KEYS, TEXTS, max_size=3)


def quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def block(labels: dict[str, str], name: str = "") -> str:
    parts = ([f'"{quoted(name)}"'] if name else []) + [f'{key}="{quoted(value)}"' for key, value in labels.items()]
    return "{" + ",".join(parts) + "}" if parts else ""


def spelled(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(value)


@st.composite
def prometheus_texts(draw: st.DrawFn) -> str:
    """Anything that the text format allows, families that come back and samples of strangers included."""
    lines: list[str] = []
    for name in draw(st.lists(NAMES, max_size=4)):
        kind = draw(st.sampled_from(["counter", "gauge", "histogram", "summary", "untyped"]))
        if draw(st.booleans()):
            # The oracle strips help of any space, also where it belongs to the text.
            text = quoted(draw(TEXTS)).replace('\\"', '"').strip()
            lines.append(f"# HELP {name} {text}")
        if draw(st.booleans()):
            lines.append(f"# TYPE {name} {kind}")
        for _ in range(draw(st.integers(0, 4))):
            suffix = draw(st.sampled_from(["", "_sum", "_count", "_bucket", "_total"]))
            space = draw(st.sampled_from([" ", "  ", "\t"]))
            labels = draw(LABELS) | ({"le": draw(st.sampled_from(["1", "+Inf"]))} if suffix == "_bucket" else {})
            stamp = draw(st.one_of(st.just(""), st.integers(-(10**12), 10**12).map(str)))
            lines.append(f"{name}{suffix}{block(labels)}{space}{spelled(draw(VALUES))}{space if stamp else ''}{stamp}")
        lines += draw(st.sampled_from([[], [""], ["# a comment"], ["#"]]))
    return "".join(f"{line}\n" for line in lines)


@given(prometheus_texts())
def test_every_prometheus_text_is_read_as_the_oracle_does(text: str) -> None:
    assert ours(parse_prometheus(text.encode())) == theirs(prometheus_oracle(text))


OPENMETRICS = [
    "# EOF\n",
    "# EOF",
    "# TYPE a counter\n# HELP a help\na_total 1\n# EOF\n",
    "# TYPE a counter\na_total 1\na_created 123\n# EOF\n",
    '# TYPE a counter\na_total{b="c"} 1 123 # {t="x"} 0.5 123.5\na_total{b="d"} 1 # {} 0.5\n# EOF\n',
    "# TYPE a gauge\n# UNIT a_seconds seconds\n# TYPE a_seconds gauge\na_seconds 1\n# EOF\n",
    '# TYPE a_seconds summary\n# UNIT a_seconds seconds\na_seconds{quantile="0.5"} 1\n'
    "a_seconds_sum 2\na_seconds_count 3\n# EOF\n",
    '# TYPE a histogram\na_bucket{le="1.0"} 0\na_bucket{le="+Inf"} 3 # {a="b"} 2 1\na_count 3\n'
    "a_sum 2\na_created 1\n# EOF\n",
    '# TYPE a gaugehistogram\na_bucket{le="-1.0"} 1\na_bucket{le="+Inf"} 3\na_gcount 3\na_gsum -2\n# EOF\n',
    '# TYPE a info\na_info{b="c"} 1\na_info{b="d"} 1\n# EOF\n',
    '# TYPE a stateset\na{a="x"} 1\na{a="y"} 0\n# EOF\n',
    "a 1\nb 2\n# EOF\n",
    "# HELP a \n# TYPE a unknown\na 1\n# EOF\n",
    '# HELP a \\n\\\\ \\" \\x\n# TYPE a gauge\na{b="\\n",c="\\\\",d="\\"}"} NaN\n# EOF\n',
    '# TYPE a gauge\na{b="# {"} 1 -5.5\na{b="c"} +Inf 1e3\n# EOF\n',
    '# TYPE a gauge\na{b="c"} 1 1\na{b="c"} 2 2\na{b="c"} 2 2\n# EOF\n',
    '# TYPE "a.b" gauge\n{"a.b",c="d"} 1\n{c="e","a.b"} 2\n# EOF\n',
    '# TYPE a histogram\na_bucket{b="1",le="+Inf"} 3 1\na_bucket{b="1",le="+Inf"} 4 2\n'
    'a_bucket{b="2",le="+Inf"} 0\n# EOF\n',
]


@pytest.mark.parametrize("text", OPENMETRICS)
def test_openmetrics_is_read_as_the_oracle_does(text: str) -> None:
    expected = theirs(openmetrics_oracle(text))
    assert ours(parse_openmetrics(text.encode())) == expected
    assert is_openmetrics(text.encode())


REFUSED = {
    "": "without # EOF",
    "a 1\n": "without # EOF",
    "# EOF\na 1\n": "behind # EOF",
    "# EOF\n\n": "behind # EOF",
    "\n# EOF\n": "empty line",
    "# comment\n# EOF\n": "neither HELP",
    "# HELP a\n# EOF\n": "nothing behind HELP",
    "# TYPE a\n# EOF\n": "nothing behind TYPE",
    "# TYPE a untyped\n# EOF\n": "no type",
    "# TYPE a bad\n# EOF\n": "no type",
    "# TYPE a gauge\n# TYPE a gauge\n# EOF\n": "second TYPE",
    "# HELP a x\n# HELP a x\n# EOF\n": "second HELP",
    "# UNIT a_s s\n# UNIT a_s s\n# EOF\n": "second UNIT",
    "a 1\n# HELP a x\n# EOF\n": "metadata behind samples",
    "# UNIT a s\n# EOF\n": "unit",
    "# TYPE a_s info\n# UNIT a_s s\n# EOF\n": "has no unit",
    "# TYPE a counter\na 1\n# EOF\n": "same names",
    "# TYPE a gauge\na 1\n# TYPE b gauge\n# TYPE a gauge\n# EOF\n": "same names",
    "a  1\n# EOF\n": "no value",
    "a 1 \n# EOF\n": "no number|no value",
    "a 1 2 3\n# EOF\n": "space",
    "a 1 NaN\n# EOF\n": "timestamp",
    "a 1 1_0\n# EOF\n": "no number",
    "a 1\r\n# EOF\n": "no number",
    'a{b="c",} 1\n# EOF\n': "where a label begins",
    'a{b="c",b="d"} 1\n# EOF\n': "twice",
    "a 1 # {} 1\n# EOF\n": "exemplars",
    "# TYPE a counter\na_total 1 # \n# EOF\n": "begins with its labels",
    '# TYPE a counter\na_total 1 # {a="b"}\n# EOF\n': "space",
    '# TYPE a counter\na_total 1 # {a="' + "x" * 128 + '"} 1\n# EOF\n': "128",
    "# TYPE a counter\na_total NaN\n# EOF\n": "value of _total",
    "# TYPE a counter\na_total -1\n# EOF\n": "value of _total",
    "# TYPE a info\na_info 2\n# EOF\n": "info is 1",
    "# TYPE a stateset\na 1\n# EOF\n": "needs a label",
    '# TYPE a stateset\na{a="x"} 2\n# EOF\n': "0 or 1",
    "# TYPE a summary\na 1\n# EOF\n": "quantile",
    '# TYPE a summary\na{quantile="1.5"} 1\n# EOF\n': "quantile",
    '# TYPE a summary\na{quantile="0.5"} -1\n# EOF\n': "negative",
    "# TYPE a histogram\na_bucket 1\n# EOF\n": "le",
    '# TYPE a histogram\na_bucket{le="x"} 1\n# EOF\n': "no number",
    '# TYPE a histogram\na_bucket{le="Inf"} 1\n# EOF\n': "le",
    '# TYPE a histogram\na_bucket{le="1"} 1\n# EOF\n': r"no bucket \+Inf",
    '# TYPE a histogram\na_bucket{le="+Inf"} 1.5\n# EOF\n': "whole number",
    '# TYPE a histogram\na_bucket{le="2"} 1\na_bucket{le="1"} 1\na_bucket{le="+Inf"} 1\n# EOF\n': "do not rise",
    '# TYPE a histogram\na_bucket{le="1"} 2\na_bucket{le="+Inf"} 1\n# EOF\n': "do not rise",
    '# TYPE a histogram\na_bucket{le="+Inf"} 1\na_count 2\na_sum 1\n# EOF\n': "count",
    '# TYPE a histogram\na_bucket{le="+Inf"} 1\na_count 1\n# EOF\n': "only one of sum and count",
    '# TYPE a histogram\na_bucket{le="-1"} 1\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n# EOF\n': "negative bounds",
    '# TYPE a gaugehistogram\na_bucket{le="+Inf"} 1\na_gcount 1\na_gsum -1\n# EOF\n': "negative sum",
    '# TYPE a gauge\na{b="1"} 1\na{b="2"} 1\na{b="1"} 1\n# EOF\n': "stand together",
    "# TYPE a gauge\na 1 2\na 1 1\n# EOF\n": "go back",
    "# TYPE a gauge\na 1 2\na 1\n# EOF\n": "others none",
}


@pytest.mark.parametrize(("text", "why"), REFUSED.items())
def test_openmetrics_that_is_none(text: str, why: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 — the oracle's words are its own
        list(openmetrics_oracle(text))
    with pytest.raises(ExpositionError, match=why):
        parse_openmetrics(text.encode())
    assert parse_openmetrics(text.encode(), lenient=True).skipped > 0


@pytest.mark.parametrize("line", ['a{ b="c"} 1', 'a{b = "c"} 1', 'a{b="c"}91', 'a{b:c="d"} 1'])
def test_openmetrics_that_the_oracle_lets_pass(line: str) -> None:
    with pytest.raises(ExpositionError):
        parse_openmetrics(f"{line}\n# EOF\n".encode())


def test_openmetrics_that_the_oracle_cannot_read() -> None:
    """Escaped quotes in an exemplar; a histogram at two times."""
    text = """\
# TYPE c counter
c_total{a="b # {} 1"} 1 # {t="\\"} \\\\"} 0.5 2
# TYPE h histogram
h_bucket{le="1"} 1 1
h_bucket{le="+Inf"} 1 1
h_bucket{le="1"} 2 2
h_bucket{le="+Inf"} 2 2
# EOF
"""
    counter, histogram = parse_openmetrics(text.encode()).families
    assert counter.samples[0].exemplar == ({"t": '"} \\'}, 0.5, 2.0)
    assert counter.samples[0].labels == {"a": "b # {} 1"}
    assert [sample.value for sample in histogram.samples] == [1, 1, 2, 2]


def test_lenient_openmetrics_keeps_the_rest() -> None:
    text = '# TYPE a gauge\na 1\n# TYPE h histogram\nh_bucket{le="1"} 1\n\nb 2\n# TYPE c gauge\nc\nc 3\n'
    read = parse_openmetrics(text.encode(), lenient=True)
    assert [(sample.name, sample.value) for sample in read.samples()] == [("a", 1), ("b", 2), ("c", 3)]
    assert [problem.line for problem in read.problems] == [5, 5, 8, 10]
    wanted = parse_openmetrics(text.encode(), wanted={"c"}, lenient=True).families
    assert wanted == [Family("c", "gauge", "", "", [Sample("c", {}, 3.0)])]


@st.composite
def openmetrics_texts(draw: st.DrawFn) -> str:
    lines: list[str] = []
    stamps: Sequence[str] = draw(st.sampled_from([[""], [" 1.5", " 2"]]))
    for number, name in enumerate(draw(st.lists(NAMES, max_size=4))):
        family = f"{name}_{number}"  # clashes are the other test's
        kind = draw(st.sampled_from(["counter", "gauge", "histogram", "summary", "info", "unknown", ""]))
        lines += [f"# TYPE {family} {kind}"] if kind else []
        if draw(st.booleans()):
            lines.append(f"# HELP {family} {quoted(draw(TEXTS)).lstrip(' ')}")
        for labels in draw(st.lists(LABELS, max_size=3, unique_by=lambda labels: tuple(sorted(labels.items())))):
            # The oracle loses buckets and quantiles of a second time.
            for stamp in stamps if kind not in ("histogram", "summary") else stamps[:1]:
                lines += _series(draw, family, kind, labels, stamp)
    return "".join(f"{line}\n" for line in [*lines, "# EOF"])


def _series(draw: st.DrawFn, family: str, kind: str, labels: dict[str, str], stamp: str) -> list[str]:
    count = draw(st.integers(0, 2**53))
    # The oracle cannot read escaped quotes in an exemplar.
    trace = draw(st.text("abc 019,=", max_size=8))
    exemplar = draw(st.sampled_from(["", " # {} 1", f' # {{t="{trace}"}} 0.5', f' # {{t="{trace}",u=""}} 1e3 5.25']))
    if kind == "counter":
        return [f"{family}_total{block(labels)} {count}{stamp}{exemplar}"]
    if kind == "info":
        return [f"{family}_info{block(labels)} 1{stamp}"]
    if kind == "summary":
        half = block(labels | {"quantile": "0.5"})
        return [f"{family}{half} 0.5{stamp}", f"{family}_sum{block(labels)} 1{stamp}"]
    if kind == "histogram":
        low, high = block(labels | {"le": "0.5"}), block(labels | {"le": "+Inf"})
        less = draw(st.integers(0, count))
        return [
            f"{family}_bucket{low} {less}{stamp}{exemplar}",
            f"{family}_bucket{high} {count}{stamp}",
            f"{family}_sum{block(labels)} 0.25{stamp}",
            f"{family}_count{block(labels)} {count}{stamp}",
        ]
    return [f"{family}{block(labels)} {spelled(draw(VALUES))}{stamp}"]


@given(openmetrics_texts())
def test_every_openmetrics_text_is_read_as_the_oracle_does(text: str) -> None:
    assert ours(parse_openmetrics(text.encode())) == theirs(openmetrics_oracle(text))


@given(st.binary(max_size=200), st.sampled_from([b"", b'# TYPE a gauge\na{b="c"} 1\n', b"# HELP a x\n"]))
def test_a_lenient_reader_takes_everything(noise: bytes, start: bytes) -> None:
    for data in (start + noise, start + noise + b"\n# EOF\n"):
        parse_prometheus(data, lenient=True)
        parse_openmetrics(data, lenient=True)
