"""The command `vllm-performance-monitor`."""

import sys


def main() -> int:
    """Do what the command line says; the exit code."""
    from vllm_mcp_protocol.serving.command import run
    from vllm_performance_monitor.description import DESCRIPTION

    return run(DESCRIPTION)


if __name__ == "__main__":
    sys.exit(main())
