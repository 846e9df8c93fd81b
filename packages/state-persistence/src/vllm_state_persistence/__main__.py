"""The command `vllm-state-persistence`: the server, and the keys and the store by hand."""

import sys


def main() -> int:
    """Do what the command line says; the exit code."""
    from vllm_state_persistence.allocator import share_arenas
    from vllm_state_persistence.description import DESCRIPTION

    share_arenas()
    if len(sys.argv) > 1 and sys.argv[1] in DESCRIPTION.by_hand:
        from vllm_state_persistence.commands import run_command

        return run_command(sys.argv[1:])
    from vllm_mcp_protocol.serving.command import run

    return run(DESCRIPTION)


if __name__ == "__main__":
    sys.exit(main())
