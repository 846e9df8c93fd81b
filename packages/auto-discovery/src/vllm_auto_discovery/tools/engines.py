"""discover-engines: who serves models here."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from vllm_auto_discovery.core.bounds import bounded, row_bytes
from vllm_auto_discovery.core.engines.probe_targets import COMMON_PORTS, LOOPBACK, MAX_HOSTS, MAX_PORTS
from vllm_auto_discovery.core.engines.rows import EngineKind, EngineRow, found_row, managed_row
from vllm_auto_discovery.probing import FoundEngine, probe
from vllm_auto_discovery.results import EnginesFound
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.serving.paging import page
from vllm_mcp_protocol.serving.server import READ, SuiteServer, open_world

_MOST_ROWS = 200


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("discover-engines", title="Find engines", annotations=open_world(READ))
    async def discover_engines(
        ports: Annotated[
            list[Annotated[int, Field(ge=1, le=65535)]] | None,
            Field(
                max_length=MAX_PORTS,
                description=f"TCP ports to ask; none: only engines that are known. Usual: {_usual()}",
            ),
        ] = None,
        hosts: Annotated[
            list[Annotated[str, Field(min_length=1, max_length=253)]] | None,
            Field(max_length=MAX_HOSTS, description="Hosts to ask on those ports (default: this machine)"),
        ] = None,
    ) -> EnginesFound:
        """Show the engines that the suite manages, those that the settings name, and what answers on the ports that
        are named here: vLLM, Ollama, LM Studio, llama.cpp, SGLang or another OpenAI-compatible server, with version
        and models. Nothing else is asked.
        """
        return await find_engines(work, ports or (), hosts or ())


async def find_engines(work: Workplace, ports: Sequence[int], hosts: Sequence[str]) -> EnginesFound:
    """Known engines, and what answers at every host and port. Raises BadInput for what cannot be asked."""
    wanted = list(ports or (COMMON_PORTS if hosts else ()))
    found = await probe(list(hosts) or [LOOPBACK], wanted) if wanted else []
    state, warnings = await work.hub_state()
    vllm = await work.vllm_models(ask=False)
    rows = [managed_row(view, vllm.version if vllm else None) for view in work.live_engines(state)]
    known = {row.address.removesuffix("/v1") for row in rows}
    configured = [one for one in await work.configured_engines() if one.url not in known]
    known |= {one.url for one in configured}
    rows += found_rows("configured", configured)
    rows += found_rows("found", [one for one in found if one.listens and one.url not in known])
    shown, _ = page(rows, limit=_MOST_ROWS, cursor=None, key=lambda row: row.address, size=row_bytes)
    return EnginesFound(
        engines=shown,
        total_count=len(rows),
        probed=len(found),
        silent=sum(not one.listens for one in found),
        warnings=bounded(warnings),
    )


def found_rows(kind: EngineKind, found: Sequence[FoundEngine]) -> list[EngineRow]:
    """Rows of what was asked directly."""
    return [found_row(kind, one.url, one) for one in found]


def _usual() -> str:
    return ", ".join(map(str, COMMON_PORTS))
