"""The fixed question that tells whether a model is the same after sleeping. Pure.

vLLM's wake after a level-2 sleep can come back with garbage weights (vllm#29341), and a 200 proves nothing.
"""

from dataclasses import dataclass

from vllm_mcp_protocol.model import JsonObject

PROBE_TOKENS = 8
_PROBE_TEXT = "The capital of France is"


@dataclass(frozen=True)
class Verdict:
    """`verified` is None when there is nothing to compare."""

    verified: bool | None
    reason: str


def probe_request(served_name: str) -> JsonObject:
    """A greedy completion, which any generating model answers the same way twice."""
    return {
        "model": served_name,
        "prompt": _PROBE_TEXT,
        "max_tokens": PROBE_TOKENS,
        "temperature": 0,
        "seed": 0,
    }


def compare(before: str | None, after: str | None) -> Verdict:
    """What two answers to the probe say; None is an answer that could not be had."""
    if before is None:
        return Verdict(None, "this server has no answer from before the sleep to compare with")
    if after is None:
        return Verdict(None, "the model did not answer the probe after waking")
    if before == after:
        return Verdict(True, f"a greedy probe of {PROBE_TOKENS} tokens gives the same text as before the sleep")
    return Verdict(
        False,
        f"the probe answered {before[:60]!r} before and {after[:60]!r} after the sleep: "
        "unload-model and load-model to get sound weights",
    )
