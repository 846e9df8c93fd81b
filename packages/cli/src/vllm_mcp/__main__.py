"""`python -m vllm_mcp` is `vllm-mcp`."""

import sys

from vllm_mcp.main import main

if __name__ == "__main__":
    sys.exit(main())
