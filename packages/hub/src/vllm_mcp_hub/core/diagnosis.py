"""From an engine's log and exit to one error: stable code, the cause in vLLM's own words, numbers, a next step. Pure.

The last line is rarely the cause: the server only says "Engine core initialization failed. See root cause above",
and the cause is the first error of EngineCore or a Worker. A calm exit is no proof either: vLLM exits 0 four seconds
after a worker was killed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mcp_hub.core.causes import CAUSES
from vllm_mcp_hub.core.log_text import LoggedError, logged_errors, plain_text
from vllm_mcp_protocol.errors import EngineDied, EngineFailed, EngineOutOfMemory, ErrorInfo, VllmNotInstalled
from vllm_mcp_protocol.redaction import redact_text

__all__ = ["diagnose", "plain_text"]

MAX_CAUSE_CHARS = 600

_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
_ILLEGAL_INSTRUCTION = 4

_AFTERMATH = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|"
    r"See (?:root cause|stack trace)|EngineDead|EngineGenerate|CancelledError|"
    r"please check the stack trace above|^KeyboardInterrupt|^SystemExit|^BrokenPipe|^ConnectionReset"
)
"""What the others say after one has failed."""

_WORKER_DIED = re.compile(r"Worker proc \S+ died unexpectedly \(exit code: (-?\d{1,9})\)")
_DEATH_STEPS = {
    4: "load-model with dtype=float16: bfloat16 uses AMX instructions that this (virtual) machine does not grant.",
    9: "Usually the kernel's out-of-memory killer: load-model with a smaller max_model_len, or unload-model another.",
    15: "Somebody outside the hub ended it: load-model again.",
}
_LOGS = "get-model-logs shows the whole log; load-model starts it again."


def diagnose(
    log_text: str, *, exit_code: int | None, signal: int | None = None, was_ready: bool, model_id: str
) -> ErrorInfo:
    """Why an engine that nobody stopped is gone.

    `exit_code` and `signal` are those of its first process, None where not known; `was_ready`: it had served.
    Details: `cause` (vLLM's words, at most 600 characters), `exit_code`, and the numbers that vLLM printed, such
    as needed_gib, available_gib, free_gib, estimated_max_model_len.
    """
    errors = [error for error in logged_errors(log_text) if not _AFTERMATH.search(error.words)]
    found = None if was_ready else _known_cause(errors)
    if found is None and was_ready:
        found = _memory_cause(errors)
    if found is None:
        found = _death(log_text, exit_code, signal, was_ready) or _unknown_cause(errors, exit_code, was_ready)
    code, words, numbers, step = found
    cause = _bounded(redact_text(words))
    details = {"cause": cause, "exit_code": exit_code, **numbers, "suggestion": step}
    happened = "died" if was_ready else "did not start"
    return ErrorInfo(code=code, message=f"{model_id} {happened}: {cause}", details=details)


Found = tuple[str, str, Mapping[str, Any], str]
"""Code, words, numbers, next step."""


def _known_cause(errors: Sequence[LoggedError]) -> Found | None:
    for error in errors:
        for cause in CAUSES:
            if (read := cause.read(error.words)) is not None:
                return cause.code.code, error.words, read[0], read[1]
    return None


def _memory_cause(errors: Sequence[LoggedError]) -> Found | None:
    """After it served, only the engine's own last errors count: the server also logs errors of single requests."""
    fatal = [error for error in errors if error.process not in ("", "APIServer")]
    found = _known_cause(fatal[-6:])
    return found if found is not None and found[0] == EngineOutOfMemory.code else None


def _death(log_text: str, exit_code: int | None, signal: int | None, was_ready: bool) -> Found | None:
    """A process was killed: the first one, or a worker, of which vLLM tells."""
    worker = _WORKER_DIED.search(log_text)
    number, who = _signal_of(exit_code, signal), "its first process"
    if worker is not None and int(worker[1]) < 0:
        number, who = -int(worker[1]), "a worker process"
    if number is None and "Illegal instruction" in log_text:
        number, who = _ILLEGAL_INSTRUCTION, "a process of it"
    if number is None:
        return None
    name = _SIGNALS.get(number, f"signal {number}")
    code = EngineDied.code if was_ready else EngineFailed.code
    return code, f"{who} was killed by {name}", {"signal": name}, _DEATH_STEPS.get(number, _LOGS)


def _signal_of(exit_code: int | None, signal: int | None) -> int | None:
    if signal is not None:
        return signal
    if exit_code is None or 0 <= exit_code <= 128:
        return None
    return -exit_code if exit_code < 0 else exit_code - 128


def _unknown_cause(errors: Sequence[LoggedError], exit_code: int | None, was_ready: bool) -> Found:
    if not was_ready and not errors and exit_code in (126, 127):
        step = "Run `vllm-mcp engine install`, or point VLLM_EXECUTABLE to a vllm command."
        return VllmNotInstalled.code, f"its command could not be run (exit code {exit_code})", {}, step
    code = EngineDied.code if was_ready else EngineFailed.code
    root = _root(errors, was_ready)
    if root is not None:
        return code, root.words, {}, _LOGS
    shown = "an exit code that is not known" if exit_code is None else f"exit code {exit_code}"
    return code, f"it ended with {shown}, unasked, and its log names no error", {}, _LOGS


def _root(errors: Sequence[LoggedError], was_ready: bool) -> LoggedError | None:
    """The end of the first traceback of EngineCore or a Worker; else the last error of all."""
    inner = [error for error in errors if error.process not in ("", "APIServer")]
    if inner and not was_ready:
        run = [error for error in inner if error.process == inner[0].process]
        return run[-1]
    last = inner or errors
    return last[-1] if last else None


def _bounded(words: str) -> str:
    text = " ".join(words.split())
    return text if len(text) <= MAX_CAUSE_CHARS else text[: MAX_CAUSE_CHARS - 1] + "…"
