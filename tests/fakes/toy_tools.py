"""The toy server's tools. `load-model` has as many parameters as the real one, for the start benchmark."""

import os
import sys
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, Resolve
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)
from pydantic import BaseModel, Field

from tests.fakes.toy_server import TOY
from vllm_mcp_protocol.errors import ForceRequired, GpuMemoryInsufficient, HubUnavailable, ModelNotLoaded
from vllm_mcp_protocol.serving.context import (
    Progress,
    can_elicit,
    notify_resource_updated,
    notify_resources_changed,
)
from vllm_mcp_protocol.serving.results import ToolResult
from vllm_mcp_protocol.serving.server import DESTROY, READ, WRITE, AuditSink, SuiteServer, ToolContext
from vllm_mcp_protocol.settings import Settings

ModelId = Annotated[str, Field(description="Hugging Face id or local folder", min_length=1, max_length=400)]
WaitSeconds = Annotated[int, Field(description="Longest wait, s; 0 = return at once", ge=0, le=3600)]


class Dtype(StrEnum):
    AUTO = "auto"
    HALF = "float16"
    BRAIN = "bfloat16"


class Model(BaseModel):
    """One model and how it stands."""

    id: str = Field(description="Hugging Face id")
    status: Literal["loaded", "unloaded", "loading"]
    engine_id: str | None = None
    memory_usage_mb: int | None = Field(None, description="MiB on all devices")
    error: str | None = None


class Models(ToolResult):
    models: list[Model]
    total_count: int


class Loaded(ToolResult):
    model_id: str
    status: Literal["loading", "loaded"]
    argv: list[str]
    options: dict[str, Any]


class Unloaded(ToolResult):
    status: Literal["unloaded", "kept"]
    memory_freed_mb: int


class Echo(ToolResult):
    values: dict[str, Any]


class Done(ToolResult):
    text: str = ""


class Message(BaseModel):
    role: Literal["system", "user", "assistant"] = Field(description="Who speaks")
    content: str = Field(description="What is said")


class Consent(BaseModel):
    """The user's answer to a destructive question."""

    proceed: bool = Field(description="Unload it even so?")


@dataclass
class Toy:
    """What the toy's tools act on."""

    loaded: dict[str, int] = field(default_factory=dict)
    """Model → requests in flight."""
    running: set[str] = field(default_factory=set)
    """Tools that run now."""


def build_server(
    settings: Settings, hub: object = None, audit: AuditSink | None = None, toy: Toy | None = None
) -> SuiteServer:
    """The toy; `hub` is there because every server's function has it."""
    server = SuiteServer(TOY, "0.1.0", settings, audit=audit)
    state = toy or Toy()
    _add_models(server, state)
    _add_odd(server)
    _add_trouble(server, state)
    _add_resources(server, state)
    return server


