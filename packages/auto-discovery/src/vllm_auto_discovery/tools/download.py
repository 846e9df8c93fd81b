"""download-model: fetch a model into the cache that vLLM reads."""

from typing import Annotated

import anyio
from pydantic import Field

from vllm_auto_discovery import parameters as p
from vllm_auto_discovery.core.downloads.jobs import Download
from vllm_auto_discovery.downloads import jobs as downloading
from vllm_auto_discovery.resources import MODELS_URI
from vllm_auto_discovery.results import DownloadResult
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.serving.context import Progress, client_is_gone, notify_resource_updated
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer, ToolContext, open_world
from vllm_mcp_protocol.units import format_bytes, format_seconds

Files = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]] | None,
    Field(max_length=50, description="Only these files, names or globs such as *.gguf (default: what vLLM needs)"),
]


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("download-model", title="Download a model", annotations=open_world(WRITE))
    async def download_model(
        ctx: ToolContext,
        model_id: p.RepositoryName,
        revision: p.Revision = None,
        files: Files = None,
        wait_seconds: p.WaitSeconds = 45,
    ) -> DownloadResult:
        """Fetch a model from the Hugging Face Hub into the cache that vLLM reads, resuming what an earlier download
        left. The same call again joins the download and tells how far it is. Cancelling stops it and keeps what was
        fetched.
        """
        begun = await downloading.start_or_join(work.settings, model_id, revision=revision, files=files)
        if begun.job is None:
            return result_of(begun)
        ended = await follow(work, ctx, begun, wait_seconds)
        if ended.status == "complete":
            await notify_resource_updated(ctx, MODELS_URI)
        downloading.raise_if_failed(ended)
        return result_of(ended.model_copy(update={"joined": begun.joined}))


async def follow(work: Workplace, ctx: ToolContext, begun: Download, wait_s: float) -> Download:
    """The download when it has ended, or as it is after `wait_s`.

    A call that its user cancels ends the download that it started; one whose client has merely gone leaves it.
    """
    job = begun.job or ""
    progress = Progress(ctx)

    async def report(now: Download) -> None:
        await progress(now.bytes_done, now.bytes_total, progress_message(now))

    try:
        return await downloading.wait(work.settings, job, wait_s, report)
    except anyio.get_cancelled_exc_class():
        if not begun.joined and not client_is_gone(ctx):  # one that was joined is somebody else's
            with anyio.CancelScope(shield=True):
                await downloading.cancel(work.settings, job)
        raise


def progress_message(now: Download) -> str:
    """One line for a progress bar."""
    total = f" of {format_bytes(now.bytes_total)}" if now.bytes_total else ""
    speed = f", {format_bytes(now.bytes_per_second)}/s" if now.bytes_per_second else ""
    left = f", {format_seconds(now.seconds_left)} left" if now.seconds_left else ""
    return f"{now.model_id}: {format_bytes(now.bytes_done)}{total}{speed}{left}"


def result_of(now: Download) -> DownloadResult:
    """What the caller is told."""
    return DownloadResult(
        model_id=now.model_id,
        revision=now.commit or now.revision or None,
        status="complete" if now.status == "complete" else "downloading" if now.running else "cancelled",
        download_id=now.job,
        bytes_done=now.bytes_done,
        bytes_total=now.bytes_total,
        resumed_from=now.resumed_from_bytes,
        bytes_per_second=None if now.bytes_per_second is None else round(now.bytes_per_second),
        files=now.files_total or None,
        path=now.path,
        joined=now.joined,
        note=_note(now),
    )


def _note(now: Download) -> str:
    if now.running:
        return "It goes on by itself; call download-model again to follow it."
    if now.status == "complete":
        return f"load-model with model_id={now.model_id} can use it."
    return "It was cancelled; what was fetched is kept, and the next download goes on there."
