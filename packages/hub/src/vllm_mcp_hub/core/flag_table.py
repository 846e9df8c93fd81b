"""vLLM's flags as data: which ones `extra_args` may carry, what each takes, and why the others may not.

Chosen one by one from `vllm serve --help=all` of 0.32. An allowed flag only tunes; it cannot load code, open a
port, read or write a file that nobody named, carry a secret, or take from the hub what the hub has to know.
"""

import re
from enum import Enum


class Kind(Enum):
    """What a flag takes."""

    SWITCH = "no value"
    INT = "a whole number (16, 8k, 2G)"
    FLOAT = "a number"
    NAME = "one name"
    REPO = "a repository id (organization/name)"
    ENDPOINTS = "URL paths, comma-separated"
    TEMPLATE = "a chat template in one line"
    NAMES = "one or more names or patterns"
    JSON = "one JSON object"


VALUE_PATTERNS = {
    # As many digits as 64 bits hold: a longer number is a mistake, and arithmetic with it an OverflowError.
    Kind.INT: re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,9}(?=[kmgt]))?[kKmMgGtT]?"),
    Kind.FLOAT: re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?(e-?[0-9]{1,2})?"),
    # Neither a dot nor a slash: an import path or a file is not a name.
    Kind.NAME: re.compile(r"[A-Za-z0-9_+-]+"),
    Kind.REPO: re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"),
    Kind.ENDPOINTS: re.compile(r"(/[\w/-]*)(,/[\w/-]*)*"),
    Kind.TEMPLATE: re.compile(r".*(\{\{|\{%).*", re.DOTALL),
    Kind.NAMES: re.compile(r"[A-Za-z0-9_*+][\w.*+/,-]*"),
}
"""A value matches from its first to its last character."""

_ALLOWED_WORDS = {
    Kind.SWITCH: """
        aggregate-engine-logging allow-deprecated-quantization async-scheduling cohere-is-reasoning-model
        cudagraph-metrics dcp-q-replicate disable-cascade-attn disable-chunked-mm-input
        disable-custom-all-reduce disable-fastapi-docs disable-hybrid-kv-cache-manager
        disable-nccl-for-dp-synchronization disable-sliding-window disable-uvicorn-access-log
        enable-auto-tool-choice enable-batch-sharded-sampling
        enable-chunked-prefill enable-cumem-allocator enable-dbo enable-ep-weight-filter enable-eplb
        enable-expert-parallel enable-flash-late-interaction enable-flashinfer-autotune
        enable-force-include-usage enable-hc-sp enable-layerwise-nvtx-tracing enable-log-deltas
        enable-log-outputs enable-log-requests enable-logging-iteration-details
        enable-mamba-cache-stochastic-rounding enable-mamba-shared-prefix-checkpoint enable-mfu-metrics
        enable-mixed-moe-lora-format enable-moe-shared-loras enable-nccl-comm-suspend enable-offline-docs
        enable-per-request-metrics enable-prompt-tokens-details enable-request-id-headers
        enable-return-routed-experts enable-server-load-tracking enable-shm-tensor-arena
        enable-tokenizer-info-endpoint enable-tower-connector-lora exclude-tools-when-tool-choice-none
        fail-on-environ-validation fully-sharded-loras interleave-mm-strings jit-monitor-verbose
        kv-cache-metrics kv-sharing-fast-prefill language-model-only log-error-stack
        long-prefill-token-threshold-adaptive mm-device-do-normalize mm-encoder-only numa-bind
        return-sampling-mask return-tokens-as-token-ids scheduler-reserve-full-isl skip-mm-profiling
        skip-tokenizer-init sleep-mode-offload-cudagraph specialize-active-lora swa-bounded-replay
        use-fp64-gumbel use-replayssm use-tqdm-on-load""",
    Kind.INT: """
        block-size cp-kv-cache-interleave-size cpu-distributed-timeout-seconds data-parallel-size
        dbo-decode-token-threshold dbo-prefill-token-threshold dcp-kv-cache-interleave-size
        decode-context-parallel-size distributed-timeout-seconds dp-sync-interval h11-max-header-count
        h11-max-incomplete-event-size kv-cache-memory-bytes long-prefill-token-threshold mamba-block-size
        mamba-cache-philox-rounds max-cpu-loras max-cudagraph-capture-size max-log-len max-logprobs
        max-lora-cls-labels max-lora-rank max-loras max-num-active-seqs max-num-queued-reqs
        max-num-queued-tokens max-num-scheduled-tokens max-parallel-loading-workers
        mm-shm-cache-max-object-size-mb offload-group-size offload-num-in-group
        offload-prefetch-step optimization-level prefill-context-parallel-size prefill-schedule-interval
        prefix-cache-retention-interval prefix-match-unit renderer-num-workers replayssm-buffer-len
        safetensors-prefetch-block-size safetensors-prefetch-num-threads seed spec-tokens stream-interval
        ubatch-size""",
    Kind.FLOAT: """
        cpu-offload-gb kv-cache-metrics-sample kv-offloading-size mm-ipc-gpu-memory-gb mm-processor-cache-gb
        show-hidden-metrics-for-version sse-keep-alive-interval video-pruning-rate watermark""",
    Kind.NAME: """
        all2all-backend anthropic-disabled-thinking-effort attention-backend chat-template-content-format
        cohere-format dcp-comm-backend expert-placement-strategy fingerprint-mode fingerprint-value
        gdn-prefill-backend jit-monitor-mode kda-decode-backend kda-prefill-backend linear-backend
        logprobs-mode lora-dtype mamba-backend mamba-cache-dtype mamba-cache-mode mamba-ssm-cache-dtype
        mamba-ssu-algorithm mm-encoder-attn-backend mm-encoder-attn-dtype mm-encoder-tp-mode
        mm-hasher-algorithm mm-processor-cache-type mm-processor-device mm-tensor-ipc moe-backend
        offload-backend per-request-spec-decode-metrics prefix-caching-hash-algo reasoning-parser
        response-role safetensors-load-strategy scheduling-policy sparse-indexer-topk-backend tokenizer-mode
        tokenizer-revision tool-call-parser tool-strict-level uvicorn-log-level video-pruning-method
        config-format convert data-parallel-backend distributed-executor-backend generation-config
        kv-offloading-backend load-format model-impl runner spec-method""",
    Kind.REPO: "spec-model tokenizer",
    Kind.ENDPOINTS: "disable-access-log-for-endpoints",
    Kind.TEMPLATE: "chat-template",
    Kind.NAMES: """
        allowed-media-domains cpu-offload-params cudagraph-capture-sizes ignore-patterns
        kv-cache-dtype-skip-layers lora-target-modules numa-bind-cpus numa-bind-nodes offload-params
        sleep-preserve-parameter-names""",
    Kind.JSON: """
        attention-config compilation-config custom-histogram-buckets default-chat-template-kwargs
        diffusion-config eplb-config hf-overrides ir-op-priority kernel-config limit-mm-per-prompt
        media-io-kwargs mm-processor-kwargs model-loader-extra-config override-generation-config
        pooler-config quantization-config reasoning-config speculative-config structured-outputs-config""",
}

