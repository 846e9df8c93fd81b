"""One attempt to give news of an alert to a hook. What a receiver says beyond a few words is never held in memory."""

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import httpx2

from vllm_mcp_hub.core.alerting import hooks

ATTEMPT_S = 20.0
WORDS_BYTES = 500
_AT_ONCE_BYTES = 64 * 1024
_END_LIMIT_S = 1.0
"""Who left the group of the program may still hold its standard error."""


async def post(url: str, payload: Mapping[str, Any]) -> hooks.Result:
    """POST as JSON; redirects are not followed, and the body of the answer is not read."""
    async with (
        httpx2.AsyncClient(timeout=ATTEMPT_S, follow_redirects=False, trust_env=False) as client,
        client.stream("POST", url, json=dict(payload)) as response,
    ):
        status, after = response.status_code, response.headers.get("retry-after", "")
    words = f"it answered {status}" + (", and redirects are not followed" if 300 <= status < 400 else "")
    return hooks.Result(hooks.outcome_of_status(status), words, float(after) if after.isdecimal() else None)


async def run(command: Sequence[str], payload: Mapping[str, Any]) -> hooks.Result:
    """The program with the alert as JSON on its standard input; exit status 0 means that it was taken. When it is
    given up, whatever it started goes with it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    stdin, stderr = cast(asyncio.StreamWriter, process.stdin), cast(asyncio.StreamReader, process.stderr)
    try:
        stdin.write(json.dumps(payload).encode())
        stdin.close()
        words = await _end_of(stderr)
        status = await process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_LIMIT_S):
                await process.wait()
        raise
    if status == 0:
        return hooks.Result("delivered")
    return hooks.Result("failed", f"it ended with {status}: {words.decode(errors='replace')}")


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    """The last of what comes."""
    end = b""
    while more := await stream.read(_AT_ONCE_BYTES):
        end = (end + more)[-WORDS_BYTES:]
    return end
