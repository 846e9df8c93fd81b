"""What each tool answers. Fields never disappear; what is not known is null."""

from typing import Any, Literal

from pydantic import Field

from vllm_auto_discovery.core.abilities.architecture import Answer
from vllm_auto_discovery.core.engines.rows import EngineRow
from vllm_auto_discovery.core.rows import DeviceRow, ModelRow, ModelState
from vllm_mcp_protocol.serving.results import Part, ToolResult

SyncStatus = Literal["written", "planned", "unchanged", "undone"]
DeletionStatus = Literal["deleted", "planned", "partly_deleted"]
CheckStatus = Literal["ok", "damaged", "incomplete"]


class ModelsFound(ToolResult):
    models: list[ModelRow]
    total_count: int = Field(description="Models that match, on all pages")
    counts: dict[str, int] = Field(description="How many of them there are of each status")
    devices: list[DeviceRow] = []
    vllm_version: str | None = Field(default=None, description="Installed vLLM that `supported` speaks of")
    next_cursor: str | None = Field(default=None, description="Give it as cursor to see more")
    warnings: list[str] = Field(default=[], description="What could not be read, and what was not asked")


class Claim(Part):
    """One thing that a model can or cannot do."""

    name: str
    value: Answer
    evidence: str = Field(description="File and field, template, or table of vLLM that shows it")
    detail: str | None = Field(default=None, description="Such as the flag that turns it on")


class CapabilitiesResult(ToolResult):
    model_id: str
    where: str
    capabilities: list[Claim]
    supported: Answer
    supported_evidence: str
    tool_call_parser: str | None = Field(default=None, description="Value for --tool-call-parser")
    reasoning_parser: str | None = Field(default=None, description="Value for --reasoning-parser")
    load: dict[str, Any] | None = Field(default=None, description="Arguments for load-model that turn it all on")
    warnings: list[str] = []


class Source(Part):
    """Where a group of facts comes from."""

    name: str = Field(description="Key of the result that it explains")
    origin: str = Field(description="File, or address of the Hub")
    age_seconds: float | None = Field(default=None, description="Since it was written or asked")
    stale: bool = Field(default=False, description="True: older than METADATA_CACHE_TTL_HOURS, or not refreshable now")
    note: str | None = None


class Revision(Part):
    commit: str
    refs: list[str]
    files: int
    size_mb: int
    complete: bool


class MetadataResult(ToolResult):
    model_id: str
    where: str
    status: ModelState
    revisions: list[Revision] = []
    size_on_disk_mb: int | None = Field(default=None, description="All revisions, each blob once, MiB")
    unfinished_mb: int = Field(default=0, description="Fetched of files that are not complete, MiB")
    missing: list[str] = []
    formats: list[str] = []
    config: dict[str, Any] = Field(default={}, description="What config.json says, in vLLM's reading")
    weights: dict[str, Any] = Field(default={}, description="What the headers of the weight files say")
    tokenizer: dict[str, Any] = {}
    chat_template: str | None = Field(default=None, description="The first 2,000 characters")
    generation: dict[str, Any] = Field(default={}, description="Defaults of generation_config.json")
    card: dict[str, Any] = Field(default={}, description="License and the like, of README.md")
    hub: dict[str, Any] = Field(default={}, description="What the Hugging Face Hub says")
    sources: list[Source] = []
    warnings: list[str] = []


class MultimodalModel(Part):
    id: str
    status: ModelState
    inputs: list[str]
    supported: Answer
    evidence: str
    served_by: list[str] = []


class MultimodalResult(ToolResult):
    modality: str
    models: list[MultimodalModel]
    total_count: int
    warnings: list[str] = []


class EnginesFound(ToolResult):
    engines: list[EngineRow]
    total_count: int
    probed: int = Field(description="Addresses that were asked")
    silent: int = Field(description="Of those, where nobody listens")
    warnings: list[str] = []


class DownloadResult(ToolResult):
    model_id: str
    revision: str | None = None
    status: Literal["complete", "downloading", "cancelled"]
    download_id: str | None = Field(default=None, description="The same for everybody who waits for this download")
    bytes_done: int
    bytes_total: int | None
    resumed_from: int = Field(default=0, description="Bytes that an earlier download had left")
    bytes_per_second: float | None = None
    files: int | None = None
    path: str | None = Field(default=None, description="Snapshot folder, when complete")
    joined: bool = Field(default=False, description="True when this download was already running")
    note: str = ""


class DeletionResult(ToolResult):
    model_id: str
    status: DeletionStatus
    freed_mb: int = Field(description="Freed, or (planned) to be freed, MiB")
    freed_bytes: int
    revisions: list[str] = Field(description="Commits that go")
    kept_revisions: list[str] = Field(default=[], description="Commits that stay")
    files: int = Field(description="Files and links that go")
    problems: list[str] = []
    note: str = ""


class FileProblem(Part):
    file: str
    problem: str = Field(description="corrupt, missing, partial, unreadable")
    detail: str


class VerificationResult(ToolResult):
    model_id: str
    status: CheckStatus
    files_checked: int
    bytes_checked: int
    compared_with: str = Field(description="Where the checksums and the list of files are from")
    corrupt: list[FileProblem] = []
    missing: list[FileProblem] = []
    partial: list[FileProblem] = []
    unchecked: list[str] = Field(default=[], description="Files without a checksum, the first few")
    seconds: float
    suggestion: str | None = None
    warnings: list[str] = Field(default=[], description="Lists that are longer than what is shown")


class SyncedModel(Part):
    id: str
    provider: str
    context_window: int | None = None
    capabilities: list[str] = []


class SyncResult(ToolResult):
    client: str
    path: str
    status: SyncStatus
    models: list[SyncedModel]
    left_out: list[str] = Field(default=[], description="Models that are not offered, and why")
    diff: str = Field(default="", description="Unified diff of the file; secrets hidden")
    undo: str | None = Field(default=None, description="How to take it back")
    warnings: list[str] = []
