"""MCP server that watches vLLM engines and GPUs, keeps their history, raises alerts, draws and benchmarks."""

__version__ = "0.1.0"
