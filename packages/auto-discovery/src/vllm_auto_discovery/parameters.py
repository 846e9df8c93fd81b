"""The parameters that several tools share, each described once."""

from typing import Annotated

from pydantic import Field

ModelName = Annotated[
    str, Field(min_length=1, max_length=400, description="Hugging Face id such as Qwen/Qwen3-0.6B, or a local folder")
]
RepositoryName = Annotated[
    str, Field(min_length=1, max_length=200, description="Hugging Face id such as Qwen/Qwen3-0.6B")
]
Revision = Annotated[
    str | None,
    Field(min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="Branch, tag or commit (default: main)"),
]
Refresh = Annotated[bool, Field(description="Read everything anew instead of what has changed")]
Limit = Annotated[int, Field(ge=1, le=200, description="Most models on one page")]
Cursor = Annotated[str | None, Field(max_length=500, description="next_cursor of the page before")]
DryRun = Annotated[bool, Field(description="Only show what would be done")]
WaitSeconds = Annotated[
    float, Field(ge=0, le=3600, description="Answer after so many seconds at the latest; the work goes on. 0: at once")
]
