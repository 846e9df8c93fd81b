"""The audit log, written by several processes at once."""

import json
import subprocess
import sys
from pathlib import Path

from vllm_mcp_protocol.audit import LIMIT_BYTES, AuditLog

WRITER = """
import sys
from pathlib import Path
from vllm_mcp_protocol.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
for n in range(200):
    log.write("tool", tool="load-model", who=sys.argv[2], n=n, text="x" * 500)
"""


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in range(4)]
    assert [w.wait(timeout=60) for w in writers] == [0] * 4
    found = entries(path)
    assert len(found) == 800
    assert {(e["who"], e["n"]) for e in found} == {(str(w), n) for w in range(4) for n in range(200)}


def test_it_is_private_and_a_long_entry_is_cut_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path).write("tool", tool="generate-text", outcome="done", arguments="x" * 10_000)
    assert path.stat().st_mode & 0o777 == 0o600
    [entry] = entries(path)
    assert (entry["tool"], entry["outcome"], entry["cut"]) == ("generate-text", "done", True)


def test_it_is_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"{}\n" * (LIMIT_BYTES // 3 + 1))
    AuditLog(path).write("tool")
    assert len(entries(path)) == 1
    assert (tmp_path / "audit.jsonl.1").stat().st_size > LIMIT_BYTES