def _add_models(server: SuiteServer, toy: Toy) -> None:
    @server.tool("list-models", title="List models", annotations=READ)
    async def list_models(
        filter_by_status: Annotated[
            Literal["all", "loaded", "unloaded"], Field(description="Only models in this state")
        ] = "all",
        limit: Annotated[int, Field(description="Most models shown", ge=1, le=500)] = 100,
    ) -> Models:
        """List the loaded models."""
        found = [Model(id=name, status="loaded", engine_id="e1") for name in toy.loaded]
        return Models(models=found[:limit] if filter_by_status != "unloaded" else [], total_count=len(found))

    @server.tool("load-model", title="Load a model", annotations=WRITE)
    async def load_model(
        model_id: ModelId,
        ctx: ToolContext,
        tensor_parallel_size: Annotated[
            int | None, Field(description="GPUs that share each layer", ge=1, le=64)
        ] = None,
        pipeline_parallel_size: Annotated[
            int | None, Field(description="Groups of layers, each on its own GPUs", ge=1, le=64)
        ] = None,
        gpu_memory_utilization: Annotated[
            float | None, Field(description="Share of each GPU's memory", gt=0, le=1)
        ] = None,
        max_model_len: Annotated[int | None, Field(description="Context window, tokens", ge=1, le=100_000_000)] = None,
        quantization: Annotated[
            str | None, Field(description="Quantization method", max_length=40, pattern=r"^[\w.-]+$")
        ] = None,
        dtype: Annotated[Dtype, Field(description="Type of the weights")] = Dtype.AUTO,
        enforce_eager: Annotated[bool | None, Field(description="No CUDA graphs: slower, less memory")] = None,
        enable_prefix_caching: Annotated[bool | None, Field(description="Reuse KV of equal prefixes")] = None,
        max_num_seqs: Annotated[int | None, Field(description="Requests at once", ge=1, le=100_000)] = None,
        max_num_batched_tokens: Annotated[
            int | None, Field(description="Tokens per step", ge=1, le=100_000_000)
        ] = None,
        kv_cache_dtype: Annotated[str | None, Field(description="Type of the KV cache", max_length=40)] = None,
        gpu_ids: Annotated[
            list[Annotated[int, Field(ge=0, le=1023)]] | None, Field(description="GPUs to use", max_length=64)
        ] = None,
        served_model_name: Annotated[
            str | None, Field(description="Name in requests", min_length=1, max_length=200)
        ] = None,
        revision: Annotated[str | None, Field(description="Branch, tag or commit", max_length=200)] = None,
        trust_remote_code: Annotated[bool, Field(description="Run code of the repository")] = False,
        extra_args: Annotated[list[str] | None, Field(description="More vLLM flags", max_length=100)] = None,
        profile: Annotated[
            Literal["balanced", "interactivity", "throughput"] | None, Field(description="What to optimize")
        ] = None,
        make_room: Annotated[bool, Field(description="Unload idle models when memory is short")] = False,
        ttl_minutes: Annotated[float | None, Field(description="Unload after so long idle, min", gt=0)] = None,
        pin: Annotated[bool, Field(description="Never unload by itself")] = False,
        dry_run: Annotated[bool, Field(description="Only show what would happen")] = False,
        wait_seconds: WaitSeconds = 45,
        enable_lora: Annotated[bool | None, Field(description="Allow LoRA adapters")] = None,
        hf_token: Annotated[str | None, Field(description="Token for gated models", max_length=200)] = None,
    ) -> Loaded:
        """Load a model and wait until it serves. Reports progress; cancel to stop."""
        progress = Progress(ctx)
        if model_id == "too/large":
            raise GpuMemoryInsufficient(
                "too/large needs 32768 MiB and 16384 MiB are free.",
                suggestion="unload-model e3, or load-model with max_model_len=8192",
                required_mb=32768,
                available_mb=16384,
                holders=["e3"],
            )
        for step in (0, 1, 1, 2, 3):
            await progress(step, 3, f"{model_id}: step {step}")
        if not dry_run:
            toy.loaded[model_id] = 0
            await notify_resource_updated(ctx, f"model://{model_id}/config")
            await notify_resources_changed(ctx)
        options = {"tensor_parallel_size": tensor_parallel_size, "dtype": dtype.value, "gpu_ids": gpu_ids}
        return Loaded(model_id=model_id, status="loaded", argv=["vllm", "serve", model_id], options=options)

    async def consent(model_id: str, force: bool, ctx: ToolContext) -> Consent | Elicit[Consent]:
        if model_id not in toy.loaded:
            raise ModelNotLoaded(f"No model {model_id!r} is loaded.", suggestion="call list-models")
        requests = toy.loaded[model_id]
        if force or not requests:
            return Consent(proceed=True)
        question = f"{model_id} is serving {requests} requests. Unload it and drop them?"
        if not can_elicit(ctx):
            raise ForceRequired(question, suggestion="ask the user, then call again with force=true")
        return Elicit(question, Consent)

    @server.tool("unload-model", title="Unload a model", annotations=DESTROY)
    async def unload_model(
        model_id: ModelId,
        answer: Annotated[ElicitationResult[Consent], Resolve(consent)],
        force: Annotated[bool, Field(description="Skip the question; only when the user agreed")] = False,
    ) -> Unloaded:
        """Unload a model. Asks first when it is serving requests."""
        match answer:
            case AcceptedElicitation(data=Consent(proceed=True)):
                del toy.loaded[model_id]
                return Unloaded(status="unloaded", memory_freed_mb=100)
            case _:
                return Unloaded(status="kept", memory_freed_mb=0)


