"""What a benchmark gives back, and how a table of it looks. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison of one run. `ours` and `theirs` are in `unit` (s, ms, MiB, ...); lower is better."""

    name: str
    peer: str
    """What `theirs` is: the program or the way of doing it that was measured beside ours."""
    ours: float
    theirs: float
    unit: str

    @property
    def ratio(self) -> float:
        """ours / theirs."""
        return self.ours / self.theirs if self.theirs else float("inf")

    def as_json(self) -> dict[str, str | float]:
        """The row as it stands in `.bench/results.json`."""
        return {
            "name": self.name,
            "peer": self.peer,
            "ours": round(self.ours, 6),
            "theirs": round(self.theirs, 6),
            "ratio": round(self.ratio, 4),
            "unit": self.unit,
        }


def table(rows: Sequence[Row]) -> str:
    """`rows` as aligned plain text, so that it reads the same in a terminal and in a CI log."""
    head = ("benchmark", "ours", "theirs", "unit", "ratio", "theirs is")
    cells = [(r.name, f"{r.ours:.3f}", f"{r.theirs:.3f}", r.unit, f"{r.ratio:.2f}", r.peer) for r in rows]
    widths = [max(len(row[column]) for row in [head, *cells]) for column in range(len(head))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(_line(row, widths) for row in [head, rule, *cells])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numeric = {1, 2, 4}
    cells = [
        cell.rjust(w) if i in numeric else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
