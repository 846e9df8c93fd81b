"""The hub: one process per user and host that owns vLLM engines. Started by `python -m vllm_mcp_hub`."""

__version__ = "0.1.0"
