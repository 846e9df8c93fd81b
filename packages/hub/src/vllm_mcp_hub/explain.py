"""Why an engine ended: the end of its log, read for the cause."""

import os
import signal

from vllm_mcp_hub.core.diagnosis import diagnose
from vllm_mcp_hub.record import Record
from vllm_mcp_protocol.errors import ErrorInfo

_READ_BYTES = 200 * 1024
"""vLLM prints the cause first and then the tracebacks of every process that it takes with it; seen: 60 KB."""


def explain(record: Record, returncode: int | None) -> ErrorInfo:
    """The cause in vLLM's own words, from what this attempt wrote. Blocking."""
    killed_by = signal.Signals(-returncode).value if returncode is not None and returncode < 0 else None
    return diagnose(
        _log_of_attempt(record),
        exit_code=returncode,
        signal=killed_by,
        was_ready=record.was_ready,
        model_id=record.request.model_id,
    )


def _log_of_attempt(record: Record) -> str:
    try:
        with open(record.dir.log_path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _READ_BYTES, record.attempt_offset if record.attempt_offset <= end else 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
