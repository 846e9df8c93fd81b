"""What vLLM's metrics are called, in all versions that people run, and what they mean. Pure, a table.

Sources: the recorded answer of 0.32 and 0.32's own sources (`v1/metrics/loggers.py`, `v1/metrics/perf.py`,
`v1/spec_decode/metrics.py`, `…/kv_connector/v1/nixl/stats.py`, `parser/metrics.py`). The former names and the versions
at their side are from vLLM's release notes and its deprecation comments, from memory and not seen running: they only
decide which names are looked for, never which version an engine has.

A canonical name is 0.32's name without the prefix `vllm:` and, of a counter, without `_total`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a metric behaves over time."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    INFO = "info"
    """Says something in its labels."""


class Together(StrEnum):
    """What becomes of a gauge's samples for several data-parallel ranks (label `engine`)."""

    SUM = "sum"
    MEAN = "mean"
    """For shares: half of two caches is half of both together, as the ranks' caches have one size."""


@dataclass(frozen=True, slots=True)
class Former:
    """A name that the metric had. It meant the same, up to `scale`."""

    name: str
    """As written, with its prefix; of a counter without `_total`."""
    versions: str
    """In words, for people."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of an engine."""

    name: str
    """Canonical."""
    kind: Kind
    unit: str
    """`seconds`, `tokens`, `requests`, `bytes`, `ratio` (0 to 1), …; of a histogram, that of its bounds."""
    meaning: str
    former: tuple[Former, ...] = ()
    by: str = ""
    """The label whose values are told apart; over all other labels, counters and histograms are added up."""
    together: Together = Together.SUM
    prefix: str = "vllm:"

    @property
    def written(self) -> tuple[str, ...]:
        """The names it may stand under, without a counter's `_total`: today's first, then the newest of the old."""
        return (self.prefix + self.name, *(former.name for former in self.former))


def _gauge(name: str, unit: str, meaning: str, *former: Former, by: str = "", mean: bool = False) -> Metric:
    return Metric(name, Kind.GAUGE, unit, meaning, former, by, Together.MEAN if mean else Together.SUM)


def _counter(name: str, unit: str, meaning: str, *former: Former, by: str = "") -> Metric:
    return Metric(name, Kind.COUNTER, unit, meaning, former, by)


def _histogram(name: str, unit: str, meaning: str, *former: Former) -> Metric:
    return Metric(name, Kind.HISTOGRAM, unit, meaning, former)


_V0 = "the V0 engine, until 0.10"

LOAD = (
    _gauge("num_requests_running", "requests", "Requests in the batch that the engine computes"),
    _gauge("num_requests_waiting", "requests", "Requests that wait for a place in the batch"),
    _gauge(
        "num_requests_waiting_by_reason",
        "requests",
        "Waiting requests by reason: capacity, or deferred by something that passes; together num_requests_waiting",
        by="reason",
    ),
    _gauge(
        "num_requests_kv_fetch_by_stage",
        "requests",
        "Requests whose KV cache comes from another engine, by stage; only on its receivers",
        by="stage",
    ),
    _gauge("num_requests_swapped", "requests", f"Requests swapped out to host memory ({_V0})"),
    _gauge(
        "kv_cache_usage_perc",
        "ratio",
        "Share of the KV cache in use, 0 to 1 whatever its name says; mean over ranks",
        Former("vllm:gpu_cache_usage_perc", "until 0.10; beside the new name from 0.9.2"),
        mean=True,
    ),
    _gauge(
        "cpu_cache_usage_perc", "ratio", f"Share of the swap space in use, 0 to 1 ({_V0}); mean over ranks", mean=True
    ),
    _gauge(
        "engine_sleep_state",
        "ratio",
        "Which state: 1 at awake, weights_offloaded (sleep level 1) or discard_all (level 2), else 0; mean over ranks",
        by="sleep_state",
        mean=True,
    ),
    Metric(
        "lora_requests_info",
        Kind.INFO,
        "seconds",
        "Which adapters run and wait, in the labels; the value is the Unix time of that sample, and old ones stay",
    ),
    Metric(
        "cache_config_info",
        Kind.INFO,
        "",
        "The KV cache in the labels, as text: block_size, num_gpu_blocks, kv_cache_size_tokens, …; one sample per rank",
    ),
)

