"""What each tool answers. Fields never disappear; what is not known is null."""

from typing import Any, Literal

from pydantic import Field

from vllm_mcp_protocol.serving.results import Part, ToolResult


class SaveResult(ToolResult):
    state_id: str
    parent_state_id: str | None = Field(default=None, description="The snapshot that this one continues")
    session_id: str
    source: str
    size_bytes: int = Field(description="What this snapshot would take alone, compressed")
    new_bytes: int = Field(description="What the store has grown by")
    logical_bytes: int = Field(description="The session as its client holds it")
    messages: int
    models: list[str] = Field(default=[], description="Models whose set-up was saved")
    timestamp: str = Field(description="ISO 8601, UTC")
    unchanged: bool = Field(default=False, description="True: nothing is new; the last snapshot stands")
    encrypted: bool
    warnings: list[str] = []


class RestoredModel(Part):
    model_id: str
    action: str = Field(description="none, load, reload, wake, sleep, load-lora, attach, set-config, differs, blocked")
    outcome: str = Field(description="What came of it, or would")
    done: bool


class Restored(Part):
    models: list[RestoredModel] = []
    conversations: int = 0
    messages: int = 0
    configurations: int = Field(default=0, description="Models whose request defaults were set")


class LoadResult(ToolResult):
    state_id: str
    session_id: str
    status: Literal["restored", "partly_restored", "planned"]
    restored: Restored
    where: str | None = Field(default=None, description="Where the conversation is now")
    new_session_id: str | None = None
    how_to_continue: str | None = Field(default=None, description="Command of the client")
    messages: list[dict[str, Any]] | None = Field(default=None, description="With target=inline, the last ones")
    warm: str | None = Field(default=None, description="What came of warming the prefix cache")
    warnings: list[str] = []


class ClearResult(ToolResult):
    status: Literal["cleared", "planned"]
    cleared_items: int
    states: list[str] = []
    space_freed_bytes: int
    reasons: list[str] = []


class StateRow(Part):
    state_id: str
    parent_state_id: str | None = None
    session_id: str
    source: str
    title: str
    project: str
    timestamp: str
    messages: int
    logical_bytes: int
    new_bytes: int
    models: list[str] = []
    tags: list[str] = []
    description: str = ""


class StateList(ToolResult):
    states: list[StateRow]
    total_count: int
    next_cursor: str | None = None
    warnings: list[str] = []


class MessageRow(Part):
    role: str
    preview: str


class MetricsRow(Part):
    subject: str = Field(description="engine:NAME, gpu:NUMBER or host")
    covered_seconds: float = Field(description="Of the stretch before the snapshot, how much was followed")
    means: dict[str, float] = Field(description="What was measured: its mean")
    per_second: dict[str, float] = Field(description="What was counted, where it grew")


class StateDetails(ToolResult):
    state: StateRow
    engines: list[dict[str, Any]] = []
    defaults: dict[str, Any] = {}
    metrics: list[MetricsRow] = []
    messages: list[MessageRow] = []
    message_count: int


class DiffResult(ToolResult):
    from_state_id: str
    to_state_id: str
    messages_added: int
    messages_changed: int
    messages_removed: int
    models_added: list[str] = []
    models_removed: list[str] = []
    models_changed: list[str] = []
    in_words: list[str]


class DamagedPart(Part):
    state_id: str | None = None
    what: str
    detail: str


class VerifyResult(ToolResult):
    status: Literal["ok", "damaged"]
    checked: int = Field(description="Snapshots that were read")
    values_checked: int
    damaged: list[DamagedPart] = []
    repairable: bool
    suggestion: str | None = None


class TransferResult(ToolResult):
    state_id: str
    path: str
    size_bytes: int
    session_id: str
    messages: int
