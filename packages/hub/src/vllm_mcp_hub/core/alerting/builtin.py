"""The rules that hold when nobody says anything. At most one for each metric, so that a threshold names one rule. Pure.

They are meant to be true when they are raised: an LLM server is busy, hot and full on purpose (vLLM takes the memory
that it was promised at once, a batch that runs well keeps a GPU at 100 %), and one slow answer is no news. Where a
number is a choice and not a fact, the comment says what it was weighed against.
"""

from vllm_mcp_hub.core.alerting.rules import Rule

BUILT_IN: tuple[Rule, ...] = (
    # A GPU that works is at 100 %: worth a note only when there is never a pause in half an hour.
    Rule(
        name="gpu-util",
        metric="gpu_util",
        threshold=98,
        clear_threshold=90,
        for_seconds=1800,
        clear_for_seconds=300,
        severity="info",
        suggestion="the GPU has no reserve left: compare get-trends of requests_waiting, and spread the load over "
        "more GPUs (tensor_parallel_size, or a second engine) if answers are too slow",
    ),
    # vLLM holds 90 to 92 % by default; above 98 % the next allocation outside its pool fails.
    Rule(
        name="gpu-memory",
        metric="memory_util",
        threshold=98,
        clear_threshold=96,
        for_seconds=300,
        suggestion="see with get-gpu-stats include_processes=true who holds the memory; unload an idle engine, or "
        "load it again with a smaller gpu_memory_utilization",
    ),
    # The driver slows the clocks down at the GPU's own threshold, which differs between models by 20 °C.
    Rule(
        name="gpu-near-slowdown",
        metric="temperature_margin",
        threshold=2,
        clear_threshold=6,
        for_seconds=120,
        clear_for_seconds=120,
        direction="below",
        suggestion="check fans, air flow and room temperature; get-gpu-stats shows throttle_reasons and clocks",
    ),
    # For those who want a fixed limit.
    Rule(
        name="gpu-temperature",
        metric="temperature",
        threshold=90,
        clear_threshold=85,
        for_seconds=120,
        clear_for_seconds=120,
        enabled=False,
        suggestion="check fans, air flow and room temperature; get-gpu-stats shows throttle_reasons and clocks",
    ),
    Rule(
        name="gpu-lost",
        metric="gpu_present",
        threshold=0,
        clear_threshold=1,
        for_seconds=15,
        clear_for_seconds=30,
        severity="critical",
        direction="below",
        suggestion="look for Xid errors in the kernel log (dmesg) and at nvidia-smi; engines on this GPU must be "
        "loaded again, often only after a reset of the GPU or of the host",
    ),
    # A long answer takes a minute by right; without traffic there is no latency.
    Rule(
        name="latency-p99",
        metric="latency_p99",
        threshold=60_000,
        clear_threshold=45_000,
        for_seconds=300,
        clear_for_seconds=120,
        missing="clear",
        suggestion="compare queue and inter-token times in get-metrics: a long queue needs more capacity, slow tokens "
        "a smaller batch; a smaller max_tokens bounds the longest answers",
    ),
    Rule(
        name="ttft-p99",
        metric="ttft_p99",
        threshold=10_000,
        clear_threshold=5_000,
        for_seconds=300,
        clear_for_seconds=120,
        missing="clear",
        suggestion="requests wait before they begin: look at requests_waiting and kv_usage in get-metrics; send fewer "
        "at once, shorten prompts, or load a second engine",
    ),
    # A client that goes away is no failure: in a chat, one answer in ten is stopped.
    Rule(
        name="error-rate",
        metric="error_rate",
        threshold=5,
        clear_threshold=2,
        for_seconds=120,
        clear_for_seconds=120,
        missing="clear",
        suggestion="failed_by_cause in get-metrics says of what: error, see get-model-logs for the first one; http_5xx "
        "alone, the server is overloaded (send fewer at once) or its engine died (list-models)",
    ),
    # For those who want a fixed limit.
    Rule(
        name="queue-length",
        metric="requests_waiting",
        threshold=100,
        clear_threshold=50,
        for_seconds=120,
        enabled=False,
        suggestion="send fewer requests at once, or load a second engine",
    ),
    # A burst that drains is no growth; see `derived.queue_growth`.
    Rule(
        name="queue-growth",
        metric="queue_growth",
        threshold=10,
        clear_threshold=2,
        for_seconds=120,
        clear_for_seconds=120,
        suggestion="more requests arrive than the engine finishes: send fewer at once, raise max_num_seqs if kv_usage "
        "has room, or load a second engine",
    ),
    # A full KV cache works; it means that requests wait or are preempted.
    Rule(
        name="kv-pressure",
        metric="kv_usage",
        threshold=95,
        clear_threshold=85,
        for_seconds=180,
        clear_for_seconds=120,
        suggestion="load the model again with a smaller max_model_len, kv_cache_dtype=fp8 or a larger "
        "gpu_memory_utilization, or send fewer requests at once",
    ),
    # Each one throws work away; a few in a burst are vLLM's normal way to make room.
    Rule(
        name="preemptions",
        metric="preemptions",
        threshold=10,
        clear_threshold=2,
        for_seconds=120,
        clear_for_seconds=120,
        suggestion="the KV cache is too small for this many requests: lower max_num_seqs, or give it more room "
        "(smaller max_model_len, kv_cache_dtype=fp8)",
    ),
    # The longest step that is not a hang: compiling for a new shape takes tens of seconds.
    Rule(
        name="engine-stuck",
        metric="stuck_seconds",
        threshold=120,
        clear_threshold=30,
        for_seconds=0,
        clear_for_seconds=0,
        severity="critical",
        suggestion="read the end of the engine's log (get-model-logs); if nothing moves, unload-model with force=true "
        "and load-model again",
    ),
    # Thirty seconds: an engine under load answers /metrics late.
    Rule(
        name="engine-down",
        metric="answering",
        threshold=0,
        clear_threshold=1,
        for_seconds=30,
        clear_for_seconds=15,
        severity="critical",
        direction="below",
        suggestion="list-models says what became of it, get-model-logs why; load-model starts it again",
    ),
    # One death has its own message; two within an hour are a pattern.
    Rule(
        name="engine-restarts",
        metric="restarts",
        threshold=2,
        clear_threshold=0,
        for_seconds=0,
        clear_for_seconds=0,
        suggestion="read why it ended (get-model-logs): out of memory needs a smaller max_model_len or "
        "gpu_memory_utilization",
    ),
    # In bytes left, not in percent: 5 % of a large disk is room for a model, of a small one for nothing.
    Rule(
        name="disk-free",
        metric="disk_free_gib",
        threshold=5,
        clear_threshold=8,
        for_seconds=60,
        clear_for_seconds=60,
        severity="critical",
        direction="below",
        suggestion="delete models that nobody uses (discover-models source=cache finds them, delete-cached-model "
        "deletes one), or old snapshots",
    ),
    # For those who want a percentage.
    Rule(
        name="disk-used",
        metric="disk_used",
        threshold=95,
        clear_threshold=92,
        for_seconds=60,
        clear_for_seconds=60,
        enabled=False,
        suggestion="delete models that nobody uses (discover-models source=cache finds them, delete-cached-model "
        "deletes one), or old snapshots",
    ),
)