TOKENS = (
    _counter("prompt_tokens", "tokens", "Prompt tokens of requests, cached ones included"),
    _counter(
        "prompt_tokens_by_source",
        "tokens",
        "Prompt tokens by where their KV came from: local_compute, local_cache_hit, external_kv_transfer",
        by="source",
    ),
    _counter("prompt_tokens_cached", "tokens", "Prompt tokens that were not computed, local and external"),
    _counter(
        "prompt_tokens_cached_by_source",
        "tokens",
        "Cached prompt tokens by the place that had them: device, host, disk, p2p, external_unspecified",
        by="source",
    ),
    _counter("generation_tokens", "tokens", "Tokens generated"),
    _counter(
        "prefix_cache_queries",
        "tokens",
        "Prompt tokens looked up in the prefix cache",
        Former("vllm:gpu_prefix_cache_queries", "V1 engine, until 0.10; beside the new name from 0.9.2"),
    ),
    _counter(
        "prefix_cache_hits",
        "tokens",
        "Prompt tokens found in the prefix cache",
        Former("vllm:gpu_prefix_cache_hits", "V1 engine, until 0.10; beside the new name from 0.9.2"),
    ),
    _gauge(
        "gpu_prefix_cache_hit_rate",
        "ratio",
        f"Share of prefix cache hits, -1 for off ({_V0}); mean over ranks",
        mean=True,
    ),
    _counter("external_prefix_cache_queries", "tokens", "Prompt tokens looked up in the caches of other engines"),
    _counter("external_prefix_cache_hits", "tokens", "Prompt tokens found in the caches of other engines"),
    _counter("mm_cache_queries", "items", "Images, sounds and videos looked up in the multi-modal cache"),
    _counter("mm_cache_hits", "items", "Images, sounds and videos found in the multi-modal cache"),
    _histogram(
        "iteration_tokens_total", "tokens", "Tokens computed in one step of the engine; no counter, for all its name"
    ),
)

REQUESTS = (
    _counter(
        "request_success",
        "requests",
        "Finished requests by reason: stop, length, abort, error, repetition: not all of them successes",
        by="finished_reason",
    ),
    _counter("num_preemptions", "requests", "How often a running request was pushed out for want of KV cache"),
    _counter("admission_rejections", "requests", "Requests refused because a queue was full, by limit", by="reason"),
    _counter(
        "corrupted_requests", "requests", "Requests with NaN in their logits; only if VLLM_COMPUTE_NANS_IN_LOGITS"
    ),
    _histogram("request_prompt_tokens", "tokens", "Prompt tokens of a request"),
    _histogram("request_generation_tokens", "tokens", "Generated tokens of a request"),
    _histogram("request_max_num_generation_tokens", "tokens", "Most tokens that the request could have generated"),
    _histogram(
        "request_prefill_kv_computed_tokens", "tokens", "Prompt tokens computed for a request, without cached ones"
    ),
    _histogram("request_params_n", "answers", "The parameter n of a request"),
    _histogram("request_params_max_tokens", "tokens", "The parameter max_tokens of a request"),
    _histogram("request_num_preemptions", "preemptions", "How often a request was preempted"),
    _counter(
        "tool_call_parser_invocations",
        "calls",
        "Calls of the tool parser by outcome: one per choice, and in streams one per delta",
        by="outcome",
    ),
)

LATENCIES = (
    _histogram("time_to_first_token_seconds", "seconds", "From the arrival of a request to its first token"),
    _histogram(
        "inter_token_latency_seconds",
        "seconds",
        "Between two tokens of a request, or two groups of them that come together",
        Former("vllm:time_per_output_token_seconds", "until 0.12; beside the new name from 0.11"),
    ),
    _histogram(
        "request_time_per_output_token_seconds",
        "seconds",
        "Mean of a request: its decoding by its tokens but the first",
    ),
    _histogram("e2e_request_latency_seconds", "seconds", "From the arrival of a request to its last token"),
    _histogram(
        "request_queue_time_seconds",
        "seconds",
        "From queueing to the first schedule",
        Former("vllm:time_in_queue_requests", "0.6, the V0 engine"),
    ),
    _histogram("request_inference_time_seconds", "seconds", "From the first schedule to the last token"),
    _histogram("request_prefill_time_seconds", "seconds", "From the first schedule to the first token"),
    _histogram("request_decode_time_seconds", "seconds", "From the first token to the last"),
)

SPECULATION = (
    _counter("spec_decode_num_drafts", "drafts", "Drafts proposed"),
    _counter("spec_decode_num_draft_tokens", "tokens", "Tokens proposed in drafts"),
    _counter("spec_decode_num_accepted_tokens", "tokens", "Proposed tokens that were accepted"),
    _counter(
        "spec_decode_num_accepted_tokens_per_pos",
        "tokens",
        "Accepted tokens by their position in the draft, from 0",
        by="position",
    ),
    _counter("spec_decode_num_emitted_tokens", "tokens", f"Tokens that came out of speculation ({_V0})"),
    _gauge(
        "spec_decode_draft_acceptance_rate",
        "ratio",
        f"Share of proposed tokens accepted ({_V0}); mean over ranks",
        mean=True,
    ),
    _gauge(
        "spec_decode_efficiency",
        "ratio",
        f"Emitted tokens by the most that were possible ({_V0}); mean over ranks",
        mean=True,
    ),
)

