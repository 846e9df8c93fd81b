"""MCP server that loads, lists, switches and unloads models on real vLLM engines."""

__version__ = "0.1.0"
