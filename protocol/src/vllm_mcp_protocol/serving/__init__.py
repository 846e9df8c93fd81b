"""The serving kit: everything that the suite's MCP servers share, and the only place that knows transports.

    description.py   what a server is called, what it is for, which variables it reads
    server.py        `SuiteServer`: registration, strict calls, permissions, audit
    schema.py        flat JSON schemas from annotations         tools.py       one registered tool
    arguments.py     a call's arguments, checked and explained  results.py     success and failure payloads
    context.py       progress, change notifications, asking     permissions.py which tools may be called
    stdio.py http.py the transports                             command.py     `vllm-…` as a command
    calling.py rendering.py   tools called from a command line

Nothing is imported here: `--version` must not pay for the MCP SDK.
"""
