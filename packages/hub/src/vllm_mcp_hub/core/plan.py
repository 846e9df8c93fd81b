"""How an engine would be started: its flags and environment, and how much memory it is promised. Pure.

On a GPU vLLM takes a fraction of each device, whatever the model needs: the promise is that fraction, and the flag
is always passed, so that promise and engine agree. On the CPU device vLLM takes what it allocates: weights, KV pool
and processes are added up, and the measured memory of earlier starts replaces the guess.
"""

from collections.abc import Sequence

from vllm_mcp_hub.core.plan_cpu import plan_cpu
from vllm_mcp_hub.core.plan_gpu import plan_gpu
from vllm_mcp_hub.core.wish import read_wish
from vllm_mcp_protocol.errors import NoSuchGpu
from vllm_mcp_protocol.model import Device, LoadRequest, StartPlan, StartRecord


def plan_start(
    request: LoadRequest,
    devices: Sequence[Device],
    *,
    supported_flags: frozenset[str] = frozenset(),
    history: Sequence[StartRecord] = (),
    cpu_count: int = 1,
) -> StartPlan:
    """The plan of a start on these devices. Raises the errors of `vllm_flags`, NoSuchGpu, TooFewDevices,
    GpuMemoryInsufficient, ContextTooLong and BadInput; nothing is promised yet."""
    if not devices:
        raise NoSuchGpu("No device of this host can be read.", suggestion="Look at nvidia-smi and vllm-mcp doctor.")
    kind = devices[0].kind
    wish = read_wish(request, kind, supported_flags)
    if kind == "cpu":
        return plan_cpu(wish, devices[0], history, cpu_count)
    return plan_gpu(wish, devices, supported_flags, history)
