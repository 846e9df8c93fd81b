"""MCP server that finds every model that could run here, what it can do, and which engines serve already."""

__version__ = "0.1.0"
