"""The parameters that several tools share, each described once."""

from typing import Annotated

from pydantic import Field

StateId = Annotated[str, Field(pattern=r"^s-[0-9a-f]{16}$", description="Snapshot, as list-states shows it: s-…")]
NewestState = Annotated[
    str | None, Field(pattern=r"^s-[0-9a-f]{16}$", description="Snapshot (default: the newest of the session)")
]
SavedSession = Annotated[str, Field(min_length=1, max_length=400, description="Session id, as list-states shows it")]
DryRun = Annotated[bool, Field(description="Only show what would be done")]
Limit = Annotated[int, Field(ge=1, le=200, description="Most rows of one answer")]
ExportPath = Annotated[
    str,
    Field(min_length=1, max_length=1000, description="File in the project or the state folder, ending in .vllmstate"),
]
