"""`python -m tests.bench NAME...`: run benchmarks, print one table, keep the rows in `.bench/results.json`.

NAME is a module of this folder with `main() -> list[Row]`, or `all`. Rows of benchmarks that were not run
this time stay in the file, so that `make bench BENCH=start` does not throw away the others.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.rows import Row, table

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parents[1] / ".bench" / "results.json"
NOT_BENCHMARKS = {"__init__", "__main__", "rows", "stdio"}


def available() -> list[str]:
    """Names of the benchmarks: the modules of this folder that define `main`."""
    files = (path for path in FOLDER.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    return sorted(path.stem for path in files if "\ndef main(" in path.read_text(encoding="utf-8"))


def run(name: str) -> list[Row]:
    """The rows of one benchmark."""
    started = time.monotonic()
    print(f"bench {name} ...", file=sys.stderr, flush=True)
    rows: list[Row] = importlib.import_module(f"tests.bench.{name}").main()
    print(f"bench {name}: {len(rows)} rows in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def save(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Merge `rows` into the file by (name, peer), atomically, so that a reader never sees half of it."""
    kept = _load(path)
    for row in rows:
        kept[row.name, row.peer] = row.as_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(list(kept.values()), indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def _load(path: Path) -> dict[tuple[str, str], dict[str, str | float]]:
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {(row["name"], row["peer"]): row for row in rows}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when every benchmark ran; the numbers themselves never fail a run."""
    names = available()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", default=["all"], metavar="NAME", help=f"all, or any of {', '.join(names)}")
    asked: list[str] = parser.parse_args(argv).names
    unknown = sorted(set(asked) - {"all", *names})
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: all, {', '.join(names)}")
    rows = [row for name in (names if "all" in asked else asked) for row in run(name)]
    save(rows)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; lower ratio is better\n")
    print(table(rows))
    print(f"\nwritten to {RESULTS.relative_to(FOLDER.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
