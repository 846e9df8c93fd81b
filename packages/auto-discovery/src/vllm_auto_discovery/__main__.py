"""The command `vllm-auto-discovery`."""

import sys


def main() -> int:
    """Do what the command line says; the exit code."""
    from vllm_auto_discovery.description import DESCRIPTION
    from vllm_mcp_protocol.serving.command import run

    return run(DESCRIPTION)


if __name__ == "__main__":
    sys.exit(main())