ALLOWED: dict[str, Kind] = {f"--{word}": kind for kind, words in _ALLOWED_WORDS.items() for word in words.split()}

SIGNED = frozenset({"--seed", "--max-logprobs"})
"""Flags that may be negative; elsewhere vLLM refuses it, or reads it as "no limit" that nobody promised."""

POSITIVE = frozenset(
    f"--{name}"
    for name in (
        *("data-parallel-size", "prefill-context-parallel-size", "decode-context-parallel-size"),
        *("kv-cache-memory-bytes", "block-size", "spec-tokens"),
    )
)
"""Flags whose number is 1 or more."""

_METHODS = """
    ngram ngram_gpu suffix medusa mlp_speculator draft_model eagle eagle3 extract_hidden_states dflash dspark mtp
    deepseek_mtp dots3_note_mtp mimo_mtp mimo_v2_mtp glm4_moe_mtp glm4_moe_lite_mtp glm_ocr_mtp ernie_mtp
    nemotron_h_mtp exaone_moe_mtp exaone4_5_mtp qwen3_next_mtp qwen4_exp_mtp qwen3_5_mtp longcat_flash_mtp
    bailing_hybrid_v3_mtp minimax_m3_mtp bailing_hybrid_mtp kimi_k3_mtp pangu_ultra_moe_mtp step3p5_mtp hy_v3_mtp
    hy_v4_mtp gemma4_mtp inkling_mtp glm5_next_mtp"""

SPECULATIVE_METHODS = frozenset(_METHODS.split())
"""vLLM's own but `custom_class`, which imports what the model is named."""

