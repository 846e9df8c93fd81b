"""The shared vocabulary of the vLLM MCP suite: units, errors, models, settings, paths, hub client, serving kit."""

__version__ = "0.1.0"

PROTOCOL = 1
"""Number of the hub's wire protocol. Raised when an older client could misread a newer hub."""
