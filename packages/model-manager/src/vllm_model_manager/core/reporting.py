"""Words and figures about a start, for progress notifications and errors. Pure."""

from collections.abc import Sequence

from vllm_mcp_protocol.model import EngineStatus, EngineView
from vllm_mcp_protocol.units import to_mib

_UNKNOWN_START_S = 60.0
"""Shown as the total when this host has no earlier start to go by; vLLM takes 15 s to minutes."""

_LOG_LIMIT_CHARS = 3500

_WAITING = {
    EngineStatus.QUEUED: "waits for its device: another engine starts or stops there",
    EngineStatus.WAKE_QUEUED: "waits for its device before waking",
    EngineStatus.WAKING: "wakes up",
}


def start_total_s(view: EngineView) -> float:
    """Seconds that the whole start may take; always more than have passed, so that progress never reaches 100 %."""
    estimated = view.estimated_start_s or _UNKNOWN_START_S
    return max(estimated, (view.elapsed_s or 0.0) * 1.1)


def start_message(view: EngineView) -> str:
    """`weights (Loading safetensors 2/4), 12 s of about 45 s`."""
    phase = _WAITING.get(view.status) or view.phase or view.status
    detail = f" ({view.phase_detail})" if view.phase_detail else ""
    elapsed_s, estimated_s = view.elapsed_s or 0.0, view.estimated_start_s
    between = "instead of" if estimated_s and elapsed_s > estimated_s else "of"
    about = f" {between} about {estimated_s:.0f} s" if estimated_s else ""
    again = ", second attempt with less memory" if view.attempts > 1 else ""
    return f"{view.model_id}: {phase}{detail}, {elapsed_s:.0f} s{about}{again}"


def log_excerpt(lines: Sequence[str]) -> str:
    """The end of a log, short enough for an error's details; whole lines from the end."""
    kept: list[str] = []
    size = 0
    for line in reversed(lines):
        short = line[:500]
        size += len(short) + 1
        if size > _LOG_LIMIT_CHARS:
            break
        kept.append(short)
    return "\n".join(reversed(kept))


def held_memory(view: EngineView) -> tuple[int, str]:
    """Device memory of an engine in MiB, all devices together, and where the figure comes from."""
    if view.measured_bytes is not None:
        return to_mib(view.measured_bytes), "measured"
    return to_mib(view.promised_bytes), "promised; nothing was measured"
