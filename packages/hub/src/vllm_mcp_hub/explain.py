"""Why an engine ended: the end of its log, read for the cause."""

from vllm_mcp_hub.core.diagnosis import diagnose
from vllm_mcp_hub.record import Record
from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.files import read_end

_READ_BYTES = 200 * 1024
"""vLLM prints the cause first and then the tracebacks of every process that it takes with it; seen: 60 KB."""


def explain(record: Record, returncode: int | None) -> ErrorInfo:
    """The cause in vLLM's own words, from what this attempt wrote. Blocking."""
    killed_by = -returncode if returncode is not None and returncode < 0 else None
    return diagnose(
        _log_of_attempt(record),
        exit_code=returncode,
        signal=killed_by,
        was_ready=record.was_ready,
        model_id=record.request.model_id,
    )


def _log_of_attempt(record: Record) -> str:
    try:
        end = read_end(record.dir.log_path, _READ_BYTES, since_byte=record.attempt_offset)
        return end.decode(errors="replace")
    except OSError:
        return ""
