"""What a scrape of an engine says: the recorded answer of 0.32, old names, ranks, restarts, and lines that are none."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from vllm_mcp_protocol.metrics.histogram import Histogram
from vllm_mcp_protocol.metrics.names import IGNORED, METRICS, Kind, canonical, is_ignored
from vllm_mcp_protocol.metrics.reading import EngineReader, read_engine_metrics

DATA = Path(__file__).parent / "data" / "metrics"
BUSY, IDLE = (DATA / f"vllm-0.32-{state}.prom" for state in ("busy", "idle"))
FAMILIES = {family.name: family for family in text_string_to_metric_families(BUSY.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_recorded_metric_is_known_or_ignored_on_purpose(name: str) -> None:
    known = canonical(name)
    assert (known is None) == is_ignored(name)
    if known is not None:
        recorded = FAMILIES[name].type
        kind = METRICS[known].kind
        assert kind == recorded or (kind is Kind.INFO and recorded == "gauge")
        assert METRICS[known].by in ("", *(key for sample in FAMILIES[name].samples for key in sample.labels))


def test_the_table_is_sound() -> None:
    assert set(FAMILIES) >= IGNORED
    written = [name for metric in METRICS.values() for name in metric.written]
    assert len(written) == len(set(written))
    for metric in METRICS.values():
        assert canonical(metric.written[0]) == metric.name
        assert re.fullmatch(r"[a-z0-9_]+", metric.name)
        assert metric.meaning[0].isupper()
        assert (metric.unit == "seconds") == ("seconds" in metric.name) or metric.kind is Kind.INFO
    assert canonical("vllm:gpu_cache_usage_perc") == "kv_cache_usage_perc"
    assert canonical("vllm:time_per_output_token_seconds") == "inter_token_latency_seconds"
    assert canonical("vllm:gpu_prefix_cache_hits_total") == canonical("vllm:prefix_cache_hits") == "prefix_cache_hits"
    assert canonical("sglang:num_running_reqs") is None


def test_the_recorded_answer() -> None:
    """Every number by hand, or by prometheus_client."""
    read = read_engine_metrics(BUSY.read_bytes())
    assert (read.skipped, read.problems, read.model_names, read.ranks) == (0, (), ("tiny-org/tiny-llama",), 1)
    assert read.counters["prompt_tokens"] == 1568
    assert read.counters_by["request_success"] == {"stop": 7, "length": 24, "abort": 0, "error": 0, "repetition": 0}
    assert read.counters["request_success"] == 31
    assert read.gauges_by["num_requests_waiting_by_reason"] == {"capacity": 0, "deferred": 0}
    assert read.gauges_by["engine_sleep_state"] == {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
    assert "engine_sleep_state" not in read.gauges
    assert read.started_s == 1.79522220255e9
    assert read.infos["cache_config_info"][0]["num_gpu_blocks"] == "16384"
    assert [labels["running_lora_adapters"] for labels in read.infos["lora_requests_info"]] == ["", "tl"]
    for name, metric in METRICS.items():
        family = FAMILIES.get(metric.written[0])
        if family is None:
            assert not any(name in part for part in (read.gauges, read.counters, read.histograms))
        elif metric.kind is Kind.HISTOGRAM:
            told = {s.name.removeprefix(family.name): s.value for s in family.samples if "le" not in s.labels}
            found = read.histograms[name]
            assert (found.count, found.sum) == (told["_count"], told["_sum"])
            heights = {float(s.labels["le"]): s.value for s in family.samples if "le" in s.labels}
            assert list(heights)[:-1] == list(found.bounds)
            assert [sum(found.counts[: i + 1]) for i in range(len(found.counts))] == list(heights.values())
        elif metric.kind is Kind.COUNTER:
            assert read.counters[name] == sum(s.value for s in family.samples if s.name.endswith("_total"))


def test_an_idle_engine_has_counters_at_zero() -> None:
    read = read_engine_metrics(IDLE.read_bytes())
    assert read.counters["generation_tokens"] == 0
    assert read.histograms["time_to_first_token_seconds"].mean is None


OLD = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 2.0
# TYPE vllm:num_requests_swapped gauge
vllm:num_requests_swapped{model_name="m"} 1.0
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
# TYPE vllm:gpu_prefix_cache_hits counter
vllm:gpu_prefix_cache_hits_total{model_name="m"} 7.0
# TYPE vllm:time_per_output_token_seconds histogram
vllm:time_per_output_token_seconds_sum{model_name="m"} 3.0
vllm:time_per_output_token_seconds_bucket{le="0.01",model_name="m"} 1.0
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 2.0
vllm:time_per_output_token_seconds_count{model_name="m"} 2.0
"""


