"""verify-cache: every file held against its checksum, and the list of files against the Hub's."""

import time
from contextlib import suppress

from anyio import from_thread

from vllm_auto_discovery import parameters as p
from vllm_auto_discovery import verifying
from vllm_auto_discovery.core.bounds import bounded, fitting
from vllm_auto_discovery.core.downloads.choice import choose
from vllm_auto_discovery.core.downloads.jobs import WantedFile
from vllm_auto_discovery.core.verification import ExpectedFile, FileCheck, Verification
from vllm_auto_discovery.results import CheckStatus, FileProblem, VerificationResult
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.errors import BadInput, GatedRepository, HuggingFaceFailed, NotThere, Offline
from vllm_mcp_protocol.hf import site as hf_hub
from vllm_mcp_protocol.hf.cache import FoundModel
from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.serving.context import Progress
from vllm_mcp_protocol.serving.server import READ, SuiteServer, ToolContext, open_world
from vllm_mcp_protocol.units import format_bytes

_LIST_BYTES = 4000
"""Of one list of files: four of them fit into an answer."""


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("verify-cache", title="Verify cached files", annotations=open_world(READ))
    async def verify_cache(
        ctx: ToolContext, model_id: p.RepositoryName, revision: p.Revision = None
    ) -> VerificationResult:
        """Read every file of a cached model and hold it against its checksum, and the list of files against the Hub's
        where that may be asked; name files that are corrupt, missing or only partly downloaded. Reads all bytes.
        """
        repo = await work.require_repo(model_id)
        begun_s = time.monotonic()
        expected, compared_with = await _expected(work, repo, revision)
        found = await _verified(ctx, repo, revision, expected)
        seconds = time.monotonic() - begun_s
        return verification_result(found, compared_with, seconds, await _as_loaded(work, found))


async def _expected(work: Workplace, repo: CachedRepo, revision: str | None) -> tuple[dict[str, ExpectedFile], str]:
    """What the Hub lists of the files that vLLM needs and of those that are here; and where that is from, in words.

    Without the Hub a blob's own name says what its content should be, but not which files were never fetched.
    """
    if not work.settings.enable_model_metadata_enrichment:
        return {}, "the blobs' own names; ENABLE_MODEL_METADATA_ENRICHMENT is false"
    held = repo.revision(revision)
    try:
        commit = held.commit if held is not None else revision
        answer = await hf_hub.ask_within(work.settings, repo.repo_id, commit, check_access=False)
        listed = [WantedFile.model_validate(file.model_dump()) for file in answer.files]
        needed = {file.name for file in choose(repo.repo_id, listed, None)}
    except (Offline, HuggingFaceFailed, NotThere, BadInput, GatedRepository) as error:
        return {}, f"the blobs' own names; the Hub was not asked, or did not say: {error.info.message[:200]}"
    known = needed | {file.name for file in (held.files if held is not None else ())}
    expected = {file.name: ExpectedFile(file.size_bytes, file.sha256) for file in answer.files if file.name in known}
    return expected, f"{answer.url} at {answer.commit}"


async def _verified(
    ctx: ToolContext, repo: CachedRepo, revision: str | None, expected: dict[str, ExpectedFile]
) -> Verification:
    """`verify` with progress, ended when the call is cancelled."""
    progress = Progress(ctx)

    def tell(done: int, total: int, name: str) -> None:
        from_thread.run(progress, done, total, f"{name}: {format_bytes(done)} of {format_bytes(total)}")

    return await verifying.verify_in_thread(repo, revision, expected=expected, on_progress=tell)


async def _as_loaded(work: Workplace, found: Verification) -> FoundModel | None:
    """The model when the revision that was checked is the one that a load would take: its index tells of files that
    were never fetched, which without the Hub nothing else does."""
    with suppress(NotThere):  # deleted meanwhile
        model = await work.require(found.repo_id)
        if model.revision is not None and model.revision.commit == found.commit:
            return model
    return None


def verification_result(
    found: Verification, compared_with: str, seconds: float, model: FoundModel | None = None
) -> VerificationResult:
    """What the caller is told. `model`: the same revision as a load would find it."""
    damaged = _problems(found.with_status("corrupt", "unreadable"))
    missing = _problems(found.with_status("missing"))
    named = {problem.file for problem in missing}
    missing += [
        FileProblem(file=name, problem="missing", detail="its weights' index or numbering names it")
        for name in (model.missing if model is not None else ())
        if name not in named
    ]
    begun = [
        FileProblem(file=one.name, problem="partial", detail=f"{format_bytes(one.size_bytes)} so far")
        for one in found.unfinished
    ]
    lacking = bool(missing) or (model is not None and not model.facts.complete)
    return VerificationResult(
        model_id=found.repo_id,
        status=_status(damaged=bool(damaged), lacking=lacking),
        files_checked=len(found.files),
        bytes_checked=found.read_bytes,
        compared_with=compared_with,
        corrupt=fitting(damaged, _LIST_BYTES),
        missing=fitting(missing, _LIST_BYTES),
        partial=fitting(begun, _LIST_BYTES),
        unchecked=bounded([check.name for check in found.with_status("unchecked")]),
        seconds=round(seconds, 2),
        suggestion=_next_step(found, damaged=bool(damaged), lacking=lacking),
        warnings=[
            f"{len(problems)} files are {what}; the first {len(shown)} are listed"
            for what, problems in (("corrupt", damaged), ("missing", missing), ("partly downloaded", begun))
            if len(shown := fitting(problems, _LIST_BYTES)) < len(problems)
        ],
    )


def _status(*, damaged: bool, lacking: bool) -> CheckStatus:
    return "damaged" if damaged else "incomplete" if lacking else "ok"


def _problems(checks: tuple[FileCheck, ...]) -> list[FileProblem]:
    return [FileProblem(file=check.name, problem=check.status, detail=check.detail) for check in checks]


def _next_step(found: Verification, *, damaged: bool, lacking: bool) -> str | None:
    if damaged:
        return f"delete-cached-model {found.repo_id} with revision={found.commit}, then download-model"
    return f"download-model {found.repo_id} fetches what is missing" if lacking else None
