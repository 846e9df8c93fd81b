"""Resources and prompt: the catalog and the engines for clients that pick rather than call, kept fresh by a task."""

import hashlib
import logging
from typing import Annotated

import anyio
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from pydantic import Field

from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.errors import NotThere, SuiteError
from vllm_mcp_protocol.hf.cache import Catalog
from vllm_mcp_protocol.serving.completion import complete_names
from vllm_mcp_protocol.serving.results import compact_json
from vllm_mcp_protocol.serving.server import SuiteServer

logger = logging.getLogger(__name__)

MODELS_URI = "discovery://models"
ENGINES_URI = "discovery://engines"

_MOST_MODELS = 200
_FIRST_LOOK_S = 5.0
"""A client that starts five servers at once wants their lists of tools first."""


def register(server: SuiteServer, work: Workplace) -> None:
    """Add all of them."""
    from vllm_auto_discovery.tools.describe import capabilities_result
    from vllm_auto_discovery.tools.discover import Wish, discover
    from vllm_auto_discovery.tools.engines import find_engines

    @server.resource(MODELS_URI, name="models", title="Models on this machine", mime_type="application/json")
    async def models() -> str:
        """What discover-models with source=cache answers, the first page."""
        try:
            found = await discover(work, Wish("cache", None, None, fits=False, fresh=False), _MOST_MODELS, None)
        except SuiteError as error:
            raise ResourceError(str(error)) from error
        return compact_json(found.model_dump(mode="json", exclude={"success"}))

    @server.resource(ENGINES_URI, name="engines", title="Engines that serve", mime_type="application/json")
    async def engines() -> str:
        """Engines of the suite, and those that the settings name."""
        found = await find_engines(work, (), ())
        return compact_json(found.model_dump(mode="json", exclude={"success"}))

    # {+…} lets an id contain the slash of org/name.
    @server.resource(
        "discovery://models/{+model_id}", name="model", title="What a model can do", mime_type="application/json"
    )
    async def model(model_id: str) -> str:
        """What get-model-capabilities answers."""
        try:
            found = await work.require(model_id)
            (claims,), (seen,) = await work.claims([found], ask_vllm=True), await work.inspect([found])
        except NotThere as error:
            raise ResourceNotFoundError(str(error)) from error
        except SuiteError as error:
            raise ResourceError(str(error)) from error
        return compact_json(capabilities_result(found, claims, seen).model_dump(mode="json", exclude={"success"}))

    @server.prompt("choose-model", title="Choose a model for a task")
    def choose_model(task: Annotated[str, Field(description="What the model is for")]) -> str:
        """Choose a model that is here, or one to download, for a task."""
        return (
            f"Choose a model for this task: {task}. Call discover-models with fits=true, look at capabilities and "
            "context windows, and get-model-capabilities of the best two. Name one, the reason in one sentence with "
            "its evidence, and the load-model call with the arguments of `load`. If none here can do it, say which "
            "one discover-models with source=hub finds, and its size."
        )

    async def names() -> list[str]:
        return [one.facts.model_id for one in (await work.scan()).models]

    complete_names(server, ("model_id",), names)


async def refresh_for_ever(server: SuiteServer, work: Workplace) -> None:
    """Look at the caches and engines every DISCOVERY_INTERVAL_SECONDS, and tell subscribers what changed."""
    known: dict[str, str] = {}
    await anyio.sleep(min(_FIRST_LOOK_S, work.settings.discovery_interval_seconds))
    while True:
        try:
            seen = await _fingerprints(work)
        except Exception as error:  # whatever it is, the tools go on
            logger.warning(
                "the background scan failed: %s", error, exc_info=not isinstance(error, SuiteError | OSError)
            )
            seen = known
        for uri, mark in seen.items():
            if known and known.get(uri) != mark:
                await server.resource_subscriptions.publish(uri)
        known = seen
        await anyio.sleep(work.settings.discovery_interval_seconds)


async def _fingerprints(work: Workplace) -> dict[str, str]:
    """Changes when the resource does. The hub is asked only when it runs: looking must not start it."""
    return {MODELS_URI: _mark(await work.scan()), ENGINES_URI: await work.engines_mark()}


def _mark(found: Catalog) -> str:
    told = [
        f"{one.facts.model_id} {one.facts.path} {one.facts.complete} {one.facts.weights_bytes}" for one in found.models
    ]
    return hashlib.sha256("\n".join(told).encode(errors="replace")).hexdigest()