HARDWARE = (
    _counter(
        "estimated_flops_per_gpu", "operations", "Floating point operations per GPU as vLLM estimates them; 0 when off"
    ),
    _counter(
        "estimated_read_bytes_per_gpu", "bytes", "Bytes read from memory per GPU as vLLM estimates them; 0 when off"
    ),
    _counter(
        "estimated_write_bytes_per_gpu", "bytes", "Bytes written to memory per GPU as vLLM estimates them; 0 when off"
    ),
    _histogram("kv_block_lifetime_seconds", "seconds", "From filling a KV block to its eviction; a sample of blocks"),
    _histogram(
        "kv_block_idle_before_evict_seconds", "seconds", "From the last use of a KV block to its eviction; a sample"
    ),
    _histogram("kv_block_reuse_gap_seconds", "seconds", "Between two uses of a KV block; a sample of blocks"),
)

TRANSFER = (
    _histogram("nixl_xfer_time_seconds", "seconds", "One transfer of KV cache by NIXL"),
    _histogram("nixl_post_time_seconds", "seconds", "Starting one transfer of KV cache by NIXL"),
    _histogram("nixl_bytes_transferred", "bytes", "Bytes of one transfer of KV cache by NIXL"),
    _histogram("nixl_num_descriptors", "descriptors", "Descriptors of one transfer of KV cache by NIXL"),
    _counter("nixl_num_failed_transfers", "transfers", "Transfers of KV cache by NIXL that failed"),
    _counter("nixl_num_failed_notifications", "notifications", "Notifications of NIXL that failed"),
    _counter("nixl_num_kv_expired_reqs", "requests", "Requests whose KV cache nobody fetched in time"),
)


def _of_the_server(name: str, kind: Kind, unit: str, meaning: str, by: str = "") -> Metric:
    return Metric(name, kind, unit, meaning, by=by, prefix="")


SERVER = (
    _of_the_server(
        "http_requests", Kind.COUNTER, "requests", "HTTP requests by class of status: 2xx, 4xx, 5xx", "status"
    ),
    _of_the_server(
        "http_request_duration_highr_seconds", Kind.HISTOGRAM, "seconds", "HTTP requests of all routes, in fine buckets"
    ),
    _of_the_server("process_start_time_seconds", Kind.GAUGE, "seconds", "When the API server started, Unix time"),
    _of_the_server(
        "process_resident_memory_bytes", Kind.GAUGE, "bytes", "Host memory of the API server, without its workers"
    ),
    _of_the_server("process_cpu_seconds", Kind.COUNTER, "seconds", "CPU time of the API server, without its workers"),
    _of_the_server("process_open_fds", Kind.GAUGE, "files", "Open files and sockets of the API server"),
)
"""`process_…` are missing where several API servers share one answer (`--api-server-count`)."""

METRICS = {
    metric.name: metric
    for group in (LOAD, TOKENS, REQUESTS, LATENCIES, SPECULATION, HARDWARE, TRANSFER, SERVER)
    for metric in group
}
"""All of them by canonical name."""

IGNORED = frozenset(
    {
        *("python_gc_objects_collected", "python_gc_objects_uncollectable", "python_gc_collections", "python_info"),
        *("process_virtual_memory_bytes", "process_max_fds"),
        # By route: a label for each, and http_request_duration_highr_seconds has them all together.
        *("http_request_size_bytes", "http_response_size_bytes", "http_request_duration_seconds"),
    }
)
"""Families of the recorded answer that say nothing about serving; as written, counters without `_total`."""


def is_ignored(family: str) -> bool:
    """Is a family (name as written, a counter's without `_total`) left out on purpose?

    `…_created` is when its metric was first counted; a restart shows in process_start_time_seconds.
    """
    return family in IGNORED or family.endswith("_created")


def canonical(family: str) -> str | None:
    """The canonical name of a family as written, with or without a counter's `_total`; None for a stranger."""
    return _CANONICAL.get(family)


def _forms() -> Iterator[tuple[str, str]]:
    for metric in METRICS.values():
        for written in metric.written:
            yield written, metric.name
            if metric.kind is Kind.COUNTER:
                yield f"{written}_total", metric.name


_CANONICAL = dict(_forms())
