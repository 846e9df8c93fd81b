"""Finished benchmarks: one JSON file each in the state folder, the newest of them kept."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vllm_mcp_protocol.errors import StateNotFound
from vllm_mcp_protocol.files import disk_error, write_atomic
from vllm_performance_monitor.core.benchmarks.report import Comparison, Report, Row, compare_rows, same_question

FOLDER = "benchmarks"
KEPT = 200
"""A report of six loads has 30 KB: 6 MB in all."""

MAX_BYTES = 8 * 1024 * 1024
_ID = re.compile(r"b-\d{8}T\d{6}-[0-9a-f]{4,16}")


@dataclass(frozen=True, slots=True)
class Listed:
    """One file."""

    id: str
    path: Path


class Results:
    """The benchmarks kept in one state folder. Blocking: files are small."""

    def __init__(self, state: Path, *, keep: int = KEPT) -> None:
        self.folder = state / FOLDER
        self._keep = keep

    def save(self, report: Report) -> Path:
        """Keep `report`, and drop the oldest beyond the limit. Raises DiskFull and OSError."""
        if not _ID.fullmatch(report.id):
            raise ValueError(f"{report.id!r} is no id of a benchmark")
        path = self.folder / f"{report.id}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise disk_error(error, path) from error
        write_atomic(path, report.model_dump_json().encode() + b"\n")
        for listed in self.list()[self._keep :]:
            listed.path.unlink(missing_ok=True)
        return path

    def list(self) -> list[Listed]:
        """The newest first; ids begin with the time."""
        try:
            paths = [path for path in self.folder.iterdir() if path.suffix == ".json" and _ID.fullmatch(path.stem)]
        except FileNotFoundError:
            return []
        return [Listed(path.stem, path) for path in sorted(paths, key=lambda path: path.stem, reverse=True)]

    def load(self, report_id: str) -> Report:
        """Raises StateNotFound for what is not there, or cannot be read."""
        path = self.folder / f"{report_id}.json"
        report = _read(path) if _ID.fullmatch(report_id) else None
        if report is None:
            known = ", ".join(listed.id for listed in self.list()[:5]) or "none yet"
            raise StateNotFound(
                f"There is no readable benchmark {report_id!r}.",
                id=report_id,
                suggestion=f"name one that is kept (the newest: {known}), or run benchmark-model",
            )
        return report

    def newest(self) -> Iterator[Report]:
        """Those that can be read, the newest first, read as they are asked for."""
        for listed in self.list():
            if (report := _read(listed.path)) is not None:
                yield report

    def comparable(self, report: Report, row: Row) -> tuple[Report, Row] | None:
        """The latest earlier run of the same model, workload and load that answered anything."""
        for old in self.newest():
            if old.id == report.id or old.started_at > report.started_at:
                continue
            for old_row in old.rows:
                if old_row.summary.succeeded and same_question(old, old_row, report, row):
                    return old, old_row
        return None

    def compare(self, report: Report, row: Row) -> Comparison | None:
        """`row` beside the latest comparable run."""
        found = self.comparable(report, row)
        return None if found is None else compare_rows(*found, report, row)


def _read(path: Path) -> Report | None:
    """None for a file that is gone, damaged, too large or of a later version: the others are still of use."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        return Report.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None