def test_old_names() -> None:
    read = read_engine_metrics(OLD.encode())
    assert read.gauges == {"num_requests_running": 2, "num_requests_swapped": 1, "kv_cache_usage_perc": 0.25}
    assert read.counters == {"prefix_cache_hits": 7}
    assert read.histograms == {"inter_token_latency_seconds": Histogram((0.01,), (1.0, 1.0), 3.0)}
    assert (read.ranks, read.started_s) == (0, None)


def test_an_engine_between_two_names_is_not_counted_twice() -> None:
    renamed = OLD[OLD.index("# TYPE vllm:gpu_cache") :].replace("gpu_", "").replace("vllm:cache", "vllm:kv_cache")
    new = (
        renamed.replace("time_per_output_token", "inter_token_latency").replace(" 7.0", " 9.0").replace(" 3.0", " 4.0")
    )
    both = read_engine_metrics(OLD.encode() + new.encode())
    assert both == read_engine_metrics(new.encode() + OLD.encode())
    assert both.counters == {"prefix_cache_hits": 9}
    assert both.gauges["kv_cache_usage_perc"] == 0.25
    assert both.histograms["inter_token_latency_seconds"] == Histogram((0.01,), (1.0, 1.0), 4.0)


def ranks(text: str, count: int) -> bytes:
    lines = []
    for line in text.splitlines():
        lines += [line.replace("{", f'{{engine="{i}",', 1) for i in range(count)] if "{" in line else [line]
    return "\n".join(lines).encode()


def test_ranks_are_added_up_and_shares_averaged() -> None:
    read = read_engine_metrics(ranks(OLD, 4))
    assert read.ranks == 4
    assert read.gauges == {"num_requests_running": 8, "num_requests_swapped": 4, "kv_cache_usage_perc": 0.25}
    assert read.counters == {"prefix_cache_hits": 28}
    assert read.histograms == {"inter_token_latency_seconds": Histogram((0.01,), (4.0, 4.0), 12.0)}


def test_without_metadata_and_as_openmetrics() -> None:
    bare = "\n".join(line for line in OLD.splitlines() if not line.startswith("#"))
    assert read_engine_metrics(bare.encode()) == read_engine_metrics(OLD.encode())
    assert read_engine_metrics((OLD + "# EOF\n").encode()) == read_engine_metrics(OLD.encode())


HISTOGRAM = "vllm:e2e_request_latency_seconds"


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        ("vllm:num_requests_running\n", 1),
        ("vllm:num_requests_running x\nmine 1 2 3\n{broken\n", 2),
        ("vllm:num_requests_running NaN\n", 0),
        ("vllm:num_requests_running -1.7e308\n", 0),
        ("vllm:prompt_tokens_total -1\n", 1),
        ("vllm:prompt_tokens_total NaN\n", 1),
        ('vllm:prompt_tokens_total{engine="0"} 1.7e308\nvllm:prompt_tokens_total{engine="1"} 1.7e308\n', 1),
        (f'{HISTOGRAM}_bucket{{le="1"}} 2\n{HISTOGRAM}_sum 1\n', 1),
        (f'{HISTOGRAM}_bucket{{le="1"}} 2\n{HISTOGRAM}_bucket{{le="+Inf"}} 1\n', 1),
        (f'{HISTOGRAM}_bucket{{le="x"}} 2\n', 1),
        (f'{HISTOGRAM}_bucket{{le="1"}} 2\n{HISTOGRAM}_bucket{{le="1.0"}} 2\n{HISTOGRAM}_bucket{{le="+Inf"}} 2\n', 1),
        (f'{HISTOGRAM}_bucket{{le="NaN"}} 2\n{HISTOGRAM}_bucket{{le="+Inf"}} 2\n', 1),
        (f'{HISTOGRAM}_bucket{{le="+Inf"}} 1e300\n{HISTOGRAM}_sum 1\n', 1),
        (f'{HISTOGRAM}_bucket{{le="+Inf"}} 2\n', 1),
        *((f'{HISTOGRAM}_bucket{{le="+Inf"}} 2\n{HISTOGRAM}_sum {total}\n', 1) for total in ("NaN", "-Inf", "1e300")),
        (f"{HISTOGRAM}_bucket 2\n", 1),
        (f"# TYPE {HISTOGRAM} histogram\n{HISTOGRAM}_count 2\n", 0),
        ("\x00\x01", 1),
    ],
)
def test_what_cannot_be_read_is_left_out_and_counted(text: str, skipped: int) -> None:
    read = read_engine_metrics(f"{text}vllm:num_requests_waiting 3\n".encode() if text[-1] == "\n" else text.encode())
    assert (read.skipped, len(read.problems)) == (skipped, skipped)
    assert not read.counters
    assert not read.histograms
    assert set(read.gauges) <= {"num_requests_waiting"}


