"""What to try after an out-of-memory, when the caller allowed something smaller. Pure."""

from vllm_mcp_protocol.errors import EngineOutOfMemory, ErrorInfo
from vllm_mcp_protocol.model import LoadRequest

SMALLEST_CONTEXT_TOKENS = 256
"""Below this a model is of no use to anybody, and the failure is the better answer."""


def smaller_request(request: LoadRequest, failure: ErrorInfo) -> LoadRequest | None:
    """The same wish with a context that fits: vLLM's own estimate where it printed one, else half.

    None when the failure is another one, or when nothing smaller makes sense.
    """
    if failure.code != EngineOutOfMemory.code:
        return None
    context = request.options.max_model_len or (request.facts.context_window if request.facts else None)
    estimate = failure.details.get("estimated_max_model_len")
    smaller = estimate if isinstance(estimate, int) else (context or 0) // 2
    if smaller < SMALLEST_CONTEXT_TOKENS or (context is not None and smaller >= context):
        return None
    return request.model_copy(update={"options": request.options.model_copy(update={"max_model_len": smaller})})