def _add_odd(server: SuiteServer) -> None:
    @server.tool("echo-values", title="Echo", annotations=READ)
    async def echo_values(
        whole: Annotated[int | None, Field(description="A whole number", ge=-10, le=10)] = None,
        share: Annotated[float, Field(description="A share", ge=0, le=1)] = 0.5,
        flag: Annotated[bool, Field(description="A switch")] = False,
        text: Annotated[str | None, Field(description="Any text", max_length=100_000)] = None,
        names: Annotated[list[str] | None, Field(description="Some names", max_length=5)] = None,
        numbers: Annotated[tuple[int, ...], Field(description="Some numbers")] = (),
        mode: Annotated[Literal["a", "b"], Field(description="One of two")] = "a",
        dtype: Annotated[Dtype, Field(description="Type of the weights")] = Dtype.AUTO,
        messages: Annotated[list[Message] | None, Field(description="A conversation")] = None,
        schema: Annotated[dict[str, Any] | None, Field(description="A JSON schema")] = None,
        folder: Annotated[Path | None, Field(description="A folder")] = None,
        api_key: Annotated[str | None, Field(description="A secret", max_length=8)] = None,
    ) -> Echo:
        """Return the arguments as the tool saw them."""
        spoken = [message.model_dump() for message in messages or []]
        return Echo(
            values={
                "whole": whole,
                "share": share,
                "flag": flag,
                "text": text,
                "names": names,
                "numbers": list(numbers),
                "mode": mode,
                "dtype": dtype.value,
                "messages": spoken,
                "schema": schema,
                "folder": None if folder is None else str(folder),
                "api_key": api_key,
            }
        )

    @server.tool("save-secret", title="Save a secret", annotations=WRITE)
    async def save_secret(
        hf_token: Annotated[str, Field(description="A token")],
        note: Annotated[str, Field(description="A note")] = "",
    ) -> Done:
        """Take a secret and do nothing with it."""
        return Done()

    @server.tool("long-answer", title="Long answer", annotations=READ)
    async def long_answer(
        size_bytes: Annotated[int, Field(description="Length of the answer, bytes", ge=0)] = 30_000,
    ) -> Done:
        """Answer with a lot of text."""
        return Done(text="x" * size_bytes)


def _add_trouble(server: SuiteServer, toy: Toy) -> None:
    @server.tool("sleep-model", title="Take long", annotations=WRITE)
    async def sleep_model(
        seconds: Annotated[float, Field(description="How long, s", ge=0)],
        marker: Annotated[str | None, Field(description="File to make at the start, remove at the end")] = None,
    ) -> Done:
        """Take long, and tidy up when cancelled."""
        toy.running.add("sleep-model")
        path = Path(marker) if marker else None
        if path:
            path.touch()
        try:
            await anyio.sleep(seconds)
        finally:
            toy.running.discard("sleep-model")
            if path:
                path.unlink()
        return Done()

    @server.tool("block-thread", title="Block", annotations=READ)
    async def block_thread(
        seconds: Annotated[float, Field(description="How long, s", ge=0)],
        marker: Annotated[str, Field(description="File to make at the start")],
    ) -> Done:
        """Sit in a thread that nobody can cancel."""

        def block() -> None:
            Path(marker).touch()
            time.sleep(seconds)

        await anyio.to_thread.run_sync(block)
        return Done()

    @server.tool("print-noise", title="Print", annotations=READ)
    async def print_noise() -> Done:
        """Write to stdout in every way there is."""
        print("noise from print")
        sys.__stdout__.write("noise from __stdout__") if sys.__stdout__ else None
        os.write(1, b"noise from fd 1\n")
        child = await anyio.run_process(["echo", "noise from a child"], stdout=None)
        return Done(text=str(child.returncode))

    @server.tool("crash-now", title="Crash", annotations=WRITE)
    async def crash_now() -> Done:
        """Fail in a way nobody foresaw."""
        raise RuntimeError("the password is hunter2")

    @server.tool("need-hub", title="Need the hub", annotations=READ)
    async def need_hub() -> Done:
        """Fail because there is no hub."""
        raise HubUnavailable("No hub answers and none could be started.", suggestion="run `vllm-mcp doctor`")

    @server.tool("wrong-result", title="Wrong result", annotations=READ)
    async def wrong_result() -> Done:
        """Break the annotation."""
        return Models(models=[], total_count=0)  # type: ignore[return-value]


def _add_resources(server: SuiteServer, toy: Toy) -> None:
    @server.resource("fleet://status", title="Fleet", mime_type="application/json")
    async def fleet_status() -> dict[str, int]:
        """Requests in flight per model."""
        return toy.loaded

    @server.resource("model://{org}/{name}/config", title="A model", mime_type="application/json")
    async def model_config(org: str, name: str) -> dict[str, int]:
        """One model."""
        if f"{org}/{name}" not in toy.loaded:
            raise ResourceNotFoundError(f"No model {org}/{name} is loaded")
        return {"requests": toy.loaded[f"{org}/{name}"]}

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        return Completion(values=[name for name in toy.loaded if argument.value in name])

    @server.prompt("diagnose-model", title="Diagnose a model", description="Ask for a diagnosis of one model")
    async def diagnose(model_id: str) -> str:
        """Ask for a diagnosis of one model."""
        return f"Read model://{model_id}/config and explain why it may be slow."