def test_restarts() -> None:
    first, same, second, unknown = (
        read_engine_metrics(text.encode())
        for text in (
            "process_start_time_seconds 1.7e9",
            "process_start_time_seconds 1700000000.5",
            "process_start_time_seconds 1.8e9",
            "",
        )
    )
    assert second.restarted_since(first)
    assert not same.restarted_since(first)
    assert not unknown.restarted_since(first)
    assert not first.restarted_since(unknown)


@given(st.binary(max_size=300), st.integers(0, len(BUSY.read_bytes())))
def test_it_never_raises(noise: bytes, at: int) -> None:
    data = BUSY.read_bytes()
    read_engine_metrics(noise)
    read_engine_metrics(data[max(0, at - 2000) : at] + noise + data[at : at + 2000])


RUNNING = 'vllm:num_requests_running{engine="0",model_name="m"}'
SMALL = f"""\
# TYPE vllm:num_requests_running gauge
{RUNNING} 2.0
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{{engine="0",model_name="m"}} 7.0
vllm:prompt_tokens_created{{engine="0",model_name="m"}} 1.7e9
# TYPE {HISTOGRAM} histogram
{HISTOGRAM}_bucket{{le="0.5"}} 1.0
{HISTOGRAM}_bucket{{le="+Inf"}} 2.0
{HISTOGRAM}_sum 1.5
{HISTOGRAM}_count 2.0
# TYPE somebody_else gauge
somebody_else{{path="/a b"}} 4.0
bare 5
"""
LINES = SMALL.splitlines()
PIECES = st.sampled_from(
    [
        *(
            "0.0",
            "1",
            "3.5",
            "NaN",
            "+Inf",
            "-1",
            "x",
            "",
            " ",
            "1 1700000000000",
            "1_0",
            "\u0661",
            "2 ",
            "1\r",
            "# {a} 1 1",
        ),
        *("1\t", "\t1", f"{RUNNING}\t11", f"{RUNNING}\t4 ", "vllm:num_requests_running\t12\r", "\t# a comment"),
    ]
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, int, str]:
    """Something that happens to one line of a text, whichever."""
    what = draw(st.sampled_from(["value", "value", "value", "line", "gone", "twice", "swapped"]))
    return what, draw(st.integers(0, 40)), draw(st.one_of(PIECES, st.sampled_from(LINES)))


def changed(lines: list[str], what: str, at: int, piece: str) -> list[str]:
    at %= max(1, len(lines))
    before, line, after = lines[:at], lines[at : at + 1], lines[at + 1 :]
    match what:
        case "value":
            return [*before, *(f"{one.rpartition(' ')[0]} {piece}" for one in line), *after]
        case "line":
            return [*before, piece, *after]
        case "twice":
            return [*before, *line, *line, *after]
        case "swapped":
            return [*before, *after[:1], *line, *after[1:]]
    return [*before, *after]


@given(st.lists(st.lists(changes(), max_size=3), max_size=6), st.booleans())
def test_reading_on_is_reading_anew(steps: list[list[tuple[str, int, str]]], openmetrics: bool) -> None:
    """Of whatever becomes of a text; NaN is compared, too."""
    reader, lines = EngineReader(), list(LINES)
    for step in ([], [], *steps):
        for what, at, piece in step:
            lines = changed(lines, what, at, piece)
        text = "\n".join([*lines, *(["# EOF"] if openmetrics else []), ""]).encode()
        assert repr(reader.read(text)) == repr(read_engine_metrics(text))


@pytest.mark.parametrize("line", [f"{RUNNING}\t11", f"{RUNNING} 11 ", f"{RUNNING} 11\r"])
def test_reading_on_takes_no_line_for_another(line: str) -> None:
    """The value is the number of a line that nobody wants, and that changes."""
    reader, text = EngineReader(), SMALL.replace(f"{RUNNING} 2.0", line)
    assert "somebody_else" in text.splitlines()[11]
    for value in (4.0, 4.0, 5.0, 6.0):
        assert reader.read(text.replace("4.0", str(value)).encode()).gauges == {"num_requests_running": 11.0}


def test_reading_on_takes_nothing_of_other_readings() -> None:
    """What a reading says stays so when the next one is read."""
    reader, readings = EngineReader(), []
    texts = [SMALL.replace("1.5", f"{n}.5").replace("7.0", f"{n}.0").encode() for n in range(7, 11)]
    for text in texts:
        readings.append(reader.read(text))
    assert readings == [read_engine_metrics(text) for text in texts]
    assert [one.counters["prompt_tokens"] for one in readings] == [7, 8, 9, 10]
    assert reader.read(SMALL.encode()[:-1] + b"\xff\n") == read_engine_metrics(SMALL.encode()[:-1] + b"\xff\n")
    assert reader.read(b"") == read_engine_metrics(b"")
