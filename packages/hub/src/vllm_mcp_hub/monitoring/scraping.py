"""Asking an engine for its metrics, again and again, on a connection that stays open."""

from vllm_mcp_protocol.engine_http import MAX_CONTROL_BYTES
from vllm_mcp_protocol.errors import EngineRequestFailed, EngineUnreachable
from vllm_mcp_protocol.http1 import BadHttp
from vllm_mcp_protocol.model import Endpoint
from vllm_mcp_protocol.units import MIB
from vllm_mcp_protocol.wire import Answer, CutOff, Unreachable, Wire

_WORDS_CHARS = 300


class Scraper:
    """Of one engine. How long an answer may take is up to the caller: one that is cancelled drops its connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._shown = endpoint.shown
        self._key = endpoint.api_key.get_secret_value() if endpoint.api_key is not None else ""
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        self._wire = Wire(endpoint.url, uds=endpoint.uds, limit=1, headers=headers)

    async def metrics(self) -> bytes:
        """What it says at /metrics, at most `MAX_CONTROL_BYTES`. Raises EngineUnreachable, EngineRequestFailed."""
        try:
            async with self._wire.ask("GET", "/metrics") as answer:
                body = await self._body(answer)
        except (Unreachable, CutOff, BadHttp) as error:
            raise EngineUnreachable(f"The engine at {self._shown} cannot be asked for its metrics: {error}.") from error
        status = answer.head.status
        if status // 100 != 2:
            words = " ".join(body.decode(errors="replace").split())
            words = words.replace(self._key, "(hidden)") if self._key else words
            shown = words[:_WORDS_CHARS] or answer.head.reason
            raise EngineRequestFailed(f"The engine answered {status} to GET /metrics: {shown}", status=status)
        return body

    async def _body(self, answer: Answer) -> bytes:
        parts, size = [], 0
        while part := await answer.part():
            size += len(part)
            if size > MAX_CONTROL_BYTES:
                raise EngineRequestFailed(
                    f"The metrics of the engine at {self._shown} are larger than {MAX_CONTROL_BYTES // MIB} MiB.",
                    limit_bytes=MAX_CONTROL_BYTES,
                )
            parts.append(part)
        return b"".join(parts)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._wire.aclose()
