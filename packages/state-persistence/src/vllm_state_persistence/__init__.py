"""MCP server that saves sessions and engine set-ups as encrypted, incremental snapshots, and brings them back."""

__version__ = "0.1.0"
