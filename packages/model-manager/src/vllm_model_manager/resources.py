"""Resources, prompts and completion: the same facts as the tools, for clients that pick rather than call."""

from functools import partial
from typing import Annotated

from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from pydantic import Field

from vllm_mcp_protocol.errors import NotThere, SuiteError
from vllm_mcp_protocol.serving.completion import complete_names
from vllm_mcp_protocol.serving.paging import page
from vllm_mcp_protocol.serving.results import compact_json
from vllm_mcp_protocol.serving.server import SuiteServer
from vllm_model_manager.core import rows
from vllm_model_manager.tools.inform import describe, read_log
from vllm_model_manager.workplace import Workplace

_COMPLETED_ARGUMENTS = ("model_id", "to_model_id", "from_model_id")
_LOG_LINES = 200
_MOST_ROWS = 200

ModelName = Annotated[str, Field(description="Hugging Face id, org/name")]


def register(server: SuiteServer, work: Workplace) -> None:
    """Add all of them."""
    _register_resources(server, work)
    _register_prompts(server)
    complete_names(server, _COMPLETED_ARGUMENTS, partial(_names, work))


def _register_resources(server: SuiteServer, work: Workplace) -> None:
    @server.resource("fleet://status", name="fleet-status", title="All engines", mime_type="application/json")
    async def fleet_status() -> str:
        """Devices with their memory, and every engine with its state."""
        try:
            return await fleet_json(work)
        except SuiteError as error:
            raise ResourceError(str(error)) from error

    # {+…} lets an id contain the slash of org/name.
    @server.resource(
        "model://{+model_id}/config", name="model-config", title="A model's configuration", mime_type="application/json"
    )
    async def model_config(model_id: str) -> str:
        """How a model is served, and the defaults of its requests."""
        try:
            info = await describe(work, model_id, include_performance=True)
        except NotThere as error:
            raise ResourceNotFoundError(str(error)) from error
        except SuiteError as error:
            raise ResourceError(str(error)) from error
        return compact_json(info.model_dump(mode="json", exclude={"success"}))

    @server.resource("model://{+model_id}/logs", name="model-logs", title="A model's log", mime_type="text/plain")
    async def model_logs(model_id: str) -> str:
        """The end of vLLM's log of a model."""
        try:
            log = await read_log(work, model_id, tail=_LOG_LINES, level=None)
        except NotThere as error:
            raise ResourceNotFoundError(str(error)) from error
        except SuiteError as error:
            raise ResourceError(str(error)) from error
        return "\n".join([*log.lines, *([f"Diagnosis: {log.diagnosis}"] if log.diagnosis else [])])


async def fleet_json(work: Workplace) -> str:
    """Devices and engines as compact JSON."""
    state = await work.state()
    every = rows.fleet_rows(state, ())
    shown, _ = page(every, limit=_MOST_ROWS, cursor=None, key=lambda row: row.id, size=rows.row_bytes)
    return compact_json(
        {
            "hub": {"version": state.version, "pid": state.pid, "uptime_s": state.uptime_s},
            "devices": [device.model_dump(mode="json") for device in state.devices],
            "models": [row.model_dump(mode="json", exclude_none=True) for row in shown],
            "not_shown": len(every) - len(shown),
        }
    )


def _register_prompts(server: SuiteServer) -> None:
    @server.prompt("switch-model", title="Switch to another model")
    def switch_model(
        to_model_id: ModelName, from_model_id: Annotated[str, Field(description="Model that leaves")] = ""
    ) -> str:
        """Replace the loaded model by another one, safely."""
        leaving = f" from {from_model_id}" if from_model_id else ""
        argument = f", from_model_id={from_model_id}" if from_model_id else ""
        return (
            f"Switch{leaving} to {to_model_id}. First call switch-model with to_model_id={to_model_id}{argument} and "
            "dry_run=true, and tell me in one sentence what would be put to sleep or unloaded and how much memory the "
            "new model needs. If requests are running, ask me before using force=true. Then switch, follow the start "
            "with list-models until it is loaded, and ask it one short question with generate-text."
        )

    @server.prompt("diagnose-model", title="Find out what is wrong with a model")
    def diagnose_model(model_id: ModelName) -> str:
        """Find out why a model does not load, does not answer, or is slow."""
        return (
            f"Find out what is wrong with {model_id}. Call get-model-info and get-model-logs (level=error, then "
            "without level) for it, and list-models for what else holds memory. State the cause in one sentence, with "
            "the line of the log that shows it, then the one change that you would make, as a tool call. Do not make "
            "it before I agree."
        )


async def _names(work: Workplace) -> list[str]:
    """Loaded models first, then those of the cache. Without a hub the cache alone is no worse than an error."""
    try:
        state = await work.state()
    except SuiteError:
        loaded = []
    else:
        loaded = [view.model_id for view in state.engines]
    cached = [facts.model_id for facts in (await work.scan()).models if not facts.is_adapter]
    return list(dict.fromkeys([*loaded, *cached]))