CHOICES: dict[str, frozenset[str]] = {
    "--spec-method": SPECULATIVE_METHODS,
    "--config-format": frozenset({"auto", "hf", "mistral"}),
    "--convert": frozenset({"auto", "classify", "embed", "none"}),
    "--data-parallel-backend": frozenset({"mp"}),
    "--distributed-executor-backend": frozenset({"mp", "uni"}),
    "--generation-config": frozenset({"auto", "vllm"}),
    "--kv-offloading-backend": frozenset({"native"}),
    "--load-format": frozenset(
        {
            "auto",
            "bitsandbytes",
            "dummy",
            "fastsafetensors",
            "gguf",
            "mistral",
            "pt",
            "safetensors",
            "sharded_state",
        }
    ),
    "--model-impl": frozenset({"auto", "transformers", "vllm"}),
    "--runner": frozenset({"auto", "generate", "pooling"}),
}
"""Where vLLM would take more than these, the rest reads files, loads code or needs other processes."""

_COMPILATION_KEYS = """
    mode cudagraph_mode cudagraph_capture_sizes max_cudagraph_capture_size cudagraph_num_of_warmups
    cudagraph_specialize_lora cudagraph_copy_inputs compile_sizes compile_mm_encoder cudagraph_mm_encoder
    encoder_cudagraph_token_budgets use_inductor_graph_partition pass_config custom_ops"""

_SPECULATIVE_KEYS = """
    model method num_speculative_tokens num_speculative_tokens_per_batch_size draft_tensor_parallel_size enforce_eager
    quantization moe_backend attention_backend kv_cache_dtype max_model_len revision index_share_for_mtp_iteration
    disable_padded_drafter_batch disable_eagle_block_drop use_local_argmax_reduction use_heterogeneous_vocab
    prompt_lookup_max prompt_lookup_min parallel_drafting suffix_decoding_max_tree_depth
    suffix_decoding_max_cached_requests suffix_decoding_max_spec_factor suffix_decoding_min_token_prob
    rejection_sample_method synthetic_acceptance_rates synthetic_acceptance_length enable_adaptive_verification
    draft_sample_method dspark_draft_topk"""

_ATTENTION_KEYS = """
    backend backend_per_kind minimax_m3_msa_decode_backend flash_attn_version
    flash_attn_max_num_splits_for_cuda_graph tokenspeed_mla_min_split_kv
    tq_max_kv_splits_for_cuda_graph use_trtllm_attention disable_flashinfer_q_quantization mla_prefill_backend
    use_prefill_query_quantization indexer_kv_dtype indexer_sparse_logits hisparse_config use_non_causal
    sparse_mla_force_mqa sparse_mla_prefill_workspace_factor flex_attn_block_m flex_attn_block_n
    flex_attn_q_block_size flex_attn_kv_block_size"""

_KERNEL_KEYS = """
    ir_op_priority enable_flashinfer_autotune enable_rocm_segmented_attn_autotune enable_cutedsl_warmup
    enable_jit_warmup moe_backend sparse_indexer_topk_backend linear_backend linear_backend_per_quant"""

_POOLER_KEYS = """
    task pooling_type seq_pooling_type tok_pooling_type use_activation enable_flash_late_interaction dimensions
    enable_chunked_processing max_embed_len logit_mean logit_sigma step_tag_id returned_token_ids"""

_EPLB_KEYS = """
    window_size step_interval num_redundant_experts log_balancedness log_balancedness_interval use_async policy
    communicator enable_migration_batching"""

_STRUCTURED_KEYS = """
    backend disable_any_whitespace disable_additional_properties reasoning_parser enable_in_reasoning"""

JSON_KEYS: dict[str, frozenset[str]] = {
    "--attention-config": frozenset(_ATTENTION_KEYS.split()),
    "--compilation-config": frozenset(_COMPILATION_KEYS.split()),
    "--diffusion-config": frozenset({"canvas_length", "max_denoising_steps"}),
    "--eplb-config": frozenset(_EPLB_KEYS.split()),
    "--kernel-config": frozenset(_KERNEL_KEYS.split()),
    "--model-loader-extra-config": frozenset({"enable_multithread_load", "num_threads", "concurrency"}),
    "--pooler-config": frozenset(_POOLER_KEYS.split()),
    "--quantization-config": frozenset({"linear", "moe", "ignore", "targets"}),
    "--reasoning-config": frozenset({"reasoning_parser", "reasoning_start_str", "reasoning_end_str"}),
    "--speculative-config": frozenset(_SPECULATIVE_KEYS.split()),
    "--structured-outputs-config": frozenset(_STRUCTURED_KEYS.split()),
}
"""The harmless keys of vLLM's own objects; others name code (`inductor_passes`) or places to read and write."""

_REPO = VALUE_PATTERNS[Kind.REPO].pattern
_ANY = re.compile(r".*", re.DOTALL)
_NO_IMPORT_PATH = re.compile(r"(?![^\W\d]\w*(?:\.[^\W\d]\w*)+$).*", re.DOTALL)

