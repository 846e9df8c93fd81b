"""The command `vllm-performance-monitor`: the server, and by hand the exporter for Prometheus and the live page."""

import sys


def main() -> int:
    """Do what the command line says; the exit code."""
    from vllm_performance_monitor.description import DESCRIPTION

    if len(sys.argv) > 1 and sys.argv[1] in DESCRIPTION.by_hand:
        from vllm_performance_monitor.commands import run_command

        return run_command(sys.argv[1:])
    from vllm_mcp_protocol.serving.command import run

    return run(DESCRIPTION)


if __name__ == "__main__":
    sys.exit(main())
