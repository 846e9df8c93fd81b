"""Benchmarks for people, in at most 78 columns: a terminal of 80 with an indent."""

from collections.abc import Sequence

from vllm_performance_monitor.core.benchmarks.report import Comparison, Report, Row
from vllm_performance_monitor.core.benchmarks.samples import Distribution

WIDTH = 78
_LABEL = 22
_RATES = ("req/s", "in t/s", "out t/s", "TPOT ms", "failed")
_TIMES = ("TTFT ms", "ITL ms", "E2E s")
_LEGEND = (
    "TTFT, ITL, E2E: p50/p95/p99, linear between two values, as `vllm bench serve`",
    "has them. TPOT: mean. Load: requests at a time, or sent per second (/s).",
)


def render_levels(report: Report) -> str:
    """One server under several loads; several servers one below the other."""
    subjects = list(dict.fromkeys(row.subject for row in report.rows))
    lines: list[str] = []
    for subject in subjects:
        version = f" {subject.version}" if subject.version else ""
        lines += [_cut(f"{subject.label}{version} · {subject.model} · {report.workload.shown}", WIDTH)]
        rows = [row for row in report.rows if row.subject == subject]
        lines += [*_tables("load", [_cells(row) for row in rows]), *_failures(rows), *_notes(rows), ""]
    return "\n".join([*lines, *_LEGEND])


def render_side_by_side(report: Report) -> str:
    """Several servers under the same loads, load by load; the best of each figure has a star."""
    lines = [_cut(f"{report.workload.shown} · {report.requests} requests each", WIDTH)]
    for load in dict.fromkeys(row.load.shown for row in report.rows):
        rows = [row for row in report.rows if row.load.shown == load]
        cells = _starred(rows)
        body = [(_cut(row.subject.label, _LABEL), *line[1:]) for row, line in zip(rows, cells, strict=True)]
        lines += ["", f"load {load}", *_tables("server", body), *_failures(rows, named=True), *_notes(rows, named=True)]
    return "\n".join([*lines, "", *_LEGEND, "* the best of this load, where every request succeeded."])


def render_comparison(row: Row, comparison: Comparison) -> str:
    """What changed in `row` since an earlier run."""
    lines = [_cut(f"{row.subject.label}, load {row.load.shown}, beside {comparison.before_id}:", WIDTH)]
    for one in comparison.differences:
        span = "" if one.low is None or one.high is None else f" [{one.low:+.1%} … {one.high:+.1%}]"
        figures = f"{_number(one.before)} → {_number(one.after)} {one.unit}"
        lines.append(_cut(f"  {one.metric}: {figures}, {one.change:+.1%}{span}: {one.verdict}", WIDTH))
    return "\n".join([*lines, *(_cut(f"  not the same: {words}", WIDTH) for words in comparison.changed)])


def _cells(row: Row) -> tuple[str, ...]:
    s = row.summary
    return (
        row.load.shown,
        _number(s.requests_per_second),
        _number(s.input_tokens_per_second) if s.input_counted else "?",
        _number(s.output_tokens_per_second) + ("~" if s.counted_by != "usage" else ""),
        "-" if s.tpot_ms is None else _number(s.tpot_ms.mean),
        str(s.failed),
        _quantiles(s.ttft_ms),
        _quantiles(s.itl_ms),
        _quantiles(s.e2e_ms, 1000),
    )


def _starred(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    cells = [list(_cells(row)) for row in rows]
    whole = [number for number, row in enumerate(rows) if row.summary.succeeded and not row.summary.failed]
    if len(whole) > 1:
        summaries = {number: rows[number].summary for number in whole}
        best_out = max(whole, key=lambda n: summaries[n].output_tokens_per_second)
        best_ttft = min(whole, key=lambda n: _middle(summaries[n].ttft_ms))
        best_e2e = min(whole, key=lambda n: _middle(summaries[n].e2e_ms))
        for number, column in ((best_out, 3), (best_ttft, 6), (best_e2e, 8)):
            cells[number][column] += "*"
    return [tuple(line) for line in cells]


def _middle(values: Distribution | None) -> float:
    return float("inf") if values is None else values.p50


def _quantiles(values: Distribution | None, unit: float = 1) -> str:
    return "-" if values is None else "/".join(_number(v / unit) for v in (values.p50, values.p95, values.p99))


def _number(value: float) -> str:
    """Three digits; never more than five characters below a million."""
    if value >= 99_950:
        return f"{value / 1e6:.2f}M" if value >= 999_500 else f"{value / 1e3:.0f}k"
    if value >= 9_995:
        return f"{value / 1e3:.1f}k"
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _tables(first: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """How much, and below it how soon: side by side they are wider than a terminal."""
    much = 1 + len(_RATES)
    return [
        *_table((first, *_RATES), [row[:much] for row in rows]),
        *_table((first, *_TIMES), [(row[0], *row[much:]) for row in rows]),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    made = []
    for line in lines:
        first, *rest = (
            text.ljust(width) if not column else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        made.append(gap.join((first, *rest)).rstrip())
    return [_cut(line, WIDTH) for line in made]


def _failures(rows: Sequence[Row], *, named: bool = False) -> list[str]:
    lines = []
    for row in rows:
        for cause, count in row.summary.failures.items():
            words = row.summary.failure_words.get(cause, "")
            who = f"{row.subject.label}: " if named else f"load {row.load.shown}: "
            lines.append(_cut(f"  {who}{count} {cause}" + (f": {words}" if words else ""), WIDTH))
    return lines


def _notes(rows: Sequence[Row], *, named: bool = False) -> list[str]:
    pairs = [(row.subject.label if named else f"load {row.load.shown}", note) for row in rows for note in row.notes]
    return [line for who, note in pairs for line in _wrapped(f"{who}: {note}")]


def _wrapped(text: str) -> list[str]:
    lines, line = [], " "
    for word in text.split():
        if len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = "   "
        line = f"{line} {word}"
    return [_cut(one, WIDTH) for one in (*lines, line)]


def _cut(text: str, limit: int) -> str:
    flat = " ".join(text.splitlines()) if "\n" in text or "\r" in text else text
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
