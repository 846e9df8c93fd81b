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

DESCRIPTION = ServerDescription(
    name="vllm-model-manager",
    title="vLLM model manager",
    summary="Load, list, switch, sleep and unload models on real vLLM engines, and ask them",
    instructions=_INSTRUCTIONS,
    distribution="vllm-model-manager",
    command="vllm-model-manager",
    module_build="vllm_model_manager.server:build_server",
    environment=(
        EnvVar("VLLM_API_ENDPOINT", "A running vLLM to attach, e.g. http://127.0.0.1:8000"),
        EnvVar("VLLM_API_KEY", "API key of VLLM_API_ENDPOINT", secret=True),
        EnvVar("VLLM_MODEL_CACHE_DIR", "Folder with models, in the Hugging Face cache layout"),
        EnvVar("VLLM_GPU_MEMORY_UTILIZATION", "Default share of each GPU's memory per engine, 0 to 1"),
        EnvVar("VLLM_TENSOR_PARALLEL_SIZE", "Default tensor-parallel size"),
        EnvVar("VLLM_MAX_MODEL_LEN", "Default context window, tokens"),
        EnvVar("VLLM_QUANTIZATION", "Default quantization method; none = unset"),
        EnvVar("VLLM_DTYPE", "Default weight type"),
        EnvVar("VLLM_EXECUTABLE", "Path of the vllm command"),
        EnvVar("VLLM_TIMEOUT", "Time limit of one request to an engine, ms", default="120000"),
        EnvVar("UNLOAD_IDLE_MODELS_MINUTES", "Unload models that were idle for so long, minutes"),
        EnvVar("HF_HOME", "Hugging Face home; the cache is its folder hub"),
        EnvVar("HF_TOKEN", "Hugging Face token for gated models", secret=True),
        EnvVar("HF_HUB_OFFLINE", "1: never reach the Hugging Face Hub"),
        EnvVar("VLLM_MCP_READ_ONLY", "true: hide and refuse every tool that changes something"),
        EnvVar("LOG_LEVEL", "What is written to stderr", default="WARNING"),
    ),
)
