"""A server on the suite's kit with no engine behind it: `python -m tests.fakes.toy_server` from the root."""

import sys

from vllm_mcp_protocol.serving.command import run
from vllm_mcp_protocol.serving.description import EnvVar, ServerDescription

TOY = ServerDescription(
    name="vllm-toy",
    title="Toy server",
    summary="A server for tests of the serving kit: every kind of parameter, every kind of trouble.",
    instructions="Call list-models first. load-model reports progress. unload-model asks first.",
    distribution="vllm-mcp-protocol",
    command="vllm-toy",
    module_build="tests.fakes.toy_tools:build_server",
    environment=(EnvVar("LOG_LEVEL", "What is written to stderr", "WARNING"),),
)

if __name__ == "__main__":
    sys.exit(run(TOY))
