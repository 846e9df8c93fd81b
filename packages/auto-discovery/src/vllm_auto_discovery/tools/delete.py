"""delete-cached-model: what goes is planned, shown, and then removed."""

from pathlib import Path
from typing import Annotated

from anyio import to_thread
from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, Resolve
from pydantic import BaseModel, Field

from vllm_auto_discovery import deleting
from vllm_auto_discovery import parameters as p
from vllm_auto_discovery.core.bounds import bounded
from vllm_auto_discovery.core.deletion import DeletionPlan
from vllm_auto_discovery.downloads import jobs as downloading
from vllm_auto_discovery.resources import MODELS_URI
from vllm_auto_discovery.results import DeletionResult, DeletionStatus
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.errors import FilesInUse, ForceRequired
from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.model import EngineView
from vllm_mcp_protocol.serving.context import can_elicit, notify_resource_updated
from vllm_mcp_protocol.serving.server import DESTROY, SuiteServer, ToolContext
from vllm_mcp_protocol.units import to_mib

_SHOWN_REVISIONS = 20


class Agree(BaseModel):
    """The user's answer about files that would go."""

    delete: bool = Field(description="Delete these files? They would have to be downloaded again")


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    async def ask_user(
        ctx: ToolContext, model_id: str, revision: str | None, dry_run: bool, force: bool
    ) -> Agree | Elicit[Agree]:
        if force or dry_run or not can_elicit(ctx):
            return Agree(delete=force)
        plan = await _plan(await work.require_repo(model_id), revision)
        return Elicit(" ".join(plan.in_words()) + " Delete them?", Agree)

    @server.tool("delete-cached-model", title="Delete a cached model", annotations=DESTROY)
    async def delete_cached_model(
        ctx: ToolContext,
        model_id: p.RepositoryName,
        answer: Annotated[ElicitationResult[Agree], Resolve(ask_user)],
        revision: Annotated[
            str | None,
            Field(min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="Only this one (default: all)"),
        ] = None,
        dry_run: p.DryRun = False,
        force: Annotated[bool, Field(description="Delete without asking; only if the user agreed")] = False,
    ) -> DeletionResult:
        """Remove a model, or one revision of it, from the Hugging Face cache. Without force it only says what would
        go. Refused while an engine uses the files or a download writes them.
        """
        repo = await work.require_repo(model_id)
        plan = await _plan(repo, revision)
        if dry_run:
            return _deletion_result(plan, repo, "planned")
        await _refuse_in_use(work, repo)
        if not isinstance(answer, AcceptedElicitation) or not answer.data.delete:
            raise _force_required(plan, asked=can_elicit(ctx))
        done = await to_thread.run_sync(deleting.execute, plan, Path(repo.path).parent)
        await notify_resource_updated(ctx, MODELS_URI)
        result = _deletion_result(plan, repo, "deleted" if done.complete else "partly_deleted")
        return result.model_copy(
            update={
                "freed_bytes": done.freed_bytes,
                "freed_mb": to_mib(done.freed_bytes),
                "files": done.removed_files,
                "problems": bounded([*done.left, *done.kept]),
            }
        )


async def _plan(repo: CachedRepo, revision: str | None) -> DeletionPlan:
    return await to_thread.run_sync(deleting.prepare, repo, revision)


async def _refuse_in_use(work: Workplace, repo: CachedRepo) -> None:
    """Raises FilesInUse naming the engines that serve the model, or the download that fetches it."""
    state, why_not = await work.hub_state()
    if state is None and await work.something_runs():
        raise FilesInUse(
            f"{repo.repo_id} is not deleted: engines of the suite may use its files, and they cannot be asked. "
            f"{why_not[0]}",
            model_id=repo.repo_id,
            suggestion="vllm-mcp doctor tells what is wrong with the hub; mend that, then call again",
        )
    users = [view for view in work.live_engines(state) if _uses(view, repo)]
    if users:
        names = ", ".join(f"{view.id} ({view.status})" for view in users)
        raise FilesInUse(
            f"{repo.repo_id} is not deleted: {names} uses its files.",
            model_id=repo.repo_id,
            holders=[view.id for view in users],
            suggestion=f"unload-model {users[0].id} first",
        )
    jobs = await to_thread.run_sync(downloading.running, work.settings, repo.repo_id)
    if jobs:
        raise FilesInUse(
            f"{repo.repo_id} is not deleted: it is being downloaded ({jobs[0].job}).",
            model_id=repo.repo_id,
            holders=[job.job for job in jobs],
            suggestion="wait until the download has ended; download-model follows it",
        )


def _uses(view: EngineView, repo: CachedRepo) -> bool:
    if view.remote:
        return False
    path = view.facts.path if view.facts is not None else None
    return view.model_id == repo.repo_id or bool(path and Path(path).is_relative_to(repo.path))


def _force_required(plan: DeletionPlan, *, asked: bool) -> ForceRequired:
    why = "the user did not agree" if asked else "deleting needs force=true"
    return ForceRequired(
        f"Nothing was deleted: {why}. {' '.join(plan.in_words())}",
        model_id=plan.repo_id,
        would_free_mb=to_mib(plan.freed_bytes),
        revisions=list(plan.commits[:_SHOWN_REVISIONS]),
        suggestion="show this to the user; when they agree, call again with force=true",
    )


def _deletion_result(plan: DeletionPlan, repo: CachedRepo, status: DeletionStatus) -> DeletionResult:
    kept = [one.commit for one in repo.revisions if one.commit not in plan.commits]
    return DeletionResult(
        model_id=plan.repo_id,
        status=status,
        freed_mb=to_mib(plan.freed_bytes),
        freed_bytes=plan.freed_bytes,
        revisions=list(plan.commits[:_SHOWN_REVISIONS]),
        kept_revisions=kept[:_SHOWN_REVISIONS],
        files=len(plan.paths),
        note=" ".join(plan.in_words()),
    )
