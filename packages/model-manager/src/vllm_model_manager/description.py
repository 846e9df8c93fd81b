"""What this server is: the one source of its bundles, its `--help` and its `initialize`."""

from vllm_mcp_protocol.serving.description import EnvVar, ServerDescription

_INSTRUCTIONS = """\
Runs language models on this machine with vLLM. Names are Hugging Face ids (org/name).

Start with list-models: what is loaded, what lies in the cache.
load-model takes from 20 seconds to minutes; it answers after wait_seconds with status "loading", and the work goes \
on: ask again with list-models or get-model-info, do not call load-model with other options. Check a load first with \
dry_run=true. No room: switch-model (puts the old model to sleep), or make_room=true (unloads idle ones).
unload-model finishes running requests; force=true drops them, only if the user agreed.
generate-text asks a loaded model; set-model-config sets defaults for all requests.
sleep-model frees GPU memory and keeps the model quick to wake-model.
load-lora needs a model that was loaded with enable_lora=true.
When something failed: get-model-logs has vLLM's own words and the diagnosis.

Errors carry a code, a message and a `suggestion`: follow it. Memory figures are MiB."""

_VARIABLES = (
    "VLLM_API_ENDPOINT",
    "VLLM_API_KEY",
    "VLLM_HOST",
    "VLLM_PORT",
    "DISCOVERY_ENDPOINTS",
    "VLLM_TIMEOUT",
    "VLLM_EXECUTABLE",
    "VLLM_MODEL_CACHE_DIR",
    "VLLM_GPU_MEMORY_UTILIZATION",
    "VLLM_TENSOR_PARALLEL_SIZE",
    "VLLM_PIPELINE_PARALLEL_SIZE",
    "VLLM_MAX_MODEL_LEN",
    "VLLM_QUANTIZATION",
    "VLLM_DTYPE",
    "VLLM_ENFORCE_EAGER",
    "VLLM_ENABLE_PREFIX_CACHING",
    "UNLOAD_IDLE_MODELS_MINUTES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "VLLM_HUB_DIR",
    "VLLM_MCP_READ_ONLY",
    "VLLM_MCP_ALLOWED_TOOLS",
    "VLLM_MCP_DENIED_TOOLS",
    "LOG_LEVEL",
)
"""What they mean is said in `Settings`."""

DESCRIPTION = ServerDescription(
    name="vllm-model-manager",
    title="vLLM model manager",
    summary="Load, list, switch, sleep and unload models on real vLLM engines, and ask them",
    instructions=_INSTRUCTIONS,
    distribution="vllm-model-manager",
    command="vllm-model-manager",
    module_build="vllm_model_manager.server:build_server",
    environment=tuple(EnvVar(name) for name in _VARIABLES),
)
