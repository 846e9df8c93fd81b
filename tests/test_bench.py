"""The benchmark runner; the measurements themselves are never tests."""

import importlib
import inspect
import json
from pathlib import Path

import pytest

from tests.bench.__main__ import available, main, save
from tests.bench.rows import Row, table

SLOW = Row("start", "by hand", 3.0, 2.0, "s")
SMALL = Row("memory of a server", "hello-world", 70.0, 140.0, "MiB")


def test_a_row_is_ours_over_theirs() -> None:
    assert SLOW.as_json() == {
        "name": "start",
        "peer": "by hand",
        "ours": 3.0,
        "theirs": 2.0,
        "ratio": 1.5,
        "unit": "s",
    }


def test_the_table_is_aligned() -> None:
    head, rule, *lines = table([SLOW, SMALL]).splitlines()
    assert head.split()[:2] == ["benchmark", "ours"]
    assert set(rule) == {"-", " "}
    assert [line.index("start" if "start" in line else "memory") for line in lines] == [0, 0]
    assert len({line.rindex(row.peer) for line, row in zip(lines, (SLOW, SMALL), strict=True)}) == 1


def test_results_of_other_benchmarks_stay_and_repeated_ones_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    save([SLOW, SMALL], path)
    save([Row("start", "by hand", 1.0, 2.0, "s")], path)
    assert [(row["name"], row["ours"]) for row in json.loads(path.read_text())] == [
        ("start", 1.0),
        ("memory of a server", 70.0),
    ]
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize("name", available())
def test_every_benchmark_can_be_run_by_name(name: str) -> None:
    assert not inspect.signature(importlib.import_module(f"tests.bench.{name}").main).parameters


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["nope"])
    assert "there are: all, discovery, engine, hub" in capsys.readouterr().err
