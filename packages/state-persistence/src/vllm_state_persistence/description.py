"""What this server is: the one source of its bundles, its `--help` and its `initialize`."""

from vllm_mcp_protocol.serving.description import EnvVar, ServerDescription

_INSTRUCTIONS = """\
Saves conversations (Crush, Claude Code, opencode, or messages given here) and the engines that served them as \
encrypted snapshots, and brings them back on this or another machine.

save-state without arguments saves the newest session of this project and the engines' set-up; saving again costs only \
what is new. list-states shows what there is, get-state what a snapshot holds, diff-states what changed between two.
load-state first with dry_run=true: it tells what would be written and started. By default the conversation comes back \
as a new session; target=same needs force=true, only if the user agreed.
clear-state shows what would go; force=true removes it. verify-states reads everything back.
export-state and import-state carry a snapshot to another machine that has the same key. Keys never pass through \
tools: `vllm-state-persistence init-key` and `rotate-key` on the command line.

Errors carry a code, a message and a `suggestion`: follow it. Sizes are bytes."""

_VARIABLES = (
    "STATE_DB_PATH",
    "ENCRYPTION_KEY",
    "ENCRYPT_SENSITIVE_DATA",
    "ENABLE_COMPRESSION",
    "MAX_HISTORY_SIZE",
    "BACKUP_INTERVAL_SECONDS",
    "MAX_SESSION_AGE_DAYS",
    "HF_HOME",
    "HF_HUB_CACHE",
    "VLLM_MODEL_CACHE_DIR",
    "VLLM_HUB_DIR",
    "VLLM_MCP_READ_ONLY",
    "VLLM_MCP_ALLOWED_TOOLS",
    "VLLM_MCP_DENIED_TOOLS",
    "LOG_LEVEL",
)
"""What they mean is said in `Settings`."""

DESCRIPTION = ServerDescription(
    name="vllm-state-persistence",
    title="vLLM state persistence",
    summary="Save conversations and engine set-ups as encrypted, incremental snapshots; bring them back",
    instructions=_INSTRUCTIONS,
    distribution="vllm-state-persistence",
    command="vllm-state-persistence",
    module_build="vllm_state_persistence.server:build_server",
    environment=tuple(EnvVar(name) for name in _VARIABLES),
    by_hand=(
        *("init-key", "rotate-key", "snapshot", "verify", "repair", "prune"),
        *("export", "import", "backup", "salvage", "restore"),
    ),
)
