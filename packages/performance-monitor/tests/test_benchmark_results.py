"""Results as files, runs found again and compared, and tables for people."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import StateNotFound
from vllm_performance_monitor.benchmarking.results import Results
from vllm_performance_monitor.core.benchmarks.arrivals import ClosedLoop, OpenLoop
from vllm_performance_monitor.core.benchmarks.outcomes import Failure, Outcome
from vllm_performance_monitor.core.benchmarks.report import HostFacts, Report, Row, Subject
from vllm_performance_monitor.core.benchmarks.summary import Tally
from vllm_performance_monitor.core.benchmarks.tables import (
    WIDTH,
    render_comparison,
    render_levels,
    render_side_by_side,
)
from vllm_performance_monitor.core.benchmarks.workload import Workload

HOST = HostFacts(name="h", system="Linux", processor="p", cpus=2)


def row(label: str = "vLLM", *, level: int = 8, slow: float = 1.0, failed: int = 0, requests: int = 200) -> Row:
    tally = Tally()
    for number in range(requests):
        start = number * slow / level
        wobble = 1 + 0.1 * (number % 7) / 7
        gaps = [0.01 * slow * wobble] * 9
        first = start + 0.05 * slow * wobble
        tally.add(Outcome(number, start, start, first + sum(gaps), first, gaps, input_tokens=100, output_tokens=10))
    for number in range(failed):
        tally.add(Outcome(number, 0.0, 0.0, 1.0, failure=Failure.OVERLOADED, words="busy " * 40 + "\nagain"))
    return Row(
        subject=Subject(label=label, model="org/model", api="chat", where="http://x", version="0.32.0"),
        load=ClosedLoop(concurrency=level),
        summary=tally.summary(),
        slices=tally.slices(),
        ended_by="requests",
        client_busy=0.1,
        notes=("something that has to be said at some length, so that it does not fit into the line " * 2,),
    )


def report(number: int, *rows: Row, **changed: Any) -> Report:
    fields: dict[str, Any] = {
        "id": f"b-20260101T0000{number:02d}-abcdef",
        "started_at": f"2026-01-01T00:00:{number:02d}.000+00:00",
        "seconds": 1.0,
        "workload": Workload.of("short"),
        "salt": number,
        "requests": 200,
        "host": HOST,
        "suite_version": "0.1.0",
        "rows": rows or (row(),),
    }
    return Report(**(fields | changed))


def test_reports_are_kept_read_and_limited(tmp_path: Path) -> None:
    results = Results(tmp_path, keep=3)
    assert results.list() == []
    for number in range(5):
        results.save(report(number))
    assert [listed.id[-9:-7] for listed in results.list()] == ["04", "03", "02"]
    assert results.load(report(3).id) == report(3)
    assert (results.folder.stat().st_mode & 0o777, results.list()[0].path.stat().st_mode & 0o777) == (0o700, 0o600)
    for bad in ("b-20260101T000000-abcdef", "../hub", "x", ""):
        with pytest.raises(StateNotFound, match="no readable benchmark"):
            results.load(bad)
    with pytest.raises(ValueError, match="no id"):
        results.save(report(1, id="../evil"))


def test_a_damaged_file_hides_no_other(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for number in range(4):
        results.save(report(number))
    paths = [listed.path for listed in results.list()]
    paths[0].write_text("{")
    later = json.loads(paths[1].read_text()) | {"format": 2}
    paths[1].write_text(json.dumps(later))
    assert [one.id for one in results.newest()] == [report(1).id, report(0).id]
    with pytest.raises(StateNotFound):
        results.load(report(3).id)


def test_the_latest_comparable_run_is_found_and_compared(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.save(report(1, row(), row(level=16)))
    results.save(report(2, row(), host=HOST.model_copy(update={"name": "other"})))
    results.save(report(3, row(), workload=Workload.of("long")))
    results.save(report(4, row("Ollama"), row(level=4)))
    results.save(report(5, row(requests=0, failed=3)))
    now = report(6, row(slow=1.5))
    found = results.comparable(now, now.rows[0])
    assert found is not None
    assert found[0].id == report(2).id
    comparison = results.compare(now, now.rows[0])
    assert comparison is not None
    assert comparison.changed == ("host: other → h",)
    verdicts = {one.metric: one.verdict for one in comparison.differences}
    assert verdicts == dict.fromkeys(("output_tokens_per_second", "ttft", "tpot", "e2e"), "worse")
    shown = render_comparison(now.rows[0], comparison)
    assert "worse" in shown
    assert max(map(len, shown.splitlines())) <= WIDTH
    alike = report(6, row(slow=1.01))
    same = results.compare(alike, alike.rows[0])
    assert same is not None
    assert {one.verdict for one in same.differences} == {"within noise"}
    assert results.compare(report(0), row()) is None


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(1e-4, 1e4), st.integers(0, 2)), min_size=1, max_size=4),
    st.text(max_size=200),
)
def test_tables_fit_whatever_is_in_them(rows: list[tuple[int, float, int]], label: str) -> None:
    made = report(1, *(row(label, level=level, slow=slow, failed=failed, requests=9) for level, slow, failed in rows))
    for text in (render_levels(made), render_side_by_side(made)):
        assert max(map(len, text.split("\n"))) <= WIDTH


def test_tables_say_what_was_measured() -> None:
    made = report(1, row(), row("Ollama", slow=2, failed=2), row("LM Studio", slow=3))
    side = render_side_by_side(made)
    print(side, render_levels(made), sep="\n\n")
    assert max(map(len, [*side.splitlines(), *render_levels(made).splitlines()])) <= 78
    rates, times = (line for line in side.splitlines() if line.startswith("vLLM "))
    assert (rates.count("*"), times.count("*")) == (1, 2)
    assert not any("*" in line for line in side.splitlines() if line.startswith("Ollama "))
    assert "2 overloaded: busy" in side
    assert 7.9 <= float(rates.split()[1]) < 9
    opened = row().model_copy(update={"load": OpenLoop(per_second=2.5)})
    assert "2.5/s" in render_levels(report(1, opened))
