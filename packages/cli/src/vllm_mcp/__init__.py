"""The suite's command line, `vllm-mcp`."""

__version__ = "0.1.0"