JSON_TEXTS: dict[str, re.Pattern[str]] = {
    **dict.fromkeys(JSON_KEYS, VALUE_PATTERNS[Kind.NAME]),
    **dict.fromkeys(("--hf-overrides", "--mm-processor-kwargs", "--media-io-kwargs"), _NO_IMPORT_PATH),
    # Layers are named by dotted words.
    **dict.fromkeys(("--quantization-config", "--hf-overrides.ignore", "--hf-overrides.ignored_layers"), _ANY),
    "--hf-overrides.modules_to_not_convert": _ANY,
    "--reasoning-config.reasoning_start_str": _ANY,
    "--reasoning-config.reasoning_end_str": _ANY,
    # Without a method, vLLM 0.32 takes a dotted model for the path of a class, and imports it.
    "--speculative-config.model": re.compile(rf"{_REPO}|{'|'.join(sorted(SPECULATIVE_METHODS))}"),
    "--speculative-config.method": re.compile("|".join(sorted(SPECULATIVE_METHODS))),
    "--speculative-config.revision": re.compile(r"\w[\w./-]*"),
}
"""What a text in the object of a flag, or under one of its keys, must match from end to end."""

CODE, PORT, FILES = "loads code", "opens or changes a network address", "reads or writes files"
SECRET, OWNED = "holds a secret, and a command line is visible to every user", "is set by the hub"
FLEET, OPEN = "changes how many processes or hosts the engine spans", "lets requests do more than infer"


def _each(words: str, why: str, instead: str = "") -> dict[str, tuple[str, str]]:
    return {f"--{word}": (why, instead) for word in words.split()}


def _parameters(words: str) -> dict[str, tuple[str, str]]:
    return {f"--{word}": (OWNED, f"the parameter {word.replace('-', '_')}") for word in words.split()}


REFUSED: dict[str, tuple[str, str]] = {
    **_each(
        """middleware tool-parser-plugin reasoning-parser-plugin worker-cls worker-extension-cls scheduler-cls
        logits-processors io-processor-plugin kv-transfer-config ec-transfer-config ec-manager-config
        weight-transfer-config additional-config model-class-overrides tool-server code-revision""",
        CODE,
    ),
    **_each("host port uds grpc grpc-port", PORT, "port=N, which listens on 127.0.0.1:N"),
    **_each(
        """root-path allowed-origins allowed-methods allowed-headers allow-credentials otlp-traces-endpoint
        collect-detailed-traces kv-events-config""",
        PORT,
    ),
    **_each(
        """config log-config-file logging-config ssl-ca-certs ssl-cert-reqs ssl-certfile ssl-ciphers ssl-keyfile
        enable-ssl-refresh allowed-local-media-path hf-config-path mm-encoder-fp8-scale-path
        mm-encoder-fp8-scale-save-path mm-encoder-fp8-scale-save-margin profiler-config pt-load-map-location
        engram-config""",
        FILES,
    ),
    **_each("download-dir", FILES, "the setting VLLM_MODEL_CACHE_DIR"),
    **_each("lora-modules default-mm-loras", FILES, "load-lora, after load-model with enable_lora=true"),
    **_each("api-key", SECRET, "port=N; the hub makes the key and keeps it in a 0600 file"),
    **_each("hf-token", SECRET, "the environment variable HF_TOKEN"),
    **_each(
        """nnodes node-rank master-addr master-port headless ray-workers-use-nsight data-parallel-address
        data-parallel-rpc-port data-parallel-rank data-parallel-start-rank data-parallel-size-local
        data-parallel-external-lb data-parallel-hybrid-lb data-parallel-multi-port-external-lb
        data-parallel-supervisor-port dp-supervisor-probe-interval-s dp-supervisor-probe-timeout-s
        dp-supervisor-probe-failure-threshold enable-elastic-ep elastic-ep-max-dp-size enable-fault-tolerance
        fault-tolerance-config api-server-count enable-scale-out tokens-only""",
        FLEET,
        "setup-distributed-model, which runs a model on several hosts",
    ),
    **_each(
        """trust-request-chat-template trust-request-mm-kwargs enable-prompt-embeds enable-mm-embeds
        enable-trace-replay aux-output-config watermark-config""",
        OPEN,
    ),
    **_each("disable-log-stats", OWNED, "nothing: the hub reads running and waiting requests from them"),
    **_each("log-level", OWNED, "nothing: the hub reads the start's phases from the log"),
    **_each("shutdown-timeout", OWNED, "unload-model, which lets running requests finish unless force=true"),
    **_each("enable-sleep-mode", OWNED, "sleep-model; engines that can sleep are started so"),
    **_each("num-gpu-blocks-override", OWNED, "--kv-cache-memory-bytes, whose size the hub can promise"),
    **_each("help", OWNED, "nothing: it prints vLLM's help instead of starting an engine"),
    **_each("trust-remote-code", CODE, "the parameter trust_remote_code, which the user sets knowingly"),
    **_each("model", OWNED, "the parameter model_id"),
    **_each("device-memory-utilization", OWNED, "the parameter gpu_memory_utilization"),
    **_each("device-ids", OWNED, "the parameter gpu_ids"),
    **_each("performance-mode", OWNED, "the parameter profile"),
    **_parameters(
        """tensor-parallel-size pipeline-parallel-size gpu-memory-utilization max-model-len quantization dtype
        enforce-eager enable-prefix-caching max-num-seqs max-num-batched-tokens kv-cache-dtype
        served-model-name revision enable-lora"""
    ),
}
"""Flag → (what it does, what to use instead)."""

