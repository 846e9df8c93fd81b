"""What this server is: the one source of its bundles, its `--help` and its `initialize`."""

from vllm_mcp_protocol.serving.description import EnvVar, ServerDescription

_INSTRUCTIONS = """\
Answers "what can I run here?": models in the Hugging Face cache and in folders, engines that serve already, and what \
each model can do. Names are Hugging Face ids (org/name).

Start with discover-models; fits=true keeps what this machine's devices can hold, capability=vision, tools, \
embeddings, ... what can do that. A row's `load` is ready for load-model of vllm-model-manager; when it is null, \
`why_not` says what is missing.
get-model-metadata: sizes, context, license, chat template, with the source of each. get-model-capabilities: claims \
with their evidence; "unknown" means that nothing proves it.
discover-engines finds vLLM, Ollama, LM Studio, llama.cpp, SGLang on ports that the user named.
download-model answers after wait_seconds with status "downloading", and the work goes on: call it again to follow. \
verify-cache checks files against their checksums. delete-cached-model shows what it would delete; force=true deletes.
sync-client-config writes the models that can be served into a client's configuration; try dry_run=true first.

Errors carry a code, a message and a `suggestion`: follow it. Sizes are MiB."""

_VARIABLES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "VLLM_MODEL_CACHE_DIR",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "VLLM_API_ENDPOINT",
    "VLLM_API_KEY",
    "VLLM_HOST",
    "VLLM_PORT",
    "DISCOVERY_ENDPOINTS",
    "DISCOVERY_INTERVAL_SECONDS",
    "ENABLE_MODEL_METADATA_ENRICHMENT",
    "METADATA_CACHE_TTL_HOURS",
    "ENABLE_CAPABILITY_DETECTION",
    "VLLM_EXECUTABLE",
    "VLLM_HUB_DIR",
    "VLLM_MCP_READ_ONLY",
    "VLLM_MCP_ALLOWED_TOOLS",
    "VLLM_MCP_DENIED_TOOLS",
    "LOG_LEVEL",
)
"""What they mean is said in `Settings`."""

DESCRIPTION = ServerDescription(
    name="vllm-auto-discovery",
    title="vLLM auto-discovery",
    summary="Find every model that could run here, what it can do, and which engines serve already",
    instructions=_INSTRUCTIONS,
    distribution="vllm-auto-discovery",
    command="vllm-auto-discovery",
    module_build="vllm_auto_discovery.server:build_server",
    environment=tuple(EnvVar(name) for name in _VARIABLES),
)