SHORT_FORMS: dict[str, str] = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-ep": "--enable-expert-parallel",
    "-q": "--quantization",
    "-cc": "--compilation-config",
    "-ac": "--attention-config",
    "-sc": "--speculative-config",
    "-dc": "--diffusion-config",
    "-asc": "--api-server-count",
    "-O": "--optimization-level",
    "-dpn": "--data-parallel-rank",
    "-dpr": "--data-parallel-start-rank",
    "-dpl": "--data-parallel-size-local",
    "-dpa": "--data-parallel-address",
    "-dpp": "--data-parallel-rpc-port",
    "-dpb": "--data-parallel-backend",
    "-dph": "--data-parallel-hybrid-lb",
    "-dpe": "--data-parallel-external-lb",
    "-dpm": "--data-parallel-multi-port-external-lb",
    "-n": "--nnodes",
    "-r": "--node-rank",
    "-h": "--help",
}

REMOVED: dict[str, str] = {
    "--swap-space": "nothing: this vLLM recomputes instead of swapping; leave it out",
    "--disable-log-requests": "nothing: requests are not logged unless --enable-log-requests is given",
    "--num-scheduler-steps": "--async-scheduling",
    "--multi-step-stream-outputs": "--stream-interval",
    "--num-lookahead-slots": "--speculative-config",
    "--use-v2-block-manager": "nothing: it is the only one now; leave it out",
    "--task": "--runner pooling, or --convert embed",
    "--enable-reasoning": "--reasoning-parser",
    "--guided-decoding-backend": "--structured-outputs-config",
    "--speculative-model": "--speculative-config",
    "--num-speculative-tokens": "--speculative-config",
    "--rope-scaling": "--hf-overrides",
    "--rope-theta": "--hf-overrides",
    "--device": "nothing: the installed vLLM is built for one kind of device",
    "--worker-use-ray": "nothing here; setup-distributed-model runs on Ray",
    "--engine-use-ray": "nothing here; setup-distributed-model runs on Ray",
    "--max-seq-len-to-capture": "--max-cudagraph-capture-size",
    "--max-context-len-to-capture": "--max-cudagraph-capture-size",
    "--cuda-graph-sizes": "--cudagraph-capture-sizes",
    "--disable-frontend-multiprocessing": "nothing: leave it out",
    "--override-neuron-config": "nothing: leave it out",
    "--override-pooler-config": "--pooler-config",
    "--preemption-mode": "nothing: this vLLM always recomputes; leave it out",
    "--kv-cache-memory": "--kv-cache-memory-bytes",
}
"""Flags of older guides → their successor in 0.32."""

CODE_VALUES = frozenset({"custom_class"})
"""Values of `--spec-method` and the like that make vLLM import what another key names."""

FORBIDDEN_KEY = re.compile(
    # Private names, and what transformers hands to `from_pretrained` or fetches from the Hub as a kernel.
    r"^_|^(?:token|proxies|subfolder|use_kernels)$|dict_json$|(?:^|_)implementation$|"
    r"auto_map|trust_remote|plugin|"
    r"(?:^|_)(?:cls|class|module|modules|callable|import|code_revision|"
    r"path|paths|dir|dirs|file|files|filename|filenames|uri|url|urls|"
    r"host|port|addr|address|endpoint|api_key|hf_token|auth_token|secret|password)$",
    re.IGNORECASE,
)
"""Keys that name code, places or secrets, at any depth of a JSON value."""

FORBIDDEN_TEXT = re.compile(r"^\s*(?:/|~|\.{1,2}/|file:)|://|(?:^|/)\.\.(?:/|$)|\.py$")
"""Text in a JSON value that is a path or an address."""
